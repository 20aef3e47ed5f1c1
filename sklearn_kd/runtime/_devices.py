"""Choose a device, set its precision, and avoid waiting for its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from numbers import Integral

import torch
from torch import Tensor, nn

from sklearn_kd.errors._did_you_mean import did_you_mean


def checked_device(device: str | torch.device | int) -> torch.device:
    """Return the device to use.

    Parameters
    ----------
    device : str, torch.device or int
        "auto" is CUDA, else MPS, else the CPU. A number is a CUDA device.

    Raises
    ------
    ValueError
        If torch does not know the device or cannot see it. The message lists the devices present.
    """
    if device == "auto":
        return torch.device(present_devices()[-1].partition(":")[0])
    try:
        known = torch.device(f"cuda:{int(device)}" if isinstance(device, Integral) else device)
    except (RuntimeError, ValueError):
        kinds = ("auto", "cpu", "cuda", "mps")
        hint = " Did you mean 'cuda'?" if "gpu" in str(device).lower() else did_you_mean(str(device), kinds)
        raise ValueError(f"device={device!r} is not known.{hint}{_choice()}") from None
    if known.type == "cpu":
        return torch.device("cpu")
    if known.type == "meta":
        raise ValueError(
            f"device={device!r} holds shapes but no numbers, so nothing can be trained on it.{_choice()}"
        )
    if known.type == "cuda" and not 0 <= (known.index or 0) < torch.cuda.device_count():
        found = f"only CUDA devices 0 to {torch.cuda.device_count() - 1}"
        found = found if torch.cuda.is_available() else "no CUDA device"
        raise ValueError(f"device={device!r}, but torch sees {found}.{_choice()}")
    if known.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device={device!r}, but torch sees no MPS device.{_choice()}")
    if known.type not in ("cuda", "mps"):
        try:
            torch.zeros(1, device=known)
        except (RuntimeError, ImportError, AssertionError) as error:
            raise ValueError(
                f"device={device!r} cannot be used ({str(error).splitlines()[0]:.200}).{_choice()}"
            ) from error
    return known


def check_has_numbers(module: nn.Module, name: str) -> None:
    """Refuse a network on the device "meta", whose weights are shapes without numbers.

    Parameters
    ----------
    module : nn.Module
    name : str
        Name of the network in the message, such as "student".

    Raises
    ------
    ValueError
        If a weight or a buffer is on the device "meta".
    """
    empty = [key for key, w in (*module.named_parameters(), *module.named_buffers()) if w.is_meta]
    if empty:
        raise ValueError(
            f"{name} {type(module).__name__} has weights on the device 'meta', which hold no numbers, such "
            f"as {empty[0]!r}. Create it outside torch.device('meta'), or load its weights with assign=True."
        )


def present_devices() -> list[str]:
    """List the devices present: the CPU, then MPS, or the CUDA devices in descending order."""
    if torch.cuda.is_available():
        return ["cpu", *(f"cuda:{k}" for k in reversed(range(torch.cuda.device_count())))]
    return ["cpu", "mps"] if torch.backends.mps.is_available() else ["cpu"]


def _choice() -> str:
    return f" The devices present are {present_devices()}. Set device='auto' for the fastest."


def reading_is_free(tensor: Tensor) -> bool:
    """Return whether a tensor's numbers can be read without waiting for a device.

    On a CPU, calculating with Python's numbers is fastest. On any other device, reading a number waits
    until the device has finished all work launched before.
    """
    return tensor.is_cpu


def as_number(tensor: Tensor) -> float | Tensor:
    """Return a tensor of shape () as a number if reading is free, else unchanged."""
    return tensor.item() if reading_is_free(tensor) else tensor


def all_finite(vector: Tensor) -> bool | Tensor:
    """Return whether all numbers of a short vector are finite, as a tensor if reading them is not free."""
    if reading_is_free(vector):
        return all(map(math.isfinite, vector.tolist()))
    return torch.isfinite(vector).all()


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Switch autocast and TF32 off inside, because their errors exceed small differences of logits."""
    as_it_is = device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
    if as_it_is and not torch.is_autocast_enabled("cpu"):
        yield  # the usual case, without the time that a stack takes
        return
    with ExitStack() as stack:
        if torch.is_autocast_enabled(device.type):
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
