"""Hold the rows of training as a data set, in tensors or loaded by a DataLoader."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from skorch.dataset import Dataset
from torch import Tensor

from sklearn_kd.inputs._batches import Batch, BatchOrder, LoadedBatches, TensorBatches
from sklearn_kd.inputs._large_arrays import parts
from sklearn_kd.inputs._parts import Parts
from sklearn_kd.inputs._torch_datasets import DatasetRows
from sklearn_kd.runtime._memory import format_mebibytes, nbytes
from sklearn_kd.tasks._pixels import map_shape_of, pixel_targets
from sklearn_kd.tasks._targets import Targets


def as_tensor(values: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """Convert an array to a tensor; copy it only if it is read-only, strided, or for another device."""
    if not values.flags.carray:  # this check is quicker than np.require
        values = np.require(values, requirements=["C", "W"])
    return torch.as_tensor(values, device=device)


def as_input(x: Any) -> Any:
    """Return items of a user's Dataset as float32 without gradient history, ready for training.

    In items of several parts, integers and booleans keep their types.
    """
    if isinstance(x, Parts):
        return x.usable()
    x = x.detach().float()
    return x.clone() if x.is_inference() else x


class DistillationData(Dataset):
    """A data set as tensors on the device: inputs and targets.

    The tensors may have more rows than belong to the data set, so that D_train and D_val share one X. X may
    be the user's own memory or a memory-mapped file. Batches are float32 copies.

    Parameters
    ----------
    X : Tensor of shape (m, ...) or Parts of m rows
        Numbers of any type.
    targets : Targets or None, default=None
        Targets of the m rows. None: zeros as labels, for a data set that is only predicted. Labels may be
        maps of shape (m, H, W), and logits maps of shape (n, K, h, w); the targets of a batch are then those
        of its pixels.
    seed : int, default=0
        Seeds the order of the batches.
    places : Tensor of shape (n,) or None, default=None
        Indices of the rows of X that belong to the data set, in order. None: all.

    Attributes
    ----------
    samples : Tensor of shape (2, ...) or Parts of 2 rows
        The first two rows, or the only one, on the device, for checks of networks.
    augmentation : tuple or None
        ``augment`` and ``ask`` of :class:`AugmentedBatches`, used only in training.
    """

    batches: type = TensorBatches
    augmentation: tuple[Callable, Callable | None] | None = None
    places: Tensor | None = None
    _logits_at_places = True

    def __init__(
        self, X: Any, targets: Targets | None = None, seed: int = 0, places: Tensor | None = None
    ) -> None:
        self._inputs, self.seed, self.places = X, seed, places
        self._targets = targets or Targets(torch.zeros(len(X), dtype=torch.long, device=X.device))
        self.samples = self._inputs_of(slice(0, 2) if places is None else places[:2])

    # ----------------------------------------------------------------------------------
    # The teacher's logits

    def set_teacher_logits(self, logits: Tensor | None) -> None:
        """Store the teacher's logits, shape (n, K), float32 or float16, on the device or on the CPU."""
        self._targets = self._targets._replace(teacher_logits=logits)
        self._logits_at_places = False

    def set_given_logits(self, logits: Tensor, rows: np.ndarray) -> None:
        """Store logits of all m rows; make no copy if the inputs are not copied either.

        Parameters
        ----------
        logits : Tensor of shape (m, K)
        rows : ndarray of shape (n,)
            Indices of the data set's rows among the m.
        """
        if self.places is not None:
            self._targets = self._targets._replace(teacher_logits=logits)
            self._logits_at_places = True
            return
        own = logits if len(rows) == len(logits) else take(logits, torch.from_numpy(rows))
        self.set_teacher_logits(own.to(self.device))

    @property
    def has_teacher_logits(self) -> bool:
        """True if the teacher's logits are stored."""
        return self._targets.teacher_logits is not None

    def iter_teacher_logits(self) -> Iterator[Tensor]:
        """Yield the stored logits of all rows, in order, float32, about a mebibyte at a time."""
        logits = self._targets.teacher_logits
        assert logits is not None
        for part in parts(len(self), 4 * math.prod(logits.shape[1:])):
            yield self._logits_of(logits, part)

    def _logits_of(self, logits: Tensor, rows: slice | Tensor) -> Tensor:
        places = self._at(rows) if self._logits_at_places else rows
        if isinstance(places, Tensor):
            places = places.to(logits.device)  # logits in a file are on the CPU
        return take(logits, places).float().to(self.device)

    # ----------------------------------------------------------------------------------
    # Rows

    @property
    def device(self) -> torch.device:
        """The device of the batches."""
        return self.samples.device

    @property
    def X(self) -> Any:
        """Inputs of all rows, float32, under the name that skorch's callbacks read; may be a copy."""
        inputs = self._inputs if self.places is None else take(self._inputs, self.places)
        return inputs.float()

    @property
    def sample_batch(self) -> Batch:
        """The samples with their targets, a copy that a student may change."""
        return Batch(self.samples.clone(), self._targets_of(slice(len(self.samples))))

    @property
    def targets(self) -> Targets:
        """Targets of all rows; may be a copy."""
        return self._targets_of(slice(None))

    def first_targets(self, n_rows: int) -> Targets:
        """Return the targets of the first rows; may be a copy."""
        return self._targets_of(slice(0, min(n_rows, len(self))))

    @property
    def y(self) -> Tensor:
        """The labels, under the name that skorch's callbacks read."""
        return take(self._targets.labels, self._at(slice(None)))

    @property
    def weight(self) -> Tensor | None:
        """Weights of all rows, with mean 1, or None."""
        weight = self._targets.weight
        return None if weight is None else take(weight, self._at(slice(None)))

    @property
    def shape(self) -> tuple[Any, ...]:
        """Shape (n, ...) of the inputs; (n, RowShape) if they have parts."""
        return len(self), *self.samples.shape[1:]

    @property
    def map_shape(self) -> tuple[int, ...]:
        """Size (H, W) of the labels if each row has a map of them, else ()."""
        return map_shape_of(self._targets.labels)

    @property
    def labeled(self) -> DistillationData:
        """The labeled rows: here all of them, so the data set itself."""
        return self

    def training_order(self, settings: Mapping[str, Any]) -> BatchOrder | None:
        """Return the order of training batches with these settings; None: the usual order."""
        return None

    def training_batches(self, settings: Mapping[str, Any]) -> Any:
        """Return the training batches of an epoch, before any augmentation."""
        return self.batches(self, **settings, order=self.training_order(settings))

    @property
    def held(self) -> list[Tensor]:
        """Tensors of the inputs that the data set holds."""
        return [*self._inputs.values] if isinstance(self._inputs, Parts) else [self._inputs]

    def __len__(self) -> int:
        return len(self._targets.labels) if self.places is None else len(self.places)

    def __getitem__(self, rows: Any) -> tuple[Any, Tensor]:
        places = rows if self.places is None else self.places[rows]
        return self._inputs[places].float(), self._targets.labels[places]

    def batch(self, rows: slice | Tensor) -> Batch:
        """Return the batch of these rows (a slice or a tensor of indices)."""
        return Batch(self._inputs_of(self._at(rows)), self._targets_of(rows))

    def iter_inputs(self) -> Iterator[Tensor]:
        """Yield the inputs of all rows in order, float32, about a mebibyte at a time; not for parts.

        Only read them, and before taking the next: they may be the user's memory, or share one buffer.
        """
        slices = [*parts(len(self), 4 * math.prod(self.shape[1:]))]
        first = self._inputs[slices[0]]
        buffer = torch.empty_like(first) if self.places is not None else first
        for part in slices:
            if self.places is None:
                yield self._inputs[part].float()
            else:
                out = buffer[: part.stop - part.start]
                yield torch.index_select(self._inputs, 0, self.places[part], out=out).float()

    def iter_batches(self, n_rows: int) -> Iterator[Any]:
        """Yield float32 copies of the inputs of all rows in order, ``n_rows`` at a time."""
        for start in range(0, len(self), n_rows):
            yield self._inputs_of(self._at(slice(start, start + n_rows)))

    def has_inputs_of(self, other: DistillationData) -> bool:
        """Return True if the inputs equal those of another data set."""
        if _equal(self._inputs, other._inputs):
            return _equal(self.places, other.places)
        return self.shape == other.shape and _equal(self.X, other.X)

    def share_inputs_of(self, other: DistillationData) -> bool:
        """Use the tensor of another data set in place of an equal one; return True if they are equal."""
        if not _equal(self._inputs, other._inputs):
            return False
        self._inputs = other._inputs
        return True

    def _at(self, rows: slice | Tensor) -> slice | Tensor:
        """Return the indices of some rows in the tensors."""
        return rows if self.places is None else take(self.places, rows)

    def _inputs_of(self, places: slice | Tensor) -> Any:
        """Return a copy, since a student may change its batch, but never the user's X."""
        inputs = take(self._inputs, places)
        if isinstance(inputs, Parts):
            return inputs.clone() if isinstance(places, slice) else inputs
        if inputs.dtype != torch.float32:
            return inputs.float()
        return inputs.clone() if isinstance(places, slice) else inputs

    def _targets_of(self, rows: slice | Tensor) -> Targets:
        labels, logits, weight, _ = self._targets
        places = self._at(rows)
        targets = Targets(
            take(labels, places),
            None if logits is None else self._logits_of(logits, rows),
            None if weight is None else take(weight, places),
        )
        return pixel_targets(targets) if labels.ndim == 3 else targets


