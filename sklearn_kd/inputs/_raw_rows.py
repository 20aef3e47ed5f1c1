"""Hold rows as the user gave them, until ``student_preprocessing`` converts them to numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import validate_data

from sklearn_kd._sklearn_compat import safe_indexing
from sklearn_kd.errors._context import error_context
from sklearn_kd.inputs._arrays import from_torch
from sklearn_kd.inputs._large_arrays import all_finite, kept_or_float32
from sklearn_kd.inputs._sparse_rows import SparseRows, sparse_rows

PARAMETER = "student_preprocessing"


class Preprocessing(Protocol):
    """A fitted scikit-learn transformer."""

    def transform(self, X: Any) -> Any:
        """Return the rows of a table as numbers."""


class RawRows:
    """Rows that are not numbers yet: a table, an array of objects, or a list of texts.

    Parameters
    ----------
    X : DataFrame, array or sparse matrix
        X as given, of any shape (n, ...). A sparse matrix is in CSR format, whose rows can be indexed.
    name : str
        Name of X in messages.
    """

    def __init__(self, X: Any, name: str = "X") -> None:
        self.X, self.name = X, name

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (n, ...) of X as given."""
        return tuple(self.X.shape)

    def __len__(self) -> int:
        return int(self.X.shape[0])

    def __getitem__(self, places: np.ndarray) -> RawRows:
        """Return the rows at these positions, in this order."""
        return RawRows(safe_indexing(self.X, places), self.name)

    def described(self) -> list[Any]:
        """Return the names, types and values of the columns, by which a checkpoint recognises the rows."""
        X = self.X
        if sparse.issparse(X):
            return SparseRows(X).described()
        names = getattr(X, "columns", None)
        if names is None:
            return [np.asarray(X)]
        columns = [X.iloc[:, j] if hasattr(X, "iloc") else X[name] for j, name in enumerate(names)]
        return [[str(name), str(c.dtype), np.asarray(c)] for name, c in zip(names, columns, strict=True)]


def checked_raw_rows(estimator: BaseEstimator, X: Any, name: str, *, reset: bool) -> RawRows:
    """Return rows in the user's container, after checking only their form and column names.

    Parameters
    ----------
    estimator : BaseEstimator
        With ``reset=True`` its ``n_features_in_`` and ``feature_names_in_`` are set, else compared.
    X : array-like, DataFrame, sparse matrix, or list of texts
    name : str
        Name of X in messages.
    reset : bool

    Raises
    ------
    ValueError
        If X has no rows or no columns, rows of differing lengths, or other columns than in ``fit``.
    TypeError
        If X is a single value.
    """
    X = from_torch(X, name)
    if sparse.issparse(X):
        X = X.tocsr()  # whose rows can be indexed
    elif not hasattr(X, "shape"):
        X = _array_of_list(X, name)
    if len(X.shape) == 0:
        raise ValueError(f"{name}={X!s:.100} has no rows. Give a table, an array, or a list of texts.")
    if X.shape[0] == 0:
        raise ValueError(
            f"Found array with 0 sample(s) (shape={X.shape}) while a minimum of 1 is required: {name}."
        )
    if len(X.shape) > 1:
        if X.shape[1] == 0:
            raise ValueError(
                f"Found array with 0 feature(s) (shape={X.shape}) while a minimum of 1 is required: {name}."
            )
        with error_context(name):
            validate_data(estimator, X, reset=reset, skip_check_array=True)
    elif reset:  # texts have no columns
        for attribute in ("n_features_in_", "feature_names_in_"):
            vars(estimator).pop(attribute, None)
    return RawRows(X, name)


def _array_of_list(X: Any, name: str) -> np.ndarray:
    """Convert a list of rows or texts to an array, in which numbers beside strings stay numbers."""
    try:
        array = np.asarray(X)
        return np.asarray(X, dtype=object) if array.dtype.kind in "US" and array.ndim > 1 else array
    except ValueError as error:  # ragged
        raise ValueError(
            f"{name} has rows of differing lengths: {error}. Give all rows the same columns."
        ) from error


# --------------------------------------------------------------------------------------
# From raw rows to numbers


def fit_preprocessing(transformer: Any, rows: RawRows, y: np.ndarray) -> Preprocessing:
    """Fit a clone of a transformer on the rows of D_train and their labels, and return it.

    Parameters
    ----------
    transformer : transformer
    rows : RawRows
    y : ndarray of shape (n,)
        Labels as the user gave them.
    """
    with _naming_parameter():
        preprocessing = clone(transformer)
        preprocessing.fit(rows.X, y)
    return preprocessing


@contextmanager
def _naming_parameter() -> Iterator[None]:
    """Name ``student_preprocessing`` in a transformer's errors; unusual ones become ValueErrors."""
    try:
        with error_context(PARAMETER):
            yield
    except (ValueError, TypeError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{PARAMETER}: {type(error).__name__}: {error}") from error


def transformed(preprocessing: Preprocessing, rows: RawRows) -> np.ndarray | SparseRows:
    """Convert rows to numbers for the student: float32, or the transformer's type if they are many.

    Parameters
    ----------
    preprocessing : Preprocessing
        Fitted transformer.
    rows : RawRows

    Raises
    ------
    ValueError, TypeError
        If the transformer fails, changes the number of rows, or leaves anything but finite numbers. The
        message begins with ``student_preprocessing``.
    """
    with _naming_parameter():
        made = preprocessing.transform(rows.X)
    if sparse.issparse(made):
        found: np.ndarray | SparseRows = sparse_rows(made)
    else:
        found = _numbers(made, rows.name)
    if found.ndim < 2 or len(found) != len(rows):
        raise ValueError(
            f"{PARAMETER} must turn each row of {rows.name} into one row of numbers: from {len(rows)} rows "
            f"it made an array of shape {found.shape}."
        )
    if 0 in found.shape[1:]:
        raise ValueError(
            f"{PARAMETER} made rows without a number in them, of shape {found.shape}: nothing in {rows.name} "
            "is left for the student."
        )
    if not all_finite(found.values if isinstance(found, SparseRows) else found):
        raise ValueError(
            f"{PARAMETER} left NaN or infinity in {rows.name}, or numbers beyond float32. Have it impute and "
            "limit them, as 'auto' does for missing values."
        )
    return found


def _numbers(made: Any, name: str) -> np.ndarray:
    """Convert a transformer's output to an array whose rows torch can index."""
    array = np.asarray(from_torch(made, PARAMETER))
    if array.dtype == object and array.ndim > 1:  # from a data frame with several types
        with suppress(ValueError, TypeError):
            array = array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise ValueError(
            f"{PARAMETER} must turn {name} into numbers; it made {array.dtype}. Encode words as numbers, as "
            "'auto' does."
        )
    return kept_or_float32(array) if array.ndim > 1 else array
