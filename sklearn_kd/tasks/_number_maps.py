"""Maps of numbers as tensors on the device: in the units of y, and standardised."""

from __future__ import annotations

import numpy as np
from torch import Tensor


class NumberMaps:
    """Numbers of pixels in the units of y and standardised, as float32 tensors; NaN: no target.

    Parameters
    ----------
    mean, scale : ndarray of shape (1,)
        What is subtracted, and what is divided by.
    """

    def __init__(self, mean: np.ndarray, scale: np.ndarray):
        self.mean, self.scale = float(mean[0]), float(scale[0])

    def given(self, codes: Tensor) -> Tensor:
        """Return standardised maps in the units of y."""
        return codes * self.scale + self.mean

    def codes(self, maps: Tensor) -> Tensor:
        """Return maps in the units of y standardised."""
        return (maps.float() - self.mean) / self.scale

    def check(self, maps: Tensor) -> None:
        """Raise ValueError if there are infinite numbers."""
        if bool(maps.isinf().any()):
            raise ValueError(
                "augment returned maps with infinity. Fill in pixels without a target with NaN; where "
                "numbers in the units of y overflow float32, divide y by a constant."
            )
