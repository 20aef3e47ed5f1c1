"""The hypergradient: how a step's metaparameters move the validation loss after it.

The metaparameters a change the training loss through the outputs s of one training pass alone:
L_train(w, a) = F(s(w), a). For a loss of logits s are the student's logits and a is, say,
(lambda1, T); for pathways s are their losses and a are their raw importance factors. One training step is
w' = U(w, g) with g = ∂L_train(w, a)/∂w. With

    v = ∂L_val(w')/∂w',      d = (∂w'/∂g)ᵀ v,      u = J d,      J = ∂s/∂w at w,

the greedy hypergradient (Gorpinich, Bakhteev and Strijov, Eq. 3; Deng et al., Eq. 5) is
h_j = ⟨r_j, u⟩, where r_j = ∂²F/∂s ∂a_j comes in closed form from the loss or
the loss. One directional derivative u serves any number of
metaparameters, and the student is never backpropagated through a second time. The real step
serves as the virtual one; nothing here moves the student's weights, its buffers or the random
state.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.optim import Optimizer

from sklearn_kd.bilevel._optimizer_response import (
    Clipping,
    global_norm,
    gradient_or_zeros,
    response_class,
)
from sklearn_kd.runtime._backward import gradient_by
from sklearn_kd.runtime._devices import as_number
from sklearn_kd.runtime._eval_mode import eval_mode
from sklearn_kd.runtime._memory import is_out_of_memory
from sklearn_kd.runtime._random_state import (
    preserved_torch_state,
    random_state,
    set_random_state,
)
from sklearn_kd.runtime._ranks import ALONE, Ranks
from sklearn_kd.runtime._recurrent import gather_weights, recurrent_layers, without_dropout
from sklearn_kd.runtime._snapshots import BufferCopies, BufferSnapshot

# Below this norm of v the direction is rounding noise, as on separable data.
SMALLEST_NORM = 1e-12


# --------------------------------------------------------------------------------------
# u = J d, three ways. ``replay`` is the training forward pass again, with other weights;
# ``step`` is ε, which only the finite differences need.


def step_from(rms: Any, size: Any, share: float, dtype: torch.dtype) -> Any:
    """Return the ε that moves logits by a set share of their size; of 0.1 where they are small.

    ``rms`` is their root mean square, and ``size`` about that of what d does to them.

    A step of 3e-5 · ‖w‖/‖d‖ does as well on larger networks and drowns in rounding on the
    smallest (examples/evidence/finite_difference.py).
    """
    numbers = torch.finfo(dtype)
    step = share * numbers.eps**0.5 * (rms + 0.1) / size
    # torch refuses a number that overflows, which a tensor does not: then nothing is known.
    return step if isinstance(step, Tensor) else min(step, numbers.max)


def moved_along(w: list[Tensor], d: list[Tensor], step: Any) -> Sequence[Tensor]:
    """Return w + step · d."""
    if not isinstance(step, Tensor):
        return torch._foreach_add(w, d, alpha=step)
    moved = torch._foreach_mul(d, step)
    torch._foreach_add_(moved, w)
    return moved


def _by_finite_difference(
    replay: Any, w: list[Tensor], d: list[Tensor], outputs: Tensor, step: Any
) -> Tensor:
    """Return (s(w + ε d) − s(w)) / ε: one more forward pass, without gradient."""
    return (replay(moved_along(w, d, step)) - outputs) / step


def _by_central_difference(
    replay: Any, w: list[Tensor], d: list[Tensor], outputs: Tensor, step: Any
) -> Tensor:
    """Return (s(w + ε d) − s(w − ε d)) / 2ε: two more forward passes, without gradient."""
    return (replay(moved_along(w, d, step)) - replay(moved_along(w, d, -step))) / (2 * step)


def _by_jvp(replay: Any, w: list[Tensor], d: list[Tensor], outputs: Tensor, step: Any) -> Tensor:
    """Forward-mode differentiation, exact."""
    return jvp(lambda *weights: replay.traced(weights), tuple(w), tuple(d))[1]


DIRECTIONAL_DERIVATIVES = {
    "finite_difference": _by_finite_difference,
    "central_difference": _by_central_difference,
    "jvp": _by_jvp,
}
# Or without u: h_j = ⟨Jᵀ r_j, d⟩, one vector-Jacobian product for each metaparameter.
METHODS = (*DIRECTIONAL_DERIVATIVES, "exact")


def _rms(t: Tensor) -> Any:
    return as_number(torch.linalg.vector_norm(t)) / t.numel() ** 0.5


def inner_product(a: Any, b: Any) -> Tensor:
    """Return ⟨a, b⟩ of lists of tensors, shape (); None stands for zeros."""
    pairs = [(a_i, b_i) for a_i, b_i in zip(a, b, strict=True) if a_i is not None]
    return torch.stack([torch.vdot(a_i.flatten(), b_i.flatten()) for a_i, b_i in pairs]).sum()


def _size_of_logit_change(v: list[Tensor], d: list[Tensor], norm: Any, weight: Any) -> Any:
    """Estimate the root mean square of J d without a further pass; ``norm`` is ‖v‖.

    ``weight`` is the root mean square of r_val times how many numbers it has.

    On the validation batch v = Jᵀ r_val, so that ⟨v, d⟩ = ⟨r_val, J d⟩ ≤ ‖r_val‖ ‖J d‖; the
    bound was 0.07 to 2 times the truth on the training batch, 0.4 in the median
    (examples/evidence/finite_difference.py).
    """
    along = norm * norm if d is v else abs(as_number(inner_product(v, d)))
    return logit_change_from(along, weight)


class _Sizes:
    """The sizes of the logits of the training batch and of r_val, by which ε is chosen."""

    def __init__(self, logits: Tensor, r_val: Tensor) -> None:
        self._logits, self._r_val = logits, r_val
        self._of_all: list[Any] | None = None

    def share(self, ranks: Ranks, v: list[Tensor], loss: Tensor) -> Tensor:
        """Make v, in place, and the sizes those of all processes' rows, by one message; return their loss."""
        own = [loss, self._logits.square().sum(), (self._r_val / ranks.size).square().sum()]
        counts = torch.tensor([self._logits.numel(), self._r_val.numel()], dtype=loss.dtype)
        found = torch.cat([torch.stack([t.to(loss) for t in own]), counts.to(loss.device)])
        ranks.mean_([*v, found])
        self._of_all = list((found[1:] * ranks.size).unbind())
        return found[0]

    def of_logits(self) -> Any:
        """Return the root mean square of the logits."""
        if self._of_all is None:
            return _rms(self._logits)
        squares, _, n, _ = self._of_all
        return as_number((squares / n).sqrt())

    def of_r_val(self) -> Any:
        """Return the root mean square of r_val times how many numbers it has."""
        if self._of_all is None:
            return _rms(self._r_val) * self._r_val.numel()
        _, squares, _, n = self._of_all
        return as_number((squares * n).sqrt())


