"""A context manager that restores what a forward pass assigns to attributes of modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def preserved_attributes(network: nn.Module) -> Iterator[None]:
    """Give all modules the attributes again that they had, on leaving.

    A forward pass on smaller images may set a size for good, such as the window of a Swin of transformers.
    Objects that a pass changes in place, such as tensors, stay changed.
    """
    before = [(part, dict(vars(part))) for part in network.modules()]
    try:
        yield
    finally:
        for part, attributes in before:
            vars(part).clear()
            vars(part).update(attributes)
