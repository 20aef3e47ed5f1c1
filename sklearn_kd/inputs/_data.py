"""Rows on their way into training: the data set in its two forms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from skorch.dataset import Dataset
from torch import Tensor

from sklearn_kd.inputs._batches import Batch, LoadedBatches, TensorBatches
from sklearn_kd.inputs._torch_datasets import DatasetRows
from sklearn_kd.losses._logits import Targets
from sklearn_kd.runtime._memory import format_mebibytes, nbytes


def as_tensor(values: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """Array to tensor, copied only where it is read-only, strided, or on another device."""
    return torch.as_tensor(np.require(values, requirements=["C", "W"])).to(device)


def as_input(x: Tensor) -> Tensor:
    """Return an item of a user's Dataset as float32 without gradient history, ready for training."""
    x = x.detach().float()
    return x.clone() if x.is_inference() else x


class DistillationData(Dataset):
    """Rows as tensors on the device, with what the losses need beside them.

    Parameters
    ----------
    X : Tensor of shape (n, ...)
    targets : Targets or None, default=None
        Over all n rows; None where there is nothing to learn.
    seed : int, default=0
        Of the order in which batches are drawn.

    Attributes
    ----------
    samples : Tensor of shape (2, ...)
        Rows to try a network on, on the device; one where there are no two.
    augmentation : tuple or None
        ``augment`` and ``ask`` of :class:`AugmentedBatches`, for training alone.
    """

    batches: type = TensorBatches
    augmentation: tuple[Callable, Callable | None] | None = None

    def __init__(self, X: Tensor, targets: Targets | None = None, seed: int = 0):
        self.X, self.seed, self.samples = X, seed, X[:2]
        self.targets = targets or Targets(torch.zeros(len(X), dtype=torch.long, device=X.device))

    def set_teacher_logits(self, logits: Tensor | None) -> None:
        """The teacher's logits of all rows, shape (n, K)."""
        logits = None if logits is None else logits.to(self.device)
        self.targets = self.targets._replace(teacher_logits=logits)

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        return self.samples.device

    @property
    def y(self) -> Tensor:
        """The labels, by the name that skorch's callbacks look for."""
        return self.targets.labels

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows) -> tuple[Tensor, Tensor]:
        return self.X[rows], self.y[rows]

    def batch(self, rows) -> Batch:
        """The batch of these rows (a slice or a tensor of indices)."""
        return Batch(take(self.X, rows), self._targets_of(rows))

    def _targets_of(self, rows) -> Targets:
        return Targets._make(t if t is None else take(t, rows) for t in self.targets)


def take(values: Tensor, rows: slice | Tensor) -> Tensor:
    """``values[rows]``, in a third of the time where ``rows`` are indices."""
    return values[rows] if isinstance(rows, slice) else values.index_select(0, rows)


class LoadedData(DistillationData):
    """Rows of a user's Dataset, fetched when their batch is due; the rest is on the device.

    Parameters
    ----------
    rows : DatasetRows
    targets : Targets
        Over all rows, on the device.
    seed : int, default=0
        Of the order in which batches are drawn.
    """

    batches = LoadedBatches

    def __init__(self, rows: DatasetRows, targets: Targets, seed: int = 0):
        self.rows, self.targets, self.seed = rows, targets, seed
        self.samples = as_input(rows.samples.to(targets.labels.device))

    @property
    def X(self) -> LoadedData:  # type: ignore[override]
        """The inputs that skorch's scoring callbacks give the net to predict for."""
        return self

    def __getitem__(self, rows):
        raise TypeError("The rows of a Dataset come in batches: iterate over net.get_iterator(dataset).")

    def batch(self, x: Tensor, rows: Tensor) -> Batch:  # type: ignore[override]
        """The batch of these inputs, which the rows at these indices have."""
        # Moved as they come: bytes are fewer than floats.
        x, rows = (t.to(self.device, non_blocking=self.device.type == "cuda") for t in (x, rows))
        return Batch(as_input(x), self._targets_of(rows))


class SplitData(NamedTuple):
    """D_train and D_val; ``valid`` is None where nothing is held out."""

    train: DistillationData
    valid: DistillationData | None


def describe_allocations(parts: Iterable[DistillationData | None]) -> str:
    """Describe the memory that D_train, D_val and their cached logits take, for a message.

    Parameters
    ----------
    parts : iterable of DistillationData or None
        Such as :class:`SplitData`; None where nothing is held out.
    """
    found = [part for part in parts if part is not None]
    rows = nbytes(part.__dict__.get("X") for part in found)
    logits = nbytes(part.targets.teacher_logits for part in found)
    data = f"data of {format_mebibytes(rows)}" if rows else "data that are loaded batch by batch"
    return f"{data} and cached teacher logits of {format_mebibytes(logits)} on {found[0].device}"
