"""Find the layers that a user names, or choose layers automatically, by a trial forward pass."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sklearn_kd.layers._auto import DEFAULT_STAGES, choose_layers
from sklearn_kd.layers._hints import listed, table_hint, unsure_message
from sklearn_kd.layers._names import LayerName, named_network
from sklearn_kd.layers._tokens import MOST_OTHERS, Grid, square_grid
from sklearn_kd.layers._trace import Call, FeatureMap, ForwardFn, FoundLayer, Size, Trace, named_with_order


def layer_shapes(found: Mapping[str, FoundLayer]) -> dict[str, Size]:
    """Return the shape of one sample's features by layer: (channels, height, width), or (D,) for rows."""
    return {name: layer.map.sample_shape for name, layer in found.items()}


def find_layers(
    network: nn.Module,
    layers: str | Sequence[str],
    samples: Tensor,
    *,
    name: str,
    run: ForwardFn | None = None,
    of_maps: bool = False,
    kinds: Sequence[str] = ("maps",),
    auto: str = "stages",
    n_stages: int | None = None,
) -> dict[str, FoundLayer]:
    """Find layers by name or automatically, in order, by one forward pass in evaluation mode.

    Parameters
    ----------
    network : nn.Module
    layers : "auto" or sequence of str
        Names, or "auto" for the layers chosen by ``auto``.
    samples : Tensor of shape (2, ...)
        Rows to run the network on.
    name : str
        Name of the parameter ``layers`` in messages.
    run : callable or None, default=None
        Runs the network. None: the network itself.
    of_maps : bool, default=False
        Whether a map returned by the network is its prediction, and therefore no stage for "auto".
    kinds : sequence of {"maps", "rows"}, default=("maps",)
        Kinds of features to take. The first kind that a layer has is taken, unless its name states one.
        Tokens that are a grid of patches are maps.
    auto : {"stages", "middle stage", "last stage", "embedding"}, default="stages"
        Layers to choose for "auto". "stages": the feature maps after each down-sampling stage, see
        :meth:`Trace.stages`. In a network whose blocks all have one size, such as a vision transformer,
        these are the outputs of some evenly spaced blocks, including the last. "middle stage", "last stage":
        one of these; if their number is even, the middle one is the second of the two in the middle.
        "embedding": the input rows of the last linear layer.
    n_stages : int or None, default=None
        Number of outputs to take from a network whose blocks all have one size, at most one per block. None:
        four.

    Returns
    -------
    dict of str to FoundLayer
        Layers by name. A name ends in ``":nhwc"`` if the channels come last, in ``":tokens"`` for tokens,
        and in ``":rows"`` for rows.

    Raises
    ------
    ValueError
        If a layer is unknown or does not run, has no features of these kinds, or has axes of unknown order;
        if "auto" finds fewer than two stages, or no embedding.
    TypeError
        If ``layers`` is neither "auto" nor a sequence of names.
    """
    if not (isinstance(layers, str) and layers == "auto"):
        _check_names(layers, name)
    check_not_compiled(network, name, runs_uncompiled=run is not None)
    if isinstance(layers, str):  # "auto"
        trace = Trace.of_trial(network, samples, run)
        return choose_layers(trace, auto, samples, name, of_maps=of_maps, n_stages=n_stages or DEFAULT_STAGES)
    modules = dict(named_network(network).named_modules())
    parsed = {layer: LayerName.parse(layer, modules) for layer in layers}
    for layer, meant in parsed.items():
        _check_known(layer, meant, named_network(network), modules, name)
    trace = Trace.of_trial(network, samples, run)
    return dict(_find_layer(layer, meant, trace, name, kinds) for layer, meant in parsed.items())


