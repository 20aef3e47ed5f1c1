"""Take and load the full state of a module.

Besides ``state_dict``, it has non-persistent buffers, ``requires_grad`` of the weights, and the mode of each
submodule.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sklearn_kd.files._values import STATE_VALUES


def module_state(module: nn.Module) -> dict[str, Any]:
    """Return the full state of a module in plain values and tensors."""
    submodules = list(module.modules())
    return {
        "weights": {name: STATE_VALUES.encode(w) for name, w in module.named_parameters()},
        "requires_grad": {name: w.requires_grad for name, w in module.named_parameters()},
        "buffers": [
            {name: STATE_VALUES.encode(buffer) for name, buffer in own._buffers.items() if buffer is not None}
            for own in submodules
        ],
        "extra": [_extra_state(own) for own in submodules],
        "training": [own.training for own in submodules],
    }


def load_module_state(module: nn.Module, state: dict[str, Any]) -> None:
    """Load a state from :func:`module_state` into a module of the same architecture."""
    with torch.no_grad():
        for name, w in module.named_parameters():
            w.copy_(state["weights"][name])
            w.requires_grad_(state["requires_grad"][name])
        parts = state["buffers"], state["extra"], state["training"]
        for own, buffers, extra, training in zip(module.modules(), *parts, strict=True):
            for name, value in buffers.items():
                load_buffer(own, name, value)
            if extra is not None:
                own.set_extra_state(STATE_VALUES.decode(extra))
            own.training = training


def _extra_state(module: nn.Module) -> Any:
    if type(module).get_extra_state is nn.Module.get_extra_state:
        return None
    return STATE_VALUES.encode(module.get_extra_state())


def load_buffer(module: nn.Module, name: str, value: Tensor) -> None:
    """Set a buffer of a module that may lack it or have a different one."""
    buffer = module._buffers.get(name)
    if buffer is not None and buffer.shape == value.shape and buffer.dtype == value.dtype:
        buffer.copy_(value)
    else:  # training made or replaced the buffer
        device = next((t.device for t in (*module.parameters(), *module.buffers())), value.device)
        module._buffers[name] = value.to(device if buffer is None else buffer.device)
