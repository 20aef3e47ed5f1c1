"""Snapshots of buffers and of an optimizer, restored where that is needed, on the device.

A rollback takes no synchronisation: whether there is anything to undo is a tensor that nobody reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class BufferSnapshot:
    """The buffers of the parts of a module as they stand; put back on leaving the context."""

    def __init__(self, parts: Sequence[nn.Module]):
        kept = [
            (part._buffers, name, buffer)
            for part in parts
            for name, buffer in part._buffers.items()
            if buffer is not None
        ]
        self._kept, self._buffers = kept, [buffer for _, _, buffer in kept]
        self._values = [buffer.clone() for buffer in self._buffers]

    def restore(self) -> None:
        """Restore the buffers, whatever was written into them or put in their place."""
        self._own()
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._values)

    def restore_where(self, bad: Tensor) -> None:
        """Restore them where ``bad``, shape (), is true, without reading it."""
        found = [(owner[name], buffer) for owner, name, buffer in self._kept]
        now = [buffer if new is None else new for new, buffer in found]
        if any(new is not buffer for new, buffer in zip(now, self._buffers, strict=True)):
            with torch.no_grad():  # what took their place had no place before
                torch._foreach_copy_(self._buffers, now)
            self._own()
        undo_where(bad, self._buffers, self._values)

    def _own(self):
        for owner, name, buffer in self._kept:
            owner[name] = buffer

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.restore()


class OptimizerSnapshot:
    """Snapshot of an optimizer's weights and state, which it is about to change.

    The count of Adam's steps is the host's where Adam is not capturable: it goes on in steps that
    are undone, as it does for all students that share it.

    Parameters
    ----------
    optimizer : Optimizer
    """

    def __init__(self, optimizer: torch.optim.Optimizer):
        self._state = optimizer.state
        self._weights = [w for group in optimizer.param_groups for w in group["params"]]
        self._values = [w.detach().clone() for w in self._weights]
        self._state_before = {
            (w, name): value.clone()
            for w, state in optimizer.state.items()
            for name, value in state.items()
            if isinstance(value, Tensor)
        }

    def restore_where(self, bad: Tensor) -> None:
        """Undo the step where ``bad`` says so: shape (), or (K,) for stacked weights (K, ...)."""
        now, before = list(self._weights), list(self._values)
        for w in self._weights:
            for name, value in self._state.get(w, {}).items():
                if isinstance(value, Tensor) and value.device == w.device and value.ndim >= bad.ndim:
                    now.append(value)
                    old = self._state_before.get((w, name))
                    before.append(torch.zeros_like(value) if old is None else old)  # made by this step
        undo_where(bad, now, before)


def undo_where(bad: Tensor, now: list[Tensor], before: list[Tensor]) -> None:
    """``now`` ← ``before`` in place where ``bad``, shape () or (K,), is true; exact, and never read.

    Done on the bits: a product with NaN would be NaN, and there is no choice between lists.
    """
    if not now:
        return
    bits, bits_before = [_bits(t) for t in now], [_bits(t) for t in before]
    undo = torch._foreach_sub(bits_before, bits)
    if bad.ndim == 0:
        torch._foreach_mul_(undo, bad.to(torch.int8))
    else:
        masks = [bad.reshape(-1, *[1] * (t.ndim - 1)).to(t.dtype) for t in undo]
        torch._foreach_mul_(undo, masks)
    torch._foreach_add_(bits, undo)


_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bits(t: Tensor) -> Tensor:
    return t.detach().view(_INTEGERS[t.element_size()])
