"""Hold sparse rows as a data set, and make them dense batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.inputs._sparse_rows import SparseRows
from sklearn_kd.tasks._targets import Targets

# Bytes of dense rows to make at a time; making them takes longer than reading them from memory.
_PART = 2**23


class SparseData(DistillationData):
    """Sparse rows on the CPU, whose batches are dense float32 on the device of the targets.

    Parameters
    ----------
    rows : SparseRows
    targets : Targets
        Targets of all rows, on the device.
    seed : int, default=0
        Seeds the order of the batches.
    """

    def __init__(self, rows: SparseRows, targets: Targets, seed: int = 0) -> None:
        self.rows, self._targets, self.seed = rows, targets, seed
        self.samples = self._inputs_of(slice(0, 2))

    @property
    def device(self) -> torch.device:
        """Device of the batches."""
        return self._targets.labels.device

    @property
    def X(self) -> Any:
        """The data set itself, which skorch's scoring callbacks pass to the net's ``predict``."""
        return self

    @property
    def held(self) -> list[Tensor]:
        """The stored numbers."""
        return [torch.from_numpy(self.rows.values)]

    def __getitem__(self, rows: Any) -> NoReturn:
        raise TypeError("Sparse rows come in batches: iterate over net.get_iterator(dataset).")

    def iter_inputs(self) -> Iterator[Tensor]:
        """Yield the dense inputs of all rows in order, a few mebibytes at a time."""
        yield from self.iter_batches(max(1, _PART // (4 * self.shape[1])))

    def has_inputs_of(self, other: DistillationData) -> bool:
        """Return True if the inputs equal those of another data set."""
        if not isinstance(other, SparseData) or self.rows.shape != other.rows.shape:
            return False
        ours, theirs = self.rows.described()[1:], other.rows.described()[1:]
        return all(map(np.array_equal, ours, theirs))

    def share_inputs_of(self, other: DistillationData) -> bool:
        """Use the rows of another data set in place of equal ones; return True if they are equal."""
        if not self.has_inputs_of(other):
            return False
        self.rows = other.rows
        return True

    def _inputs_of(self, places: slice | Tensor) -> Tensor:
        """Return some rows as a dense tensor on the device."""
        found = places if isinstance(places, slice) else places.cpu().numpy()
        return self.rows.dense(found).to(self.device)
