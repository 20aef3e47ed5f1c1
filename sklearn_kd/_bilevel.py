"""The hypergradient: how a step's metaparameters move the validation loss after it.

One training step is w' = U(w, g) with g = ∂L_train(w, lambda)/∂w. With

    v = ∂L_val(w')/∂w',      d = (∂w'/∂g)ᵀ v,      u = J d,      J = ∂z/∂w at w,

the greedy hypergradient (Gorpinich, Bakhteev and Strijov, Eq. 3) is h_j = ⟨r_j, u⟩, where
r_j = ∂²L_train/∂z ∂lambda_j comes in closed form from :mod:`sklearn_kd._losses`. One
directional derivative u serves any number of metaparameters. The real step serves as the
virtual one; nothing here moves the student's weights, its buffers or the random state.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.optim import Optimizer

from sklearn_kd._losses import (
    TEMPERATURE_SCALINGS,
    Targets,
    metaparameter_derivatives,
    training_loss,
    validation_loss,
)
from sklearn_kd._modes import evaluating
from sklearn_kd._random import preserved_random_state, random_state, set_random_state

# The finite difference moves the logits by this share of their size, in units of √epsilon:
# where rounding and curvature (or the kinks of ReLU) cost about the same.
_LOGIT_CHANGE = 0.4
# Below this norm of v the direction is rounding noise, as on separable data.
_SMALLEST_NORM = 1e-12


def global_norm(tensors: list[Tensor]) -> Tensor:
    """Euclidean norm of all entries together, shape ()."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))


# --------------------------------------------------------------------------------------
# d = (∂w'/∂g)ᵀ v: the optimizer's own response to the gradient it is given


class SGDResponse:
    """−γ v; with momentum and damping −γ (1 − δ) v; Nesterov −γ (1 + μ (1 − δ)) v.

    The first step of momentum is undamped: −γ v, Nesterov −γ (1 + μ) v. Whether it is the
    first must be seen before the step, so a response is made before and called after it.
    """

    def __init__(self, optimizer: Optimizer):
        self._factor = {}
        for group in optimizer.param_groups:
            for w in group["params"]:
                mu = group.get("momentum", 0.0)
                first = optimizer.state.get(w, {}).get("momentum_buffer") is None
                damped = 1.0 if mu == 0 or first else 1.0 - group["dampening"]
                factor = 1.0 + mu * damped if group.get("nesterov") else damped
                self._factor[w] = -group["lr"] * factor

    def __call__(self, weights: list[Tensor], v: list[Tensor]) -> list[Tensor]:
        return [self._factor[w] * v_w for w, v_w in zip(weights, v, strict=True)]


class PlainSGDResponse:
    """−γ v, whatever the optimizer: the stand-in for one whose derivative is not known."""

    def __init__(self, optimizer: Optimizer):
        self._lr = {w: g["lr"] for g in optimizer.param_groups for w in g["params"]}

    def __call__(self, weights: list[Tensor], v: list[Tensor]) -> list[Tensor]:
        return [-self._lr[w] * v_w for w, v_w in zip(weights, v, strict=True)]


class AdamResponse:
    """−γ [(1 − β₁)/(bc₁ D) − m̂ (1 − β₂) g/(bc₂ √ŝ D²)] ⊙ v, and 0 where s = 0.

    m and s are the moments after the step, m̂ = m/bc₁, ŝ = s/bc₂, D = √ŝ + ε. For Adam with
    L2 weight decay g includes wd · w; AdamW decays apart from the gradient.
    """

    def __init__(self, optimizer: Optimizer):
        self._optimizer = optimizer
        self._group, self._w_before = {}, {}
        for group in optimizer.param_groups:
            decoupled = group.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW))
            for w in group["params"]:
                self._group[w] = group
                if group["weight_decay"] and not decoupled:
                    self._w_before[w] = w.detach().clone()

    def __call__(self, weights: list[Tensor], v: list[Tensor]) -> list[Tensor]:
        return [self._response(w, v_w) for w, v_w in zip(weights, v, strict=True)]

    def _response(self, w: Tensor, v: Tensor) -> Tensor:
        group, state, g = self._group[w], self._optimizer.state[w], w.grad
        if w in self._w_before:
            g = g + group["weight_decay"] * self._w_before[w]
        (beta1, beta2), t = group["betas"], state["step"]
        if t.device.type == "cpu":  # float32 powers cost 1 − β₂ᵗ five digits; on a GPU: no wait
            t = t.item()
        bc1, bc2 = 1 - beta1**t, 1 - beta2**t
        root_s = (state["exp_avg_sq"] / bc2).sqrt()
        D = root_s + group["eps"]
        slope = (1 - beta1) / (bc1 * D)
        slope = slope - (state["exp_avg"] / bc1) * (1 - beta2) * g / (bc2 * root_s * D * D)
        return torch.where(root_s > 0, -group["lr"] * slope * v, 0.0)


