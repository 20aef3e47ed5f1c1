"""Make up rows for a teacher to answer: mixtures of neighbouring rows of a table, column by column."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator

from sklearn_kd.inputs._arrays import column_names
from sklearn_kd.tasks._labels import missing_among

# "auto": integers with more different values than this are numbers.
_MOST_CATEGORIES = 20
# Distances distinguish this many most frequent categories; all others count as one.
_MOST_TOLD_APART = 32
# Neighbours are sought among at most this many rows, drawn at random.
_MOST_CANDIDATES = 10_000


class Munge(BaseEstimator):
    """Makes up rows of a table for the teacher to answer, with the algorithm MUNGE.

    In MUNGE [1]_ a made-up row starts as a row of D_train. Each of its columns is mixed, with probability
    ``p``, with that of its nearest neighbour. A number is then drawn from a normal distribution
    around the neighbour's number, whose standard deviation is the difference of the two divided by ``s``. A
    category becomes the neighbour's.

    Use it as ``DistilledClassifier(synthesize=Munge(...))``; ``synthesize=1.0`` means ``Munge(1.0)``.

    Parameters
    ----------
    size : float, default=1.0
        Number of made-up rows per row of D_train, including unlabeled rows. Above 1, some rows are used
        more than once; below 1, a random part of the rows is used.
    p : float, default=0.5
        Probability of mixing a column, in [0, 1]. The default is also AutoGluon's. Smaller values stay nearer
        to the rows.
    s : float, default=1.0
        Divisor of the standard deviation, above 0. Larger values mean less noise.
    categorical_features : "auto" or array-like, default="auto"
        Columns of categories: names, positions, or a mask. "auto": all columns that are not numbers
        (strings, pandas categories, booleans, dates), and integers with at most 20 different values. Other
        integers stay integers, between the smallest and the largest of their column. In an array of objects
        all columns are categories.

    Notes
    -----
    The nearest neighbour is found by Euclidean distance, with numbers scaled to unit variance; a different
    category counts as one standard deviation. A missing number counts as the mean, and a missing category as
    a category of its own. In a column with more than 32 categories the rarer ones count as one. With more
    than 10,000 rows, the candidates are 10,000 rows drawn at random. A value that is missing in the row or
    in its neighbour is taken from the neighbour.

    The paper changes both rows of a pair. Here each row is changed in its own turn, so that exactly ``size``
    rows per row are made.

    References
    ----------
    .. [1] Buciluǎ, Caruana, Niculescu-Mizil. "Model compression", KDD 2006, Algorithm 1.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn_kd import DistilledClassifier, MLPStudent, Munge
    >>> X, y = load_iris(return_X_y=True)
    >>> teacher = RandomForestClassifier(random_state=0)
    >>> clf = DistilledClassifier(
    ...     teacher, MLPStudent, meta="naive", synthesize=Munge(2.0, p=0.3), max_epochs=5, random_state=0)
    >>> clf.fit(X, y).n_unlabeled_
    300
    """

    def __init__(
        self,
        size: float = 1.0,
        *,
        p: float = 0.5,
        s: float = 1.0,
        categorical_features: Any = "auto",
    ):
        self.size = size
        self.p = p
        self.s = s
        self.categorical_features = categorical_features

    def check(self) -> None:
        """Raise ValueError if a parameter has an invalid value."""
        for name in ("size", "s"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 < value < np.inf:
                raise ValueError(f"{name}={value!r} must be a number above 0.")
        if not _is_number(self.p) or not 0 <= self.p <= 1:
            raise ValueError(f"p={self.p!r} must be a probability, from 0 to 1.")

    def rows(self, X: Any, rng: np.random.Generator) -> Any:
        """Make up rows.

        Parameters
        ----------
        X : array of shape (n_samples, n_features), or data frame
            Rows to mix.
        rng : numpy.random.Generator
            Source of randomness.

        Returns
        -------
        array of shape (round(size · n_samples), n_features), or data frame
            The made-up rows, in the container of X and with its types.

        Raises
        ------
        TypeError
            If X is neither an array nor a pandas or polars data frame.
        ValueError
            If there are fewer than two rows, or ``size`` makes no row.
        """
        if not isinstance(X, np.ndarray) and not hasattr(X, "columns"):
            raise TypeError(
                f"rows are made up from arrays and from data frames of pandas or polars, but X is a "
                f"{type(X).__name__}. Give X as one of these."
            )
        n, n_made = len(X), round(self.size * len(X))
        if n < 2 or n_made < 1:
            raise ValueError(
                f"no rows can be made up: D_train has {n} rows and size={self.size}. D_train needs at least "
                "two rows, and size must give at least one."
            )
        columns, whole = _columns_of(X)
        categories = self._are_categories(X, columns, whole)
        all_rows = np.tile(np.arange(n), n_made // n)
        base = np.concatenate([all_rows, np.sort(rng.choice(n, n_made % n, replace=False))])
        near = _nearest(columns, categories, rng)[base]
        made = []
        for column, is_whole, is_category in zip(columns, whole, categories, strict=True):
            mixed = rng.random(n_made) < self.p
            if is_category:
                made.append(np.where(mixed, near, base))  # indices of the rows to take values from
                continue
            own, other = column[base], column[near]
            drawn = rng.normal(other, np.abs(np.nan_to_num(own - other)) / self.s)
            drawn = np.where(np.isnan(own), other, drawn)
            if is_whole:
                drawn = np.clip(np.rint(drawn), np.nanmin(column), np.nanmax(column))
            made.append(np.where(mixed, drawn, own))
        return _in_container(X, made, categories, base)

    def _are_categories(self, X: Any, columns: Sequence[np.ndarray], whole: Sequence[bool]) -> list[bool]:
        """Return whether each column holds categories.

        Raises
        ------
        ValueError
            If ``categorical_features`` names a column that does not exist.
        """
        given = self.categorical_features
        if isinstance(given, str) and given == "auto":
            return [_looks_categorical(*column) for column in zip(columns, whole, strict=True)]
        asked = np.asarray(given)
        if asked.dtype == bool and asked.shape == (len(columns),):
            chosen = set(np.flatnonzero(asked).tolist())
        else:
            names = column_names(X) or []
            places = {name: j for j, name in enumerate(names)} | {
                j: j for j in range(len(columns)) if j not in names
            }
            unknown = [name for name in asked.ravel().tolist() if name not in places]
            if unknown or asked.dtype == bool:
                raise ValueError(
                    f"categorical_features={given!r} must be names or places of the {len(columns)} columns "
                    f"of X, or a mask of them{f'; there is no column {unknown[0]!r}' if unknown else ''}."
                )
            chosen = {places[name] for name in asked.ravel().tolist()}
        return [j in chosen or column.dtype.kind not in "iuf" for j, column in enumerate(columns)]


# --------------------------------------------------------------------------------------
# Columns


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _columns_of(X: Any) -> tuple[list[np.ndarray], list[bool]]:
    """Return the columns as arrays, numbers as floats with NaN, and whether each holds integers."""
    series = _series_of(X)
    return [_numbers_or_values(values) for values in series], [_kind(values) in "iu" for values in series]


def _series_of(X: Any) -> list[Any]:
    """Return the columns of an array or a data frame as they are."""
    if isinstance(X, np.ndarray):
        return list(X.T)
    if hasattr(X, "iloc"):
        return [X.iloc[:, j] for j in range(X.shape[1])]
    return list(X.iter_columns())


def _numbers_or_values(values: Any) -> np.ndarray:
    kind = _kind(values)
    if kind in "iuf":
        to_numpy = getattr(values, "to_numpy", None)
        if to_numpy is None:
            return np.asarray(values, dtype=np.float64)
        if hasattr(values, "iloc"):
            return to_numpy(dtype=np.float64, na_value=np.nan)
        return np.asarray(to_numpy(), dtype=np.float64)
    return np.asarray(values, dtype=object)


def _kind(values: Any) -> str:
    """Return the NumPy kind of a column's values: "i", "u" or "f" for numbers, "O" for others."""
    dtype = values.dtype
    if hasattr(dtype, "is_integer"):  # polars
        return "i" if dtype.is_integer() else "f" if dtype.is_float() else "O"
    return dtype.kind if getattr(dtype, "kind", "O") in "iuf" else "O"


