"""Base classes of the adapters, one for each way to ask a teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.inputs._arrays import from_torch
from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.inputs._parts import Parts
from sklearn_kd.runtime._random_state import preserved_random_state, seeded_without_lock
from sklearn_kd.runtime._torch_modes import default_dtype_of_caller
from sklearn_kd.teachers._conversion import BatchLogits, LogitConversion
from sklearn_kd.teachers._known_classes import named_columns
from sklearn_kd.teachers._logit_checks import columns_of_two, name_of, thawed
from sklearn_kd.teachers._zeros import Floor, floor_of_all_rows, floor_of_each_row


class TeacherAdapter:
    """Base class of adapters of teachers that are asked once, about all rows.

    An adapter says how the teachers of one class are trained and asked. Write a subclass with
    :meth:`predict_logits`, add other methods as needed, and register it with :func:`register_teacher`. The
    library aligns the columns with the classes of y, refuses logits that are not finite, and names the
    teacher in messages.

    Override only these methods, and not ``__init__``:

    - :meth:`predict_logits`, which every adapter needs;
    - :meth:`column_classes`, if the teacher states the classes of its columns elsewhere than in an
      attribute ``classes_``;
    - :meth:`fit`, if the teacher has to be trained on D_train. Without it the teacher comes trained;
    - :meth:`check`, to refuse an unusable teacher before any training;
    - :meth:`accepts`, to leave some objects of the class to the adapter of a base class.

    Parameters
    ----------
    teacher : object
        The teacher as the user gave it.
    teacher_classes : list or None, default=None
        The estimator's ``teacher_classes``: the class of each column.

    Attributes
    ----------
    teacher : object
        The teacher. ``fit`` sets it to the trained one, which the estimator keeps as ``teacher_``.
    name : str
        Name of the teacher in messages, such as ``"teacher Booster"``.

    See Also
    --------
    BatchTeacherAdapter : For teachers that are asked batch by batch.
    register_teacher : Registers an adapter.

    Examples
    --------
    A kind of teacher that is trained on D_train. ``fit`` must leave the user's object untrained, so that
    each fold of a cross-validation trains its own teacher:

    >>> import copy
    >>> import numpy as np
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> from sklearn_kd.teachers import TeacherAdapter, register_teacher
    >>> class Prototypes:
    ...     def learn(self, X, y):
    ...         self.labels = np.unique(y)
    ...         self.means = np.stack([X[y == label].mean(axis=0) for label in self.labels])
    >>> @register_teacher(Prototypes)
    ... class PrototypesTeacher(TeacherAdapter):
    ...     def fit(self, X, y, *, sample_weight, rng):
    ...         self.teacher = copy.deepcopy(self.teacher)
    ...         self.teacher.learn(X, y)
    ...     def column_classes(self):
    ...         return self.teacher.labels
    ...     def predict_logits(self, X):
    ...         return -((X[:, None] - self.teacher.means) ** 2).sum(axis=2)
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = DistilledClassifier(
    ...     Prototypes(), MLPStudent, max_epochs=5, keep_teacher=True, random_state=0).fit(X, y)
    >>> clf.teacher_.means.shape
    (3, 4)
    """

    # True for kinds that know the classes of their columns, so that the user need not state them.
    knows_classes: ClassVar[bool] = False
    # Whether a teacher of this kind can teach a classifier, and whether its predict_logits may return the
    # numbers that a regressor learns.
    gives_classes: ClassVar[bool] = True
    gives_numbers: ClassVar[bool] = True
    # Whether a teacher of this kind may give maps, shape (n, K, h, w), if y has a map for each row, and
    # whether it is asked for them.
    takes_maps: ClassVar[bool] = False
    gives_maps: bool = False
    # The source of the answers in messages, and the advice if they are probabilities; None: they may be.
    _source: ClassVar[str] = "predict_logits of its adapter"
    _no_probabilities: ClassVar[str | None] = "Have predict_logits of its adapter return logits"
    _named: list[Any] | None = None  # the names of the columns, if nothing else states their classes
    known_columns: Any = None  # the label of each column, for the report, if the teacher does not show it
    # The replacement of probabilities of 0. None: that of each row if the teacher takes batches, else that of
    # all rows.
    _stated_floor: Floor | None = None
    seconds: float | None = None  # duration of the teacher's training, if it was trained here

    def __init__(self, teacher: Any, teacher_classes: list[Any] | None = None):
        self.fitted, self.teacher_classes = teacher, teacher_classes
        self.check()

    @property
    def teacher(self) -> Any:
        """The teacher, without the FrozenEstimator around it."""
        return thawed(self.fitted)

    @teacher.setter
    def teacher(self, trained: Any) -> None:
        self.fitted = trained

    @property
    def name(self) -> str:
        """Name of the teacher in messages."""
        return name_of(self.fitted)

    # ----------------------------------------------------------------------------------
    # To be overridden

    @classmethod
    def accepts(cls, teacher: Any) -> bool:
        """Return False to leave an object to the adapter of a less specific class.

        Parameters
        ----------
        teacher : object
            An instance of the registered class.

        Returns
        -------
        bool
            By default True.
        """
        return True

    def check(self) -> None:
        """Raise ValueError or TypeError if ``self.teacher`` cannot be used."""

    def fit(
        self, X: Any, y: np.ndarray, *, sample_weight: np.ndarray | None, rng: np.random.RandomState
    ) -> None:
        """Train the teacher on D_train, and set ``self.teacher`` to the trained one.

        Parameters
        ----------
        X : array-like
            Rows of D_train in the container given by the user.
        y : ndarray of shape (n_samples,)
            Labels.
        sample_weight : ndarray of shape (n_samples,) or None
            Weights of the rows.
        rng : RandomState
            Source of the teacher's randomness.
        """

    def column_classes(self) -> Any:
        """Return the class of each column of the logits, or None if the teacher does not know it.

        Returns
        -------
        array-like of shape (n_columns,) or None
            By default the teacher's ``classes_``, if it has them.
        """
        return getattr(self.teacher, "classes_", None)

    def predict_logits(self, X: Any) -> Any:
        """Return the logits of some rows.

        Logits are defined up to a constant in each row, so log-probabilities are logits too. Probabilities
        are recognised and replaced by their logarithms, with a warning.

        Parameters
        ----------
        X : array-like
            Rows in the container given by the user.

        Returns
        -------
        array-like or Tensor of shape (n_samples, n_columns)
            The logits.
        """
        raise NotImplementedError(f"{type(self).__name__} has no predict_logits")

    # ----------------------------------------------------------------------------------
    # Called by the estimators

    @classmethod
    def trains(cls, teacher: Any) -> bool:
        """Return True if a teacher of this kind is trained on D_train, False if it comes trained."""
        return cls.fit is not TeacherAdapter.fit

    @classmethod
    def members(cls, teacher: Any) -> Sequence[Any]:
        """Return the teachers inside a teacher."""
        return ()

    @classmethod
    def trains_all(cls, teacher: Any) -> bool:
        """Return True if no part of the teacher comes trained."""
        return cls.trains(teacher)

    def takes_batches(self) -> bool:
        """Return True if the teacher is asked about batches of tensors, False if about X."""
        return False

    def ask_about_given_rows(self) -> None:
        """Prepare for ``student_preprocessing``: some teachers are then asked about X as given."""

    def ask_about_some_rows(self) -> None:
        """Prepare to be asked about some rows at a time: no answer then depends on the other rows."""
        self._stated_floor = floor_of_each_row

    @property
    def _floor(self) -> Floor:
        """The replacement of probabilities of 0."""
        if self._stated_floor is not None:
            return self._stated_floor
        return floor_of_each_row if self.takes_batches() else floor_of_all_rows

    def ask_for_maps(self) -> None:
        """Prepare for a y with a map for each row: return maps of shape (n, n_columns, h, w).

        Raises
        ------
        ValueError
            If teachers of this kind give no maps.
        """
        if not self.takes_maps:
            if hasattr(self.teacher, "ignore_index"):  # an estimator of this library
                raise ValueError(
                    f"{self.name} is not fitted on maps by the fit of its student. Give FrozenEstimator of "
                    "an estimator that was fitted on maps: sklearn.frozen.FrozenEstimator(teacher.fit(X, y))."
                )
            raise ValueError(
                f"{self.name} predicts one target for each row, but y has a map for each. Give a network "
                "that returns maps of shape (n, n_outputs, height, width) as teacher (nn.Module, skorch, "
                "OnnxTeacher, FunctionTeacher), FrozenEstimator of an estimator that was fitted on maps, or "
                "give its maps to fit."
            )
        self.gives_maps = True

    def take_fit_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Keep further parameters of the teacher's own ``fit``, given as ``teacher__fit__NAME``.

        Raises
        ------
        TypeError
            If the teacher's ``fit`` takes no such parameters.
        ValueError
            If a parameter that the teacher needs is missing.
        """
        if parameters:
            why = "is trained by an adapter" if self.trains(self.fitted) else "comes trained"
            raise TypeError(
                f"teacher__fit__{next(iter(parameters))}: {self.name} {why}, and takes no parameters of fit. "
                "Leave it out."
            )

    def iter_logits(
        self, X: Any, data: DistillationData, classes: np.ndarray, batch_size: int
    ) -> Iterator[Tensor]:
        """Yield logits of shape (., K), with columns in the order of ``classes``, on the device of ``data``.

        Parameters
        ----------
        X : array-like
            The rows in the user's container; None for a teacher that takes batches.
        data : DistillationData
            The same rows.
        classes : ndarray of shape (K,)
            Classes of y.
        batch_size : int
            Rows to ask about at a time, if the teacher takes batches.
        """
        values = self._checked(self.predict_logits(X), len(data))
        yield self._conversion(values, classes)(values).to(data.device)

    @contextmanager
    def drawing_from(self, seed: int, device: torch.device) -> Iterator[None]:
        """Seed the global generators while the teacher is trained or asked, and restore them.

        No lock is held, because a scikit-learn teacher may wait for threads that need it.
        """
        with seeded_without_lock(seed), default_dtype_of_caller():
            yield

    def _conversion(self, values: Tensor, classes: np.ndarray) -> LogitConversion:
        return LogitConversion.of(
            values,
            own=self._own_classes(),
            stated=self.teacher_classes,
            classes=classes,
            who=self.name,
            remedy=self._no_probabilities,
            floor=self._floor,
        )

    def _own_classes(self) -> Any:
        own = self.column_classes()
        return self._named if own is None and self.teacher_classes is None else own

    def _checked(self, output: Any, n_rows: int) -> Tensor:
        """Convert the teacher's answers to a float32 tensor, and put named columns in order."""
        values = self._checked_shape(output, n_rows)
        known = self._own_classes() if self.teacher_classes is None else self.teacher_classes
        values, self._named = named_columns(output, values, known, self.name, self._source)
        return values

    def _checked_shape(self, output: Any, n_rows: int) -> Tensor:
        """Convert the teacher's answers to a float32 tensor of shape (n_rows, n_columns)."""
        if isinstance(output, Tensor):
            values, shape = output.detach(), f"shape {tuple(output.shape)}"
        else:
            try:
                array: np.ndarray = np.asarray(from_torch(output, "predict_logits"), dtype=np.float32)
                shape = f"shape {array.shape}"
            except (TypeError, ValueError):  # ragged, or not numbers
                array = np.empty(0, dtype=np.float32)
                shape = f"a {type(output).__name__} that is not a table of numbers"
            values = torch.as_tensor(np.require(array, requirements=["C", "W"]))
        if self.gives_maps and (values.ndim != 4 or len(values) != n_rows):
            raise ValueError(
                f"{self.name}: {self._source} must return maps of logits for each image in X, shape "
                f"({n_rows}, n_columns, height, width), of any height and width; it returned {shape}."
            )
        if not self.gives_maps and (values.ndim != 2 or len(values) != n_rows):
            raise ValueError(
                f"{self.name}: {self._source} must return one row of logits for each row of X, shape "
                f"({n_rows}, n_columns); it returned {shape}.{columns_of_two(values)}"
            )
        return values.float()


