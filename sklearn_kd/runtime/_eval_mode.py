"""Context managers that set evaluation mode and restore the mode of every submodule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.jit import ScriptModule

from sklearn_kd.runtime._global_lock import torch_state_lock
from sklearn_kd.runtime._operations import threads_of_trial
from sklearn_kd.runtime._random_state import preserved_random_state


@contextmanager
def eval_mode(
    modules: Iterable[nn.Module], but: type[nn.Module] | tuple[type[nn.Module], ...] = ()
) -> Iterator[None]:
    """Set evaluation mode inside.

    Hold the lock of torch's state, because another thread that shares a module, such as a teacher, could
    set it back to training mode.

    Parameters
    ----------
    modules : iterable of nn.Module
        Modules such as ``module.modules()``. The mode of each is set without its submodules.
    but : type or tuple of types, default=()
        Modules of these types keep their mode.
    """
    with torch_state_lock():
        # A frozen TorchScript module has no mode.
        changed = [m for m in modules if getattr(m, "training", False) and not isinstance(m, but)]
        try:
            for module in changed:
                _set_mode(module, False)
            yield
        finally:
            for module in changed:
                _set_mode(module, True)


@contextmanager
def isolated_eval_mode(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Set evaluation mode without gradients inside; restore the random generators on leaving.

    Passes inside have few rows, and get few threads accordingly unless the caller sets another number inside.
    """
    with (
        threads_of_trial(network),
        eval_mode(network.modules()),
        torch.no_grad(),
        preserved_random_state(device),
    ):
        yield


def _set_mode(module: nn.Module, training: bool) -> None:
    if isinstance(module, ScriptModule):  # only its own assignment changes how it runs
        module.training = training
        return
    # nn.Module's own assignment checks for parameters and modules, which takes ten times as long.
    object.__setattr__(module, "training", training)
