"""Count the parameters and the multiply-adds of the pairs of networks, and of the 27 pathways between them.

Multiply-adds are those that a forward pass of one image of 224×224 pixels carries out. No weights are loaded.
The script needs timm.

    python examples/scale/network_sizes.py    # a minute

It writes network_sizes.json beside this file.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from _pairs import PAIRS, Pair, network
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sklearn_kd import Pathway, build_transforms

sys.path.append(str(Path(__file__).resolve().parents[1]))
from _provenance import provenance

N_CLASSES, IMAGE = 1000, torch.zeros(1, 3, 224, 224)


def sizes(pair: Pair) -> dict[str, dict[str, int]]:
    """Return the numbers of student and teacher, and of all transforms together."""
    networks = {name: network(getattr(pair, name), N_CLASSES) for name in ("student", "teacher")}
    maps = {name: map_shapes(networks[name], getattr(pair, f"{name}_layers")) for name in networks}
    found = {name: measured(of, IMAGE) for name, of in networks.items()}
    pathways = [
        Pathway(t_layer, s_layer, transform, i, j, t_shape[0], s_shape[0])
        for i, (t_layer, t_shape) in enumerate(maps["teacher"].items())
        for j, (s_layer, s_shape) in enumerate(maps["student"].items())
        for transform in ("conv1", "conv2", "conv3")
    ]
    of_each = [
        measured(
            transform,
            torch.zeros(1, *maps["student"][of.student_layer]),
            maps["teacher"][of.teacher_layer][1:],
        )
        for of, transform in zip(pathways, build_transforms(pathways), strict=True)
    ]
    found["transforms"] = total(of_each)
    conv1 = [of for of, pathway in zip(of_each, pathways, strict=True) if pathway.transform == "conv1"]
    return found | {"conv1 alone": total(conv1)}


def total(numbers: list[dict[str, int]]) -> dict[str, int]:
    """Return the sums of numbers of the same names."""
    return {what: sum(of[what] for of in numbers) for what in numbers[0]}


def measured(module: nn.Module, x: torch.Tensor, *further: Any) -> dict[str, int]:
    """Return the parameters, and the multiply-adds of a forward pass of an image."""
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        module.eval()(x, *further)
    parameters = sum(w.numel() for w in module.parameters())
    return {"parameters": parameters, "multiply-adds": flops.get_total_flops() // 2}


def map_shapes(module: nn.Module, layers: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Return (channels, height, width) of each layer's map, by its name."""
    shapes: dict[str, tuple[int, int, int]] = {}

    def note(layer: str, output: torch.Tensor) -> None:
        if layer.endswith(":tokens"):
            edge = math.isqrt(output.shape[1])  # of the patches; a class token may be in front
            shapes[layer] = (output.shape[2], edge, edge)
        else:
            shapes[layer] = tuple(output.shape[1:])

    hooks = [
        module.get_submodule(layer.split(":")[0]).register_forward_hook(
            lambda _, __, output, layer=layer: note(layer, output)
        )
        for layer in layers
    ]
    with torch.no_grad():
        module.eval()(IMAGE)
    for hook in hooks:
        hook.remove()
    return shapes


def main() -> None:
    record = provenance(__file__, timm)
    record["networks"] = {name: sizes(pair) for name, pair in PAIRS.items() if name != "small"}
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
