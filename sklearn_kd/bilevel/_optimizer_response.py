"""Compute an optimizer's response to the gradient it is given.

For one step w' = U(w, g), the response is (∂w'/∂g)ᵀ v, elementwise for the usual optimizers and
without another pass. It is returned as factors (c, d) of c · d: it often is a multiple of v, which then
need not be copied.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from sklearn_kd.runtime._devices import as_number


def global_norm(tensors: list[Tensor]) -> Tensor:
    """Return the Euclidean norm of all entries together, shape ()."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))


def gradient_or_zeros(w: Tensor) -> Tensor:
    """Return a weight's gradient, or zeros if it has none."""
    return torch.zeros_like(w) if w.grad is None else w.grad


class OptimizerResponse:
    """Response of an optimizer's step to the gradient; here that of plain SGD, d = −lr · v.

    One step is w' = U(w, g). The hypergradient needs d = (∂w'/∂g)ᵀ v for a given v. Subclass this class to
    define the response of another optimizer, and register the subclass with :func:`register_response`. One
    instance is made for each training. :meth:`before_step` and the instance itself are called once in each
    iteration that takes a hypergradient.

    Parameters
    ----------
    optimizer : Optimizer
        The optimizer that takes the steps.
    weights : list of Tensor
        The weights that v and d belong to, in this order.

    Attributes
    ----------
    weights : list of Tensor
    groups : list of dict
        The parameter group of each weight.
    state : dict
        ``optimizer.state``.
    n_erratic_steps : int, default=0
        Number of first steps whose response is too erratic to learn from. They take no hypergradient.

    Examples
    --------
    A response for an optimizer whose step, −lr · sign(g), does not vary with small changes of g:

    >>> import torch
    >>> from sklearn_kd.meta import OptimizerResponse, register_response
    >>> class SignSGD(torch.optim.Optimizer):
    ...     def __init__(self, params, lr=0.1):
    ...         super().__init__(params, {"lr": lr})
    ...
    ...     @torch.no_grad()
    ...     def step(self, closure=None):
    ...         if closure is not None:  # the training gives one; it computes the gradient
    ...             with torch.enable_grad():
    ...                 closure()
    ...         for group in self.param_groups:
    ...             for w in group["params"]:
    ...                 w -= group["lr"] * w.grad.sign()
    >>> @register_response(SignSGD)
    ... class SignResponse(OptimizerResponse):
    ...     def __call__(self, v, w_before):
    ...         return 1.0, [torch.zeros_like(v_w) for v_w in v]
    """

    n_erratic_steps = 0

    def __init__(self, optimizer: Optimizer, weights: list[Tensor]):
        group_of = {w: group for group in optimizer.param_groups for w in group["params"]}
        self.weights, self.groups = weights, [group_of[w] for w in weights]
        self.state = optimizer.state

    @classmethod
    def suits(cls, optimizer: Optimizer) -> bool:
        """Return whether the response holds with the optimizer's options."""
        return True

    def before_step(self) -> None:
        """Record what the step will change."""
        self.factors = [-group["lr"] for group in self.groups]

    def __call__(self, v: list[Tensor], w_before: list[Tensor]) -> tuple[Any, list[Tensor]]:
        """Return (c, d) with the response c · d, after the step was taken from ``w_before``.

        Parameters
        ----------
        v, w_before : list of Tensor
            One entry for each weight.

        Returns
        -------
        c : float or Tensor
            A common factor, so that d may be v itself.
        d : list of Tensor
            One entry for each weight.
        """
        first = self.factors[0]
        if not isinstance(first, Tensor) and all(factor == first for factor in self.factors):
            return first, v
        return 1.0, [factor * v_w for factor, v_w in zip(self.factors, v, strict=True)]


class SGDResponse(OptimizerResponse):
    """−γ v; with momentum and damping −γ (1 − δ) v; Nesterov −γ (1 + μ (1 − δ)) v.

    The first step of momentum is undamped: −γ v, Nesterov −γ (1 + μ) v.
    """

    @classmethod
    def suits(cls, optimizer: Optimizer) -> bool:
        """Return False if the optimizer ascends the gradient."""
        return not ascends(optimizer)

    def before_step(self) -> None:
        self.factors = [
            self._factor(group, self.state.get(w)) for w, group in zip(self.weights, self.groups, strict=True)
        ]

    def _factor(self, group: dict[str, Any], state: Any) -> Any:
        mu = group["momentum"]
        if mu == 0:
            return -group["lr"]
        first = not state or state.get("momentum_buffer") is None
        damped = 1.0 if first else 1.0 - group["dampening"]
        return -group["lr"] * (1.0 + mu * damped if group["nesterov"] else damped)


