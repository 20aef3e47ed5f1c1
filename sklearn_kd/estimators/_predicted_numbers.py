"""Turn a student's outputs into the numbers that a regressor predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.estimators._prediction import iter_maps
from sklearn_kd.estimators._tiles import checked_tiling

if TYPE_CHECKING:
    from sklearn_kd.estimators._regressor import DistilledRegressor


def predicted_numbers(
    estimator: DistilledRegressor, X: Any, return_std: bool, tile: Any, overlap: Any
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Return the predictions in the units of y, and their standard deviations with ``return_std``.

    The arguments are those of ``predict``. Maps are predicted a few images at a time.

    Raises
    ------
    NotFittedError
        If the estimator has not been fitted.
    ValueError
        If outputs are not finite, the loss on y learns no variance, or the tiles cannot be used.
    """
    estimator._require_fit()
    task, tiling = estimator._task, checked_tiling(estimator, tile, overlap)
    outputs = iter_maps(estimator, X, tiling) if task.map_shape else [estimator._logits(X)]
    if return_std and task.criterion.name != "gaussian_nll":
        raise ValueError(
            f"return_std=True, but {task.criterion.name!r}, the loss on y in fit, learns no variance. "
            "Fit with loss='gaussian_nll'."
        )
    means, deviations, n_before = [], [], 0
    for some in outputs:
        _refuse_overflow(some, n_before)
        n_before += len(some)
        means.append(task.predictions(some))
        if return_std:
            deviations.append(task.deviations(some))
    return (np.concatenate(means), np.concatenate(deviations)) if return_std else np.concatenate(means)


def _refuse_overflow(outputs: Tensor, n_before: int) -> None:
    wrong = ~torch.isfinite(outputs).flatten(1).all(dim=1)
    if bool(wrong.any()):
        raise ValueError(
            f"X has {int(wrong.sum())} rows, such as row {n_before + int(wrong.nonzero()[0])}, for which the "
            "student's outputs overflow float32. Are they scaled like the rows given to fit?"
        )