def logit_change_from(along: Any, weight: Any) -> Any:
    """Return the estimate from |⟨v, d⟩| and from what r_val weighs."""
    # Numbers, not tensors, do not divide by zero; where they vanish there is no direction anyway.
    return along / (weight + 1e-30) + 1e-30


# --------------------------------------------------------------------------------------
# Passes that leave no trace


# In evaluation mode the running statistics of the first steps make hypergradients up to three orders of
# magnitude too small, and cuDNN takes no gradient of a recurrent layer.
_KEEP_THEIR_MODE = (nn.modules.batchnorm._NormBase, nn.RNNBase)


@contextmanager
def validation_mode(parts: list[nn.Module]) -> Iterator[None]:
    """Dropout off, batch normalisation by the batch."""
    with eval_mode(parts, but=_KEEP_THEIR_MODE), without_dropout(recurrent_layers(parts)):
        yield


def set_validation_mode(module: nn.Module) -> None:
    """Set that mode for good, of a copy that is used for nothing else."""
    for part in module.modules():
        part.training = part.training and isinstance(part, _KEEP_THEIR_MODE)
    for layer in recurrent_layers(module.modules()):
        layer.dropout = 0.0


def is_directionless(norm: Any) -> Any:
    """Return whether a v of this norm is rounding noise."""
    return norm <= SMALLEST_NORM


ValidationLoss = Callable[[Tensor], tuple[Tensor, Tensor]]


