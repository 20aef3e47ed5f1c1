"""Hypergradients of several students at once, whose weights are stacked.

The mathematics is that of :mod:`sklearn_kd.bilevel._hypergradient`. Each weight has shape (K, ...), and no
number of one student enters another's: norms, steps and inner products are taken student by student.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sklearn_kd.bilevel._hypergradient import (
    SMALLEST_NORM,
    Contraction,
    ValidationLoss,
    logit_change_from,
    step_from,
)
from sklearn_kd.bilevel._optimizer_response import (
    AdamResponse,
    OptimizerResponse,
    SGDResponse,
    response_class,
)

STACKED_METHODS = ("finite_difference", "central_difference", "exact")
# Elementwise: that of a stacked weight is that of each student's.
STACKED_RESPONSES = (OptimizerResponse, SGDResponse, AdamResponse)

Weights = dict[str, Tensor]
Forward = Callable[[Weights, Tensor], Tensor]


class StackedHypergradients:
    """Keeps what hypergradients need from before a real step of K students, and computes them afterwards.

    In each iteration in which some student takes one: :meth:`begin`, the training forward pass, for
    "exact" :meth:`pull_back`, the optimizer's step, :meth:`of`.

    Parameters
    ----------
    weights : dict of str to Tensor of shape (K, ...)
    optimizer : Optimizer
        Of these weights, with one of ``STACKED_RESPONSES``.
    forward, validation_forward : callable(dict, Tensor) -> Tensor
        Map the weights of S students and their inputs to logits, shape (S, B, C): as in training, and as on
        the validation batch.
    logit_change : float
        As of :class:`HypergradientEstimator`.
    """

    def __init__(
        self,
        weights: Weights,
        optimizer: Optimizer,
        forward: Forward,
        validation_forward: Forward,
        logit_change: float,
    ):
        moved = {w for group in optimizer.param_groups for w in group["params"]}
        self._weights = weights
        self._names = [name for name, w in weights.items() if w in moved and w.requires_grad]
        self._moving = [weights[name] for name in self._names]
        self._before = [torch.empty_like(w, requires_grad=False) for w in self._moving]
        self._response = response_class(optimizer)(optimizer, self._moving)
        self._forward, self._validation_forward = forward, validation_forward
        self._logit_change = logit_change
        self._pulled_back: list[list[Tensor | None]] = []

    def begin(self) -> None:
        """Copy the state before the training forward pass."""
        with torch.no_grad():
            torch._foreach_copy_(self._before, self._moving)
        self._response.before_step()
        self._pulled_back = []

    def pull_back(self, logits: Tensor, evaluation: Contraction) -> None:
        """Keep Jᵀ r_j of each metaparameter, for "exact", while the training pass's graph is there."""
        self._pulled_back = [self._gradients(logits, self._moving, r_j) for r_j in evaluation.derivatives()]

    def of(
        self,
        members: Sequence[int],
        method: str,
        train: tuple[Tensor, Tensor, Contraction],
        x_val: Tensor,
        validation_loss: ValidationLoss,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the hypergradients of S of the students, by one of ``STACKED_METHODS``.

        Parameters
        ----------
        members : sequence of S ints
            The students' places.
        method : str
        train : tuple of (inputs, logits, evaluation)
            Of the step just taken: the members' inputs as ``forward`` takes them, and all students' logits,
            shape (K, B, C), and loss.
        x_val : Tensor of shape (S, B, ...)
        validation_loss : callable(Tensor) -> (Tensor, Tensor)
            Maps the members' validation logits to their L_val, shape (S,), and its gradient.

        Returns
        -------
        h : Tensor of shape (S, m)
            NaN where v vanishes or is not finite.
        val_losses : Tensor of shape (S,)
        norms : Tensor of shape (S,)
            Of v; up to ``SMALLEST_NORM`` there is no direction.
        """
        inputs, logits, evaluation = train
        members = list(members)
        with torch.no_grad():
            v, r_val, val_losses = self._validation_gradients(members, x_val, validation_loss)
            norms = _inner_products(v, v).sqrt()
            c, d = self._responses(members, v)
            if method == "exact":
                of_each = [self._rows(pulled, members) for pulled in self._pulled_back]
                h = c * torch.stack([_inner_products(g, d) for g in of_each], dim=1)
            else:
                along = norms * norms if d is v else _inner_products(v, d).abs()
                size = logit_change_from(along, _rms(r_val) * r_val[0].numel())
                own = logits.detach()[members]
                step = step_from(_rms(own), size, self._logit_change, logits.dtype)
                u = self._directional_derivatives(members, method, inputs, own, d, step)
                whole = u.new_zeros(logits.shape).index_copy_(0, _places(members, u), u)
                h = c * evaluation.contract(whole).T[members].double()
        return torch.where(norms[:, None] > SMALLEST_NORM, h, torch.nan), val_losses, norms

    def _validation_gradients(
        self, members: list[int], x: Tensor, validation_loss: ValidationLoss
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        weights = {name: w.detach()[members] for name, w in self._weights.items()}
        moving = [weights[name].requires_grad_() for name in self._names]
        with torch.enable_grad():
            logits = self._validation_forward(weights, x)
        loss, r = validation_loss(logits)
        found = self._gradients(logits, moving, r)
        v = [
            # A weight without gradient took no step that lambda could have changed.
            torch.zeros_like(own) if g is None or w.grad is None else g
            for g, own, w in zip(found, moving, self._moving, strict=True)
        ]
        return v, r, loss

    @staticmethod
    def _gradients(logits: Tensor, weights: list[Tensor], r: Tensor) -> list[Tensor | None]:
        return list(torch.autograd.grad(logits, weights, r, retain_graph=True, allow_unused=True))

    def _responses(self, members: list[int], v: list[Tensor]) -> tuple[Any, list[Tensor]]:
        """Return (c, d) of the members; d is v itself where the response is a multiple of it."""
        whole = [
            torch.zeros_like(w, requires_grad=False).index_copy_(0, _places(members, w), v_w)
            for w, v_w in zip(self._moving, v, strict=True)
        ]
        c, d = self._response(whole, self._before)
        return c, v if d is whole else [d_w[members] for d_w in d]

    def _directional_derivatives(
        self, members: list[int], method: str, x: Tensor, logits: Tensor, d: list[Tensor], step: Tensor
    ) -> Tensor:
        """Compute u = J d of each member, by finite differences of its own step, shape (S, B, C)."""
        weights = {name: w.detach()[members] for name, w in self._weights.items()}

        def replay(sign: float) -> Tensor:
            moved = {
                name: before[members] + _by_student(sign * step, d_w).to(d_w) * d_w
                for name, before, d_w in zip(self._names, self._before, d, strict=True)
            }
            return self._forward(weights | moved, x)

        width = _by_student(step, logits).to(logits)
        if method == "finite_difference":
            return (replay(1.0) - logits) / width
        return (replay(1.0) - replay(-1.0)) / (2 * width)

    @staticmethod
    def _rows(tensors: list[Tensor | None], members: list[int]) -> list[Tensor | None]:
        return [t if t is None else t[members] for t in tensors]


def _places(members: list[int], tensor: Tensor) -> Tensor:
    return torch.tensor(members, device=tensor.device)


def _by_student(values: Tensor, like: Tensor) -> Tensor:
    """Return values of shape (S,) with as many dimensions as a tensor of shape (S, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _rms(t: Tensor) -> Tensor:
    """Return the root mean square by student, float64, shape (S,)."""
    return torch.linalg.vector_norm(t.flatten(1), dim=1).double() / t[0].numel() ** 0.5


def _inner_products(a: Sequence[Tensor | None], b: Sequence[Tensor]) -> Tensor:
    """Return ⟨a, b⟩ by student, float64, shape (S,); None stands for zeros."""
    pairs = [(a_i, b_i) for a_i, b_i in zip(a, b, strict=True) if a_i is not None]
    return torch.stack([(a_i * b_i).flatten(1).sum(dim=1) for a_i, b_i in pairs]).sum(dim=0).double()
