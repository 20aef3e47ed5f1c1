"""One fit of a DistilledClassifier, ready to be trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from sklearn_kd.checkpointing._checkpointer import Checkpointer, teacher_signature
from sklearn_kd.checkpointing._checkpoints import Checkpoints
from sklearn_kd.inputs._data import SplitData
from sklearn_kd.meta import Strategy
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.training._net import TrainingNet
from sklearn_kd.training._sklearn_callbacks import FitReport
from sklearn_kd.training._stacked import train_alone
from sklearn_kd.training._trainer_state import TrainerState

if TYPE_CHECKING:
    from torch import Tensor

    from sklearn_kd.estimators._base import Seeds
    from sklearn_kd.teachers._teacher import Teacher


class Run(NamedTuple):
    """One fit, ready to be trained; ``student`` is copied by each net and stays as it is."""

    data: SplitData
    student: nn.Module
    strategy: Strategy
    teacher: Teacher | None
    seeds: Seeds
    report: FitReport
    checkpoints: Checkpoints

    def train(self, net: TrainingNet) -> TrainingNet:
        """Train an initialised net under this run's seed, or the rest that a checkpoint leaves."""
        if self.checkpoints.active:
            net.checkpointer_ = Checkpointer(
                self.checkpoints, "training", TrainerState(net), self._teacher_signature()
            )
        return train_alone(net, self.data, self.seeds.training)

    def _teacher_signature(self) -> Tensor | None:
        """Return some of the teacher's outputs, by which a checkpoint recognises it."""
        train = self.data.train
        if train.augmentation is None:
            return teacher_signature(train.targets.teacher_logits)
        _, ask = train.augmentation
        if ask is None:
            return None
        with preserved_random_state(train.device, self.seeds.teacher):
            return teacher_signature(ask(train.samples))
