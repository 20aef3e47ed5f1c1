"""Compute hypergradients of training to convergence, by the implicit function theorem.

When training has converged, ∇_w L_train(w*, a) = 0, and w* moves with the metaparameters a by
dw*/da_j = −H⁻¹ ∂g/∂a_j. Then

    h_j = −⟨∂g/∂a_j, q⟩,      (H + damping) q = v,      v = ∇L_val(w),

with the curvature H of the training loss: its Hessian, or the Gauss-Newton matrix Jᵀ ∂²F/∂s² J, which is
positive semidefinite. The system is solved by a few steps of conjugate gradients, or by a few terms of the
Neumann series q = α Σ_i (1 − α H)^i v. Both only need products of H with vectors. The metaparameters act only
through the outputs s: with J = ∂s/∂w, u = J q and r_j = ∂²F/∂s ∂a_j, ⟨∂g/∂a_j, q⟩ = ⟨r_j, u⟩, as in
:mod:`sklearn_kd.bilevel._hypergradient`.

Before convergence, this is the hypergradient of a training that would continue along the present quadratic
model of the loss. Damping and the number of steps determine how far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sklearn_kd.bilevel._hypergradient import (
    Contraction,
    inner_product,
    is_directionless,
    moved_along,
)
from sklearn_kd.bilevel._long_horizon import (
    BatchLoss,
    LongHorizonEstimator,
    curvature_product,
    step_along,
    zeros_for_none,
)
from sklearn_kd.bilevel._optimizer_response import global_norm
from sklearn_kd.runtime._random_state import preserved_torch_state, random_state, set_random_state
from sklearn_kd.runtime._ranks import ALONE, Ranks
from sklearn_kd.runtime._snapshots import BufferCopies, BufferSnapshot

# Number of products in the power iteration that finds the scale of the Neumann series.
_N_POWER = 4

Vector = list[Tensor]
Product = Callable[[Vector], Vector]


class TrainingBatch(NamedTuple):
    """A batch of D_train that the Hessian is taken on.

    Attributes
    ----------
    inputs : tuple
        Arguments of the student's forward pass; the first has one row for each sample.
    evaluate : callable(Tensor) -> Contraction
        Maps the outputs s to the training loss there; its ``gradients`` begin with ∂F/∂s.
    """

    inputs: tuple[Any, ...]
    evaluate: Callable[[Tensor], Any]


class ImplicitHypergradient(LongHorizonEstimator):
    """Take the hypergradients of training to convergence, by the implicit function theorem.

    Call :meth:`to_the_end` between two iterations, in training mode. The batches' dropout masks are
    the same in all products of one call.

    Parameters
    ----------
    student : nn.Module
    optimizer : Optimizer
        Any optimizer; it determines which weights are trained.
    n_terms : int, default=5
        Number of steps of conjugate gradients, or of terms of the Neumann series after the first.
    solver : {"cg", "neumann"}, default="cg"
    damping : float, default=0.01
        Added to H.
    curvature : {"gauss_newton", "hessian"}, default="gauss_newton"
    forward : callable or None, default=None
        The student's forward pass, if it is not the student itself but, for example, compiled.
    ranks : Ranks, default=ALONE
        The processes that share each batch. They exchange each product with H.
    """

    def __init__(
        self,
        student: nn.Module,
        optimizer: Optimizer,
        *,
        n_terms: int = 5,
        solver: str = "cg",
        damping: float = 0.01,
        curvature: str = "gauss_newton",
        forward: Callable[[Tensor], Tensor] | None = None,
        ranks: Ranks = ALONE,
    ):
        super().__init__(student, optimizer, forward=forward, ranks=ranks)
        self.n_terms, self.solver, self.damping, self.curvature = n_terms, solver, damping, curvature

    def to_the_end(
        self, training: Sequence[TrainingBatch], validation: Iterable[Any], validation_loss: BatchLoss
    ) -> tuple[Tensor, Tensor]:
        """Return h, shape (m,), and L_val over all rows of the batches of D_val.

        Parameters
        ----------
        training : sequence of TrainingBatch
        validation : iterable
            Batches of D_val, with the inputs first.
        validation_loss : callable(Tensor, batch) -> (Tensor, Tensor)
            Maps the student's logits on a batch to L_val, shape (), and ∂L_val/∂logits.
        """
        copies = BufferCopies(BufferSnapshot(self.with_buffers))
        with preserved_torch_state(self.device), copies as self.buffers, torch.no_grad():
            self.buffers.restore()
            torch._foreach_copy_(self.w, self.weights)
            v, val_loss = self.mean_validation_gradient(validation, validation_loss)
            self.directionless = is_directionless(float(global_norm(v)))
            if self.directionless:
                return torch.full((1,), torch.nan, device=self.device), val_loss
            self.random_state = random_state(self.device)
            n_rows = sum(self.ranks.gather(sum(len(batch.inputs[0]) for batch in training)))

            def product(p: Vector) -> Vector:
                Hp = PRODUCTS[self.curvature](self, training, n_rows, p)
                return list(torch._foreach_add(Hp, p, alpha=self.damping))

            q = SOLVE[self.solver](product, v, self.n_terms)
            shares = [len(batch.inputs[0]) / n_rows for batch in training]
            parts = [
                share * self._contracted(batch, q) for share, batch in zip(shares, training, strict=True)
            ]
            h = -torch.stack(parts).sum(dim=0)
            self.ranks.sum_([h])
        return h, val_loss

    def _mean_gradient(
        self, training: Sequence[TrainingBatch], n_rows: int, w: Sequence[Tensor], r_of: Callable[..., Tensor]
    ) -> Vector:
        """Return the mean over all batches of J(w)ᵀ r with r = r_of(batch, outputs)."""
        g = [torch.zeros_like(w) for w in self.w]
        for batch in training:
            self._replay_from_start()
            with self.weights_exchanged(w), torch.enable_grad():
                outputs = self.forward(*batch.inputs)
                own = self._gradient_of(outputs, r_of(batch, outputs))
            torch._foreach_add_(g, zeros_for_none(own, g), alpha=len(batch.inputs[0]) / n_rows)
        self.ranks.sum_(g)
        return g

    def hessian_product(self, training: Sequence[TrainingBatch], n_rows: int, p: Vector) -> Vector:
        """Return H p by a central difference of gradients."""
        step = step_along(self.w, p)

        def r(batch: TrainingBatch, outputs: Tensor) -> Tensor:
            return batch.evaluate(outputs).gradients[0]

        ahead, behind = (
            self._mean_gradient(training, n_rows, moved_along(self.w, p, e), r) for e in (step, -step)
        )
        return [(a - b) / (2 * step) for a, b in zip(ahead, behind, strict=True)]

    def gauss_newton_product(self, training: Sequence[TrainingBatch], n_rows: int, p: Vector) -> Vector:
        """Return Jᵀ ∂²F/∂s² J p, with J p by a finite difference of outputs."""
        step = step_along(self.w, p)
        moved = moved_along(self.w, p, step)

        def r(batch: TrainingBatch, outputs: Tensor) -> Tensor:
            s = outputs.detach()
            self._replay_from_start()
            with self.weights_exchanged(moved), torch.no_grad():
                u = (self.forward(*batch.inputs) - s) / step
            return curvature_product(lambda s: batch.evaluate(s).gradients[0], s, u)

        return self._mean_gradient(training, n_rows, self.w, r)

    def _contracted(self, batch: TrainingBatch, q: Vector) -> Tensor:
        """Return ⟨r_j, J q⟩ of each component, with J q by a central difference."""
        step = step_along(self.w, q)
        logits = []
        for e in (step, 0.0, -step):
            self._replay_from_start()
            with self.weights_exchanged(moved_along(self.w, q, e)):
                logits.append(self.forward(*batch.inputs))
        evaluation: Contraction = batch.evaluate(logits[1])
        return evaluation.contract((logits[0] - logits[2]) / (2 * step))

    def _replay_from_start(self) -> None:
        self.buffers.restore()
        set_random_state(self.random_state, self.device)


def conjugate_gradients(product: Product, v: Vector, n_terms: int) -> Vector:
    """Return q with product(q) ≈ v, after at most n steps of conjugate gradients.

    A direction of negative curvature, along which the loss has no minimum, ends the steps; if it is the
    first, q is v.
    """
    q, r, p = [torch.zeros_like(v_w) for v_w in v], [v_w.clone() for v_w in v], [v_w.clone() for v_w in v]
    r_r = first = float(inner_product(r, r))
    for n_done in range(n_terms):
        Hp = product(p)
        curvature = float(inner_product(p, Hp))
        if not curvature > 0:
            return q if n_done else v
        alpha = r_r / curvature
        torch._foreach_add_(q, p, alpha=alpha)
        torch._foreach_sub_(r, Hp, alpha=alpha)
        before, r_r = r_r, float(inner_product(r, r))
        if r_r <= 1e-12 * first:
            break
        p = [r_w + (r_r / before) * p_w for r_w, p_w in zip(r, p, strict=True)]
    return q


def neumann_series(product: Product, v: Vector, n_terms: int) -> Vector:
    """Return α Σ_{i ≤ n} (1 − α H)^i v; 1/α is the largest curvature found by a power iteration from v."""
    p, largest = v, 0.0
    for _ in range(_N_POWER):
        size = float(global_norm(p))
        p = product([p_w / size for p_w in p])
        largest = max(largest, float(global_norm(p)))
        if not largest > 0:  # no curvature along v
            return v
    term = q = [v_w / largest for v_w in v]
    for _ in range(n_terms):
        term = [t - Ht / largest for t, Ht in zip(term, product(term), strict=True)]
        q = [q_w + t for q_w, t in zip(q, term, strict=True)]
    return q


SOLVE: dict[str, Callable[[Product, Vector, int], Vector]] = {
    "cg": conjugate_gradients,
    "neumann": neumann_series,
}
PRODUCTS: dict[str, Callable[..., Vector]] = {
    "gauss_newton": ImplicitHypergradient.gauss_newton_product,
    "hessian": ImplicitHypergradient.hessian_product,
}
