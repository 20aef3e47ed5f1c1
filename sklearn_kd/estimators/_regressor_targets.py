"""Write and read a fitted regressor's targets: what is needed to undo the standardisation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_kd.files._values import ContentError
from sklearn_kd.inputs._parts import row_shape_of
from sklearn_kd.persistence._codecs import decode_map_shape, finite_number
from sklearn_kd.persistence._export import write_student
from sklearn_kd.tasks._criterion import CRITERIA, Criterion
from sklearn_kd.tasks._pixel_numbers import PixelRegression
from sklearn_kd.tasks._regression import Regression

# No table has this many targets: a file that states more is meant to exhaust the memory.
_MOST_TARGETS = 10_000_000


def targets_content(task: Regression) -> dict[str, Any]:
    """Return what a file stores about the targets, as JSON."""
    targets: dict[str, Any] = {
        "mean": task.mean.tolist(),
        "scale": task.scale.tolist(),
        "single": task.single,
        "criterion": [task.criterion.name, task.criterion.parameter],
    }
    if task.map_shape:
        targets["map_shape"] = list(task.map_shape)
    return {"targets": targets}


def target_attributes(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fitted attributes of the targets from a file.

    Raises
    ------
    ContentError
        If they are not what :func:`targets_content` writes.
    """
    targets = about.get("targets")
    if not isinstance(targets, dict):
        raise ContentError(f"{str(targets)[:100]} as its targets")
    mean, scale = (_numbers(targets.get(name), name) for name in ("mean", "scale"))
    single = targets.get("single")
    if len(mean) != len(scale) or not (scale > 0).all() or type(single) is not bool:
        raise ContentError(f"targets of mean {mean[:5]}, scale {scale[:5]} and single={str(single)[:20]}")
    if single and len(mean) != 1:
        raise ContentError(f"{len(mean)} targets in a single column")
    criterion = _criterion(targets.get("criterion"))
    if "map_shape" not in targets:
        return Regression(mean, scale, single, criterion).fitted_attributes()
    if not single:
        raise ContentError("maps that are not single")
    return PixelRegression(mean, scale, criterion, decode_map_shape(targets["map_shape"])).fitted_attributes()


def _numbers(values: Any, name: str) -> np.ndarray:
    if not isinstance(values, list) or not 0 < len(values) <= _MOST_TARGETS:
        raise ContentError(f"{str(values)[:100]} as the {name} of its targets")
    return np.array([finite_number(value) for value in values], dtype=np.float64)


def _criterion(form: Any) -> Criterion:
    is_pair = isinstance(form, list) and len(form) == 2
    if not is_pair or not isinstance(form[0], str) or form[0] not in CRITERIA:
        raise ContentError(f"{str(form)[:100]} as the loss on y")
    name, parameter = form
    needs = {"huber": math.inf, "berhu": math.inf, "quantile": 1.0}.get(name)
    if needs is None:
        return Criterion(name)
    if not 0 < finite_number(parameter) < needs:
        raise ContentError(f"{parameter} as the parameter of {name}")
    return Criterion(name, finite_number(parameter))


# --------------------------------------------------------------------------------------
# Export


class InUnits(nn.Module):
    """Wrap a student to return predictions in the units of y, in the estimator's shape.

    Parameters
    ----------
    student : nn.Module
    task : Regression
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, student: nn.Module, task: Regression):
        super().__init__()
        self.student, self.has_maps = student, bool(task.map_shape)
        # float32 would round targets that are far from 0, and overflow for large ones.
        self.register_buffer("mean", torch.as_tensor(task.mean, dtype=torch.float64))
        self.register_buffer("scale", torch.as_tensor(task.scale, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Return the predictions, float64 of shape (n, m), or (n, h, w) of maps."""
        outputs: Tensor = self.student(x)
        if self.has_maps:
            return outputs[:, 0].double() * self.scale + self.mean
        return outputs[:, : self.mean.shape[0]].double() * self.scale + self.mean


def write_regressor(
    student: nn.Module, path: str | PathLike[str], task: Regression, sample_shape: tuple[Any, ...]
) -> None:
    """Write a student: its weights unchanged, or its graph with outputs in the units of y.

    Raises
    ------
    ValueError
        If a graph is asked for and the student takes several parts, or the suffix is unknown.
    ImportError
        If a package is missing.
    """
    about = {"target_mean": task.mean.tolist(), "target_scale": task.scale.tolist()}
    is_graph = str(path).lower().endswith(".onnx")
    if is_graph and row_shape_of(sample_shape) is not None:
        raise ValueError(
            "The student of a regressor that takes X in several parts cannot be written as ONNX. Write its "
            "weights, to '.safetensors'."
        )
    whole = InUnits(student, task) if is_graph else student
    write_student(whole, path, about, sample_shape, output="predictions")