_RESPONSES = {
    torch.optim.SGD: SGDResponse,
    torch.optim.Adam: AdamResponse,
    torch.optim.AdamW: AdamResponse,
}


def response_class(optimizer: Optimizer):
    """The response that fits ``optimizer``; :class:`PlainSGDResponse` where none is known."""
    known = _RESPONSES.get(type(optimizer), PlainSGDResponse)
    unusual = any(g.get("maximize") or g.get("amsgrad") for g in optimizer.param_groups)
    return PlainSGDResponse if unusual else known


def warn_if_response_unknown(optimizer: Optimizer) -> None:
    """Say so where the hypergradient will treat the optimizer's step as plain SGD's."""
    if response_class(optimizer) is PlainSGDResponse:
        warnings.warn(
            f"The hypergradient knows the steps of SGD, Adam and AdamW (without amsgrad or "
            f"maximize); that of {type(optimizer).__name__} is treated as a step of plain SGD "
            "with the same learning rate, so the metaparameters follow an approximation.",
            UserWarning,
            stacklevel=2,
        )


def ill_conditioned_steps(optimizer: Optimizer) -> int:
    """How many first steps have a response too erratic to learn from.

    Adam's first steps divide by a second moment that one or two batches decide.
    """
    return 10 if response_class(optimizer) is AdamResponse else 0


class Clipping(NamedTuple):
    """Gradient-norm clipping g ↦ k g, k = c/(n + 1e-6) where n = ‖g‖ exceeds it.

    Attributes
    ----------
    limit : float
        c.
    norm : Tensor
        n, read before clipping.
    """

    limit: float
    norm: Tensor

    def response(self, clipped: list[Tensor], d: list[Tensor]) -> list[Tensor]:
        """d ← k (d − g ⟨g, d⟩ / (n (n + 1e-6))) where clipping was active."""
        n = self.norm
        k = torch.clamp(self.limit / (n + 1e-6), max=1.0)
        along = sum((g * d_w).sum() for g, d_w in zip(clipped, d, strict=True)) / k
        along = torch.where(k < 1, along / (n * (n + 1e-6) * k), 0.0)
        return [k * (d_w - g * along) for g, d_w in zip(clipped, d, strict=True)]


# --------------------------------------------------------------------------------------
# u = J d, three ways. ``forward(weights)`` replays the training forward pass; ``size`` is
# about the root mean square of u, which only the finite difference needs.


def _rms(t: Tensor) -> Tensor:
    return t.square().mean().sqrt()


def _by_finite_difference(forward, w, d, logits, size):
    """(z(w + ε d) − z(w)) / ε: one more forward pass, without gradient.

    ε is chosen by what it does to the logits. A step of 3e-5 · ‖w‖/‖d‖ does as well on larger
    networks and drowns in rounding on the smallest (examples/evidence/finite_difference.py).
    """
    change = _LOGIT_CHANGE * torch.finfo(logits.dtype).eps ** 0.5
    step = change * torch.clamp(_rms(logits), min=0.1) / size
    with torch.no_grad():
        there = forward([w_i + step * d_i for w_i, d_i in zip(w, d, strict=True)])
    return (there - logits) / step


def _by_jvp(forward, w, d, logits, size):
    """Forward-mode differentiation, exact."""
    return jvp(lambda *weights: forward(weights), tuple(w), tuple(d))[1]


def _by_two_vjps(forward, w, d, logits, size):
    """∂/∂s ⟨Jᵀ s, d⟩: two vector-Jacobian products, exact, without forward mode."""
    with torch.enable_grad():
        w = [w_i.detach().requires_grad_() for w_i in w]
        z = forward(w)
        s = torch.zeros_like(z, requires_grad=True)
        transposed = torch.autograd.grad(z, w, s, create_graph=True, allow_unused=True)
        pairs = [(g, d_i) for g, d_i in zip(transposed, d, strict=True) if g is not None]
        (u,) = torch.autograd.grad([g for g, _ in pairs], s, [d_i for _, d_i in pairs])
    return u


DIRECTIONAL_DERIVATIVES = {
    "finite_difference": _by_finite_difference,
    "jvp": _by_jvp,
    "exact": _by_two_vjps,
}


def _size_of_logit_change(v: list[Tensor], d: list[Tensor], r_val: Tensor) -> Tensor:
    """About the root mean square of J d, for no further pass.

    On the validation batch v = Jᵀ r_val, so that ⟨v, d⟩ = ⟨r_val, J d⟩ ≤ ‖r_val‖ ‖J d‖; the
    bound was 0.08 to 2 times the truth on the training batch, 0.4 in the median
    (examples/evidence/finite_difference.py).
    """
    products = ((v_w * d_w).sum() for v_w, d_w in zip(v, d, strict=True))
    along = sum(products, start=r_val.new_zeros(()))
    return along.abs() / (torch.linalg.vector_norm(r_val) * r_val.numel() ** 0.5)


