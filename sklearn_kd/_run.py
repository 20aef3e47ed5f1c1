"""One fit of a DistilledClassifier, ready to be trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from sklearn_kd._callbacks import FitReport
from sklearn_kd._checkpoints import Checkpoints
from sklearn_kd._data import SplitData
from sklearn_kd._distillation_net import DistillationNet
from sklearn_kd._net_state import Keeper, some_answers
from sklearn_kd._random import preserved_random_state
from sklearn_kd._together import train_alone
from sklearn_kd.meta import Strategy

if TYPE_CHECKING:
    from torch import Tensor

    from sklearn_kd._base import Seeds
    from sklearn_kd._teacher import Teacher


class Run(NamedTuple):
    """One fit, ready to be trained; ``student`` is copied by each net and stays as it is."""

    data: SplitData
    student: nn.Module
    strategy: Strategy
    teacher: Teacher | None
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
