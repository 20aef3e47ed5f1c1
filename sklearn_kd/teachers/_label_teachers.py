"""Adapters of teachers of several labels, which answer with one column for each label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from sklearn.utils import get_tags
from torch import Tensor, nn

from sklearn_kd.inputs._arrays import from_torch
from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.inputs._structures import some_rows
from sklearn_kd.teachers._adapter import BatchTeacherAdapter, TeacherAdapter
from sklearn_kd.teachers._class_probabilities import require_scores
from sklearn_kd.teachers._classifiers import ClassifierTeacher, FrozenTeacher
from sklearn_kd.teachers._functions import FunctionTeacherAdapter
from sklearn_kd.teachers._label_logits import (
    LabelConversion,
    advice_about_lists,
    are_label_probabilities,
    check_n_labels,
    log_odds,
)
from sklearn_kd.teachers._logit_checks import name_of, thawed
from sklearn_kd.teachers._margins import gives_margins, say_that_margins_are_used
from sklearn_kd.teachers._networks import ModuleTeacher, SkorchTeacher
from sklearn_kd.teachers._registry import adapter_class, is_of_library, wrap_teacher
from sklearn_kd.teachers._zeros import Floor, floor_of_all_rows

_LEAVE_SIGMOID_OUT = "Have the network return logits: leave its sigmoid out"


def takes_several_labels(teacher: Any) -> bool:
    """Return False if a teacher's tags say that it cannot learn several labels, else True."""
    if isinstance(teacher, type) or not hasattr(teacher, "__sklearn_tags__"):
        return True
    try:
        tags = get_tags(teacher)
    except AttributeError:  # a network inside a FrozenEstimator has none
        return True
    own = tags.classifier_tags
    return own is None or own.multi_label or tags.target_tags.multi_output


def make_label_teacher(
    teacher: Any,
    teacher_classes: list[Any] | None = None,
    fit_parameters: Mapping[str, Any] | None = None,
) -> TeacherAdapter:
    """Wrap a teacher of several labels in an adapter, which checks it.

    Raises
    ------
    TypeError
        If no adapter is registered for its class, or its ``fit`` takes no such parameters.
    ValueError
        If teachers of its kind answer about only one label per row, or the adapter refuses it.
    """
    adapter = adapter_class(teacher)
    if adapter is None:
        return wrap_teacher(teacher, teacher_classes)  # which says what a teacher can be
    wrapped = _for_labels(adapter, teacher)(teacher, None)
    wrapped.take_fit_parameters(fit_parameters or {})
    return wrapped


def _for_labels(adapter: type[TeacherAdapter], teacher: Any) -> type[TeacherAdapter]:
    """Return the adapter for several labels that corresponds to an adapter for one."""
    for kind, own in _OF_LIBRARY.items():
        if issubclass(adapter, kind):
            return own
    if is_of_library(adapter) or not _leaves_conversion(adapter):
        raise ValueError(
            f"{name_of(teacher)} cannot be asked about several labels. Teachers of several labels are "
            "scikit-learn classifiers that are fitted on a matrix of 0 and 1, networks and skorch nets with "
            "a logit for each label, and functions of X that return such logits. Give a function that asks "
            "it, or its answers to fit as teacher_logits."
        )
    made: type[TeacherAdapter] = type(f"{adapter.__name__}OfLabels", (_ConvertsLabels, adapter), {})
    return made


def _leaves_conversion(adapter: type[TeacherAdapter]) -> bool:
    """Return True if a user's adapter leaves the conversion of its answers to the library."""
    base = BatchTeacherAdapter if issubclass(adapter, BatchTeacherAdapter) else TeacherAdapter
    return all(
        getattr(adapter, name, None) is getattr(base, name, None)
        for name in ("iter_logits", "on", "_conversion")
    )


# --------------------------------------------------------------------------------------
# Networks and functions


class _ConvertsLabels:
    """Mixin for adapters whose answers are logits or probabilities of labels."""

    name: str
    _floor: Any
    _own_classes: Callable[[], Any]

    def _conversion(self, values: Tensor, classes: np.ndarray) -> Any:
        own = self._own_classes()
        if own is not None and [str(label) for label in own] != [str(label) for label in classes]:
            raise ValueError(
                f"{self.name} states classes of its columns, {list(own)[:10]}, but y has several labels, "
                "which have no names here. Leave the classes out, and have it answer with a column for each "
                "label, in the order of the columns of y."
            )
        return LabelConversion.of(values, len(classes), self.name, self._remedy(), self._floor)

    def _remedy(self) -> str | None:
        """Return the advice in the warning about probabilities. None: do not warn."""
        advice: str | None = getattr(self, "_no_probabilities")  # noqa: B009
        return advice


