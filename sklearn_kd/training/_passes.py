"""Run the forward and backward passes of a training step, on the whole batch or in micro-batches."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sklearn_kd.bilevel._hypergradient import ValidationLoss
from sklearn_kd.inputs._batches import Batch
from sklearn_kd.inputs._micro_batches import micro_batches
from sklearn_kd.runtime._backward import backward

if TYPE_CHECKING:
    from sklearn_kd.training._net import TrainingNet


def divided(net: TrainingNet, batch: Batch) -> Iterator[Batch]:
    """Yield the micro-batches into which a net's execution divides a batch."""
    return micro_batches(batch, net.execution.micro_batches, net.ranks.size)


def run_passes(net: TrainingNet, batch: Batch) -> dict[str, Any]:
    """Add a batch's gradients to those of the weights; return its loss and the student's outputs."""
    record, losses, outputs, n_before = net._record, [], [], 0
    if record is not None:
        record.passes = []  # for the same step, if the optimizer asks for its gradient again
    for micro in divided(net, batch):
        if record is not None and n_before:
            record.begin_pass()
        loss, y_pred = _pass(net, micro, n_before)
        losses.append(loss)
        outputs.append(y_pred)
        n_before += len(micro[0])
    loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
    if net.shared_ is not None:
        loss = net.shared_.reduced(loss)
    return {"loss": loss, "y_pred": outputs[0] if len(outputs) == 1 else torch.cat(outputs)}


def _pass(net: TrainingNet, batch: Batch, n_before: int) -> tuple[Tensor, Tensor]:
    """Run forward, compute the loss and its gradient by the outputs, and run backward.

    The loss is returned times the weight of the rows in the batch. The memory of the pass is free afterwards.
    """
    record, objective = net._record, net.objective
    values, differentiable = net.metaparameters.named(), record is not None
    with net.execution.precision(batch[0].device, full=differentiable):
        passed = objective.forward(net.module_, net.infer, net.others, batch, values)
    loss = objective.evaluate(passed, values, differentiable=differentiable)
    if record is not None:
        joined = objective.joined(passed)
        record.after_forward(passed.inputs, joined, loss, passed.logits, batch.n_rows, n_before)
    weight = 1.0 if batch.n_rows is None else net.ranks.weight_of(len(batch[0]), batch.n_rows)
    if weight == 1.0:
        backward(passed.tensors, loss.gradients)
        return loss.value, passed.logits.detach()
    # Before the pass, since synchronised batch normalisation mixes the gradients of all processes in it.
    backward(passed.tensors, [weight * r for r in loss.gradients])
    return weight * loss.value, passed.logits.detach()


def validation_passes(net: TrainingNet, batch: Batch) -> Iterator[tuple[Any, ValidationLoss]]:
    """Yield the inputs of each micro-batch of D_val, with its loss as a function of the outputs."""
    for micro in divided(net, batch):
        yield micro[0], partial(net._validation_loss, targets=micro.targets)
