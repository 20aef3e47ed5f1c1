"""The base of the estimators: strategy, split, teacher, student, prediction."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import wraps
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from sklearn.base import ClassifierMixin, clone
from sklearn.metrics import accuracy_score
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from skorch.history import History

from sklearn_kd._sklearn_compat import CallbackSupportMixin, clone_by_parameters
from sklearn_kd.checkpointing._file import checked_folder
from sklearn_kd.checkpointing._fingerprint import digest_of, parameters_of, samples_of
from sklearn_kd.checkpointing._manager import Checkpoints
from sklearn_kd.errors._did_you_mean import nearest
from sklearn_kd.estimators._callback_checks import check_monitors, check_schedules
from sklearn_kd.estimators._html import parts_block
from sklearn_kd.inputs._arrays import from_torch
from sklearn_kd.inputs._data import DistillationData, LoadedData, SplitData, as_tensor, split_rows
from sklearn_kd.inputs._torch_datasets import DatasetRows, is_dataset, read
from sklearn_kd.inputs._validation import CheckedRows
from sklearn_kd.losses._logits import Targets
from sklearn_kd.meta import STRATEGIES, Linear, Strategy
from sklearn_kd.persistence._export import export_student
from sklearn_kd.runtime._devices import checked_device
from sklearn_kd.runtime._global_lock import turn
from sklearn_kd.runtime._memory import held_of, mebibytes, needing_less, out_of_memory_named, size_of
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.runtime._torch_modes import ordinary_torch
from sklearn_kd.students._checks import check_student
from sklearn_kd.students._factory import build_student, in_float32
from sklearn_kd.teachers._adapter import BatchTeacherAdapter
from sklearn_kd.teachers._logit_checks import name_of, naming_rows, refuse_wrong_numbers
from sklearn_kd.teachers._registry import (
    carry_registration,
    comes_trained,
    make_teacher,
    registration_of,
    without_training,
)
from sklearn_kd.training._divergence import refuse_overflow

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch.utils.data import Dataset

    from sklearn_kd.training._net import TrainingNet

# Rows per forward pass where nothing is learned.
PREDICTION_BATCH = 1024


class Seeds(NamedTuple):
    """One seed per use, so that methods compared under one ``random_state`` are paired."""

    split: int
    teacher: int
    student: int
    training: int
    train_batches: int
    valid_batches: int
    strategy: int

    @classmethod
    def draw(cls, random_state: int | np.random.RandomState | None) -> Seeds:
        """Draw fresh seeds from an int, a RandomState or None."""
        with turn():  # another thread that holds the turn may have seeded NumPy's global generator
            rng = check_random_state(random_state)
            return cls(*(int(seed) for seed in rng.randint(np.iinfo(np.int32).max, size=len(cls._fields))))


def unharmed_by_failure(fit: Callable) -> Callable:
    """Restore the estimator's attributes where ``fit`` fails, or is ended before it has trained."""

    @wraps(fit)
    def guarded(self, *args, **kwargs):
        before = self.__dict__.copy()
        try:
            return fit(self, *args, **kwargs)
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    return guarded