class LabelModuleTeacher(_ConvertsLabels, ModuleTeacher):
    """Adapter of a trained module that returns a logit for each label."""

    def _remedy(self) -> str:
        return _LEAVE_SIGMOID_OUT


class LabelSkorchTeacher(_ConvertsLabels, SkorchTeacher):
    """Adapter of a fitted skorch net, whose module returns a logit for each label."""

    def _own_classes(self) -> None:
        """Return None: a net that was fitted on a matrix has the ``classes_`` 0 and 1."""

    def _remedy(self) -> str | None:
        has_sigmoid = isinstance(getattr(self.teacher, "criterion_", None), nn.BCEWithLogitsLoss)
        return _LEAVE_SIGMOID_OUT if has_sigmoid else None

    def _of_probabilities(self, probabilities: Any) -> Tensor:
        checked = _checked_probabilities(probabilities, np.shape(probabilities)[-1], self.name)
        return log_odds(checked, self._floor)


class LabelFunctionTeacher(_ConvertsLabels, FunctionTeacherAdapter):
    """Adapter of a function of X that returns logits or probabilities of labels."""

    def _checked_shape(self, output: Any, n_rows: int) -> Tensor:
        shape = (len(output), *np.shape(output[0])) if isinstance(output, list) and output else ()
        if advice := advice_about_lists(shape, n_rows):
            raise ValueError(f"{self.name} returns a list of arrays.{advice}")
        return super()._checked_shape(output, n_rows)


# --------------------------------------------------------------------------------------
# Classifiers of scikit-learn


class LabelClassifierTeacher(ClassifierTeacher):
    """Adapter of a classifier; a clone of it is fitted on D_train's matrix of labels."""

    def fit(
        self, X: Any, y: np.ndarray, *, sample_weight: np.ndarray | None, rng: np.random.RandomState
    ) -> None:
        try:
            super().fit(X, y, sample_weight=sample_weight, rng=rng)
        except (ValueError, TypeError, NotImplementedError) as error:
            if not takes_several_labels(self.teacher):
                raise ValueError(
                    f"{self.name} learns one label per row, and y has {y.shape[1]} labels. Give "
                    "sklearn.multioutput.MultiOutputClassifier of it, which trains one for each label, or a "
                    f"classifier that can be fitted on a matrix of 0 and 1. Its error: {error}"
                ) from error
            constant = np.flatnonzero((y == y[:1]).all(axis=0))
            if not len(constant):
                raise
            raise ValueError(
                f"{self.name} cannot be fitted on your training rows (D_train), in which label "
                f"{constant[0]} of y is the same in all rows. Leave such labels out of y, or give "
                "a teacher that takes them, such as a forest. "
                f"Its error: {error}"
            ) from error

    @staticmethod
    def _trained(classifier: Any, fit: Any, y: np.ndarray, needs_codes: bool = False) -> tuple[Any, Any]:
        fit(classifier, y, None)
        return classifier, None

    def iter_logits(
        self, X: Any, data: DistillationData, classes: np.ndarray, batch_size: int
    ) -> Iterator[Tensor]:
        yield label_logits_of(self.teacher, X, len(data), len(classes), self._floor).to(data.device)


class FrozenLabelTeacher(FrozenTeacher):
    """Adapter of a classifier that comes fitted on a matrix of labels."""

    def _check_classes(self) -> None:
        """Check nothing, because labels have no names."""

    def iter_logits(
        self, X: Any, data: DistillationData, classes: np.ndarray, batch_size: int
    ) -> Iterator[Tensor]:
        check_predicts_labels(self.fitted, X, len(classes))
        yield label_logits_of(self.fitted, X, len(data), len(classes), self._floor).to(data.device)


_OF_LIBRARY: dict[type[TeacherAdapter], type[TeacherAdapter]] = {
    FrozenTeacher: FrozenLabelTeacher,
    ClassifierTeacher: LabelClassifierTeacher,
    ModuleTeacher: LabelModuleTeacher,
    SkorchTeacher: LabelSkorchTeacher,
    FunctionTeacherAdapter: LabelFunctionTeacher,
}


