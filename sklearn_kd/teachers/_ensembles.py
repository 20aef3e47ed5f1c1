"""Combine several teachers into one by the mean of their log-probabilities."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from torch import Tensor

from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.tasks._pixels import resized
from sklearn_kd.teachers._adapter import EitherWayAdapter
from sklearn_kd.teachers._conversion import BatchLogits, LogitConversion
from sklearn_kd.teachers._registry import (
    adapter_class,
    comes_trained,
    register_teacher,
    shared_copy,
    wrap_teacher,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from typing_extensions import Self


class TeacherEnsemble(BaseEstimator):
    """Several teachers as one; its logits are the mean of their log-probabilities.

    A plain list works too: ``teacher=[a, b]`` means ``TeacherEnsemble([a, b])``.

    Each teacher may be of any kind. Teachers that do not come trained are trained on D_train. The columns of
    each are matched with the classes of y before the mean is taken.

    Parameters
    ----------
    teachers : list of teachers
        At least one.
    weights : array-like of shape (n_teachers,) or None, default=None
        Weights above 0; they are scaled to sum to 1. None: equal weights.

    Notes
    -----
    Up to a constant in each row, the mean of log-probabilities is the logarithm of the geometric mean of the
    probabilities. A class has probability 0 if one teacher gives it a logit of −inf.

    The parameters of the teacher at place i are ``i__NAME``. If the estimator's ``teacher`` is an ensemble,
    ``set_params(teacher__0__max_depth=3)`` and searches reach them. ``teacher__fit__0__NAME`` is a parameter
    of that teacher's ``fit``. ``teacher_classes`` applies to all members that do not know their classes.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> from sklearn_kd.teachers import TeacherEnsemble
    >>> X, y = load_iris(return_X_y=True)
    >>> both = TeacherEnsemble([RandomForestClassifier(20), LogisticRegression(max_iter=500)], [1, 2])
    >>> clf = DistilledClassifier(
    ...     both, MLPStudent, max_epochs=5, keep_teacher=True, random_state=0)
    >>> clf = clf.set_params(teacher__0__max_depth=2).fit(X, y)
    >>> clf.teacher_.teachers[0].estimators_[0].get_depth()
    2
    """

    def __init__(self, teachers: Sequence[Any], weights: ArrayLike | None = None):
        self.teachers = teachers
        self.weights = weights

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Get the parameters.

        Parameters
        ----------
        deep : bool, default=True
            Whether to include the teachers, by their places, and their parameters.

        Returns
        -------
        dict
            Parameter names mapped to their values.
        """
        params = super().get_params(deep=False)
        if deep and isinstance(self.teachers, (list, tuple)):
            for place, teacher in enumerate(self.teachers):
                params[str(place)] = teacher
                if hasattr(teacher, "get_params") and not isinstance(teacher, type):
                    params |= {f"{place}__{name}": value for name, value in teacher.get_params().items()}
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters, including teachers by their places and the teachers' own parameters.

        Parameters
        ----------
        **params : dict
            ``teachers``, ``weights``, ``0``, ``0__NAME`` and so on.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If there is no teacher at a place, or a teacher has no such parameter.
        """
        # Set the teachers before their parameters, as scikit-learn does.
        super().set_params(
            **{name: value for name, value in params.items() if name in ("teachers", "weights")}
        )
        for name in filter(str.isdigit, params):
            if name not in self.get_params():
                raise ValueError(
                    f"TeacherEnsemble has no teacher at place {name}: it has {len(self.teachers)}."
                )
            teachers = list(self.teachers)
            teachers[int(name)] = params[name]
            self.teachers = teachers
        own = {name for name in params if name in ("teachers", "weights") or name.isdigit()}
        super().set_params(**{name: value for name, value in params.items() if name not in own})
        return self

    def __sklearn_clone__(self) -> TeacherEnsemble:
        # Clones share the members that come trained.
        return type(self)([shared_copy(teacher) for teacher in self.teachers], copy.copy(self.weights))


@register_teacher(tuple)
@register_teacher(list)
@register_teacher(TeacherEnsemble)
class EnsembleAdapter(EitherWayAdapter):
    """Adapter of a TeacherEnsemble or a list of teachers, with an adapter for each teacher."""

    _seeds: Any = None  # one for each member, while they are trained and asked
    knows_classes = True  # members that do not know them get the stated ones

    @classmethod
    def accepts(cls, teacher: Any) -> bool:
        return isinstance(teacher, TeacherEnsemble) or len(teacher) > 0

    @classmethod
    def members(cls, teacher: Any) -> Sequence[Any]:
        return teacher.teachers if isinstance(teacher, TeacherEnsemble) else teacher

    @classmethod
    def trains(cls, teacher: Any) -> bool:
        return not all(map(comes_trained, cls.members(teacher)))

    @classmethod
    def trains_all(cls, teacher: Any) -> bool:
        adapters = [(adapter_class(member), member) for member in cls.members(teacher)]
        return all(adapter is not None and adapter.trains_all(member) for adapter, member in adapters)

    def check(self) -> None:
        teachers = self.members(self.teacher)
        if not (isinstance(teachers, (list, tuple)) and teachers):
            raise ValueError(f"TeacherEnsemble: teachers={teachers!r} must be a list of one teacher or more.")
        self._given_weights = getattr(self.teacher, "weights", None)
        self._weights = checked_weights(self._given_weights, len(teachers))
        self._adapters = []
        for place, teacher in enumerate(teachers):
            stated = None if _knows_its_classes(teacher) else self.teacher_classes
            self._adapters.append(wrap_teacher(teacher, stated, f"teacher[{place}]"))

    def take_fit_parameters(self, parameters: Mapping[str, Any]) -> None:
        by_place: dict[str, dict[str, Any]] = {str(place): {} for place in range(len(self._adapters))}
        for name, value in parameters.items():
            place, _, rest = name.partition("__")
            if place not in by_place or not rest:
                raise TypeError(
                    f"teacher__fit__{name}: {self.name} has several teachers. Give "
                    f"teacher__fit__PLACE__NAME, with PLACE one of {list(by_place)}."
                )
            by_place[place][rest] = value
        for adapter, own in zip(self._adapters, by_place.values(), strict=True):
            adapter.take_fit_parameters(own)

    def ask_about_given_rows(self) -> None:
        for adapter in self._adapters:
            adapter.ask_about_given_rows()

    def ask_about_some_rows(self) -> None:
        super().ask_about_some_rows()
        for adapter in self._adapters:
            adapter.ask_about_some_rows()

    def ask_for_maps(self) -> None:
        super().ask_for_maps()
        for adapter in self._adapters:
            adapter.ask_for_maps()

    def takes_batches(self) -> bool:
        return all(adapter.takes_batches() for adapter in self._adapters)

    @contextmanager
    def drawing_from(self, seed: int, device: torch.device) -> Iterator[None]:
        """Seed the members' random numbers: all at once, or each while it is trained or asked."""
        if self.takes_batches():
            with super().drawing_from(seed, device):
                yield
        else:
            self._device = device
            self._seeds = check_random_state(seed).randint(np.iinfo(np.int32).max, size=len(self._adapters))
            yield

    def fit(
        self, X: Any, y: np.ndarray, *, sample_weight: np.ndarray | None, rng: np.random.RandomState
    ) -> None:
        self._adapters = [copy.copy(adapter) for adapter in self._adapters]  # others may share them
        for adapter, seed in zip(self._adapters, self._seeds.tolist(), strict=True):
            if adapter.trains(adapter.fitted):
                with adapter.drawing_from(seed, self._device):
                    adapter.fit(X, y, sample_weight=sample_weight, rng=check_random_state(seed))
        self.teacher = TeacherEnsemble([adapter.fitted for adapter in self._adapters], self._given_weights)

    def on(self, device: torch.device, classes: np.ndarray) -> Callable[[Tensor], Tensor]:
        members = [adapter.on(device, classes) for adapter in self._adapters]  # type: ignore[attr-defined]

        def ask(x: Tensor) -> Tensor:
            return self._mean(member(x) for member in members)

        return BatchLogits(ask, lambda values: LogitConversion(None, probabilities=False), self.name)

    def iter_logits(
        self, X: Any, data: DistillationData, classes: np.ndarray, batch_size: int
    ) -> Iterator[Tensor]:
        if self.takes_batches():
            yield from super().iter_logits(X, data, classes, batch_size)
        else:
            yield self._mean(self._iter_members(X, data, classes, batch_size))

    def _iter_members(
        self, X: Any, data: DistillationData, classes: np.ndarray, batch_size: int
    ) -> Iterator[Tensor]:
        """Yield each member's logits of all rows."""
        # Without seeds, an adapter around this one has seeded the generators.
        seeds = [None] * len(self._adapters) if self._seeds is None else self._seeds.tolist()
        for adapter, seed in zip(self._adapters, seeds, strict=True):
            with nullcontext() if seed is None else adapter.drawing_from(seed, data.device):
                yield torch.cat([*adapter.iter_logits(X, data, classes, batch_size)])

    def _mean(self, logits: Iterable[Tensor]) -> Tensor:
        """Return the weighted mean of log-probabilities; maps are resized to the largest."""
        if self.gives_maps:
            logits = of_one_size(list(logits))
        return sum(
            (weight * found.float().log_softmax(dim=1))
            for weight, found in zip(self._weights, logits, strict=True)
        )  # type: ignore[return-value]


def of_one_size(maps: list[Tensor]) -> list[Tensor]:
    """Resize maps to the largest height and width among them."""
    size = tuple(max(sizes) for sizes in zip(*(found.shape[2:] for found in maps), strict=True))
    return [resized(found.float(), size) for found in maps]


def _knows_its_classes(teacher: Any) -> bool:
    """Return True if the user need not state the classes of a member's columns."""
    kind = adapter_class(teacher)
    if kind is None or kind.members(teacher):
        return False
    return kind.knows_classes or (
        not kind.trains(teacher) and kind(teacher, None).column_classes() is not None
    )


def checked_weights(weights: Any, n_teachers: int) -> list[float]:
    """Check weights and scale them to sum to 1.

    Raises
    ------
    ValueError
        If there is not one number above 0 for each teacher.
    """
    if weights is None:
        return [1 / n_teachers] * n_teachers
    try:
        values = np.asarray(weights, dtype=float)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (n_teachers,) or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(
            f"TeacherEnsemble: weights={weights!r} must be one number above 0 for each of the {n_teachers} "
            "teachers. To give a teacher no weight, leave it out."
        )
    return (values / values.sum()).tolist()