# --------------------------------------------------------------------------------------
# Passes that leave no trace


@contextmanager
def full_precision(device: torch.device):
    """No autocast and no TF32: a difference of logits drowns in either."""
    tf32_off: AbstractContextManager[None] = nullcontext()
    # Older versions of torch know no autocast on MPS.
    autocast_off = torch.autocast(device.type, enabled=False) if device.type != "mps" else nullcontext()
    if device.type == "cuda":
        tf32_off = torch.backends.cudnn.flags(
            enabled=torch.backends.cudnn.enabled,
            benchmark=torch.backends.cudnn.benchmark,
            deterministic=torch.backends.cudnn.deterministic,
            allow_tf32=False,
        )
    precision = torch.get_float32_matmul_precision()
    try:
        if precision != "highest":
            torch.set_float32_matmul_precision("highest")
        with tf32_off, autocast_off:
            yield
    finally:
        if precision != "highest":
            torch.set_float32_matmul_precision(precision)


def _validation_mode(student: nn.Module):
    """Dropout off, batch normalisation by the batch.

    In evaluation mode the running statistics of the first steps make hypergradients up to
    three orders of magnitude too small.
    """
    return evaluating(student, but=nn.modules.batchnorm._NormBase)


def _copied_buffers(student: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in student.named_buffers()}


class StepRecord:
    """What the hypergradient needs to know from before a real step.

    Make one before the training forward pass, take the optimizer's step, then ask for the
    :meth:`hypergradient`.

    Parameters
    ----------
    student : nn.Module
    optimizer : Optimizer
        The one about to take the step, over (some of) the student's parameters.
    """

    def __init__(self, student: nn.Module, optimizer: Optimizer):
        moved = {w for group in optimizer.param_groups for w in group["params"]}
        named = {n: w for n, w in student.named_parameters() if w in moved and w.requires_grad}
        self.student = student
        self.live = named
        self.w = {name: w.detach().clone() for name, w in named.items()}
        self.device = next(iter(named.values())).device
        self.random_state = random_state(self.device)
        self.response = response_class(optimizer)(optimizer)
        self.clipping: Clipping | None = None

    def hypergradient(
        self,
        x: Tensor,
        logits: Tensor,
        derivatives: Tensor,
        x_val: Tensor,
        val_targets: Targets,
        *,
        val_temperature=1.0,
        method: str = "finite_difference",
    ) -> tuple[Tensor, Tensor]:
        """h = ∂L_val(w')/∂lambda of the step just taken, and L_val(w').

        Parameters
        ----------
        x, logits : Tensor of shape (B, ...) and (B, K)
            The training batch and the student's logits on it at w.
        derivatives : Tensor of shape (m, B, K)
            r_j = ∂r/∂lambda_j for each of m metaparameters.
        x_val, val_targets : Tensor and Targets
            The validation batch.
        val_temperature : float or Tensor, default=1.0
        method : {"finite_difference", "jvp", "exact"}, default="finite_difference"

        Returns
        -------
        h : Tensor of shape (m,)
            NaN where v vanishes or is not finite: no direction is known then.
        val_loss : Tensor of shape ()
        """
        # A weight without gradient took no step that lambda could have changed.
        names = [name for name, w in self.live.items() if w.grad is not None]
        live = [self.live[name] for name in names]
        with full_precision(self.device), preserved_random_state(self.device):
            v, r_val, val_loss = self._validation_gradient(live, x_val, val_targets, val_temperature)
            norm = global_norm(v)
            d = self.response(live, v)
            if self.clipping is not None:
                d = self.clipping.response([w.grad for w in live if w.grad is not None], d)
            forward, w = self._replay(names, x), [self.w[name] for name in names]
            size = _size_of_logit_change(v, d, r_val)
            u = DIRECTIONAL_DERIVATIVES[method](forward, w, d, logits.detach(), size)
            h = (derivatives * u).sum(dim=(1, 2))
        known = torch.isfinite(norm) & (norm > _SMALLEST_NORM)
        return torch.where(known, h, torch.nan), val_loss

    def _validation_gradient(self, live, x, targets, val_temperature):
        with _validation_mode(self.student), torch.enable_grad():
            logits = functional_call(self.student, _copied_buffers(self.student), (x,))
            loss = validation_loss(logits, targets, val_temperature)
            r_val, *v = torch.autograd.grad(loss, [logits, *live], allow_unused=True)
        v = [torch.zeros_like(w) if g is None else g for g, w in zip(v, live, strict=True)]
        return v, r_val, loss.detach()

    def _replay(self, names, x):
        """The training forward pass again, with other weights and the same dropout masks."""

        def forward(weights):
            set_random_state(self.random_state, self.device)
            state = self.w | dict(zip(names, weights, strict=True)) | _copied_buffers(self.student)
            return functional_call(self.student, state, (x,))

        return forward


