"""Divide rows by their norms."""

from __future__ import annotations

import torch
from torch import Tensor

# Rows with a smaller norm count as rows of zeros.
_SMALLEST_NORM = 1e-12


def unit_rows(rows: Tensor) -> Tensor:
    """Divide the rows by their Euclidean norms; a row of zeros stays, with derivatives of 0.

    Parameters
    ----------
    rows : Tensor of shape (B, D)

    Returns
    -------
    Tensor of shape (B, D)
    """
    squares = rows.square().sum(dim=1, keepdim=True)
    is_zero = squares <= _SMALLEST_NORM**2
    # The root of 1 takes the place of the root of 0, whose derivative is not finite.
    return (rows / torch.where(is_zero, 1.0, squares).sqrt()).masked_fill(is_zero, 0.0)
