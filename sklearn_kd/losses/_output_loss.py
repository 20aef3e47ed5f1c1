"""The loss on a student's outputs beside feature terms, from y and the teacher's outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from sklearn_kd.losses._distillation_loss import DistillationLoss, Evaluation
from sklearn_kd.tasks._targets import Targets


class OutputLoss(Protocol):
    """The loss on the outputs in :class:`~sklearn_kd.losses._feature_objective.FeatureObjective`."""

    @property
    def asks_teacher(self) -> bool:
        """True if the loss needs the teacher's outputs."""

    @property
    def learned(self) -> tuple[str, ...]:
        """Names of the metaparameters that are learned with the factors."""

    def evaluate(
        self, outputs: Tensor, targets: Targets, values: Mapping[str, Any], *, differentiable: bool
    ) -> Evaluation:
        """Return the loss of a batch with its derivatives; ``values`` are all metaparameters."""


class FixedEvaluation(NamedTuple):
    """An :class:`~sklearn_kd.losses._distillation_loss.Evaluation` that depends on no metaparameter.

    Attributes
    ----------
    value : Tensor of shape ()
    gradients : list of Tensor
    """

    value: Tensor
    gradients: list[Tensor]

    def contract(self, u: Tensor) -> Tensor:
        """Return no component, shape (0,)."""
        return u.new_zeros(0)

    def derivatives(self) -> Tensor:
        """Return no component, shape (0, *s)."""
        (gradient,) = self.gradients
        return gradient.new_zeros(0, *gradient.shape)


class WeightedOutputLoss:
    """L(y) + weight · L(teacher) with a fixed weight; an :class:`OutputLoss`.

    This is (1 + weight) times the ``loss`` at lambda1 = 1/(1 + weight).

    Parameters
    ----------
    loss : DistillationLoss
        The loss lambda1 · L(y) + (1 − lambda1) · L(teacher).
    weight : float
        Weight of the teacher. 0: the teacher is not asked.
    values : mapping of str to float or ndarray
        Values of the loss's other metaparameters.
    """

    learned: tuple[str, ...] = ()

    def __init__(self, loss: DistillationLoss, weight: float, values: Mapping[str, Any]):
        self.loss, self.factor = loss, 1 + weight
        self.values = {"lambda1": 1 / self.factor, **values}
        self.asks_teacher = weight > 0

    def evaluate(
        self, outputs: Tensor, targets: Targets, values: Mapping[str, Any], *, differentiable: bool
    ) -> FixedEvaluation:
        """Return the loss with its gradient."""
        found = self.loss.evaluate(outputs, targets, self.values, differentiable=False)
        return FixedEvaluation(self.factor * found.value, [self.factor * r for r in found.gradients])


class LearnedOutputLoss:
    """A loss whose metaparameters are learned or follow a process; an :class:`OutputLoss`.

    Parameters
    ----------
    loss : DistillationLoss
    learned : sequence of str
        Names of its metaparameters, including lambda1.
    """

    asks_teacher = True

    def __init__(self, loss: DistillationLoss, learned: Sequence[str]):
        self.loss, self.learned = loss, tuple(learned)

    def evaluate(
        self, outputs: Tensor, targets: Targets, values: Mapping[str, Any], *, differentiable: bool
    ) -> Evaluation:
        """Return the loss with its derivatives."""
        own = {name: values[name] for name in self.learned}
        return self.loss.evaluate(outputs, targets, own, differentiable=differentiable)
