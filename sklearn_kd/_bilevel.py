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
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.optim import Optimizer

from sklearn_kd._devices import as_number, full_precision
from sklearn_kd._losses import TEMPERATURE_SCALINGS, Targets, TrainingLoss, validation_loss
from sklearn_kd._modes import evaluating
from sklearn_kd._random import preserved_random_state, random_state, set_random_state

# A finite difference moves the logits by this share of their size, in units of √epsilon:
# where rounding and curvature (or the kinks of ReLU) cost about the same.
_LOGIT_CHANGE = 0.3
# Below this norm of v the direction is rounding noise, as on separable data.
_SMALLEST_NORM = 1e-12


def global_norm(tensors: list[Tensor]) -> Tensor:
    """Euclidean norm of all entries together, shape ()."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))


# --------------------------------------------------------------------------------------
# d = (∂w'/∂g)ᵀ v: the optimizer's own response to the gradient it is given. It comes as
# c · d, because it often is a multiple of v, which then need not be copied.


class Response:
    """That of plain SGD, −γ v, whatever the optimizer; the base of those that know more.

    Parameters
    ----------
    optimizer : Optimizer
    weights : list of Tensor
        What v and d are aligned to.
    """

    def __init__(self, optimizer: Optimizer, weights: list[Tensor]):
        group_of = {w: group for group in optimizer.param_groups for w in group["params"]}
        self.weights, self.groups = weights, [group_of[w] for w in weights]
        self.state = optimizer.state

    def before_step(self) -> None:
        """Note what the real step is about to change."""
        self.factors = [-group["lr"] for group in self.groups]

    def __call__(self, v: list[Tensor], w_before: list[Tensor]) -> tuple[Any, list[Tensor]]:
        """(c, d), after the step was taken from ``w_before``."""
        first = self.factors[0]
        if not isinstance(first, Tensor) and all(factor == first for factor in self.factors):
            return first, v
        return 1.0, [factor * v_w for factor, v_w in zip(self.factors, v, strict=True)]


class SGDResponse(Response):
    """−γ v; with momentum and damping −γ (1 − δ) v; Nesterov −γ (1 + μ (1 − δ)) v.

    The first step of momentum is undamped: −γ v, Nesterov −γ (1 + μ) v.
    """

    def before_step(self):
        self.factors = [
            self._factor(group, self.state.get(w)) for w, group in zip(self.weights, self.groups, strict=True)
        ]

    def _factor(self, group, state):
        mu = group["momentum"]
        if mu == 0:
            return -group["lr"]
        first = not state or state.get("momentum_buffer") is None
        damped = 1.0 if first else 1.0 - group["dampening"]
        return -group["lr"] * (1.0 + mu * damped if group["nesterov"] else damped)


class AdamResponse(Response):
    """−γ [(1 − β₁)/(bc₁ D) − m̂ (1 − β₂) g/(bc₂ √ŝ D²)] ⊙ v, and 0 where s = 0.

    m and s are the moments after the step, m̂ = m/bc₁, ŝ = s/bc₂, D = √ŝ + ε. For Adam with
    L2 weight decay g includes wd · w; AdamW decays apart from the gradient.
    """

    def __init__(self, optimizer, weights):
        super().__init__(optimizer, weights)
        self._adamw = isinstance(optimizer, torch.optim.AdamW)

    def __call__(self, v, w_before):
        return 1.0, [
            torch.zeros_like(v_w) if w.grad is None else self._of_weight(w, group, v_w, before)
            for w, group, v_w, before in zip(self.weights, self.groups, v, w_before, strict=True)
        ]

    def _of_weight(self, w, group, v, w_before):
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


_RESPONSES = {
    torch.optim.SGD: SGDResponse,
    torch.optim.Adam: AdamResponse,
    torch.optim.AdamW: AdamResponse,
}


def response_class(optimizer: Optimizer) -> type[Response]:
    """The response that fits ``optimizer``; plain SGD's where none is known."""
    known = _RESPONSES.get(type(optimizer), Response)
    unusual = any(g.get("maximize") or g.get("amsgrad") for g in optimizer.param_groups)
    return Response if unusual else known


def warn_if_response_unknown(optimizer: Optimizer) -> None:
    """Say so where the hypergradient will treat the optimizer's step as plain SGD's."""
    if response_class(optimizer) is Response:
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
# u = J d, four ways. ``replay`` is the training forward pass again, with other weights;
# ``size`` is about the root mean square of u, which only the finite differences need.


def _step_size(logits, size):
    """ε that moves the logits by a set share of their size; of 0.1 where they are small.

    A step of 3e-5 · ‖w‖/‖d‖ does as well on larger networks and drowns in rounding on the
    smallest (examples/evidence/finite_difference.py).
    """
    return _LOGIT_CHANGE * torch.finfo(logits.dtype).eps ** 0.5 * (_rms(logits) + 0.1) / size


