"""Layers of a network by name, and the feature maps that they give while it runs.

A layer is named by the path of a module, as ``named_modules`` has it: ``"layer2"`` is what the
module returns, ``"layer2:input"`` what it is given, ``"relu#2"`` what its second call in a forward
pass returns. ``":nhwc"`` at the end says that the channels come last, ``":nchw"`` that they come
first. Where a module's own path is ``"relu#2"`` it is that module's, and ``"relu#02"`` the call.
"""

from __future__ import annotations

import copy
import difflib
import re
import warnings
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_kd.layers._trace import Call, FeatureMap, ForwardFn, Size, Trace, first_map
from sklearn_kd.runtime._random_state import host_random_state, preserved_random_state, random_state

_SYNTAX = re.compile(r"(?P<path>.+?)(#(?P<number>0*[1-9]\d*))?(?P<input>:input)?(:(?P<order>nchw|nhwc))?")

# Number of forward passes in training mode for a student that draws random numbers.
_TRIES = 8


class Layer(NamedTuple):
    """A parsed layer name. ``number`` is None where it names no call: the last one is meant."""

    path: str
    number: int | None = None
    of_input: bool = False
    order: str | None = None

    @classmethod
    def parse(cls, name: str, paths: Container[str]) -> Layer:
        """Parse the name of a layer of a network whose modules have these paths."""
        found = None if name in paths else _SYNTAX.fullmatch(name)
        if found is None:
            return cls(name)
        path, number = found["path"], found["number"]
        if number is not None and f"{path}#{number}" in paths:  # a module whose own name ends so
            path, number = f"{path}#{number}", None
        return cls(path, None if number is None else int(number), found["input"] is not None, found["order"])


class _Maps(dict[str, Tensor]):
    """Maps by layer; one that is missing is explained."""

    def __missing__(self, layer: str) -> Tensor:
        raise ValueError(
            f"Layer {layer!r} was not run in this forward pass, though it was when the network was tried. "
            "Name a layer that runs in every pass, such as the block around it."
        )


