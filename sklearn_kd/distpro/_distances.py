"""Distances between the feature maps of a student and a teacher, both of shape (B, C, H, W)."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from sklearn_kd.errors._did_you_mean import did_you_mean

Distance = Callable[[Tensor, Tensor], Tensor]


def hcl(student: Tensor, teacher: Tensor) -> Tensor:
    """Hierarchical context loss (Chen et al. 2021, "Distilling knowledge via knowledge review").

    Average the maps down to 4×4, 2×2 and 1×1, as far as these are smaller than the maps, and
    return a weighted mean of the mean squared differences at all sizes. The weight is 1 for the
    maps themselves and half of the previous one at each smaller size.

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


# The names that ``DistProClassifier(distance=...)`` takes.
DISTANCES: dict[str, Distance] = {"hcl": hcl, "mse": F.mse_loss, "l1": F.l1_loss}


def checked_distance(distance: str | Distance) -> Distance:
    """Return the distance of this name, or the user's own function.

    Raises
    ------
    ValueError
        If the name is not known.
    TypeError
        If it is a class: called with two maps, it makes an object.
    """
    if isinstance(distance, type):
        name = distance.__name__
        raise TypeError(f"distance={name} is a class. Give an object: {name}().")
    if callable(distance):
        return distance
    if distance not in DISTANCES:
        raise ValueError(
            f"distance={distance!r} is not known.{did_you_mean(distance, DISTANCES)} Give one of "
            f"{list(DISTANCES)}, or a callable of the student's and the teacher's map."
        )
    return DISTANCES[distance]
