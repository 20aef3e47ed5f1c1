"""Append unlabeled rows to D_train, after its labeled rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.inputs._data import DistillationData, LoadedData, as_tensor, take
from sklearn_kd.inputs._mixed_order import MixedOrder, share_in_batches
from sklearn_kd.inputs._parts import Parts, concatenated, shared_rows
from sklearn_kd.inputs._raw_rows import RawRows
from sklearn_kd.inputs._sparse_data import SparseData
from sklearn_kd.inputs._sparse_rows import SparseRows, sparse_rows, stacked_rows
from sklearn_kd.inputs._torch_datasets import DatasetRows, concatenated_rows
from sklearn_kd.runtime._ranks import ALONE
from sklearn_kd.tasks._targets import Targets, label_weights, unknown_like

Rows = np.ndarray | SparseRows | DatasetRows | RawRows | Parts


@dataclass(frozen=True, eq=False)
class UnlabeledRows:
    """Unlabeled rows from one source.

    Attributes
    ----------
    name : str
        Name of the source in messages.
    given : object
        The rows in the user's container, for a teacher that is asked about X as given.
    rows : ndarray of shape (n, ...), SparseRows, DatasetRows, or RawRows
        The same rows in the student's form.
    teacher_logits : ndarray of shape (n, n_outputs) or None, default=None
        Given logits.
    places : ndarray of shape (n,) or None, default=None
        Position of each row in the source, for messages. None: in order.
    """

    name: str
    given: Any
    rows: Rows
    teacher_logits: np.ndarray | None = None
    places: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> tuple[str, np.ndarray]:
        """Name of the source, and the position of each row in it."""
        return self.name, np.arange(len(self)) if self.places is None else self.places


class _Mixed:
    """Mixin for a data set whose first ``n_labeled`` rows have labels; the labels of the others are −1.

    Parameters
    ----------
    rows : Tensor, Parts, SparseRows or DatasetRows of n rows
    targets : Targets
    seed : int
    n_labeled : int
    unlabeled_share : float or "auto"
    """

    seed: int
    _targets: Targets

    def __init__(
        self, rows: Any, targets: Targets, seed: int, n_labeled: int, unlabeled_share: float | str
    ) -> None:
        super().__init__(rows, targets, seed)  # type: ignore[call-arg]
        self.n_labeled, self.unlabeled_share = n_labeled, unlabeled_share

    def training_order(self, settings: Mapping[str, Any]) -> MixedOrder:
        """Return the order that mixes both kinds of rows."""
        n_labeled, n_rows = self.n_labeled, len(self._targets.labels)
        return MixedOrder(
            n_labeled,
            n_rows - n_labeled,
            share_in_batches(self.unlabeled_share, n_labeled, n_rows - n_labeled),
            settings.get("batch_size", 128),
            settings.get("shuffle", False),
            self.seed,
            settings.get("ranks", ALONE),
        )

    @property
    def X(self) -> Any:
        """The labeled rows, which skorch's scoring callbacks pass to the net's ``predict``."""
        return self.labeled

    @property
    def y(self) -> Tensor:
        """Labels of the labeled rows, under the name that skorch's callbacks read."""
        return self._targets.labels[: self.n_labeled]

    @property
    def weight(self) -> Tensor | None:
        """Weights of the labeled rows, or None."""
        weight = self._targets.weight
        return None if weight is None else weight[: self.n_labeled]

    def _targets_of(self, rows: slice | Tensor) -> Targets:
        targets = super()._targets_of(rows)  # type: ignore[misc]
        return targets._replace(label_weight=label_weights(targets.labels))

    @property
    def labeled(self) -> DistillationData:
        """The labeled rows as a data set, without a copy."""
        return self._part(slice(0, self.n_labeled))

    def parts(self, sizes: Sequence[int]) -> Iterator[DistillationData]:
        """Yield consecutive data sets of these sizes, without a copy."""
        start = 0
        for size in sizes:
            yield self._part(slice(start, start + size))
            start += size

    def _part(self, rows: slice) -> DistillationData:
        """Return some rows as a data set."""
        raise NotImplementedError

    def _first_targets(self, rows: slice) -> Targets:
        return Targets(*(None if t is None else t[rows] for t in self._targets))  # type: ignore[arg-type]


class MixedData(_Mixed, DistillationData):
    """D_train as tensors: labeled rows, followed by unlabeled ones."""

    @property
    def X(self) -> Tensor:
        """Inputs of the labeled rows, under the name that skorch's callbacks read."""
        return self._inputs[: self.n_labeled].float()

    def _part(self, rows: slice) -> DistillationData:
        return DistillationData(self._inputs[rows], self._first_targets(rows), self.seed)


class MixedSparseData(_Mixed, SparseData):
    """D_train as sparse rows: labeled rows, followed by unlabeled ones."""

    def _part(self, rows: slice) -> SparseData:
        return SparseData(self.rows[rows], self._first_targets(rows), self.seed)


class MixedLoadedData(_Mixed, LoadedData):
    """D_train as rows of Datasets: labeled rows, followed by unlabeled ones."""

    def _part(self, rows: slice) -> LoadedData:
        places = np.arange(rows.start, rows.stop)
        return LoadedData(self.rows[places], self._first_targets(rows), self.seed)


def with_unlabeled(
    train: DistillationData, further: Sequence[UnlabeledRows], unlabeled_share: float | str
) -> DistillationData:
    """Return D_train with further rows after its own, or D_train itself if there are none.

    Parameters
    ----------
    train : DistillationData
        D_train without a teacher's logits.
    further : sequence of UnlabeledRows
        Sparse or dense, whatever the form of D_train.
    unlabeled_share : float or "auto"
        The share of unlabeled rows in a batch.
    """
    if not further:
        return train
    n_labeled, n_unlabeled = len(train), sum(map(len, further))
    device, labels, weight = train.device, train.y, train.weight
    labels = torch.cat([labels, unknown_like(labels, n_unlabeled)])
    weight = None if weight is None else torch.cat([weight, weight.new_ones(n_unlabeled)])
    mixed = Targets(labels, None, weight), train.seed, n_labeled, unlabeled_share
    rows: Any = [part.rows for part in further]
    if isinstance(train, LoadedData):
        return MixedLoadedData(concatenated_rows([train.rows, *rows]), *mixed)
    if isinstance(train, SparseData):
        sparse = [part if isinstance(part, SparseRows) else sparse_rows(part) for part in rows]
        return MixedSparseData(stacked_rows([train.rows, *sparse]), *mixed)
    inputs = train._inputs if train.places is None else take(train._inputs, train.places)
    dense = [part.dense() if isinstance(part, SparseRows) else shared_rows(part) for part in rows]
    return MixedData(concatenated([inputs, *(part.to(device) for part in dense)]), *mixed)


def given_logits(
    own: np.ndarray, places: np.ndarray, further: Sequence[UnlabeledRows], device: torch.device
) -> Tensor:
    """Return the given logits of D_train's rows, at ``places`` in X, and of further rows."""
    parts = [own[places], *(cast(np.ndarray, part.teacher_logits) for part in further)]
    return as_tensor(np.concatenate(parts)).to(device)
