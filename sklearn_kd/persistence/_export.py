"""The trained student as a file that other programs read: safetensors or ONNX."""

from __future__ import annotations

import copy
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from os import PathLike
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import nn

from sklearn_kd._version import library_version
from sklearn_kd.files._atomic import replacing


def export_student(
    student: nn.Module, path: str | PathLike[str], classes: np.ndarray, sample_shape: tuple[int, ...]
) -> None:
    """Write ``student`` to ``path``, in the format that its suffix names.

    Parameters
    ----------
    student : nn.Module
        Left as it is.
    path : str or path-like
        Ends in one of ``WRITERS``.
    classes : ndarray of shape (n_classes,)
        Labels in the order of the logits; kept in the file with the shape of a sample.
    sample_shape : tuple of int

    Raises
    ------
    ValueError
        If the suffix is not known.
    ImportError
        If a package that writes the format is not installed.
    TypeError
        If JSON has no form for the labels.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITERS:
        raise ValueError(
            f"path={str(path)!r} ends in {path.suffix!r}, which is no known format. End it in "
            f"{' or '.join(map(repr, WRITERS))}."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path={str(path)!r}: there is no folder {str(path.parent)!r}.")
    # In eval mode, on the CPU, and whatever happens not the user's own module.
    student = copy.deepcopy(student).cpu().eval()
    write, metadata = WRITERS[path.suffix.lower()], _metadata(classes, sample_shape)
    with replacing(path) as temporary:
        write(student, temporary, metadata, sample_shape)


def _metadata(classes: np.ndarray, sample_shape: tuple[int, ...]) -> dict[str, str]:
    """Return what a reader of the file needs beside the weights; every value is JSON."""
    values = {
        "classes": classes.tolist(),
        "input_shape": list(sample_shape),
        "sklearn_kd_version": library_version(),
    }
    try:
        return {name: json.dumps(value) for name, value in values.items()}
    except TypeError as error:
        raise TypeError(
            f"The labels, of dtype {classes.dtype}, cannot be written as JSON: {error}. Fit with "
            "labels that are strings or numbers."
        ) from None


def _required(name: str, suffix: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            f"Writing {suffix} needs the package {name.partition('.')[0]}, which cannot be "
            f"imported ({error}). Install sklearn-kd[export]."
        ) from error


def _write_safetensors(student: nn.Module, path: Path, metadata: dict[str, str], sample_shape) -> None:
    safetensors = _required("safetensors.torch", ".safetensors")
    safetensors.save_model(student, str(path), metadata=metadata)  # tied weights are written once


@contextmanager
def _hushed(name: str) -> Iterator[None]:
    """Without what torch says of its own future, and of packages that no student needs; errors stay."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)


def _write_onnx(student: nn.Module, path: Path, metadata: dict[str, str], sample_shape) -> None:
    onnx = _required("onnx", ".onnx")
    _required("onnxscript", ".onnx")
    # Two rows: a dimension of size 1 may be taken for a constant.
    example = torch.zeros(2, *sample_shape)
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "student.onnx"
        with _hushed("torch.onnx"):
            torch.onnx.export(
                student,
                (example,),
                str(raw),
                input_names=["X"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        model = onnx.load(str(raw))  # with the weights, where torch has put them into a second file
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, str(path))


WRITERS: dict[str, Callable[[nn.Module, Path, dict[str, str], tuple[int, ...]], None]] = {
    ".safetensors": _write_safetensors,
    ".onnx": _write_onnx,
}
