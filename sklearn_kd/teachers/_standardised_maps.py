"""Standardise a teacher's maps of numbers, if y has a map for each image."""

from __future__ import annotations

import torch
from torch import Tensor

from sklearn_kd.tasks._pixels import resized
from sklearn_kd.tasks._regression import MOST_DEVIATIONS, Regression
from sklearn_kd.teachers._logit_checks import WrongAnswerError


def in_size_of(numbers: Tensor, task: Regression) -> Tensor:
    """Resize maps to the size of those in y, so that several can be averaged; leave rows as they are."""
    return resized(numbers, task.map_shape) if task.map_shape else numbers


def standardised_maps(values: Tensor, n_rows: int, task: Regression, who: str) -> Tensor:
    """Standardise maps given in the units of y; return float32, shape (n_rows, 1, h, w).

    Parameters
    ----------
    values : Tensor of shape (n_rows, h, w) or (n_rows, 1, h, w)
        Maps of any height and width.
    n_rows : int
    task : Regression
    who : str
        Name of the teacher in messages.

    Raises
    ------
    ValueError
        If the maps have another shape.
    WrongAnswerError
        If an image has NaN, infinity, or numbers whose squares overflow float32.
    """
    shape = tuple(values.shape)
    if len(shape) == 4 and shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 3 or len(values) != n_rows or 0 in shape:
        raise ValueError(
            f"{who} must predict a map for each image, shape ({n_rows}, height, width) or ({n_rows}, 1, "
            f"height, width), of any height and width; it returned shape {shape}."
        )
    wrong = ~torch.isfinite(values).flatten(1).all(dim=1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        found = "NaN" if bool(values[row].isnan().any()) else "infinity"
        raise WrongAnswerError(
            f"{who}:",
            row,
            f" of X, an image, has {found} in its map. Give finite numbers for all pixels: the student "
            "follows the teacher in pixels without a target too.",
        )
    numbers = torch.as_tensor(task.standardised(values.numpy()))
    far = (numbers.abs() > MOST_DEVIATIONS).flatten(1).any(dim=1)
    if bool(far.any()):
        row = int(far.nonzero()[0])
        raise WrongAnswerError(
            f"{who}:",
            row,
            f" of X has {values[row].abs().max():.3g} in its map, more than {MOST_DEVIATIONS:g} standard "
            "deviations from the mean of y: no student can learn that. Predict in the units of y.",
        )
    return numbers[:, None]
