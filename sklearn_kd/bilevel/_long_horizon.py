"""Shared parts of hypergradients over many steps: passes over D_val, products with the loss's curvature."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from sklearn_kd.bilevel._hypergradient import HypergradientEstimator, validation_mode
from sklearn_kd.bilevel._optimizer_response import global_norm
from sklearn_kd.runtime._devices import as_number
from sklearn_kd.runtime._random_state import preserved_torch_state
from sklearn_kd.runtime._snapshots import BufferSnapshot

CURVATURES = ("gauss_newton", "hessian")

# Share of their size, in units of √epsilon, by which a finite difference moves the weights or the logits
# along a direction; never more than the direction itself, in which the metaparameters move too.
SHARE = 1.0
LARGEST_STEP = 1.0

# Maps outputs s of the student to ∂F/∂s of the training loss.
LossGradient = Callable[[Tensor], Tensor]
# Maps the student's logits on a batch of D_val, and the batch, to L_val, shape (), and ∂L_val/∂logits.
BatchLoss = Callable[[Tensor, Any], tuple[Tensor, Tensor]]


class LongHorizonEstimator(HypergradientEstimator):
    """Base of the estimators of hypergradients over many steps, which use many batches of D_val.

    The batches are any iterable, with the inputs first in each.
    """

    def validation_logits(self, batches: Iterable[Any]) -> list[Tensor]:
        """Return the student's logits on each batch, as L_val sees them."""
        with (
            preserved_torch_state(self.device),
            BufferSnapshot(self.with_buffers),
            torch.no_grad(),
            validation_mode(self.parts),
        ):
            return [self.forward(batch[0]) for batch in batches]

    def mean_validation_gradient(
        self, batches: Iterable[Any], validation_loss: BatchLoss
    ) -> tuple[list[Tensor], Tensor]:
        """Return v = ∇L_val(w) and L_val, averaged over the rows of all batches.

        Processes that share the training may all have the same batches, or each a share of them.
        """
        v = [torch.zeros_like(w) for w in self.w]
        total, n_rows = torch.zeros((), device=self.device), 0
        if self.ranks.size > 1:
            total = torch.zeros((), dtype=v[0].dtype, device=self.device)
        for batch in batches:
            n = len(batch[0])
            own, _, loss = self._validation_gradient(batch[0], _of_batch(validation_loss, batch))
            torch._foreach_add_(v, own, alpha=n)
            total, n_rows = total + n * loss, n_rows + n
        if self.ranks.size > 1:
            count = torch.tensor(float(n_rows)).to(total)
            self.ranks.sum_([*v, total, count])
            n_rows = int(count)
        torch._foreach_div_(v, n_rows)
        return v, total / n_rows


def _of_batch(validation_loss: BatchLoss, batch: Any) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    return lambda logits: validation_loss(logits, batch)


def step_along(start: Sequence[Tensor], direction: Sequence[Tensor]) -> Any:
    """Return the ε by which a finite difference moves weights, or logits, along a direction."""
    size = as_number(global_norm(list(direction)))
    step = SHARE * torch.finfo(start[0].dtype).eps ** 0.5 * as_number(global_norm(list(start)))
    if isinstance(size, Tensor):
        return torch.clamp(step / size, max=LARGEST_STEP)
    return min(step / size, LARGEST_STEP) if size > 0 else LARGEST_STEP


def curvature_product(loss_gradient: LossGradient, outputs: Tensor, u: Tensor) -> Tensor:
    """Return ∂²F/∂s² u at the outputs s, by a central difference that runs no network."""
    step = step_along([outputs], [u])
    return (loss_gradient(outputs + step * u) - loss_gradient(outputs - step * u)) / (2 * step)


def zeros_for_none(found: Sequence[Tensor | None], weights: Sequence[Tensor]) -> list[Tensor]:
    """Return gradients by weight, with zeros for missing ones."""
    return [torch.zeros_like(w) if g is None else g for g, w in zip(found, weights, strict=True)]
