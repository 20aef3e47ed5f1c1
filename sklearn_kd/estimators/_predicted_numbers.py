"""From a student's outputs to the numbers that a regressor predicts."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.tasks._regression import Regression


def predicted_numbers(
    task: Regression, outputs: Tensor, return_std: bool
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Return the predictions in the units of y, and their standard deviations with ``return_std``.

    Parameters
    ----------
    task : Regression
    outputs : Tensor of shape (n, K) or (n, K, h, w)
        The student's, on the CPU.
    return_std : bool

    Raises
    ------
    ValueError
        If outputs are not finite, or the loss on y learns no variance.
    """
    wrong = ~torch.isfinite(outputs).flatten(1).all(dim=1)
    if bool(wrong.any()):
        raise ValueError(
            f"X has {int(wrong.sum())} rows, such as row {int(wrong.nonzero()[0])}, for which the "
            "student's outputs overflow float32. Are they scaled as the rows given to fit?"
        )
    if not return_std:
        return task.predictions(outputs)
    if task.criterion.name != "gaussian_nll":
        raise ValueError(
            f"return_std=True, but {task.criterion.name!r}, the loss on y in fit, learns no variance. "
            "Fit with loss='gaussian_nll'."
        )
    return task.predictions(outputs), task.deviations(outputs)
