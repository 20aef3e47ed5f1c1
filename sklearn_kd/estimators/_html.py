"""Show teacher and student in scikit-learn's HTML diagram of an estimator."""

from __future__ import annotations

from functools import partial
from types import FunctionType
from typing import Any

from torch import nn

from sklearn_kd._sklearn_compat import VisualBlock
from sklearn_kd.students._factory import student_name


def parts_block(teacher: Any, student: Any, student_params: dict[str, Any]) -> VisualBlock:
    """Return a block with teacher and student side by side; leave out a teacher of None.

    Parameters
    ----------
    teacher : estimator, nn.Module, skorch net or None
    student : nn.Module class, function or instance
    student_params : dict
        Arguments that a class or a function is called with.
    """
    parts = {} if teacher is None else {"teacher": _part(teacher, {})}
    parts["student"] = _part(student, student_params)
    return VisualBlock(
        "parallel",
        [part for part, _, _ in parts.values()],
        names=[f"{role}: {name}" for role, (_, name, _) in parts.items()],
        name_details=[details for _, _, details in parts.values()],
    )


def _part(part: Any, params: dict[str, Any]) -> tuple[Any, str, str]:
    """Return the object that scikit-learn draws for a part, its name, and the details that unfold."""
    if isinstance(part, (type, FunctionType, partial)):
        name = student_name(part)
        params = (part.keywords if isinstance(part, partial) else {}) | params
        details = f"{name}({', '.join(f'{k}={v!r}' for k, v in params.items())})"
    elif isinstance(part, nn.Module):
        name, n_weights = type(part).__name__, sum(w.numel() for w in part.parameters())
        details = f"{part}\n{n_weights:,} weights"
    else:
        return part, type(part).__name__, str(part)
    # scikit-learn would draw a class as "type", and show no details of a module.
    return VisualBlock("single", part, names=name, name_details=details), name, details
