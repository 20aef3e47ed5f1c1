"""Convert the rows of a history to columns, with numbers as arrays, which compress well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from skorch.history import History

from sklearn_kd.files._compression import CompressedArray

_ARRAYS: dict[type, type[np.generic]] = {float: np.float64, int: np.int64, bool: np.bool_}
_LARGEST_INT = 2**63 - 1


class Columns(NamedTuple):
    """Rows of one level of a history as columns, without loss.

    Attributes
    ----------
    layouts : list of list of str
        The different key sequences of rows.
    layout_of_row : ndarray of shape (n_rows,), int64
        Index of each row's layout.
    arrays : dict of ndarray
        Values by key, of the rows that have it, if all are floats, integers or bools.
    others : dict of list
        Values of the other keys.
    """

    layouts: list[list[str]]
    layout_of_row: np.ndarray
    arrays: dict[str, np.ndarray]
    others: dict[str, list[Any]]


def split_rows(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """Convert rows to columns."""
    numbers: dict[tuple[str, ...], int] = {}
    layout_of_row = np.array([numbers.setdefault(tuple(row), len(numbers)) for row in rows], np.int64)
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for key, value in row.items():
            columns.setdefault(key, []).append(value)
    kinds = {key: _array_type(values) for key, values in columns.items()}
    arrays = {key: np.array(columns[key], kind) for key, kind in kinds.items() if kind is not None}
    others = {key: values for key, values in columns.items() if kinds[key] is None}
    return Columns([list(keys) for keys in numbers], layout_of_row, arrays, others)


def join_rows(columns: Columns) -> list[dict[str, Any]]:
    """Convert columns of :func:`split_rows` back to rows.

    Raises
    ------
    ValueError
        If a key has more or fewer values than rows, or a layout does not exist.
    """
    values = {key: iter(array.tolist()) for key, array in columns.arrays.items()}
    values |= {key: iter(column) for key, column in columns.others.items()}
    if len(values) < len(columns.arrays) + len(columns.others) or np.any(columns.layout_of_row < 0):
        raise ValueError("a key that has two columns, or a layout below 0")
    try:
        layouts = [[(key, values[key]) for key in keys] for keys in columns.layouts]
        rows = [
            {key: next(column) for key, column in layouts[layout]}
            for layout in columns.layout_of_row.tolist()
        ]
    except (KeyError, IndexError, RuntimeError, StopIteration) as error:
        raise ValueError("rows for which there is no layout or no value") from error
    if any(next(column, columns) is not columns for column in values.values()):
        raise ValueError("more values than rows")
    return rows


def _array_type(values: list[Any]) -> type[np.generic] | None:
    """Return the type of an array that holds the values exactly, or None."""
    (kind, *others) = {type(value) for value in values}
    if others or kind not in _ARRAYS or (kind is int and max(map(abs, values)) > _LARGEST_INT):
        return None
    return _ARRAYS[kind]


def split_batches(rows: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the epochs of a history, with their numbers of batches, and the batches of all epochs."""
    epochs = [{k: len(v) if k == "batches" else v for k, v in row.items()} for row in rows]
    return epochs, [batch for row in rows for batch in row["batches"]]


def join_batches(
    epochs: Sequence[Mapping[str, Any]], batches: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Join the results of :func:`split_batches` back to rows.

    Raises
    ------
    ValueError
        If the number of batches does not match.
    """
    rows, start = [], 0
    for epoch in epochs:
        n = epoch.get("batches")
        if type(n) is not int or n < 0:
            raise ValueError(f"{n!r} as the number of batches of an epoch")
        rows.append({k: list(batches[start : start + n]) if k == "batches" else v for k, v in epoch.items()})
        start += n
    if start != len(batches):
        raise ValueError(f"{len(batches)} batches, not the {start} of the epochs")
    return rows


class CompressedHistory:
    """A compressed history, for a pickle.

    Parameters
    ----------
    history : History
    """

    def __init__(self, history: History):
        self._levels = [_packed(split_rows(rows)) for rows in split_batches(history.to_list())]

    def history(self) -> History:
        """Return the history."""
        epochs, batches = (join_rows(_unpacked(level)) for level in self._levels)
        return History(join_batches(epochs, batches))


def _packed(columns: Columns) -> tuple[Any, ...]:
    layouts, layout_of_row, arrays, others = columns
    packed = {key: CompressedArray(array) for key, array in arrays.items()}
    return layouts, CompressedArray(layout_of_row), packed, others


def _unpacked(packed: tuple[Any, ...]) -> Columns:
    layouts, layout_of_row, arrays, others = packed
    return Columns(layouts, layout_of_row.array(), {k: v.array() for k, v in arrays.items()}, others)