class AdamResponse(OptimizerResponse):
    """−γ [(1 − β₁)/(bc₁ D) − m̂ (1 − β₂) g/(bc₂ √ŝ D²)] ⊙ v, and 0 where s = 0.

    m and s are the moments after the step, m̂ = m/bc₁, ŝ = s/bc₂, D = √ŝ + ε. For Adam with
    L2 weight decay, g includes wd · w; AdamW decays separately from the gradient.
    """

    # The first steps divide by a second moment of only one or two batches.
    n_erratic_steps = 10

    @classmethod
    def suits(cls, optimizer: Optimizer) -> bool:
        """Return False if the optimizer ascends the gradient or uses the largest moment."""
        return not ascends(optimizer) and not any(g.get("amsgrad") for g in optimizer.param_groups)

    def __init__(self, optimizer: Optimizer, weights: list[Tensor]) -> None:
        super().__init__(optimizer, weights)
        self._adamw = isinstance(optimizer, torch.optim.AdamW)

    def __call__(self, v: list[Tensor], w_before: list[Tensor]) -> Any:
        return 1.0, [
            torch.zeros_like(v_w) if w.grad is None else self._of_weight(w, group, v_w, before)
            for w, group, v_w, before in zip(self.weights, self.groups, v, w_before, strict=True)
        ]

    def _of_weight(self, w: Tensor, group: dict[str, Any], v: Tensor, w_before: Tensor) -> Tensor:
        state, g = self.state[w], w.grad
        if group["weight_decay"] and not group.get("decoupled_weight_decay", self._adamw):
            g = g + group["weight_decay"] * w_before
        (beta1, beta2), t = group["betas"], state["step"]
        if t.device.type == "cpu":  # float32 powers cost 1 − β₂ᵗ five digits; on a GPU: no wait
            t = t.item()
        bc1, bc2 = 1 - beta1**t, 1 - beta2**t
        root_s = (state["exp_avg_sq"] / bc2).sqrt()
        D = root_s + group["eps"]
        slope = (1 - beta1) / (bc1 * D)
        slope = slope - (state["exp_avg"] / bc1) * (1 - beta2) * g / (bc2 * root_s * D * D)
        return torch.where(root_s > 0, -group["lr"] * slope * v, 0.0)


def ascends(optimizer: Optimizer) -> bool:
    """Return whether a group of weights ascends the gradient."""
    return any(group.get("maximize") for group in optimizer.param_groups)


_RESPONSES: dict[type[Optimizer], type[OptimizerResponse]] = {
    torch.optim.SGD: SGDResponse,
    torch.optim.Adam: AdamResponse,
    torch.optim.AdamW: AdamResponse,
}


def register_response(
    optimizer: type[Optimizer],
) -> Callable[[type[OptimizerResponse]], type[OptimizerResponse]]:
    """Decorate a class of responses to register it for an optimizer class.

    The registration holds for exactly this class, since a subclass may take other steps. It replaces an
    earlier one.

    Parameters
    ----------
    optimizer : class of torch.optim.Optimizer
        The class whose steps the response describes.

    Returns
    -------
    callable
        A decorator that registers and returns a class.

    Raises
    ------
    TypeError
        If ``optimizer`` is not a class of optimizers, or the response not a subclass of
        :class:`OptimizerResponse`.

    Examples
    --------
    Register the response of an optimizer that is SGD under another name:

    >>> import torch
    >>> from sklearn_kd import meta
    >>> class MySGD(torch.optim.SGD):
    ...     pass
    >>> @meta.register_response(MySGD)
    ... class MyResponse(meta.OptimizerResponse):
    ...     def __call__(self, v, w_before):
    ...         return 1.0, [-group["lr"] * v_w for group, v_w in zip(self.groups, v)]

    :doc:`/contributing/add_optimizer` tests a response against the step itself.
    """
    if not (isinstance(optimizer, type) and issubclass(optimizer, Optimizer)):
        raise TypeError(f"optimizer={optimizer!r} must be a class of torch.optim.Optimizer.")

    def register(response: type[OptimizerResponse]) -> type[OptimizerResponse]:
        if not (isinstance(response, type) and issubclass(response, OptimizerResponse)):
            raise TypeError(f"{response!r} must be a subclass of sklearn_kd.meta.OptimizerResponse.")
        _RESPONSES[optimizer] = response
        return response

    return register


def response_class(optimizer: Optimizer) -> type[OptimizerResponse]:
    """Return the response class of ``optimizer``; plain SGD's if none is known."""
    known = _RESPONSES.get(type(optimizer), OptimizerResponse)
    return known if known.suits(optimizer) else OptimizerResponse


def warn_if_response_unknown(optimizer: Optimizer) -> None:
    """Warn if the hypergradient will treat the optimizer's step as one of plain SGD."""
    if response_class(optimizer) is OptimizerResponse:
        warnings.warn(
            f"The hypergradient knows the steps of SGD, Adam and AdamW (without amsgrad or "
            f"maximize); that of {type(optimizer).__name__} is treated as a step of plain SGD "
            "with the same learning rate, so the metaparameters follow an approximation. "
            "Use sklearn_kd.meta.register_response to define another.",
            UserWarning,
            stacklevel=2,
        )


class Clipping(NamedTuple):
    """Gradient-norm clipping g ↦ k g, with k = c/(n + 1e-6) if n = ‖g‖ exceeds c.

    Attributes
    ----------
    limit : float
        c.
    norm : Tensor of shape () or (K, 1)
        n, read before clipping; for K students, whose gradients have shape (K, n), of shape (K, 1).
    """

    limit: float
    norm: Tensor

    def factor(self) -> Tensor:
        """Return k in the shape of ``norm``, 1 where clipping is not active."""
        return torch.clamp(self.limit / (self.norm + 1e-6), max=1.0)  # as torch.nn.utils.clip_grad_norm_

    def response(self, clipped: list[Tensor], d: list[Tensor]) -> list[Tensor]:
        """Return k (d − g ⟨g, d⟩ / (n (n + 1e-6))) where clipping was active, else d."""
        n, k = self.norm, self.factor()
        if as_number((k == 1).all()) is True:
            return [*d]
        of_each: dict[str, Any] = {"dim": 1, "keepdim": True} if n.ndim else {}
        along: Any = sum((g * d_w).sum(**of_each) for g, d_w in zip(clipped, d, strict=True)) / k
        along = torch.where(k < 1, along / (n * (n + 1e-6) * k), 0.0)
        return [k * (d_w - g * along) for g, d_w in zip(clipped, d, strict=True)]

    def undone(self, clipped: list[Tensor]) -> list[Tensor]:
        """Return the gradient before it was clipped."""
        factor = self.factor()
        return [g / factor for g in clipped]
