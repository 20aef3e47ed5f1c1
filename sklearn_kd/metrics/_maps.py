"""Checks of maps to be compared pixel by pixel."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from sklearn_kd.errors._masked_arrays import refuse_masked
from sklearn_kd.tasks._image_weights import weights_of_images


def checked_maps(y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return two arrays with the same shape, (n, H, W) or another with n rows, and the weights of the rows.

    One dimension is allowed: scorers of callbacks get the known pixels as rows.

    Raises
    ------
    ValueError
        If the arrays differ in shape or are empty, or unless there is a weight of at least 0 for each row.
    """
    for values, name in ((y_true, "y_true"), (y_pred, "y_pred")):
        refuse_masked(values, name)
    true, predicted = np.asarray(y_true), np.asarray(y_pred)
    if true.shape != predicted.shape or not true.ndim:
        raise ValueError(
            f"y_true has shape {true.shape} and y_pred {predicted.shape}. Give maps of the same size, with "
            "one target and one prediction for each pixel."
        )
    if not true.size:
        raise ValueError(f"y_true has shape {true.shape}: it has no pixels to compare. Give some maps.")
    weight = weights_of_images(sample_weight, len(true))
    return true, predicted, np.ones(len(true)) if weight is None else weight


def check_ignored(ignore_index: Any) -> None:
    """Raise ValueError unless ``ignore_index`` is None or a whole number, as labels of pixels are."""
    whole = isinstance(ignore_index, (Real, np.bool_)) and float(ignore_index).is_integer()
    if ignore_index is not None and not whole:
        raise ValueError(
            f"ignore_index={ignore_index!r} must be the label of unknown pixels, one whole number, or None."
        )
