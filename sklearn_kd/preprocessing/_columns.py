"""Read, learn and convert the columns of a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np

# Types of categories. Any other object that a pandas category holds is named by its text.
Category = str | int | float | bool


@dataclass(frozen=True)
class NumberColumn:
    """A column of numbers.

    Attributes
    ----------
    name : str
    fill : float
        Replacement for missing values: the median of the others.
    has_missing : bool
        Whether the rows of ``fit`` had missing values. If so, a further column marks them.
    """

    name: str
    fill: float
    has_missing: bool


@dataclass(frozen=True)
class CategoryColumn:
    """A column of categories.

    Attributes
    ----------
    name : str
    categories : tuple of str, int, float or bool
        The categories that are not grouped.
    has_rare : bool
        Whether the rows of ``fit`` had other categories, which are grouped into one.
    has_missing : bool
        Whether the rows of ``fit`` had missing values, which are a category.
    """

    name: str
    categories: tuple[Category, ...]
    has_rare: bool
    has_missing: bool


@dataclass(frozen=True)
class OmittedColumn:
    """A column that is left out.

    Attributes
    ----------
    name : str
    why : str
        The reason, such as "has one value".
    """

    name: str
    why: str


Column = NumberColumn | CategoryColumn | OmittedColumn


def iter_columns(X: Any) -> Iterator[Any]:
    """Yield the columns of a DataFrame of pandas or polars, or of an array, in their order."""
    for j in range(X.shape[1]):
        if hasattr(X, "iloc"):
            yield X.iloc[:, j]
        elif hasattr(X, "to_series"):
            yield X.to_series(j)
        else:
            yield X[:, j]


def read_column(column: Any, name: str) -> np.ndarray:
    """Return the values of a column: numbers as float64 with NaN if missing, others as objects with None.

    Parameters
    ----------
    column : Series of pandas or polars, or ndarray of shape (n,)
    name : str
        Name of the column in messages.

    Raises
    ------
    TypeError
        If the column holds dates, a mix of strings and numbers, or objects that are neither numbers nor
        categories.
    ValueError
        If a number is infinite.
    """
    dtype = column.dtype
    if hasattr(dtype, "categories") and hasattr(column, "cat") and hasattr(column.cat, "codes"):  # pandas
        return _of_codes(column.cat.codes.to_numpy(), list(column.cat.categories))
    kind = getattr(dtype, "kind", None)
    if kind is not None and kind in "mM":
        raise _dates(name)
    if kind is not None and kind in "biuf":
        # pandas' own types have pd.NA; NumPy's do not need a value for it.
        values = column if isinstance(column, np.ndarray) else column.to_numpy(np.float64, na_value=np.nan)
        return _finite(np.asarray(values, dtype=np.float64), name)
    if hasattr(dtype, "is_numeric") and dtype.is_numeric():  # polars
        return _finite(np.array(column.cast(float).to_numpy(), dtype=np.float64), name)
    values = column.to_list() if hasattr(column, "to_list") else column.tolist()
    return _by_content(values, name)


def _of_codes(codes: np.ndarray, categories: Sequence[Any]) -> np.ndarray:
    """Return the categories of the codes. Code −1 is a missing value."""
    named = [value if _is_number(value) or isinstance(value, str) else str(value) for value in categories]
    values = np.empty(len(named) + 1, dtype=object)
    values[: len(named)] = [value.item() if isinstance(value, np.generic) else value for value in named]
    return values[codes]  # the last one is None


def _by_content(values: list[Any], name: str) -> np.ndarray:
    """Return numbers as float64, or strings as objects."""
    missing = [is_missing(value) for value in values]
    kinds = {type(value) for value, is_out in zip(values, missing, strict=True) if not is_out}
    if all(issubclass(kind, (Real, Decimal, np.bool_)) for kind in kinds) and kinds:
        numbers = [np.nan if is_out else float(v) for v, is_out in zip(values, missing, strict=True)]
        return _finite(np.array(numbers, dtype=np.float64), name)
    if all(issubclass(kind, str) for kind in kinds):
        found = np.empty(len(values), dtype=object)
        found[:] = [None if is_out else str(v) for v, is_out in zip(values, missing, strict=True)]
        return found
    others = sorted({kind.__name__ for kind in kinds if not issubclass(kind, str)})
    if any(issubclass(kind, str) for kind in kinds):
        raise TypeError(
            f"column {name!r} holds both strings and {', '.join(others)}. Convert all values to strings or "
            "all to numbers."
        )
    if any(_is_date(kind) for kind in kinds):
        raise _dates(name)
    raise TypeError(
        f"column {name!r} holds values of type {', '.join(others)}, which are neither numbers nor strings. "
        "Convert them, or leave the column out."
    )


def is_missing(value: Any) -> bool:
    """Return whether a value is None, NaN, pandas' NA or NaT."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating, Decimal)) and value != value


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float, np.number, np.bool_))


