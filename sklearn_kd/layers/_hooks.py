"""Forward hooks that collect feature maps while a network runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sklearn_kd.layers._names import LayerName, named_network
from sklearn_kd.layers._tokens import tokens_as_map
from sklearn_kd.layers._trace import first_tensor


class _LayerMaps(dict[str, Tensor]):
    """Feature maps by layer; a missing one raises a ValueError with an explanation."""

    def __missing__(self, layer: str) -> Tensor:
        raise ValueError(
            f"Layer {layer!r} was not run in this forward pass, though it was when the network was tried. "
            "Name a layer that runs in every pass, such as the block around it."
        )


@contextmanager
def feature_hooks(network: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Hook layers of a network and collect their feature maps, or rows, during one forward pass.

    Run the network once inside the context. If a module runs more than once, the map of the call named by
    the layer is kept, or that of the last call. From a tuple, list or dict the first tensor of four
    dimensions is taken, of two if the name ends in ``":rows"``, of three if it ends in ``":tokens"``.
    Channels-last maps and grids of tokens are permuted to (n, channels, height, width). Each map is copied,
    because a later module may write into the original, as an in-place ReLU does. The hooks are removed at
    the end, so that the network can be copied, pickled and exported.

    Parameters
    ----------
    network : nn.Module
    layers : sequence of str
        Names of its layers, as returned by :func:`find_layers`.

    Yields
    ------
    dict of str to Tensor
        Maps by layer, filled while the network runs.
    """
    modules, handles = dict(named_network(network).named_modules()), []
    maps = _LayerMaps()
    try:
        for name in layers:
            layer = LayerName.parse(name, modules)
            handles.append(_register_hook(modules[layer.path], layer, name, maps))
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def _register_hook(
    module: nn.Module, layer: LayerName, name: str, maps: dict[str, Tensor]
) -> RemovableHandle:
    runs, ndim = 0, {"rows": 2, "tokens": 3}.get(layer.order or "", 4)

    def keep(*values: Any) -> None:
        nonlocal runs
        runs += 1
        if layer.number is None or layer.number == runs:
            tensors = (first_tensor(value, ndim) for value in values)
            found = next((found for found in tensors if found is not None), None)
            if found is not None:
                maps[name] = _in_usual_order(found[1], layer).clone()

    if layer.of_input:
        return module.register_forward_pre_hook(lambda _, args, kwargs: keep(args, kwargs), with_kwargs=True)
    return module.register_forward_hook(lambda _, args, output: keep(output))


def _in_usual_order(found: Tensor, layer: LayerName) -> Tensor:
    if layer.order == "tokens":
        return tokens_as_map(found, layer.grid)
    return found.permute(0, 3, 1, 2) if layer.order == "nhwc" else found