def check_not_compiled(network: nn.Module, name: str, *, runs_uncompiled: bool = False) -> None:
    """Raise ValueError for a compiled network, whose code runs without hooks.

    ``name`` is the name of the parameter in the message. ``runs_uncompiled`` means that ``torch.compile`` is
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
            f"{name}: {type(network).__name__} has been compiled by torch.compile, whose code skips the "
            "hooks that capture maps. Give the module as it was before."
        )


# --------------------------------------------------------------------------------------
# Layers named by the user


def _check_names(layers: Any, name: str) -> None:
    is_list = isinstance(layers, Iterable) and not isinstance(layers, str)
    if not is_list or not all(isinstance(layer, str) for layer in layers):
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
            "code, where its map cannot be captured. Name the layer before it, or the one after it as "
            "'layer:input', or give the nn.Module that it was made from."
        )


def _list_nearest(path: str, known: Sequence[str]) -> str:
    matches = difflib.get_close_matches(path, known, n=3, cutoff=0.4)
    nearest = f" Nearest: {matches}." if matches else ""
    return f"{nearest} It has {listed(known)}."


def _find_layer(
    name: str, layer: LayerName, trace: Trace, argument: str, kinds: Sequence[str]
) -> tuple[str, FoundLayer]:
    """Return a layer with its full name, which ends in the order of its axes if that is unusual."""
    call = _call_of(name, layer, trace, argument)
    found = _features_of(call, layer, kinds)
    if found is None:
        got = "gets no such tensor" if layer.of_input else f"gives {call.output_type}"
        raise ValueError(
            f"{argument}: layer {name!r} of {type(trace.named).__name__} {got}{_missing(layer, kinds)} "
            f"{table_hint(argument)}"
        )
    if layer.order is not None:
        grid = _stated_grid(name, layer, found, argument) if layer.order == "tokens" else (0, 0)
        return name, FoundLayer(call, FeatureMap(found.shape, found.where, layer.order, grid))
    if found.order == "unsure":
        raise ValueError(f"{argument}: {unsure_message(name, found, trace, argument)}")
    return named_with_order(name, found), FoundLayer(call, found)


def _features_of(call: Call, layer: LayerName, kinds: Sequence[str]) -> FeatureMap | None:
    """Return the first of ``kinds`` that a layer has, or the kind stated by its name."""
    maps, rows = (call.features(of_input=layer.of_input, order=order) for order in (layer.order, "rows"))
    if maps is None and layer.order is None:  # no map for certain
        tokens = call.features(of_input=layer.of_input, order="tokens")
        maps = tokens if tokens is not None and tokens.order == "unsure" else None
    if layer.order is not None:
        kinds = [kind for kind in kinds if (kind == "rows") == (layer.order == "rows")]
    found = {"maps": maps, "rows": rows}
    return next((found[kind] for kind in kinds if found[kind] is not None), None)


def _stated_grid(name: str, layer: LayerName, found: FeatureMap, argument: str) -> Grid:
    """Return the height and width of the grid of tokens that a name states."""
    grid = layer.grid or square_grid(found.shape[1])
    if grid is None:
        raise ValueError(
            f"{argument}: layer {name!r} gives {found.shape[1]} tokens, which are not a square grid after at "
            f"most {MOST_OTHERS} others. State height and width in patches: '{name}=7x14'."
        )
    if grid[0] * grid[1] > found.shape[1]:
        raise ValueError(
            f"{argument}: layer {name!r} gives {found.shape[1]} tokens, too few for a grid of "
            f"{grid[0]}×{grid[1]}."
        )
    return grid


def _missing(layer: LayerName, kinds: Sequence[str]) -> str:
    if "maps" in kinds and layer.order != "rows":
        return (
            ", which has no spatial extent. Feature maps have the shape (n, channels, height, width): name a "
            "convolution, a stage, or what follows one before it is flattened;"
        )
    if "rows" in kinds:
        return (
            ", where rows of shape (n, D) are needed, one for each sample. Name the input of a linear layer, "
            "such as 'fc:input', or a layer that flattens or pools its input;"
        )
    return ", and ':rows' means no feature map. Feature maps are compared here: leave ':rows' out;"


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
    maps = [call.features(of_input=layer.of_input, order=layer.order) for call in calls]
    said = [call.output_type if m is None else m.shape[1:] for call, m in zip(calls, maps, strict=True)]
    listed = [f"'{layer.path}#{call.number}{ending}' {what}" for call, what in zip(calls, said, strict=True)]
    return ", ".join(listed[:8]) + (", ..." if len(listed) > 8 else "")