def _moved(w, d, step):
    """w + step · d."""
    if not isinstance(step, Tensor):
        return torch._foreach_add(w, d, alpha=step)
    moved = torch._foreach_mul(d, step)
    torch._foreach_add_(moved, w)
    return moved


def _by_finite_difference(replay, w, d, logits, size):
    """(z(w + ε d) − z(w)) / ε: one more forward pass, without gradient."""
    step = _step_size(logits, size)
    return (replay(_moved(w, d, step)) - logits) / step


def _by_central_difference(replay, w, d, logits, size):
    """(z(w + ε d) − z(w − ε d)) / 2ε: two more forward passes, without gradient."""
    step = _step_size(logits, size)
    return (replay(_moved(w, d, step)) - replay(_moved(w, d, -step))) / (2 * step)


def _by_jvp(replay, w, d, logits, size):
    """Forward-mode differentiation, exact."""
    return jvp(lambda *weights: replay.traced(weights), tuple(w), tuple(d))[1]


def _by_two_vjps(replay, w, d, logits, size):
    """∂/∂s ⟨Jᵀ s, d⟩: two vector-Jacobian products, exact, without forward mode."""
    with torch.enable_grad():
        w = [w_i.detach().requires_grad_() for w_i in w]
        z = replay.traced(w)
        s = torch.zeros_like(z, requires_grad=True)
        transposed = torch.autograd.grad(z, w, s, create_graph=True, allow_unused=True)
        pairs = [(g, d_i) for g, d_i in zip(transposed, d, strict=True) if g is not None]
        (u,) = torch.autograd.grad([g for g, _ in pairs], s, [d_i for _, d_i in pairs])
    return u


DIRECTIONAL_DERIVATIVES = {
    "finite_difference": _by_finite_difference,
    "central_difference": _by_central_difference,
    "jvp": _by_jvp,
    "exact": _by_two_vjps,
}


def _rms(t: Tensor):
    return as_number(torch.linalg.vector_norm(t)) / t.numel() ** 0.5


def _size_of_logit_change(v: list[Tensor], d: list[Tensor], norm, r_val: Tensor):
    """About the root mean square of J d, for no further pass; ``norm`` is ‖v‖.

    On the validation batch v = Jᵀ r_val, so that ⟨v, d⟩ = ⟨r_val, J d⟩ ≤ ‖r_val‖ ‖J d‖; the
    bound was 0.07 to 2 times the truth on the training batch, 0.4 in the median
    (examples/evidence/finite_difference.py).
    """
    if d is v:
        along = norm * norm
    else:
        products = [torch.vdot(v_w.flatten(), d_w.flatten()) for v_w, d_w in zip(v, d, strict=True)]
        along = abs(as_number(torch.stack(products).sum()))
    # Where it vanishes there is no direction, and no step is too large.
    return along / (_rms(r_val) * r_val.numel()) + 1e-30


# --------------------------------------------------------------------------------------
# Passes that leave no trace


def _validation_mode(student: nn.Module):
    """Dropout off, batch normalisation by the batch.

    In evaluation mode the running statistics of the first steps make hypergradients up to
    three orders of magnitude too small.
    """
    return evaluating(student, but=nn.modules.batchnorm._NormBase)


