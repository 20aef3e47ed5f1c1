"""Explain out-of-memory errors in training by the batch size, the data, the cached logits and the weights."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch

from sklearn_kd.inputs._data import SplitData, describe_allocations
from sklearn_kd.meta._far import ForwardGradient
from sklearn_kd.runtime._memory import explain_out_of_memory, format_weights_size, memory_advice

if TYPE_CHECKING:
    from skorch import NeuralNet

    from sklearn_kd.training._net import TrainingNet


def explain_memory_of_training(net: TrainingNet, data: SplitData) -> AbstractContextManager[None]:
    """Return a context that re-raises out-of-memory errors in the training of one net.

    Parameters
    ----------
    net : TrainingNet
    data : SplitData
    """

    def situation() -> str:
        weights = f"weights of {format_weights_size(net.trained_modules())}"
        if net.hypergradient_estimator_ is not None:
            weights += f", of which hypergradients by {net.strategy.hypergradient!r} hold copies"
        batch_size = net.get_params_for("iterator_train").get("batch_size", net.batch_size)
        return f"batch_size={batch_size}, {describe_allocations(data)} and {weights}"

    ways = ["a smaller batch_size"]
    if not isinstance(net.strategy, ForwardGradient):  # it needs whole batches
        ways.append(f"execution__micro_batches={2 * net.execution.micro_batches}")
    if not net.execution.autocast:
        ways.append("execution='bfloat16'")
    ways.append("X as a Dataset, whose rows are loaded batch by batch")
    takes_rows = "hypergradient_rows" in net.strategy.get_params()
    if takes_rows and net.others == {}:  # pathways need whole batches
        ways.append("meta__hypergradient_rows")
    advice = memory_advice(torch.device(net.device), *ways)
    return explain_out_of_memory("training the student", situation, advice)


def explain_memory_of_stacked_training(
    nets: Sequence[NeuralNet], data: Sequence[SplitData]
) -> AbstractContextManager[None]:
    """Return a context that re-raises out-of-memory errors in one batched run of several nets."""

    def situation() -> str:
        weights = format_weights_size([net.module_ for net in nets])
        allocations = describe_allocations(data[0])
        return f"batch_size={nets[0].batch_size}, {allocations} and weights of {weights}"

    doing = f"training {len(nets)} students in one batched run"
    ways = "a smaller batch_size", "fewer trials or methods at once"
    return explain_out_of_memory(doing, situation, memory_advice(torch.device(nets[0].device), *ways))
