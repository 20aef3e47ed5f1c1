"""Check weights of images for counts of their pixels."""

from __future__ import annotations

from typing import Any

import numpy as np


def weights_of_images(sample_weight: Any, n_images: int) -> np.ndarray | None:
    """Return the weights of images as float64, or None if all count alike.

    Raises
    ------
    ValueError
        If there is not one finite weight of 0 or more for each image.
    """
    if sample_weight is None:
        return None
    weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.shape not in ((n_images,), (n_images, 1)):
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {[n_images, *weight.shape]}. Give "
            f"sample_weight a weight for each image: it has shape {weight.shape}, but needs ({n_images},)."
        )
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise ValueError(
            "sample_weight has negative numbers, infinity or NaN. Give a finite weight of 0 or more for each "
            "image."
        )
    return weight.reshape(-1)


def no_pixels(name: str, kind: str) -> ValueError:
    """Return the error for the case that no pixel counts."""
    return ValueError(
        f"{name} has no pixel that counts: {kind}, or its image has a weight of 0. Give at least one known "
        "pixel."
    )
