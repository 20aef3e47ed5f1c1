"""Average a student's weights over the epochs of its training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sklearn_kd.checkpointing._modules import load_buffer

# Decays that average about the last tenth of the epochs, and about the last half of them.
SHORT, LONG = 8.0, 1.0
# Prefix of the buffers of batch normalisation and, by custom, of other layers that keep statistics.
_STATISTICS = "running_"


class Averaging(NamedTuple):
    """Settings of a net that averages its student's weights.

    Attributes
    ----------
    decay : float
        As in :class:`WeightAverage`.
    is_result : bool
        Whether the student ends with the average. False: it ends with its last weights; the average is kept
        separately.
    """

    decay: float
    is_result: bool


class WeightAverage:
    """Average of a student's weights at the ends of epochs, with more weight on later epochs.

    After epoch n, the average moves towards the weights by the share (decay + 1) / (n + decay), after the
    first epoch all the way. So about the last 1 / (decay + 1) of the epochs count, however many there are.
    Buffers named ``running_...``, which hold statistics of batches, are averaged like weights. Other buffers
    are not: they may be counts, masks, or vectors that need length 1. Weights with fewer bits than float32
    are averaged in float32, since small steps would be rounded away.

    Parameters
    ----------
    module : nn.Module
        The student.
    decay : float
        0 gives the plain mean; with a larger decay, fewer epochs count.
    is_result : bool, default=False
        As in :class:`Averaging`.

    References
    ----------
    Shamir and Zhang, "Stochastic Gradient Descent for Non-smooth Optimization", ICML 2013, section 4
    (polynomial-decay averaging).
    """

    def __init__(self, module: nn.Module, decay: float, is_result: bool = False):
        self._module, self._decay, self.is_result = module, decay, is_result
        self._n_epochs = 0
        self._average: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self) -> None:
        """Add the weights at the end of an epoch."""
        self._n_epochs += 1
        share = (self._decay + 1) / (self._n_epochs + self._decay)
        averages, self._average = self._average, {}
        for name, now in _averaged_tensors(self._module).items():
            exact = torch.promote_types(now.dtype, torch.float32)
            average = averages.get(name)
            if average is None or average.shape != now.shape:  # training made the buffer
                average = now.detach().to(exact, copy=True)
            else:
                average.lerp_(now.to(exact), share)
            self._average[name] = average

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the student's weights with the average; do nothing before the end of the first epoch."""
        own = _averaged_tensors(self._module)
        averages, self._average = self._average, {}
        for name, average in averages.items():
            if name in own and own[name].shape == average.shape:
                self._average[name] = own[name].detach().clone()
                own[name].copy_(average)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next update depends on."""
        return {"n_epochs": self._n_epochs, "average": self._average}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Load a state from :meth:`state_dict`."""
        now = _averaged_tensors(self._module)
        self._n_epochs = state["n_epochs"]
        self._average = {
            name: w.to(now[name].device, copy=True) for name, w in state["average"].items() if name in now
        }


def average_for(
    averaging: Averaging | None, module: nn.Module, callbacks: Iterable[tuple[str, Any]]
) -> WeightAverage | None:
    """Return the average to keep while a net trains, or None.

    There is none if a callback, skorch's EarlyStopping or Checkpoint, will load weights of its choice.
    """
    if averaging is None:
        return None
    if averaging.is_result and any(getattr(callback, "load_best", False) for _, callback in callbacks):
        return None
    return WeightAverage(module, *averaging)


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a module's weights and buffers by name."""
    named = chain(module.named_parameters(), module.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in named}


@torch.no_grad()
def load_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load the weights and buffers of a trained module into a fresh one made in the same way.

    Buffers that training makes or reshapes are created.

    Raises
    ------
    ValueError
        If the trained module had other weights.
    """
    own = dict(module.named_parameters())
    missing = sorted(own.keys() - weights.keys())
    if missing:
        raise ValueError(
            f"The student of the search lost its weights {missing} while it trained, for example by a "
            "callback that prunes: the retraining cannot continue with it. Set retrain='average' or 'fresh'."
        )
    for name, value in weights.items():
        if name in own:
            own[name].copy_(value)
        else:
            path, _, last = name.rpartition(".")
            load_buffer(module.get_submodule(path), last, value)


def weights_of_modules(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return a copy of the weights and buffers of named modules, with names MODULE.NAME."""
    return {
        f"{module}.{name}": tensor
        for module, part in modules.items()
        for name, tensor in weights_of(part).items()
    }


def load_modules(modules: Mapping[str, nn.Module], weights: Mapping[str, Tensor] | None) -> None:
    """Set the weights of modules to those from :func:`weights_of_modules`, which may have more modules."""
    for module, part in modules.items():
        head = f"{module}."
        own = {n.removeprefix(head): w for n, w in (weights or {}).items() if n.startswith(head)}
        load_weights(part, own)


def load_same_modules(modules: Mapping[str, nn.Module], before: Mapping[str, nn.Module]) -> None:
    """Set the weights of modules to those of others with the same name and the same shapes."""
    for name, module in modules.items():
        if name in before and _shapes(before[name]) == _shapes(module):
            load_weights(module, weights_of(before[name]))


def _shapes(module: nn.Module) -> dict[str, Any]:
    return {name: value.shape for name, value in weights_of(module).items()}


def _averaged_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a module to average, by name: weights, and statistics of batches."""
    named = [
        *module.named_parameters(),
        *(own for own in module.named_buffers() if own[0].rpartition(".")[2].startswith(_STATISTICS)),
    ]
    return {name: tensor for name, tensor in named if tensor.is_floating_point()}
