"""The objective of labels, a teacher's logits and feature terms, with changing weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklearn_kd.layers._hooks import feature_hooks
from sklearn_kd.losses._bound_terms import BoundTerm, PairedTerm
from sklearn_kd.losses._distillation_loss import Evaluation
from sklearn_kd.losses._objective import ForwardPass
from sklearn_kd.losses._output_loss import OutputLoss
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.tasks._pixels import pixel_rows
from sklearn_kd.tasks._targets import Targets

# Step of a finite difference (see HypergradientEstimator). A term's loss is one number that changes little,
# so rounding matters more than for logits: of 0.1, 0.3, 1, 3, 10 and 30 this has the smallest error on the
# networks of tests/distpro/test_distpro_hypergradient.py.
LOGIT_CHANGE = 3.0
# With lambda1 and T the share used for logits is best: of 0.1, 0.3, 1, 3 and 10 it has the smallest error on
# both together (tests/distpro/test_distpro_meta.py: in the median 0.2 % for lambda1 and T, 0.5 % for the
# factors).
JOINT_LOGIT_CHANGE = 0.3
# With paired terms LOGIT_CHANGE is better for all. Over seven terms on two networks the median error of
# their weights is 0.1 to 13 %, against up to 61 % at 0.3 and 36 % at 30
# (examples/evidence/term_differences.py).


class FeatureObjective:
    """The :class:`~sklearn_kd.losses._objective.Objective` of a student with feature terms.

    The training loss is

        L_train = L_outputs + Σ_k α_k · loss_k,

    where L_outputs is a loss of the student's outputs, y and the teacher's outputs, and the losses are those
    of all terms. L_train is linear in them, so that its derivatives with respect to the weights are closed
    forms. The hypergradient is taken through the losses and, after them, through the student's outputs if
    L_outputs has learned metaparameters.

    Searching and retraining differ only in the metaparameters, the weights and the strategy. An iteration of
    a search with a hypergradient consists of: a real step with the weights α_t; the gradient v of L_val
    (Deng et al., Eq. 2) at the weights w' after it; one more forward pass (two for "central_difference") at
    weights near w, for ∂L_val/∂a (Eq. 5); and a step of the metaparameters, with which the next iteration
    trains.

    Algorithm 1 of that paper has another order: a virtual step with α_t, then a step of α̃, then the real
    step with the new α. There a hypergradient is used in the same iteration, here in the next one. In return
    for this delay of one step, which also applies to learning lambda1 and T, the virtual step costs nothing:
    an iteration takes 3 forward and 2 backward passes of the student (4 and 2 for "central_difference").
    Algorithm 1 takes another backward pass if the graph of the forward pass at w is kept in memory for both
    steps, and another forward pass if it is not. The hypergradient itself is the same.

    Parameters
    ----------
    terms : sequence of BoundTerm
        Terms, in the order of their metaparameters.
    teacher : FeatureTeacher or None
        It is left out of pickles once training has begun; training processes receive it before.
    output_loss : OutputLoss
        L_outputs. Its metaparameters come after those of the terms.
    """

    def __init__(self, *, terms: Sequence[BoundTerm], teacher: Any, output_loss: OutputLoss):
        self.terms, self.teacher, self.output_loss = list(terms), teacher, output_loss
        self.begin_epoch()
        self._has_begun = False

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | ({"teacher": None} if self._has_begun else {})

    @property
    def recorded(self) -> tuple[str, ...]:
        """Names of the columns of :meth:`epoch_record`."""
        return tuple(column for term in self.terms for column in term.recorded)

    @property
    def logit_change(self) -> float:
        """The share by which a finite difference moves the logits."""
        paired = any(isinstance(term, PairedTerm) for term in self.terms)
        return JOINT_LOGIT_CHANGE if self.output_loss.learned and not paired else LOGIT_CHANGE

    @property
    def watch(self) -> Any:
        """Watch over the teacher's answers, or None."""
        return None if self.teacher is None else self.teacher.watch

    def make_modules(self, device: torch.device, seed: int) -> dict[str, nn.Module]:
        """Return new modules of the terms."""
        with preserved_random_state(device, seed):
            return {term.module_name: term.make_module() for term in self.terms}

    # ----------------------------------------------------------------------------------
    # One iteration

    def forward(
        self,
        student: nn.Module,
        run: Callable[[Tensor], Tensor],
        others: Mapping[str, nn.Module],
        batch: Any,
        values: Mapping[str, Any],
    ) -> ForwardPass:
        """Ask the teacher, and run the student and the modules of the active losses."""
        x, active = batch[0], [term.weights.active(values) for term in self.terms]
        features, outputs = self._ask(x, active)
        row_weight = _weight_of_rows(batch.targets, x)
        logits, of_terms = self._pass(student, others, x, features, active, row_weight)
        logits = pixel_rows(logits)
        if logits.dtype is torch.bfloat16:  # from autocast
            logits = logits.float()
        losses = _stacked(of_terms, logits)
        self._note(active, of_terms, values, len(x) / (batch.n_rows or len(x)))
        targets = batch.targets if outputs is None else batch.targets._replace(teacher_logits=outputs)
        tensors = [logits, losses] if len(losses) else [logits]
        return ForwardPass(logits, tensors, (x, features, row_weight), targets, losses)

    def _ask(self, x: Tensor, active: Sequence[list[int]]) -> tuple[Mapping[str, Tensor], Tensor | None]:
        """Ask the teacher for the features and outputs that are used."""
        layers = _layers(term.teacher_layers(own) for term, own in zip(self.terms, active, strict=True))
        assert self.teacher is not None
        if not layers and not (self.output_loss.asks_teacher and self.teacher.gives_outputs):
            return {}, None
        found: tuple[Mapping[str, Tensor], Tensor | None] = self.teacher(x, layers)
        return found

    def _pass(
        self,
        student: nn.Module,
        others: Mapping[str, nn.Module],
        x: Tensor,
        teacher: Mapping[str, Tensor],
        active: Sequence[list[int]],
        row_weight: Tensor | None = None,
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """Return the student's outputs, and the active losses of each term."""
        layers = _layers(term.student_layers(own) for term, own in zip(self.terms, active, strict=True))
        with feature_hooks(student, layers) as features:
            logits = student(x)
        losses = [
            term.losses(others[term.module_name], features, teacher, own, row_weight)
            for term, own in zip(self.terms, active, strict=True)
        ]
        return logits, losses

    def evaluate(
        self, passed: ForwardPass, values: Mapping[str, Any], *, differentiable: bool
    ) -> FeatureEvaluation:
        """Return the loss with its closed-form derivatives."""
        losses: Tensor = passed.context
        of_outputs = self.output_loss.evaluate(
            passed.logits, passed.targets, values, differentiable=differentiable
        )
        alphas = [term.weights.alpha(values, losses) for term in self.terms]
        alpha = torch.cat(alphas) if alphas else losses
        value = of_outputs.value + (alpha * losses.detach()).sum()
        gradients = [*of_outputs.gradients, alpha][: len(passed.tensors)]
        return FeatureEvaluation(value, gradients, self, of_outputs, values, losses)

    def joined(self, passed: ForwardPass) -> Tensor:
        """Return the losses, followed by the outputs if their loss has learned metaparameters."""
        return self._joined(passed.logits, passed.context)

    def _joined(self, logits: Tensor, losses: Tensor) -> Tensor:
        return torch.cat([losses, logits.flatten()]) if self.output_loss.learned else losses

    def outputs(self, student: nn.Module, run: Any, others: Mapping[str, nn.Module]) -> Callable[..., Tensor]:
        """Return a function from inputs, the teacher's features and row weights to the joined outputs."""
        every = [list(range(term.n_losses)) for term in self.terms]

        def outputs(x: Tensor, features: Mapping[str, Tensor], row_weight: Tensor | None = None) -> Tensor:
            logits, losses = self._pass(student, others, x, features, every, row_weight)
            return self._joined(pixel_rows(logits), _stacked(losses, logits))

        return outputs

    # ----------------------------------------------------------------------------------
    # The history

    def _note(
        self,
        active: Sequence[list[int]],
        losses: Sequence[list[Tensor]],
        values: Mapping[str, Any],
        share: float,
    ) -> None:
        self._shares.append(share)
        for term, own, found in zip(self.terms, active, losses, strict=True):
            entries = term.entries(own, found, values)
            for column, entry in zip(term.recorded, entries, strict=True):
                self._entries[column].append(entry)

    def begin_epoch(self) -> None:
        """Clear the records of the last epoch."""
        self._entries: dict[str, list[Tensor | float]] = {column: [] for column in self.recorded}
        self._shares: list[float] = []  # share of a batch's rows in each pass
        self._has_begun = True

    def epoch_record(self) -> dict[str, float]:
        """Return the means over the epoch's iterations by column."""
        shares = [] if len(set(self._shares)) == 1 else self._shares
        return {column: _mean(entries, shares) for column, entries in self._entries.items()}

    def forget(self) -> None:
        """Drop the teacher."""
        self.teacher = None

    def batch_key(self) -> None:
        """Return None, because features of several students are not compared at once."""


def _weight_of_rows(targets: Targets, x: Tensor) -> Tensor | None:
    """Return the weights of the rows of x, or None; each pixel of a map has its image's weight."""
    return None if targets.weight is None else targets.weight.reshape(len(x), -1)[:, 0]


def _layers(of_terms: Iterable[Sequence[str]]) -> list[str]:
    """Return the layers of all terms without duplicates."""
    return list(dict.fromkeys(layer for layers in of_terms for layer in layers))


def _stacked(of_terms: Sequence[Sequence[Tensor]], like: Tensor) -> Tensor:
    """Return the losses of all terms, shape (L,)."""
    losses = [loss for own in of_terms for loss in own]
    return torch.stack(losses) if losses else like.new_zeros(0)


def _mean(entries: Sequence[Tensor | float], shares: Sequence[float]) -> float:
    """Return the mean of scalar tensors or numbers, copied from the device at once; 0 if there are none.

    The mean is weighted by ``shares`` if there are any.
    """
    if shares:
        mean = sum(shares) / len(shares)
        entries = [entry * (share / mean) for entry, share in zip(entries, shares, strict=True)]
    tensors = [entry for entry in entries if isinstance(entry, Tensor)]
    if tensors and len(tensors) == len(entries):
        return float(torch.stack(tensors).mean())
    total = float(torch.stack(tensors).sum()) if tensors else 0.0
    numbers = [entry for entry in entries if not isinstance(entry, Tensor)]
    return (total + sum(numbers)) / max(1, len(entries))


class FeatureEvaluation(NamedTuple):
    """The loss of a forward pass, an :class:`~sklearn_kd.losses._distillation_loss.Evaluation`.

    Attributes
    ----------
    value : Tensor of shape ()
    gradients : list of Tensor
        Gradients with respect to the logits and, if terms are active, to their losses.
    objective : FeatureObjective
    of_outputs : Evaluation
        Evaluation of the loss on the outputs.
    values : mapping of str to float or Tensor
        The metaparameters.
    losses : Tensor of shape (L,)
        Losses of the terms.
    """

    value: Tensor
    gradients: list[Tensor]
    objective: FeatureObjective
    of_outputs: Evaluation
    values: Mapping[str, Any]
    losses: Tensor

    def derivatives(self) -> Tensor:
        """Return ∂²L_train/∂s ∂a_j, shape (m, len(s)).

        The weights and the metaparameters of the outputs' loss act independently.
        """
        if not self.objective.output_loss.learned:
            return self._of_weights()
        return torch.block_diag(self._of_weights(), self.of_outputs.derivatives().flatten(start_dim=1))

    def contract(self, u: Tensor) -> Tensor:
        """Return ⟨∂²L_train/∂s ∂a_j, u⟩, shape (m,)."""
        n_losses, weights = len(self.losses), self._of_weights()
        if not self.objective.output_loss.learned:
            return (weights * u).sum(dim=1)
        # Not (derivatives() * u): with maps of outputs the weights' rows would be mostly zeros. Contiguous
        # rows, and zeros in place of the losses, keep the rounding the same.
        of_weights = (weights.contiguous() * u[:n_losses]).sum(dim=1)
        rows = F.pad(self.of_outputs.derivatives().flatten(start_dim=1), (n_losses, 0))
        return torch.cat([of_weights, (rows * u).sum(dim=1)])

    def _of_weights(self) -> Tensor:
        """Return ∂²L_train/∂s ∂a_j for the losses of the terms, shape (m, L)."""
        like = self.losses
        of_terms = [term.weights.derivatives(self.values, like) for term in self.objective.terms]
        if not of_terms:
            return like.new_zeros(0, 0)
        return of_terms[0] if len(of_terms) == 1 else torch.block_diag(*of_terms)
