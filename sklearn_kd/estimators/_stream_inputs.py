"""Check a stream given to ``fit``: read its first rows, and refuse what needs all rows at once."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from sklearn_kd.estimators._parallel import ranks_of
from sklearn_kd.estimators._preflight import validate
from sklearn_kd.estimators._routed_parameters import loader_settings
from sklearn_kd.inputs._arrays import from_torch
from sklearn_kd.inputs._parts import are_integers
from sklearn_kd.inputs._stream_data import BoundStream
from sklearn_kd.inputs._streams import Stream, labels_of, read_head
from sklearn_kd.inputs._validation import Continued, ValidatedInputs
from sklearn_kd.meta import Strategy
from sklearn_kd.tasks._task import TaskMaker

if TYPE_CHECKING:
    from sklearn_kd.estimators._base import BaseDistiller


def validate_rows_or_stream(
    estimator: BaseDistiller,
    X: Any,
    y: Any = None,
    sample_weight: Any = None,
    X_val: Any = None,
    y_val: Any = None,
    teacher_logits: Any = None,
    X_unlabeled: Any = None,
    teacher_logits_unlabeled: Any = None,
    *,
    sample_weight_val: Any = None,
    groups: Any = None,
    continued: Continued | None = None,
) -> ValidatedInputs:
    """Check everything that ``fit`` was given, as :func:`validate` does; X may be a :class:`Stream`.

    The arguments are those of :func:`validate`.

    Raises
    ------
    ValueError
        If something given with a stream needs all its rows at once, or its items cannot be used.
    """
    answers = teacher_logits, X_unlabeled, teacher_logits_unlabeled
    further = {"sample_weight_val": sample_weight_val, "continued": continued}
    if not isinstance(X, Stream):
        given = X, y, sample_weight, X_val, y_val, *answers
        return validate(estimator, *given, groups=groups, **further)
    of_rows = {"y": y, "sample_weight": sample_weight, "groups": groups}
    _check_beside(estimator, of_rows | {"teacher_logits": teacher_logits, "X_unlabeled": X_unlabeled})
    loader = loader_settings(estimator, "iterator_train", X.n_rows)
    ranks = ranks_of(estimator)  # the dataset may give each rank other rows
    head = ranks.broadcast(read_head(X, loader.get("collate_fn")) if ranks.is_first else None)
    task_type = StatedClasses(estimator._task_type, _classes_of(X, X_val, y_val))
    given = head.x, head.labels, None, X_val, y_val, *answers
    inputs = validate(estimator, *given, **further, task_type=task_type)

    bound = BoundStream(
        X, partial(_encoded, inputs.task), inputs.sample_shape, are_integers(inputs.sample_shape)
    )
    return dataclasses.replace(inputs, stream=bound)


class StatedClasses:
    """Make the task of stated classes; the labels at hand may be only some of them.

    Parameters
    ----------
    maker : TaskMaker
    classes : ndarray
    """

    def __init__(self, maker: TaskMaker, classes: np.ndarray) -> None:
        self._maker, self._classes = maker, classes

    def check_targets(self, y: Any, n_rows: int, name: str = "y", of: str = "X") -> np.ndarray:
        """Check the labels at hand."""
        return self._maker.check_targets(y, n_rows, name, of)

    def from_targets(self, targets: np.ndarray, weight: np.ndarray | None = None) -> tuple[Any, np.ndarray]:
        """Make the task of the stated classes; return it and the encoded labels."""
        task, _ = self._maker.from_targets(self._classes)
        return task, _encoded(task, targets)


def _encoded(task: Any, labels: np.ndarray) -> np.ndarray:
    """Return the codes of labels; refuse those that are not among the classes."""
    unknown = np.setdiff1d(labels, task.classes)
    if len(unknown):
        raise ValueError(
            f"X gives labels that are not among the classes of the Stream: {unknown[:5].tolist()}. These are "
            f"{task.classes.tolist()[:10]}. Give Stream(..., classes=...), all labels."
        )
    return task.encode(labels)


def _classes_of(stream: Stream, X_val: Any, y_val: Any) -> np.ndarray:
    if stream.classes is not None:
        return np.unique(np.asarray(stream.classes))
    if y_val is not None:
        return np.unique(labels_of(np.asarray(from_torch(y_val, "y_val"))))
    raise ValueError(
        "X is a stream, whose labels are not known in advance. Give Stream(..., classes=...), all of them"
        f"{'' if X_val is None else ', or the labels of X_val as y_val'}."
    )


# --------------------------------------------------------------------------------------
# Arguments that need all rows


def _check_beside(estimator: Any, given: dict[str, Any]) -> None:
    """Refuse arguments and parameters that describe each row or need all of them."""
    for name, mend in (
        ("y", "Make (x, label) the items of the stream"),
        ("sample_weight", "Repeat rows in the stream as often as they should count"),
        ("teacher_logits", "Give a trained teacher, or sklearn_kd.teachers.StoredAnswers of it"),
        ("X_unlabeled", "Give all rows labels"),
        ("groups", "Give X_val and y_val, of other groups"),
    ):
        if given.get(name) is not None:
            raise ValueError(f"{name} with a stream, whose rows are not known in advance. {mend}.")
    for name, mend in (
        ("class_weight", "Repeat rows of some classes in the stream"),
        ("synthesize", "Make the mixtures in the stream"),
        ("student_preprocessing", "Convert the rows to numbers in the stream"),
        ("teacher_logits_dir", "Give sklearn_kd.teachers.StoredAnswers(teacher, folder) as teacher"),
    ):
        if getattr(estimator, name, None) is not None:
            raise ValueError(
                f"{name}={getattr(estimator, name)!r} with a stream, whose rows it would need all at once. "
                f"{mend}, and set {name}=None."
            )
    if getattr(estimator, "soft_validation", False):
        raise ValueError(
            "soft_validation=True with a stream, to which no unlabeled rows can be added. Set "
            "soft_validation=False."
        )
    for name in ("shuffle", "sampler"):
        if name in estimator._routed("iterator_train"):
            raise ValueError(
                f"iterator_train__{name} with a stream, whose rows come in its own order. Shuffle them in "
                "the dataset."
            )


def check_has_val(estimator: BaseDistiller, strategy: Strategy, inputs: ValidatedInputs) -> None:
    """Refuse a strategy that learns from D_val if X is a stream and no D_val is given."""
    if inputs.stream is not None and strategy.learns_from_validation and inputs.valid is None:
        raise ValueError(
            f"meta={estimator.meta!r} learns from D_val, which cannot be held out of a stream. Give X_val "
            "and y_val, rows that are not in the stream, or a meta that does not learn from D_val, such as "
            "'naive'."
        )


def as_it_is(x: Tensor) -> Tensor:
    """Return a batch unchanged: the ``augment`` of a stream whose teacher is asked about each batch."""
    return x


def asked_by_batch(augment: Any, teacher: Any, inputs: ValidatedInputs) -> Any:
    """Return ``augment``; for a stream with a teacher and no ``augment``, one that changes nothing."""
    needs_asking = inputs.stream is not None and augment is None and teacher is not None
    return as_it_is if needs_asking else augment