def label_logits_of(
    classifier: Any, X: Any, n_samples: int, n_labels: int, floor: Floor = floor_of_all_rows
) -> Tensor:
    """Return a fitted classifier's log odds of each label, or its margins if it has no probabilities.

    Parameters
    ----------
    classifier : estimator
        Its ``predict_proba`` returns an array of shape (n_samples, k), or a list of k arrays of shape
        (n_samples, 2).
    X : array-like
    n_samples, n_labels : int
        Number of rows of X, and k.
    floor : callable
        Replacement of probabilities of 0 and 1.

    Raises
    ------
    ValueError
        If it returns anything else, or answers about another number of labels.
    """
    who, inner = name_of(classifier), thawed(classifier)
    require_scores(inner)
    if hasattr(inner, "predict_proba") or not gives_margins(inner):
        return log_odds(label_probabilities_of(classifier, X, n_samples, n_labels), floor)
    margins = np.asarray(from_torch(classifier.decision_function(X), "decision_function"), dtype=np.float32)
    _check_shape(margins, n_samples, n_labels, who, "decision_function")
    say_that_margins_are_used(who)
    return torch.as_tensor(margins)


def label_probabilities_of(classifier: Any, X: Any, n_samples: int, n_labels: int) -> np.ndarray:
    """Return a fitted classifier's probability of each label, float64 of shape (n_samples, k).

    Raises
    ------
    ValueError
        If ``predict_proba`` returns anything else, or answers about another number of labels.
    """
    who, found = name_of(classifier), classifier.predict_proba(X)
    if isinstance(found, (list, tuple)):
        found = _of_each_label(found, getattr(thawed(classifier), "classes_", None), n_labels, who)
    probabilities = np.asarray(from_torch(found, "predict_proba"), dtype=np.float64)
    _check_shape(probabilities, n_samples, n_labels, who, "predict_proba")
    return _checked_probabilities(probabilities, n_labels, who)


def _of_each_label(found: Any, classes: Any, n_labels: int, who: str) -> np.ndarray:
    """Return each label's probability of 1, shape (n, k), from a list with an array for each label."""
    check_n_labels(len(found), n_labels, who)
    known = classes if isinstance(classes, (list, tuple)) and len(classes) == n_labels else [None] * n_labels
    return np.column_stack([_of_one(part, own, who) for part, own in zip(found, known, strict=True)])


def _of_one(part: Any, classes: Any, who: str) -> np.ndarray:
    """Return the probability of 1 for one label, whose classes are 0 and 1, or one of them."""
    values = np.asarray(from_torch(part, "predict_proba"))
    own = [0, 1] if classes is None else np.asarray(classes).ravel().tolist()
    are_codes = all(isinstance(label, (bool, int, float)) and label in (0, 1) for label in own)
    if values.ndim != 2 or values.shape[1] != len(own) or not are_codes:
        raise ValueError(
            f"{who}: predict_proba gives a list with an array of shape {values.shape} for the classes {own} "
            "of a label; each label must have the classes 0 and 1, and a column for each. Fit it on a matrix "
            "of 0 and 1."
        )
    if 1 not in own:
        return np.zeros(len(values))
    found: np.ndarray = values[:, own.index(1)]
    return found


def _check_shape(values: np.ndarray, n_samples: int, n_labels: int, who: str, source: str) -> None:
    if values.ndim == 2 and len(values) == n_samples:
        check_n_labels(values.shape[1], n_labels, who)
        return
    raise ValueError(
        f"{who}: {source} must return an array with a column for each label of y, shape ({n_samples}, "
        f"{n_labels}), or a list with an array for each label; it returned shape {values.shape}. Give its "
        "answers to fit as teacher_logits."
    )


def _checked_probabilities(probabilities: Any, n_labels: int, who: str) -> np.ndarray:
    values = np.asarray(probabilities, dtype=np.float64)
    if not are_label_probabilities(torch.as_tensor(values)):
        raise ValueError(
            f"{who}: predict_proba must give the probability of each of {n_labels} labels, between 0 and 1; "
            f"it gives numbers from {values.min():.3g} to {values.max():.3g}."
        )
    return values


def check_predicts_labels(classifier: Any, X: Any, n_labels: int) -> None:
    """Refuse a classifier fitted on one label per row, whose probabilities may also have k columns."""
    predicted = classifier.predict(some_rows(X, np.arange(1)))
    shape = tuple(getattr(predicted, "shape", np.shape(predicted)))
    if len(shape) != 2:
        raise ValueError(
            f"{name_of(classifier)} predicts one label per row, and y has {n_labels} labels. Give one that "
            "was fitted on a matrix of 0 and 1 with the labels of y."
        )
    check_n_labels(shape[1], n_labels, name_of(classifier))