class Contraction(Protocol):
    """The dependence of the gradient r = ∂F/∂s of the training loss on the metaparameters a."""

    def contract(self, u: Tensor) -> Tensor:
        """Return ⟨∂r/∂a_j, u⟩ for each of m components, shape (m,)."""

    def derivatives(self) -> Tensor:
        """Return ∂r/∂a_j, shape (m, *s)."""


class HypergradientEstimator:
    """Keeps what a hypergradient needs from before a real step, and computes it afterwards.

    Made once for a student and its optimizer. In each iteration: :meth:`begin`, the training
    forward pass, :meth:`after_forward`, the optimizer's step, :meth:`hypergradient`. It holds
    one copy of the weights. With v, d and the weights of the extra pass a hypergradient takes
    four times the memory of the weights, whatever the activations; five times if exact.

    The validation loss is the student's. Other modules that the training pass runs, such as
    the transforms of pathways, may learn with it: v vanishes on their weights, so that d
    leaves them where they were before the step (but for what clipping the gradients of all
    together makes of them).

    Parameters
    ----------
    student : nn.Module
    optimizer : Optimizer
        The one that takes the steps, over (some of) the parameters of all modules.
    method : {"finite_difference", "central_difference", "jvp", "exact"}, \
            default="finite_difference"
    rows : int or None, default=None
        How many rows of the training batch J d is taken on. None: all.
    forward : callable or None, default=None
        The student's forward pass where it is not the student itself but, say, compiled.
    others : sequence of nn.Module, default=()
        What the training pass runs beside the student.
    outputs : callable or None, default=None
        Maps the inputs of :meth:`after_forward` to the outputs s, by the modules as they are
        when it is called. None: s are the student's logits.
    logit_change : float, default=0.3
        By what share of their size, in units of √epsilon, a finite difference moves the
        logits.
    ranks : Ranks, default=ALONE
        The processes that share each batch. v, ε and h are those of all rows: v is the sum of the processes'
        own v, and so is h. The gradient that the optimizer is given must be that of all rows, too.

    Attributes
    ----------
    directionless : bool or Tensor of shape (), or None
        Whether v vanished when the last hypergradient was taken.
    """

    def __init__(
        self,
        student: nn.Module,
        optimizer: Optimizer,
        *,
        method: str = "finite_difference",
        rows: int | None = None,
        forward: Callable[[Tensor], Tensor] | None = None,
        others: Sequence[nn.Module] = (),
        outputs: Callable[..., Tensor] | None = None,
        logit_change: float = 0.3,
        ranks: Ranks = ALONE,
    ):
        self.ranks = ranks
        moved = {w for group in optimizer.param_groups for w in group["params"]}
        self.student, self.forward = student, forward or student
        self.outputs_of = outputs or self.forward
        self.whole = _Whole([student, *others], outputs or student)
        self.parts = list(self.whole.modules())
        self.with_buffers = [part for part in self.parts if part._buffers]
        self.recurrent = recurrent_layers(self.parts)
        self.method, self.rows, self.logit_change = method, rows, logit_change
        self.names = [name for name, w in self.whole.named_parameters() if w in moved]
        self.weights: list[Tensor] = [w for w in self.whole.parameters() if w in moved]
        self.n_of_student = sum(w in moved for w in student.parameters())  # the first; v vanishes on others
        self.device = self.weights[0].device
        self.w = [torch.empty_like(w, requires_grad=False) for w in self.weights]
        self.response = response_class(optimizer)(optimizer, self.weights)
        self.begun = False
        self.directionless: bool | Tensor | None = None

    @property
    def retains_graph(self) -> bool:
        """True if the training pass is backpropagated through more than once."""
        return self.method == "exact"

    def begin(self) -> None:
        """Copy the state before the training forward pass."""
        with torch.no_grad():
            torch._foreach_copy_(self.w, self.weights)
        self.buffers: BufferSnapshot | BufferCopies = BufferSnapshot(self.with_buffers)
        self.random_state = random_state(self.device)
        self.response.before_step()
        self.clipping: Clipping | None = None
        self.begun = True

    def after_forward(
        self,
        inputs: tuple[Any, ...],
        outputs: Tensor,
        evaluation: Contraction,
        logits: Tensor,
        n_rows: int | None = None,
    ) -> None:
        """Note the training forward pass, while its graph is there.

        Parameters
        ----------
        inputs : tuple
            All that ``outputs`` is called with: the training batch, shape (B, ...), first.
        outputs : Tensor of any shape
            s at w.
        evaluation : Contraction
            Of the training loss at s.
        logits : Tensor of shape (B, K)
            The student's, by which a finite difference is sized.
        n_rows : int or None, default=None
            Of the training batch in all processes together; None: B.
        """
        n_own = len(inputs[0])
        self.row_weight = 1.0 if n_rows is None else self.ranks.weight_of(n_own, n_rows)
        if self.method == "exact":
            of_each = evaluation.derivatives()
            of_each = self.row_weight * of_each if self.row_weight != 1.0 else of_each
            self.pulled_back = [self._gradient_of(outputs, r_j, retain_graph=True) for r_j in of_each]
        self.share = 1.0
        self.n_outputs = len(outputs)
        if self.rows is not None and self.rows < (n_rows or n_own):
            # Some rows, taken for all of them; of images their pixels are the rows of the outputs.
            rows = max(self.rows, self.ranks.size)
            self.share = (n_rows or n_own) / rows
            n_some = len(self.ranks.own(range(rows)))
            some = slice(n_some * (len(outputs) // n_own))
            inputs, outputs, logits = (inputs[0][:n_some], *inputs[1:]), outputs[some], logits[some]
        self.inputs, self.outputs, self.logits = inputs, outputs.detach(), logits.detach()
        self.evaluation: Contraction | None = evaluation

    def hypergradient(
        self, x_val: Tensor, validation_loss: ValidationLoss, n_rows: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """h = ∂L_val(w')/∂lambda of the step just taken, and L_val(w').

        To be called in :func:`full_precision`, as the training forward pass before it.

        Parameters
        ----------
        x_val : Tensor of shape (B, ...)
            The validation batch.
        validation_loss : callable(Tensor) -> (Tensor, Tensor)
            Maps the student's logits on it to L_val, shape (), and ∂L_val/∂logits.
        n_rows : int or None, default=None
            Of the validation batch in all processes together; None: B.

        Returns
        -------
        h : Tensor of shape (m,)
            NaN where v vanishes or is not finite: no direction is known then.
        val_loss : Tensor of shape ()
        """
        self.begun = False
        with preserved_torch_state(self.device), BufferSnapshot(self.with_buffers), torch.no_grad():
            weight = 1.0 if n_rows is None else self.ranks.weight_of(len(x_val), n_rows)
            v, r_val, val_loss = self._validation_gradient(x_val, validation_loss, weight)
            sizes = _Sizes(self.logits, r_val)
            if self.ranks.size > 1:
                val_loss = sizes.share(self.ranks, v[: self.n_of_student], val_loss)
            norm = as_number(global_norm(v))
            c, d = self.response(v, self.w)
            if self.clipping is not None:
                d = self.clipping.response([gradient_or_zeros(w) for w in self.weights], d)
            if self.method == "exact":
                h = c * torch.stack([inner_product(g, d) for g in self.pulled_back])
            else:
                size = _size_of_logit_change(v, d, norm, sizes.of_r_val())
                del v
                step = step_from(sizes.of_logits(), size, self.logit_change, self.logits.dtype)
                h = c * self._contract(self._directional_derivative(d, step))
                h = self.row_weight * h if self.row_weight != 1.0 else h
            self.ranks.mean_([h])
            self.evaluation = None  # it holds the batch
        self.directionless = is_directionless(norm)
        if isinstance(norm, Tensor):
            return torch.where(norm > SMALLEST_NORM, h, torch.nan), val_loss
        return h if norm > SMALLEST_NORM else torch.full_like(h, torch.nan), val_loss

    def weights_exchanged(self, others: Sequence[Tensor]) -> AbstractContextManager[None]:
        """Return a context in which the weights have other values."""
        return weights_exchanged(self.weights, others, self.recurrent)

    def _contract(self, u: Tensor) -> Tensor:
        """Return h_j = ⟨r_j, u⟩; rows that u was not computed on count as much as those that it was."""
        assert self.evaluation is not None
        if self.share == 1.0:
            return self.evaluation.contract(u)
        whole = u.new_zeros(self.n_outputs, *u.shape[1:])
        whole[: len(u)] = u
        return self.evaluation.contract(whole) * self.share

    def _directional_derivative(self, d: list[Tensor], step: Any) -> Tensor:
        """Compute u = J d; from the first operation without forward mode on, by finite differences."""
        arguments = _Replay(self), self.w, d, self.outputs, step
        if self.method != "jvp":
            return DIRECTIONAL_DERIVATIVES[self.method](*arguments)
        try:
            return _by_jvp(*arguments)
        except RuntimeError as error:  # NotImplementedError is one
            if is_out_of_memory(error):
                raise
            u = _by_central_difference(*arguments)  # if the error is another one, it comes again here
            self.method = "central_difference"
            student = getattr(self.student, "named_network", self.student)
            warnings.warn(
                f"hypergradient='jvp' cannot be computed for student {type(student).__name__}, an "
                f"operation of which has no forward-mode derivative ({str(error).splitlines()[0]:.200}). "
                "'central_difference' takes its place in this training; set it to hear no more of this.",
                UserWarning,
                stacklevel=2,
            )
            return u

    def _validation_gradient(
        self, x: Tensor, validation_loss: ValidationLoss, weight: float = 1.0
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return v, ∂L_val/∂logits and L_val, each times a weight."""
        with validation_mode(self.parts), torch.enable_grad():
            logits = self.forward(x)
            loss, r_val = validation_loss(logits)
            if weight != 1.0:
                loss, r_val = weight * loss, weight * r_val
            gradients = self._gradient_of(logits, r_val)
        v = [
            # A weight without gradient took no step that lambda could have changed.
            torch.zeros_like(w) if g is None or w.grad is None else g
            for g, w in zip(gradients, self.weights, strict=True)
        ]
        return v, r_val, loss

    def _gradient_of(self, outputs: Tensor, r: Tensor, retain_graph: bool = False) -> list[Tensor | None]:
        """Jᵀ r by weight; None for one that the outputs do not depend on, or that is frozen now."""
        live = [w for w in self.weights if w.requires_grad]
        found = iter(gradient_by(live, outputs, r, retain_graph))
        return [next(found) if w.requires_grad else None for w in self.weights]


class _Whole(nn.ModuleList):
    """All modules of a training pass as one, which is what torch's functional_call takes."""

    def __init__(self, parts: list[nn.Module], run: Callable[..., Tensor]):
        super().__init__(parts)
        self._run = partial(run)  # a module would become a part once more

    def forward(self, *inputs: Any) -> Tensor:
        """Return the outputs s."""
        return self._run(*inputs)


@contextmanager
def weights_exchanged(
    weights: Sequence[Tensor], others: Sequence[Tensor], recurrent: Sequence[nn.RNNBase]
) -> Iterator[None]:
    """Let weights have other values inside, those of ``recurrent`` layers in chunks as cuDNN wants them.

    Exchanging what a parameter points to is what torch's functional_call does, but for a tenth of its time.
    """
    real = [w.data for w in weights]
    try:
        for w, other in zip(weights, others, strict=True):
            w.data = other
        gather_weights(recurrent)
        yield
    finally:
        for w, value in zip(weights, real, strict=True):
            w.data = value


class _Replay:
    """The training forward pass again: the same rows, buffers and dropout masks, other weights."""

    def __init__(self, record: HypergradientEstimator):
        self._record = record

    def __call__(self, weights: list[Tensor]) -> Tensor:
        """Return s at ``weights``, without gradient."""
        record = self._record
        record.buffers.restore()
        set_random_state(record.random_state, record.device)
        with torch.no_grad(), record.weights_exchanged(weights):
            return record.outputs_of(*record.inputs)

    def traced(self, weights: Any) -> Tensor:
        """Return s at ``weights``, differentiable in them."""
        record = self._record
        record.buffers.restore()
        set_random_state(record.random_state, record.device)
        buffers = {name: buffer.clone() for name, buffer in record.whole.named_buffers()}
        state = dict(zip(record.names, weights, strict=True)) | buffers
        return functional_call(record.whole, state, record.inputs)
