"""Snapshots of buffers and of an optimizer, with conditional rollback on the device.

A rollback needs no synchronisation, because its condition is a tensor that the host does not read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def has_constant_buffers(part: nn.Module) -> bool:
    """Return whether the module declares, by ``constant_buffers``, that no pass changes its own buffers."""
    return getattr(type(part), "constant_buffers", False)


class BufferSnapshot:
    """Snapshot of the buffers of modules; as a context manager it restores them on leaving.

    Parameters
    ----------
    parts : sequence of nn.Module
        Modules whose own buffers are saved, except those that never change. Submodules are not included.
    """

    def __init__(self, parts: Sequence[nn.Module]):
        kept = [
            (part._buffers, name, buffer)
            for part in parts
            if not has_constant_buffers(part)
            for name, buffer in part._buffers.items()
            if buffer is not None
        ]
        self._kept, self._buffers = kept, [buffer for _, _, buffer in kept]
        self._values = [buffer.clone() for buffer in self._buffers]

    def restore(self) -> None:
        """Restore the buffers, including those that have been replaced by other tensors."""
        self._own()
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._values)

    def restore_where(self, bad: Tensor) -> None:
        """Restore the buffers if ``bad``, shape (), is true, without reading it."""
        found = [(owner[name], buffer) for owner, name, buffer in self._kept]
        now = [buffer if new is None else new for new, buffer in found]
        if any(new is not buffer for new, buffer in zip(now, self._buffers, strict=True)):
            with torch.no_grad():  # copy the new values into the old tensors
                torch._foreach_copy_(self._buffers, now)
            self._own()
        undo_where(bad, self._buffers, self._values)

    def _own(self) -> None:
        for owner, name, buffer in self._kept:
            owner[name] = buffer

    def __enter__(self) -> BufferSnapshot:
        return self

    def __exit__(self, *exception: object) -> None:
        self.restore()


class BufferCopies:
    """Run passes inside on copies of buffers, because an existing graph may still need the originals.

    Parameters
    ----------
    snapshot : BufferSnapshot
        Snapshot of the buffers, with the values that :meth:`restore` gives to the copies.
    """

    def __init__(self, snapshot: BufferSnapshot):
        self._snapshot = snapshot

    def restore(self) -> None:
        """Replace the buffers by new copies."""
        for (owner, name, _), value in zip(self._snapshot._kept, self._snapshot._values, strict=True):
            owner[name] = value.clone()

    def __enter__(self) -> BufferCopies:
        return self

    def __exit__(self, *exception: object) -> None:
        self._snapshot._own()


class OptimizerSnapshot:
    """Snapshot of an optimizer's weights and state before a step that may have to be undone.

    If Adam is not capturable, its count of steps is on the host and includes undone steps until
    :func:`uncount_steps` is called. For students that share the optimizer, undone steps stay counted.

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
        """Undo the step if ``bad`` is true: shape (), or (K,) for stacked weights of shape (K, ...)."""
        now, before = list(self._weights), list(self._values)
        for w in self._weights:
            for name, value in self._state.get(w, {}).items():
                if isinstance(value, Tensor) and value.device == w.device and value.ndim >= bad.ndim:
                    now.append(value)
                    old = self._state_before.get((w, name))
                    before.append(torch.zeros_like(value) if old is None else old)  # made by this step
        undo_where(bad, now, before)


def undo_where(bad: Tensor, now: list[Tensor], before: list[Tensor]) -> None:
    """Copy ``before`` into ``now`` where ``bad`` is true, exactly and without reading ``bad``.

    The function works on the bits, because a product with NaN would be NaN and torch has no ``where`` for
    lists of tensors.

    Parameters
    ----------
    bad : Tensor of shape () or (K,)
    now, before : lists of Tensor
        Tensors of equal shapes, which begin with K if ``bad`` has shape (K,).
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
