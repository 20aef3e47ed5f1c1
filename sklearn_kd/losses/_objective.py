"""The objective of a training step: the outputs of a forward pass, and their loss with derivatives."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from sklearn_kd.losses._binary_logits import BinaryTrainingLoss
from sklearn_kd.losses._distillation_loss import DistillationLoss, Evaluation, is_stackable
from sklearn_kd.losses._logit_distillation import LabelEvaluation, LogitDistillation
from sklearn_kd.losses._multilabel_distillation import MultilabelDistillation
from sklearn_kd.tasks._pixels import pixel_rows
from sklearn_kd.tasks._targets import Targets

# A finite difference moves the logits by this share of their size, in units of √epsilon. There rounding and
# curvature (or the kinks of ReLU) cost about the same (examples/evidence/finite_difference.py).
LOGIT_CHANGE = 0.3


class ForwardPass(NamedTuple):
    """A training forward pass.

    Attributes
    ----------
    logits : Tensor of shape (B, K)
        The student's logits.
    tensors : list of Tensor
        The tensors s on which the loss depends, to backpropagate through.
    inputs : tuple
        Arguments with which :meth:`Objective.outputs` computes s again.
    targets : Targets
    context : object
        Anything else that :meth:`Objective.evaluate` needs.
    """

    logits: Tensor
    tensors: list[Tensor]
    inputs: tuple[Any, ...]
    targets: Targets
    context: Any = None


class Objective(Protocol):
    """The objective that a :class:`~sklearn_kd.training._net.TrainingNet` minimises."""

    @property
    def logit_change(self) -> float:
        """Share of their size, in units of √epsilon, by which a finite difference moves the logits."""

    @property
    def recorded(self) -> tuple[str, ...]:
        """Names of the columns of :meth:`epoch_record`."""

    @property
    def watch(self) -> Any:
        """The watch over the answers of a teacher asked during training, or None."""

    def make_modules(self, device: torch.device, seed: int) -> dict[str, nn.Module]:
        """Return new modules, by name, to train with the student; ``seed`` seeds their weights."""

    def forward(
        self, student: nn.Module, run: Callable[[Tensor], Tensor], others: Mapping[str, nn.Module],
        batch: Any, values: Mapping[str, Any],
    ) -> ForwardPass:  # fmt: skip
        """Run the training forward pass; ``run`` executes the student."""

    def evaluate(self, passed: ForwardPass, values: Mapping[str, Any], *, differentiable: bool) -> Evaluation:
        """Return the loss of a forward pass with its derivatives."""

    def joined(self, passed: ForwardPass) -> Tensor:
        """Return s as one tensor, in the layout of the u of :meth:`Evaluation.contract`."""

    def outputs(self, student: nn.Module, run: Any, others: Mapping[str, nn.Module]) -> Callable[..., Tensor]:
        """Return the function from :attr:`ForwardPass.inputs` to s."""

    def begin_epoch(self) -> None:
        """Reset what :meth:`epoch_record` counts."""

    def epoch_record(self) -> dict[str, float]:
        """Return the numbers that the history records for an epoch, by name."""

    def forget(self) -> None:
        """Drop everything that only training needs."""

    def batch_key(self) -> Hashable | None:
        """Return a key that must agree for students to be evaluated at once; None if they cannot be."""


class LogitObjective:
    """A loss of logits, teacher logits and labels, as an :class:`Objective`.

    Parameters
    ----------
    loss : DistillationLoss
    """

    logit_change = LOGIT_CHANGE
    recorded: tuple[str, ...] = ()
    watch = None

    def __init__(self, loss: DistillationLoss):
        self.loss = loss

    def make_modules(self, device: torch.device, seed: int) -> dict[str, nn.Module]:
        """Return none, because nothing is trained with the student."""
        return {}

    def forward(
        self,
        student: nn.Module,
        run: Callable[[Tensor], Tensor],
        others: Mapping[str, nn.Module],
        batch: Any,
        values: Mapping[str, Any],
    ) -> ForwardPass:
        """Run the student on the batch; the pixels of maps become rows."""
        logits = pixel_rows(run(batch[0]))
        return ForwardPass(logits, [logits], (batch[0],), batch.targets)

    def evaluate(self, passed: ForwardPass, values: Mapping[str, Any], *, differentiable: bool) -> Evaluation:
        """Return the loss, or that of the labels alone if there is no teacher but the loss needs one."""
        return self.evaluate_logits(passed.logits, passed.targets, values, differentiable=differentiable)

    def evaluate_logits(
        self, logits: Tensor, targets: Targets, values: Mapping[str, Any], *, differentiable: bool
    ) -> Evaluation:
        """Return the loss of the logits of one student, or of several if :meth:`batch_key` is not None."""
        if targets.teacher_logits is None and self.loss.needs_teacher and not self.loss.has_label_loss:
            several = targets.labels.ndim == logits.ndim
            return (BinaryTrainingLoss if several else LabelEvaluation)(logits, targets, values)
        return self.loss.evaluate(logits, targets, values, differentiable=differentiable)

    def joined(self, passed: ForwardPass) -> Tensor:
        """Return the logits."""
        return passed.logits

    def outputs(
        self, student: nn.Module, run: Callable[[Tensor], Tensor], others: Mapping[str, nn.Module]
    ) -> Callable[..., Tensor]:
        """Return the student's forward pass, with maps as rows of pixels."""
        return lambda x: pixel_rows(run(x))

    def begin_epoch(self) -> None:
        """Count nothing."""

    def epoch_record(self) -> dict[str, float]:
        """Return nothing, because the net records the metaparameters."""
        return {}

    def forget(self) -> None:
        """Keep everything, because nothing is needed only in training."""

    def batch_key(self) -> Hashable | None:
        """Return the parameters of a loss that takes several students at once; None for other losses."""
        if type(self.loss) is MultilabelDistillation and not self.loss.per_label:
            return "several labels", self.loss.temperature_scaling
        if type(self.loss) is LogitDistillation:
            return self.loss.temperature_scaling
        if is_stackable(self.loss):
            return type(self.loss), str(self.loss.get_params(deep=False))
        return None
