"""Write the trained student to a file for other programs: safetensors or ONNX."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from sklearn_kd._version import library_version
from sklearn_kd.files._atomic import replacing
from sklearn_kd.persistence._codecs import encode_sample_shape
from sklearn_kd.persistence._requirements import checked_path, import_package
from sklearn_kd.persistence._student_graph import student_graph


def write_student(
    student: nn.Module,
    path: str | PathLike[str],
    about: Mapping[str, Any],
    sample_shape: tuple[Any, ...],
    output: str = "logits",
) -> None:
    """Write a student to a file, in the format given by the suffix of its name.

    Parameters
    ----------
    student : nn.Module
        The student, which is not changed.
    path : str or path-like
        Path that ends in one of ``WRITERS``.
    about : mapping
        Entries about the targets, such as the classes, as values of JSON. The file also holds the shape of a
        sample.
    sample_shape : tuple of int
    output : str, default="logits"
        Name of the output of a graph.

    Raises
    ------
    ValueError
        If the suffix is unknown.
    ImportError
        If a package that writes the format is not installed.
    TypeError
        If the labels cannot be written as JSON.
    """
    path = checked_path(path, list(WRITERS))
    # Use a copy, in evaluation mode and on the CPU, so that the user's own module does not change.
    student = copy.deepcopy(student).cpu().eval()
    write, metadata = WRITERS[path.suffix.lower()], _metadata(about, sample_shape)
    with replacing(path) as temporary:
        write(student, temporary, metadata, sample_shape, output)


def _metadata(about: Mapping[str, Any], sample_shape: tuple[int, ...]) -> dict[str, str]:
    """Return the information that a reader needs besides the weights. Every value is JSON."""
    values = {
        **about,
        "input_shape": encode_sample_shape(sample_shape),
        "sklearn_kd_version": library_version(),
    }
    return {name: json.dumps(value) for name, value in values.items()}


def _write_safetensors(
    student: nn.Module, path: Path, metadata: dict[str, str], sample_shape: tuple[Any, ...], output: str
) -> None:
    safetensors = import_package("safetensors.torch", "Writing .safetensors")
    safetensors.save_model(student, str(path), metadata=metadata)  # tied weights are written once


def _write_onnx(
    student: nn.Module, path: Path, metadata: dict[str, str], sample_shape: tuple[Any, ...], output: str
) -> None:
    onnx = import_package("onnx", "Writing .onnx")
    model = student_graph(student, sample_shape, output=output)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, str(path))


WRITERS: dict[str, Callable[[nn.Module, Path, dict[str, str], tuple[Any, ...], str], None]] = {
    ".safetensors": _write_safetensors,
    ".onnx": _write_onnx,
}
