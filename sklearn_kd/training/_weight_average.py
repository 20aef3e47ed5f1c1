"""Average of a student's weights over the epochs of its training."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

# About the last tenth of the epochs, and about the last half of them.
SHORT, LONG = 8.0, 1.0


class WeightAverage:
    """Average of a student's weights at the ends of epochs, in which later epochs count more.

    After epoch n the average moves towards the weights by the share (decay + 1) / (n + decay): all the way
    after the first epoch. So about the last 1 / (decay + 1) of the epochs count, however many there are.
    Statistics of batches are averaged like weights; counts are those of the last epoch.

    Parameters
    ----------
    module : nn.Module
        The student.
    decay : float
        0 is the plain mean; the larger, the fewer epochs count.

    References
    ----------
    Shamir and Zhang, "Stochastic Gradient Descent for Non-smooth Optimization", ICML 2013, section 4
    (polynomial-decay averaging).
    """

    def __init__(self, module: nn.Module, decay: float):
        self._module, self._decay = module, decay
        self._n_epochs = 0
        self._average: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self) -> None:
        """Add the weights at the end of an epoch."""
        self._n_epochs += 1
        share = (self._decay + 1) / (self._n_epochs + self._decay)
        for name, now in _named_tensors(self._module).items():
            before = self._average.get(name)
            if before is not None and now.is_floating_point():
                before.lerp_(now, share)
            else:
                self._average[name] = now.detach().clone()

    def swap(self) -> None:
        """Exchange the student's weights with the average; before the first epoch is over, do nothing."""
        now = weights_of(self._module)
        load_weights(self._module, self._average)
        self._average = now if self._average else {}

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next update depends on."""
        return {"n_epochs": self._n_epochs, "average": self._average}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Load a state of :meth:`state_dict`."""
        now = _named_tensors(self._module)
        self._n_epochs = state["n_epochs"]
        self._average = {name: w.to(now[name].device, copy=True) for name, w in state["average"].items()}


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a module's weights and buffers by name."""
    return {name: tensor.detach().clone() for name, tensor in _named_tensors(module).items()}


@torch.no_grad()
def load_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Set the weights and buffers of a module that have these names."""
    own = _named_tensors(module)
    for name, value in weights.items():
        own[name].copy_(value)


def _named_tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict(chain(module.named_parameters(), module.named_buffers()))
