"""Check that layers give the same maps in training mode as in evaluation mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_kd.layers._names import LayerName, named_network
from sklearn_kd.layers._trace import Call, FeatureMap, Size, Trace
from sklearn_kd.runtime._random_state import host_random_state, preserved_random_state, random_state
from sklearn_kd.runtime._recurrent import copied_module

# Number of forward passes in training mode for a student that draws random numbers.
_TRIES = 8


def check_training_mode(
    network: nn.Module, layers: Mapping[str, Size], samples: Tensor, *, name: str
) -> None:
    """Check that each layer has the same number of calls and channels in both modes.

    A copy of the network is run, several times if it draws random numbers, since it may then skip a block
    now and then.

    Parameters
    ----------
    network : nn.Module
    layers : mapping of str to tuple of (int, int, int)
        Shape in evaluation mode by layer: (channels, height, width), or (D,) for rows.
    samples : Tensor of shape (n, ...)
    name : str
        Name of the parameter ``layers`` in messages.

    Raises
    ------
    ValueError
        If a layer does not run, runs another number of times, or has other channels.
    """
    network = copied_module(network).eval()
    rows = (
        torch.cat([samples, samples]) if len(samples) == 1 else samples
    )  # batch normalisation needs two rows
    modules = dict(named_network(network).named_modules())
    parsed = {layer: LayerName.parse(layer, modules) for layer in layers}
    with torch.no_grad(), preserved_random_state(samples.device):
        usual = _recorded(network, rows)
        network.train()
        for _ in range(_TRIES):
            before = _generator_states(samples.device)
            trace = _recorded(network, rows)
            for layer, meant in parsed.items():
                _check_calls(layer, meant, usual.of(meant.path), trace.of(meant.path), layers[layer], name)
            if _generator_states(samples.device) == before:
                return


def _recorded(network: nn.Module, samples: Tensor) -> Trace:
    trace = Trace(network)
    trace.record(samples, network)
    return trace


def _check_calls(
    name: str, layer: LayerName, usual: Sequence[Call], calls: Sequence[Call], shape: Size, argument: str
) -> None:
    if len(calls) != len(usual):
        raise ValueError(
            f"{argument}: layer {name!r} runs {len(usual)} time(s) in evaluation mode and {len(calls)} in "
            "training mode, so its map would be missing or a different one. Name a layer that runs equally "
            "often in both, such as the block around it."
        )
    call = calls[-1 if layer.number is None else layer.number - 1]
    order = layer.order or "nchw"
    found = call.features(of_input=layer.of_input, order=order)
    if order == "tokens":
        before = usual[-1 if layer.number is None else layer.number - 1]
        _check_as_many_tokens(name, before.features(of_input=layer.of_input, order=order), found, argument)
    if found is None or FeatureMap(found.shape, order=order).sample_shape[0] != shape[0]:
        got = call.output_type if found is None else f"shape {found.shape}"
        raise ValueError(
            f"{argument}: layer {name!r} has {shape[0]} channels in evaluation mode and gives {got} in "
            "training mode. Name a layer that gives the same map in both."
        )


def _check_as_many_tokens(
    name: str, before: FeatureMap | None, found: FeatureMap | None, argument: str
) -> None:
    if before is not None and found is not None and before.shape[1] != found.shape[1]:
        raise ValueError(
            f"{argument}: layer {name!r} has {before.shape[1]} tokens in evaluation mode and "
            f"{found.shape[1]} in training mode, so they are not a grid. Train without dropping patches."
        )


def _generator_states(device: torch.device) -> list[Any]:
    """Return the states of all generators from which a forward pass may draw."""
    of_host = host_random_state()
    kind, keys, *rest = of_host["numpy"]
    torch_states = [state.tolist() for state in random_state(device).values()]
    return [torch_states, kind, np.asarray(keys).tolist(), rest, of_host["python"]]
