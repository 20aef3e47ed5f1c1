"""In what devices differ: the precision of their products, and what reading a number costs."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor


def reading_is_free(tensor: Tensor) -> bool:
    """Whether its numbers can be had without waiting for a device.

    On a CPU Python's numbers are the quickest to calculate with; elsewhere to read one is to
    wait until the device has done all it was given.
    """
    return tensor.device.type == "cpu"


@contextmanager
def full_precision(device: torch.device):
    """No autocast and no TF32: a difference of logits drowns in either."""
    tf32_off: AbstractContextManager[None] = nullcontext()
    # Older versions of torch know no autocast on MPS.
    autocast_off = torch.autocast(device.type, enabled=False) if device.type != "mps" else nullcontext()
    if device.type == "cuda":
        tf32_off = torch.backends.cudnn.flags(
            enabled=torch.backends.cudnn.enabled,
            benchmark=torch.backends.cudnn.benchmark,
            deterministic=torch.backends.cudnn.deterministic,
            allow_tf32=False,
        )
    precision = torch.get_float32_matmul_precision()
    try:
        if precision != "highest":
            torch.set_float32_matmul_precision("highest")
        with tf32_off, autocast_off:
            yield
    finally:
        if precision != "highest":
            torch.set_float32_matmul_precision(precision)
