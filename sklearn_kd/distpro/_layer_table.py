"""The layers of a network as a table, to choose from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.layers._find import find_layers
from sklearn_kd.layers._trace import Call, FeatureMap, Trace
from sklearn_kd.teachers._features import FeatureTeacher, network_of


class LayerRow(NamedTuple):
    """One layer of a :class:`LayerTable`.

    Attributes
    ----------
    layer : str
        What names it in ``teacher_layers`` and ``student_layers``.
    module : str
        Class of the module.
    shape : tuple of int
        Of the map of one sample, (channels, height, width); where ``order`` is "unsure" or "none"
        the shape as it is.
    order : str
        "nchw" or "nhwc": whether channels come first or last. "unsure": it cannot be told; end the
        name with ":nchw" or ":nhwc". "none": no image as far as is known, such as attention weights.
    part : str
        Place of the map in what the module returns, such as "[0]"; "" where it returns the map.
    stage : int or None
        The stage whose output this is, from 0.
    """

    layer: str
    module: str
    shape: tuple[int, ...]
    order: str
    part: str
    stage: int | None


class LayerTable(Sequence):
    """Rows of :func:`layer_table`; printed, a table.

    Attributes
    ----------
    rows : list of LayerRow
    """

    def __init__(self, rows: Sequence[LayerRow]):
        self.rows = list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]

    def __iter__(self) -> Iterator[LayerRow]:
        return iter(self.rows)

    def __repr__(self) -> str:
        if not self.rows:
            return "no layer gives a map of shape (n, channels, height, width)"
        cells = [tuple("" if cell is None else str(cell) for cell in row) for row in self.rows]
        # Columns with nothing but the usual value are left out.
        unsaid = {"order": "nchw", "part": ""}
        shown = [k for k, title in enumerate(LayerRow._fields)
                 if any(row[k] != unsaid.get(title) for row in cells)]  # fmt: skip
        lines = [tuple(LayerRow._fields[k] for k in shown), *(tuple(row[k] for k in shown) for row in cells)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        padded = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
        return "\n".join(padded)


def layer_table(network: Any, samples: Any, layers: str | Sequence[str] = "auto") -> LayerTable:
    """List the layers of a network that give feature maps, in the order in which they run.

    Parameters
    ----------
    network : nn.Module, skorch net or estimator of this library
        Trained or not; of a fitted estimator of this library it is the student.
    samples : array-like of shape (n, ...) or tuple of int
        Some rows, two will do, or the shape of one: ``(3, 32, 32)``.
    layers : "auto" or list of str, default="auto"
        What ``teacher_layers`` or ``student_layers`` would be; ``stage`` counts them. "auto"
        marks what :class:`DistProClassifier` would choose, if anything. A list is checked as
        :class:`DistProClassifier` does, and the table has these layers alone.

    Returns
    -------
    LayerTable
        A sequence of named tuples (layer, module, shape, order, part, stage). Printed it is a table,
        without ``order`` where all channels come first and without ``part`` where all modules
        return the map itself.

    Raises
    ------
    TypeError
        If ``network`` is no network, or ``layers`` is neither "auto" nor a list of names.
    ValueError
        If the network cannot take the samples, or has no such layer.

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
    """
    module = network_of(network, "network")
    tensor = next(module.parameters(), None)
    rows = _rows(samples, torch.device("cpu") if tensor is None else tensor.device)
    teacher = FeatureTeacher(network, rows.device, "network")
    teacher.check(rows, "network")
    if not (isinstance(layers, str) and layers == "auto"):
        found = find_layers(module, layers, rows, name="layers", run=teacher.forward)
        return LayerTable([_row(layer, *entry, stage) for stage, (layer, entry) in enumerate(found.items())])
    trace = Trace.of_trial(module, rows, teacher.forward)
    stages = {id(call): stage for stage, call in enumerate(trace.stages())}
    return LayerTable(
        [
            _row(trace.name(call), call, call.output, stages.get(id(call)))
            for call in trace.with_maps()
            if call.output is not None
        ]
    )


def _row(layer: str, call: Call, found: FeatureMap, stage: int | None) -> LayerRow:
    return LayerRow(layer, type(call.module).__name__, found.sample_shape, found.order, found.where, stage)


def _rows(samples: Any, device: torch.device) -> Tensor:
    """Return two rows for the network; zeros where a shape was given."""
    if isinstance(samples, tuple) and all(isinstance(size, Integral) for size in samples):
        return torch.zeros(2, *map(int, samples), device=device)
    rows = samples if isinstance(samples, Tensor) else torch.as_tensor(np.asarray(samples))
    if rows.ndim < 2:
        raise ValueError(
            f"samples has shape {tuple(rows.shape)}: give some rows, X[:2], or the shape of one as a tuple, "
            "such as (3, 32, 32)."
        )
    return rows[:2].to(device).float()
