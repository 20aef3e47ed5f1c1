"""Try settings on D_val, find the best, and draw settings from ranges."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np

from sklearn_kd.meta._space import Metaparameter, MetaparameterSpace
from sklearn_kd.meta._strategy import StartContext, Values, check_positive_ints


def check_trial_parameters(
    *, log10_temperature: tuple[float, float], n_jobs: int | None, **counts: int
) -> None:
    """Raise ValueError if a parameter of a search is invalid; ``counts`` must be integers of at least 1."""
    check_positive_ints(**counts)
    ends = log10_temperature if isinstance(log10_temperature, (tuple, list)) else ()
    numbers = [end for end in ends if isinstance(end, Real) and math.isfinite(end)]
    if len(ends) != 2 or len(numbers) != 2 or numbers[0] > numbers[1]:
        raise ValueError(
            f"log10_temperature={log10_temperature!r} must be two finite numbers, low <= high, such as "
            "(0, 1) for T from 1 to 10."
        )
    check_n_jobs(n_jobs)


def check_n_jobs(n_jobs: int | None) -> None:
    """Raise ValueError unless joblib accepts this number of processes."""
    is_number = isinstance(n_jobs, Integral) and not isinstance(n_jobs, bool) and n_jobs != 0
    if not (n_jobs is None or is_number):
        raise ValueError(f"n_jobs={n_jobs!r} must be None or an integer other than 0; -1 is every core.")


def trials_dtype(space: MetaparameterSpace) -> np.dtype:
    """Return the dtype of a table of trials: the metaparameters, ``val_loss`` and ``seconds``."""
    return np.dtype([*space.columns(), ("val_loss", np.float64), ("seconds", np.float64)])


def run_trials(context: StartContext, settings: Sequence[Values], n_jobs: int | None = None) -> np.ndarray:
    """Try each setting; return a table of :func:`trials_dtype`, with the seconds divided equally."""
    began = time.perf_counter()
    losses = context.evaluate_all(settings, n_jobs)
    seconds = (time.perf_counter() - began) / len(settings)
    table = np.empty(len(settings), dtype=trials_dtype(context.space))
    for name in context.space:
        table[name] = [setting.get(name, context.start.get(name)) for setting in settings]
    table["val_loss"], table["seconds"] = losses, seconds
    return table


def best_trial(trials: np.ndarray, space: MetaparameterSpace) -> Values:
    """Return the values with the smallest L_val, by name.

    Raises
    ------
    ValueError
        If no trial has a finite loss.
    """
    losses = np.where(np.isfinite(trials["val_loss"]), trials["val_loss"], np.inf)
    if not np.isfinite(losses).any():
        raise ValueError(
            f"None of {len(trials)} trials has a finite validation loss. Lower lr, clip the gradients "
            "(a small max_grad_norm, such as 1) or scale X."
        )
    best = trials[losses.argmin()]
    return {name: best[name] if entry.shape else float(best[name]) for name, entry in space.items()}


class Range(NamedTuple):
    """An interval from which a metaparameter's components are drawn, uniformly in a coordinate.

    Attributes
    ----------
    label : str
        Name of the coordinate.
    low, high : float
        Ends of the interval, in the coordinate.
    log_base : float or None
        The coordinate is the logarithm to this base. None: the value itself.
    """

    label: str
    low: float
    high: float
    log_base: float | None = None

    def value(self, coordinate: float) -> float:
        """Return the value at this coordinate."""
        return coordinate if self.log_base is None else self.log_base**coordinate


def ranges(space: MetaparameterSpace, log10_temperature: tuple[float, float]) -> dict[str, Range]:
    """Return each metaparameter's range; a temperature without its own initial value gets that of T.

    Raises
    ------
    ValueError
        If a metaparameter has no finite bounds.
    """
    return {name: _range(name, entry, log10_temperature) for name, entry in space.items()}


def _range(name: str, entry: Metaparameter, log10_temperature: tuple[float, float]) -> Range:
    if name == "temperature" and entry.start is None:
        return Range("log10_temperature", *log10_temperature, log_base=10.0)
    low, high = entry.range_to_draw_from(name)
    if entry.coordinate == "log":
        return Range(f"log({name})", math.log(low), math.log(high), log_base=math.e)
    return Range(name, low, high)


def draw_setting(
    space: MetaparameterSpace, found: dict[str, Range], rng: np.random.Generator
) -> dict[str, Any]:
    """Draw values of all metaparameters, one component after the other."""
    setting: dict[str, Any] = {}
    for name, entry in space.items():
        drawn = [found[name].value(rng.uniform(found[name].low, found[name].high)) for _ in range(entry.size)]
        setting[name] = np.reshape(drawn, entry.shape) if entry.shape else drawn[0]
    return setting
