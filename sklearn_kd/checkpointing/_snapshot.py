"""The whole state of a net between two epochs: taken to be kept, and put into a net about to be trained."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from skorch.callbacks import EpochScoring, EpochTimer, PrintLog, ProgressBar
from skorch.history import History
from torch import Tensor, nn

from sklearn_kd.checkpointing._manager import Checkpoints
from sklearn_kd.checkpointing._plain import CannotBeKept, are_same, from_plain, to_plain
from sklearn_kd.runtime._random_state import (
    host_random_state,
    random_state,
    set_host_random_state,
    set_random_state,
)

if TYPE_CHECKING:
    from sklearn_kd.training._net import TrainingNet

# They show what happens, and have no part in it.
_ONLOOKERS = (PrintLog, ProgressBar, EpochTimer)
# Of an epoch that is over.
_CACHES = {"y_trues_", "y_preds_"}
# The names of callbacks' attributes that hold one of these say nothing: they are made again.
_MADE_AGAIN = (type, ModuleType, logging.Logger)

# By how much a teacher's answers may differ: another number of threads rounds otherwise.
_TOLERANCE = 1e-4


class Keeper:
    """Keeps the state of a net as it trains, and lets another go on from there.

    Parameters
    ----------
    checkpoints : Checkpoints
    stage : str
        Such as "training".
    teacher_answers : Tensor or None, default=None
        Some of them, to know the teacher by.
    """

    def __init__(self, checkpoints: Checkpoints, stage: str, teacher_answers: Tensor | None = None):
        self._checkpoints, self._stage = checkpoints, stage
        self._answers = None if teacher_answers is None else teacher_answers.detach().cpu()
        self._iterators: dict[str, Any] = {}
        self._places: dict[str, Any] = {}
        self._restored_at = 0
        self._at_start: dict[str, Any] = {}
        self._lost: set[str] = set()

    def save(self, net: TrainingNet) -> None:
        """Write a checkpoint of the net, which is between two epochs."""
        if len(net.history) == self._restored_at or not self._checkpoints.active:
            return
        places = {name: iterator.place() for name, iterator in self._iterators.items()}
        self._keep(net, {"places": places, "net": state_of(net, self._at_start, self._lose)})

    def conclude(self, net: TrainingNet, outcome: dict[str, Any]) -> None:
        """Write what is left of a stage that is over, its ``history`` among it."""
        rows = [_kept_row(row, self._lose) for row in outcome["history"].to_list()]
        self._keep(net, {"outcome": to_plain(outcome | {"history": None}), "history": rows})

    def outcome(self, net: TrainingNet, check: Callable[[dict[str, Any]], Any]) -> dict[str, Any] | None:
        """Return what :meth:`conclude` was given; None where the stage is not over.

        ``check`` raises an error where it is something else.
        """
        found: dict[str, Any] = {}

        def use(state):
            found.clear()
            if "outcome" in state:
                outcome, rows = from_plain(state["outcome"]), from_plain(state["history"])
                check(outcome | {"history": _history(rows)})
                found.update(outcome | {"history": _history(rows)})

        self._newest(net, use)
        return found or None

    def _keep(self, net, state):
        known_by = {"teacher": self._answers, "start": net.metaparameters.initial_values()}
        self._checkpoints.keep(self._stage, len(net.history), known_by | state)

    def restore(self, net: TrainingNet) -> int:
        """Put the last state that was kept into the net; how many epochs it has behind it.

        Raises
        ------
        ValueError
            If there are checkpoints and none can be used.
        """
        self._at_start = states_of_helpers(net, self._lose)
        if not self._checkpoints.active:
            return 0
        before = None

        def use(state):
            nonlocal before
            if before is None:
                before = state_of(net, {name: {} for name in self._at_start}, self._lose)
            try:
                places = _checked_places(state["places"])
                put_into(net, state["net"])
            except Exception:
                put_into(net, before)
                raise
            self._places, self._restored_at = places, len(net.history)

        self._newest(net, use)
        return self._restored_at

    def watch(self, name: str, iterator: Any) -> None:
        """Note an iterator whose place is to be kept; on first sight it goes where it had been."""
        if self._iterators.get(name) is not iterator:
            self._iterators[name] = iterator
            place = self._places.pop(name, None)
            if place is not None:
                iterator.go_to(place)

    def _newest(self, net, use):
        return self._checkpoints.newest(self._stage, lambda state: self._why_not(state, net), use)

    def _why_not(self, state, net) -> str | None:
        start, before = net.metaparameters.initial_values(), state["start"]
        if start.shape != before.shape or not torch.equal(start, before):
            return "it began with other metaparameters, or another process"
        then, now = state["teacher"], self._answers
        if then is None or now is None:
            return None if then is now else "one of them, it and this fit, has no teacher"
        if then.shape != now.shape or not torch.allclose(then, now, rtol=_TOLERANCE, atol=_TOLERANCE):
            return (
                "the teacher answers otherwise than the one it was written with (a teacher that is trained "
                "differently each time needs a random_state, or teacher_logits in its place)"
            )
        return None

    def _lose(self, name: str, what: str) -> None:
        if name not in self._lost:
            self._lost.add(name)
            warnings.warn(
                f"checkpoint_dir: {name} holds {what}, which a checkpoint cannot keep; a fit that is resumed "
                "has it as at the start. Give the callback or strategy state_dict and load_state_dict, or "
                "let it hold numbers, strings, tensors, arrays, and lists and dicts of these.",
                UserWarning,
                stacklevel=2,
            )


def some_answers(logits: Tensor | None) -> Tensor | None:
    """Return a teacher's signature: 64 rows of its logits and the mean of all, float64."""
    if logits is None:
        return None
    places = torch.linspace(0, len(logits) - 1, min(64, len(logits))).long()
    logits = logits.detach().cpu().double()
    return torch.cat([logits[places], logits.mean(dim=0, keepdim=True)])


