"""Students whose input is not one float tensor: dicts and tuples of tensors, and integers."""

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
    """A student that is called with its input or the parts of it, and whose output may name its logits.

    Parameters
    ----------
    student : nn.Module
        Called as ``student(**parts)``, ``student(*parts)`` or ``student(part)``. Returns logits, or an object
        or a mapping with ``logits``, as the models of transformers do.
    """

    def __init__(self, student: nn.Module):
        super().__init__()
        self.student = student

    @property
    def named_network(self) -> nn.Module:
        """The module by whose paths layers are named."""
        return self.student

    def forward(self, rows: Parts | Tensor) -> Any:
        """Return logits of shape (B, n_classes)."""
        output = rows.feed(self.student) if isinstance(rows, Parts) else self.student(rows)
        if isinstance(output, Tensor):
            return output
        named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
        return output if named is None else named


def for_rows(student: nn.Module, rows: Any) -> nn.Module:
    """Return the student as the library calls it, which gives logits for such rows.

    A student of parts, and a model of transformers, which returns its logits in an object, is inside a
    :class:`StructuredStudent`.
    """
    inside = isinstance(rows, Parts) or _is_of_transformers(student)
    return StructuredStudent(student) if inside and not isinstance(student, StructuredStudent) else student


def _is_of_transformers(student: nn.Module) -> bool:
    bases = ((base.__module__.split(".")[0], base.__name__) for base in type(student).__mro__)
    return ("transformers", "PreTrainedModel") in bases


def without_structure(student: nn.Module) -> nn.Module:
    """Return the student as its user calls it."""
    return student.student if isinstance(student, StructuredStudent) else student


def needs_integers(
    student: nn.Module | Callable[..., nn.Module], params: dict[str, Any], rows: Parts, n_classes: int
) -> bool:
    """Return whether a student is to be given a table of integers as int64, not as float32.

    It is if it runs on integers, and either cannot take float32 or looks codes up. The student is tried on
    two rows. One that cannot be built is reported by the checks that follow.

    Parameters
    ----------
    student, params
        As of :func:`build_student`.
    rows : Parts
        All rows, as tensors: integers alone.
    n_classes : int

    Raises
    ------
    ValueError
        If it looks codes up, cannot be given integers, and float32 does not have the codes.
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
        # Codes that have no place in its embedding are refused later, as what they are.
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
        f"X has codes beyond {EXACT:,}, which float32 rounds, and student {name} cannot take X as int64. Let "
        "its forward take integers, or give numbers and codes apart: X={'numbers': ..., 'codes': ...}."
    )


def _error_on(student: nn.Module, samples: Tensor) -> Exception | None:
    """Return the error that a student raises on samples, or None."""
    try:
        with isolated_eval_mode(student, samples.device):
            student(samples.clone())  # which it may change
    except Exception as error:  # a module may raise any error
        return error
    return None
