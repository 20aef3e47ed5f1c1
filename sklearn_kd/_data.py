"""Rows on their way into training: the split, the data set, the batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from sklearn.model_selection import StratifiedShuffleSplit
from skorch.dataset import Dataset
from torch import Tensor

from sklearn_kd._losses import Targets


def split_rows(
    codes: np.ndarray, fraction: float, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of D_train and D_val: disjoint, stratified, every class in D_train.

    Where the classes are too small to stratify, D_val is drawn at random from what is left
    when one row of each class has been put into D_train.

    Raises
    ------
    ValueError
        If no row can be spared for D_val.
    """
    n, counts = len(codes), np.bincount(codes)
    counts = counts[counts > 0]
    n_val = math.ceil(n * fraction)
    if counts.min() >= 2 and len(counts) <= min(n_val, n - n_val):
        splitter = StratifiedShuffleSplit(n_splits=1, test_size=n_val, random_state=rng)
        return next(splitter.split(codes, codes))
    order = rng.permutation(n)
    _, first_of_class = np.unique(codes[order], return_index=True)
    spare = np.delete(order, first_of_class)
    if len(spare) == 0:
        raise ValueError(
            f"D_val is empty: of n_samples = {n} rows none can be held out, since every class "
            "needs one to train on. Give X_val and y_val, more rows, or a meta that does not "
            "learn from D_val, such as 'naive'."
        )
    val = spare[:n_val]
    return np.setdiff1d(order, val), np.sort(val)


def as_tensor(values: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """Array to tensor, copied only where it is read-only, strided, or on another device."""
    return torch.as_tensor(np.require(values, requirements=["C", "W"])).to(device)


class DistillationData(Dataset):
    """Rows as tensors on the device, with what the losses need beside them.

    Parameters
    ----------
    X : Tensor of shape (n, ...)
    targets : Targets or None, default=None
        Over all n rows; None where there is nothing to learn.
    seed : int, default=0
        Of the order in which batches are drawn.
    """

    def __init__(self, X: Tensor, targets: Targets | None = None, seed: int = 0):
        self.X, self.seed = X, seed
        self.targets = targets or Targets(torch.zeros(len(X), dtype=torch.long, device=X.device))

    def set_teacher_logits(self, logits: Tensor | None) -> None:
        """The teacher's logits of all rows, shape (n, K)."""
        logits = None if logits is None else logits.to(self.X.device)
        self.targets = self.targets._replace(teacher_logits=logits)

    @property
    def y(self) -> Tensor:
        """The labels, by the name that skorch's callbacks look for."""
        return self.targets.labels

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, rows) -> tuple[Tensor, Tensor]:
        return self.X[rows], self.y[rows]

    def batch(self, rows) -> Batch:
        """The batch of these rows (a slice or a tensor of indices)."""

        def take(values):
            if isinstance(rows, slice):
                return values[rows]
            return values.index_select(0, rows)  # a third of the time of values[rows]

        return Batch(self.X, self.targets).map(take)


class Batch(tuple):
    """``(X, y)``, which is what skorch's callbacks expect, with its ``targets`` beside it."""

    targets: Targets

    def __new__(cls, X: Tensor, targets: Targets):
        batch = super().__new__(cls, (X, targets.labels))
        batch.targets = targets
        return batch

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The batch of ``function`` of each of its tensors."""
        return Batch(function(self[0]), Targets._make(t if t is None else function(t) for t in self.targets))

    def copy_(self, other: Batch) -> None:
        """Write another batch of the same shapes into this one."""
        for own, given in zip((self[0], *self.targets), (other[0], *other.targets), strict=True):
            if own is not None:
                own.copy_(given)


class TensorBatches:
    """Whole batches cut from tensors: no per-sample access, no collation, no workers.

    Takes the DataLoader's arguments that make sense for that. A last batch of a single row
    joins the one before it, because batch normalisation cannot use it.

    Parameters
    ----------
    dataset : DistillationData
    batch_size : int, default=128
        −1: all rows.
    shuffle : bool, default=False
        In the order of a generator seeded by the data set.
    drop_last : bool, default=False
        Leave out a last batch that is not full, unless it is the only one.
    """

    def __init__(self, dataset, batch_size=128, shuffle=False, drop_last=False):
        n = len(dataset)
        self.dataset, self.shuffle = dataset, shuffle
        size = n if batch_size == -1 else batch_size
        self._starts = list(range(0, n, size))
        self._stops = [*self._starts[1:], n]
        last = n - self._starts[-1]
        if len(self._starts) > 1 and drop_last and last < size:
            del self._starts[-1], self._stops[-1]
        elif len(self._starts) > 1 and last == 1:
            del self._starts[-1], self._stops[-2]
        self._generator = torch.Generator().manual_seed(dataset.seed)

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[Batch]:
        order = None
        if self.shuffle:
            order = torch.randperm(len(self.dataset), generator=self._generator)
            order = order.to(self.dataset.X.device)
        for start, stop in zip(self._starts, self._stops, strict=True):
            yield self.dataset.batch(slice(start, stop) if order is None else order[start:stop])

    def endlessly(self) -> Iterator[Batch]:
        """Batch after batch, in a new order after each pass."""
        while True:
            yield from self


class SplitData(NamedTuple):
    """D_train and D_val; ``valid`` is None where nothing is held out."""

    train: DistillationData
    valid: DistillationData | None
