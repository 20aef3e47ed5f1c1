"""Several students of one architecture, trained in one batched run.

Their weights are stacked, one tensor of shape (K, ...) where each has one of shape (...), and
every iteration is one forward pass, one backward pass and one step of the optimizer for all
of them. That costs a student less where a pass is so small that starting its operations takes
longer than carrying them out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from sklearn_kd.inputs._batches import Batch
from sklearn_kd.inputs._data import DistillationData, SplitData
from sklearn_kd.losses._objective import LogitObjective
from sklearn_kd.runtime._devices import as_number
from sklearn_kd.runtime._global_lock import torch_state_lock
from sklearn_kd.runtime._snapshots import OptimizerSnapshot
from sklearn_kd.tasks._targets import Targets
from sklearn_kd.training._interrupts import from_outside
from sklearn_kd.training._memory_errors import explain_memory_of_stacked_training
from sklearn_kd.training._net import TrainingNet
from sklearn_kd.training._nonfinite import GOOD, SKIPPED, are_finite
from sklearn_kd.training._work import threads_of_training


def stacked_forward(
    module: Any, in_dims: tuple[int | None, int | None] = (0, 0)
) -> Callable[[Any, Any], Any]:
    """(stacked weights, inputs) -> logits of shape (K, B, C), by a copy of ``module``."""
    module = copy.deepcopy(module).train()
    return vmap(
        lambda weights, x: functional_call(module, weights, (x,)), in_dims=in_dims, randomness="error"
    )


def train_stacked(nets: Sequence[TrainingNet], data: Sequence[SplitData]) -> None:
    """Train the students in one batched run; each net is left as if trained by itself.

    Weights, histories, paths and T_val equal those of ``net.partial_fit(data)`` within the
    rounding of float32, except that an epoch's ``dur`` is that of all students.

    Parameters
    ----------
    nets : sequence of K TrainingNet
        For which :func:`why_not_stackable` gives no reason but that it does not pay.
    data : sequence of K SplitData
    """
    threads = threads_of_training(nets, data[0])
    with threads, torch_state_lock(), explain_memory_of_stacked_training(nets, data):
        for net, split in zip(nets, data, strict=True):
            net.notify("on_train_begin", X=split, y=None)
        run = _BatchedRun(nets, data)
        try:
            for _ in range(nets[0].max_epochs):
                if not run.epoch():
                    break
        except KeyboardInterrupt as interrupt:
            for net in nets:  # what has been learned is kept, as by skorch
                net.interrupted_ = from_outside(interrupt)
        run.hand_back()
        for net, split in zip(nets, data, strict=True):
            net.notify("on_train_end", X=split, y=None)


class _BatchedRun:
    """K students in training. While it lasts, their weights are views of the stacked ones."""

    def __init__(self, nets: Sequence[TrainingNet], data: Any) -> None:
        self.nets, self.data = nets, data
        objective = nets[0].objective
        assert isinstance(objective, LogitObjective)  # no other has a batch_key
        self.objective = objective
        self.weights = _stacked_weights(nets)
        # The arguments that skorch would give the optimizer of one student.
        args, kwargs = nets[0].get_params_for_optimizer("optimizer", self.weights.items())
        self.optimizer = nets[0].optimizer(*args, **kwargs)
        self.streams = _Streams(nets, data)
        self.forward = stacked_forward(nets[0].module_, in_dims=(0, None if self.streams.shared else 0))
        self.values = {name: self._column(name) for name in nets[0].metaparameters.space}
        self.valid_batches = [
            None if split.valid is None else net.get_iterator(split.valid, training=False)
            for net, split in zip(nets, data, strict=True)
        ]

    def _column(self, name: str) -> Tensor:
        """Return a metaparameter of all students, shape (K, 1, 1)."""
        taught = self.streams.taught
        # Without a teacher the labels are all there is, whatever lambda1 and T say.
        values = [
            float(net.metaparameters.named()[name]) if t else 1.0
            for net, t in zip(self.nets, taught, strict=True)
        ]
        weight = next(iter(self.weights.values()))
        return weight.new_tensor(values).reshape(-1, 1, 1)

    def epoch(self) -> bool:
        """Run one pass over D_train and one over D_val; return False where no student is left to train."""
        going = [k for k, net in enumerate(self.nets) if not net.diverged_]
        for k in going:
            self.nets[k].notify("on_epoch_begin", **self._datasets(k))
            self.nets[k]._set_training(True)
        steps, sizes = [], []
        for x, targets in self.streams:
            steps.append(self.step(x, targets))
            sizes.append(targets.labels.shape[1])
        losses, finite = (torch.stack(of_steps, dim=1).tolist() for of_steps in zip(*steps, strict=True))
        for k in going:
            net = self.nets[k]
            _note_epoch(net, losses[k], finite[k], sizes)
            net.run_single_epoch(
                self.valid_batches[k], training=False, prefix="valid", step_fn=net.validation_step
            )
            net.notify("on_epoch_end", **self._datasets(k))
            if net.diverged_:
                self._let_go(k)
                for stacked in self.weights.values():
                    stacked.data[k] = 0  # steps that must be undone would cost the others time
        return not all(net.diverged_ for net in self.nets)

    def step(self, x: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """Step all students; return their losses, and whose step was taken, both of shape (K,).

        That of a student whose loss or gradient is not finite is not.
        """
        logits = self.forward(self.weights, x)
        loss = self.objective.evaluate_logits(logits, targets, self.values, differentiable=False)
        self.optimizer.zero_grad()
        logits.backward(loss.gradients[0])
        gradients = [w.grad for w in self.weights.values() if w.grad is not None]
        finite = are_finite(loss.value, gradients)
        # Where a number is free to read, nothing is kept as long as all is well.
        kept = None if as_number(finite.all()) is True else OptimizerSnapshot(self.optimizer)
        self.optimizer.step()
        if kept is not None:
            kept.restore_where(~finite)
        return loss.value, finite

    def hand_back(self) -> None:
        """Give each student weights of its own, and its optimizer the state it would have."""
        for k, net in enumerate(self.nets):
            self._let_go(k)
            for name, w in net.module_.named_parameters():
                stacked = self.weights[name]
                if stacked in self.optimizer.state:
                    state = self.optimizer.state[stacked]
                    net.optimizer_.state[w] = {key: _part(value, k, stacked) for key, value in state.items()}

    def _let_go(self, k: int) -> None:
        # A diverged student's part of the stack goes on, and nobody looks at it: no number
        # of one student enters another.
        for w in self.nets[k].module_.parameters():
            w.data = w.data.clone()

    def _datasets(self, k: int) -> dict[str, Any]:
        return {"dataset_train": self.data[k].train, "dataset_valid": self.data[k].valid}


def _stacked_weights(nets: Sequence[TrainingNet]) -> dict[str, Tensor]:
    """Return weights of shape (K, ...) by name, of which each student's become views."""
    of_nets = [dict(net.module_.named_parameters()) for net in nets]
    stacked = {}
    for name, first in of_nets[0].items():
        values = torch.stack([own[name].detach() for own in of_nets])
        for own, value in zip(of_nets, values, strict=True):
            own[name].data = value
        stacked[name] = values.requires_grad_(first.requires_grad)
    return stacked


