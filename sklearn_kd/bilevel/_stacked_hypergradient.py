"""Compute the hypergradients of several students with stacked weights at once.

The mathematics is that of :mod:`sklearn_kd.bilevel._hypergradient`. Each weight has shape (K, ...), and no
student affects another: norms, steps and inner products are taken student by student.
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
    Clipping,
    OptimizerResponse,
    SGDResponse,
    response_class,
)

STACKED_METHODS = ("finite_difference", "central_difference", "exact")
# Elementwise responses: the response of a stacked weight consists of those of the students' weights.
STACKED_RESPONSES = (OptimizerResponse, SGDResponse, AdamResponse)

State = dict[str, Tensor]
Forward = Callable[[State, Tensor], Tensor]


class StackedHypergradients:
    """Keep what hypergradients need before a real step of K students, and compute them afterwards.

    In each iteration in which any student takes one, call :meth:`begin`, run the training forward pass, call
    :meth:`pull_back` for "exact", take the optimizer's step, and call :meth:`of`. The vectors of S students
    are rows of one matrix, so that the number of operations does not grow with the number of weights.

    Parameters
    ----------
    state : dict of str to Tensor of shape (K, ...)
        Weights and buffers, by name.
    optimizer : Optimizer
        Optimizer of some of these weights, with one of ``STACKED_RESPONSES``.
    forward, validation_forward : callable(dict, Tensor) -> Tensor
        Map the state of S students and their inputs to logits, shape (S, B, C), in training and on the
        validation batch.
    logit_change : float
        As in :class:`HypergradientEstimator`.

    Attributes
    ----------
    clipping : Clipping or None
        Clipping in the last step. Set it between :meth:`begin` and :meth:`of`.
    """

    def __init__(
        self,
        state: State,
        optimizer: Optimizer,
        forward: Forward,
        validation_forward: Forward,
        logit_change: float,
    ):
        moved = {w for group in optimizer.param_groups for w in group["params"]}
        self._names = [name for name, w in state.items() if w in moved and w.requires_grad]
        self._moving = [state[name] for name in self._names]
        self._still = {name: w for name, w in state.items() if name not in self._names}
        self._sizes = [w[0].numel() for w in self._moving]
        self._n_students = len(self._moving[0])
        self._response = response_class(optimizer)(optimizer, self._moving)
        self._forward, self._validation_forward = forward, validation_forward
        self._logit_change = logit_change
        self._pulled_back: list[Tensor] = []
        self.clipping: Clipping | None = None

    def begin(self) -> None:
        """Copy the state before the training forward pass."""
        with torch.no_grad():
            self._before = _matrix(self._moving)
        self._response.before_step()
        self._pulled_back, self.clipping = [], None

    def pull_back(self, logits: Tensor, evaluation: Contraction) -> None:
        """Keep Jᵀ r_j of each metaparameter, for "exact", while the training pass's graph exists."""
        self._pulled_back = [self._gradient(logits, self._moving, r_j) for r_j in evaluation.derivatives()]

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
            The students' indices, in ascending order.
        method : str
        train : tuple of (inputs, logits, evaluation)
            For the last step: the members' inputs in the form of ``forward``, all students' logits,
            shape (K, B, C), and their loss.
        x_val : Tensor of shape (S, B, ...)
        validation_loss : callable(Tensor) -> (Tensor, Tensor)
            Maps the members' validation logits to their L_val, shape (S,), and its gradient.

        Returns
        -------
        h : Tensor of shape (S, m)
            NaN where v vanishes or is not finite.
        val_losses : Tensor of shape (S,)
        norms : Tensor of shape (S,)
            Norms of v; up to ``SMALLEST_NORM`` there is no direction.
        """
        inputs, logits, evaluation = train
        places = None if len(members) == self._n_students else torch.tensor(members, device=logits.device)
        with torch.no_grad():
            v, r_val, val_losses = self._validation_gradients(places, x_val, validation_loss)
            norms = torch.linalg.vector_norm(v, dim=1).double()
            c, d = self._responses(places, v)
            if method == "exact":
                h = torch.stack([(_of(g, places) * d).sum(dim=1) for g in self._pulled_back], dim=1)
            else:
                along = norms * norms if d is v else (v * d).sum(dim=1).abs().double()
                size = logit_change_from(along, _rms(r_val) * r_val[0].numel())
                own = _of(logits.detach(), places)
                step = step_from(_rms(own), size, self._logit_change, logits.dtype)[:, None].to(d)
                u = self._directional_derivatives(places, method, inputs, own, d, step)
                if places is not None:
                    u = u.new_zeros(logits.shape).index_copy_(0, places, u)
                h = _of(evaluation.contract(u).T, places)
            h = c * h.double()
        return torch.where(norms[:, None] > SMALLEST_NORM, h, torch.nan), val_losses, norms

    def _validation_gradients(
        self, places: Tensor | None, x: Tensor, validation_loss: ValidationLoss
    ) -> tuple[Tensor, Tensor, Tensor]:
        moving = self._moving
        if places is not None:
            moving = [_of(w, places).requires_grad_() for w in moving]
        with torch.enable_grad():
            logits = self._validation_forward(self._named(moving, places), x)
        loss, r = validation_loss(logits)
        v = self._gradient(logits, moving, r)
        if any(w.grad is None for w in self._moving):
            # A weight without gradient took no step that the metaparameters could have changed.
            parts = zip(v.split(self._sizes, dim=1), self._moving, strict=True)
            v = torch.cat([torch.zeros_like(p) if w.grad is None else p for p, w in parts], dim=1)
        return v, r, loss

    def _gradient(self, logits: Tensor, weights: list[Tensor], r: Tensor) -> Tensor:
        """Return Jᵀ r by student, shape (S, n); 0 where the outputs do not depend on a weight."""
        found = torch.autograd.grad(logits, weights, r, retain_graph=True, allow_unused=True)
        return _matrix([torch.zeros_like(w) if g is None else g for g, w in zip(found, weights, strict=True)])

    def _responses(self, places: Tensor | None, v: Tensor) -> tuple[Any, Tensor]:
        """Return (c, d) of the members; d is v itself if the response is a multiple of it."""
        whole = v if places is None else torch.zeros_like(self._before).index_copy_(0, places, v)
        of_weights = self._split(whole, self._n_students)
        c, d = self._response(of_weights, self._split(self._before, self._n_students))
        if self.clipping is not None:
            gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w in self._moving]
            through = self.clipping.response([_matrix(gradients)], [whole if d is of_weights else _matrix(d)])
            return c, _of(through[0], places)
        return c, v if d is of_weights else _of(_matrix(d), places)

    def _directional_derivatives(
        self, places: Tensor | None, method: str, x: Tensor, logits: Tensor, d: Tensor, step: Tensor
    ) -> Tensor:
        """Compute u = J d of each member, by finite differences with its own step, shape (S, B, C)."""
        before = _of(self._before, places)

        def replay(step: Tensor) -> Tensor:
            moved = self._split(torch.addcmul(before, step, d), len(d))
            return self._forward(self._named(moved, places), x)

        if method == "finite_difference":
            return (replay(step) - logits) / step[:, None]
        return (replay(step) - replay(-step)) / (2 * step[:, None])

    def _split(self, matrix: Tensor, n_students: int) -> list[Tensor]:
        """Return the rows of S students as weights of shape (S, ...)."""
        parts = matrix.split(self._sizes, dim=1)
        return [part.reshape(n_students, *w.shape[1:]) for part, w in zip(parts, self._moving, strict=True)]

    def _named(self, moving: list[Tensor], places: Tensor | None) -> State:
        still = {name: _of(w.detach(), places) for name, w in self._still.items()}
        return dict(zip(self._names, moving, strict=True)) | still


def _matrix(tensors: Sequence[Tensor]) -> Tensor:
    """Join tensors of shape (S, ...) into one of shape (S, n)."""
    return torch.cat([t.reshape(len(t), t[0].numel()) for t in tensors], dim=1)


def _of(tensor: Tensor, places: Tensor | None) -> Tensor:
    """Return the rows at these indices; None: all."""
    return tensor if places is None else tensor.detach().index_select(0, places)


def _rms(t: Tensor) -> Tensor:
    """Return the root mean square for each student, float64, shape (S,)."""
    return torch.linalg.vector_norm(t.flatten(1), dim=1).double() / t[0].numel() ** 0.5
