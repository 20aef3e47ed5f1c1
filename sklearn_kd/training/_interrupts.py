"""Distinguish a user's interrupt of a fit from callbacks that end it, and act on it."""

from __future__ import annotations

import dis
import sys
import warnings

# Callers that make a fit part of something larger, which would continue with its result: a search, a
# cross-validation, an ensemble, a comparison, or the fit of a student whose teacher is being fitted.
_LARGER = ("joblib.parallel", "sklearn", "sklearn_kd.comparison", "sklearn_kd.teachers")
# Callers that only forward a call to one estimator.
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
    """End a fit that a user has interrupted: warn, or stop the search or comparison that called it.

    Raises
    ------
    KeyboardInterrupt
        Inside a search, a cross-validation or the like, which would otherwise score the incompletely
        trained student and continue.
    """
    if not interrupted:
        return
    if is_part_of_something_larger():
        raise KeyboardInterrupt(f"in epoch {epoch} of {max_epochs}, after {n_iterations} iterations")
    warnings.warn(
        f"Interrupted in epoch {epoch} of {max_epochs}, after {n_iterations} iterations. The student is kept "
        "in its current state and can predict; net_.interrupted_ is true. Fit again to train it to the end.",
        UserWarning,
        stacklevel=2,
    )


def is_part_of_something_larger() -> bool:
    """Return whether scikit-learn, joblib or this library called the current fit."""
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if _is_within(module, _LARGER) and not _is_within(module, _HANDING_ON):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _is_within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in packages)
