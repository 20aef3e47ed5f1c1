"""Convert a student to an ONNX graph, without warnings and logs of the packages that do it."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sklearn_kd.inputs._parts import row_shape_of
from sklearn_kd.persistence._requirements import import_package
from sklearn_kd.students._standardize import own_student

# Warnings of these packages are about their own future versions. torch copies its own objects with copyreg.
_ABOUT_THEMSELVES = r"(torch|onnxscript|onnx_ir|copyreg)(\.|$)"
# These loggers report packages that no student needs, conversions between versions, and failed attempts,
# which the exception reports too.
_LOGGERS = ("torch.onnx", "torch.export", "torch.fx", "onnxscript")


class StudentGraphError(ValueError):
    """A student that cannot be written as a graph."""


def student_graph(
    student: nn.Module, sample_shape: tuple[Any, ...], opset: int | None = None, output: str = "logits"
) -> Any:
    """Return the whole network as an ONNX model.

    Parameters
    ----------
    student : nn.Module
        The student, which is not changed.
    sample_shape : tuple
        Sizes of a sample, or the shape of rows in parts.
    opset : int or None, default=None
        Version of the operators. None: torch's.
    output : str, default="logits"
        Name of the output.

    Returns
    -------
    onnx.ModelProto
        Model with an input ``X`` of shape (n_samples, ...), for any number of rows, and one output of shape
        (n_samples, n_outputs). If rows have parts, each part is an input with its own name, or ``X0``,
        ``X1``, ... The model includes the weights.

    Raises
    ------
    ImportError
        If a package is missing.
    StudentGraphError
        If the student cannot be written as a graph, or not with operators of this version.
    """
    import_package("onnx", "Writing .onnx")
    import_package("onnxscript", "Writing .onnx")
    # Use a copy, in evaluation mode and on the CPU, so that the user's own module does not change.
    student = copy.deepcopy(student).cpu().eval()
    # Use two rows, because a dimension of size 1 may be treated as a constant.
    args, kwargs = _example(sample_shape, n_rows=2)
    batch = torch.export.Dim("batch")
    dynamic = [{0: batch} for _ in (*args, *kwargs)]
    try:
        with _quiet():
            program: Any = torch.onnx.export(
                student,
                args,
                kwargs=kwargs,
                input_names=[*kwargs] or (["X"] if len(args) == 1 else [f"X{k}" for k in range(len(args))]),
                output_names=[output],
                dynamic_shapes=dict(zip(kwargs, dynamic, strict=True)) if kwargs else tuple(dynamic),
                opset_version=opset,
                verbose=False,
            )
    except (RuntimeError, ValueError, TypeError, torch.onnx.OnnxExporterError) as error:
        raise StudentGraphError(_reason(student, error)) from error
    model = program.model_proto
    if opset is not None and _main_opset(model) != opset:
        raise StudentGraphError(
            f"Student {_name(student)} cannot be written with operators of version {opset}; torch writes "
            f"version {_main_opset(model)}. Set target_opset={_main_opset(model)}."
        )
    return model


def _example(sample_shape: tuple[Any, ...], n_rows: int) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Return the arguments of a student's call for some rows of zeros."""
    parts = row_shape_of(sample_shape)
    if parts is None:
        return (torch.zeros(n_rows, *sample_shape),), {}
    return parts.zeros(n_rows).map(lambda zeros: zeros.contiguous()).arguments()


def _name(student: nn.Module) -> str:
    return type(own_student(student)).__name__


def _main_opset(model: Any) -> int:
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def _reason(student: nn.Module, error: BaseException) -> str:
    """Return why a student cannot be converted to a graph, in torch's words."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    said = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
    return (
        f"Student {_name(student)} cannot be written as ONNX, a fixed graph of operators: {said} "
        f"({type(cause).__name__}). A forward pass must do the same for all values of X: use torch.where "
        "instead of if, and operators that torch.onnx supports; or write only the weights, to '.safetensors'."
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the packages' logs, and their warnings about future changes."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            for category in (FutureWarning, DeprecationWarning):
                warnings.filterwarnings("ignore", category=category, module=_ABOUT_THEMSELVES)
            # Several inputs have the same number of rows.
            warnings.filterwarnings("ignore", "# The axis name: batch will not be used", UserWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
