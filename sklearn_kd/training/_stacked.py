"""Train several students of one architecture in one batched run.

Their weights of shape (...) are stacked into tensors of shape (K, ...), and every iteration is one
forward pass, one backward pass and one step of the optimizer for all of them. That is faster if
passes are so small that launching their operations takes longer than running them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from sklearn_kd.bilevel._hypergradient import set_validation_mode
from sklearn_kd.bilevel._stacked_hypergradient import StackedHypergradients
from sklearn_kd.inputs._batches import Batch
from sklearn_kd.inputs._data import DistillationData, SplitData
from sklearn_kd.losses._objective import LogitObjective
from sklearn_kd.runtime._backward import backward
from sklearn_kd.runtime._devices import as_number
from sklearn_kd.runtime._eager_optimizers import eager_method, make_optimizer
from sklearn_kd.runtime._global_lock import torch_state_lock
from sklearn_kd.runtime._optimizers import clear_gradients
from sklearn_kd.runtime._recurrent import copied_module
from sklearn_kd.runtime._snapshots import OptimizerSnapshot
from sklearn_kd.tasks._targets import Targets
from sklearn_kd.training._clipping import clip_stacked_gradients
from sklearn_kd.training._interrupts import from_outside
from sklearn_kd.training._memory_errors import explain_memory_of_stacked_training
from sklearn_kd.training._net import TrainingNet
from sklearn_kd.training._nonfinite import GOOD, SKIPPED, are_finite
from sklearn_kd.training._stacked_metaparameters import StackedMetaparameters
from sklearn_kd.training._work import threads_of_training


def stacked_forward(
    module: Any, in_dims: tuple[int | None, int | None] = (0, 0), validation: bool = False
) -> Callable[[Any, Any], Any]:
    """Return a function (stacked weights and buffers, inputs) -> logits of shape (K, B, C).

    It uses a copy of ``module``. ``validation``: in the mode for the gradient of the validation loss.
    """
    module = copied_module(module).train()
    if validation:
        set_validation_mode(module)
    names = {tensor: name for name, tensor in chain(module.named_parameters(), module.named_buffers())}
    places = [
        (held, own, names[tensor])
        for part in module.modules()
        for held in (part._parameters, part._buffers)
        for own, tensor in held.items()
        if tensor is not None
    ]

    def forward(state: dict[str, Tensor], x: Tensor) -> Tensor:
        # The effect of functional_call in a tenth of its time, since the copy needs no tensors of its own.
        for held, own, name in places:
            held[own] = state[name]
        return module(x)

    return vmap(forward, in_dims=in_dims, randomness="error")


def train_stacked(nets: Sequence[TrainingNet], data: Sequence[SplitData]) -> None:
    """Train the students in one batched run; each net ends as if trained by itself.

    Weights, histories, paths and T_val equal those of ``net.partial_fit(data)`` within the
    rounding of float32, except that an epoch's ``dur`` is that of all students.

    Parameters
    ----------
    nets : sequence of K TrainingNet
        Nets for which :func:`why_not_stackable` gives no reason other than that stacking does not pay.
    data : sequence of K SplitData
    """
    threads = threads_of_training(nets, data[0])
    with threads, torch_state_lock(), explain_memory_of_stacked_training(nets, data):
        for net, split in zip(nets, data, strict=True):
            net.notify("on_train_begin", X=split, y=None)
            net.draw_validation_batches(split.valid)
        run = BatchedRun(nets, data)
        try:
            for _ in range(nets[0].max_epochs):
                if not run.epoch():
                    break
        except KeyboardInterrupt as interrupt:
            for net in nets:  # keep the students, like skorch
                net.interrupted_ = from_outside(interrupt)
        finally:
            for net in nets:
                net.validation_batches_ = None  # they hold D_val
        run.hand_back()
        for net, split in zip(nets, data, strict=True):
            net.notify("on_train_end", X=split, y=None)


class BatchedRun:
    """K students in training. During the run, their weights are views of the stacked ones.

    Students that have been trained before continue with the states of their optimizers.

    Parameters
    ----------
    nets : sequence of K TrainingNet
    data : sequence of K SplitData
    batches : iterable of Batch or None, default=None
        The batches of an epoch, for all students. None: made from the rows of each student.
    """

    def __init__(
        self, nets: Sequence[TrainingNet], data: Sequence[SplitData], batches: Iterable[Batch] | None = None
    ) -> None:
        self.nets, self.data = nets, data
        objective = nets[0].objective
        assert isinstance(objective, LogitObjective)  # no other objective has a batch_key
        self.objective = objective
        self.weights = _stacked_weights(nets)
        buffers = [dict(net.module_.named_buffers()) for net in nets]  # a pass changes none of them
        self.state = self.weights | {name: torch.stack([own[name] for own in buffers]) for name in buffers[0]}
        # The arguments that skorch would give the optimizer of one student.
        named = zip(
            (name for name, _ in nets[0].get_all_learnable_params()), self.weights.values(), strict=True
        )
        args, kwargs = nets[0].get_params_for_optimizer("optimizer", named)
        self.optimizer = make_optimizer(nets[0].optimizer, *args, **kwargs)
        self._take_states()
        self.streams = _Streams(nets, data, batches)
        self.forward = stacked_forward(nets[0].module_, in_dims=(0, None if self.streams.shared else 0))
        validation_forward = stacked_forward(nets[0].module_, validation=True)
        hypergradients = StackedHypergradients(
            self.state, self.optimizer, self.forward, validation_forward, objective.logit_change
        )
        self.metaparameters = StackedMetaparameters(nets, self.streams.taught, self.optimizer, hypergradients)
        self.values: dict[str, Tensor] = {}
        self.valid_batches = [
            None if split.valid is None else net.get_iterator(split.valid, training=False)
            for net, split in zip(nets, data, strict=True)
        ]

    def _take_states(self) -> None:
        """Stack the states of the students' optimizers, if they have been trained."""
        of_nets = [dict(net.module_.named_parameters()) for net in self.nets]
        for name, stacked in self.weights.items():
            weights = [own[name] for own in of_nets]
            states = [net.optimizer_.state.get(w, {}) for net, w in zip(self.nets, weights, strict=True)]
            if states[0]:
                self.optimizer.state[stacked] = {
                    key: _whole(key, [own[key] for own in states], weights[0]) for key in states[0]
                }

    def _columns(self) -> dict[str, Tensor]:
        """Return the metaparameters of all students, each of shape (K, 1, 1)."""
        named = [net.metaparameters.named() for net in self.nets]
        # Without a teacher only the labels count, whatever lambda1 and T are.
        values = [
            [float(own[name]) if taught else 1.0 for name in own]
            for own, taught in zip(named, self.streams.taught, strict=True)
        ]
        weight = next(iter(self.weights.values()))
        columns = weight.new_tensor(values).T.reshape(len(named[0]), -1, 1, 1)
        return dict(zip(named[0], columns, strict=True))

    def epoch(self) -> bool:
        """Run one pass over D_train and one over D_val; return False if no student is left to train."""
        self.values = self._columns()
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
            _note_epoch(net, losses[k], finite[k], sizes, moved=k in self.metaparameters.movers)
            net.run_single_epoch(
                self.valid_batches[k], training=False, prefix="valid", step_fn=net.validation_step
            )
            net.notify("on_epoch_end", **self._datasets(k))
            if net.diverged_:
                self._let_go(k)
                for stacked in self.weights.values():
                    stacked.data[k] = 0  # undoing its steps would cost the others time
        return not all(net.diverged_ for net in self.nets)

    def step(self, x: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """Step all students; return their losses, and which steps were taken, both of shape (K,).

        A student whose loss or gradient is not finite takes no step.
        """
        moving = self.metaparameters
        if moving.movers:
            moving.begin()
            self.values = self._columns()
        logits = self.forward(self.state, x)
        loss = self.objective.evaluate_logits(
            logits, targets, self.values, differentiable=bool(moving.movers)
        )
        moving.after_forward(logits, loss)
        clear_gradients(self.optimizer)
        backward([logits], loss.gradients[:1])
        gradients = [w.grad for w in self.weights.values() if w.grad is not None]
        finite = are_finite(loss.value, gradients)
        limit = self.nets[0].max_grad_norm  # the same for all
        if limit is not None:
            moving.note_clipping(clip_stacked_gradients(gradients, limit))
        # If reading a number is free, nothing is copied as long as all is well.
        kept = None if as_number(finite.all()) is True else OptimizerSnapshot(self.optimizer)
        eager_method(self.optimizer, "step")()
        if kept is not None:
            kept.restore_where(~finite)
        if moving.movers:
            moving.move(x, self.streams.shared, logits, loss, finite)
        return loss.value, finite

    def hand_back(self) -> None:
        """Give each student its own weights, and its optimizer the state it would have."""
        for k, net in enumerate(self.nets):
            self._let_go(k)
            for name, w in net.module_.named_parameters():
                stacked = self.weights[name]
                if stacked in self.optimizer.state:
                    state = self.optimizer.state[stacked]
                    net.optimizer_.state[w] = {key: _part(value, k, stacked) for key, value in state.items()}

    def _let_go(self, k: int) -> None:
        # A diverged student's part of the stack continues, but is ignored: no number of one student
        # affects another.
        for w in self.nets[k].module_.parameters():
            w.data = w.data.clone()

    def _datasets(self, k: int) -> dict[str, Any]:
        return {"dataset_train": self.data[k].train, "dataset_valid": self.data[k].valid}


def _stacked_weights(nets: Sequence[TrainingNet]) -> dict[str, Tensor]:
    """Return weights of shape (K, ...) by name; each student's weights become views of them."""
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


def _whole(key: str, values: Sequence[Any], w: Tensor) -> Any:
    """Stack K students' entries of the optimizer's state: the inverse of :func:`_part`."""
    first = values[0]
    if not isinstance(first, Tensor):
        return copy.copy(first)
    of_weight = first.shape == w.shape and key not in _COMMON_STATE
    return torch.stack([*values]) if of_weight else first.clone()


# Entries of an optimizer's state that count its steps, and are therefore the same for all students.
_COMMON_STATE = ("step", "mu_product")


def _note_epoch(net: TrainingNet, losses: Any, finite: Any, sizes: list[int], *, moved: bool) -> None:
    """Record the iterations of an epoch in the history and, unless it ``moved`` in each, in the path."""
    n_noted = net.skips_.n_in_epoch if moved else len(sizes)
    for loss, took_step, size in zip(losses[:n_noted], finite[:n_noted], sizes[:n_noted], strict=True):
        net.history.new_batch()
        net.history.record_batch("train_loss", loss)
        net.history.record_batch("train_batch_size", size)
        if moved:
            continue
        net.metaparameters.record_unchanged()
        if net.skips_.note(GOOD if took_step else SKIPPED):
            break  # the others continue
    net.history.record("train_batch_count", len(net.history[-1]["batches"]))


class _Streams:
    """The stacked batches of K students: inputs, and targets of shape (K, B, ...).

    If all students have the same rows in the same order, there is one stream, and the
    inputs, of shape (B, ...), are not stacked.
    """

    def __init__(
        self, nets: Sequence[TrainingNet], data: Sequence[SplitData], batches: Iterable[Batch] | None = None
    ) -> None:
        sets = [split.train for split in data]
        self.taught = [s.has_teacher_logits for s in sets]
        self._n_students = len(sets)
        # A student with a teacher represents all.
        first = sets[self.taught.index(True)] if any(self.taught) else sets[0]
        self.shared = all(_same_rows(first, other) for other in sets)
        streams = [first] if self.shared else sets
        self._iterators: list[Iterable[Batch]] = (
            [batches]
            if batches is not None
            else [
                net.get_iterator(dataset, training=True) for net, dataset in zip(nets, streams, strict=False)
            ]
        )

    def __iter__(self) -> Iterator[tuple[Tensor, Targets]]:
        for batches in zip(*self._iterators, strict=True):
            yield self._inputs(batches), self._targets(batches)

    def _inputs(self, batches: Sequence[Batch]) -> Tensor:
        return batches[0][0] if self.shared else torch.stack([batch[0] for batch in batches])

    def _targets(self, batches: Sequence[Batch]) -> Targets:
        if self.shared:
            of_all = batches[0].targets
            return Targets._make(None if t is None else t.expand(self._n_students, *t.shape) for t in of_all)
        labels, logits, weights, _ = zip(*(batch.targets for batch in batches), strict=True)
        return Targets(torch.stack(labels), _filled(logits, 0.0), _filled(weights, 1.0))


def _filled(tensors: Sequence[Tensor | None], value: Any) -> Tensor | None:
    """Stack tensors, with ``value`` for missing ones; return None if all are missing."""
    known = next((t for t in tensors if t is not None), None)
    if known is None:
        return None
    return torch.stack([torch.full_like(known, value) if t is None else t for t in tensors])


def _same_rows(a: DistillationData, b: DistillationData) -> bool:
    """Return whether b's batches are a's, except that b may lack a teacher."""
    if a is b:
        return True
    if a.seed != b.seed or not a.has_inputs_of(b):
        return False
    (labels, teacher, weight, _), of_b = a.targets, b.targets
    return (
        _equal(labels, of_b.labels)
        and _equal(weight, of_b.weight)
        and (of_b.teacher_logits is None or _equal(teacher, of_b.teacher_logits))
    )


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a is b or torch.equal(a, b)


def share_inputs(data: Sequence[SplitData]) -> None:
    """Replace equal inputs by one tensor, so that K students do not hold K copies of X."""
    known: list[DistillationData] = []
    for rows in filter(None, chain.from_iterable(data)):
        if not any(rows.share_inputs_of(other) for other in known):
            known.append(rows)