def hypergradient(
    student: nn.Module,
    train_batch: tuple[Tensor, Tensor],
    val_batch: tuple[Tensor, Tensor],
    teacher_logits: Tensor,
    *,
    lambda1: float = 0.5,
    temperature: float = 1.0,
    lr: float = 0.1,
    method: Literal["finite_difference", "jvp", "exact"] = "finite_difference",
    temperature_scaling: Literal["hinton", "none"] = "hinton",
    val_temperature: float = 1.0,
) -> np.ndarray:
    """Hypergradient of one plain SGD step: d L_val(w − lr · ∇L_train(w, λ)) / dλ, λ = (lambda1, T).

    The quantity that :class:`DistilledClassifier` descends, for one step of plain SGD, so
    that it can be checked against anyone's own reference.

    Parameters
    ----------
    student : nn.Module
        Maps inputs to logits of shape (B, K). Left as it is: weights, buffers, gradients,
        mode and random state.
    train_batch, val_batch : tuple of (Tensor, Tensor)
        Inputs of shape (B, ...) and class codes of shape (B,).
    teacher_logits : Tensor of shape (B, K)
        The teacher's logits on the training batch.
    lambda1 : float, default=0.5
        Weight of the labels against the teacher.
    temperature : float, default=1.0
        T.
    lr : float, default=0.1
        Learning rate of the step.
    method : {"finite_difference", "jvp", "exact"}, default="finite_difference"
        One more forward pass; forward-mode differentiation; two vector-Jacobian products.
    temperature_scaling : {"hinton", "none"}, default="hinton"
        s(T): T² or 1.
    val_temperature : float, default=1.0
        T_val.

    Returns
    -------
    ndarray of shape (2,)
        Derivatives by lambda1 and by T. NaN where the validation gradient vanishes.

    Raises
    ------
    ValueError
        If ``method`` or ``temperature_scaling`` is unknown.

    Notes
    -----
    Gorpinich, Bakhteev and Strijov, "Metaparameter optimization in knowledge distillation",
    Eq. 3: h = −lr · (∂²L_train/∂w∂λ)ᵀ ∂L_val(w')/∂w'. Both batches are seen in the student's
    present mode, but for dropout, which is off on the validation batch.

    Examples
    --------
    >>> import torch
    >>> from sklearn_kd import hypergradient
    >>> _ = torch.manual_seed(0)
    >>> student = torch.nn.Linear(4, 3).double()
    >>> X, y = torch.randn(8, 4).double(), torch.arange(8) % 3
    >>> f = 3 * torch.nn.functional.one_hot(y, 3).double()
    >>> fast = hypergradient(student, (X, y), (X, y), f)
    >>> exact = hypergradient(student, (X, y), (X, y), f, method="exact")
    >>> bool(abs(fast - exact).max() < 1e-6)
    True
    """
    for name, given, known in (
        ("method", method, DIRECTIONAL_DERIVATIVES),
        ("temperature_scaling", temperature_scaling, TEMPERATURE_SCALINGS),
    ):
        if given not in known:
            raise ValueError(f"{name}={given!r} is not one of {sorted(known)}.")
    (x, y), (x_val, y_val) = train_batch, val_batch
    # A step must be taken to be differentiated: take it on weights that are put back.
    live = [w for w in student.parameters() if w.requires_grad]
    kept = [(w.detach().clone(), w.grad) for w in live]
    optimizer = torch.optim.SGD(live, lr=lr)
    record = StepRecord(student, optimizer)
    targets, knobs = Targets(y, teacher_logits), (lambda1, temperature)
    try:
        with full_precision(record.device), preserved_random_state(record.device), torch.enable_grad():
            logits = functional_call(student, _copied_buffers(student), (x,))
            _, r = training_loss(logits, targets, *knobs, scaling=temperature_scaling)
            optimizer.zero_grad()
            logits.backward(r)
        optimizer.step()
        h, _ = record.hypergradient(
            x,
            logits,
            metaparameter_derivatives(logits, targets, *knobs, scaling=temperature_scaling),
            x_val,
            Targets(y_val),
            val_temperature=val_temperature,
            method=method,
        )
    finally:
        with torch.no_grad():
            for w, (value, grad) in zip(live, kept, strict=True):
                w.copy_(value)
                w.grad = grad
    return h.cpu().numpy().astype(np.float64)
