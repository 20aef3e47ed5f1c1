"""Decide what the metaparameters do in an iteration of training: learn, wait or follow."""

from __future__ import annotations

from enum import Enum
from typing import Any

from torch.optim import Optimizer

from sklearn_kd.bilevel._optimizer_response import response_class
from sklearn_kd.meta import Strategy


class Turn(Enum):
    """The role of the metaparameters in an iteration."""

    LEARN = "they take a step by the hypergradient"
    WAIT = "they would, but the optimizer is not ready for it"
    FOLLOW = "they go where the strategy says, or stay"


def turn_of(path: Any, strategy: Strategy, optimizer: Optimizer) -> Turn:
    """Return what the metaparameters do in the coming iteration."""
    if path.has_schedule or not strategy.takes_next_hypergradient(path.counted):
        return Turn.FOLLOW
    waits = path.iteration < response_class(optimizer).n_erratic_steps
    return Turn.WAIT if waits else Turn.LEARN


def follow(path: Any, strategy: Strategy) -> None:
    """Move the metaparameters after an iteration without hypergradient, and record the move."""
    if not path.has_schedule:
        theta = strategy.predict(path.counted)
        if theta is not None:
            path.schedule(theta)
    if path.has_schedule:
        path.apply_scheduled()
    else:
        path.record_unchanged()
