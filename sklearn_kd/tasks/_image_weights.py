"""Weights of images in scores and metrics."""

from __future__ import annotations

from typing import Any

import numpy as np


def checked_image_weights(sample_weight: Any, n_images: int) -> np.ndarray:
    """Return the weights of images, float64 of shape (n_images,); ones where there are none.

    Raises
    ------
    ValueError
        If there is not one finite weight of 0 or more for each image.
    """
    if sample_weight is None:
        return np.ones(n_images)
    given = np.asarray(sample_weight, dtype=np.float64)
    if given.shape not in ((n_images,), (n_images, 1)):
        raise ValueError(
            f"sample_weight has shape {given.shape}, and there are {n_images} images. Give one weight for "
            f"each image, shape ({n_images},)."
        )
    if not (np.isfinite(given) & (given >= 0)).all():
        raise ValueError(
            "sample_weight has negative or infinite numbers or NaN. Give a finite weight of 0 or more for "
            "each image."
        )
    return given.reshape(-1)
