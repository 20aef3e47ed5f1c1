"""The validation loss for several labels, and the temperature that minimises it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn.functional import softplus

from sklearn_kd.tasks._cross_entropy import LOG_VAL_TEMPERATURE_RANGE
from sklearn_kd.tasks._targets import Targets, mean_rows, share_of_rows


def label_losses(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return −log of the probability that σ(z) gives each label of y, and σ(z) − y, both of z's shape."""
    y = y.to(z.dtype)
    return softplus(z) - y * z, z.sigmoid() - y


@torch.no_grad()
def validation_loss(logits: Tensor, targets: Targets, val_temperature: Any = 1.0) -> tuple[Tensor, Tensor]:
    """Return L_val, the mean of BCE(σ(z/T_val), y) over rows and labels, and ∂L_val/∂z of shape (B, k)."""
    losses, A = label_losses(logits / val_temperature, targets.labels)
    n_labels = logits.shape[-1]
    value = mean_rows(losses.mean(dim=-1, keepdim=True), targets.weight)
    return value, share_of_rows(A / n_labels, targets.weight) / val_temperature


@torch.no_grad()
def validation_losses(logits: Tensor, targets: Targets, val_temperature: Any = 1.0) -> Tensor:
    """Return each row's part of L_val, shape (B,), with L_val as their mean."""
    rows = label_losses(logits / val_temperature, targets.labels)[0].mean(dim=-1)
    return rows if targets.weight is None else targets.weight * rows


def optimal_val_temperature(validated: Sequence[tuple[Tensor, Targets]]) -> float:
    """Return the T_val, one for all labels, that minimises L_val on batches of logits and targets."""
    logits = torch.cat([logits for logits, _ in validated]).cpu().double()
    labels = torch.cat([targets.labels for _, targets in validated]).cpu()
    weights = [targets.weight for _, targets in validated if targets.weight is not None]
    targets = Targets(labels, None, torch.cat(weights).cpu() if weights else None)
    found = minimize_scalar(
        lambda log_t: float(validation_losses(logits, targets, np.exp(log_t)).mean()),
        bounds=LOG_VAL_TEMPERATURE_RANGE,
        method="bounded",
    )
    return float(np.exp(found.x))