class StepRecord:
    """What the hypergradient needs to know from before a real step.

    Made once for a student and its optimizer. In each iteration: :meth:`begin`, the training
    forward pass, the optimizer's step, then the :meth:`hypergradient`. It holds one copy of
    the weights; with v, d and the weights of the extra pass a hypergradient takes four times
    the memory of the weights, whatever the activations.

    Parameters
    ----------
    student : nn.Module
    optimizer : Optimizer
        The one that takes the steps, over (some of) the student's parameters.
    forward : callable or None, default=None
        The student's forward pass where it is not the student itself but, say, compiled.
    """

    def __init__(
        self,
        student: nn.Module,
        optimizer: Optimizer,
        forward: Callable[[Tensor], Tensor] | None = None,
    ):
        moved = {w for group in optimizer.param_groups for w in group["params"]}
        self.student, self.forward = student, forward or student
        self.names = [name for name, w in student.named_parameters() if w in moved]
        self.weights: list[Tensor] = [w for w in student.parameters() if w in moved]
        self.device = self.weights[0].device
        self.w = [torch.empty_like(w, requires_grad=False) for w in self.weights]
        self.response = response_class(optimizer)(optimizer, self.weights)
        self.begun = False

    def begin(self) -> None:
        """Remember how things stand before the training forward pass."""
        with torch.no_grad():
            torch._foreach_copy_(self.w, self.weights)
        self.buffers = _Buffers(self.student)
        self.random_state = random_state(self.device)
        self.response.before_step()
        self.clipping: Clipping | None = None
        self.begun = True

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

        To be called in :func:`full_precision`, as the training forward pass before it.

        Parameters
        ----------
        x, logits : Tensor of shape (B, ...) and (B, K)
            The training batch and the student's logits on it at w; or some rows of it.
        derivatives : Tensor of shape (m, B, K)
            r_j = ∂r/∂lambda_j for each of m metaparameters.
        x_val, val_targets : Tensor and Targets
            The validation batch.
        val_temperature : float or Tensor, default=1.0
        method : {"finite_difference", "central_difference", "jvp", "exact"}, \
                default="finite_difference"

        Returns
        -------
        h : Tensor of shape (m,)
            NaN where v vanishes or is not finite: no direction is known then.
        val_loss : Tensor of shape ()
        """
        self.begun = False
        with preserved_random_state(self.device), _Buffers(self.student), torch.no_grad():
            v, r_val, val_loss = self._validation_gradient(x_val, val_targets, val_temperature)
            norm = as_number(global_norm(v))
            c, d = self.response(v, self.w)
            if self.clipping is not None:
                d = self.clipping.response([_gradient(w) for w in self.weights], d)
            size = _size_of_logit_change(v, d, norm, r_val)
            del v
            u = DIRECTIONAL_DERIVATIVES[method](_Replay(self, x), self.w, d, logits.detach(), size)
            h = c * (derivatives * u).sum(dim=(1, 2))
        return torch.where(torch.as_tensor(norm > _SMALLEST_NORM), h, torch.nan), val_loss

    def _validation_gradient(self, x, targets, val_temperature):
        with _validation_mode(self.student), torch.enable_grad():
            logits = self.forward(x)
            loss, r_val = validation_loss(logits, targets, val_temperature)
            gradients = torch.autograd.grad(logits, self.weights, r_val, allow_unused=True)
        v = [
            # A weight without gradient took no step that lambda could have changed.
            torch.zeros_like(w) if g is None or w.grad is None else g
            for g, w in zip(gradients, self.weights, strict=True)
        ]
        return v, r_val, loss


def _gradient(w: Tensor) -> Tensor:
    return torch.zeros_like(w) if w.grad is None else w.grad


class _Buffers:
    """The buffers of a module as they stand; put back on leaving the context."""

    def __init__(self, module: nn.Module):
        kept = [
            (part._buffers, name, buffer)
            for part in module.modules()
            for name, buffer in part._buffers.items()
            if buffer is not None
        ]
        self._kept, self._buffers = kept, [buffer for _, _, buffer in kept]
        self._values = [buffer.clone() for buffer in self._buffers]

    def put_back(self) -> None:
        """Whatever was written into them, or put in their place."""
        for owner, name, buffer in self._kept:
            owner[name] = buffer
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._values)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.put_back()


class _Replay:
    """The training forward pass again: the same rows, buffers and dropout masks, other weights."""

    def __init__(self, record: StepRecord, x: Tensor):
        self._record, self._x = record, x

    def __call__(self, weights: list[Tensor]) -> Tensor:
        """Logits at ``weights``, without gradient."""
        record = self._record
        record.buffers.put_back()
        set_random_state(record.random_state, record.device)
        # Exchanging what a parameter points to is what functional_call does, but for a tenth
        # of its time.
        real = [w.data for w in record.weights]
        try:
            for w, other in zip(record.weights, weights, strict=True):
                w.data = other
            with torch.no_grad():
                return record.forward(self._x)
        finally:
            for w, value in zip(record.weights, real, strict=True):
                w.data = value

    def traced(self, weights) -> Tensor:
        """Logits at ``weights``, differentiable in them."""
        record = self._record
        record.buffers.put_back()
        set_random_state(record.random_state, record.device)
        buffers = {name: buffer.clone() for name, buffer in record.student.named_buffers()}
        state = dict(zip(record.names, weights, strict=True)) | buffers
        return functional_call(record.student, state, (self._x,))


def hypergradient(
    student: nn.Module,
    train_batch: tuple[Tensor, Tensor],
    val_batch: tuple[Tensor, Tensor],
    teacher_logits: Tensor,
    *,
    lambda1: float = 0.5,
    temperature: float = 1.0,
    lr: float = 0.1,
    method: Literal["finite_difference", "central_difference", "jvp", "exact"] = "finite_difference",
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
    method : {"finite_difference", "central_difference", "jvp", "exact"}, \
            default="finite_difference"
        One more forward pass; two; forward-mode differentiation; two vector-Jacobian products.
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
    try:
        with full_precision(record.device), preserved_random_state(record.device), _Buffers(student):
            record.begin()
            with torch.enable_grad():
                logits = student(x)
            loss = TrainingLoss(
                logits, Targets(y, teacher_logits), lambda1, temperature, scaling=temperature_scaling
            )
            optimizer.zero_grad()
            logits.backward(loss.r)
            optimizer.step()
            h, _ = record.hypergradient(
                x,
                logits,
                loss.metaparameter_derivatives(),
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
