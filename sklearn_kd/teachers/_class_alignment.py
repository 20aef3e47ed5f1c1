"""Align the columns of a teacher's logits with the classes of y, by one rule for all teachers.

If the classes of the columns are known, from the teacher's ``classes_`` or from ``teacher_classes``, they
align the columns. If the labels are exactly 0 … K−1 and there are K columns, column j is class j. Anything
else is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import gammaln, rel_entr
from torch import Tensor

from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.tasks._pixels import images_at_a_time, known_rows

# Agreement of teacher and labels, from 0 for chance to 1. Warn if it is at most the first number in the
# given order of columns and at least the second in the best order.
_AT_CHANCE, _FAR_ABOVE = 0.15, 0.5
# With more classes the search for the best order takes too long.
_MOST_CLASSES = 2000
# log(10**6): the probability that chance finds such an order must be below one in a million.
_LOG_ODDS = 14.0
# The label that stands for unknown pixels in many maps.
_USUAL_UNKNOWN = 255


def checked_teacher_classes(teacher_classes: Any, classes: np.ndarray) -> list[Any] | None:
    """Check ``teacher_classes`` and return them as a list; None for None.

    Raises
    ------
    ValueError
        If a class is stated twice, or a class of y is missing.
    TypeError
        If they are not a list, or have no order, as in a set.
    """
    stated = ordered_classes(teacher_classes, "teacher_classes")
    if stated is None:
        return None
    missing = [label for label in classes.tolist() if label not in set(stated)]
    if missing:
        raise ValueError(
            f"teacher_classes lacks the class(es) {missing[:5]} of y; it has {_some(stated)}"
            f"{_types(stated, missing)}. State the label of every column, as it is in y."
            f"{_likely_unknown(missing)}"
        )
    return stated


def ordered_classes(given: Any, name: str) -> list[Any] | None:
    """Return the classes of columns as a list; None for None.

    Parameters
    ----------
    given : array-like or None
    name : str
        Name of the argument in messages.

    Raises
    ------
    ValueError
        If there is more than one list, or a class is stated twice.
    TypeError
        If they are not a list, or have no order, as in a set.
    """
    if given is None:
        return None
    if isinstance(given, (str, bytes)) or not hasattr(given, "__len__"):
        raise TypeError(
            f"{name}={given!r} must be a list with the class of each column of the teacher's answers."
        )
    if isinstance(given, (set, frozenset, Mapping)):
        raise TypeError(
            f"{name} is a {type(given).__name__}, which has no order. Give a list with the class of each "
            "column of the teacher's answers."
        )
    stated = _as_list(given)
    if any(isinstance(label, (list, tuple, set, dict)) for label in stated):
        raise ValueError(f"{name} must be one list of labels, one per column, not lists of lists.")
    twice = sorted({str(label) for label in stated if stated.count(label) > 1})
    if twice:
        raise ValueError(f"{name} has the class(es) {', '.join(twice[:5])} more than once.")
    return stated


def column_labels(n_columns: int, own: Any, stated: list[Any] | None, who: str) -> list[Any] | None:
    """Return the class of each column as stated by the teacher or the user; None if neither states it.

    Parameters
    ----------
    n_columns : int
    own : array-like or None
        Classes of the columns that the teacher knows.
    stated : list or None
        Classes of the columns that the user states.
    who : str
        Name of the teacher in messages.

    Raises
    ------
    ValueError
        If the two contradict each other, or their number differs from that of the columns.
    """
    own = ordered_classes(own, f"classes_ of {who}")
    if own is not None and stated is not None and own != stated:
        raise ValueError(
            f"teacher_classes={_some(stated)} contradicts {who}, whose classes_ are {_some(own)}. Leave "
            "teacher_classes=None, or correct the one that is wrong."
        )
    known, name = (own, f"classes_ of {who}") if stated is None else (stated, "teacher_classes")
    if known is not None and len(known) != n_columns:
        raise ValueError(
            f"{name} has {len(known)} classes, {_some(known)}, but there are {n_columns} columns in the "
            f"answers of {who}. State one class per column, in the order of the columns."
        )
    return known


def align_columns(
    n_columns: int, *, own: Any, stated: list[Any] | None, classes: np.ndarray, who: str
) -> np.ndarray:
    """Return the column of each class of y, by the rule of this module.

    Parameters
    ----------
    n_columns, own, stated, who
        As for :func:`column_labels`.
    classes : ndarray of shape (K,)
        Classes of y.

    Returns
    -------
    ndarray of shape (K,)

    Raises
    ------
    ValueError
        If it is not known which column is which class. The message says how to state it.
    """
    known = column_labels(n_columns, own, stated, who)
    if known is not None:
        return select_columns(
            known, classes, f"State the class of each of {who}'s columns by teacher_classes"
        )
    labels = classes.tolist()
    if n_columns == len(labels) and labels == list(range(n_columns)):
        return np.arange(n_columns)
    if n_columns == 1:
        raise ValueError(
            f"{who} gives 1 column, but each class needs its own. Wrap a network with one output z for two "
            "classes in a module that returns torch.cat([torch.zeros_like(z), z], dim=1). Have a function "
            "return np.hstack([0 * z, z]), or np.hstack([1 - p, p]) for probabilities p."
        )
    if n_columns < len(labels):
        raise ValueError(
            f"{who} gives {n_columns} columns and does not know all of the {len(labels)} classes of y, "
            f"{_some(labels)}. Give one that was trained on all of them, or only rows of its classes."
            f"{_likely_unknown(labels)}"
        )
    raise ValueError(
        f"{who} gives {n_columns} columns, and y has {len(labels)} classes, {_some(labels)}: which column is "
        "which class is not known. Column j is class j only if the labels are exactly 0 to K−1 and there are "
        "K columns. State the class of each column by teacher_classes, "
        f"{_example(labels, n_columns)}, or by an attribute of the teacher: "
        f"classes_ of a network, classes of a function.{_likely_unknown(labels)}"
    )


def select_columns(
    known: Any, wanted: np.ndarray, advice: str = "Train it on the same classes"
) -> np.ndarray:
    """Return the position of each wanted class among the known classes.

    ``advice`` becomes part of the message if a class is missing.

    Raises
    ------
    ValueError
        If a wanted class is not known.
    """
    known = _as_list(known)
    place = {label: column for column, label in enumerate(known)}
    missing = [label for label in wanted.tolist() if label not in place]
    if missing:
        raise ValueError(
            f"The teacher does not know the class(es) {missing[:5]} of y; it knows "
            f"{known[:10]} ({len(place)} in all){_types(known, missing)}. {advice}, or give teacher_logits "
            f"with one column per class of y, in sorted order.{_likely_unknown(missing)}"
        )
    return np.array([place[label] for label in wanted.tolist()])


def _likely_unknown(labels: list[Any]) -> str:
    """Return a sentence about 255 if it may stand for unknown pixels, as in many maps; else ""."""
    others = [label for label in labels if label != _USUAL_UNKNOWN]
    numbers = all(isinstance(label, int) for label in labels)
    if not numbers or len(others) == len(labels) or max(others, default=0) >= _USUAL_UNKNOWN - 1:
        return ""
    return f" If {_USUAL_UNKNOWN} is the label of unknown pixels of maps, set ignore_index={_USUAL_UNKNOWN}."


def refuse_stated_classes(stated: list[Any] | None, teacher: Any) -> None:
    """Raise ValueError if ``teacher_classes`` differs from the ``classes_`` of a scikit-learn teacher."""
    if stated is None:
        return
    who, own = f"teacher {type(teacher).__name__}", getattr(teacher, "classes_", None)
    if own is None:
        raise ValueError(
            f"teacher_classes states the columns of networks and of teacher_logits; {who} will know its own "
            "classes once it is fitted. Leave teacher_classes=None."
        )
    column_labels(len(own), own, stated, who)


def _as_list(labels: Any) -> list[Any]:
    return labels.tolist() if hasattr(labels, "tolist") else list(labels)


def _some(labels: list[Any]) -> str:
    return f"{labels[:10]}{' …' if len(labels) > 10 else ''}"


def _types(known: list[Any], missing: list[Any]) -> str:
    """Return a hint if the labels differ only by their types."""
    types = {type(label).__name__ for label in known}, {type(label).__name__ for label in missing}
    if {str(label) for label in missing} <= {str(label) for label in known} and types[0] != types[1]:
        return f", of type {'/'.join(sorted(types[0]))} where y has {'/'.join(sorted(types[1]))}"
    return ""


def _example(labels: list[Any], n_columns: int) -> str:
    whole = all(isinstance(label, int) and not isinstance(label, bool) for label in labels)
    if whole and n_columns > max(labels) and min(labels) >= 0:
        return f"such as teacher_classes=np.arange({n_columns}) where column j is label j"
    if n_columns == len(labels):
        return "such as teacher_classes=np.unique(y) where the columns are in sorted order of the labels"
    return f"a list of {n_columns} labels in the order of the columns"


# --------------------------------------------------------------------------------------
# Comparison with the labels


def warn_if_out_of_order(train: DistillationData, classes: np.ndarray, who: str) -> None:
    """Warn if a teacher is no better than chance but would be far better with its columns reordered.

    Parameters
    ----------
    train : DistillationData
        D_train, with the teacher's logits.
    classes : ndarray of shape (K,)
    who : str
        Name of the teacher in the message.
    """
    n_classes = len(classes)
    if n_classes > _MOST_CLASSES:
        return
    if train.map_shape:
        codes, said, weights = _of_some_pixels(train)
    else:
        codes, weight = train.y.cpu().numpy(), train.weight
        said = np.concatenate([_columns_said(part) for part in train.iter_teacher_logits()])
        weights = None if weight is None else weight.cpu().numpy().astype(float)
    pairs = codes * n_classes
    pairs += said
    joint = np.bincount(pairs, weights, minlength=n_classes**2).reshape(n_classes, n_classes)
    joint = joint / joint.sum()
    by_label, by_column = joint.sum(axis=1), joint.sum(axis=0)
    now, chance = np.trace(joint), by_label @ by_column
    if _above(now, chance) > _AT_CHANCE:
        return
    labels, columns = linear_sum_assignment(joint, maximize=True)
    best, best_chance = joint[labels, columns].sum(), by_label[labels] @ by_column[columns]
    # The effective number of rows.
    n_rows = len(codes) if weights is None else weights.sum() ** 2 / (weights**2).sum()
    surprise = n_rows * _divergence(best, max(chance, best_chance))
    if _above(best, best_chance) >= _FAR_ABOVE and surprise > gammaln(n_classes + 1) + _LOG_ODDS:
        class_of = labels[np.argsort(columns)]
        warnings.warn(_order_message(now, chance, best, class_of, classes, who), UserWarning, stacklevel=2)


def _columns_said(logits: Tensor) -> np.ndarray:
    """Return the column of the largest logit of each row."""
    # NumPy's argmax takes a tenth of the time of torch's.
    said: np.ndarray = logits.cpu().numpy().argmax(axis=1).astype(np.int16)
    return said


def _of_some_pixels(train: DistillationData) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the codes of known pixels in some images, the teacher's columns for them, and their weights."""
    targets = train.first_targets(images_at_a_time(train.shape[1:], len(train)))
    assert targets.teacher_logits is not None
    logits, (labels, _, weight, _) = known_rows(targets.teacher_logits, targets)
    weights = None if weight is None else weight.cpu().numpy().astype(float)
    return labels.cpu().numpy(), _columns_said(logits), weights


def _above(agreement: float, chance: float) -> float:
    return (agreement - chance) / max(1 - chance, 1e-12)


def _divergence(p: float, q: float) -> float:
    """Return the Kullback-Leibler divergence of Bernoulli(p) from Bernoulli(q); 0 if p is not above q."""
    return rel_entr(p, q) + rel_entr(1 - p, 1 - q) if p > q else 0.0


def _order_message(
    now: float, chance: float, best: float, class_of: np.ndarray, classes: np.ndarray, who: str
) -> str:
    n_classes = len(classes)
    shift = (np.arange(n_classes) - class_of) % n_classes
    how = f"shifted by {shift[0]}" if (shift == shift[0]).all() and n_classes > 2 else "in another order"
    order = f"{classes[class_of].tolist()}" if n_classes <= 20 else "[...]"
    return (
        f"{who} agrees with the labels of {now:.1%} of D_train, where chance gives {chance:.1%}; with its "
        f"columns {how} it would agree with {best:.1%}. If the columns are not the classes "
        f"{_some(classes.tolist())} in this order, state the class of each column, which seem to be {order}: "
        "by teacher_classes for a network or teacher_logits. Any other teacher must be trained on the labels "
        "of y."
    )
