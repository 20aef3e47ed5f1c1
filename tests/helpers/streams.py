"""Streams of digits that tests read, in this process and in workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.utils.data import IterableDataset, get_worker_info

X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
VAL = {"X_val": X[1200:1400], "y_val": y[1200:1400]}


class Digits(IterableDataset):
    """The first digits in their order, all of them in every worker."""

    def __init__(self, n: int = 600, times: int = 1) -> None:
        self.n, self.times = n, times
        self.passes: list[int] = []

    def set_epoch(self, number: int) -> None:
        self.passes.append(number)

    def __iter__(self) -> Iterator[Any]:
        for i in range(self.n * self.times):
            yield torch.from_numpy(X[i % self.n]), int(y[i % self.n])


class Counted(Digits):
    """Digits that say how many they are."""

    def __len__(self) -> int:
        return self.n


class Divided(Counted):
    """Digits of which each worker gives its own."""

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker, n_workers = (0, 1) if info is None else (info.id, info.num_workers)
        for i in range(worker, self.n, n_workers):
            yield torch.from_numpy(X[i]), int(y[i])


class Endless(IterableDataset):
    """Random rows of two classes without end."""

    def __init__(self, n_features: int = 64) -> None:
        self.n_features = n_features

    def __iter__(self) -> Iterator[Any]:
        rng = np.random.default_rng(0)
        while True:
            x = rng.normal(size=self.n_features).astype(np.float32)
            yield x, int(x[0] > 0)