class BatchTeacherAdapter(TeacherAdapter):
    """Base class of adapters of trained teachers that are asked batch by batch.

    Such a teacher can be asked about rows of a ``Dataset`` and about the batches that ``augment`` makes.
    Without these it is asked once about each row, in batches of 1,024.

    Override the same methods as for :class:`TeacherAdapter`, except ``fit``. If y has a map for each row,
    ``predict_logits`` returns maps of shape (n, n_columns, h, w) with any h and w.

    Parameters
    ----------
    teacher : object
        The trained teacher as the user gave it.
    teacher_classes : list or None, default=None
        The estimator's ``teacher_classes``: the class of each column.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> from sklearn_kd.teachers import BatchTeacherAdapter, register_teacher
    >>> X, y = load_iris(return_X_y=True)
    >>> class Linear:
    ...     def __init__(self, model):
    ...         self.coef, self.intercept = model.coef_.T, model.intercept_
    >>> @register_teacher(Linear)
    ... class LinearTeacher(BatchTeacherAdapter):
    ...     def predict_logits(self, X):
    ...         return X.numpy(force=True) @ self.teacher.coef + self.teacher.intercept
    >>> teacher = Linear(LogisticRegression(max_iter=500).fit(X, y))
    >>> def noise(x):
    ...     return x + 0.1
    >>> clf = DistilledClassifier(teacher, MLPStudent, augment=noise, max_epochs=5, random_state=0)
    >>> clf = clf.fit(X, y)
    """

    takes_maps = True

    def predict_logits(self, X: Tensor) -> Any:
        """Return the logits of a batch.

        Parameters
        ----------
        X : Tensor of shape (n, ...), float32
            The batch, on the student's device. A dict or tuple of tensors if X is one.

        Returns
        -------
        array-like or Tensor of shape (n, n_columns)
            Logits, as for :class:`TeacherAdapter`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no predict_logits")

    def on(self, device: torch.device, classes: np.ndarray) -> Callable[[Tensor], Tensor]:
        """Return a function from float32 batches on ``device`` to logits with columns as in ``classes``."""

        def ask(x: Any) -> Tensor:
            with torch.no_grad():
                rows = x.given() if isinstance(x, Parts) else x
                return self._checked(self.predict_logits(rows), len(x)).to(device)

        return BatchLogits(ask, lambda values: self._conversion(values, classes), self.name)

    @contextmanager
    def drawing_from(self, seed: int, device: torch.device) -> Iterator[None]:
        """Seed the generators while the teacher is asked, holding torch's lock, and restore them."""
        with preserved_random_state(device, seed):
            yield

    def takes_batches(self) -> bool:
        """Return True."""
        return True

    def iter_logits(
        self, X: Any, data: DistillationData, classes: np.ndarray, batch_size: int
    ) -> Iterator[Tensor]:
        """Yield logits of shape (., K), asked in batches of ``batch_size`` rows."""
        ask = self.on(data.device, classes)
        yield from map(ask, data.iter_batches(batch_size))


class EitherWayAdapter(BatchTeacherAdapter):
    """Base class of adapters for teachers of which some are asked batch by batch, others about all of X.

    A subclass overrides :meth:`takes_batches`. ``predict_logits`` gets a batch or X.
    """

    def takes_batches(self) -> bool:
        """Return True if this teacher is asked about batches of tensors."""
        raise NotImplementedError

    @contextmanager
    def drawing_from(self, seed: int, device: torch.device) -> Iterator[None]:
        """Seed the generators while the teacher is asked, and restore them."""
        kind = BatchTeacherAdapter if self.takes_batches() else TeacherAdapter
        with kind.drawing_from(self, seed, device):
            yield

    def iter_logits(
        self, X: Any, data: DistillationData, classes: np.ndarray, batch_size: int
    ) -> Iterator[Tensor]:
        """Yield logits of shape (., K)."""
        kind = BatchTeacherAdapter if self.takes_batches() else TeacherAdapter
        yield from kind.iter_logits(self, X, data, classes, batch_size)
