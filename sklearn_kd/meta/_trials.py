"""Settings tried on D_val, and the best of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from numbers import Integral

import numpy as np

from sklearn_kd.meta._strategy import Setting

TRIALS_DTYPE = np.dtype([(name, np.float64) for name in ("lambda1", "temperature", "val_loss", "seconds")])


def checked_count(**counts) -> None:
    """Raise ValueError unless each is an integer of at least 1."""
    for name, value in counts.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}={value!r} must be an integer of at least 1.")


def tried(setting: Setting, draws: Sequence[tuple[float, float]], n_jobs: int | None = None) -> np.ndarray:
    """A trial of each (lambda1, T), in ``TRIALS_DTYPE``; the seconds are shared out equally."""
    began = time.perf_counter()
    losses = setting.evaluate_all(draws, n_jobs)
    seconds = (time.perf_counter() - began) / len(draws)
    rows = [(*draw, loss, seconds) for draw, loss in zip(draws, losses, strict=True)]
    return np.array(rows, dtype=TRIALS_DTYPE)


def best_of(trials: np.ndarray) -> tuple[float, float]:
    """(lambda1, T) of the smallest L_val.

    Raises
    ------
    ValueError
        If no trial has a finite loss.
    """
    losses = np.where(np.isfinite(trials["val_loss"]), trials["val_loss"], np.inf)
    if not np.isfinite(losses).any():
        raise ValueError(
            f"None of {len(trials)} trials has a finite validation loss. Lower lr, clip the gradients "
            "(skorch.callbacks.GradientNormClipping) or scale X."
        )
    best = trials[losses.argmin()]
    return float(best["lambda1"]), float(best["temperature"])
