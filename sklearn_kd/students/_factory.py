"""Build a student for a data set from a module, a class or a function."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sklearn_kd.errors._did_you_mean import closest
from sklearn_kd.inputs._parts import plain_sizes
from sklearn_kd.runtime._devices import check_has_numbers
from sklearn_kd.runtime._eval_mode import isolated_eval_mode

# Argument names for sizes that follow from the data, the most common first. If a signature has several names
# for one size, only the first is filled in: the others may mean something else.
_N_CLASSES = (
    "n_classes", "num_classes", "num_labels", "d_out", "output_dim", "out_dim", "out_features", "n_outputs",
    "n_targets",
)  # fmt: skip
_IN_FEATURES = ("in_features", "d_in", "input_dim", "in_dim")
_IN_CHANNELS = ("in_channels", "in_chans")
_INPUT_SHAPE = ("input_shape",)


def build_student(
    student: nn.Module | Callable[..., nn.Module],
    params: dict[str, Any],
    sample_shape: tuple[Any, ...],
    n_classes: int,
) -> nn.Module:
    """Build an untrained student for samples of ``sample_shape`` and ``n_classes`` classes.

    Copy a module. Call a class or a function with ``params`` and the sizes that its signature asks
    for: numbers per sample (``in_features``), the first dimension (``in_channels``), all dimensions
    (``input_shape``) and ``n_classes``, under these or other common names. A value in ``params``
    overrides a size.

    Parameters
    ----------
    student : nn.Module, class of modules or callable that returns a module
    params : dict
        The ``student__*`` parameters.
    sample_shape : tuple of int, or of a RowShape
        Shape of one sample. If it has several parts, only the number of classes is filled in.
    n_classes : int

    Returns
    -------
    nn.Module

    Raises
    ------
    TypeError
        If ``student`` is not a module and does not return one, or if ``params`` do not fit its signature.
    """
    if isinstance(student, nn.Module):
        _refuse_wrapped(student)
        if params:
            raise TypeError(
                f"student is an instance of {type(student).__name__}, whose sizes are fixed; "
                f"{_list_parameters(params)} apply to a class. Give student={type(student).__name__}."
            )
        check_has_numbers(student, "student")
        return copy.deepcopy(student)
    is_class = inspect.isclass(student) and issubclass(student, nn.Module)
    if not makes_students(student):
        by_name = " sklearn_kd.networks.NETWORKS maps names to networks." if isinstance(student, str) else ""
        raise TypeError(
            f"student={student!r} must be a torch.nn.Module, such as MLPStudent, as a class or an instance, "
            f"or a function that returns one.{by_name}"
        )
    name = student_name(student)
    signature = student_signature(student)
    filled = _sizes_for(student, signature, params, sample_shape, n_classes) | params
    try:
        signature.bind(**filled)
    except TypeError as error:
        raise TypeError(
            f"student {name}{signature} cannot be built from "
            f"{_list_parameters(params) or 'no student__ parameters'}: {error}.{_meant(params, signature)} "
            f"Sizes named {', '.join((*_IN_FEATURES, *_IN_CHANNELS, *_INPUT_SHAPE, *_N_CLASSES))} are filled "
            "in; give the rest as student__NAME=..."
        ) from None
    try:
        made = student(**filled)
    except TypeError as error:  # for example an unknown argument passed on by **kwargs
        raise TypeError(
            f"student {name} cannot be built from {', '.join(f'{k}={v!r}' for k, v in filled.items())}: "
            f"{str(error).rstrip('.')}. Give its arguments as student__NAME=..."
        ) from error
    if not isinstance(made, nn.Module):
        hint = "Return an instance of it" if isinstance(made, type) else "Return a module"
        raise TypeError(f"student {name} must return a torch.nn.Module; it returned {made!r:.200}. {hint}.")
    # A function may return the same module each time, which must stay untrained.
    return made if is_class else copy.deepcopy(made)


def _meant(params: dict[str, Any], signature: inspect.Signature) -> str:
    """Suggest the argument closest to the first unknown one, after a space; "" if none is close."""
    unknown = next((name for name in params if name not in signature.parameters), None)
    match = None if unknown is None else closest(unknown, signature.parameters)
    return "" if match is None else f" Did you mean {f'student__{match}'!r}?"


def makes_students(student: Any) -> bool:
    """Return True for a class of modules and for a callable, which may return a module."""
    return issubclass(student, nn.Module) if inspect.isclass(student) else callable(student)


def takes_argument(student: Any, name: str) -> bool:
    """Return whether a class or a function that makes students has an argument with this name."""
    if isinstance(student, nn.Module) or not makes_students(student):
        return False
    bound = student.keywords if isinstance(student, partial) else {}
    return name in student_signature(student).parameters and name not in bound


def student_name(student: Any) -> str:
    """Return the name of a class, a function or a ``functools.partial`` for messages and diagrams."""
    inner = student.func if isinstance(student, partial) else student
    return getattr(inner, "__name__", type(inner).__name__)


def student_signature(student: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a class or a function that makes students.

    Raises
    ------
    TypeError
        If Python cannot read the signature.
    """
    try:
        return inspect.signature(student)
    except ValueError as error:
        raise TypeError(
            f"student {student_name(student)} has no signature that Python can read ({error}). Give a "
            "function that calls it: def student(in_features, n_classes): ..."
        ) from None