def _looks_categorical(column: np.ndarray, is_whole: bool) -> bool:
    if column.dtype.kind not in "iuf":
        return True
    return is_whole and len(np.unique(column[~np.isnan(column)])) <= _MOST_CATEGORIES


def _in_container(X: Any, made: list[np.ndarray], categories: list[bool], base: np.ndarray) -> Any:
    """Return made-up columns, given as numbers or as indices of rows, in the container of X."""
    if isinstance(X, np.ndarray):
        columns = [X[rows, j] if by_row else rows for j, (rows, by_row) in _numbered(made, categories)]
        return np.stack(columns, axis=1).astype(X.dtype)
    if hasattr(X, "iloc"):
        frame = X.iloc[base].reset_index(drop=True)
        for j, (values, by_row) in _numbered(made, categories):
            own = X.iloc[:, j]
            if by_row:
                frame.isetitem(j, own.iloc[values].array)
            else:
                frame.isetitem(j, type(own)(values).astype(own.dtype))
        return frame
    series = []
    for j, (values, by_row) in _numbered(made, categories):
        own = X.to_series(j)
        if by_row:
            series.append(own.gather(values))
            continue
        column = type(own)(own.name, values)
        series.append((column.fill_nan(None) if own.null_count() else column).cast(own.dtype))
    return type(X)(series)


