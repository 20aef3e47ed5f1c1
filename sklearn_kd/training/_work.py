"""The threads that the trainings of students pay for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from sklearn_kd.inputs._batches import Batch
from sklearn_kd.inputs._data import DistillationData, SplitData
from sklearn_kd.runtime._eval_mode import isolated_eval_mode
from sklearn_kd.runtime._operations import largest_weight, operations_of
from sklearn_kd.runtime._threads import threads_for
from sklearn_kd.tasks._targets import Targets

if TYPE_CHECKING:
    from sklearn_kd.training._net import TrainingNet


def threads_of_training(nets: Sequence[TrainingNet], data: SplitData) -> threads_for:
    """Return a context with as many threads as the iterations of these nets pay for.

    Parameters
    ----------
    nets : sequence of TrainingNet
        One, or several students of one architecture that are trained in one batched run.
    data : SplitData
        Of the first.
    """
    net = nets[0]
    if data.train.device.type != "cpu":
        return threads_for(math.inf)
    of_rows = _row_operations(net, data.train) * _most_rows(net, data)
    return threads_for(len(nets) * max(of_rows, largest_weight(net.trained_modules())))


def _row_operations(net: TrainingNet, train: DistillationData) -> float:
    """Return the multiply-adds of the largest operation of a forward pass, for each row.

    The pass is one over D_train's samples in evaluation mode, which leaves no trace.
    """
    samples, modules = train.samples, nn.ModuleList(net.trained_modules())
    targets = Targets._make(None if t is None else t[: len(samples)] for t in train.targets)
    batch, values = Batch(samples, targets), net.metaparameters.named()

    def forward() -> object:
        return net.objective.forward(net.module_, net.module_, net.others, batch, values)

    with isolated_eval_mode(modules, samples.device):
        return operations_of(forward, modules.modules()) / len(samples)


def _most_rows(net: TrainingNet, data: SplitData) -> int:
    """Return the number of rows in the largest batch."""
    parts = zip(("iterator_train", "iterator_valid"), data, strict=True)
    return max(_rows_of_batch(net, name, part) for name, part in parts if part is not None)


def _rows_of_batch(net: TrainingNet, iterator: str, part: DistillationData) -> int:
    size = net.get_params_for(iterator).get("batch_size", net.batch_size)
    return len(part) if size == -1 else min(size, len(part))
