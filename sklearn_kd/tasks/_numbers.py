"""Check numeric targets given to ``fit``. Errors name the argument."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite

from sklearn_kd.errors._context import error_context


def checked_numbers(y: Any, n_rows: int, name: str = "y", of: str = "X") -> np.ndarray:
    """Check targets, and return them as float64 of shape (n_rows,) or (n_rows, n_targets).

    Parameters
    ----------
    y : array-like
    n_rows : int
        Number of rows that need a target.
    name, of : str
        What messages call the targets and the rows.

    Raises
    ------
    ValueError
        If they are not finite real numbers, have another shape, or their number is not that of the rows.
    """
    try:
        given = np.asarray(y)
    except ValueError as error:
        raise ValueError(
            f"{name} has rows of differing lengths ({error}). Give the same number of targets for each row "
            f"of {of}."
        ) from error
    values = as_floats(given, name)
    if values.ndim not in (1, 2) or values.shape[1:] == (0,):
        raise ValueError(
            f"{name} has shape {values.shape}; a regressor takes one number for each row of {of}, shape "
            f"({n_rows},), several, shape ({n_rows}, n_targets), or a map of an image, shape ({n_rows}, "
            "height, width)."
        )
    if len(values) != n_rows:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {[n_rows, len(values)]}. {of} has "
            f"{n_rows} rows and {name} {len(values)} targets; both must be equal. Give one target per row."
        )
    _check_present(values, name, of)
    with error_context(name):
        assert_all_finite(values, input_name=name)
    return values


def _check_present(values: np.ndarray, name: str, of: str) -> None:
    """Refuse NaN among the targets of rows."""
    missing = np.flatnonzero(np.isnan(values.reshape(len(values), -1)).any(axis=1))
    if len(missing):
        unlabeled = ", or give the rows to fit as X_unlabeled, without targets" * (of == "X")
        raise ValueError(
            f"Input {name} contains NaN: targets are missing in {len(missing)} of {len(values)} rows, such "
            f"as row {missing[0]}. Leave these rows out of {of} and {name}{unlabeled}."
        )


def as_floats(given: np.ndarray, name: str, *, keep_float32: bool = False) -> np.ndarray:
    """Return numbers as float64; refuse complex numbers, words and dates.

    With ``keep_float32``, numbers that float32 holds exactly have that type. The result may be ``given``.
    """
    if given.dtype.kind == "c":
        raise ValueError(f"{name} is complex. Complex data not supported: give real numbers.")
    if given.dtype.kind in "biuf":
        exact = keep_float32 and np.can_cast(given.dtype, np.float32)
        return given.astype(np.float32 if exact else np.float64, copy=not keep_float32)
    words = given.dtype.kind in "SU" or (
        given.dtype.kind == "O" and any(isinstance(value, (str, bytes)) for value in given.ravel()[:1000])
    )
    if words:
        raise ValueError(
            f"{name} has words, such as {str(given.ravel()[0])!r}: Unknown label type for a regressor. "
            "Convert them to numbers, or use DistilledClassifier if they name classes."
        )
    try:
        if given.dtype.kind != "O":
            raise TypeError(f"it is of dtype {given.dtype}")
        if given.ndim == 0:
            raise TypeError(f"it is a {type(given[()]).__name__}")
        return given.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} does not hold numbers: {error}. Give real numbers.") from error
