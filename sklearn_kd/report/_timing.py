"""Prediction times per row, for single rows and for many at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from sklearn_kd.report._rows import rows_at

# Rows of a batch.
BATCH = 1000
# Number of different rows that are predicted one by one.
_N_SINGLE = 50
# Calls of each model, at least and at most, and the seconds after which only the least number is made.
_CALLS_SINGLE, _CALLS_BATCH = (10, 300), (3, 30)
_SECONDS = 0.15


class Latency(NamedTuple):
    """Microseconds per row.

    Attributes
    ----------
    single, single_p99 : float
        Median and 99th percentile of calls with one row.
    batch : float
        Median of calls with 1,000 rows, divided by 1,000.
    n_single, n_batch : int
        Number of timed calls.
    processor_share : float, default=1.0
        Processor time of the calls divided by their wall-clock time; above 1 with several threads. On a CPU,
        less than 1 means that the calls waited for other programs.
    """

    single: float
    single_p99: float
    batch: float
    n_single: int
    n_batch: int
    processor_share: float = 1.0


def latencies(calls: Mapping[str, Callable[[Any], Any]], X: Any, n_rows: int) -> dict[str, Latency]:
    """Time models in turn, in random order, so that disturbances of the machine affect all models equally.

    Parameters
    ----------
    calls : mapping of str to callable
        Functions that predict for rows in the form of X.
    X : array-like
    n_rows : int
        Number of rows of X.
    """
    places = np.unique(np.linspace(0, n_rows - 1, min(n_rows, _N_SINGLE)).astype(int))
    singles = [rows_at(X, np.array([place])) for place in places]
    batches = [rows_at(X, np.arange(BATCH) % n_rows)]
    single = _timed_in_turn(calls, singles, *_CALLS_SINGLE)
    batch = _timed_in_turn(calls, batches, *_CALLS_BATCH)
    found = {}
    for name in calls:
        clock, processor = np.concatenate([single[name], batch[name]]).T
        found[name] = Latency(
            float(np.median(single[name][:, 0])),
            float(np.percentile(single[name][:, 0], 99)),
            float(np.median(batch[name][:, 0])) / BATCH,
            len(single[name]),
            len(batch[name]),
            float(processor.sum() / clock.sum()),
        )
    return found


def _timed_in_turn(
    calls: Mapping[str, Callable[[Any], Any]], inputs: list[Any], least: int, most: int
) -> dict[str, np.ndarray]:
    """Return the microseconds of each call of each model, in wall-clock and in processor time."""
    for call in calls.values():  # the first calls import, allocate and fill caches
        call(inputs[0])
        call(inputs[-1])
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    names, rng = list(calls), np.random.default_rng(0)
    for k in range(most):
        # After a long call of one model, the system lets other programs run at the expense of the next model.
        rng.shuffle(names)
        for name in names:
            if k < least or sum(clock for clock, _ in spent[name]) < _SECONDS:
                rows = inputs[k % len(inputs)]
                began, processor_began = time.perf_counter(), time.process_time()
                calls[name](rows)
                processor = time.process_time() - processor_began
                spent[name].append((time.perf_counter() - began, processor))
    return {name: 1e6 * np.array(seconds) for name, seconds in spent.items()}
