"""Checks of maps that are compared pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import check_consistent_length, column_or_1d


def checked_maps(y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return two arrays of one shape, (n, H, W) or another of n rows, and the weights of the rows.

    One dimension will do: scorers of callbacks see the known pixels as rows.

    Raises
    ------
    ValueError
        If the arrays differ in shape or are empty, or there is not one weight of 0 or more for each row.
    """
    true, predicted = np.asarray(y_true), np.asarray(y_pred)
    if true.shape != predicted.shape:
        raise ValueError(
            f"y_true has shape {true.shape} and y_pred {predicted.shape}. Give maps of one size: one target "
            "and one prediction for each pixel."
        )
    if not true.size:
        raise ValueError(f"y_true has shape {true.shape}: there are no pixels to compare.")
    if sample_weight is None:
        return true, predicted, np.ones(len(true))
    weight = column_or_1d(np.asarray(sample_weight, dtype=np.float64))
    check_consistent_length(true, weight)
    if not (weight >= 0).all():
        raise ValueError(
            "sample_weight has negative numbers or NaN. Give a weight of 0 or more for each image."
        )
    return true, predicted, weight


def no_pixels(kind: str) -> ValueError:
    """Return the error where no pixel counts."""
    return ValueError(
        f"y_true has no pixel that counts: {kind}, or its image has a weight of 0. Give at least one known "
        "pixel."
    )
