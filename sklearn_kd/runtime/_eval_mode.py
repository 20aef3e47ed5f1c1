"""Evaluation mode for a while, every part of a module put back as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.jit import ScriptModule

from sklearn_kd.runtime._global_lock import torch_state_lock
from sklearn_kd.runtime._random_state import preserved_random_state


@contextmanager
def eval_mode(parts: Iterable[nn.Module], but: type[nn.Module] | tuple = ()) -> Iterator[None]:
    """Set evaluation mode inside, for all ``parts`` (``module.modules()``) but those of type ``but``.

    A turn of this thread: another one that shares the module, as a teacher, would put it back
    into training mode meanwhile.
    """
    with torch_state_lock():
        # A frozen TorchScript module has no mode.
        changed = [p for p in parts if getattr(p, "training", False) and not isinstance(p, but)]
        try:
            for part in changed:
                _set(part, False)
            yield
        finally:
            for part in changed:
                _set(part, True)


@contextmanager
def isolated_eval_mode(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Set evaluation mode without gradients inside; the generators are put back afterwards."""
    with eval_mode(network.modules()), torch.no_grad(), preserved_random_state(device):
        yield


def _set(part: nn.Module, training: bool) -> None:
    if isinstance(part, ScriptModule):  # it runs by what its own assignment sets
        part.training = training
        return
    # nn.Module's own assignment looks for parameters and modules, which takes ten times as long.
    object.__setattr__(part, "training", training)
