"""Divide a batch into micro-batches of consecutive rows, which pass through the student one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from torch import Tensor

from sklearn_kd.inputs._batches import Batch
from sklearn_kd.tasks._targets import Targets

# Batch normalisation cannot train on one row.
_FEWEST_ROWS = 2


def micro_batches(batch: Batch, n: int, n_ranks: int = 1) -> Iterator[Batch]:
    """Divide a batch into ``n`` micro-batches of at least two rows, whose sizes differ by at most one.

    Parameters
    ----------
    batch : Batch
    n : int
        Number of micro-batches; fewer if the batch is small.
    n_ranks : int, default=1
        Number of processes that share the batch. All divide their shares into equally many.

    Yields
    ------
    Batch
        Its ``n_rows`` is that of the whole batch. If there is only one, it is the batch itself.
    """
    n_own = len(batch[0])
    n = max(1, min(n, (n_own if batch.n_rows is None else batch.n_rows // n_ranks) // _FEWEST_ROWS))
    if n == 1:
        yield batch
        return
    starts = [k * n_own // n for k in range(n + 1)]
    for start, stop in pairwise(starts):
        rows = slice(start, stop)
        targets = Targets._make(None if t is None else _rows(t, rows, n_own) for t in batch.targets)
        yield Batch(batch[0][rows], targets, batch.n_rows or n_own)


def _rows(target: Tensor, rows: slice, n_rows: int) -> Any:
    """Return the targets of some rows; for images, those of all their pixels."""
    n_each = len(target) // n_rows
    return target[rows.start * n_each : rows.stop * n_each]
