"""Compute forward derivatives of an optimizer's step: from the tangents of w and g to those after the step.

A tangent is a derivative by one component of the metaparameters. The tangents of m components are held
together: those of a weight of shape s have shape (m, *s). A step maps weights, state and gradient to weights
and state, and its derivative maps their tangents linearly in the same way.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from sklearn_kd.bilevel._optimizer_response import ascends, gradient_or_zeros


class OptimizerTangent:
    """Tangents of an optimizer's state, carried along with those of the weights.

    In each iteration, call :meth:`before_step`, take the optimizer's step, and call :meth:`advance`.

    Parameters
    ----------
    optimizer : Optimizer
    weights : list of Tensor
        The weights that have tangents, in this order.
    """

    # The optimizer's names of the tensors in its state that have tangents.
    names: tuple[str, ...] = ()

    def __init__(self, optimizer: Optimizer, weights: list[Tensor]):
        group_of = {w: group for group in optimizer.param_groups for w in group["params"]}
        self.weights, self.groups = weights, [group_of[w] for w in weights]
        self.optimizer = optimizer
        self.tangents: dict[str, list[Tensor]] = {}

    @classmethod
    def why_unsuitable(cls, optimizer: Optimizer) -> str | None:
        """Return which option of the optimizer has no tangent here, or None."""
        return "maximize=True" if ascends(optimizer) else None

    def begin(self, n_components: int) -> None:
        """Set all tangents to zero."""
        self.tangents = {
            name: [
                torch.zeros((n_components, *w.shape), dtype=w.dtype, device=w.device) for w in self.weights
            ]
            for name in self.names
        }

    def damp(self, factor: float) -> None:
        """Multiply all tangents by a factor."""
        for tangents in self.tangents.values():
            torch._foreach_mul_(tangents, factor)

    def before_step(self) -> None:
        """Record what the step will change."""

    def advance(self, Z: list[Tensor], dg: list[Tensor], w_before: list[Tensor]) -> None:
        """Carry the tangents through the last step, in place.

        Parameters
        ----------
        Z : list of Tensor of shape (m, *w.shape)
            ∂w/∂a before the call, ∂w'/∂a after it.
        dg : list of Tensor of shape (m, *w.shape)
            ∂g/∂a of the gradient given to the step.
        w_before : list of Tensor
            The weights before the step.
        """
        for i, w in enumerate(self.weights):
            if w.grad is not None:  # otherwise it took no step
                self._advance_weight(i, w, Z[i], dg[i], w_before[i])

    def _advance_weight(self, i: int, w: Tensor, Z: Tensor, dg: Tensor, w_before: Tensor) -> None:
        raise NotImplementedError


class SGDTangent(OptimizerTangent):
    """Carry tangents through SGD with momentum μ, dampening δ, Nesterov and weight decay.

    db' = μ db + (1 − δ) dg, in the first step dg; dw' = dw − γ db', or −γ (dg + μ db') for Nesterov.
    """

    names = ("momentum_buffer",)

    def before_step(self) -> None:
        state = self.optimizer.state
        self._first = [state.get(w, {}).get("momentum_buffer") is None for w in self.weights]

    def _advance_weight(self, i: int, w: Tensor, Z: Tensor, dg: Tensor, w_before: Tensor) -> None:
        group = self.groups[i]
        if group["weight_decay"]:
            dg = dg + group["weight_decay"] * Z
        mu = group["momentum"]
        if mu:
            db = self.tangents["momentum_buffer"][i]
            if self._first[i]:
                db.copy_(dg)
            else:
                db.mul_(mu).add_((1 - group["dampening"]) * dg)
            dg = dg + mu * db if group["nesterov"] else db
        Z.sub_(group["lr"] * dg)


class AdamTangent(OptimizerTangent):
    """Carry tangents through Adam and AdamW.

    dm' = β₁ dm + (1 − β₁) dg; ds' = β₂ ds + 2 (1 − β₂) g dg; with ŝ = s'/bc₂ and D = √ŝ + ε:
    dw' = dw − γ/bc₁ [dm'/D − m' dŝ/(2 √ŝ D²)], and 0 in the brackets where s' = 0. For Adam with L2 weight
    decay, g includes wd · w; AdamW decays separately from the gradient.
    """

    names = ("exp_avg", "exp_avg_sq")

    def __init__(self, optimizer: Optimizer, weights: list[Tensor]):
        super().__init__(optimizer, weights)
        self._adamw = isinstance(optimizer, torch.optim.AdamW)

    @classmethod
    def why_unsuitable(cls, optimizer: Optimizer) -> str | None:
        if any(group.get("amsgrad") for group in optimizer.param_groups):
            return "amsgrad=True"
        return super().why_unsuitable(optimizer)

    def _advance_weight(self, i: int, w: Tensor, Z: Tensor, dg: Tensor, w_before: Tensor) -> None:
        group, state = self.groups[i], self.optimizer.state[w]
        g = gradient_or_zeros(w)
        if group["weight_decay"]:
            if group.get("decoupled_weight_decay", self._adamw):
                Z.mul_(1 - group["lr"] * group["weight_decay"])
            else:
                g = g + group["weight_decay"] * w_before
                dg = dg + group["weight_decay"] * Z
        (beta1, beta2), t = group["betas"], state["step"]
        if t.device.type == "cpu":  # float32 powers cost 1 − β₂ᵗ five digits; on a GPU: no wait
            t = t.item()
        bc1, bc2 = 1 - beta1**t, 1 - beta2**t
        dm, ds = self.tangents["exp_avg"][i], self.tangents["exp_avg_sq"][i]
        dm.mul_(beta1).add_((1 - beta1) * dg)
        ds.mul_(beta2).add_((2 * (1 - beta2)) * (g * dg))
        root_s = (state["exp_avg_sq"] / bc2).sqrt()
        D = root_s + group["eps"]
        moved = dm / D - state["exp_avg"] * ds / (2 * bc2 * root_s * D * D)
        Z.sub_(torch.where(root_s > 0, (group["lr"] / bc1) * moved, 0.0))


_TANGENTS: dict[type[Optimizer], type[OptimizerTangent]] = {
    torch.optim.SGD: SGDTangent,
    torch.optim.Adam: AdamTangent,
    torch.optim.AdamW: AdamTangent,
}


def why_no_tangent(optimizer: Optimizer) -> str | None:
    """Return the optimizer's name, and its option, if it has no forward derivative here, else None."""
    name, kind = type(optimizer).__name__, _TANGENTS.get(type(optimizer))
    option = None if kind is None else kind.why_unsuitable(optimizer)
    return name if kind is None else None if option is None else f"{name} with {option}"


def optimizer_tangent(optimizer: Optimizer, weights: list[Tensor]) -> OptimizerTangent:
    """Return the tangents of the optimizer's state; :func:`why_no_tangent` must be None."""
    return _TANGENTS[type(optimizer)](optimizer, weights)