def _is_date(kind: type) -> bool:
    return kind.__module__ == "datetime" or any(base.__module__ == "datetime" for base in kind.__mro__)


def _dates(name: str) -> TypeError:
    return TypeError(
        f"column {name!r} holds dates or times, which can be converted to numbers in many ways. Convert them "
        "to what matters, such as the days since a date or the month, or leave the column out."
    )


def _finite(values: np.ndarray, name: str) -> np.ndarray:
    """Return the numbers; raise ValueError if one is infinite as float32."""
    with np.errstate(over="ignore"):
        if np.isinf(values.astype(np.float32)).any():
            raise ValueError(
                f"column {name!r} holds infinite numbers, or numbers beyond float32. Give NaN where a value "
                "is unknown, or smaller numbers, such as logarithms."
            )
    return values


# --------------------------------------------------------------------------------------
# Learn


def learn_column(values: np.ndarray, name: str, max_categories: int, min_rows: int) -> Column:
    """Learn a column that :func:`read_column` returned: how to convert it, or why it is left out."""
    if values.dtype == np.float64:
        missing = np.isnan(values)
        known = values[~missing]
        if not len(known):
            return OmittedColumn(name, "has no values")
        if not missing.any() and known.min() == known.max():
            return OmittedColumn(name, "has one value")
        return NumberColumn(name, float(np.median(known)), bool(missing.any()))
    counts: dict[Category, int] = {}
    for value in values.tolist():
        if value is not None:
            counts[value] = counts.get(value, 0) + 1
    n_missing = len(values) - sum(counts.values())
    if not counts:
        return OmittedColumn(name, "has no values")
    if len(counts) == 1 and not n_missing:
        return OmittedColumn(name, "has one value")
    frequent = [value for value, count in counts.items() if count >= min_rows]
    if not frequent:
        why = f"has {len(counts):,} categories, none of them in {min_rows} rows or more"
        return OmittedColumn(name, why)
    kept = sorted(frequent, key=lambda value: -counts[value])[:max_categories]
    ordered = tuple(sorted(kept, key=lambda value: (isinstance(value, str), value)))
    return CategoryColumn(name, ordered, len(kept) < len(counts), n_missing > 0)


# --------------------------------------------------------------------------------------
# Transform


def numbers_of(values: np.ndarray, column: NumberColumn) -> np.ndarray:
    """Return a column of numbers, with NaN for missing values.

    Raises
    ------
    TypeError
        If the column now holds strings.
    """
    if values.dtype == np.float64:
        return values
    if any(isinstance(value, str) for value in values.tolist()):
        raise TypeError(f"column {column.name!r} holds strings; in fit it held numbers.")
    return np.array([np.nan if value is None else value for value in values.tolist()], dtype=np.float64)


def codes_of(values: np.ndarray, column: CategoryColumn) -> np.ndarray:
    """Return codes: 0 for rare and unknown categories, 1 … K for those of the column, K + 1 for missing.

    Raises
    ------
    TypeError
        If the column held strings in ``fit`` and now holds numbers, or vice versa.
    """
    found = values.tolist()
    if values.dtype == np.float64:
        found = [None if np.isnan(value) else value for value in found]
    known = {category: code for code, category in enumerate(column.categories, start=1)}
    n_known = len(known)
    kinds = {isinstance(value, str) for value in set(found) if value is not None}
    if kinds and kinds.isdisjoint({isinstance(category, str) for category in column.categories}):
        now, before = ("strings", "numbers") if True in kinds else ("numbers", "strings")
        raise TypeError(f"column {column.name!r} holds {now}; in fit it held {before}.")
    codes = (n_known + 1 if value is None else known.get(value, 0) for value in found)
    return np.fromiter(codes, dtype=np.int64, count=len(found))
