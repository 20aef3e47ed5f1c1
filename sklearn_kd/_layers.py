"""Layers of a network by name, and the feature maps that they give while it runs.

A layer is named by the path of a module, as ``named_modules`` has it: ``"layer2"`` is what the
module returns, ``"layer2:input"`` what it is given.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sklearn_kd._modes import evaluating
from sklearn_kd._random import preserved_random_state

_INPUT = ":input"

Run = Callable[[Tensor], Tensor]


@contextmanager
def captured(network: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The feature maps of ``layers``, by name, of the forward passes made inside.

    Of a module that runs more than once the last map is kept. Each map is a copy: a module that
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
    maps: dict[str, Tensor] = {}
    try:
        for layer in layers:
            handles.append(_hooked(modules[layer.removesuffix(_INPUT)], layer, maps))
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def _hooked(module: nn.Module, layer: str, maps: dict[str, Tensor]):
    def keep(found):
        # What is no tensor is kept as it is, for a message.
        maps[layer] = found.clone() if isinstance(found, Tensor) else found

    if layer.endswith(_INPUT):
        return module.register_forward_pre_hook(lambda _, args: keep(args[0] if args else None))
    return module.register_forward_hook(lambda _, args, output: keep(output))


def resolve_layers(
    network: nn.Module, layers: str | Sequence[str], samples: Tensor, *, name: str, run: Run | None = None
) -> dict[str, tuple[int, ...]]:
    """The layers that are meant, in order, each with the shape of its map of one sample.

    Parameters
    ----------
    network : nn.Module
    layers : "auto" or sequence of str
        "auto": the feature maps after each down-sampling stage, which are those of
        :func:`stages`.
    samples : Tensor of shape (2, ...)
        Rows to try the network on, in evaluation mode.
    name : str
        What messages call ``layers``.
    run : callable or None, default=None
        Runs the network; None: the network itself.

    Returns
    -------
    dict of str to tuple of (int, int, int)
        (channels, height, width) by layer.

    Raises
    ------
    ValueError
        If a layer is not known or not run, or its map has no spatial extent; if "auto" finds
        fewer than two stages.
    TypeError
        If ``layers`` is neither "auto" nor a sequence of names.
    """
    if isinstance(layers, str) and layers == "auto":
        return _automatic(network, samples, name, run)
    if isinstance(layers, str) or not all(isinstance(layer, str) for layer in layers):
        raise TypeError(
            f"{name}={layers!r} must be 'auto' or a list of layers, such as ['layer1', 'layer2:input']."
        )
    if len(layers) == 0 or len(set(layers)) < len(layers):
        raise ValueError(f"{name}={list(layers)!r} must name at least one layer, and none twice.")
    known = [path for path, _ in network.named_modules() if path]
    for layer in layers:
        if layer.removesuffix(_INPUT) not in known:
            raise ValueError(f"{name}: {type(network).__name__} has no layer {layer!r}.{_near(layer, known)}")
    with _trial(network, samples), captured(network, layers) as maps:
        (run or network)(samples)
    return {layer: _checked_shape(layer, maps.get(layer), network, name) for layer in layers}


def stages(
    network: nn.Module, samples: Tensor, run: Run | None = None
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """For each spatial size the last layer that gives a map of it, and all layers that give one.

    In the order in which the sizes are first met. Maps of 1×1 are no stage, nor is the output
    of the network itself.
    """
    found: dict[tuple[int, ...], tuple[str, tuple[int, ...]]] = {}
    candidates: list[str] = []
    handles = []

    def note(path):
        def hook(module, args, output):
            if isinstance(output, Tensor) and output.ndim == 4 and max(output.shape[2:]) > 1:
                found[tuple(output.shape[2:])] = path, tuple(output.shape[1:])
                candidates.append(path)

        return hook

    with _trial(network, samples):
        try:
            for path, module in network.named_modules():
                if path:
                    handles.append(module.register_forward_hook(note(path)))
            (run or network)(samples)
        finally:
            for handle in handles:
                handle.remove()
    return dict(found.values()), list(dict.fromkeys(candidates))


def _automatic(network, samples, name, run):
    found, candidates = stages(network, samples, run)
    if len(found) < 2:
        raise ValueError(
            f"{name}='auto' finds {len(found)} stage(s) of different spatial size in "
            f"{type(network).__name__} for samples of shape {tuple(samples.shape[1:])}; it needs at least "
            f"two. Layers that give maps of shape (n, channels, height, width): {candidates or 'none'}. "
            f"Name some of them, {name}=[...]."
        )
    return found


@contextmanager
def _trial(network, samples):
    """Evaluation mode, no gradient, no trace in the random state; a turn of this thread."""
    with evaluating(network.modules()), torch.no_grad(), preserved_random_state(samples.device):
        yield


def _near(layer: str, known: Sequence[str]) -> str:
    matches = difflib.get_close_matches(layer.removesuffix(_INPUT), known, n=3, cutoff=0.4)
    nearest = f" Nearest: {matches}." if matches else ""
    return f"{nearest} It has {list(known[:20])}{' ...' if len(known) > 20 else ''}."


def _checked_shape(layer, found, network, name):
    if found is None:
        raise ValueError(
            f"{name}: layer {layer!r} of {type(network).__name__} was not run, or got no tensor, in a "
            "forward pass. Name a layer that takes part in it."
        )
    if not isinstance(found, Tensor) or found.ndim != 4:
        got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"{name}: layer {layer!r} of {type(network).__name__} gives {got}, which has no spatial extent. "
            "Pathways compare feature maps of shape (n, channels, height, width): name a convolution, a "
            "stage, or what follows one before it is flattened."
        )
    return tuple(found.shape[1:])
