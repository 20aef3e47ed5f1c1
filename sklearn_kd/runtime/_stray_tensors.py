"""Tensors of a module that do not move with it to another device: neither weights nor buffers."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

# Texts of torch's errors for an operation on tensors that are on two devices.
_TWO_DEVICES = re.compile(
    r"to be on the same device|is not on the expected device|[Ii]nput type \(.*cuda.*weight type|"
    r"[Ii]nput type \(.*weight type \(.*cuda"
)


def stray_tensors(module: nn.Module) -> list[str]:
    """Return the names of tensors that are plain attributes of a module and its parts."""
    return [
        f"{path}.{name}" if path else name
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, Tensor)
    ]


def is_of_two_devices(error: Exception) -> bool:
    """Return whether an operation failed because its tensors are on two devices."""
    return _TWO_DEVICES.search(str(error)) is not None


def remedy_for_two_devices(module: nn.Module, device: torch.device, error: Exception) -> str | None:
    """Return advice for a module that fails because not all of its tensors are on ``device``.

    Return None for another error.
    """
    if not is_of_two_devices(error):
        return None
    names = ", ".join(map(repr, stray_tensors(module)[:3]))
    return (
        f"Not all of its tensors move with its weights to the device {str(device)!r}: look for those that "
        f"are neither weights nor buffers{names and ', such as '}{names}. Register a constant as a buffer "
        "(self.register_buffer), or create it in forward with device=x.device."
    )
