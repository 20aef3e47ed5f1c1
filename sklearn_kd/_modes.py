"""Evaluation mode for a while, every part of a module put back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(module: nn.Module, but: type[nn.Module] | tuple = ()) -> Iterator[None]:
    """Evaluation mode inside, for all parts but those of type ``but``."""
    flags = {part: part.training for part in module.modules()}
    try:
        for part, training in flags.items():
            _set(part, training and isinstance(part, but))
        yield
    finally:
        for part, training in flags.items():
            _set(part, training)


def _set(part: nn.Module, training: bool) -> None:
    # nn.Module's own assignment looks for parameters and modules, which takes ten times as long.
    object.__setattr__(part, "training", training)