class BaseDistiller(ClassifierMixin, CallbackSupportMixin, CheckedRows):
    """Base of the estimators, which add ``__init__`` and ``fit``."""

    net_: TrainingNet
    teacher_: Any
    n_iter_: int

    # ----------------------------------------------------------------------------------
    # Strategy

    _strategies = tuple(STRATEGIES)  # the names that ``meta`` may have

    def _named_strategy(self) -> Strategy:
        """The strategy that ``meta`` names, or a copy of the one it is; its parameters are checked."""
        if isinstance(self.meta, Strategy):
            strategy = clone(self.meta)
        elif self.meta in self._strategies:
            strategy = STRATEGIES[self.meta]()
            if isinstance(strategy, Linear):
                strategy.set_params(e1=self.e1, e2=self.e2)
        else:
            raise ValueError(
                f"meta={self.meta!r} is not known.{nearest(self.meta, self._strategies)} It is one of "
                f"{list(self._strategies)}, or a Strategy from sklearn_kd.meta."
            )
        strategy.check()
        return strategy

    # ----------------------------------------------------------------------------------
    # Copies

    def __sklearn_clone__(self):
        # Clones share a teacher that comes trained: a copy costs memory in every fold, and
        # a skorch net would be cloned into an unfitted one.
        if not self._shares_teacher():
            return clone_by_parameters(self)
        without_teacher = copy.copy(self)
        without_teacher.teacher = None
        clone = clone_by_parameters(without_teacher)
        clone.teacher = self.teacher
        return clone

    def __getstate__(self):
        state = super().__getstate__()
        # Only once fitted: a search sends unfitted clones, which need it, to its workers.
        if not self.keep_teacher and hasattr(self, "net_"):
            return state | {"teacher": self._untrained_teacher()}
        registration = None if hasattr(self, "net_") else registration_of(self.teacher)
        return state if registration is None else state | {"_registration": registration}

    def __setstate__(self, state):
        registration = state.pop("_registration", None)
        if registration is not None:  # this may be another process
            carry_registration(*registration)
        super().__setstate__(state)

    def _shares_teacher(self) -> bool:
        """Return whether clones are given the teacher itself."""
        return comes_trained(self.teacher)

    def _untrained_teacher(self):
        """Return what takes the teacher's place in pickles with ``keep_teacher=False``."""
        return without_training(self.teacher)

    def _sk_visual_block_(self):
        # What has been fitted says more than the parameter it was made from.
        fitted = getattr(self, "teacher_", None)
        student = self.student_ if hasattr(self, "net_") else self.student
        return parts_block(self.teacher if fitted is None else fitted, student, self._routed("student"))

    # ----------------------------------------------------------------------------------
    # Device

    def _device(self) -> torch.device:
        """``device``, where "auto" is CUDA, then MPS, then the CPU."""
        return checked_device(self.device)

    # ----------------------------------------------------------------------------------
    # The data

    def _split(self, codes, weight, strategy, valid_rows, seeds):
        """Return the rows of D_train, and those of D_val where it is held out of X, else None."""
        rows = np.arange(len(codes)) if weight is None else np.flatnonzero(weight)
        if valid_rows is not None or not strategy.learns_from_validation:
            return rows, None
        rng = check_random_state(seeds.split)
        train, held_out = split_rows(codes[rows], self._held_out_share(), rng, self._needs_no_validation)
        return rows[train], rows[held_out]

    def _split_data(self, given, strategy, seeds) -> tuple[SplitData, np.ndarray]:
        """Return D_train and D_val of a training under ``strategy``, and which rows D_train has.

        ``given``: X, codes, weights or None, and what :meth:`_checked_validation_rows` returned.
        """
        X, codes, weight, valid_rows = given
        rows, held_out = self._split(codes, weight, strategy, valid_rows, seeds)
        with self._memory_named("copying the data", lambda: self._rows_to_copy(X)):
            train = self._as_data(X[rows], codes[rows], at(weight, rows), seeds.train_batches)
            if held_out is not None:
                valid_rows = X[held_out], codes[held_out], at(weight, held_out)
            if valid_rows is None:
                return SplitData(train, None), rows
            X_val, codes, weight = valid_rows
            return SplitData(train, self._as_data(X_val, codes, weight, seeds.valid_batches)), rows

    _needs_no_validation = "a meta that does not learn from D_val, such as 'naive'"

    def _held_out_share(self) -> float:
        """Share of the rows held out as D_val."""
        return self.validation_fraction

    def _as_data(self, X, codes, weight, seed) -> DistillationData:
        device = self._device()
        if weight is not None:
            weight = as_tensor((weight / weight.mean()).astype(np.float32), device)
        targets = Targets(as_tensor(codes, device), None, weight)
        if isinstance(X, DatasetRows):
            return LoadedData(X, targets, seed)
        return DistillationData(as_tensor(X, device), targets, seed)

    # ----------------------------------------------------------------------------------
    # Memory

    def _memory_named(self, doing: str, held: Callable[[], str], *ways: str):
        """Names batch size, what is held, and what needs less, where memory runs out inside."""

        def situation():
            return f"batch_size={self.batch_size} and {held()}"

        ways = ways or ("X as a Dataset, whose rows are copied batch by batch",)
        return out_of_memory_named(doing, situation, needing_less(self._device(), *ways))

    def _rows_to_copy(self, X) -> str:
        logits = 4 * len(X) * len(self.classes_)
        return (
            f"data of {mebibytes(getattr(X, 'nbytes', 0))} to be copied to {self._device()}, where cached "
            f"teacher logits will take {mebibytes(logits)}"
        )

    # ----------------------------------------------------------------------------------
    # Checkpoints

    def _checkpoints(self, given, logits: np.ndarray | None, *seeds: Seeds) -> Checkpoints:
        """Open this fit's checkpoints, which may hold other seeds; ``given`` as for :meth:`_split_data`."""
        folder = checked_folder(self.checkpoint_dir)
        if folder is None:
            return Checkpoints(None, "", seeds, False)
        X, codes, weight, valid_rows = given
        sets = {"iterator_train": X, "iterator_valid": None if valid_rows is None else valid_rows[0]}
        rows = [
            samples_of(own, self._routed(part).get("collate_fn")) if isinstance(own, DatasetRows) else own
            for part, own in sets.items()
        ]
        # None draws others in each process, and means the same fit; a RandomState means a fit for
        # each of its states.
        is_open = self.random_state is None
        digest = digest_of(
            estimator=type(self),
            parameters=parameters_of(self),
            seeds=None if is_open else seeds,
            device=str(self._device()),
            rows=rows,
            n_rows=len(X),
            codes=[codes, None if valid_rows is None else valid_rows[1]],
            classes=self.classes_,
            weight=weight,
            logits=logits,
            before=[self.student_, self.n_iter_] if self._continues() else None,
        )
        return Checkpoints(folder, digest, seeds, is_open)

    # ----------------------------------------------------------------------------------
    # Teacher, student and callbacks

    def _continues(self):
        """Return whether this fit continues the last one."""
        return self.warm_start and hasattr(self, "net_")

    def _checked_teacher(self, strategy, logits, loaded, stated):
        """Wrap the teacher; None where none is needed. ``stated`` are the classes of its columns."""
        if not strategy.needs_teacher:
            return None
        if logits is not None and self.augment is not None:
            raise ValueError(
                "teacher_logits are of the rows as they are, not of what augment makes of them. Give a "
                "network as teacher (nn.Module, skorch), which is asked about each augmented batch, "
                "or set augment=None."
            )
        if logits is not None:
            if self.teacher is not None:
                warnings.warn(
                    f"teacher_logits take the place of {name_of(self.teacher)}, which is not used. Set "
                    "teacher=None, or leave teacher_logits out to have it asked.",
                    UserWarning,
                    stacklevel=2,
                )
            return None
        if self.teacher is None:
            raise ValueError(
                "teacher=None leaves nothing to distil. Give a teacher, give teacher_logits to "
                "fit, or set meta='none' to train on the labels alone."
            )
        teacher = make_teacher(self.teacher, stated)
        if (loaded or self.augment is not None) and not isinstance(teacher, BatchTeacherAdapter):
            mend = "give fit arrays, or teacher_logits." if self.augment is None else "set augment=None."
            raise ValueError(
                f"teacher {type(self.teacher).__name__} takes arrays, and cannot be asked batch by batch, "
                f"as {'X is a Dataset' if self.augment is None else 'augment'} requires. Give a network as "
                f"teacher (nn.Module, skorch), or {mend}"
            )
        return teacher

    def _cached_answers(self, teacher, train, rows, X, y, weight, seed):
        """Compute the teacher's logits of D_train, once; a classifier is fitted on (X, y) first.

        ``rows``: which rows of the whole X these are, for messages.
        """
        ways = "teacher_logits, computed in parts beforehand", "a smaller batch_size with X as a Dataset"
        asking = self._memory_named("asking the teacher", lambda: held_of([train]), *ways)
        with asking, naming_rows(rows):
            logits = self._asked(teacher, train, X, y, weight, seed)
            refuse_wrong_numbers(logits, name_of(self.teacher))
        return logits

    def _asked(self, teacher, train, X, y, weight, seed):
        if isinstance(train, LoadedData):
            ask = teacher.on(train.device, self.classes_)
            # A Dataset may draw from the global generators.
            with preserved_random_state(train.device, seed):
                batches = read(train.rows, **self._loader_settings("iterator_train"))
                return torch.cat([ask(x.to(train.device).float()) for x, _, _ in batches])
        with teacher.drawing_from(seed, train.device):
            teacher.fit(X, y, sample_weight=weight, rng=check_random_state(seed))
        with teacher.drawing_from(seed, train.device):
            return teacher.logits(X, train.X, self.classes_, PREDICTION_BATCH)

    def _initial_student(self, X, seeds):
        """Build the student, or take the last one if warm, and check it on two samples."""
        n_classes = len(self.classes_)
        # Inside, so that weights which are made in the first forward pass are drawn from the seed too.
        with preserved_random_state(X.device, seeds.student):
            if self._continues():
                student = self.student_
            else:
                params = self._routed("student")
                student = build_student(self.student, params, tuple(X.shape[1:]), n_classes)
            student = in_float32(student.to(X.device), X[:2])
            made_by = None if isinstance(self.student, torch.nn.Module) else self.student
            check_student(student, X[:2], n_classes, made_by)
        return student

    def _who_trains(self) -> str:
        """Return what messages call the training of the student that is kept."""
        return f"meta={self.meta!r}"

    def _check_single_rows(self, student, X, valid):
        """Refuse batches of one row where the student cannot train on them."""
        train_size = self._routed("iterator_train").get("batch_size", self.batch_size)
        if train_size != 1 and (valid is None or len(valid) > 1):
            return
        try:
            with preserved_random_state(X.device), torch.no_grad():
                copy.deepcopy(student).train()(X[:1])
        except ValueError as error:
            raise ValueError(
                f"{'batch_size=1' if train_size == 1 else 'D_val has 1 row'}, but the student needs at "
                f"least two rows in a batch, as batch normalisation does: {error}"
            ) from error

    def _check_rows_alone(self, student, samples):
        """Refuse ``hypergradient_rows`` where a row's logits depend on the rest of its batch."""
        if self.hypergradient_rows is None:
            return
        if self.hypergradient == "exact":
            raise ValueError(
                "hypergradient_rows saves part of an extra forward pass, but hypergradient='exact' has "
                "none. Set hypergradient_rows=None, or another hypergradient."
            )
        size = self._routed("iterator_train").get("batch_size", self.batch_size)
        # A batch of rows that all differ, made of a few.
        batch = samples.repeat(size, *[1] * (samples.ndim - 1))[:size]
        batch *= torch.linspace(0.5, 1.5, size, device=batch.device).reshape(-1, *[1] * (samples.ndim - 1))
        student, some = copy.deepcopy(student).train(), slice(self.hypergradient_rows)

        def logits(rows):
            with preserved_random_state(batch.device, seed=0), torch.no_grad():
                return student(rows)[some]

        if not torch.allclose(logits(batch), logits(batch[some]), rtol=1e-3, atol=1e-5):
            raise ValueError(
                f"hypergradient_rows={self.hypergradient_rows}, but in training the student's logits of "
                "a row depend on the rest of the batch, as with batch normalisation. Set "
                "hypergradient_rows=None."
            )

    def _check_callbacks(self, net, data, n_batches):
        """Refuse callbacks that watch what is not recorded, or whose schedules end too early."""
        check_monitors(net, net.recorded, data.valid is not None, self._who_trains())
        check_schedules(net, n_batches)

    # ----------------------------------------------------------------------------------
    # What is fitted, and prediction

    @property
    def student_(self) -> torch.nn.Module:
        """The trained student."""
        check_is_fitted(self, "net_")
        return self.net_.module_

    @property
    def history_(self) -> History:
        """skorch's history of the net."""
        check_is_fitted(self, "net_")
        return self.net_.history

    @ordinary_torch()
    def export_student(self, path: str | PathLike[str]) -> None:
        """Write the student to a file, by the suffix of its name.

        ``.safetensors`` holds the weights: ``safetensors.torch.load_model(module, path)``
        puts them into a fresh module of the same architecture. ``.onnx`` holds the whole
        network, for ONNX Runtime and the like: input ``X``, float32 of shape (n_samples, ...)
        with any number of rows, output ``logits`` of shape (n_samples, n_classes).

        Both give logits; the labels are ``classes_[logits.argmax(1)]``, the probabilities
        the softmax of the logits. ``classes_`` is in the file's metadata, as JSON, beside
        the shape of a sample and the version of this library: ``classes``, ``input_shape``,
        ``sklearn_kd_version``.

        Parameters
        ----------
        path : str or path-like
            Ends in ``.safetensors`` or ``.onnx``. A file that is there is replaced.

        Raises
        ------
        NotFittedError
            If the estimator has not been fitted.
        ValueError
            If the suffix is another one.
        ImportError
            If a package is missing; ``sklearn-kd[export]`` brings all of them.
        TypeError
            If JSON has no form for the labels, as for dates.

        Notes
        -----
        Neither file runs code when it is read, as a pickle can. A skops file of the whole
        estimator, which would not either, cannot be had: skops has no form for torch's
        tensors, and its ``dump`` or, by version, its ``load`` fails.

        Examples
        --------
        >>> import json, tempfile
        >>> import numpy as np, torch
        >>> from safetensors import safe_open
        >>> from safetensors.torch import load_model
        >>> from sklearn.datasets import load_iris
        >>> from sklearn_kd import DistilledClassifier, MLPStudent
        >>> X, y = load_iris(return_X_y=True, as_frame=True)
        >>> names = np.array(["setosa", "versicolor", "virginica"])
        >>> clf = DistilledClassifier(None, MLPStudent, meta="none", max_epochs=5, device="cpu")
        >>> clf = clf.fit(X, names[y])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     clf.export_student(f"{folder}/iris.safetensors")
        ...     student = MLPStudent(in_features=4, n_classes=3).eval()
        ...     _ = load_model(student, f"{folder}/iris.safetensors")
        ...     with safe_open(f"{folder}/iris.safetensors", framework="pt") as file:
        ...         classes = np.array(json.loads(file.metadata()["classes"]))
        >>> logits = student(torch.tensor(X.to_numpy(), dtype=torch.float32))
        >>> bool((classes[logits.argmax(1)] == clf.predict(X)).all())
        True
        """
        export_student(self.student_, path, self.classes_, self._sample_shape)

    @ordinary_torch()
    def predict_proba(self, X: ArrayLike | Dataset) -> np.ndarray:
        """Class probabilities: the softmax of the student's logits at temperature 1.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...), or Dataset
            A Dataset's items are x or ``(x, anything)``; it is read as ``iterator_valid__*`` say.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32
            Columns in the order of ``classes_``.
        """
        return torch.softmax(self._logits(X), dim=1).numpy()

    @ordinary_torch()
    def predict_log_proba(self, X: ArrayLike | Dataset) -> np.ndarray:
        """Logarithms of the class probabilities, finite also where a probability rounds to zero.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...), or Dataset
            As in :meth:`predict_proba`.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32
            Columns in the order of ``classes_``.
        """
        return torch.log_softmax(self._logits(X), dim=1).numpy()

    def _logits(self, X):
        """The student's logits of all rows, on the CPU."""
        check_is_fitted(self, "net_")
        if is_dataset(X):
            return torch.cat([logits for logits, _ in self._answers(X)])
        X = as_tensor(self._checked_samples(X))
        net, batch_size = self.net_, max(self.batch_size, PREDICTION_BATCH)
        net.module_.eval()
        with self._predicting(batch_size), torch.inference_mode():
            logits = torch.cat([net.module_(x.to(net.device)) for x in X.split(batch_size)]).float().cpu()
        return refuse_overflow(logits)

    def _predicting(self, n_rows):
        """Names batches of ``n_rows`` rows where memory runs out inside."""
        ways = f"X as a Dataset with iterator_valid__batch_size below {n_rows}", "fewer rows at a time"
        doing, net = f"predicting in batches of {n_rows} rows", self.net_

        def held():
            return f"weights of {size_of([net.module_])} on {net.device}; no teacher logits are cached"

        return self._memory_named(doing, held, *ways)

    def _answers(self, dataset, labelled=False):
        """Yield (logits, labels or None) of a Dataset, a batch at a time."""
        settings, net = self._loader_settings("iterator_valid"), self.net_
        rows = DatasetRows(dataset, settings.get("collate_fn"))
        self._check_sample_shape(rows, "X")
        net.module_.eval()
        for x, labels, _ in read(rows, labelled=labelled, **settings):
            # Not around the loader: a Dataset may keep what it makes, to be trained on later.
            with self._predicting(len(x)), torch.inference_mode():
                logits = net.module_(x.to(net.device).float()).float().cpu()
            yield refuse_overflow(logits), labels

    def predict(self, X: ArrayLike | Dataset) -> np.ndarray:
        """The label of the largest logit.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...), or Dataset

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        codes = self.predict_proba(X).argmax(axis=1)
        return self.classes_[codes]

    @ordinary_torch()
    def score(
        self, X: ArrayLike | Dataset, y: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> float:
        """Accuracy.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...), or Dataset
        y : array-like of shape (n_samples,), default=None
            Labels. None: those of a Dataset, whose items are ``(x, label)`` then.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
        """
        y, sample_weight = from_torch(y, "y"), from_torch(sample_weight, "sample_weight")
        if y is not None or not is_dataset(X):
            return super().score(X, y, sample_weight)
        check_is_fitted(self, "net_")
        answers = [
            (self.classes_[logits.argmax(dim=1)], np.asarray(from_torch(labels, "The labels in X")))
            for logits, labels in self._answers(X, labelled=True)  # read once for both
        ]
        predicted, labels = (np.concatenate(parts) for parts in zip(*answers, strict=True))
        return float(accuracy_score(labels, predicted, sample_weight=sample_weight))


def at(values: Any, rows: Any) -> Any:
    """Return ``values[rows]``, or None for None."""
    return None if values is None else values[rows]
