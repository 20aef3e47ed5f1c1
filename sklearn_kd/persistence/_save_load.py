"""``save`` and ``load`` of the estimators: a fitted one as a file of tensors and JSON."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from skorch.history import History
from torch import Tensor, nn

from sklearn_kd._version import code_digest, library_version
from sklearn_kd.distpro._distances import DISTANCES
from sklearn_kd.distpro._importance import ScheduledWeights
from sklearn_kd.distpro._net import DistProNet
from sklearn_kd.distpro._pathways import Pathway, build_transforms
from sklearn_kd.distpro._process import DistillationProcess
from sklearn_kd.distpro._transforms import TRANSFORMS
from sklearn_kd.errors._did_you_mean import nearest
from sklearn_kd.estimators._base import BaseDistiller
from sklearn_kd.files._atomic import write_file
from sklearn_kd.meta import Fixed
from sklearn_kd.meta._path import PATH_DTYPE, Metaparameters
from sklearn_kd.meta._trials import TRIALS_DTYPE
from sklearn_kd.persistence._codecs import (
    STUDENTS,
    ContentError,
    NoFormError,
    check_fits,
    check_numbers,
    checked_sample_shape,
    decoded,
    decoded_labels,
    decoded_parameter,
    encoded,
    encoded_labels,
    fill,
    history_tensor,
    is_of_machine,
    take_array,
    take_history,
    take_table,
    take_weights,
    tensor_of,
    tensors_of,
    weights_of,
)
from sklearn_kd.persistence._container import Content, checked_path, packed, unpacked
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.runtime._torch_modes import ordinary_torch
from sklearn_kd.students._checks import check_student_output
from sklearn_kd.students._factory import build_student, in_float32, makes_students
from sklearn_kd.training._distillation_net import DistillationNet

# Attributes of the net about how its training ended.
_OUTCOMES = ("diverged_", "interrupted_", "collapsed_")
# Samples with more numbers are tried on the device "meta", which takes milliseconds per layer.
_LARGE_SAMPLE = 100_000

if TYPE_CHECKING:
    from typing_extensions import Self


@contextmanager
def _of_file(name: str, foreign: bool = True) -> Iterator[None]:
    """Tell what is wrong in a file by a ValueError.

    ``foreign``: whatever fails inside is the file's fault, of which nothing is foreseeable. Else
    code of the caller's runs too, whose errors are left as they are.
    """
    try:
        yield
    except ContentError as error:
        raise ValueError(f"{name} cannot be loaded: it has {error}.") from error
    except MemoryError:
        raise
    except Exception as error:
        if not foreign:
            raise
        raise ValueError(
            f"{name} cannot be loaded ({type(error).__name__}: {error}). Give a file that save has written."
        ) from error


class SafeFiles(BaseDistiller):
    """Estimators that are saved as safetensors.

    Subclasses add what only they have: :meth:`_put_fitted` and :meth:`_take_fitted`.
    """

    @ordinary_torch()
    def save(self, path: str | PathLike[str]) -> None:
        """Write the fitted estimator to a file that holds tensors and JSON, and no code.

        In it is what prediction needs, the student's weights, the labels and the names of the
        features, and what a look back needs, the path, the history and the parameters. Not in it
        are the teacher, the optimizer's state, parameters that are objects or functions, such as
        ``augment`` and ``callbacks``, and those that belong to the machine, ``checkpoint_dir`` and
        ``num_workers``. A warning tells of those that were given.

        The file is read back before it takes the place of an older one.

        Parameters
        ----------
        path : str or path-like
            Ends in ``.safetensors``. A file that is there is replaced, at once or not at all.

        Raises
        ------
        NotFittedError
            If the estimator has not been fitted.
        ValueError
            If the suffix is another one, or what would be written could not be loaded again, as
            where ``student`` is no longer what was fitted.
        TypeError
            If JSON has no form for the labels, as for dates, or the student has a state that is no
            tensor.
        ImportError
            If safetensors is missing; ``sklearn-kd[export]`` brings it.

        See Also
        --------
        export_student : The student alone, for other programs.

        Examples
        --------
        >>> import tempfile
        >>> from sklearn.datasets import load_iris
        >>> from sklearn_kd import DistilledClassifier, MLPStudent
        >>> X, y = load_iris(return_X_y=True)
        >>> clf = DistilledClassifier(None, MLPStudent, meta="none", max_epochs=5, device="cpu").fit(X, y)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     clf.save(f"{folder}/iris.safetensors")
        ...     again = DistilledClassifier.load(f"{folder}/iris.safetensors")
        >>> bool((again.predict_proba(X) == clf.predict_proba(X)).all())
        True
        """
        check_is_fitted(self, "net_")
        path = checked_path(path)
        content, left_out, lost = self._content()
        data = packed(content)
        self._check_loads(data, left_out, path)
        if left_out or lost:
            warnings.warn(
                f"Not saved: {', '.join([*left_out, *sorted(lost)])}, which have no form in JSON or are "
                "of this machine. Predictions do not need them; to train on, give load the parameters again.",
                UserWarning,
                stacklevel=3,  # the second is the decorator's
            )
        write_file(path, [data])

    def _check_loads(self, data: bytes, left_out: list[str], path: Path) -> None:
        """Refuse to write what could not be loaded again."""
        given = {name: getattr(self, name) for name in left_out} | {"device": "cpu"}
        try:
            self._restored(unpacked(data, "The content"), "The content", self.student, given)
        except ValueError as error:
            raise ValueError(
                f"{path} was not written, since it could not be loaded again: {error} Are the parameters, "
                "student above all, those that the estimator was fitted with?"
            ) from error

    @classmethod
    @ordinary_torch()
    def load(
        cls,
        path: str | PathLike[str],
        *,
        student: nn.Module | Callable[..., nn.Module] | None = None,
        **params: Any,
    ) -> Self:
        """Read a file that :meth:`save` has written; no code in it is run, and none is imported.

        What is loaded predicts as what was saved, bit by bit on the same device and versions. It
        has no teacher: ``teacher_`` is None, and to fit it again, or on with ``warm_start=True``,
        give one as ``teacher``. Where a later fit writes its checkpoints, and in how many processes
        it reads and trains, no file decides: ``checkpoint_dir``, ``num_workers`` and ``n_jobs`` are
        not taken from it.

        Parameters
        ----------
        path : str or path-like
        student : nn.Module class or instance, function, or None, default=None
            None: the class of this library that the file names. Any other student is the
            caller's to give, as to the estimator: a class or a function is called with the
            ``student__*`` in the file, an instance is copied. Its weights are the file's.
        **params
            Parameters in place of those in the file, such as ``device="cpu"``, and those that
            are not in it: ``teacher``, ``augment``, ``callbacks``.

        Returns
        -------
        estimator
            Fitted, of this class.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it is no such file, is damaged, of a later format or of another estimator, or if
            the student is missing or does not fit it; the message says what was found.
        TypeError
            If a parameter is not known, or ``student`` is none.
        ImportError
            If safetensors is missing; ``sklearn-kd[export]`` brings it.
        """
        name = str(Path(path))
        return cls._restored(unpacked(Path(path).read_bytes(), name), name, student, params)

    # ----------------------------------------------------------------------------------
    # What is in the file

    def _content(self) -> tuple[Content, list[str], set[str]]:
        """Content of the file, parameters that are not in it, and columns of the histories that are not."""
        params, left_out = self._encoded_params()
        about: dict[str, Any] = {
            "sklearn_kd_version": library_version(),
            "sklearn_kd_code": code_digest(),
            "estimator": type(self).__name__,
            "student_class": f"{type(self.student_).__module__}.{type(self.student_).__qualname__}",
            "params": params,
            "left_out": left_out,
            "labels": encoded_labels(self.classes_),
            "input_shape": [int(size) for size in self._sample_shape],
            "n_iter": int(self.n_iter_),
            "outcome": [name for name in _OUTCOMES if getattr(self.net_, name)],
        }
        if hasattr(self, "feature_names_in_"):
            about["feature_names"] = self.feature_names_in_.tolist()
        lost: set[str] = set()
        tensors = weights_of(self.student_, "student")
        tensors["history"] = history_tensor(self.net_.history, lost)
        content = Content(about, tensors)
        self._put_fitted(content, lost)
        return content, left_out, lost

    def _encoded_params(self) -> tuple[dict[str, Any], list[str]]:
        params, left_out = {}, []
        for name, value in self.get_params(deep=False).items():
            if is_of_machine(name):
                if value:
                    left_out.append(name)
                continue
            try:
                if name != "teacher":
                    params[name] = encoded(value)
            except NoFormError:
                if name != "student":
                    left_out.append(name)
        return params, left_out

    def _put_fitted(self, content: Content, lost: set[str]) -> None:
        """Add what has been fitted beside the student."""
        raise NotImplementedError

    # ----------------------------------------------------------------------------------
    # From the file

    @classmethod
    def _restored(cls, content: Content, name: str, student: Any, params: dict[str, Any]) -> Self:
        """The fitted estimator."""
        about, tensors = content
        with _of_file(name):
            cls._check_estimator(about)
            saved = cls._saved_params(about)
            labels, shape = decoded_labels(about["labels"]), checked_sample_shape(about["input_shape"])
            fitted = {"classes_": labels, "_sample_shape": shape, "n_features_in_": shape[0]}
            fitted |= _feature_names(about, shape) | {"n_iter_": _count(about["n_iter"])}
            tensors = dict(tensors)
            history, weights = take_history(tensors, "history"), take_weights(tensors, "student")
        cls._check_params(params)
        saved |= params
        if student is not None:
            saved["student"] = student
        if "student" not in saved:
            raise ValueError(
                f"{name} has a student of class {str(about.get('student_class'))[:200]}, or was given an "
                "instance of it or a function that makes it. Files name no code to import or to call: give "
                "load the class, the function or an instance, student=..."
            )
        if isinstance(saved["student"], nn.Module):  # whose sizes are settled
            saved = {key: value for key, value in saved.items() if not key.startswith("student__")}
        estimator = cls(**({"teacher": None} | saved))
        with _of_file(name, foreign=not params):
            estimator._validate_params()
        estimator.__dict__.update(fitted, teacher_=None)
        module = _student(estimator, weights, name)
        with _of_file(name, foreign=not {"meta", "transforms"} & set(params)):
            estimator._take_fitted(Content(about, tensors), module, params)
            for outcome in _OUTCOMES:
                setattr(estimator.net_, outcome, outcome in about.get("outcome", ()))
            if tensors:
                raise ContentError(f"tensors that nothing here takes: {sorted(tensors)[:4]}")
        estimator.net_.history_ = history or History()
        return estimator

    def _take_fitted(self, content: Content, student: nn.Module, given: dict[str, Any]) -> None:
        """Set the fitted attributes, ``net_`` among them; what is used is taken out of the tensors."""
        raise NotImplementedError

    def _net_params(self) -> dict[str, Any]:
        """Return the parameters that the nets of both systems need to predict."""
        return {
            "strategy": Fixed(),
            "hypergradient": self.hypergradient,
            "batch_size": self.batch_size,
            "verbose": 0,
            "labels": self.classes_,
            "device": str(self._device()),
        }

    @classmethod
    def _check_estimator(cls, about):
        saved = str(about["estimator"])[:200]
        if saved != cls.__name__:
            raise ContentError(f"a {saved}, not a {cls.__name__}: load it by {saved}.load")

    @classmethod
    def _saved_params(cls, about) -> dict[str, Any]:
        saved = {
            name: decoded_parameter(name, value)
            for name, value in about["params"].items()
            if name != "teacher" and not is_of_machine(name)
        }
        unknown = [name for name in saved if not cls._is_parameter(name)]
        if unknown:
            raise ContentError(f"parameters that {cls.__name__} has not: {unknown[:4]}")
        if "student" in saved and saved["student"] not in STUDENTS.values():
            raise ContentError(f"{str(saved['student'])[:100]} as student")
        return saved

    @classmethod
    def _check_params(cls, params):
        for name in params:
            if not cls._is_parameter(name):
                known = cls._get_param_names()
                raise TypeError(
                    f"load got an unexpected parameter {name!r} of {cls.__name__}.{nearest(name, known)}"
                )

    @classmethod
    def _is_parameter(cls, name: str) -> bool:
        prefix, _, rest = name.partition("__")
        return name in cls._get_param_names() or (bool(rest) and prefix in cls._routed_prefixes)


def _feature_names(about: dict[str, Any], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """``feature_names_in_``, if there were names."""
    if "feature_names" not in about:
        return {}
    names = about["feature_names"]
    if not isinstance(names, list) or len(names) != shape[0] or not all(isinstance(n, str) for n in names):
        raise ContentError(f"names of features that are not {shape[0]} strings")
    return {"feature_names_in_": np.array(names, dtype=object)}


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ContentError(f"{str(value)[:100]!r} as a number of iterations")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not np.isfinite(value):
        raise ContentError(f"{str(value)[:100]!r} where a number should be")
    return float(value)


def _check_metaparameters(lambda1: Any, temperature: Any, where: str) -> None:
    """Refuse values of lambda1 and T that no fit can have found."""
    lambda1, temperature = np.asarray(lambda1), np.asarray(temperature)
    wrong = lambda1[~((lambda1 >= 0) & (lambda1 <= 1))]
    if len(wrong):
        raise ContentError(f"lambda1={wrong[0]} in its {where}, which must be between 0 and 1")
    wrong = temperature[~((temperature > 0) & np.isfinite(temperature))]
    if len(wrong):
        raise ContentError(f"temperature={wrong[0]} in its {where}, which must be above 0 and finite")


def _student(estimator: Any, weights: dict[str, Tensor], name: str) -> nn.Module:
    """The student that the estimator's parameters make, with the weights of the file."""
    params, shape, n_classes = estimator._routed("student"), estimator._sample_shape, len(estimator.classes_)
    of_library = estimator.student in STUDENTS.values()
    is_made = not isinstance(estimator.student, nn.Module) and makes_students(estimator.student)

    def build() -> nn.Module:
        return build_student(estimator.student, params, shape, n_classes)

    def samples(device: str) -> Tensor:
        # Expanded from one number: a small file may state large samples.
        return torch.zeros((), device=device).expand(2, *shape)

    # A class or function of the caller's that cannot take the parameters in the file is not what was saved.
    foreign = is_made and (of_library or bool(params))
    with preserved_random_state(estimator._device()), _of_file(name, foreign=foreign):
        if of_library:  # without memory first, so that sizes that do not fit cost none
            check_numbers(params, weights, "student__ parameters")
            with torch.device("meta"):
                sketch = build()
            check_fits(sketch, weights, "student")
            if math.prod(shape) > _LARGE_SAMPLE:
                check_student_output(sketch, samples("meta"), n_classes)
                return fill(build().cpu(), weights, "student")
        student = in_float32(build(), samples("cpu"))
        check_student_output(student, samples("cpu"), n_classes)
        return fill(student.cpu(), weights, "student")


