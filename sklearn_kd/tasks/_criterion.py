"""Regression losses of a student's outputs, target by target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Bound of the logarithm of a variance, ±: variances from 5e-5 to 2e4, in units of y's variance.
_MOST_LOG_VARIANCE = 10.0


def squared_errors(outputs: Tensor, targets: Tensor, parameter: Any = None) -> Tensor:
    """Return (f − y)², shape (..., m)."""
    return (outputs - targets) ** 2


def absolute_errors(outputs: Tensor, targets: Tensor, parameter: Any = None) -> Tensor:
    """Return abs(f − y), shape (..., m)."""
    return (outputs - targets).abs()


def huber_errors(outputs: Tensor, targets: Tensor, width: Any) -> Tensor:
    """Return e²/2 for errors e up to the width w, and w (e − w/2) for larger ones, shape (..., m)."""
    error = (outputs - targets).abs()
    # min(e, w) (e − min(e, w)/2) has the same values, and both derivatives.
    inner = torch.minimum(error, torch.as_tensor(width).to(error).expand_as(error))
    return inner * (error - inner / 2)


def berhu_errors(outputs: Tensor, targets: Tensor, width: Any) -> Tensor:
    """Return abs(e) for errors e up to the width w, and (e² + w²) / (2w) for larger ones, shape (..., m)."""
    error = (outputs - targets).abs()
    # abs(e) + max(abs(e) − w, 0)² / (2w) has the same values, and both derivatives.
    return error + (error - width).clamp(min=0) ** 2 / (2 * width)


def quantile_errors(outputs: Tensor, targets: Tensor, quantile: Any) -> Tensor:
    """Return the pinball loss: q (y − f) where y is above f, and (1 − q)(f − y) where it is below."""
    below = targets - outputs
    return torch.maximum(quantile * below, (quantile - 1) * below)


def gaussian_errors(outputs: Tensor, targets: Tensor, parameter: Any = None) -> Tensor:
    """Return −log N(y; mean, variance) − log(2π)/2, shape (..., m), of outputs of shape (..., 2m)."""
    mean, log_variance = gaussian_parameters(outputs)
    return (log_variance + (targets - mean) ** 2 * (-log_variance).exp()) / 2


def gaussian_parameters(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means and the logarithms of the variances, shape (..., m) each, of outputs (..., 2m)."""
    mean, free = outputs.chunk(2, dim=-1)
    # Bounded smoothly, since the gradient would vanish beyond an edge.
    return mean, _MOST_LOG_VARIANCE * torch.tanh(free / _MOST_LOG_VARIANCE)


class _Kind(NamedTuple):
    errors: Callable[[Tensor, Tensor, Any], Tensor]
    outputs_per_target: int = 1


_KINDS = {
    "squared_error": _Kind(squared_errors),
    "absolute_error": _Kind(absolute_errors),
    "huber": _Kind(huber_errors),
    "berhu": _Kind(berhu_errors),
    "quantile": _Kind(quantile_errors),
    "gaussian_nll": _Kind(gaussian_errors, outputs_per_target=2),
}
CRITERIA = tuple(_KINDS)


class Criterion(NamedTuple):
    """The loss on y of a regressor, on D_val and, with a weight, in training.

    Attributes
    ----------
    name : str
        One of ``CRITERIA``.
    parameter : float or None
        Width of "huber" and "berhu", quantile of "quantile", None for others.
    """

    name: str = "squared_error"
    parameter: float | None = None

    @property
    def outputs_per_target(self) -> int:
        """Number of the student's outputs for each target."""
        return _KINDS[self.name].outputs_per_target

    def errors(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the losses of targets of shape (..., m), one by one."""
        return _KINDS[self.name].errors(outputs, targets, self.parameter)
