"""Check ``teacher_logits`` and align them with the rows of X and the classes of y.

Align columns and rows that have names by their names; refuse names that do not match.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_array
from torch import Tensor

from sklearn_kd.errors._context import error_context
from sklearn_kd.inputs._arrays import column_names, from_torch
from sklearn_kd.inputs._large_arrays import parts_of, shared_tensor
from sklearn_kd.layers._outputs import are_probabilities
from sklearn_kd.teachers._class_alignment import column_labels, select_columns
from sklearn_kd.teachers._conversion import warn_of_probabilities
from sklearn_kd.teachers._logit_checks import logarithms, refuse_wrong_numbers


class Given(NamedTuple):
    """Names of given logits and of the array of their rows in messages."""

    name: str
    of: str


def checked_logits(
    teacher_logits: Any,
    n_samples: int,
    classes: np.ndarray,
    *,
    stated: list[Any] | None = None,
    names: Any = None,
    name: str = "teacher_logits",
    of: str = "X",
    maps: bool = False,
) -> np.ndarray | None:
    """Return checked and aligned logits, shape (n_samples, n_classes); None for None.

    A float32 or float16 array whose columns are in order is returned itself, so that it may be a
    memory-mapped file. Otherwise the result is float32.

    Parameters
    ----------
    teacher_logits : array-like, DataFrame, Tensor or None
    n_samples : int
        Number of rows of X.
    classes : ndarray
        Classes of y, in the order of the columns to return.
    stated : list or None, default=None
        Classes of the columns, if the user states them.
    names : object, default=None
        X or y. Its pandas index, if it has one, names the rows.
    name, of : str
        Names of the logits and of the array of their rows in messages.
    maps : bool, default=False
        Whether the logits are maps, of shape (n_samples, n_classes, h, w).

    Raises
    ------
    ValueError
        If the shape is wrong, names do not match, or a row has NaN or +inf.
    """
    if teacher_logits is None:
        return None
    called = Given(name, of)
    columns, values = column_names(teacher_logits), numbers_in_order(teacher_logits, names, called)
    if maps and (values.ndim != 4 or len(values) != n_samples):
        raise ValueError(
            f"{name} must have shape (n_samples, n_classes, height, width) = ({n_samples}, {len(classes)}, "
            f"height, width), of any height and width, because y has a map for each image; got "
            f"{tuple(values.shape)}."
        )
    if not maps and (
        values.ndim != 2 or len(values) != n_samples or (values.shape[1] == 1 and len(classes) == 2)
    ):
        one_each = values.numel() == n_samples and len(classes) == 2
        remedy = " Turn one number z for each row, such as a decision function's, into np.c_[0 * z, z]."
        raise ValueError(
            f"{_shape_wanted(called, n_samples, classes)}; got {tuple(values.shape)}."
            f"{remedy if one_each else ''}"
        )
    if maps and columns is None and stated is None and values.shape[1] != len(classes):
        raise ValueError(
            f"{name} must have shape (n_samples, n_classes, height, width) with {len(classes)} classes, in "
            f"the order {classes.tolist()[:10]}; got {tuple(values.shape)}. Put the classes in front of "
            "height and width, or state those of other columns by teacher_classes."
        )
    places = _columns(called, columns, values.shape[1], n_samples, classes, stated)
    columns_of = None if np.array_equal(places, np.arange(values.shape[1])) else places
    if _check_numbers(values, columns_of, called):
        warn_of_probabilities(name, "Give what the network returns before its softmax")
        values = logarithms(values.float())
    return (values if columns_of is None else values[:, columns_of].float()).numpy()


def _check_numbers(values: Tensor, columns: np.ndarray | None, called: Given) -> bool:
    """Refuse wrong numbers in the columns in use; return whether the values are probabilities."""
    probabilities, n_checked = True, 0
    for part in parts_of(values):
        part = part.float()
        refuse_wrong_numbers(part if columns is None else part[:, columns], called.name, n_checked, called.of)
        probabilities = probabilities and are_probabilities(part)
        n_checked += len(part)
    return probabilities


def numbers_in_order(given: Any, names: Any, called: Given) -> Tensor:
    """Return given logits as a tensor, in the order of the index of ``names`` if both have one."""
    index = getattr(names, "index", None)
    rows = in_order(given, index, called) if hasattr(index, "equals") else given
    return _numbers(rows, called.name)


def _numbers(given: Any, name: str) -> Tensor:
    with error_context(name):
        array = check_array(
            from_torch(given, name),
            dtype=[np.float32, np.float16],
            input_name=name,
            ensure_all_finite=False,
            ensure_2d=False,  # scikit-learn would advise a reshape, which is wrong for labels
            allow_nd=True,
        )
    return shared_tensor(np.ascontiguousarray(array))


def _shape_wanted(called: Given, n_samples: int, classes: np.ndarray) -> str:
    return (
        f"{called.name} must have shape (n_samples, n_classes) = ({n_samples}, {len(classes)}), "
        f"one row per row of {called.of} and one column per class in the order {classes.tolist()[:10]}"
    )


# --------------------------------------------------------------------------------------
# Columns


def _columns(
    called: Given,
    names: list[Any] | None,
    n_columns: int,
    n_samples: int,
    classes: np.ndarray,
    stated: list[Any] | None,
) -> np.ndarray:
    """Return the column of each class: by name, by ``teacher_classes``, or in order."""
    known = None if names is None else _classes_named(called, names, classes, stated)
    known = stated if known is None else known
    known = column_labels(n_columns, known, stated, called.name)
    if known is not None:
        return select_columns(known, classes)
    if n_columns != len(classes):
        raise ValueError(
            f"{_shape_wanted(called, n_samples, classes)}; got {(n_samples, n_columns)}. Columns of other "
            "classes are accepted if all are named: by teacher_classes, or as the columns of a DataFrame."
        )
    return np.arange(n_columns)


def _classes_named(
    called: Given, names: list[Any], classes: np.ndarray, stated: list[Any] | None
) -> list[Any] | None:
    """Return the class of each named column; None if no name is a class and the user states the classes."""
    labels = classes.tolist()
    if len(set(names)) < len(names):
        raise ValueError(f"{called.name} has several columns of one name: {names[:10]}.")
    if set(labels) <= set(names):
        return names
    by_text = {str(label): label for label in (labels if stated is None else stated)}
    if len(by_text) >= len(labels) and {str(label) for label in labels} <= set(names):
        return [by_text.get(name, name) for name in names]
    if stated is not None and not set(by_text) & {str(name) for name in names}:
        return None
    raise ValueError(
        f"{called.name} has the columns {names[:10]}, but y has the classes {labels[:10]}. Name every column "
        f"by its label, or give {called.name}.to_numpy() if they are in sorted order of the labels."
    )


# --------------------------------------------------------------------------------------
# Rows


def in_order(given: Any, index: Any, called: Given) -> Any:
    """Return the rows in the order of the index of X, if they have an index of their own."""
    own: Any = getattr(given, "index", None)
    if not hasattr(own, "equals") or not hasattr(given, "loc") or own.equals(index) or len(own) != len(index):
        return given
    by_default = type(own).__name__ == "RangeIndex" and own.tolist() == list(range(len(own)))
    same = own.is_unique and index.is_unique and not len(own.symmetric_difference(index))
    if same and not by_default:
        return given.loc[index]
    if by_default and not same:
        return given  # a default index names no rows
    positions = own.dtype.kind in "iu" and own.is_monotonic_increasing and own.is_unique
    if positions and index.dtype.kind not in "iu":
        return given  # part of a default index, as in a fold
    name, of = called
    what = (
        f"the default index, but {of} has the same numbers in another order"
        if same
        else f"another index than {of}"
    )
    raise ValueError(
        f"{name} has {what}: {own[:5].tolist()} … and {index[:5].tolist()} …. Give it the index of "
        f"{of}, or {name}.to_numpy() if row i belongs to row i of {of}."
    )
