"""One fit of a DistilledClassifier, ready to be trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from sklearn_kd.checkpointing._manager import Checkpoints
from sklearn_kd.checkpointing._snapshot import Keeper, some_answers
from sklearn_kd.inputs._data import SplitData
from sklearn_kd.meta import Strategy
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.training._distillation_net import DistillationNet
from sklearn_kd.training._sklearn_callbacks import FitReport
from sklearn_kd.training._stacked import train_alone

if TYPE_CHECKING:
    from torch import Tensor

    from sklearn_kd.estimators._base import Seeds
    from sklearn_kd.teachers._adapter import TeacherAdapter


class Run(NamedTuple):
    """One fit, ready to be trained; ``student`` is copied by each net and stays as it is."""

    data: SplitData
    student: nn.Module
    strategy: Strategy
    teacher: TeacherAdapter | None
    seeds: Seeds
    report: FitReport
    checkpoints: Checkpoints

    def train(self, net: DistillationNet) -> DistillationNet:
        """Train an initialised net under this run's seed, or the rest that a checkpoint leaves."""
        if self.checkpoints.active:
            net.keeper_ = Keeper(self.checkpoints, "training", self._some_answers())
        return train_alone(net, self.data, self.seeds.training)

    def _some_answers(self) -> Tensor | None:
        """Return some answers of the teacher, by which a checkpoint recognises it."""
        train = self.data.train
        if train.augmentation is None:
            return some_answers(train.targets.teacher_logits)
        _, ask = train.augmentation
        if ask is None:
            return None
        with preserved_random_state(train.device, self.seeds.teacher):
            return some_answers(ask(train.samples))
