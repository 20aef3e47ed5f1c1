"""Distances between a student's and a teacher's feature maps, both of shape (B, C, H, W)."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from sklearn_kd.errors._did_you_mean import did_you_mean

Distance = Callable[[Tensor, Tensor], Tensor]


def hcl(student: Tensor, teacher: Tensor) -> Tensor:
    """Hierarchical context loss (Chen et al. 2021, "Distilling knowledge via knowledge review").

    The mean squared difference of the maps, and of the maps averaged down to 4×4, 2×2 and 1×1
    where that is smaller than they are, with the weights 1, 1/2, 1/4, 1/8, halved only where
    used, and divided by the sum of those used.

    Parameters
    ----------
    student, teacher : Tensor of shape (B, C, H, W)

    Returns
    -------
    Tensor of shape ()
    """
    loss, total, weight = F.mse_loss(student, teacher), 1.0, 1.0
    for size in (4, 2, 1):
        if size < min(student.shape[2:]):
            weight /= 2
            ours, theirs = (F.adaptive_avg_pool2d(maps, size) for maps in (student, teacher))
            loss = loss + weight * F.mse_loss(ours, theirs)
            total += weight
    return loss / total


# By the names that ``DistProClassifier(distance=...)`` takes.
DISTANCES: dict[str, Distance] = {"hcl": hcl, "mse": F.mse_loss, "l1": F.l1_loss}


def checked_distance(distance: str | Distance) -> Distance:
    """The distance of this name, or the user's own.

    Raises
    ------
    ValueError
        If the name is not known.
    """
    if callable(distance):
        return distance
    if distance not in DISTANCES:
        raise ValueError(
            f"distance={distance!r} is not known.{did_you_mean(distance, DISTANCES)} Give one of "
            f"{list(DISTANCES)}, or a callable of the student's and the teacher's map."
        )
    return DISTANCES[distance]
