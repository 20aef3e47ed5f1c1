"""Choose the students to train in one batched run, and those to train alone.

A batched run pays (measured by ``examples/benchmarks/many_students.py``), and is chosen automatically:

- on a CPU, for at least ``FEWEST`` students whose forward pass on one batch takes at most
  ``MOST_FLOPS`` floating-point operations, if all of them learn metaparameters or none does;
- on any other device, always. Such a device is still bound by the number of operations at sizes at
  which a CPU no longer is; this has not been measured.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch

from sklearn_kd.bilevel._optimizer_response import response_class
from sklearn_kd.bilevel._stacked_hypergradient import STACKED_METHODS, STACKED_RESPONSES
from sklearn_kd.inputs._data import DistillationData, SplitData
from sklearn_kd.losses import LogitDistillation, MultilabelDistillation
from sklearn_kd.meta._far import FarStrategy
from sklearn_kd.meta._strategy import updates_metaparameters
from sklearn_kd.runtime._devices import full_precision, reading_is_free
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.runtime._recurrent import copied_module
from sklearn_kd.runtime._snapshots import has_constant_buffers
from sklearn_kd.training._flops import FlopCounter
from sklearn_kd.training._memory_errors import explain_memory_of_stacked_training
from sklearn_kd.training._net import TrainingNet
from sklearn_kd.training._stacked import stacked_forward

log = logging.getLogger("sklearn_kd")

FEWEST = 3
MOST_FLOPS = 4e6
# More students gain little on a CPU, and their activations need memory on a GPU.
_MOST = 64

# Optimizers whose step on stacked weights is a step on each of them: without norm, line search or matrix.
ELEMENTWISE_OPTIMIZERS = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
)


def why_not_stackable(nets: Sequence[TrainingNet], data: Sequence[SplitData]) -> str | None:
    """Return why these students should or must be trained one by one, or None.

    Parameters
    ----------
    nets : sequence of K TrainingNet
        Nets that are initialised and not yet trained.
    data : sequence of K SplitData

    Returns
    -------
    str or None
    """
    if len(nets) < 2:
        return "there is only one student"
    return (
        next(filter(None, map(_why_alone, nets, data)), None)
        or _how_they_differ(nets, data)
        or _why_slower(nets, data)
        or _why_vmap_fails(nets, data)
    )


def group_stackable(nets: Sequence[TrainingNet], data: Sequence[SplitData]) -> list[list[int]]:
    """Divide the students into groups to train together, as lists of indices; a group may have one student.

    The reasons are logged at level INFO.
    """
    kinds: dict[tuple, list[int]] = {}
    for k, (net, split) in enumerate(zip(nets, data, strict=True)):
        # A student that must train alone is a kind of its own.
        kind = (k,) if _why_alone(net, split) else tuple(of(net, split) for of in _ALIKE.values())
        kinds.setdefault(kind, []).append(k)
    groups = []
    for members in chain.from_iterable(_chunks(of_kind) for of_kind in kinds.values()):
        of_group = [nets[k] for k in members], [data[k] for k in members]
        reason = _why_alone(of_group[0][0], of_group[1][0]) or why_not_stackable(*of_group)
        if reason is None:
            log.info("%d students are trained together.", len(members))
            groups.append(members)
        else:
            log.info("%d of %d students: one by one, because %s.", len(members), len(nets), reason)
            groups += [[k] for k in members]
    return groups


def _chunks(members: list[int]) -> list[list[int]]:
    return [members[start : start + _MOST] for start in range(0, len(members), _MOST)]


def _why_alone(net: TrainingNet, data: Any) -> str | None:
    """Return why this student cannot be stacked with others, or None."""
    kind = type(net.optimizer_)
    if net.strategy.trains_population:
        return f"{type(net.strategy).__name__} trains several students by itself"
    if updates_metaparameters(net.strategy):
        reason = _why_learns_alone(net, data)
        if reason is not None:
            return reason
    if net.ranks.size > 1:
        return "several processes train it together"
    if net.callbacks:
        return "callbacks watch every step of their own student"
    if net.verbose:
        return "verbose prints a table for each student"
    if net.execution.compile:
        return "execution='compiled' compiles the pass of one student"
    if net.execution.autocast or net.execution.cuda_graph:
        return "bfloat16 and CUDA graphs are for the pass of one student"
    if net.execution.micro_batches > 1:
        return "micro-batches divide the batch of one student"
    if net.objective.batch_key() is None:
        return f"{_loss_name(net)} is computed for one student at a time"
    if kind not in ELEMENTWISE_OPTIMIZERS:
        return f"it is not known whether {kind.__name__} takes its step weight by weight"
    if net.history:
        return "a student has been trained before"
    buffers = [
        name
        for path, part in net.module_.named_modules()
        if not has_constant_buffers(part)
        for name, _ in part.named_buffers(path, recurse=False)
    ]
    if buffers:
        return f"the student has buffers, which a pass may change, such as {buffers[0]!r}"
    if data.train.map_shape:
        return "y has a map for each row, whose pixels are predicted"
    if data.train.labeled is not data.train:
        return "batches mix rows with labels and rows without"
    if type(data.train) is not DistillationData:
        return "the rows are fetched from a Dataset"
    if not isinstance(data.train.samples, torch.Tensor):
        return "the rows have several parts, or are integers"
    if data.train.augmentation is not None:
        return "augment draws anew for each student"
    return None


def _why_learns_alone(net: TrainingNet, data: Any) -> str | None:
    """Return why this student, whose metaparameters move, cannot be stacked with others, or None."""
    name, strategy = type(net.strategy).__name__, net.strategy
    if isinstance(strategy, FarStrategy):
        return f"{name} looks further than one step, which works for one student"
    if strategy.hypergradient not in STACKED_METHODS:
        return f"{name} takes hypergradients by {strategy.hypergradient!r}, which works for one student"
    if strategy.hypergradient_rows is not None:
        return f"{name} takes hypergradients on some rows of a batch, which works for one student"
    if response_class(net.optimizer_) not in STACKED_RESPONSES:
        return f"it is not known whether {type(net.optimizer_).__name__} responds weight by weight"
    if not reading_is_free(data.train.samples):
        return f"{name} moves the metaparameters, which several students can only do at once on a CPU"
    if type(data.valid) is not DistillationData:
        return f"{name} has no D_val in tensors"
    return None


def _loss_name(net: TrainingNet) -> str:
    return type(getattr(net.objective, "loss", net.objective)).__name__


def _architecture(net: TrainingNet, data: Any) -> tuple[Any, ...]:
    weights = [(name, tuple(w.shape), w.requires_grad) for name, w in net.module_.named_parameters()]
    return repr(net.module_), tuple(weights)


def _step_settings(net: TrainingNet, data: Any) -> tuple[Any, ...]:
    return type(net.optimizer_).__name__, repr(
        [group | {"params": len(group["params"])} for group in net.optimizer_.param_groups]
    )


def _batches(net: TrainingNet, data: Any) -> tuple[Any, ...]:
    settings = {"batch_size": net.batch_size} | net.get_params_for("iterator_train")
    return data.train.shape, tuple(sorted(settings.items()))


def _needs_teacher(net: TrainingNet) -> bool:
    """Return whether the loss at lambda1 = 1 may use the teacher: only "kd" is known not to."""
    return type(getattr(net.objective, "loss", None)) not in (LogitDistillation, MultilabelDistillation)


# Properties that must not differ, by name: functions f(net, data) with hashable results.
_ALIKE = {
    "architecture": _architecture,
    "optimizer": _step_settings,
    "rows and batches": _batches,
    "device": lambda net, data: (str(net.device), str(data.train.device)),
    "max_epochs": lambda net, data: net.max_epochs,
    "loss": lambda net, data: net.objective.batch_key(),
    "having a teacher": lambda net, data: _needs_teacher(net) and data.train.has_teacher_logits,
    "max_grad_norm": lambda net, data: net.max_grad_norm,
    # In one run, students that only train would wait for the passes of those that learn.
    "how the metaparameters move": lambda net, data: updates_metaparameters(net.strategy),
}


def _how_they_differ(nets: Sequence[TrainingNet], data: Any) -> str | None:
    for name, of in _ALIKE.items():
        found = list(dict.fromkeys(map(of, nets, data)))
        if len(found) > 1:
            return f"the students differ in {name}: {found[0]} and {found[1]}"
    return None


def _why_slower(nets: Sequence[TrainingNet], data: Any) -> str | None:
    """Return why stacking would be slower by the rule in the module's docstring, or None."""
    if data[0].train.device.type != "cpu":
        return None
    if len(nets) < FEWEST:
        return f"it is not faster on a CPU for fewer than {FEWEST} students"
    batch = next(iter(nets[0].get_iterator(data[0].train, training=True)))
    with (
        explain_memory_of_stacked_training(nets, data),
        FlopCounter() as counter,
        torch.no_grad(),
        preserved_random_state(batch[0].device),
    ):
        copied_module(nets[0].module_)(batch[0])
    if counter.total > MOST_FLOPS:
        return (
            f"it is faster on a CPU up to {MOST_FLOPS:.2g} floating-point operations per forward pass, but "
            f"this student's takes {counter.total:.2g}"
        )
    return None


def _why_vmap_fails(nets: Sequence[TrainingNet], data: Any) -> str | None:
    """Try vmap on two rows for each student, with randomness forbidden; return why it fails, or None."""
    x = torch.stack([split.train.samples for split in data])
    # TF32 rounds more than the comparison allows.
    with preserved_random_state(x.device), full_precision(x.device), torch.no_grad():
        apart = torch.stack(
            [copied_module(net.module_).train()(x_k) for net, x_k in zip(nets, x, strict=True)]
        )
        state = [dict(net.module_.named_parameters()) | dict(net.module_.named_buffers()) for net in nets]
        stacked = {name: torch.stack([own[name] for own in state]) for name in state[0]}
        try:
            together = stacked_forward(nets[0].module_)(stacked, x)
            stacked_forward(nets[0].module_, validation=True)(stacked, x)
        except Exception as error:  # a module may raise anything if it is not given tensors
            return f"torch.func.vmap refuses the student: {str(error).strip().splitlines()[0]}"
    known = torch.isfinite(apart)  # overflow gives inf or NaN, depending on the order of sums
    if not torch.allclose(together[known], apart[known], rtol=1e-3, atol=1e-4):
        return "torch.func.vmap does not give this student's own outputs"
    return None
