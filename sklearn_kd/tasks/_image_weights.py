"""Weights of images where their pixels are counted."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import column_or_1d


def weights_of_images(sample_weight: Any, n_images: int) -> np.ndarray | None:
    """Return the weights of images as float64, or None where all count alike.

    Raises
    ------
    ValueError
        If there is not one weight of 0 or more for each image.
    """
    if sample_weight is None:
        return None
    weight: np.ndarray = column_or_1d(np.asarray(sample_weight, dtype=np.float64))
    if len(weight) != n_images:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {[n_images, len(weight)]}. Give "
            "sample_weight a weight for each image."
        )
    if not (weight >= 0).all():
        raise ValueError(
            "sample_weight has negative numbers or NaN. Give a weight of 0 or more for each image."
        )
    return weight


def no_pixels(name: str, kind: str) -> ValueError:
    """Return the error where no pixel counts."""
    return ValueError(
        f"{name} has no pixel that counts: {kind}, or its image has a weight of 0. Give at least one known "
        "pixel."
    )