def _part(value: Any, k: int, stacked: Tensor) -> Any:
    """Return student k's part of an entry of the optimizer's state, such as its momentum."""
    if not isinstance(value, Tensor):
        return copy.copy(value)
    return (value[k] if value.shape == stacked.shape else value).clone()


def _note_epoch(net: TrainingNet, losses: Any, finite: Any, sizes: list[int]) -> None:
    """Record the iterations of an epoch in the history and in the path."""
    for loss, took_step, size in zip(losses, finite, sizes, strict=True):
        net.history.new_batch()
        net.history.record_batch("train_loss", loss)
        net.history.record_batch("train_batch_size", size)
        net.metaparameters.record_unchanged()
        if net.skips_.note(GOOD if took_step else SKIPPED):
            break  # the others go on
    net.history.record("train_batch_count", len(net.history[-1]["batches"]))


class _Streams:
    """The batches of K students, stacked: inputs, and targets of shape (K, B, ...).

    Where all students have the same rows in the same order there is one stream, and the
    inputs, of shape (B, ...), are not stacked.
    """

    def __init__(self, nets: Sequence[TrainingNet], data: Any) -> None:
        sets = [split.train for split in data]
        self.taught = [s.targets.teacher_logits is not None for s in sets]
        self._n_students = len(sets)
        # One with a teacher stands for all.
        first = sets[self.taught.index(True)] if any(self.taught) else sets[0]
        self.shared = all(_same_rows(first, other) for other in sets)
        streams = [first] if self.shared else sets
        self._iterators = [
            net.get_iterator(dataset, training=True) for net, dataset in zip(nets, streams, strict=False)
        ]

    def __iter__(self) -> Iterator[tuple[Tensor, Targets]]:
        for batches in zip(*self._iterators, strict=True):
            yield self._inputs(batches), self._targets(batches)

    def _inputs(self, batches: Sequence[Batch]) -> Tensor:
        return batches[0][0] if self.shared else torch.stack([batch[0] for batch in batches])

    def _targets(self, batches: Sequence[Batch]) -> Targets:
        if self.shared:
            of_all = batches[0].targets
            return Targets._make(None if t is None else t.expand(self._n_students, *t.shape) for t in of_all)
        labels, logits, weights = zip(*(batch.targets for batch in batches), strict=True)
        return Targets(torch.stack(labels), _filled(logits, 0.0), _filled(weights, 1.0))


def _filled(tensors: Sequence[Tensor | None], value: Any) -> Tensor | None:
    """Stack tensors, with ``value`` where one is missing; None where all are."""
    known = next((t for t in tensors if t is not None), None)
    if known is None:
        return None
    return torch.stack([torch.full_like(known, value) if t is None else t for t in tensors])


def _same_rows(a: DistillationData, b: DistillationData) -> bool:
    """Return whether b's batches are a's, but for a teacher that b may do without."""
    if a is b:
        return True
    teacher, of_b = a.targets.teacher_logits, b.targets.teacher_logits
    return (
        a.seed == b.seed
        and _equal(a.X, b.X)
        and _equal(a.targets.labels, b.targets.labels)
        and _equal(a.targets.weight, b.targets.weight)
        and (of_b is None or _equal(teacher, of_b))
    )


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a is b or torch.equal(a, b)


def share_inputs(data: Sequence[SplitData]) -> None:
    """Replace equal inputs by one tensor, so that K students do not hold K copies of X."""
    known: list[Tensor] = []
    for rows in filter(None, chain.from_iterable(data)):
        same = next((x for x in known if _equal(x, rows.X)), None)
        if same is None:
            known.append(rows.X)
        else:
            rows.X = same
