"""Students whose input is not one float tensor, but a dict or tuple of tensors, or integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from sklearn_kd.inputs._integers import EXACT
from sklearn_kd.inputs._parts import Parts
from sklearn_kd.runtime._eval_mode import isolated_eval_mode
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.students._factory import build_student, in_float32, student_name
from sklearn_kd.students._standardize import code_columns, takes_codes


class StructuredStudent(nn.Module):
    """A student called with its input or the parts of it, whose output may hold the logits by name.

    Parameters
    ----------
    student : nn.Module
        Network called as ``student(**parts)``, ``student(*parts)`` or ``student(part)``. It returns logits,
        or an object or a mapping with ``logits``, as models of transformers do.
    """

    def __init__(self, student: nn.Module):
        super().__init__()
        self.student = student

    @property
    def named_network(self) -> nn.Module:
        """The module whose paths name the layers."""
        return self.student

    def forward(self, rows: Parts | Tensor) -> Any:
        """Return logits of shape (B, n_classes)."""
        output = rows.feed(self.student) if isinstance(rows, Parts) else self.student(rows)
        if isinstance(output, Tensor):
            return output
        named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
        return output if named is None else named


def for_rows(student: nn.Module, rows: Any) -> nn.Module:
    """Return the student in the form in which the library calls it to get logits for such rows.

    A student of several parts, or a model of transformers, which returns its logits in an object, is put
    inside a :class:`StructuredStudent`.
    """
    inside = isinstance(rows, Parts) or _is_of_transformers(student)
    return StructuredStudent(student) if inside and not isinstance(student, StructuredStudent) else student


def _is_of_transformers(student: nn.Module) -> bool:
    bases = ((base.__module__.split(".")[0], base.__name__) for base in type(student).__mro__)
    return ("transformers", "PreTrainedModel") in bases


def without_structure(student: nn.Module) -> nn.Module:
    """Return the student in the form in which its user calls it."""
    return student.student if isinstance(student, StructuredStudent) else student


def needs_integers(
    student: nn.Module | Callable[..., nn.Module], params: dict[str, Any], rows: Parts, n_classes: int
) -> bool:
    """Return whether a student must be given a table of integers as int64, not as float32.

    It must if it runs on integers and either cannot take float32 or looks up codes. The student is tried on
    two rows. If it cannot be built, the checks that follow report it.

    Parameters
    ----------
    student, params
        As in :func:`build_student`.
    rows : Parts
        All rows, as tensors of integers.
    n_classes : int

    Raises
    ------
    ValueError
        If it looks up codes, cannot take integers, and float32 cannot represent the codes.
    """
    (codes,) = rows.values
    samples = codes[:2]
    with preserved_random_state(samples.device, seed=0):
        try:
            made = build_student(student, params, tuple(samples.shape[1:]), n_classes)
        except Exception:  # any error that a user's function may raise
            return False
        made = in_float32(made, samples.float())
        if code_columns(made):
            return False
        takes_floats = _error_on(made, samples.float()) is None
        looks_up = takes_floats and takes_codes(made, samples.float())
        if takes_floats and not looks_up:
            return False
        error = _error_on(made, samples)
        # Codes without an entry in its embedding are refused later, with a message of their own.
        if error is None or (isinstance(error, IndexError) and not takes_floats):
            return True
    if looks_up:
        _check_exact(codes, student)
    return False


def _check_exact(codes: Tensor, student: Any) -> None:
    if bool((codes.float().long() == codes).all()):
        return
    name = type(student).__name__ if isinstance(student, nn.Module) else student_name(student)
    raise ValueError(
        f"X has codes beyond {EXACT:,}, which float32 rounds, and student {name} cannot take X as int64. "
        "Accept integers in its forward method, or give numbers and codes separately: "
        "X={'numbers': ..., 'codes': ...}."
    )


def _error_on(student: nn.Module, samples: Tensor) -> Exception | None:
    """Return the error that a student raises on samples, or None."""
    try:
        with isolated_eval_mode(student, samples.device):
            student(samples.clone())  # it may change them
    except Exception as error:  # a module may raise any error
        return error
    return None
