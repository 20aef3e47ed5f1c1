"""Whole numbers that often stand for a missing target, in maps of numbers."""

from __future__ import annotations

import warnings

import numpy as np

from sklearn_kd.tasks._pixel_codes import classes_of_maps

# Numbers that stand for missing targets in many data sets.
_USUAL_CODES = (0, 255, 65535)
_SMALLEST_SHARE = 0.01
# A code is so many times as far from the next number as other numbers are from each other, in the mean.
_APART = 5


def warn_of_missing_codes(y: np.ndarray) -> None:
    """Warn where maps of whole numbers have 0, 255 or 65535 in many pixels, apart from all other numbers.

    Two numbers beside it are the fewest, because a mask of 0 and 255 has no other.
    """
    if y.dtype.kind not in "iu":
        return
    numbers = classes_of_maps(y, None).astype(np.float64)
    for code in _USUAL_CODES:
        others = numbers[numbers != code]
        if len(others) == len(numbers) or len(others) < 2:
            continue
        gap, spacing = np.abs(others - code).min(), (others[-1] - others[0]) / (len(others) - 1)
        share = float((y == code).mean()) if gap > _APART * spacing else 0.0
        if share > _SMALLEST_SHARE:
            warnings.warn(
                f"y is {code} in {100 * share:.0f} % of its pixels, apart from its other numbers, "
                f"{others[0]:.0f} to {others[-1]:.0f}. If {code} marks pixels without a target, make it NaN: "
                f"np.where(y == {code}, np.nan, y).",
                UserWarning,
                stacklevel=2,
            )