@contextmanager
def captured(network: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Capture the feature maps of ``layers``, by name, in one forward pass made inside.

    Of a module that runs more than once the call that the name says is kept, or the last one. Of
    a tuple, list or dict it is the first tensor of four dimensions. Maps of channels that come
    last are turned into (n, channels, height, width). Each map is a copy: a module that
    follows may write into the original, as an in-place ReLU does, which makes "before the ReLU"
    silently "after the ReLU". The hooks are gone afterwards, so that the network can be
    copied, pickled and exported.

    Parameters
    ----------
    network : nn.Module
    layers : sequence of str
        Known to it.

    Yields
    ------
    dict of str to Tensor
        Filled as the network runs.
    """
    modules, handles = dict(network.named_modules()), []
    maps = _Maps()
    try:
        for name in layers:
            layer = Layer.parse(name, modules)
            handles.append(_hooked(modules[layer.path], layer, name, maps))
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def _hooked(module: nn.Module, layer: Layer, name: str, maps: dict[str, Tensor]):
    runs = 0

    def keep(*values: Any) -> None:
        nonlocal runs
        runs += 1
        if layer.number is None or layer.number == runs:
            found = next((found for found in map(first_map, values) if found is not None), None)
            if found is not None:
                maps[name] = (found[1].permute(0, 3, 1, 2) if layer.order == "nhwc" else found[1]).clone()

    if layer.of_input:
        return module.register_forward_pre_hook(lambda _, args, kwargs: keep(args, kwargs), with_kwargs=True)
    return module.register_forward_hook(lambda _, args, output: keep(output))


def resolve_layers(
    network: nn.Module,
    layers: str | Sequence[str],
    samples: Tensor,
    *,
    name: str,
    run: ForwardFn | None = None,
) -> dict[str, Size]:
    """Resolve the layers that are meant, in order, each with the shape of its map of one sample.

    Parameters
    ----------
    network : nn.Module
    layers : "auto" or sequence of str
        "auto": the feature maps after each down-sampling stage, which are those of
        :meth:`Trace.stages`.
    samples : Tensor of shape (2, ...)
        Rows to try the network on, in evaluation mode.
    name : str
        What messages call ``layers``.
    run : callable or None, default=None
        Runs the network; None: the network itself.

    Returns
    -------
    dict of str to tuple of (int, int, int)
        (channels, height, width) by layer. Where channels have been found to come last, the
        layer's name says so: ``":nhwc"``.

    Raises
    ------
    ValueError
        If a layer is not known or not run, its map has no spatial extent or its order of
        channels cannot be told; if "auto" finds fewer than two stages.
    TypeError
        If ``layers`` is neither "auto" nor a sequence of names.
    """
    found = find_layers(network, layers, samples, name=name, run=run)
    return {layer: found.map.of_one_sample for layer, found in found.items()}


class Found(NamedTuple):
    """A layer's call, and the map that it was given or returned."""

    call: Call
    map: FeatureMap


def find_layers(
    network: nn.Module,
    layers: str | Sequence[str],
    samples: Tensor,
    *,
    name: str,
    run: ForwardFn | None = None,
) -> dict[str, Found]:
    """Resolve layers as :func:`resolve_layers`, and return their calls too."""
    if not (isinstance(layers, str) and layers == "auto"):
        _check_names(layers, name)
    check_not_compiled(network, name, runs_uncompiled=run is not None)
    if isinstance(layers, str):
        return _automatic(Trace.of_trial(network, samples, run), samples, name)
    modules = dict(network.named_modules())
    parsed = {layer: Layer.parse(layer, modules) for layer in layers}
    for layer, meant in parsed.items():
        _check_known(layer, meant, network, modules, name)
    trace = Trace.of_trial(network, samples, run)
    return dict(_found(layer, meant, trace, name) for layer, meant in parsed.items())


def check_not_compiled(network: nn.Module, name: str, *, runs_uncompiled: bool = False) -> None:
    """Raise ValueError, about the parameter ``name``, for a network whose code runs without hooks."""
    if isinstance(network, torch.jit.ScriptModule):
        raise ValueError(
            f"{name}: the network is a TorchScript module, whose layers run in compiled code, where their "
            "maps cannot be captured. Give the nn.Module that it was made from."
        )
    compiled = network._compiled_call_impl is not None or hasattr(network, "_orig_mod")
    if compiled and not runs_uncompiled:
        raise ValueError(
            f"{name}: {type(network).__name__} has been compiled by torch.compile, whose code leaves out the "
            "hooks by which maps are captured. Give the module as it was before."
        )


def _stages_of(trace: Trace) -> dict[str, Found]:
    return {trace.name(c): Found(c, c.output) for c in trace.stages() if c.output is not None}


def _automatic(trace: Trace, samples: Tensor, name: str) -> dict[str, Found]:
    found = _stages_of(trace)
    if trace.unsure():
        call = trace.unsure()[0]
        raise ValueError(f"{name}='auto': {_say_unsure(trace.name(call), call.output, trace, name)}")
    if len(found) < 2:
        candidates = [trace.name(call) for call in trace.with_maps()]
        listed = f"{candidates[:20]}{' ...' if len(candidates) > 20 else ''}" if candidates else "none"
        raise ValueError(
            f"{name}='auto' finds {len(found)} stage(s) of different spatial size in "
            f"{type(trace.network).__name__} for samples of shape {tuple(samples.shape[1:])}; it needs at "
            f"least two. Layers that give maps of shape (n, channels, height, width): {listed}. "
            f"Name some of them, {name}=[...]; {table_hint(name)}"
        )
    return found


def table_hint(name: str) -> str:
    """Return how to list the layers, for a message about the parameter ``name``."""
    whose = name.removesuffix("_layers") if name.endswith("_layers") else "network"
    return f"layer_table({whose}, X[:2]) lists them."


# --------------------------------------------------------------------------------------
# Layers named by the user


def _check_names(layers: Any, name: str) -> None:
    if isinstance(layers, str) or not all(isinstance(layer, str) for layer in layers):
        raise TypeError(
            f"{name}={layers!r} must be 'auto' or a list of layers, such as ['layer1', 'layer2:input']."
        )
    if len(layers) == 0 or len(set(layers)) < len(layers):
        raise ValueError(f"{name}={list(layers)!r} must name at least one layer, and none twice.")


def _check_known(
    name: str, layer: Layer, network: nn.Module, modules: dict[str, nn.Module], argument: str
) -> None:
    twin = dict(network.named_modules(remove_duplicate=False)).get(layer.path)
    if twin is not None and layer.path and layer.path not in modules:
        path = next(path for path, module in modules.items() if module is twin)
        raise ValueError(
            f"{argument}: layer {name!r} of {type(network).__name__} is the same module as {path!r}. Name it "
            f"by that and the number of its call, such as '{path}#2'; {table_hint(argument)}"
        )
    if not layer.path or layer.path not in modules:
        known = [path for path in modules if path]
        raise ValueError(
            f"{argument}: {type(network).__name__} has no layer {name!r}.{_near(layer.path, known)}"
        )
    inside = [path for path, m in modules.items() if isinstance(m, torch.jit.ScriptModule)]
    if any(layer.path == path or layer.path.startswith(f"{path}.") for path in inside):
        raise ValueError(
            f"{argument}: layer {name!r} of {type(network).__name__} is TorchScript, which runs in compiled "
            "code, where its map cannot be captured. Name the layer before it or behind it, as "
            "'layer:input', or give the nn.Module that it was made from."
        )


def _near(path: str, known: Sequence[str]) -> str:
    matches = difflib.get_close_matches(path, known, n=3, cutoff=0.4)
    nearest = f" Nearest: {matches}." if matches else ""
    return f"{nearest} It has {list(known[:20])}{' ...' if len(known) > 20 else ''}."


def _found(name: str, layer: Layer, trace: Trace, argument: str) -> tuple[str, Found]:
    """Find a layer; its name ends in ``":nhwc"`` where its channels come last."""
    call = _call_of(name, layer, trace, argument)
    found = call.given if layer.of_input else call.output
    if found is None:
        got = "is given no tensor" if layer.of_input else f"gives {call.said}"
        raise ValueError(
            f"{argument}: layer {name!r} of {type(trace.network).__name__} {got}, which has no spatial "
            "extent. Pathways compare feature maps of shape (n, channels, height, width): name a "
            f"convolution, a stage, or what follows one before it is flattened; {table_hint(argument)}"
        )
    if layer.order is not None:
        return name, Found(call, FeatureMap(found.shape, found.where, layer.order))
    if found.order == "unsure":
        raise ValueError(f"{argument}: {_say_unsure(name, found, trace, argument)}")
    return (f"{name}:nhwc" if found.order == "nhwc" else name), Found(call, found)


def _call_of(name: str, layer: Layer, trace: Trace, argument: str) -> Call:
    calls, number = trace.of(layer.path), layer.number
    if not calls:
        raise ValueError(
            f"{argument}: layer {name!r} of {type(trace.network).__name__} was not run in a forward pass. "
            "Name a layer that takes part in it."
        )
    runs = f"{layer.path!r} of {type(trace.network).__name__} runs {len(calls)} time(s) in a forward pass"
    if number is not None and number > len(calls):
        raise ValueError(f"{argument}: there is no {name!r}: {runs}: {_listed(calls, layer)}.")
    if number is None and len(calls) > 1:
        warnings.warn(
            f"{argument}: {runs}, and {name!r} is its last. Name the call that you mean: "
            f"{_listed(calls, layer)}.",
            UserWarning,
            stacklevel=2,
        )
    return calls[-1 if number is None else number - 1]


def _listed(calls: Sequence[Call], layer: Layer) -> str:
    ending = ":input" if layer.of_input else ""
    maps = [call.given if layer.of_input else call.output for call in calls]
    said = [call.said if m is None else m.shape[1:] for call, m in zip(calls, maps, strict=True)]
    listed = [f"'{layer.path}#{call.number}{ending}' {what}" for call, what in zip(calls, said, strict=True)]
    return ", ".join(listed[:8]) + (", ..." if len(listed) > 8 else "")


def _say_unsure(layer: str, found: FeatureMap | None, trace: Trace, argument: str) -> str:
    shape = None if found is None else found.shape
    return (
        f"layer {layer!r} of {type(trace.network).__name__} gives shape {shape}, of which it cannot be told "
        f"whether the channels come first or last. Say it in the name, {argument}=['{layer}:nchw', ...] for "
        f"(n, channels, height, width) or ':nhwc' for (n, height, width, channels), or name other layers; "
        f"{table_hint(argument)}"
    )


# --------------------------------------------------------------------------------------
# Training mode


def check_training_mode(network: nn.Module, layers: dict[str, Size], samples: Tensor, *, name: str) -> None:
    """Check that each layer gives in training mode what it gives in evaluation mode.

    A copy of the network is run. A network that draws random numbers may leave out a block now
    and then: it is run several times.

    Raises
    ------
    ValueError
        If a layer is not run, runs another number of times, or gives other channels.
    """
    network = copy.deepcopy(network).eval()
    rows = torch.cat([samples, samples]) if len(samples) == 1 else samples  # batch normalisation needs two
    modules = dict(network.named_modules())
    parsed = {layer: Layer.parse(layer, modules) for layer in layers}
    with torch.no_grad(), preserved_random_state(samples.device):
        usual = _recorded(network, rows)
        network.train()
        for _ in range(_TRIES):
            before = _drawn(samples.device)
            trace = _recorded(network, rows)
            for layer, meant in parsed.items():
                _check_calls(layer, meant, usual.of(meant.path), trace.of(meant.path), layers[layer], name)
            if _drawn(samples.device) == before:
                return


def _recorded(network: nn.Module, samples: Tensor) -> Trace:
    trace = Trace(network)
    trace.record(samples, network)
    return trace


def _check_calls(
    name: str, layer: Layer, usual: Sequence[Call], calls: Sequence[Call], shape: Size, argument: str
) -> None:
    if len(calls) != len(usual):
        raise ValueError(
            f"{argument}: layer {name!r} runs {len(usual)} time(s) in evaluation mode and {len(calls)} in "
            "training mode, so that its map would be missing or another one. Name a layer that runs as "
            "often in both, such as the block around it."
        )
    call = calls[-1 if layer.number is None else layer.number - 1]
    found = call.given if layer.of_input else call.output
    order = layer.order or "nchw"
    if found is None or FeatureMap(found.shape, order=order).of_one_sample[0] != shape[0]:
        got = call.said if found is None else f"shape {found.shape}"
        raise ValueError(
            f"{argument}: layer {name!r} has {shape[0]} channels in evaluation mode and gives {got} in "
            "training mode. Name a layer that gives the same map in both."
        )


def _drawn(device: torch.device) -> list[Any]:
    """Return the state of every generator that a forward pass may draw from, to be compared."""
    of_host = host_random_state()
    kind, keys, *rest = of_host["numpy"]
    torch_states = [state.tolist() for state in random_state(device).values()]
    return [torch_states, kind, np.asarray(keys).tolist(), rest, of_host["python"]]