# --------------------------------------------------------------------------------------
# The net


def state_of(net: TrainingNet, at_start: dict[str, Any], lose) -> dict[str, Any]:
    """Return all that the next epoch depends on.

    ``at_start`` is what :func:`states_of_helpers` said when training began; ``lose(name, what)`` hears of
    what has no plain form.
    """
    device = torch.device(net.device)
    try:
        optimizer = to_plain(net.optimizer_.state_dict())
    except CannotBeKept as kind:
        optimizer = None
        lose(f"optimizer {type(net.optimizer_).__name__}", str(kind))
    return {
        "modules": [_state_of_module(module) for module in net.trained_modules()],
        "optimizer": optimizer,
        "metaparameters": to_plain(net.metaparameters.state_dict()),
        "helpers": {
            name: _changed(state, at_start[name]) for name, state in states_of_helpers(net, lose).items()
        },
        "history": [_kept_row(row, lose) for row in net.history.to_list()],
        "val_temperature": net.val_temperature_,
        "validation_batches": net.validation_batches_.place(),
        "skips": to_plain(vars(net.skips_)),
        "host_random_state": to_plain(host_random_state()),
        "random_state": random_state(device),
    }


def put_into(net: TrainingNet, state: dict[str, Any]) -> None:
    """Load a training state into a net initialised with the same parameters."""
    for module, kept in zip(net.trained_modules(), state["modules"], strict=True):
        _put_into_module(module, kept)
    if state["optimizer"] is not None:
        net.optimizer_.load_state_dict(from_plain(state["optimizer"]))
    net.metaparameters.load_state_dict(from_plain(state["metaparameters"]))
    for name, helper in _helpers(net):
        if name in state["helpers"]:
            _put_into_helper(helper, state["helpers"][name])
    net.history_ = _history(from_plain(state["history"]))
    net.val_temperature_ = state["val_temperature"]
    net.validation_batches_.go_to(state["validation_batches"])
    set_host_random_state(from_plain(state["host_random_state"]))
    vars(net.skips_).update(from_plain(state["skips"]))
    # The last: what came before may draw.
    set_random_state(state["random_state"], torch.device(net.device))


def _history(rows: Any) -> History:
    """Return the history of these rows; raise ValueError if they are none."""
    for n, row in enumerate(rows, 1):
        if row["epoch"] != n or not all(isinstance(batch, dict) for batch in row["batches"]):
            raise ValueError(f"row {n} of the history is none")
    return History(rows)


def _checked_places(places: dict[str, Any]) -> dict[str, Any]:
    """Return the states of the iterators; raise an error if they are no states of generators."""
    for place in places.values():
        for state in (place[0], *place[1:]):
            torch.Generator().set_state(state)
    return dict(places)


def _kept_row(row, lose):
    """A row of the history, without the columns that cannot be kept."""
    kept = {}
    for name, value in row.items():
        if name == "batches":
            kept[name] = [_kept_row(batch, lose) for batch in value]
            continue
        try:
            kept[name] = to_plain(value)
        except CannotBeKept as kind:
            lose(f"column {name!r} of the history", str(kind))
    return kept


# --------------------------------------------------------------------------------------
# Modules


