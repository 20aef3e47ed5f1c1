"""Table of the layers that a user can choose from a network."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from numbers import Integral
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_kd.layers._auto import stage_calls
from sklearn_kd.layers._find import find_layers
from sklearn_kd.layers._trace import Call, FeatureMap, Trace, named_with_order
from sklearn_kd.teachers._features import FeatureTeacher, network_of


class LayerRow(NamedTuple):
    """One layer of a :class:`LayerTable`.

    Attributes
    ----------
    layer : str
        Name of the layer for ``teacher_layers`` and ``student_layers``.
    module : str
        Class of the module.
    shape : tuple of int
        Shape of the map of one sample, (channels, height, width). If ``order`` is "unsure" or
        "none", the axes are in the network's own order.
    order : str
        "nchw": channels come first; "nhwc": channels come last; "tokens": a grid of tokens (n, N, C);
        "rows": (n, D). "unsure": add ":nchw" or ":nhwc" to the name to state the order. "none": apparently
        not an image, such as attention weights.
    part : str
        Place of the map in the module's output, such as "[0]". "" if the output itself is the map, or if the
        row is about the module's input.
    stage : int or None
        Number of the stage whose output this is, from 0.
    """

    layer: str
    module: str
    shape: tuple[int, ...]
    order: str
    part: str
    stage: int | None


class LayerTable(Sequence[LayerRow]):
    """Sequence of :class:`LayerRow`, printed as a table.

    Attributes
    ----------
    rows : list of LayerRow
    """

    def __init__(self, rows: Sequence[LayerRow]):
        self.rows = list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> LayerRow: ...

    @overload
    def __getitem__(self, index: slice) -> list[LayerRow]: ...

    def __getitem__(self, index: int | slice) -> LayerRow | list[LayerRow]:
        return self.rows[index]

    def __iter__(self) -> Iterator[LayerRow]:
        return iter(self.rows)

    def __repr__(self) -> str:
        if not self.rows:
            return "no layer gives a map of shape (n, channels, height, width), or rows of shape (n, D)"
        cells = [tuple("" if cell is None else str(cell) for cell in row) for row in self.rows]
        # Leave out columns with the usual value in all rows.
        usual = {"order": "nchw", "part": "", "stage": ""}
        shown = [k for k, title in enumerate(LayerRow._fields)
                 if any(row[k] != usual.get(title) for row in cells)]  # fmt: skip
        lines = [tuple(LayerRow._fields[k] for k in shown), *(tuple(row[k] for k in shown) for row in cells)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        padded = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
        return "\n".join(padded)


def layer_table(
    network: Any, samples: Any, layers: str | Sequence[str] = "auto", *, kinds: Sequence[str] | None = None
) -> LayerTable:
    """List the layers of a network that return feature maps or rows, in the order in which they run.

    Parameters
    ----------
    network : nn.Module, skorch net or estimator of this library
        Trained or not. For a fitted estimator of this library, its student's layers are listed.
    samples : array-like of shape (n, ...) or tuple of int
        Two rows, or the shape of one: ``(3, 32, 32)``.
    layers : "auto" or list of str, default="auto"
        A value for ``teacher_layers`` or ``student_layers``. "auto": list all layers and number the
        stages that :class:`DistProClassifier` would choose. A list: check it as
        :class:`DistProClassifier` does, and list these layers only. If the network returns a map for each
        image, such as classes of pixels, its output layer is not a stage.
    kinds : sequence of {"maps", "rows"} or None, default=None
        What "auto" lists: layers that return maps, (n, channels, height, width), or rows, (n, D), which
        :class:`~sklearn_kd.losses.RelationalKD` compares. For rows, the inputs of linear layers are listed
        too. None: maps, or rows if no layer returns a map.

    Returns
    -------
    LayerTable
        Sequence of named tuples (layer, module, shape, order, part, stage). The printed table omits
        ``order`` if all channels come first, ``part`` if all outputs are maps, and ``stage`` if no layer
        is a stage.

    Raises
    ------
    TypeError
        If ``network`` is not a network, ``layers`` is neither "auto" nor a list of names, or ``kinds``
        is not a list.
    ValueError
        If the network cannot take the samples, has no such layer, or a kind is unknown.

    Examples
    --------
    >>> from sklearn_kd import CNNStudent, layer_table
    >>> network = CNNStudent((1, 8, 8), n_classes=10, channels=(4, 8))
    >>> layer_table(network, (1, 8, 8))
    layer       module     shape      stage
    features.0  Conv2d     (4, 8, 8)
    features.1  ReLU       (4, 8, 8)  0
    features.2  MaxPool2d  (4, 4, 4)
    features.3  Conv2d     (8, 4, 4)
    features.4  ReLU       (8, 4, 4)  1
    features.5  MaxPool2d  (8, 2, 2)  2
    >>> [row.layer for row in layer_table(network, (1, 8, 8)) if row.stage is not None]
    ['features.1', 'features.4', 'features.5']

    List the rows. The input of the last linear layer is the embedding:

    >>> layer_table(network, (1, 8, 8), kinds=["rows"])
    layer                  module      shape  order
    features.6:rows        Flatten     (32,)  rows
    features:rows          Sequential  (32,)  rows
    classify.0:input:rows  Linear      (32,)  rows
    classify.0:rows        Linear      (32,)  rows
    classify.1:rows        ReLU        (32,)  rows
    classify.2:input:rows  Linear      (32,)  rows
    classify.2:rows        Linear      (10,)  rows
    classify:rows          Sequential  (10,)  rows
    """
    _check_kinds(kinds)
    module = network_of(network, "network")
    tensor = next(module.parameters(), None)
    rows = _rows(samples, torch.device("cpu") if tensor is None else tensor.device)
    teacher = FeatureTeacher(network, rows.device, "network")
    teacher.check(rows, "network")
    if not (isinstance(layers, str) and layers == "auto"):
        both = ("maps", "rows")
        found = find_layers(module, layers, rows, name="layers", run=teacher.forward, kinds=kinds or both)
        return LayerTable([_row(layer, *entry, stage) for stage, (layer, entry) in enumerate(found.items())])
    trace = Trace.of_trial(module, rows, teacher.forward)
    stages = {id(call): stage for stage, call in enumerate(stage_calls(trace, of_maps=True))}
    if kinds is None:
        kinds = ("maps",) if trace.with_maps() else ("rows",)
    with_maps = trace.with_maps() if "maps" in kinds else []
    listed = []
    for call in trace.calls:
        if call in with_maps and call.output is not None:
            listed.append(_row(trace.name(call), call, call.output, stages.get(id(call))))
        if "rows" in kinds:
            listed += _of_rows(call, trace)
    return LayerTable(listed)


def _check_kinds(kinds: Sequence[str] | None) -> None:
    if kinds is None:
        return
    expected = f"kinds={kinds!r} must be None or a list of 'maps', 'rows' or both."
    if isinstance(kinds, str) or not isinstance(kinds, Collection):
        raise TypeError(expected)
    if not kinds or not all(kind in ("maps", "rows") for kind in kinds):
        raise ValueError(expected)


def _of_rows(call: Call, trace: Trace) -> list[LayerRow]:
    """Return the rows of a call's output, preceded by those of its input if the layer is linear."""
    name = trace.name_of_call(call)
    sides = [(name, call.output_rows)]
    if isinstance(call.module, nn.Linear):
        sides.insert(0, (f"{name}:input", call.input_rows))
    return [
        _row(named_with_order(side, found), call, found, None) for side, found in sides if found is not None
    ]


def _row(layer: str, call: Call, found: FeatureMap, stage: int | None) -> LayerRow:
    is_only_argument = ":input" in layer and found.where == "[0]"
    part = "" if is_only_argument else found.where
    return LayerRow(layer, type(call.module).__name__, found.sample_shape, found.order, part, stage)


def _rows(samples: Any, device: torch.device) -> Tensor:
    """Return two rows for the network; zeros if ``samples`` is a shape."""
    if isinstance(samples, tuple) and all(isinstance(size, Integral) for size in samples):
        return torch.zeros(2, *map(int, samples), device=device)
    rows = samples if isinstance(samples, Tensor) else torch.as_tensor(np.asarray(samples))
    if rows.ndim < 2:
        raise ValueError(
            f"samples has shape {tuple(rows.shape)}. Give some rows, X[:2], or the shape of one row as a "
            "tuple, such as (3, 32, 32)."
        )
    return rows[:2].to(device).float()
