"""Warn of whole numbers that often stand for a missing target, in maps of numbers."""

from __future__ import annotations

import warnings

import numpy as np

from sklearn_kd.tasks._pixel_codes import classes_of_maps

# Numbers that stand for missing targets in many data sets.
_USUAL_CODES = (0, 255, 65535)
_SMALLEST_SHARE = 0.01
# A code is at least this many times as far from the next number as numbers are from each other on average.
_APART = 5


def warn_of_missing_codes(y: np.ndarray) -> None:
    """Warn if maps of whole numbers have 0, 255 or 65535 in many pixels, far from all other numbers.

    There must be at least two other numbers, since a mask has only 0 and 255.
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
                f"y is {code} in {100 * share:.0f} % of its pixels, far from its other numbers, "
                f"{others[0]:.0f} to {others[-1]:.0f}. If {code} marks pixels without a target, make it NaN: "
                f"np.where(y == {code}, np.nan, y).",
                UserWarning,
                stacklevel=2,
            )
