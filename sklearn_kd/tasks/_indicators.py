"""Check indicator matrices given to ``fit``: which of several labels each row has. Errors name y."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from sklearn_kd.tasks._labels import missing_among

# Type of the labels, one byte for each row and label.
CODE_TYPE = np.int8
_BINARIZER = "Turn lists of labels into a matrix of 0 and 1 by sklearn.preprocessing.MultiLabelBinarizer"


def has_several_labels(y: Any) -> bool:
    """Return whether y means several labels for each row: a matrix of two columns or more, or lists.

    A matrix whose rows sum to 1 does not: it holds probabilities or is one-hot, so its classes exclude each
    other. The error that refuses it says what to give.
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
    """Check a matrix of labels, and return it as a dense array of 0 and 1 in its own type.

    Parameters
    ----------
    y : array-like or sparse matrix of shape (n_rows, k)
        Whole numbers, floats or booleans.
    n_rows : int
        Number of rows that y should have.
    name, of : str
        What messages call the labels and the rows.

    Raises
    ------
    ValueError
        If y has another shape, numbers other than 0 and 1, missing labels or another number of rows, or is
        a list of lists or of sets of labels.
    """
    found = None if sparse.issparse(y) else _lists_of_labels(y)
    if found is not None:
        raise ValueError(f"{name} has {found}. {_BINARIZER}.")
    shape, values = _shape_and_values(y)
    if len(shape) == 1:
        raise ValueError(
            f"{name} has shape {shape}, one label per row, but y has several: {name} must be a matrix of 0 "
            f"and 1."
        )
    if len(shape) != 2 or shape[1] < 2:
        raise ValueError(
            f"{name} should be a 1d array, got an array of shape {shape} instead. Give one label per row of "
            f"{of}, in a dense array; for several labels, a matrix of 0 and 1 of shape ({n_rows}, k), k of "
            f"2 or more; or a map of integers for each image, shape ({n_rows}, height, width)."
        )
    if shape[0] != n_rows:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {[n_rows, shape[0]]}. {of} has "
            f"{n_rows} rows and {name} {shape[0]}; both must be equal. Give a row of labels for each row."
        )
    matrix = _numbers(values, name, of)
    _check_zeros_and_ones(matrix, name, of)
    return matrix


def refuse_one_hot(codes: np.ndarray) -> None:
    """Raise ValueError if every row has exactly one label, as with classes that exclude each other."""
    if len(codes) and (codes.sum(axis=1) == 1).all():
        raise ValueError(
            f"Every row of y has exactly one of {codes.shape[1]} labels: it is one-hot, and the labels are "
            "classes that exclude each other. Give the class of each row, "
            "np.asarray(y.argmax(axis=1)).ravel()."
        )


def _lists_of_labels(y: Any) -> str | None:
    """Describe the rows of y if they list their labels; return None for other y."""
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
    if is_of_objects:  # a column of a frame: lists in it are not a matrix, whatever they hold
        return "lists as rows (turn lists of 0 and 1 into np.array(list(y)))"
    return "lists of labels as rows" if has_names and lengths != {1} else None


def _is_list(row: Any) -> bool:
    return isinstance(row, (list, tuple)) or (isinstance(row, np.ndarray) and row.ndim == 1)


def _shape_and_values(y: Any) -> tuple[tuple[int, ...], Any]:
    """Return the shape of y, and y as an array or, if it is one, as a sparse matrix."""
    if sparse.issparse(y):
        return tuple(y.shape), y
    try:
        values = np.asarray(y)
    except ValueError:  # rows of differing lengths; the check of one label per row explains them
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
        f"of {of}; or for several labels a matrix of 0 and 1, one column for each: row {row} has "
        f"{matrix[row, column].item()!r} in column {column}. {_BINARIZER}. Several outputs with more than "
        "two classes need one classifier each."
    )
