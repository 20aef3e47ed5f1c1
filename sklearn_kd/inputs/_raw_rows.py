"""Rows as the user gave them, which ``student_preprocessing`` turns into numbers."""

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
    """A fitted transformer of scikit-learn's kind."""

    def transform(self, X: Any) -> Any:
        """Return the rows of a table as numbers."""


class RawRows:
    """Rows that are no numbers yet: a table, an array of objects, or a list of texts.

    Parameters
    ----------
    X : DataFrame, array or sparse matrix
        As given, of any shape (n, ...); anything sparse as CSR, whose rows can be picked.
    name : str
        What messages call it.
    """

    def __init__(self, X: Any, name: str = "X") -> None:
        self.X, self.name = X, name

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (n, ...) of X as given."""
        return tuple(self.X.shape)

    def __len__(self) -> int:
        return int(self.X.shape[0])

    def __getitem__(self, places: np.ndarray) -> RawRows:
        """Return the rows at these places, in this order."""
        return RawRows(safe_indexing(self.X, places), self.name)

    def described(self) -> list[Any]:
        """Return names, types and values of the columns, by which a checkpoint recognises the rows."""
        X = self.X
        if sparse.issparse(X):
            return SparseRows(X).described()
        names = getattr(X, "columns", None)
        if names is None:
            return [np.asarray(X)]
        columns = [X.iloc[:, j] if hasattr(X, "iloc") else X[name] for j, name in enumerate(names)]
        return [[str(name), str(c.dtype), np.asarray(c)] for name, c in zip(names, columns, strict=True)]


def checked_raw_rows(estimator: BaseEstimator, X: Any, name: str, *, reset: bool) -> RawRows:
    """Return rows in the user's container, of which only the form and the names of columns are checked.

    Parameters
    ----------
    estimator : BaseEstimator
        ``reset=True`` sets its ``n_features_in_`` and ``feature_names_in_``, else they are compared.
    X : array-like, DataFrame, sparse matrix, or list of texts
    name : str
        What messages call X.
    reset : bool

    Raises
    ------
    ValueError
        If X has no rows, no rows and columns, or not the columns that ``fit`` saw.
    TypeError
        If X is a single value.
    """
    X = from_torch(X, name)
    if sparse.issparse(X):
        X = X.tocsr()  # whose rows can be picked
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
    """Return a list of rows, or of texts, as an array; numbers beside strings stay numbers."""
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
    """Return a clone of a transformer, fitted on the rows of D_train and their labels.

    Parameters
    ----------
    transformer : transformer
    rows : RawRows
    y : ndarray of shape (n,)
        Labels, as the user gave them.
    """
    with _naming_parameter():
        preprocessing = clone(transformer)
        preprocessing.fit(rows.X, y)
    return preprocessing


@contextmanager
def _naming_parameter() -> Iterator[None]:
    """Name ``student_preprocessing`` in errors of a transformer; others become ValueErrors."""
    try:
        with error_context(PARAMETER):
            yield
    except (ValueError, TypeError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{PARAMETER}: {type(error).__name__}: {error}") from error


def transformed(preprocessing: Preprocessing, rows: RawRows) -> np.ndarray | SparseRows:
    """Return rows as numbers for the student: float32, or as the transformer made them if they are many.

    Parameters
    ----------
    preprocessing : Preprocessing
        Fitted.
    rows : RawRows

    Raises
    ------
    ValueError, TypeError
        If the transformer fails, or makes other rows, or what are no finite numbers; the message begins
        with ``student_preprocessing``.
    """
    with _naming_parameter():
        made = preprocessing.transform(rows.X)
    if sparse.issparse(made):
        found: np.ndarray | SparseRows = sparse_rows(made)
    else:
        found = _numbers(made, rows.name)
    if found.ndim < 2 or len(found) != len(rows):
        raise ValueError(
            f"{PARAMETER} must make one row of numbers of each row of {rows.name}: from {len(rows)} rows "
            f"it made an array of shape {found.shape}."
        )
    if 0 in found.shape[1:]:
        raise ValueError(
            f"{PARAMETER} made rows without a number in them, of shape {found.shape}: nothing in {rows.name} "
            "is left for the student."
        )
    if not all_finite(found.values if isinstance(found, SparseRows) else found):
        raise ValueError(
            f"{PARAMETER} left NaN or infinity in {rows.name}, or numbers beyond float32. Let it impute and "
            "limit them, as 'auto' does for missing values."
        )
    return found


def _numbers(made: Any, name: str) -> np.ndarray:
    """Return what a transformer made as an array that torch can pick rows of."""
    array = np.asarray(from_torch(made, PARAMETER))
    if array.dtype == object and array.ndim > 1:  # as of a frame with columns of several types
        with suppress(ValueError, TypeError):
            array = array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise ValueError(
            f"{PARAMETER} must make numbers of {name}; it made {array.dtype}. Encode words as numbers, as "
            "'auto' does."
        )
    return kept_or_float32(array) if array.ndim > 1 else array
