"""Recurrent layers on CUDA, where cuDNN needs all weights of a layer in one chunk of memory.

If a layer's weights lie apart, as in a deep copy, torch warns and copies them in each pass.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def recurrent_layers(parts: Iterable[nn.Module]) -> list[nn.RNNBase]:
    """Return the recurrent layers among modules."""
    return [part for part in parts if isinstance(part, nn.RNNBase)]


def copied_module(module: Module) -> Module:
    """Return a deep copy of a module in which each recurrent layer has its weights in one chunk."""
    copied = copy.deepcopy(module)
    gather_weights(recurrent_layers(copied.modules()))
    return copied


def gather_weights(layers: Iterable[nn.RNNBase]) -> None:
    """Put the weights of each layer on CUDA into one chunk.

    A layer keeps a list of its weights, which ``flatten_parameters`` uses. After a ``functional_call`` the
    list holds the tensors of that call until it is rebuilt.
    """
    for layer in layers:
        layer._init_flat_weights()


@contextmanager
def without_dropout(layers: Iterable[nn.RNNBase]) -> Iterator[None]:
    """Switch off the dropout between stacked layers of recurrent modules inside; keep their mode."""
    before = [(layer, layer.dropout) for layer in layers]
    try:
        for layer, _ in before:
            layer.dropout = 0.0
        yield
    finally:
        for layer, dropout in before:
            layer.dropout = dropout
