"""Weights of images where their pixels are counted."""

from __future__ import annotations

from typing import Any

import numpy as np


def weights_of_images(sample_weight: Any, n_images: int) -> np.ndarray | None:
    """Return the weights of images, float64 of shape (n_images,), or None where all count alike.

    Raises
    ------
    ValueError
        If there is not one finite weight of 0 or more for each image.
    """
    if sample_weight is None:
        return None
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


def no_pixels(name: str, kind: str) -> ValueError:
    """Return the error where no pixel counts."""
    return ValueError(
        f"{name} has no pixel that counts: {kind}, or its image has a weight of 0. Give at least one known "
        "pixel."
    )
