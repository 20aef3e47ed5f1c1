"""Indicator matrices as they are given to ``fit``: which of several labels each row has; refusals name y."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from sklearn_kd.tasks._labels import missing_among

# The type in which labels are held, one byte for each row and label.
CODE_TYPE = np.int8
_BINARIZER = "Make a matrix of 0 and 1 of lists of labels by sklearn.preprocessing.MultiLabelBinarizer"


def has_several_labels(y: Any) -> bool:
    """Return whether y means several labels for each row: a matrix of two columns or more, or lists.

    Rows that sum to 1 are no such matrix: they are probabilities of classes, or one-hot, which means classes
    that exclude each other. Their refusal says what to give.
    """
    if sparse.issparse(y):
        return True
    if _lists_of_labels(y) is not None:
        return True
    shape, values = _shape_and_values(y)
    if len(shape) != 2 or shape[1] < 2:
        return len(shape) > 2
    return not _sum_to_1(values)


def checked_indicators(y: Any, n_rows: int, name: str = "y", of: str = "X") -> np.ndarray:
    """Check a matrix of labels, and return it as a dense array of 0 and 1 of its own type.

    Parameters
    ----------
    y : array-like or sparse matrix of shape (n_rows, k)
        Of whole numbers, floats or booleans.
    n_rows : int
        Rows that they are the labels of.
    name, of : str
        What messages call the labels, and the rows.

    Raises
    ------
    ValueError
        If y has another shape, other numbers than 0 and 1, missing ones, or another number of rows; or if it
        is a list of lists or of sets of labels.
    """
    found = None if sparse.issparse(y) else _lists_of_labels(y)
    if found is not None:
        raise ValueError(f"{name} has {found}. {_BINARIZER}.")
    shape, values = _shape_and_values(y)
    if len(shape) == 1:
        raise ValueError(
            f"{name} has shape {shape}, one label per row, and y has several: {name} must be a matrix of 0 "
            f"and 1."
        )
    if len(shape) != 2 or shape[1] < 2:
        raise ValueError(
            f"{name} should be a 1d array, got an array of shape {shape} instead. Give one label per row of "
            f"{of}, in a dense array; or of several labels a matrix of 0 and 1 of shape ({n_rows}, k), k of "
            f"2 or more; or a map of integers for each image, shape ({n_rows}, height, width)."
        )
    if shape[0] != n_rows:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {[n_rows, shape[0]]}. {of} has "
            f"{n_rows} rows and {name} {shape[0]}; they must be as many. Give a row of labels for each row."
        )
    matrix = _numbers(values, name, of)
    _check_zeros_and_ones(matrix, name, of)
    return matrix


def refuse_one_hot(codes: np.ndarray) -> None:
    """Raise ValueError where every row has exactly one label, as classes that exclude each other have."""
    if len(codes) and (codes.sum(axis=1) == 1).all():
        raise ValueError(
            f"Every row of y has exactly one of {codes.shape[1]} labels: it is one-hot, and the labels are "
            "classes that exclude each other. Give the class of each row, "
            "np.asarray(y.argmax(axis=1)).ravel()."
        )


def _lists_of_labels(y: Any) -> str | None:
    """Return what the rows of y are, where they name their labels; None for other y."""
    is_sequence = isinstance(y, Sequence) and not isinstance(y, (str, bytes))
    is_of_objects = (
        len(getattr(y, "shape", ())) == 1 and getattr(getattr(y, "dtype", None), "kind", None) == "O"
    )
    first = next(iter(y), None) if is_sequence or is_of_objects else None
    if not (isinstance(first, (set, frozenset)) or _is_list(first)):
        return None
    rows = list(y)
    if any(isinstance(row, (set, frozenset)) for row in rows):
        return "sets of labels as rows"
    if not all(map(_is_list, rows)):
        return None
    lengths = {len(row) for row in rows}
    has_names = any(isinstance(label, str) for row in rows for label in row)
    if len(lengths) > 1:
        return "rows of differing lengths, as lists of labels have"
    if is_of_objects:  # a column of a frame: lists in it are no matrix, whatever they hold
        return "lists as rows (of lists of 0 and 1 make np.array(list(y)))"
    return "lists of labels as rows" if has_names and lengths != {1} else None


def _is_list(row: Any) -> bool:
    return isinstance(row, (list, tuple)) or (isinstance(row, np.ndarray) and row.ndim == 1)


def _shape_and_values(y: Any) -> tuple[tuple[int, ...], Any]:
    """Return the shape of y, and y as an array or as the sparse matrix that it is."""
    if sparse.issparse(y):
        return tuple(y.shape), y
    try:
        values = np.asarray(y)
    except ValueError:  # rows of differing lengths, which the check of one label per row explains
        return (), None
    return values.shape, values


def _sum_to_1(values: np.ndarray) -> bool:
    if values.dtype.kind not in "biuf" or not len(values):
        return False
    return bool((values >= 0).all() and np.allclose(values.sum(axis=1), 1))


def _numbers(values: Any, name: str, of: str) -> np.ndarray:
    """Return the matrix as a dense array of numbers or booleans."""
    matrix: np.ndarray = values.toarray() if sparse.issparse(values) else values
    missing = missing_among(matrix.ravel()).reshape(matrix.shape).any(axis=1)
    if missing.any():
        rows = np.flatnonzero(missing)
        raise ValueError(
            f"Input {name} contains NaN or None: labels are missing in {len(rows)} of {len(matrix)} rows, "
            f"such as row {rows[0]}. Leave these rows out of {of} and {name}, or give them all their labels."
        )
    if matrix.dtype.kind == "O":  # a frame with columns of several types
        try:
            matrix = matrix.astype(np.float64)
        except (TypeError, ValueError):
            return matrix
        return matrix.astype(np.int64) if (matrix == np.trunc(matrix)).all() else matrix
    return matrix


def _check_zeros_and_ones(matrix: np.ndarray, name: str, of: str) -> None:
    matrix = matrix if matrix.dtype.kind != "O" else matrix.astype(str)
    wrong = np.ones(matrix.shape, bool) if matrix.dtype.kind not in "biuf" else (matrix != 0) & (matrix != 1)
    if not wrong.any():
        return
    row, column = (int(place) for place in np.argwhere(wrong)[0])
    raise ValueError(
        f"{name} should be a 1d array, got an array of shape {matrix.shape} instead. Give one label per row "
        f"of {of}; or of several labels a matrix of 0 and 1, one column for each: row {row} has "
        f"{matrix[row, column].item()!r} in column {column}. {_BINARIZER}. Several outputs of more classes "
        "than two need a classifier each."
    )
