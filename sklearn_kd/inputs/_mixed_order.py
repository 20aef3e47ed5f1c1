"""Order training batches that mix labeled and unlabeled rows."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sklearn_kd.inputs._batches import BatchOrder, check_shares
from sklearn_kd.runtime._ranks import ALONE, Ranks

# unlabeled_share="auto": at least a fifth of each batch has labels.
_LARGEST_SHARE = 0.8


def share_in_batches(unlabeled_share: float | str, n_labeled: int, n_unlabeled: int) -> float:
    """Return the share of unlabeled rows in a batch; "auto" is their share of all rows, at most 0.8."""
    if isinstance(unlabeled_share, str):
        return min(_LARGEST_SHARE, n_unlabeled / (n_labeled + n_unlabeled))
    return unlabeled_share


class MixedOrder(BatchOrder):
    """Divides labeled rows, followed by unlabeled ones, into batches of both kinds in a fixed ratio.

    A pass ends when every row has been seen. The kind that runs out first begins again, in a new order, so
    that all batches are full. The two kinds are spread evenly over a batch, so that its first rows, too,
    have about the same ratio.

    Parameters
    ----------
    n_labeled, n_unlabeled : int
    share : float
        Share of unlabeled rows in a batch. Each batch has at least one row of each kind.
    batch_size : int, default=128
        Rows of both kinds together. −1, or more than all rows: all rows.
    shuffle : bool, default=False
        Draw a new order for each pass.
    seed : int, default=0
    ranks : Ranks, default=ALONE
        As in :class:`BatchOrder`. Each process has its share of either kind.

    Raises
    ------
    ValueError
        If a batch has no room for a row of each kind for each process.
    """

    def __init__(
        self,
        n_labeled: int,
        n_unlabeled: int,
        share: float,
        batch_size: int = 128,
        shuffle: bool = False,
        seed: int = 0,
        ranks: Ranks = ALONE,
    ) -> None:
        self.n, self.shuffle, self.ranks = n_labeled + n_unlabeled, shuffle, ranks
        size = self.n if batch_size == -1 else min(batch_size, self.n)
        if size < 2:
            raise ValueError(
                "batch_size=1 has no room for a row with a label and a row without one. Set batch_size to 2 "
                "or more, or leave X_unlabeled out."
            )
        check_shares(size, ranks)
        n_without = min(max(round(share * size), 1), size - 1)
        if min(n_without, size - n_without) < ranks.size:
            raise ValueError(
                f"A batch of {size} rows has {size - n_without} with a label and {n_without} without one, "
                f"and each of {ranks.size} processes needs a row of either kind. Set a larger batch_size, or "
                "another unlabeled_share, or train with fewer processes (parallel)."
            )
        self._kinds = ((n_labeled, size - n_without), (n_unlabeled, n_without))
        n_batches = max(math.ceil(n / count) for n, count in self._kinds)
        self.slices = [slice(k * size, (k + 1) * size) for k in range(n_batches)]
        places = [(torch.arange(count) + 0.5) / count for _, count in self._kinds]
        self._spread = torch.argsort(torch.cat(places), stable=True)
        self._own = self._own_places()
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self) -> Tensor:
        """Draw the order of the next pass, shape (number of batches · batch size,)."""
        (n_labeled, _), _ = self._kinds
        with_labels, without = (self._rows(n, len(self) * count) for n, count in self._kinds)
        batches = [with_labels.reshape(len(self), -1), n_labeled + without.reshape(len(self), -1)]
        return torch.cat(batches, dim=1)[:, self._spread].reshape(-1)

    def own(self, rows: Any) -> Any:
        """Return this process's share of each kind of rows in a batch."""
        if self.ranks.size == 1:
            return rows
        return rows[self._own.to(rows.device)] if isinstance(rows, Tensor) else [rows[k] for k in self._own]

    def _own_places(self) -> Tensor:
        """Return this process's places in a batch; taking every second place might give only one kind."""
        rank, size = self.ranks.rank, self.ranks.size
        has_label = self._spread < self._kinds[0][1]
        with_label, without = has_label.nonzero()[:, 0], (~has_label).nonzero()[:, 0]
        # Processes with one more row of one kind get one less of the other.
        return torch.cat([with_label[rank::size], without[size - 1 - rank :: size]]).sort().values

    def _rows(self, n: int, n_wanted: int) -> Tensor:
        """Return ``n_wanted`` rows of one kind, repeating them in new passes as needed."""
        passes = [
            torch.randperm(n, generator=self._generator) if self.shuffle else torch.arange(n)
            for _ in range(math.ceil(n_wanted / n))
        ]
        return torch.cat(passes)[:n_wanted]
