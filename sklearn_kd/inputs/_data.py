"""Rows on their way into training: the data set in its two forms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from skorch.dataset import Dataset
from torch import Tensor

from sklearn_kd.inputs._batches import Batch, LoadedBatches, TensorBatches
from sklearn_kd.inputs._torch_datasets import DatasetRows
from sklearn_kd.runtime._memory import format_mebibytes, nbytes
from sklearn_kd.tasks._targets import Targets


def as_tensor(values: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """Return an array as a tensor; copy it only if it is read-only, strided, or for another device."""
    if not values.flags.carray:  # asked first, in less time than it takes to require it
        values = np.require(values, requirements=["C", "W"])
    return torch.as_tensor(values, device=device)


def as_input(x: Tensor) -> Tensor:
    """Return an item of a user's Dataset as float32 without gradient history, ready for training."""
    x = x.detach().float()
    return x.clone() if x.is_inference() else x


class DistillationData(Dataset):
    """A data set as tensors on the device: inputs and targets.

    Parameters
    ----------
    X : Tensor of shape (n, ...)
    targets : Targets or None, default=None
        Of all n rows; None: zeros as labels, for a data set that is only predicted.
    seed : int, default=0
        Seeds the order of the batches.

    Attributes
    ----------
    samples : Tensor of shape (2, ...)
        The first two rows, or the only one, on the device: samples for checks of networks.
    augmentation : tuple or None
        ``augment`` and ``ask`` of :class:`AugmentedBatches`, used in training only.
    """

    batches: type = TensorBatches
    augmentation: tuple[Callable, Callable | None] | None = None

    def __init__(self, X: Tensor, targets: Targets | None = None, seed: int = 0) -> None:
        self.X, self.seed, self.samples = X, seed, X[:2]
        self.targets = targets or Targets(torch.zeros(len(X), dtype=torch.long, device=X.device))

    def set_teacher_logits(self, logits: Tensor | None) -> None:
        """Store the teacher's logits of all rows, shape (n, K)."""
        logits = None if logits is None else logits.to(self.device)
        self.targets = self.targets._replace(teacher_logits=logits)

    @property
    def device(self) -> torch.device:
        """The device of the batches."""
        return self.samples.device

    @property
    def y(self) -> Tensor:
        """The labels, under the name that skorch's callbacks read."""
        return self.targets.labels

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: Any) -> tuple[Tensor, Tensor]:
        return self.X[rows], self.y[rows]

    def batch(self, rows: slice | Tensor) -> Batch:
        """Return the batch of these rows (a slice or a tensor of indices)."""
        return Batch(take(self.X, rows), self._targets_of(rows))

    def _targets_of(self, rows: slice | Tensor) -> Targets:
        return Targets._make(t if t is None else take(t, rows) for t in self.targets)


def take(values: Tensor, rows: slice | Tensor) -> Tensor:
    """Return ``values[rows]``; ``index_select`` takes a third of the time of indexing by a tensor."""
    return values[rows] if isinstance(rows, slice) else values.index_select(0, rows)


class LoadedData(DistillationData):
    """A user's Dataset, whose inputs are loaded batch by batch; targets are on the device.

    Parameters
    ----------
    rows : DatasetRows
    targets : Targets
        Of all rows, on the device.
    seed : int, default=0
        Seeds the order of the batches.
    """

    batches = LoadedBatches

    def __init__(self, rows: DatasetRows, targets: Targets, seed: int = 0) -> None:
        self.rows, self.targets, self.seed = rows, targets, seed
        self.samples = as_input(rows.samples.to(targets.labels.device))

    @property
    def X(self) -> LoadedData:  # type: ignore[override]
        """The data set itself, which skorch's scoring callbacks give the net to predict."""
        return self

    def __getitem__(self, rows: Any) -> NoReturn:
        raise TypeError("The rows of a Dataset come in batches: iterate over net.get_iterator(dataset).")

    def batch(self, x: Tensor, rows: Tensor) -> Batch:  # type: ignore[override]
        """Return the batch of these inputs, which belong to the rows at these indices."""
        # Moved before the conversion to float: bytes are fewer than floats.
        x, rows = (t.to(self.device, non_blocking=self.device.type == "cuda") for t in (x, rows))
        return Batch(as_input(x), self._targets_of(rows))


class SplitData(NamedTuple):
    """D_train and D_val; ``valid`` is None if nothing is held out."""

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
