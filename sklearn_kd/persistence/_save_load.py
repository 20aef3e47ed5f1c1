"""Save a fitted estimator to a file of tensors and JSON, and load it again."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from skorch.history import History
from torch import Tensor, nn

from sklearn_kd._version import code_digest, library_version
from sklearn_kd.errors._did_you_mean import did_you_mean
from sklearn_kd.files._atomic import write_file
from sklearn_kd.files._values import ContentError, Unserializable
from sklearn_kd.inputs._parts import plain_sizes, row_shape_of
from sklearn_kd.persistence._codecs import (
    PARAMETER_VALUES,
    STUDENTS,
    check_sample_shape,
    decode_parameter,
    encode_sample_shape,
    history_tensors,
    is_machine_setting,
    take_history,
)
from sklearn_kd.persistence._container import SUFFIX, Content, packed, unpacked
from sklearn_kd.persistence._requirements import checked_path
from sklearn_kd.persistence._weights import (
    check_fits,
    check_scaling,
    check_sizes,
    load_weights,
    module_tensors,
    take_weights,
)
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.runtime._torch_modes import ordinary_torch
from sklearn_kd.students._checks import check_student_output
from sklearn_kd.students._factory import build_student, in_float32, makes_students
from sklearn_kd.students._resized import resized_alike, with_map_size
from sklearn_kd.students._standardize import (
    Standardization,
    StandardizedStudent,
    behind_scaling,
    code_columns,
    own_student,
)
from sklearn_kd.students._structured import for_rows, without_structure

# Attributes of the net that record how its training ended.
_OUTCOMES = ("diverged_", "interrupted_", "collapsed_")
# If a sample has more numbers, the student is first tried on the device "meta", at milliseconds per layer.
_LARGE_SAMPLE = 100_000
# Parameters that, if the caller gives them, are checked while the rest of the file is read.
_JUDGED_IN_READING = {"meta", "loss", "execution", "transforms", "student_preprocessing"}


class SavedEstimator(Protocol):
    """The part of an estimator that saving and loading use."""

    student: Any
    student_: Any
    net_: Any
    n_iter_: int
    _sample_shape: tuple[Any, ...]
    _not_in_file: dict[str, Any]
    _codes: Mapping[str, Any]

    @classmethod
    def _get_param_names(cls) -> list[str]: ...

    @classmethod
    def _is_routed(cls, name: str) -> bool: ...

    def get_params(self, deep: bool = True) -> dict[str, Any]: ...

    def _validate_params(self) -> None: ...

    def _routed(self, prefix: str) -> dict[str, Any]: ...

    def _student_params(self) -> dict[str, Any]: ...

    def _device(self) -> torch.device: ...

    @property
    def _task(self) -> Any: ...

    def _targets_content(self) -> dict[str, Any]: ...

    @classmethod
    def _targets_of_content(cls, about: Mapping[str, Any]) -> dict[str, Any]: ...


class StateFunctions(NamedTuple):
    """Two functions that write and read the state of one kind of estimator, without its student.

    Attributes
    ----------
    to_content : callable ``(estimator, lost, history) -> Content``
        Return the values and tensors to be added to the file, without records of the training if
        ``history`` is False. Add descriptions of what cannot be saved to the set ``lost``.
    from_content : callable ``(estimator, content, student, given) -> dict``
        Return the fitted attributes by name, including ``net_`` with this student. Remove the tensors that
        are used from the content. ``given`` are the parameters from the caller of ``load``. The estimator
        already has its parameters and the fitted attributes that all estimators share. Raise
        :class:`ContentError` if the content is wrong.
    """

    to_content: Callable[[Any, set[str], bool], Content]
    from_content: Callable[[Any, Content, nn.Module, Mapping[str, Any]], dict[str, Any]]


EstimatorT = TypeVar("EstimatorT", bound=SavedEstimator)

# --------------------------------------------------------------------------------------
# Save


@ordinary_torch()
def save_estimator(
    estimator: SavedEstimator, path: str | PathLike[str], state: StateFunctions, *, history: bool = True
) -> None:
    """Write a fitted estimator to a file, after checking that the file can be loaded.

    Parameters
    ----------
    estimator : estimator
    path : str or path-like
        Path that ends in ``.safetensors``.
    state : StateFunctions
        The functions of this kind of estimator.
    history : bool, default=True
        Whether the file holds the history and the path.

    Raises
    ------
    NotFittedError, ValueError, TypeError, ImportError, OSError
        As documented for the estimators' ``save``.
    """
    if not isinstance(history, (bool, np.bool_)):
        raise ValueError(f"history={history!r} must be True or False.")
    check_is_fitted(estimator, "net_")
    path = checked_path(path, [SUFFIX], " export_student writes only the student, also as '.onnx'.")
    content, left_out, lost = _content_of(estimator, state, history)
    data = packed(content)
    _check_loads(estimator, data, left_out, path, state)
    needed = content.about.get("needed", [])
    if needed:
        warnings.warn(
            f"The file does not hold {', '.join(needed)}, which cannot be written as JSON. Predictions need "
            f"the fitted object: load(path, {', '.join(f'{name}=clf.{name}_' for name in needed)}).",
            UserWarning,
            stacklevel=4,
        )
    unsaved = [*(name for name in left_out if name not in needed), *sorted(lost)]
    if unsaved:
        warnings.warn(
            "Not saved, because they cannot be written as JSON or they belong to this machine: "
            f"{', '.join(unsaved)}. Predictions do not need them. To continue training, "
            "pass them to load().",
            UserWarning,
            stacklevel=4,  # the decorator and save are between here and the caller of save
        )
    write_file(path, [data])


def skops_content(estimator: SavedEstimator, state: StateFunctions) -> bytes:
    """Return the bytes of a fitted estimator's file, to be stored in a file of skops.

    Raises
    ------
    TypeError
        If ``student`` is a module, which skops cannot write.
    ImportError
        If safetensors is not installed.
    """
    if isinstance(estimator.student, nn.Module):
        raise TypeError(
            f"skops cannot write tensors, and student={type(estimator.student).__name__}(...) holds some. "
            "Fit with a class or a function as student, and student__NAME for its arguments; or use save, "
            "which takes any student."
        )
    content, _, _ = _content_of(estimator, state, True)
    return packed(content)


def _content_of(
    estimator: SavedEstimator, state: StateFunctions, history: bool
) -> tuple[Content, list[str], set[str]]:
    """Return the content of the file, the parameters left out, and descriptions of other losses."""
    params, left_out = _encoded_params(estimator)
    student = type(own_student(estimator.student_))
    about: dict[str, Any] = {
        "sklearn_kd_version": library_version(),
        "sklearn_kd_code": code_digest(),
        "estimator": type(estimator).__name__,
        "student_class": f"{student.__module__}.{student.__qualname__}",
        "params": params,
        "left_out": left_out,
        **estimator._targets_content(),
        "input_shape": encode_sample_shape(estimator._sample_shape),
        "n_iter": int(estimator.n_iter_),
        "outcome": [name for name in _OUTCOMES if getattr(estimator.net_, name)],
    }
    if isinstance(estimator.student_, StandardizedStudent):
        about["standardize_limit"] = estimator.student_.scaling.limit
    if estimator._codes:
        about["codes"] = PARAMETER_VALUES.encode(dict(estimator._codes))
    names = getattr(estimator, "feature_names_in_", None)
    if names is not None:
        about["feature_names"] = names.tolist()
    lost: set[str] = set()
    tensors = module_tensors(estimator.student_, "student")
    tensors |= history_tensors(estimator.net_.history if history else None, "history", lost)
    own = state.to_content(estimator, lost, history)
    return Content(about | own.about, tensors | own.tensors), left_out, lost


def _encoded_params(estimator: SavedEstimator) -> tuple[dict[str, Any], list[str]]:
    """Return the encoded parameters, and the names of those that cannot or must not be in a file."""
    params, left_out = {}, []
    missing = _still_missing(estimator)
    for name, value in estimator.get_params(deep=False).items():
        if name in missing or (is_machine_setting(name) and value):
            left_out.append(name)
        elif not _is_of_teacher(name) and not is_machine_setting(name):
            try:
                params[name] = PARAMETER_VALUES.encode(value)
            except Unserializable:
                if name != "student":
                    left_out.append(name)
    return params, left_out


def _check_loads(
    estimator: SavedEstimator, data: bytes, left_out: list[str], path: Path, state: StateFunctions
) -> None:
    """Refuse to write a file that could not be loaded again."""
    own = [name for name in left_out if name not in _still_missing(estimator)]
    # If a parameter has been fitted, load needs the fitted object.
    given = {name: vars(estimator).get(f"{name}_", getattr(estimator, name)) for name in own}
    given["device"] = "cpu"
    try:
        content = unpacked(data, "The content")
        _restored(type(estimator), content, "The content", state, estimator.student, given)
    except ValueError as error:
        raise ValueError(
            f"{path} was not written, because it could not be loaded again: {error} Set the parameters, "
            "student in particular, to those with which the estimator was fitted."
        ) from error


# --------------------------------------------------------------------------------------
# Load


@ordinary_torch()
def load_estimator(
    cls: type[EstimatorT],
    path: str | PathLike[str],
    state: StateFunctions,
    *,
    student: nn.Module | Callable[..., nn.Module] | None = None,
    params: Mapping[str, Any],
) -> EstimatorT:
    """Read a fitted estimator from a file, without running or importing code named in the file.

    Parameters
    ----------
    cls : class of the estimator
    path : str or path-like
    state : StateFunctions
        The functions of this kind of estimator.
    student : nn.Module class or instance, function, or None, default=None
        None: the class of this library that the file names.
    params : dict
        Parameters that replace or supplement those in the file.

    Returns
    -------
    estimator
        A fitted instance of ``cls``.

    Raises
    ------
    OSError, ValueError, TypeError, ImportError
        As documented for the estimators' ``load``.
    """
    name = str(Path(path))
    return _restored(cls, unpacked(Path(path).read_bytes(), name), name, state, student, params)


def restored_net(estimator: SavedEstimator, data: bytes, state: StateFunctions) -> Any:
    """Return the net of an estimator that has its parameters, from the content of a file.

    Raises
    ------
    ValueError
        If the content is wrong, or belongs to another estimator.
    """
    name, cls = "The net in the file of skops", type(estimator)
    content = unpacked(data, name)
    # Use the fitted object if a parameter has been fitted.
    left_out = content.about["left_out"]
    given = {name: vars(estimator).get(f"{name}_", getattr(estimator, name)) for name in left_out}
    return _restored(cls, content, name, state, estimator.student, given).net_


def _restored(
    cls: type[EstimatorT],
    content: Content,
    name: str,
    state: StateFunctions,
    student: Any,
    params: Mapping[str, Any],
) -> EstimatorT:
    """Return the fitted estimator. ``name`` is the file's name in messages."""
    about, tensors = content
    with _blaming(name):
        _check_class(cls, about)
        saved = _saved_params(cls, about)
        fitted = _shared_attributes(cls, about)
        tensors = dict(tensors)
        history, weights = take_history(tensors, "history"), take_weights(tensors, "student")
    _check_given(cls, params)
    chosen = _chosen_params(saved, params, student, about, name)
    estimator = cls(**chosen)
    with _blaming(name, only_content=bool(params)):
        estimator._validate_params()
    vars(estimator).update(fitted, teacher_=None)
    module = _student_of(estimator, weights, about.get("standardize_limit"), name)
    judged = {param.partition("__")[0] for param in params} & _JUDGED_IN_READING
    with _blaming(name, only_content=bool(judged)):
        vars(estimator).update(state.from_content(estimator, Content(about, tensors), module, params))
        for outcome in _OUTCOMES:
            setattr(estimator.net_, outcome, outcome in about.get("outcome", ()))
        if tensors:
            raise ContentError(f"tensors that the estimator does not use: {sorted(tensors)[:4]}")
    estimator.net_.history_ = history or History()
    with _blaming(name):
        estimator._not_in_file = _values_in_place_of(estimator, about["left_out"], params)
    return estimator