class DistilledFiles(SafeFiles):
    """Files of :class:`DistilledClassifier`: beside the student the path of the metaparameters."""

    _numbers = ("lambda1_", "temperature_", "val_temperature_")

    def _put_fitted(self, content, lost):
        content.about.update({name: float(getattr(self, name)) for name in self._numbers})
        content.tensors.update(tensors_of(self.metaparameter_path_, "metaparameter_path"))
        if hasattr(self, "trials_"):
            content.tensors.update(tensors_of(self.trials_, "trials"))

    def _take_fitted(self, content, student, given):
        about, tensors = content
        for name in self._numbers:
            setattr(self, name, _number(about[name]))
        _check_metaparameters([self.lambda1_], [self.temperature_, self.val_temperature_], "numbers")
        path = self.metaparameter_path_ = take_table(tensors, "metaparameter_path", PATH_DTYPE)
        _check_metaparameters(path["lambda1"], path["temperature"], "path")
        if len(self.metaparameter_path_) != self.n_iter_:
            raise ContentError(f"a path of {len(self.metaparameter_path_)} iterations of {self.n_iter_}")
        if "meta" not in about["left_out"] or "meta" in given:  # else not known
            self.strategy_ = self._named_strategy()
        if "trials.val_loss" in tensors:
            self.trials_ = take_table(tensors, "trials", TRIALS_DTYPE)
            _check_metaparameters(self.trials_["lambda1"], self.trials_["temperature"], "trials")
            if hasattr(self, "strategy_"):
                self.strategy_.trials_ = self.trials_
        device = self._device()
        net = DistillationNet(
            student,
            metaparameters=Metaparameters(self.lambda1_, self.temperature_, device=device),
            temperature_scaling=self.temperature_scaling,
            val_temperature=self.val_temperature_,
            **self._net_params(),
        )
        self.net_ = net.initialize()


