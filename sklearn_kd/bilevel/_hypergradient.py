"""Compute the hypergradient: how a step's metaparameters change the validation loss after the step.

The metaparameters a affect the training loss only through the outputs s of one training pass:
L_train(w, a) = F(s(w), a). For a loss of logits, s are the student's logits and a is, for example,
(lambda1, T); for pathways, s are their losses and a their raw importance factors. One training step is
w' = U(w, g) with g = ∂L_train(w, a)/∂w. With

    v = ∂L_val(w')/∂w',      d = (∂w'/∂g)ᵀ v,      u = J d,      J = ∂s/∂w at w,

the greedy hypergradient (Gorpinich, Bakhteev and Strijov, Eq. 3; Deng et al., Eq. 5) is
h_j = ⟨r_j, u⟩, where the loss gives r_j = ∂²F/∂s ∂a_j in closed form. One directional derivative u
serves any number of metaparameters, and there is no second backward pass through the student. The
real step serves as the virtual one; nothing here changes the student's weights, its buffers or the
random state.
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

# Below this norm of v, the direction is rounding noise, for example on separable data.
SMALLEST_NORM = 1e-12


# --------------------------------------------------------------------------------------
# u = J d, in three ways. ``replay`` repeats the training forward pass with other weights;
# ``step`` is ε, which only the finite differences need.


def step_from(rms: Any, size: Any, share: float, dtype: torch.dtype) -> Any:
    """Return the ε that moves logits by a set share of their size, or of 0.1 if they are smaller.

    ``rms`` is their root mean square, and ``size`` an estimate of that of their change along d.

    A step of 3e-5 · ‖w‖/‖d‖ works equally well on larger networks, but drowns in rounding on the
    smallest (examples/evidence/finite_difference.py).
    """
    numbers = torch.finfo(dtype)
    step = share * numbers.eps**0.5 * (rms + 0.1) / size
    # torch refuses a number that overflows, while a tensor becomes infinite: then nothing is known.
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
    """Return J d exactly, by forward-mode differentiation."""
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

    ``weight`` is the root mean square of r_val times its number of entries.

    On the validation batch, v = Jᵀ r_val, so that ⟨v, d⟩ = ⟨r_val, J d⟩ ≤ ‖r_val‖ ‖J d‖. The
    bound was 0.07 to 2 times the true value on the training batch, with a median of 0.4
    (examples/evidence/finite_difference.py).
    """
    along = norm * norm if d is v else abs(as_number(inner_product(v, d)))
    return logit_change_from(along, weight)


def _joined(of_passes: Sequence[Tensor]) -> Tensor:
    """Return the rows of all micro-batches in one tensor."""
    return of_passes[0] if len(of_passes) == 1 else torch.cat(list(of_passes))


class _Sizes:
    """Sizes of the training batch's logits and of r_val, which determine ε."""

    def __init__(self, logits: Tensor, r_val: Tensor) -> None:
        self._logits, self._r_val = logits, r_val
        self._of_all: list[Any] | None = None

    def share(self, ranks: Ranks, v: list[Tensor], loss: Tensor) -> Tensor:
        """Turn v, in place, and the sizes into those of all rows of all processes; return the loss."""
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
        """Return the root mean square of r_val times its number of entries."""
        if self._of_all is None:
            return _rms(self._r_val) * self._r_val.numel()
        _, squares, _, n = self._of_all
        return as_number((squares * n).sqrt())


def logit_change_from(along: Any, weight: Any) -> Any:
    """Return the estimate from |⟨v, d⟩| and from the weight of r_val."""
    # Numbers, unlike tensors, cannot be divided by zero; if they vanish, there is no direction anyway.
    return along / (weight + 1e-30) + 1e-30


# --------------------------------------------------------------------------------------
# Passes that leave no trace


# In evaluation mode, the running statistics of the first steps make hypergradients up to three orders of
# magnitude too small, and cuDNN takes no gradient of a recurrent layer.
_KEEP_THEIR_MODE = (nn.modules.batchnorm._NormBase, nn.RNNBase)


@contextmanager
def validation_mode(parts: list[nn.Module]) -> Iterator[None]:
    """Set a mode, inside, without dropout and with batch normalisation by the batch."""
    with eval_mode(parts, but=_KEEP_THEIR_MODE), without_dropout(recurrent_layers(parts)):
        yield


def set_validation_mode(module: nn.Module) -> None:
    """Set that mode permanently, on a copy that is used for nothing else."""
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


