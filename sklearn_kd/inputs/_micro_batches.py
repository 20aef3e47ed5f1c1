"""Micro-batches: consecutive rows of a batch, which go through the student by themselves."""

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
    """Divide a batch into ``n`` micro-batches of two rows or more, of sizes that differ by at most one.

    Parameters
    ----------
    batch : Batch
    n : int
        Fewer if the batch is small.
    n_ranks : int, default=1
        Number of processes that share the batch. All divide their shares into equally many.

    Yields
    ------
    Batch
        Its ``n_rows`` is that of the whole batch. Where there is one, the batch itself.
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
    """Return the targets of some rows; of images the pixels of each."""
    n_each = len(target) // n_rows
    return target[rows.start * n_each : rows.stop * n_each]
