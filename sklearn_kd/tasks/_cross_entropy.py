"""The validation loss of classification, and the temperature that minimises it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from sklearn_kd.tasks._targets import Targets, mean_rows, share_of_rows

# Range in which to search log T_val: a student that knows nothing has no finite optimum.
LOG_VAL_TEMPERATURE_RANGE = (-3.0, 3.0)


def labels_rows(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return log σ(z)_y by row, shape (..., B, 1), and σ(z) − onehot(y), shape (..., B, K)."""
    log_p = z.log_softmax(dim=-1)
    return hard_rows(log_p, log_p.exp(), y)


def hard_rows(log_p: Tensor, p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same from log σ(z) and σ(z), which is overwritten."""
    y = y.unsqueeze(-1)
    return log_p.gather(-1, y), p.scatter_(-1, y, -1.0, reduce="add")


@torch.no_grad()
def validation_loss(logits: Tensor, targets: Targets, val_temperature: Any = 1.0) -> tuple[Tensor, Tensor]:
    """Return L_val = CE(σ(z/T_val), y), and ∂L_val/∂z of shape (B, K); the teacher is not used."""
    as_it_is = isinstance(val_temperature, float) and val_temperature == 1.0
    log_p_y, A = labels_rows(logits if as_it_is else logits / val_temperature, targets.labels)
    r = share_of_rows(A, targets.weight)
    return -mean_rows(log_p_y, targets.weight), r if as_it_is else r / val_temperature


@torch.no_grad()
def validation_losses(logits: Tensor, targets: Targets, val_temperature: Any = 1.0) -> Tensor:
    """Return each row's part of L_val, shape (B,), with L_val as their mean."""
    rows = -labels_rows(logits / val_temperature, targets.labels)[0].squeeze(-1)
    return rows if targets.weight is None else targets.weight * rows


def optimal_val_temperature(validated: Sequence[tuple[Tensor, Targets]]) -> float:
    """Return the T_val that minimises L_val on batches of logits and targets."""
    logits = torch.cat([logits for logits, _ in validated]).cpu().double()
    labels = torch.cat([targets.labels for _, targets in validated]).cpu()
    weights = [targets.weight for _, targets in validated if targets.weight is not None]
    targets = Targets(labels, None, torch.cat(weights).cpu() if weights else None)
    found = minimize_scalar(
        lambda log_t: float(validation_loss(logits, targets, np.exp(log_t))[0]),
        bounds=LOG_VAL_TEMPERATURE_RANGE,
        method="bounded",
    )
    return float(np.exp(found.x))
