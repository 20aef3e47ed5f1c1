"""Convert maps of numbers on the device between the units of y and standardised ones."""

from __future__ import annotations

import numpy as np
from torch import Tensor


class NumberMaps:
    """Convert numbers of pixels between the units of y and standardised ones, float32; NaN: no target.

    Parameters
    ----------
    mean, scale : ndarray of shape (1,)
        Subtracted mean, and divisor.
    """

    def __init__(self, mean: np.ndarray, scale: np.ndarray):
        self.mean, self.scale = float(mean[0]), float(scale[0])

    def given(self, codes: Tensor) -> Tensor:
        """Convert standardised maps to the units of y."""
        return codes * self.scale + self.mean

    def codes(self, maps: Tensor) -> Tensor:
        """Standardise maps in the units of y."""
        return (maps.float() - self.mean) / self.scale

    def check(self, maps: Tensor) -> None:
        """Raise ValueError if there are infinite numbers."""
        if bool(maps.isinf().any()):
            raise ValueError(
                "augment returned maps with infinity. Fill pixels without a target with NaN; if "
                "numbers in the units of y overflow float32, divide y by a constant."
            )
