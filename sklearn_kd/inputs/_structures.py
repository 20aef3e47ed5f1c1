"""Read dicts, tuples and ``datasets.Dataset`` given as X, and check their parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse
from torch import Tensor

from sklearn_kd._sklearn_compat import is_instance, safe_indexing
from sklearn_kd.inputs._arrays import from_torch
from sklearn_kd.inputs._large_arrays import all_finite
from sklearn_kd.inputs._parts import LABEL_KEYS, Parts, RowShape

# Each type is accepted where a later one is expected.
_WIDTHS = ("bool", "int64", "float32")


def is_hub_dataset(X: Any) -> bool:
    """Return True if X is a ``datasets.Dataset``, without importing that package."""
    return is_instance(X, "datasets.arrow_dataset", "Dataset")


def is_structure(X: Any) -> bool:
    """Return True if X has several parts: a mapping, a tuple of arrays, or a ``datasets.Dataset``.

    A tuple has parts if it holds only arrays or tensors, and not only one-dimensional ones, which are rows.
    """
    if isinstance(X, Mapping):
        return not sparse.issparse(X)  # a dok_matrix is a mapping too
    if is_hub_dataset(X):
        return True
    if type(X) is not tuple or not X or not all(isinstance(v, (np.ndarray, Tensor)) for v in X):
        return False
    return any(v.ndim > 1 for v in X)


def own_labels(X: Any) -> Any:
    """Return the label column of a ``datasets.Dataset``; None if it has none or X is anything else."""
    found = [key for key in LABEL_KEYS if key in X.column_names] if is_hub_dataset(X) else []
    return np.asarray(X.with_format("numpy")[found[0]][:]) if found else None


def read_structure(X: Any, name: str = "X") -> Parts:
    """Return the parts of X as arrays: floats as float32, integers as int64, booleans as they are.

    Parameters
    ----------
    X : mapping of str to array-like, tuple of array-like, or datasets.Dataset
        The label column of a ``datasets.Dataset`` is left out.
    name : str, default="X"
        Name of X in messages.

    Raises
    ------
    ValueError
        If there is no part, a part has anything but finite numbers, or parts have different numbers of rows.
    TypeError
        If a key is not a string.
    """
    if is_hub_dataset(X):
        columns = X.with_format("numpy")
        given = {key: columns[key][:] for key in X.column_names if key not in LABEL_KEYS}
    else:
        given = dict(X.items()) if isinstance(X, Mapping) else dict(enumerate(X))
    if not given:
        raise ValueError(f"{name} is an empty {type(X).__name__}: it has no parts. Give arrays by name.")
    keys: tuple[str, ...] | int = len(X)
    if not isinstance(X, tuple):
        _check_names(list(given), name)
        keys = tuple(given)
    values = [_checked_part(value, f"{name}[{key!r}]") for key, value in given.items()]
    n_rows = len(values[0])
    for key, value in zip(given, values, strict=True):
        if len(value) != n_rows:
            raise ValueError(
                f"{name}[{key!r}] has {len(value)} rows and {name}[{next(iter(given))!r}] has {n_rows}: all "
                f"parts of {name} must have the same rows."
                + (" A tuple is read as parts; give rows as an array: np.stack(X)." * isinstance(X, tuple))
            )
    if n_rows == 0:
        raise ValueError(f"{name} has parts of 0 rows: found 0 sample(s), where a minimum of 1 is required.")
    return Parts(keys, values)


def _check_names(names: list[Any], name: str) -> None:
    wrong = [key for key in names if not isinstance(key, str)]
    if wrong:
        raise TypeError(
            f"{name} is a mapping with the key {wrong[0]!r}, where names of arguments of the student's "
            "forward are needed. Make all keys strings."
        )


def _checked_part(given: Any, name: str) -> np.ndarray:
    """Check a part and return it as an array of finite numbers."""
    given = from_torch(given, name)
    try:
        values = np.asarray(given)
    except ValueError:
        values = np.empty(0, dtype=object)
    if values.dtype.kind not in "fiub":
        raise ValueError(f"{name} {_what_is_wrong(given, values)}")
    if values.ndim == 0:
        raise ValueError(f"{name} is the single value {values}, where one value or array a row is required.")
    if 0 in values.shape[1:]:
        raise ValueError(f"{name} has rows of shape {values.shape[1:]}, without a number in them.")
    if values.dtype.kind == "u" and values.size and int(values.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"{name} has integers up to {values.max()}, beyond int64.")
    if not all_finite(values):
        raise ValueError(f"{name} has values that are not finite in float32: NaN, or infinity. Fill them in.")
    kind = {"f": np.float32, "b": np.bool_}.get(values.dtype.kind, np.int64)
    return np.ascontiguousarray(values, dtype=kind)


def _what_is_wrong(given: Any, values: np.ndarray) -> str:
    """Explain why a part is not an array of numbers, and how to mend it."""
    if isinstance(given, (str, bytes)):
        return f"is the string {given!r:.60}, where one number or array a row is required."
    rows = given if hasattr(given, "__iter__") else []
    lengths = {len(row) for row in rows if isinstance(row, (list, tuple, np.ndarray)) and np.ndim(row)}
    if len(lengths) > 1:
        return (
            f"has rows of {min(lengths)} to {max(lengths)} numbers, where all rows must have one shape. Pad "
            "them: tokenizer(..., padding=True, truncation=True)."
        )
    if values.dtype.kind in "US" or (values.size and isinstance(values.flat[0], (str, bytes))):
        text = values.flat[0]
        return (
            f"holds strings, such as {str(text)!r:.60}, where numbers are required. Make tokens or codes of "
            "them, or leave the part out: a datasets.Dataset has remove_columns."
        )
    return f"holds {values.dtype}, where floats, integers or booleans are required."


def check_row_shape(rows: Parts, fitted: RowShape, name: str, estimator: object) -> Parts:
    """Return rows with their parts in the order and the types seen in ``fit``.

    Booleans are accepted as integers, and both as floats.

    Raises
    ------
    ValueError
        If a part is missing, is new, or has another shape or type. The message names it.
    """
    who = type(estimator).__name__
    if isinstance(fitted.keys, tuple) != isinstance(rows.keys, tuple) or rows.keys is None:
        kind = "names" if isinstance(rows.keys, tuple) else "none"
        raise ValueError(
            f"{name} has parts with {kind}, but {who} was fitted on {fitted!r}. Give parts of this form."
        )
    given: dict[Any, np.ndarray] = dict(zip(rows.row_shape.names, rows.values, strict=True))
    missing = [key for key in fitted.names if key not in given]
    extra = [key for key in given if key not in fitted.names]
    if missing or extra:
        said = [f"{name}[{missing[0]!r}] is missing"] if missing else []
        said += [f"{name}[{extra[0]!r}] was not there"] if extra else []
        raise ValueError(f"{' and '.join(said)}: {who} was fitted on the parts {fitted.names}.")
    values = []
    for key, part in zip(fitted.names, fitted.parts, strict=True):
        found = given[key]
        if found.shape[1:] != part.sizes:
            raise ValueError(
                f"{name}[{key!r}] has samples of shape {found.shape[1:]}, but {who} was fitted on samples of "
                f"shape {part.sizes}. Give all rows one length, as tokenizer(..., padding='max_length', "
                "max_length=...) does."
            )
        if _WIDTHS.index(found.dtype.name) > _WIDTHS.index(part.dtype):
            raise ValueError(
                f"{name}[{key!r}] holds {found.dtype}, but {who} was fitted on {part.dtype}. Give that type."
            )
        values.append(found.astype(part.dtype, copy=False))
    return Parts(fitted.keys, values)


def some_rows(X: Any, places: np.ndarray) -> Any:
    """Return some rows of X in the form in which X was given."""
    if is_hub_dataset(X):
        return X.select(places)
    if isinstance(X, Mapping):
        return {key: _some(X[key], places) for key in X}
    if is_structure(X):
        return tuple(_some(value, places) for value in X)
    return safe_indexing(X, places)


def _some(values: Any, places: np.ndarray) -> Any:
    return safe_indexing(from_torch(values, "X"), places)
