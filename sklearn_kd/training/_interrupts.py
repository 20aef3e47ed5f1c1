"""Distinguish a user's interrupt of a fit from a callback that ends it, and act on it."""

from __future__ import annotations

import dis
import sys
import warnings

# Callers that make a fit part of something larger, which would use its result: a search, a
# cross-validation, an ensemble, a comparison, or the fit of a student that it teaches.
_LARGER = ("joblib.parallel", "sklearn", "sklearn_kd.comparison", "sklearn_kd.teachers")
# Callers that only pass the call on to one estimator.
_HANDING_ON = ("sklearn.pipeline", "sklearn.base", "sklearn.callback", "sklearn.utils")


def from_outside(interrupt: KeyboardInterrupt) -> bool:
    """Return whether Ctrl-C raised the interrupt, not a ``raise`` in a callback or in this library."""
    trace = interrupt.__traceback__
    if trace is None:
        return True
    while trace.tb_next is not None:
        trace = trace.tb_next
    instruction = trace.tb_frame.f_code.co_code[trace.tb_lasti]
    return dis.opname[instruction] != "RAISE_VARARGS"


def end_interrupted(interrupted: bool, epoch: int, max_epochs: int, n_iterations: int) -> None:
    """End a fit after a user's Ctrl-C: warn, or stop what the fit is a part of.

    Raises
    ------
    KeyboardInterrupt
        Inside a search, a cross-validation and the like, which would otherwise score an unfinished student
        and continue.
    """
    if not interrupted:
        return
    if is_part_of_something_larger():
        raise KeyboardInterrupt(f"in epoch {epoch} of {max_epochs}, after {n_iterations} iterations")
    warnings.warn(
        f"Interrupted in epoch {epoch} of {max_epochs}, after {n_iterations} iterations: the student is kept "
        "in this state and can predict; net_.interrupted_ is true. Fit again to complete the training.",
        UserWarning,
        stacklevel=2,
    )


def is_part_of_something_larger() -> bool:
    """Return whether scikit-learn, joblib or this library called the running fit."""
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if _is_within(module, _LARGER) and not _is_within(module, _HANDING_ON):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _is_within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in packages)
