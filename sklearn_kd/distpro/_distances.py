"""Distances between the feature maps of a student and a teacher, both of shape (B, C, H, W)."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from sklearn_kd.errors._did_you_mean import did_you_mean
from sklearn_kd.losses._map_parts import hcl

Distance = Callable[[Tensor, Tensor], Tensor]

# The names that ``DistProClassifier(distance=...)`` takes.
DISTANCES: dict[str, Distance] = {"hcl": hcl, "mse": F.mse_loss, "l1": F.l1_loss}


def checked_distance(distance: str | Distance) -> Distance:
    """Return the distance with this name, or the user's own function.

    Raises
    ------
    ValueError
        If the name is not known.
    TypeError
        If it is a class. Called with two maps, a class makes an object, not a number.
    """
    if isinstance(distance, type):
        name = distance.__name__
        raise TypeError(f"distance={name} is a class. Give an object: {name}().")
    if callable(distance):
        return distance
    if distance not in DISTANCES:
        raise ValueError(
            f"distance={distance!r} is not known.{did_you_mean(distance, DISTANCES)} Give one of "
            f"{list(DISTANCES)}, or a callable (student map, teacher map) -> number."
        )
    return DISTANCES[distance]
