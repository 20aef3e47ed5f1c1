"""Choose the number of threads that pays for training a student and for predicting with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sklearn_kd.inputs._data import DistillationData, SplitData
from sklearn_kd.runtime._eval_mode import isolated_eval_mode
from sklearn_kd.runtime._global_lock import torch_state_lock
from sklearn_kd.runtime._operations import largest_weight, operations_of
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.runtime._snapshots import BufferSnapshot
from sklearn_kd.runtime._threads import threads_for

if TYPE_CHECKING:
    from sklearn_kd.training._net import TrainingNet


def threads_of_training(nets: Sequence[TrainingNet], data: SplitData) -> threads_for:
    """Return a context with as many threads as pay for the iterations of these nets.

    Parameters
    ----------
    nets : sequence of TrainingNet
        One net, or several of one architecture that are trained in one batched run.
    data : SplitData
        Data of the first net.
    """
    net = nets[0]
    if data.train.device.type != "cpu":
        return threads_for(math.inf)
    of_rows = _training_operations(net, data.train) * _most_rows(net, data)
    return threads_for(len(nets) * max(of_rows, largest_weight(net.trained_modules())))


def threads_of_prediction(net: TrainingNet, x: Tensor) -> threads_for:
    """Return a context with as many threads as pay for the student's pass over a batch.

    Its operations are counted once per net, in a separate pass over the first row. So all predictions
    for the same rows run on the same number of threads and are equal bit for bit.
    """
    if x.device.type != "cpu":
        return threads_for(math.inf)
    if net.row_operations_ is None:
        net.row_operations_ = _prediction_operations(net.module_, x[:1])
    return threads_for(net.row_operations_ * len(x))


def _prediction_operations(student: nn.Module, row: Tensor) -> float:
    """Return the multiply-adds of the student's largest operation for a row.

    The pass does not change the student's buffers. It does not change the random generators either, unless
    another thread runs a fit: that thread has seeded them, and they must not be restored while it runs.
    """
    lock = torch_state_lock()
    free = lock.acquire(blocking=False)  # a prediction never waits for a fit
    try:
        generators = preserved_random_state(row.device) if free else nullcontext()
        with generators, BufferSnapshot(list(student.modules())), torch.no_grad():
            return operations_of(lambda: student(row), student.modules())
    finally:
        if free:
            lock.release()


def _training_operations(net: TrainingNet, train: DistillationData) -> float:
    """Return the multiply-adds of the largest operation of a forward pass, for each row.

    The pass runs over D_train's samples in evaluation mode, and changes nothing.
    """
    batch, modules = train.sample_batch, nn.ModuleList(net.trained_modules())
    values = net.metaparameters.named()

    def forward() -> object:
        return net.objective.forward(net.module_, net.module_, net.others, batch, values)

    with isolated_eval_mode(modules, train.device):
        return operations_of(forward, modules.modules()) / len(batch[0])


def _most_rows(net: TrainingNet, data: SplitData) -> int:
    """Return the number of rows in the largest batch."""
    parts = zip(("iterator_train", "iterator_valid"), data, strict=True)
    return max(_rows_of_batch(net, name, part) for name, part in parts if part is not None)


def _rows_of_batch(net: TrainingNet, iterator: str, part: DistillationData) -> int:
    size = net.get_params_for(iterator).get("batch_size", net.batch_size)
    return len(part) if size == -1 else min(size, len(part))
