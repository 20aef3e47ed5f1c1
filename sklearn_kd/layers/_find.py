"""Find the layers that a user names, or the stages of a network, by a trial forward pass."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sklearn_kd.layers._names import LayerName, named_network
from sklearn_kd.layers._trace import Call, FeatureMap, ForwardFn, Size, Trace


class FoundLayer(NamedTuple):
    """A layer of a traced network: its call, and the map that the call was given or returned."""

    call: Call
    map: FeatureMap


def layer_shapes(found: Mapping[str, FoundLayer]) -> dict[str, Size]:
    """Return the shape of one sample's map by layer: (channels, height, width)."""
    return {name: layer.map.sample_shape for name, layer in found.items()}


def find_layers(
    network: nn.Module,
    layers: str | Sequence[str],
    samples: Tensor,
    *,
    name: str,
    run: ForwardFn | None = None,
    of_maps: bool = False,
) -> dict[str, FoundLayer]:
    """Find layers by name or automatically, in order, by one forward pass in evaluation mode.

    Parameters
    ----------
    network : nn.Module
    layers : "auto" or sequence of str
        "auto": the feature maps after each down-sampling stage, see :meth:`Trace.stages`.
    samples : Tensor of shape (2, ...)
        Rows to run the network on.
    name : str
        Name of the parameter ``layers`` in messages.
    run : callable or None, default=None
        Runs the network; None: the network itself.
    of_maps : bool, default=False
        Whether a map that the network returns is its prediction, and so no stage of "auto".

    Returns
    -------
    dict of str to FoundLayer
        By the name of the layer. The name ends in ``":nhwc"`` if the channels come last.

    Raises
    ------
    ValueError
        If a layer is not known or does not run, its map has no spatial extent, or the order of its
        axes cannot be told; if "auto" finds fewer than two stages.
    TypeError
        If ``layers`` is neither "auto" nor a sequence of names.
    """
    if not (isinstance(layers, str) and layers == "auto"):
        _check_names(layers, name)
    check_not_compiled(network, name, runs_uncompiled=run is not None)
    if isinstance(layers, str):  # "auto"
        return _find_stages(Trace.of_trial(network, samples, run), samples, name, of_maps=of_maps)
    modules = dict(named_network(network).named_modules())
    parsed = {layer: LayerName.parse(layer, modules) for layer in layers}
    for layer, meant in parsed.items():
        _check_known(layer, meant, named_network(network), modules, name)
    trace = Trace.of_trial(network, samples, run)
    return dict(_find_layer(layer, meant, trace, name) for layer, meant in parsed.items())


def check_not_compiled(network: nn.Module, name: str, *, runs_uncompiled: bool = False) -> None:
    """Raise ValueError for a compiled network, whose code runs without hooks.

    ``name`` is the parameter in the message. ``runs_uncompiled`` says that ``torch.compile`` is
    switched off while the network runs.
    """
    network = named_network(network)
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


def _find_stages(trace: Trace, samples: Tensor, name: str, *, of_maps: bool) -> dict[str, FoundLayer]:
    stages = trace.stages(of_maps=of_maps)
    found = {trace.name(call): FoundLayer(call, call.output) for call in stages if call.output is not None}
    if trace.unsure():
        call = trace.unsure()[0]
        raise ValueError(f"{name}='auto': {_unsure_message(trace.name(call), call.output, trace, name)}")
    if len(found) < 2:
        candidates = [trace.name(call) for call in trace.with_maps()]
        listed = f"{candidates[:20]}{' ...' if len(candidates) > 20 else ''}" if candidates else "none"
        raise ValueError(
            f"{name}='auto' finds {len(found)} stage(s) of different spatial size in "
            f"{type(trace.named).__name__} for samples of shape {tuple(samples.shape[1:])}; it needs at "
            f"least two. Layers that give maps of shape (n, channels, height, width): {listed}. "
            f"Name some of them, {name}=[...]; {table_hint(name)}"
        )
    return found


