"""Clip the Euclidean norm of the gradient of one student, or of each of several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import torch
from skorch.callbacks import Callback, GradientNormClipping
from torch import Tensor, nn

from sklearn_kd.bilevel._optimizer_response import Clipping, global_norm
from sklearn_kd.runtime._devices import as_number


def clip_gradients(modules: Iterable[nn.Module], limit: float) -> Clipping:
    """Clip the norm of all gradients of these modules together, in place.

    The result equals that of ``torch.nn.utils.clip_grad_norm_`` bit for bit, in two thirds of the time: if
    reading a number is free, a gradient that is short enough is not multiplied.
    """
    gradients = _gradients(modules)
    clipping = Clipping(limit, global_norm(gradients))
    factor = clipping.factor()
    known = as_number(factor)
    if isinstance(known, Tensor) or known != 1.0:
        torch._foreach_mul_(gradients, factor)
    return clipping


def clip_stacked_gradients(gradients: Sequence[Tensor], limit: float) -> Clipping:
    """Clip the gradient norm of each of K students, in place. Each tensor has shape (K, ...)."""
    rows = [g.reshape(len(g), g[0].numel()) for g in gradients]
    norms = torch.stack([torch.linalg.vector_norm(row, dim=1) for row in rows])
    clipping = Clipping(limit, torch.linalg.vector_norm(norms, dim=0)[:, None])
    factor = clipping.factor()
    for g in gradients:
        g.mul_(factor.reshape(-1, *[1] * (g.ndim - 1)))
    return clipping


def clipping_of_callbacks(
    callbacks: Iterable[tuple[str, Callback]], modules: Iterable[nn.Module]
) -> Clipping | None:
    """Return the clipping of the Euclidean norm that callbacks will do, or None.

    Several callbacks clip like the one with the smallest limit.
    """
    limits = [limit for _, callback in callbacks if (limit := norm_limit(callback)) is not None]
    return Clipping(min(limits), global_norm(_gradients(modules))) if limits else None


def norm_limit(callback: Callback) -> float | None:
    """Return the Euclidean norm that a callback clips gradients to, or None if it does something else."""
    if isinstance(callback, GradientNormClipping) and callback.gradient_clip_norm_type == 2:
        return callback.gradient_clip_value
    return None


def _gradients(modules: Iterable[nn.Module]) -> list[Tensor]:
    weights = chain.from_iterable(module.parameters() for module in modules)
    return [w.grad for w in weights if w.grad is not None]