def _state_of_module(module: nn.Module) -> dict[str, Any]:
    parts = list(module.modules())
    return {
        "weights": {name: to_plain(w) for name, w in module.named_parameters()},
        "learn": {name: w.requires_grad for name, w in module.named_parameters()},
        # Those that state_dict leaves out too.
        "buffers": [
            {name: to_plain(buffer) for name, buffer in part._buffers.items() if buffer is not None}
            for part in parts
        ],
        "extra": [_extra_state(part) for part in parts],
        "training": [part.training for part in parts],
    }


def _extra_state(part):
    if type(part).get_extra_state is nn.Module.get_extra_state:
        return None
    return to_plain(part.get_extra_state())


def _put_into_module(module, state):
    with torch.no_grad():
        for name, w in module.named_parameters():
            w.copy_(state["weights"][name])
            w.requires_grad_(state["learn"][name])
        for part, kept, extra, training in zip(
            module.modules(), state["buffers"], state["extra"], state["training"], strict=True
        ):
            for name, value in kept.items():
                _put_buffer(part, name, value)
            if extra is not None:
                part.set_extra_state(from_plain(extra))
            part.training = training


def _put_buffer(part, name, value):
    buffer = part._buffers.get(name)
    if buffer is not None and buffer.shape == value.shape and buffer.dtype == value.dtype:
        buffer.copy_(value)
    else:  # it was made, or exchanged, in training
        device = next((t.device for t in (*part.parameters(), *part.buffers())), value.device)
        part._buffers[name] = value.to(device if buffer is None else buffer.device)


# --------------------------------------------------------------------------------------
# Callbacks and strategies


def states_of_helpers(net: TrainingNet, lose) -> dict[str, dict[str, Any]]:
    """Return the states of callbacks and strategy."""
    return {name: _state_of_helper(helper, name, lose) for name, helper in _helpers(net)}


def _helpers(net):
    callbacks = [(f"callback {name!r}", c) for name, c in net.callbacks_ if not isinstance(c, _ONLOOKERS)]
    return [(f"strategy {type(net.strategy).__name__}", net.strategy), *callbacks]


def _changed(state, at_start):
    """Return the attributes that have changed; others are the user's to set."""
    before = at_start.get("attributes", {})
    attributes = {
        name: value
        for name, value in state.get("attributes", {}).items()
        if name not in before or not are_same(value, before[name])
    }
    return state | {"attributes": attributes}


def _state_of_helper(helper, called, lose) -> dict[str, Any]:
    """Return ``state_dict()`` if the helper has one, else its serialisable attributes."""
    if _accounts(helper):
        try:
            return {"state_dict": to_plain(helper.state_dict())}
        except CannotBeKept as kind:
            lose(f"state_dict of {called}", str(kind))
            return {}
    kept, accounts = {}, {}
    # The libraries' own make again whatever is no plain value.
    is_users = not type(helper).__module__.startswith(("skorch.", "sklearn_kd."))
    for name, value in _gained(helper):
        accounted = _accounts(value)
        try:
            if accounted:
                accounts[name] = to_plain(_without_functions(value.state_dict()))
            else:
                kept[name] = to_plain(value)
        except CannotBeKept as kind:
            if accounted or (is_users and not callable(value) and not isinstance(value, _MADE_AGAIN)):
                lose(f"attribute {name!r} of {called}", str(kind))
    return {"attributes": kept, "accounts": accounts}


def _put_into_helper(helper, state):
    if "state_dict" in state:
        helper.load_state_dict(from_plain(state["state_dict"]))
    for name, account in state.get("accounts", {}).items():
        own: Any = getattr(helper, name, None)
        if _accounts(own):
            account = from_plain(account)
            own.load_state_dict(own.state_dict() | account if type(account) is dict else account)
    for name, value in state.get("attributes", {}).items():
        if hasattr(type(helper), name) and callable(getattr(type(helper), name)):
            raise ValueError(f"{type(helper).__name__} has a method {name}, which is no state")
        setattr(helper, name, from_plain(value))


def _without_functions(account):
    """Leave functions out of a schedule's state; in older versions of torch it holds those it calls."""
    if type(account) is not dict:
        return account
    return {name: value for name, value in account.items() if not callable(value)}


def _accounts(value) -> bool:
    """Return whether it has ``state_dict`` and ``load_state_dict``."""
    is_class = isinstance(value, type)
    return not is_class and hasattr(value, "state_dict") and hasattr(value, "load_state_dict")


def _gained(helper):
    """Yield (name, value) of the attributes that are no parameters of the constructor."""
    given = inspect.signature(type(helper)).parameters
    left_out = _CACHES if isinstance(helper, EpochScoring) else set()
    return [(name, v) for name, v in vars(helper).items() if name not in given and name not in left_out]