class TrainingPass:
    """A training forward pass of a batch or of one of its micro-batches, with what is needed to repeat it.

    Attributes
    ----------
    inputs : tuple
        The arguments of the pass, for the rows that J d is taken on.
    outputs, logits : Tensor
        s at w and the student's logits, for these rows.
    evaluation : Contraction
        Contraction of the training loss of all rows of the pass.
    n_outputs : int
        The length of s, for all rows.
    weight : float
        Weight of the rows of the pass in the mean over the batch.
    share : float
        Number of rows in the batch divided by the number that J d is taken on.
    buffers, random_state
        Values before the pass.
    """

    def __init__(
        self, inputs: tuple[Any, ...], outputs: Tensor, evaluation: Contraction, logits: Tensor, weight: float
    ):
        self.inputs, self.outputs, self.logits = inputs, outputs.detach(), logits.detach()
        self.evaluation, self.weight, self.share = evaluation, weight, 1.0
        self.n_outputs = len(outputs)
        self.buffers: BufferSnapshot | BufferCopies
        self.random_state: dict[str, Tensor]

    def take_rows(self, n_some: int, share: float) -> None:
        """Use the first rows instead of all; for images, their pixels are the rows of the outputs."""
        some = slice(n_some * (len(self.outputs) // len(self.inputs[0])))
        self.inputs = (self.inputs[0][:n_some], *self.inputs[1:])
        self.outputs, self.logits, self.share = self.outputs[some], self.logits[some], share

    def contract(self, u: Tensor) -> Tensor:
        """Return h_j = ⟨r_j, u⟩, scaled as if u had been computed on all rows."""
        if self.share == 1.0:
            return self.evaluation.contract(u)
        whole = u.new_zeros(self.n_outputs, *u.shape[1:])
        whole[: len(u)] = u
        return self.evaluation.contract(whole) * self.share


class HypergradientEstimator:
    """Keep what a hypergradient needs before a real step, and compute it afterwards.

    Make one estimator for a student and its optimizer. In each iteration, call :meth:`begin`, run the
    training forward pass, call :meth:`after_forward`, take the optimizer's step, and call
    :meth:`hypergradient`. If the batch goes through the student in micro-batches, call :meth:`begin_pass`
    before each except the first, and :meth:`after_forward` after each. The estimator holds one copy of the
    weights. With v, d and the weights of the extra pass, a hypergradient takes four times the memory of the
    weights, whatever the activations; five times if exact.

    The validation loss is the student's. Other modules that the training pass runs, such as the transforms
    of pathways, may be trained too: v vanishes on their weights, so that d leaves them where they were
    before the step (apart from the effect of clipping all gradients together).

    Parameters
    ----------
    student : nn.Module
    optimizer : Optimizer
        The optimizer that takes the steps, on (some of) the parameters of all modules.
    method : {"finite_difference", "central_difference", "jvp", "exact"}, \
            default="finite_difference"
    rows : int or None, default=None
        Number of rows of the training batch that J d is taken on. None: all.
    forward : callable or None, default=None
        The student's forward pass, if it is not the student itself but, for example, compiled.
    others : sequence of nn.Module, default=()
        Modules that the training pass runs besides the student.
    outputs : callable or None, default=None
        Maps the inputs of :meth:`after_forward` to the outputs s, with the present weights of the
        modules. None: s are the student's logits.
    logit_change : float, default=0.3
        Share of their size, in units of √epsilon, by which a finite difference moves the logits.
    ranks : Ranks, default=ALONE
        The processes that share each batch. v, ε and h are those of all rows: v and h are sums over the
        processes. The gradient given to the optimizer must be that of all rows, too.

    Attributes
    ----------
    passes : list of TrainingPass
        Passes of the iteration's batch, one for each micro-batch.
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
        self.passes: list[TrainingPass] = []
        self.pulled_back: list[list[Tensor | None]] = []
        self.directionless: bool | Tensor | None = None

    @property
    def retains_graph(self) -> bool:
        """Whether the training pass is backpropagated through more than once."""
        return self.method == "exact"

    def begin(self) -> None:
        """Copy the state before the training forward pass."""
        with torch.no_grad():
            torch._foreach_copy_(self.w, self.weights)
        self.begin_pass()
        self.passes = []
        self.response.before_step()
        self.clipping: Clipping | None = None
        self.begun = True

    def begin_pass(self) -> None:
        """Record, before a forward pass, the state that it changes or draws from."""
        self.buffers: BufferSnapshot | BufferCopies = BufferSnapshot(self.with_buffers)
        self.random_state = random_state(self.device)

    def after_forward(
        self,
        inputs: tuple[Any, ...],
        outputs: Tensor,
        evaluation: Contraction,
        logits: Tensor,
        n_rows: int | None = None,
        n_before: int = 0,
    ) -> None:
        """Record the training forward pass, while its graph exists.

        Parameters
        ----------
        inputs : tuple
            All arguments of ``outputs``: the training batch, shape (B, ...), first.
        outputs : Tensor of any shape
            s at w.
        evaluation : Contraction
            Contraction of the training loss at s.
        logits : Tensor of shape (B, K)
            The student's logits, which determine the size of a finite difference.
        n_rows : int or None, default=None
            Rows of the training batch in all processes and micro-batches together. None: B.
        n_before : int, default=0
            Rows of this process in earlier micro-batches.
        """
        n_own = len(inputs[0])
        weight = 1.0 if n_rows is None else self.ranks.weight_of(n_own, n_rows)
        if self.method == "exact":
            self._pull_back(outputs, evaluation, weight)
        noted = TrainingPass(inputs, outputs, evaluation, logits, weight)
        noted.buffers, noted.random_state = self.buffers, self.random_state
        if self.rows is not None and self.rows < (n_rows or n_own):
            rows = max(self.rows, self.ranks.size)
            n_some = len(self.ranks.own(range(rows))) - n_before
            noted.take_rows(min(max(n_some, 0), n_own), (n_rows or n_own) / rows)
        self.passes.append(noted)

    def _pull_back(self, outputs: Tensor, evaluation: Contraction, weight: float) -> None:
        """Compute Jᵀ r_j of each component, and add it to those of earlier micro-batches."""
        of_each = evaluation.derivatives()
        of_each = weight * of_each if weight != 1.0 else of_each
        found = [self._gradient_of(outputs, r_j, retain_graph=True) for r_j in of_each]
        if self.passes:
            found = [_sums(*pair) for pair in zip(self.pulled_back, found, strict=True)]
        self.pulled_back = found

    def hypergradient(
        self,
        x_val: Tensor,
        validation_loss: ValidationLoss,
        n_rows: int | None = None,
        further: Sequence[tuple[Tensor, ValidationLoss]] = (),
    ) -> tuple[Tensor, Tensor]:
        """Return h = ∂L_val(w')/∂a of the last step, and L_val(w').

        Call it in :func:`full_precision`, as the training forward pass before it.

        Parameters
        ----------
        x_val : Tensor of shape (B, ...)
            The validation batch.
        validation_loss : callable(Tensor) -> (Tensor, Tensor)
            Maps the student's logits on it to L_val, shape (), and ∂L_val/∂logits.
        n_rows : int or None, default=None
            Rows of the validation batch in all processes and micro-batches together. None: B.
        further : sequence of (Tensor, callable), default=()
            ``x_val`` and ``validation_loss`` of the further micro-batches of the validation batch.

        Returns
        -------
        h : Tensor of shape (m,)
            NaN if v vanishes or is not finite, since no direction is known then.
        val_loss : Tensor of shape ()
        """
        self.begun = False
        with preserved_torch_state(self.device), BufferSnapshot(self.with_buffers), torch.no_grad():
            validation = [(x_val, validation_loss), *further]
            v, r_val, val_loss = self._sum_of_validation_gradients(validation, n_rows)
            sizes = _Sizes(_joined([noted.logits for noted in self.passes]), r_val)
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
                dtype = self.passes[0].logits.dtype
                step = step_from(sizes.of_logits(), size, self.logit_change, dtype)
                h = self._sum_over_passes(c, d, step)
            self.ranks.mean_([h])
            self.passes = []  # they hold the batch
        self.directionless = is_directionless(norm)
        if isinstance(norm, Tensor):
            return torch.where(norm > SMALLEST_NORM, h, torch.nan), val_loss
        return h if norm > SMALLEST_NORM else torch.full_like(h, torch.nan), val_loss

    def weights_exchanged(self, others: Sequence[Tensor]) -> AbstractContextManager[None]:
        """Return a context in which the weights have other values."""
        return weights_exchanged(self.weights, others, self.recurrent)

    def _sum_over_passes(self, c: Any, d: list[Tensor], step: Any) -> Tensor:
        """Return c · Σ ⟨r_j, J d⟩ over the micro-batches."""
        found = []
        for noted in self.passes:
            if len(noted.outputs):  # otherwise it has none of the rows that J d is taken on
                h = c * noted.contract(self._directional_derivative(noted, d, step))
                found.append(noted.weight * h if noted.weight != 1.0 else h)
        return found[0] if len(found) == 1 else torch.stack(found).sum(dim=0)

    def _directional_derivative(self, noted: TrainingPass, d: list[Tensor], step: Any) -> Tensor:
        """Compute u = J d; once an operation lacks forward mode, use finite differences from then on."""
        arguments = _Replay(self, noted), self.w, d, noted.outputs, step
        if self.method != "jvp":
            return DIRECTIONAL_DERIVATIVES[self.method](*arguments)
        try:
            return _by_jvp(*arguments)
        except RuntimeError as error:  # NotImplementedError is one
            if is_out_of_memory(error):
                raise
            u = _by_central_difference(*arguments)  # another error is raised again here
            self.method = "central_difference"
            student = getattr(self.student, "named_network", self.student)
            warnings.warn(
                f"hypergradient='jvp' cannot be computed for student {type(student).__name__}: one of its "
                f"operations has no forward-mode derivative ({str(error).splitlines()[0]:.200}). "
                "'central_difference' is used in this training; set it to avoid this warning.",
                UserWarning,
                stacklevel=2,
            )
            return u

    def _sum_of_validation_gradients(
        self, validation: Sequence[tuple[Tensor, ValidationLoss]], n_rows: int | None
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return v, ∂L_val/∂logits of all rows and L_val, summed over micro-batches."""
        v: list[Tensor] = []
        of_rows, losses = [], []
        for x, validation_loss in validation:
            weight = 1.0 if n_rows is None else self.ranks.weight_of(len(x), n_rows)
            own, r_val, loss = self._validation_gradient(x, validation_loss, weight)
            # Not in place, since a gradient may be one expanded number.
            v = [v_w + own_w for v_w, own_w in zip(v, own, strict=True)] if v else own
            of_rows.append(r_val)
            losses.append(loss)
        return v, _joined(of_rows), losses[0] if len(losses) == 1 else torch.stack(losses).sum()

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
            # A weight without gradient took no step that the metaparameters could have changed.
            torch.zeros_like(w) if g is None or w.grad is None else g
            for g, w in zip(gradients, self.weights, strict=True)
        ]
        return v, r_val, loss

    def _gradient_of(self, outputs: Tensor, r: Tensor, retain_graph: bool = False) -> list[Tensor | None]:
        """Return Jᵀ r by weight; None for a weight that the outputs do not depend on, or that is frozen."""
        live = [w for w in self.weights if w.requires_grad]
        found = iter(gradient_by(live, outputs, r, retain_graph))
        return [next(found) if w.requires_grad else None for w in self.weights]


def _sums(these: list[Tensor | None], those: list[Tensor | None]) -> list[Tensor | None]:
    """Return the sums of gradients by weight; None stands for zeros."""
    return [b if a is None else a if b is None else a + b for a, b in zip(these, those, strict=True)]


class _Whole(nn.ModuleList):
    """All modules of a training pass as one module, which torch's functional_call needs."""

    def __init__(self, parts: list[nn.Module], run: Callable[..., Tensor]):
        super().__init__(parts)
        self._run = partial(run)  # a module would be registered a second time

    def forward(self, *inputs: Any) -> Tensor:
        """Return the outputs s."""
        return self._run(*inputs)


@contextmanager
def weights_exchanged(
    weights: Sequence[Tensor], others: Sequence[Tensor], recurrent: Sequence[nn.RNNBase]
) -> Iterator[None]:
    """Give weights other values inside, those of ``recurrent`` layers in the chunks that cuDNN needs.

    Parameters are made to point to other tensors, as in torch's functional_call, in a tenth of its time.
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
    """Repeat the training forward pass with the same rows, buffers and dropout masks, but other weights."""

    def __init__(self, record: HypergradientEstimator, noted: TrainingPass):
        self._record, self._noted = record, noted

    def __call__(self, weights: list[Tensor]) -> Tensor:
        """Return s at ``weights``, without gradient."""
        record, noted = self._record, self._noted
        noted.buffers.restore()
        set_random_state(noted.random_state, record.device)
        with torch.no_grad(), record.weights_exchanged(weights):
            return record.outputs_of(*noted.inputs)

    def traced(self, weights: Any) -> Tensor:
        """Return s at ``weights``, differentiable in them."""
        record, noted = self._record, self._noted
        noted.buffers.restore()
        set_random_state(noted.random_state, record.device)
        buffers = {name: buffer.clone() for name, buffer in record.whole.named_buffers()}
        state = dict(zip(record.names, weights, strict=True)) | buffers
        return functional_call(record.whole, state, noted.inputs)