def _numbered(made: list[np.ndarray], categories: list[bool]) -> Any:
    return enumerate(zip(made, categories, strict=True))


def joined(X: Any, more: Any) -> Any:
    """Concatenate the rows of two tables in the container of the first.

    Parameters
    ----------
    X : array of shape (n, n_features), or data frame
    more : array, sparse matrix or data frame
        A table with the same columns, in the same order.
    """
    if isinstance(X, np.ndarray):
        return np.concatenate([X, more.toarray() if sparse.issparse(more) else np.asarray(more)])
    module: Any = sys.modules[type(X).__module__.partition(".")[0]]  # pandas or polars
    if type(more) is not type(X):
        more = _as_frame(more, X)
    if hasattr(X, "iloc"):
        more = more.copy(deep=False)
        for j, kind in enumerate(X.dtypes):
            if hasattr(kind, "categories"):
                # Categories that X lacks become missing values, as for a teacher that is fitted on X.
                more.isetitem(j, _in_categories(more.iloc[:, j], kind))
        return module.concat([X, more], ignore_index=True)
    return module.concat([X, more], how="vertical_relaxed")


def _as_frame(more: Any, X: Any) -> Any:
    """Convert an array, a sparse matrix or another library's frame to a frame like X, with its names."""
    series = _series_of(more.toarray() if sparse.issparse(more) else more)
    columns = dict(zip(X.columns, map(_plain_values, series), strict=True))
    frame = type(X)(columns)
    return frame if hasattr(X, "iloc") else frame.cast(dict(X.schema), strict=False)


def _plain_values(column: Any) -> Any:
    """Return a column's values: numbers of an array as they are, else a list with None for missing ones."""
    if _kind(column) in "iuf" and isinstance(column, np.ndarray):
        return column
    values = np.array(column, dtype=object)
    values[missing_among(values)] = None
    return values.tolist()


def _in_categories(values: Any, kind: Any) -> Any:
    """Convert pandas values to a categorical type; values of other categories become missing."""
    return values.astype(object).where(values.isin(kind.categories)).astype(kind)


# --------------------------------------------------------------------------------------
# Neighbours


def _nearest(
    columns: Sequence[np.ndarray], categories: Sequence[bool], rng: np.random.Generator
) -> np.ndarray:
    """Return the nearest other row of each row, shape (n,)."""
    from sklearn.neighbors import NearestNeighbors  # slow to import

    encoded = np.concatenate(
        [_encoded(column, kind) for column, kind in zip(columns, categories, strict=True)], axis=1
    )
    n = len(encoded)
    candidates = np.arange(n)
    if n > _MOST_CANDIDATES:
        candidates = np.sort(rng.choice(n, _MOST_CANDIDATES, replace=False))
    finder = NearestNeighbors(n_neighbors=2).fit(encoded[candidates])
    near = candidates[finder.kneighbors(encoded, return_distance=False)]
    return np.where(near[:, 0] == np.arange(n), near[:, 1], near[:, 0])


def _encoded(column: np.ndarray, is_category: bool) -> np.ndarray:
    """Encode a column for distances, float32, shape (n, .)."""
    if not is_category:
        known = np.isfinite(column)
        if not known.any():
            return np.zeros((len(column), 1), dtype=np.float32)
        mean, spread = column[known].mean(), column[known].std()
        scaled = np.where(known, column - mean, 0.0) / (spread or 1.0)
        return scaled[:, None].astype(np.float32)
    values = column if column.dtype.kind == "f" else np.array([str(value) for value in column])
    names, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    codes = codes.ravel()
    if len(names) > _MOST_TOLD_APART:
        rank = np.argsort(np.argsort(-counts, kind="stable"), kind="stable")
        codes = np.minimum(rank, _MOST_TOLD_APART)[codes]
    one_hot: np.ndarray = np.eye(codes.max() + 1, dtype=np.float32)[codes]
    return one_hot * np.float32(np.sqrt(0.5))  # two different categories are at distance 1