def take(values: Any, rows: slice | Tensor) -> Any:
    """Return ``values[rows]``; ``index_select`` takes a third of the time of indexing with a tensor."""
    return values[rows] if isinstance(rows, slice) else values.index_select(0, rows)


def _equal(a: Any, b: Any) -> bool:
    if a is None or b is None or a is b:
        return a is b
    if isinstance(a, Parts) or isinstance(b, Parts):
        return isinstance(a, Parts) and isinstance(b, Parts) and a.equals(b)
    alike = a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
    return alike and (a.data_ptr() == b.data_ptr() or torch.equal(a, b))


class LoadedData(DistillationData):
    """A user's Dataset, whose inputs are loaded batch by batch; targets are on the device.

    Parameters
    ----------
    rows : DatasetRows
    targets : Targets
        Targets of all rows, on the device.
    seed : int, default=0
        Seeds the order of the batches.
    """

    batches = LoadedBatches

    def __init__(self, rows: DatasetRows, targets: Targets, seed: int = 0) -> None:
        self.rows, self._targets, self.seed = rows, targets, seed
        self.samples = as_input(rows.samples.to(targets.labels.device))

    @property
    def X(self) -> Any:
        """The data set itself, which skorch's scoring callbacks pass to the net's ``predict``."""
        return self

    @property
    def held(self) -> list[Tensor]:
        """No tensors, because the inputs are loaded."""
        return []

    def __getitem__(self, rows: Any) -> NoReturn:
        raise TypeError("The rows of a Dataset come in batches: iterate over net.get_iterator(dataset).")

    def batch(self, x: Any, rows: Tensor) -> Batch:  # type: ignore[override]
        """Return the batch of these inputs, which belong to the rows at these indices."""
        # Move before converting to float, since bytes take less room than floats.
        x, rows = (t.to(self.device, non_blocking=self.device.type == "cuda") for t in (x, rows))
        return Batch(as_input(x), self._targets_of(rows))


class SplitData(NamedTuple):
    """D_train and D_val; ``valid`` is None if nothing is held out."""

    train: DistillationData
    valid: DistillationData | None


def describe_allocations(parts: Iterable[DistillationData | None]) -> str:
    """Describe the memory of D_train, D_val and their cached logits, for a message.

    Parameters
    ----------
    parts : iterable of DistillationData or None
        For example a :class:`SplitData`, whose ``valid`` may be None.
    """
    found = [part for part in parts if part is not None]
    held = {tensor.data_ptr(): tensor for part in found for tensor in part.held}
    rows, logits = nbytes(held.values()), nbytes(part._targets.teacher_logits for part in found)
    data = f"data of {format_mebibytes(rows)}" if rows else "data that are loaded batch by batch"
    return f"{data} and cached teacher logits of {format_mebibytes(logits)} on {found[0].device}"