def _values_in_place_of(
    estimator: SavedEstimator, left_out: Sequence[str], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return, by name, the values of parameters that neither the file nor the caller gave."""
    values = estimator.get_params(deep=False)
    return {name: values.get(name) for name in left_out if name not in given and not is_machine_setting(name)}


def _still_missing(estimator: Any) -> dict[str, Any]:
    """Return, by name, the values used for parameters that the file of a loaded estimator did not hold."""
    missing = vars(estimator).get("_not_in_file", {})
    values = estimator.get_params(deep=False) if missing else {}  # takes longer than everything else here
    return {name: value for name, value in missing.items() if values.get(name) is value}


def warn_not_in_file(estimator: Any) -> None:
    """Warn before the first fit after a load if the file did not hold all parameters.

    Parameters
    ----------
    estimator : estimator
        An estimator, loaded or not.
    """
    missing = _still_missing(estimator)
    vars(estimator).pop("_not_in_file", None)
    if missing:
        used = ", ".join(f"{name}={value!r}" for name, value in missing.items())
        warnings.warn(
            f"The file from which this estimator was loaded does not hold {list(missing)}; fit uses {used}. "
            "Give load or set_params the values of the saved estimator.",
            UserWarning,
            stacklevel=2,
        )


@contextmanager
def _blaming(name: str, only_content: bool = False) -> Iterator[None]:
    """Turn errors raised inside into ValueErrors that name the file.

    An arbitrary file may cause any error. ``only_content``: convert only :class:`ContentError`, because the
    caller's code runs inside and its errors should pass unchanged.
    """
    try:
        yield
    except ContentError as error:
        raise ValueError(f"{name} cannot be loaded: it has {error}.") from error
    except MemoryError:
        raise
    except Exception as error:
        if only_content:
            raise
        raise ValueError(
            f"{name} cannot be loaded ({type(error).__name__}: {error}). Give a file that save has written."
        ) from error


def _check_class(cls: type, about: Mapping[str, Any]) -> None:
    """Refuse the file of another class."""
    saved = str(about["estimator"])[:200]
    if saved != cls.__name__:
        raise ContentError(f"a {saved}, not a {cls.__name__}: load it with {saved}.load")


def _saved_params(cls: type[SavedEstimator], about: Mapping[str, Any]) -> dict[str, Any]:
    """Decode the parameters in the file, without the teacher and those of the machine."""
    saved = {
        name: decode_parameter(name, value)
        for name, value in about["params"].items()
        if not _is_of_teacher(name) and not is_machine_setting(name)
    }
    unknown = [name for name in saved if not _is_parameter(cls, name)]
    if unknown:
        raise ContentError(f"parameters that {cls.__name__} does not have: {unknown[:4]}")
    if "student" in saved and saved["student"] not in STUDENTS.values():
        raise ContentError(f"{str(saved['student'])[:100]} as student")
    return saved


def _check_given(cls: type[SavedEstimator], params: Mapping[str, Any]) -> None:
    """Refuse misspelt parameters."""
    for name in params:
        if not _is_parameter(cls, name):
            known = cls._get_param_names()
            raise TypeError(
                f"load got an unexpected parameter {name!r} of {cls.__name__}.{did_you_mean(name, known)}"
            )


def _is_parameter(cls: type[SavedEstimator], name: str) -> bool:
    return name in cls._get_param_names() or cls._is_routed(name)


def _is_of_teacher(name: str) -> bool:
    """Return whether a parameter is the teacher or belongs to its fit; files do not hold these."""
    return name.partition("__")[0] == "teacher"


def _chosen_params(
    saved: dict[str, Any], given: Mapping[str, Any], student: Any, about: Mapping[str, Any], name: str
) -> dict[str, Any]:
    """Return all parameters of the estimator. The caller's take precedence over those in the file."""
    chosen = {"teacher": None} | saved | dict(given)
    if student is not None:
        chosen["student"] = student
    if "student" not in chosen:
        raise ValueError(
            f"{name} has a student of class {str(about.get('student_class'))[:200]}, which is not the "
            "library's or was given as an instance or a function. Loading does not import or call code named "
            "in a file: give load the class, the function or an instance, student=..."
        )
    if isinstance(chosen["student"], nn.Module):  # its sizes are fixed
        chosen = {key: value for key, value in chosen.items() if not key.startswith("student__")}
    return chosen


def _shared_attributes(cls: type[SavedEstimator], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fitted attributes that all estimators have."""
    shape, n_iter = check_sample_shape(about["input_shape"]), about["n_iter"]
    if type(n_iter) is not int or n_iter < 0:
        raise ContentError(f"{str(n_iter)[:100]!r} as a number of iterations")
    fitted = {
        **cls._targets_of_content(about),
        "_sample_shape": shape,
        "n_iter_": n_iter,
    }
    n_features = about.get("n_features", (plain_sizes(shape) or [None])[0])  # differs with preprocessing
    if n_features is not None:
        if type(n_features) is not int or n_features < 1:
            raise ContentError(f"{str(n_features)[:100]!r} as a number of features")
        fitted["n_features_in_"] = n_features
    if "codes" in about:
        fitted["_codes"] = decode_parameter("codes", about["codes"])
        if not isinstance(fitted["_codes"], dict):
            raise ContentError(f"columns of codes {str(about['codes'])[:100]}")
    if "feature_names" in about:
        names = about["feature_names"]
        are_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not are_names or len(names) != n_features:
            raise ContentError(f"names of features that are not {n_features} strings")
        fitted["feature_names_in_"] = np.array(names, dtype=object)
    return fitted


def _student_of(estimator: SavedEstimator, weights: dict[str, Tensor], limit: Any, name: str) -> nn.Module:
    """Build the student from the estimator's parameters and fill it with the weights of the file.

    ``limit`` is that of the standardising layer, or None if the file has none.
    """
    params, shape, n_classes = estimator._student_params(), estimator._sample_shape, estimator._task.n_outputs
    of_library = estimator.student in STUDENTS.values()
    is_made = not isinstance(estimator.student, nn.Module) and makes_students(estimator.student)
    map_shape = estimator._task.map_shape

    def build() -> nn.Module:
        built = build_student(estimator.student, params, shape, n_classes)
        if limit is None:
            return built
        scaling = Standardization(shape[0], limit)
        scaling.has_fit = True  # its numbers are loaded with the weights
        scaling.leave_as_they_are(code_columns(built))
        return behind_scaling(built, scaling)

    parts = row_shape_of(shape)

    def samples(device: str) -> Any:
        # Expand one number, because a small file may state large samples.
        if parts is not None:
            return parts.zeros(2, device)
        return torch.zeros((), device=device).expand(2, *shape)

    # If the caller's class or function cannot take the parameters in the file, it is not the saved one.
    only_content = not (is_made and (of_library or bool(params)))
    with preserved_random_state(estimator._device()), _blaming(name, only_content):
        if limit is not None:
            check_scaling(limit, weights, shape)
        if of_library:  # first without memory, so that wrong sizes do not allocate any
            check_sizes(params, weights, "student__ parameters")
            with torch.device("meta"):
                sketch = build()
            check_fits(with_map_size(sketch, samples("meta"), map_shape), weights, "student")
            if math.prod(plain_sizes(shape)) > _LARGE_SAMPLE:
                sketch = with_map_size(for_rows(sketch, samples("meta")), samples("meta"), map_shape)
                check_student_output(sketch, samples("meta"), n_classes, map_shape=map_shape)
                built = resized_alike(build().cpu(), sketch)
                return for_rows(load_weights(built, weights, "student"), samples("cpu"))
        rows = samples("cpu")
        student = with_map_size(in_float32(for_rows(build(), rows), rows), rows, map_shape)
        check_student_output(student, rows, n_classes, map_shape=map_shape)
        return for_rows(load_weights(without_structure(student).cpu(), weights, "student"), rows)
