"""Devices: which there is, how exact its products are, and what reading a number costs."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from sklearn_kd._ambient_state import autocasts


def checked_device(device: str | torch.device) -> torch.device:
    """The device to work on, where "auto" is CUDA, then MPS, then the CPU.

    Raises
    ------
    ValueError
        If torch does not know it or cannot see it.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        known = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is not known: {error}") from None
    if known.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r}, but torch sees no CUDA device. Set device='auto'.")
    return known


def check_has_numbers(module: nn.Module, name: str) -> None:
    """Refuse a network whose weights are shapes alone; ``name`` is what the message calls it.

    Raises
    ------
    ValueError
    """
    empty = [key for key, w in (*module.named_parameters(), *module.named_buffers()) if w.is_meta]
    if empty:
        raise ValueError(
            f"{name} {type(module).__name__} has weights on the device 'meta', which hold no numbers, such "
            f"as {empty[0]!r}. Make it outside torch.device('meta'), or load its weights with assign=True."
        )


def reading_is_free(tensor: Tensor) -> bool:
    """Whether its numbers can be had without waiting for a device.

    On a CPU Python's numbers are the quickest to calculate with; elsewhere to read one is to
    wait until the device has done all it was given.
    """
    return tensor.device.type == "cpu"


def as_number(tensor: Tensor) -> float | Tensor:
    """A tensor of shape () as a number, where that is free."""
    return tensor.item() if reading_is_free(tensor) else tensor


@contextmanager
def full_precision(device: torch.device):
    """No autocast and no TF32: a difference of logits drowns in either."""
    with ExitStack() as stack:
        if autocasts(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda" and torch.backends.cudnn.allow_tf32:
            stack.enter_context(
                torch.backends.cudnn.flags(
                    enabled=torch.backends.cudnn.enabled,
                    benchmark=torch.backends.cudnn.benchmark,
                    deterministic=torch.backends.cudnn.deterministic,
                    allow_tf32=False,
                )
            )
        precision = torch.get_float32_matmul_precision()
        if precision != "highest":
            torch.set_float32_matmul_precision("highest")
            stack.callback(torch.set_float32_matmul_precision, precision)
        yield
