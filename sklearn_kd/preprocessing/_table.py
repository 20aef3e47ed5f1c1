"""The transformer of ``student_preprocessing="auto"``."""

from __future__ import annotations

import warnings
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from sklearn_kd._sklearn_compat import Interval, StrOptions
from sklearn_kd.preprocessing._columns import (
    CategoryColumn,
    Column,
    NumberColumn,
    OmittedColumn,
    codes_of,
    iter_columns,
    learn_column,
    numbers_of,
    read_column,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike
    from typing_extensions import Self


class TablePreprocessing(TransformerMixin, BaseEstimator):
    """Convert a table with words and missing values to numbers.

    - Numbers and booleans are kept. Missing numbers are replaced by the median. If the rows of ``fit`` had
      any, a further column marks them.
    - Categories (strings, and the categorical types of pandas and polars) become one column each, or a code.
      Rare categories are grouped, unknown ones count as rare, and a missing value is a category.
    - Columns with a single value, without values, or with rare categories only, such as identifiers, are left
      out with a warning.

    Columns are not scaled: see ``standardize`` of :class:`DistilledClassifier`.

    Parameters
    ----------
    categories : {"onehot", "ordinal"}, default="onehot"
        "onehot": a column of 0 and 1 for each category. "ordinal": one column of codes, for a student that
        looks them up in an embedding. The codes are 0 for rare and unknown categories, 1 … K for the others
        and, if the rows of ``fit`` had missing values, K + 1 for these.
    max_categories : int, default=100
        Largest number of categories per column. Less frequent categories are grouped as rare.
    min_rows : int, default=5
        Least number of rows of ``fit`` with a category. Categories with fewer rows are grouped as rare.

    Attributes
    ----------
    columns_ : list of objects
        What was learned about each column of X, in order. Each object has a ``name``. A column of numbers has
        ``fill`` and ``has_missing``; a column of categories has ``categories``, ``has_rare`` and
        ``has_missing``; a column that is left out has ``why``.
    categorical_columns_ : list of int
        Indices of the output's columns that hold codes; [] for "onehot".
    cardinalities_ : list of int
        Number of codes in each of these columns.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Column names of X. Defined only if X has names that are all strings.

    See Also
    --------
    DistilledClassifier : Takes it as ``student_preprocessing``; "auto" is this class with its defaults.

    Examples
    --------
    >>> import pandas as pd
    >>> from sklearn_kd import TablePreprocessing
    >>> X = pd.DataFrame({"age": [30, None, 50, 41], "job": ["cook", "nurse", "cook", "nurse"]})
    >>> table = TablePreprocessing(min_rows=1).fit(X)
    >>> table.get_feature_names_out().tolist()
    ['age', 'age_missing', 'job_cook', 'job_nurse']
    >>> table.transform(X.head(2))
    array([[30.,  0.,  1.,  0.],
           [41.,  1.,  0.,  1.]], dtype=float32)
    """

    _parameter_constraints = {
        "categories": [StrOptions({"onehot", "ordinal"})],
        "max_categories": [Interval(Integral, 1, None, closed="left")],
        "min_rows": [Interval(Integral, 1, None, closed="left")],
    }

    columns_: list[Column]

    def __init__(
        self,
        *,
        categories: Literal["onehot", "ordinal"] = "onehot",
        max_categories: int = 100,
        min_rows: int = 5,
    ):
        self.categories = categories
        self.max_categories = max_categories
        self.min_rows = min_rows

    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Learn the categories, medians and missing values of each column.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Numbers, booleans, strings, categories, and missing values: None, NaN, ``pandas.NA``.
        y : None
            Ignored.

        Returns
        -------
        self
            The fitted transformer.

        Raises
        ------
        TypeError
            If a column holds dates, a mix of strings and numbers, or other objects.
        ValueError
            If a number is infinite, or no column is left.
        """
        self._validate_params()
        table = self._checked(X, reset=True)
        names = getattr(self, "feature_names_in_", [f"x{j}" for j in range(table.shape[1])])
        self.columns_ = [
            learn_column(read_column(column, str(name)), str(name), self.max_categories, self.min_rows)
            for name, column in zip(names, iter_columns(table), strict=True)
        ]
        self._warn_of_omitted(table.shape[0])
        return self

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Convert the table to numbers.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Table with the columns of ``fit``.

        Returns
        -------
        ndarray of shape (n_samples, n_features_out), float32
            The columns of numbers, with the names of :meth:`get_feature_names_out`.

        Raises
        ------
        TypeError
            If a column of numbers now holds strings, or vice versa.
        ValueError
            If X has other columns, or a number is infinite.
        """
        check_is_fitted(self)
        table = self._checked(X, reset=False)
        out = np.zeros((table.shape[0], sum(map(self._width, self.columns_))), dtype=np.float32)
        start = 0
        for column, given in zip(self.columns_, iter_columns(table), strict=True):
            stop = start + self._width(column)
            if not isinstance(column, OmittedColumn):
                self._fill(out[:, start:stop], read_column(given, column.name), column)
            start = stop
        return out

    def get_feature_names_out(self, input_features: Sequence[str] | None = None) -> np.ndarray:
        """Return the names of the columns of the output.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            The names of the columns of X, checked if given.

        Returns
        -------
        ndarray of str
            Names such as ``age``, ``age_missing`` and ``job_cook``.
        """
        check_is_fitted(self)
        known = [column.name for column in self.columns_]
        if input_features is not None and list(input_features) != known:
            raise ValueError("input_features is not equal to feature_names_in_")
        return np.array([name for column in self.columns_ for name in self._names(column)], dtype=object)

    @property
    def categorical_columns_(self) -> list[int]:
        """The columns of the output that are codes."""
        check_is_fitted(self)
        starts = np.cumsum([0, *map(self._width, self.columns_)]).tolist()
        pairs = [] if self._is_onehot else zip(self.columns_, starts, strict=False)
        return [start for column, start in pairs if isinstance(column, CategoryColumn)]

    @property
    def cardinalities_(self) -> list[int]:
        """The number of codes of each column of codes."""
        check_is_fitted(self)
        columns = [column for column in self.columns_ if isinstance(column, CategoryColumn)]
        return [] if self._is_onehot else [len(c.categories) + 1 + c.has_missing for c in columns]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = tags.input_tags.categorical = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    # ----------------------------------------------------------------------------------

    @property
    def _is_onehot(self) -> bool:
        return self.categories == "onehot"

    def _checked(self, X: Any, *, reset: bool) -> Any:
        """Return X as a table. Compare its columns with those of ``fit``, or with ``reset`` record them."""
        if sparse.issparse(X):
            raise TypeError(
                "X is a sparse matrix. TablePreprocessing converts tables to dense rows, and a sparse matrix "
                "already holds numbers. Use X without preprocessing, or give X.toarray()."
            )
        is_table = hasattr(X, "columns") and hasattr(X, "shape")
        if not is_table:
            # NumPy would convert lists with both strings and numbers to strings.
            dtype = None if hasattr(X, "dtype") else object
            X = check_array(X, dtype=dtype, ensure_all_finite=False, estimator=self)
        elif 0 in X.shape:
            what = "sample(s)" if X.shape[0] == 0 else "feature(s)"
            raise ValueError(f"Found array with 0 {what} (shape={X.shape}) while a minimum of 1 is required.")
        validate_data(self, X, reset=reset, skip_check_array=True)
        return X

    def _warn_of_omitted(self, n_rows: int) -> None:
        omitted = [column for column in self.columns_ if isinstance(column, OmittedColumn)]
        said = "; ".join(f"{column.name!r} {column.why}" for column in omitted)
        if len(omitted) == len(self.columns_):
            raise ValueError(f"X has no column with information in its n_samples={n_rows} rows: {said}.")
        if omitted:
            warnings.warn(f"Columns are left out: {said}.", UserWarning, stacklevel=3)

    def _names(self, column: Column) -> list[str]:
        """Return the names of the output's columns made from a column."""
        if isinstance(column, OmittedColumn):
            return []
        missing = [f"{column.name}_missing"] * column.has_missing
        if isinstance(column, NumberColumn):
            return [column.name, *missing]
        if not self._is_onehot:
            return [column.name]
        rare = [f"{column.name}_rare"] * column.has_rare
        return [*(f"{column.name}_{category}" for category in column.categories), *rare, *missing]

    def _width(self, column: Column) -> int:
        return len(self._names(column))

    def _fill(self, out: np.ndarray, values: np.ndarray, column: NumberColumn | CategoryColumn) -> None:
        """Write the result for a column into its part of the output, which is zero before."""
        if isinstance(column, NumberColumn):
            numbers = numbers_of(values, column)
            missing = np.isnan(numbers)
            out[:, 0] = np.where(missing, column.fill, numbers)
            if column.has_missing:
                out[:, 1] = missing
            return
        codes, n_known = codes_of(values, column), len(column.categories)
        is_missing = codes > n_known
        if not self._is_onehot:
            # If fit has seen no missing values, they are unknown.
            out[:, 0] = codes if column.has_missing else np.where(is_missing, 0, codes)
            return
        known = np.flatnonzero((codes > 0) & ~is_missing)
        out[known, codes[known] - 1] = 1
        if column.has_rare:
            out[:, n_known] = codes == 0
        if column.has_missing:
            out[:, -1] = is_missing
