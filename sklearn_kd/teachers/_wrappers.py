"""Unwrap networks from torch's wrappers."""

from __future__ import annotations

from torch import nn

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def without_parallel(module: nn.Module) -> nn.Module:
    """Return the module inside DataParallel or DistributedDataParallel."""
    return without_parallel(module.module) if isinstance(module, _PARALLEL) else module


def without_wrappers(module: nn.Module) -> nn.Module:
    """Return the module inside DataParallel and torch.compile, which split batches or skip hooks."""
    inner = without_parallel(module)
    compiled = getattr(inner, "_orig_mod", None)
    return without_wrappers(compiled) if isinstance(compiled, nn.Module) else inner