def _sizes_for(
    student: Callable[..., Any],
    signature: inspect.Signature,
    params: dict[str, Any],
    sample_shape: tuple[Any, ...],
    n_classes: int,
) -> dict[str, Any]:
    """Return the sizes that follow from the data, under the names in the signature."""
    plain = plain_sizes(sample_shape)
    sizes: dict[tuple[str, ...], Any] = {}
    if plain:
        sizes = {_IN_FEATURES: math.prod(plain), _IN_CHANNELS: plain[0], _INPUT_SHAPE: tuple(plain)}
    present = {names: [name for name in names if name in signature.parameters] for names in sizes}
    usual = [names[0] for names in sizes if names[0] in present[names]]
    # A rare name in the same signature as a common one means another size: d_in beside input_shape.
    filled = {
        name: sizes[names] for names in sizes for name in present[names][:1] if name in usual or not usual
    }
    if not usual and len(filled) > 1:  # d_in beside in_chans
        filled = dict([filled.popitem()])
    filled |= dict.fromkeys([n for n in _N_CLASSES if n in signature.parameters][:1], n_classes)
    bound = student.keywords if isinstance(student, partial) else {}
    return {name: value for name, value in filled.items() if name not in params and name not in bound}


def _refuse_wrapped(student: nn.Module) -> None:
    """Raise TypeError for a module of a process group, which averages gradients over processes."""
    # Compare names, because importing FSDP takes seconds.
    kinds = {"DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"}
    found = [kind.__name__ for kind in type(student).__mro__ if kind.__name__ in kinds]
    if found:
        raise TypeError(
            f"student is wrapped in {found[0]}, which averages gradients over processes, but not "
            "hypergradients. Give the module without the wrapper (student.module), and parallel='ddp' to "
            "train one student in all processes."
        )


def _list_parameters(params: dict[str, Any]) -> str:
    return ", ".join(f"student__{name}" for name in params)


def in_float32(student: nn.Module, samples: Tensor) -> nn.Module:
    """Convert the student to float32 unless it already takes float32 samples.

    A student with weights of another type may cast its inputs itself. It is then not converted.
    """
    state = [*student.parameters(), *student.buffers()]
    if all(w.dtype is torch.float32 for w in state if w.is_floating_point()):
        return student
    if not any(is_lazy(w) for w in state):  # the trial would create lazy weights
        # A module may raise any error; check_student_output reports it later.
        with suppress(Exception), isolated_eval_mode(student, samples.device):
            student(samples)
            return student
    return student.float()