def table_hint(name: str) -> str:
    """Return a hint for messages about the parameter ``name``: how to list the layers."""
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
    name: str, layer: LayerName, network: nn.Module, modules: dict[str, nn.Module], argument: str
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
            f"{argument}: {type(network).__name__} has no layer {name!r}.{_list_nearest(layer.path, known)}"
        )
    inside = [path for path, m in modules.items() if isinstance(m, torch.jit.ScriptModule)]
    if any(layer.path == path or layer.path.startswith(f"{path}.") for path in inside):
        raise ValueError(
            f"{argument}: layer {name!r} of {type(network).__name__} is TorchScript, which runs in compiled "
            "code, where its map cannot be captured. Name the layer before it or behind it, as "
            "'layer:input', or give the nn.Module that it was made from."
        )


def _list_nearest(path: str, known: Sequence[str]) -> str:
    matches = difflib.get_close_matches(path, known, n=3, cutoff=0.4)
    nearest = f" Nearest: {matches}." if matches else ""
    return f"{nearest} It has {list(known[:20])}{' ...' if len(known) > 20 else ''}."


def _find_layer(name: str, layer: LayerName, trace: Trace, argument: str) -> tuple[str, FoundLayer]:
    """Return a layer with its full name, which ends in ``":nhwc"`` if its channels come last."""
    call = _call_of(name, layer, trace, argument)
    found = call.input if layer.of_input else call.output
    if found is None:
        got = "is given no tensor" if layer.of_input else f"gives {call.output_type}"
        raise ValueError(
            f"{argument}: layer {name!r} of {type(trace.named).__name__} {got}, which has no spatial "
            "extent. Pathways compare feature maps of shape (n, channels, height, width): name a "
            f"convolution, a stage, or what follows one before it is flattened; {table_hint(argument)}"
        )
    if layer.order is not None:
        return name, FoundLayer(call, FeatureMap(found.shape, found.where, layer.order))
    if found.order == "unsure":
        raise ValueError(f"{argument}: {_unsure_message(name, found, trace, argument)}")
    return (f"{name}:nhwc" if found.order == "nhwc" else name), FoundLayer(call, found)


def _call_of(name: str, layer: LayerName, trace: Trace, argument: str) -> Call:
    calls, number = trace.of(layer.path), layer.number
    if not calls:
        raise ValueError(
            f"{argument}: layer {name!r} of {type(trace.named).__name__} was not run in a forward pass. "
            "Name a layer that takes part in it."
        )
    runs = f"{layer.path!r} of {type(trace.named).__name__} runs {len(calls)} time(s) in a forward pass"
    if number is not None and number > len(calls):
        raise ValueError(f"{argument}: there is no {name!r}: {runs}: {_list_calls(calls, layer)}.")
    if number is None and len(calls) > 1:
        warnings.warn(
            f"{argument}: {runs}, and {name!r} is its last. Name the call that you mean: "
            f"{_list_calls(calls, layer)}.",
            UserWarning,
            stacklevel=2,
        )
    return calls[-1 if number is None else number - 1]


def _list_calls(calls: Sequence[Call], layer: LayerName) -> str:
    ending = ":input" if layer.of_input else ""
    maps = [call.input if layer.of_input else call.output for call in calls]
    said = [call.output_type if m is None else m.shape[1:] for call, m in zip(calls, maps, strict=True)]
    listed = [f"'{layer.path}#{call.number}{ending}' {what}" for call, what in zip(calls, said, strict=True)]
    return ", ".join(listed[:8]) + (", ..." if len(listed) > 8 else "")


def _unsure_message(layer: str, found: FeatureMap | None, trace: Trace, argument: str) -> str:
    shape = None if found is None else found.shape
    return (
        f"layer {layer!r} of {type(trace.named).__name__} gives shape {shape}, of which it cannot be told "
        f"whether the channels come first or last. Say it in the name, {argument}=['{layer}:nchw', ...] for "
        f"(n, channels, height, width) or ':nhwc' for (n, height, width, channels), or name other layers; "
        f"{table_hint(argument)}"
    )