class DistProFiles(SafeFiles):
    """Files of :class:`DistProClassifier`: beside the student the transforms, and the process."""

    def _put_fitted(self, content, lost):
        about, tensors, process = content.about, content.tensors, self.process_
        about["pathways"] = [pathway._asdict() for pathway in self.pathways_]
        about["process"] = None
        tensors.update(weights_of(self.transforms_, "transforms"))
        tensors["search_history"] = history_tensor(self.search_history_, lost)
        if process is None:
            return
        about["process"] = {
            "normalization": process.normalization,
            "g": process.g,
            "settings": encoded(process.settings),
            "versions": encoded(process.versions),
        }
        tensors["process.raw"] = tensor_of(process.raw)
        if process.logit_term is not None:
            tensors["process.logit_term"] = tensor_of(process.logit_term)

    def _take_fitted(self, content, student, given):
        about, tensors = content
        if "transforms" in about["left_out"] and "transforms" not in given:
            raise ContentError(
                "transforms that were given as callables. Files name no code to call: give load the same, "
                "transforms=[...]"
            )
        self.pathways_ = [_pathway(fields) for fields in about["pathways"]]
        weights = take_weights(tensors, "transforms")
        self.search_history_ = take_history(tensors, "search_history")
        self.process_ = None
        if about["process"] is not None:
            self.process_ = _process(about["process"], self.pathways_, tensors)
        if all(name in TRANSFORMS for name in self.transforms):
            for pathway in self.pathways_:
                check_numbers(pathway[3:], weights, "pathways")
            with torch.device("meta"):
                check_fits(build_transforms(self.pathways_, self.transforms), weights, "transforms")
        device = self._device()
        net = DistProNet(
            student,
            pathways=self.pathways_,
            transforms=self.transforms,
            transforms_seed=0,
            distance=DISTANCES["mse"],  # for training alone
            teacher=None,
            metaparameters=ScheduledWeights(np.zeros((1, len(self.pathways_)), np.float32), device=device),
            distill_weight=self.distill_weight,
            logit_weight=0.0,
            temperature=self.temperature,
            **self._net_params(),
        )
        self.net_ = net.initialize()
        fill(self.net_.transforms_, weights, "transforms")


def _pathway(fields: Any) -> Pathway:
    pathway = Pathway(**fields)
    kinds = [str] * 3 + [int] * 4
    if [type(value) for value in pathway] != kinds or min(pathway[3:]) < 0:
        raise ContentError(f"a pathway {str(fields)[:200]}")
    return pathway


def _process(
    about: dict[str, Any], pathways: list[Pathway], tensors: dict[str, Tensor]
) -> DistillationProcess:
    logit_term = None
    if "process.logit_term" in tensors:
        logit_term = take_array(tensors, "process.logit_term", np.float32)
    return DistillationProcess(
        take_array(tensors, "process.raw", np.float32),
        pathways,
        normalization=about["normalization"],
        g=_number(about["g"]),
        logit_term=logit_term,
        settings=decoded(about["settings"]),
        versions=decoded(about["versions"]),
    )
