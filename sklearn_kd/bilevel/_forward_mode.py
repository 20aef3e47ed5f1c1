"""Compute hypergradients over many steps in forward mode, by propagating the tangents of the weights.

The tangent Z_j = ∂w/∂a_j is the derivative by a small change of the metaparameter a_j that is held since the
tangents were set to zero. A training step w' = U(w, state, g(w, a)) maps the tangents to

    dg_j = H Z_j + ∂g/∂a_j,      Z_j' = ∂U/∂w Z_j + ∂U/∂state dstate_j + ∂U/∂g dg_j,

where H is the curvature of the batch's training loss. The second equation is the optimizer's own derivative
(:mod:`sklearn_kd.bilevel._optimizer_tangent`). At any time, h_j = ⟨∇L_val(w), Z_j⟩ is the hypergradient over
all steps since the tangents were zero. With Z_j = 0 before the step, h_j is the greedy hypergradient of
:mod:`sklearn_kd.bilevel._hypergradient`.

The metaparameters act only through the outputs s of the training pass. With J = ∂s/∂w, r = ∂F/∂s and
r_j = ∂²F/∂s ∂a_j:

- "hessian": dg_j = d/dε [J(w + ε Z_j)ᵀ (r(s(w + ε Z_j)) + ε r_j)] at ε = 0, by a finite difference of
  gradients. It is exact. Its product over many steps has no bound: a tangent grows wherever the loss curves
  downwards, or upwards by more than 2 / lr, like the distance between two trainings from neighbouring
  weights.
- "gauss_newton": dg_j = Jᵀ (∂²F/∂s² J Z_j + r_j). This is H without the curvature of the network itself. The
  tangents are those of a student that is linear in its weights at each step. There is no negative curvature,
  and the tangents stay bounded over many epochs.

Both take one more forward and one more backward pass for each component.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sklearn_kd.bilevel._hypergradient import (
    Contraction,
    is_directionless,
    moved_along,
)
from sklearn_kd.bilevel._long_horizon import (
    BatchLoss,
    LongHorizonEstimator,
    LossGradient,
    curvature_product,
    step_along,
    zeros_for_none,
)
from sklearn_kd.bilevel._optimizer_response import global_norm, gradient_or_zeros
from sklearn_kd.bilevel._optimizer_tangent import optimizer_tangent
from sklearn_kd.runtime._devices import as_number
from sklearn_kd.runtime._random_state import preserved_torch_state, set_random_state
from sklearn_kd.runtime._ranks import ALONE, Ranks
from sklearn_kd.runtime._snapshots import BufferCopies, BufferSnapshot, undo_where

FORWARD_METHODS = {
    "gauss_newton": ("finite_difference", "central_difference", "jvp"),
    "hessian": ("finite_difference", "central_difference"),
}


class ForwardHypergradient(LongHorizonEstimator):
    """Carry ∂w/∂a through training steps, and take hypergradients over all of them.

    In each iteration, call :meth:`begin`, run the training forward pass, call :meth:`after_forward`, take the
    optimizer's step, and call :meth:`advance`. Between two iterations, :meth:`over_steps` may be called. For
    m components, it holds m + 2 copies of the weights, m more during an iteration, and m copies of each
    tensor of the optimizer's state that is as large.

    Parameters
    ----------
    student : nn.Module
    optimizer : Optimizer
        SGD, Adam or AdamW.
    loss_gradient : callable(Tensor) -> Tensor
        Maps outputs s of this iteration's training batch to ∂F/∂s, at this iteration's metaparameters.
    decay : float, default=1.0
        Factor on the tangents before each step. 0 gives the greedy hypergradient of one step.
    curvature : {"gauss_newton", "hessian"}, default="gauss_newton"
    method : str, default="finite_difference"
        One of ``FORWARD_METHODS[curvature]``: how J Z_j, or the difference of gradients, is computed.
    forward : callable or None, default=None
        The student's forward pass, if it is not the student itself but, for example, compiled.
    ranks : Ranks, default=ALONE
        The processes that share each batch. They exchange the tangents of the gradients, m times the weights,
        in each iteration.
    """

    def __init__(
        self,
        student: nn.Module,
        optimizer: Optimizer,
        *,
        loss_gradient: LossGradient,
        decay: float = 1.0,
        curvature: str = "gauss_newton",
        method: str = "finite_difference",
        forward: Callable[[Tensor], Tensor] | None = None,
        ranks: Ranks = ALONE,
    ):
        super().__init__(student, optimizer, method=method, forward=forward, ranks=ranks)
        self.loss_gradient, self.decay, self.curvature = loss_gradient, decay, curvature
        self.tangent = optimizer_tangent(optimizer, self.weights)
        self.Z: list[Tensor] = []

    @property
    def retains_graph(self) -> bool:
        """Whether the training pass is backpropagated through more than once."""
        return self.curvature == "gauss_newton"

    def begin(self) -> None:
        super().begin()
        self.buffers = self.buffers_before = BufferSnapshot(self.with_buffers)
        self.tangent.before_step()

    def restart(self) -> None:
        """Set the tangents to zero before the next step."""
        self.Z = []

    def after_forward(
        self,
        inputs: tuple[Any, ...],
        outputs: Tensor,
        evaluation: Contraction,
        logits: Tensor,
        n_rows: int | None = None,
        n_before: int = 0,
    ) -> None:
        super().after_forward(inputs, outputs, evaluation, logits, n_rows, n_before)
        (self.noted,) = self.passes  # of the whole batch, at once
        self.derivatives = evaluation.derivatives()
        if self.curvature == "gauss_newton":
            copies = BufferCopies(self.buffers_before)
            with preserved_torch_state(self.device), copies as self.noted.buffers, torch.no_grad():
                self._tangents_of_gradient = self._gauss_newton_tangents(outputs)
            self.noted.buffers = self.buffers_before

    def advance(self, skipped: Tensor | None = None) -> None:
        """Carry the tangents through the last step.

        Parameters
        ----------
        skipped : Tensor of shape () or None, default=None
            If true, the step was undone, and the tangents are not changed.
        """
        self.begun = False
        if not self.Z:
            m = len(self.derivatives)
            self.Z = [torch.zeros((m, *w.shape), dtype=w.dtype, device=w.device) for w in self.weights]
            self.tangent.begin(m)
        before = None if skipped is None else [t.clone() for t in self._tangents()]
        with torch.no_grad():
            torch._foreach_mul_(self.Z, self.decay)
            self.tangent.damp(self.decay)
            if self.curvature == "hessian":
                self._tangents_of_gradient = self._hessian_tangents()
            self.tangent.advance(self.Z, self._stacked_and_clipped(), self.w)
        self.passes, self._tangents_of_gradient = [], []
        if skipped is not None and before is not None:
            undo_where(skipped, self._tangents(), before)

    def over_steps(self, batches: Iterable[Any], validation_loss: BatchLoss) -> tuple[Tensor, Tensor]:
        """Return h_j = ⟨∇L_val(w), Z_j⟩, shape (m,), and L_val; both over all rows of the batches.

        h is NaN if the gradient vanishes.

        Parameters
        ----------
        batches : iterable
            Batches of D_val, with the inputs first.
        validation_loss : callable(Tensor, batch) -> (Tensor, Tensor)
            Maps the student's logits on a batch to L_val, shape (), and ∂L_val/∂logits.
        """
        with preserved_torch_state(self.device), BufferSnapshot(self.with_buffers), torch.no_grad():
            v, val_loss = self.mean_validation_gradient(batches, validation_loss)
            self.directionless = is_directionless(as_number(global_norm(v)))
            parts = [Z_w.flatten(1) @ v_w.flatten() for Z_w, v_w in zip(self.Z, v, strict=True)]
            h = torch.stack(parts).sum(dim=0)
            return torch.where(torch.as_tensor(self.directionless), torch.nan, h), val_loss

    def state_dict(self) -> dict[str, Any]:
        """Return the tangents. Call it between two iterations."""
        return {"Z": list(self.Z), "of_optimizer": dict(self.tangent.tangents) if self.Z else {}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from :meth:`state_dict`."""
        self.restart()
        if state["Z"]:
            self.tangent.begin(len(state["Z"][0]))
            self.Z = [Z.to(w) for Z, w in zip(state["Z"], self.weights, strict=True)]
            for name, tangents in self.tangent.tangents.items():
                for own, saved in zip(tangents, state["of_optimizer"][name], strict=True):
                    own.copy_(saved)

    def _tangents(self) -> list[Tensor]:
        return [*self.Z, *(t for tangents in self.tangent.tangents.values() for t in tangents)]

    def _stacked_and_clipped(self) -> list[Tensor]:
        """Return dg of each weight, shape (m, *w.shape), through the clipping of the gradient if any."""
        of_each = self._tangents_of_gradient
        if self.clipping is not None:
            clipped = [gradient_or_zeros(w) for w in self.weights]
            of_each = [self.clipping.response(clipped, dg) for dg in of_each]
        return [torch.stack(of_weight) for of_weight in zip(*of_each, strict=True)]

    # ----------------------------------------------------------------------------------
    # dg_j by the Gauss-Newton matrix, on the graph of the training pass

    def _gauss_newton_tangents(self, outputs: Tensor) -> list[list[Tensor]]:
        of_each = []
        for j, r_j in enumerate(self.derivatives):
            dr = r_j
            if self.Z and self.decay:
                Z_j = [Z[j] for Z in self.Z]
                u = self._directional_derivative(self.noted, Z_j, step_along(self.w, Z_j))
                dr = r_j + self.decay * curvature_product(self.loss_gradient, self.noted.outputs, u)
            dr = dr if self.noted.weight == 1.0 else self.noted.weight * dr
            of_each.append(zeros_for_none(self._gradient_of(outputs, dr, retain_graph=True), self.w))
        self.ranks.mean_([dg for of_weights in of_each for dg in of_weights])
        return of_each

    # ----------------------------------------------------------------------------------
    # dg_j by the Hessian, by differences of gradients

    def _hessian_tangents(self) -> list[list[Tensor]]:
        gradients = [gradient_or_zeros(w) for w in self.weights]
        base = gradients if self.clipping is None else self.clipping.undone(gradients)
        with preserved_torch_state(self.device), BufferSnapshot(self.with_buffers):
            return [
                self._gradient_difference([Z[j] for Z in self.Z], r_j, base)
                for j, r_j in enumerate(self.derivatives)
            ]

    def _gradient_difference(self, Z_j: list[Tensor], r_j: Tensor, base: list[Tensor]) -> list[Tensor]:
        step = step_along(self.w, Z_j)
        ahead = self._gradient_at(Z_j, r_j, step)
        if self.method == "finite_difference":
            return _divided(torch._foreach_sub(ahead, base), step)
        return _divided(torch._foreach_sub(ahead, self._gradient_at(Z_j, r_j, -step)), 2 * step)

    def _gradient_at(self, Z_j: list[Tensor], r_j: Tensor, step: Any) -> list[Tensor]:
        """Return the gradient of the training loss at w + step · Z_j and a + step · e_j."""
        self.buffers.restore()
        set_random_state(self.random_state, self.device)
        with self.weights_exchanged(moved_along(self.w, Z_j, step)), torch.enable_grad():
            outputs = self.outputs_of(*self.noted.inputs)
            r = self.loss_gradient(outputs) + step * r_j
            r = r if self.noted.weight == 1.0 else self.noted.weight * r
            found = zeros_for_none(self._gradient_of(outputs, r), self.weights)
        self.ranks.mean_(found)
        return found


def _divided(tensors: Sequence[Tensor], step: Any) -> list[Tensor]:
    return [t / step for t in tensors]
