"""Parts shared by DistPro's transforms and the terms of maps: a convolution, a resize, a distance."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def normalised_convolution(c_in: int, c_out: int, kernel: int) -> nn.Sequential:
    """Return a convolution that keeps height and width, followed by batch normalisation."""
    # No bias: batch normalisation would subtract it.
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(c_out)
    )


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map to another height and width, by nearest pixels."""
    return x if tuple(x.shape[2:]) == tuple(size) else F.interpolate(x, size=size, mode="nearest")


def mean_squared(student: Tensor, teacher: Tensor, row_weight: Tensor | None = None) -> Tensor:
    """Return the mean squared difference of two arrays, shape (); rows may have weights.

    Parameters
    ----------
    student, teacher : Tensor of shape (B, ...)
    row_weight : Tensor of shape (B,) or None, default=None
        Weights of the rows, with mean 1 over the training set.
    """
    if row_weight is None:
        return F.mse_loss(student, teacher)
    rows = (student - teacher).square().flatten(start_dim=1).mean(dim=1)
    return (row_weight.to(rows) * rows).mean()


def hcl(student: Tensor, teacher: Tensor, row_weight: Tensor | None = None) -> Tensor:
    """Return the hierarchical context loss (Chen et al. 2021, "Distilling knowledge via knowledge review").

    The maps are averaged down to those of 4×4, 2×2 and 1×1 that are smaller than the maps. The loss is a
    weighted mean of the mean squared differences at all sizes. The weight is 1 for the maps themselves, and
    halves at each smaller size.

    Parameters
    ----------
    student, teacher : Tensor of shape (B, C, H, W)
    row_weight : Tensor of shape (B,) or None, default=None
        Weights of the rows, with mean 1 over the training set.

    Returns
    -------
    Tensor of shape ()
    """
    loss, total, weight = mean_squared(student, teacher, row_weight), 1.0, 1.0
    for size in (4, 2, 1):
        if size < min(student.shape[2:]):
            weight /= 2
            ours, theirs = (F.adaptive_avg_pool2d(maps, size) for maps in (student, teacher))
            loss = loss + weight * mean_squared(ours, theirs, row_weight)
            total += weight
    return loss / total
