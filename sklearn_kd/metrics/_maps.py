"""Checks of maps that are compared pixel by pixel."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from sklearn_kd.errors._masked_arrays import refuse_masked
from sklearn_kd.tasks._image_weights import weights_of_images


def checked_maps(y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return two arrays of one shape, (n, H, W) or another of n rows, and the weights of the rows.

    One dimension will do: scorers of callbacks see the known pixels as rows.

    Raises
    ------
    ValueError
        If the arrays differ in shape or are empty, or there is not one weight of 0 or more for each row.
    """
    for values, name in ((y_true, "y_true"), (y_pred, "y_pred")):
        refuse_masked(values, name)
    true, predicted = np.asarray(y_true), np.asarray(y_pred)
    if true.shape != predicted.shape or not true.ndim:
        raise ValueError(
            f"y_true has shape {true.shape} and y_pred {predicted.shape}. Give maps of one size: one target "
            "and one prediction for each pixel."
        )
    if not true.size:
        raise ValueError(f"y_true has shape {true.shape}: there are no pixels to compare.")
    weight = weights_of_images(sample_weight, len(true))
    return true, predicted, np.ones(len(true)) if weight is None else weight


def check_ignored(ignore_index: Any) -> None:
    """Raise ValueError unless it is None or a whole number, which labels of pixels can equal."""
    whole = isinstance(ignore_index, (Real, np.bool_)) and float(ignore_index).is_integer()
    if ignore_index is not None and not whole:
        raise ValueError(
            f"ignore_index={ignore_index!r} must be the label of unknown pixels, one whole number, or None."
        )
