"""Check a module's weights and buffers for numbers that are not finite."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def has_finite_state(modules: Sequence[nn.Module]) -> bool:
    """Return whether all weights and buffers are finite."""
    state = [v for m in modules for v in m.state_dict().values() if isinstance(v, Tensor)]
    # As for gradients, a sum is fast. A sum of large numbers may overflow; then each number is checked.
    if not state or bool(torch.isfinite(torch.stack([v.sum(dtype=_sums(v)) for v in state])).all()):
        return True
    return all(bool(torch.isfinite(v).all()) for v in state)


def _sums(values: Tensor) -> torch.dtype:
    return values.dtype if values.is_floating_point() or values.is_complex() else torch.float32
