"""A context manager that restores attributes of modules that a forward pass assigns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def preserved_attributes(network: nn.Module) -> Iterator[None]:
    """Restore the attributes of all modules on leaving.

    A forward pass on smaller images may permanently set a size, such as the window of transformers' Swin.
    Objects that a pass changes in place, such as tensors, are not restored.
    """
    before = [(part, dict(vars(part))) for part in network.modules()]
    try:
        yield
    finally:
        for part, attributes in before:
            vars(part).clear()
            vars(part).update(attributes)
