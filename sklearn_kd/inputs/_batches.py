"""Divide rows into batches; cut batches from tensors, load them, or augment them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from sklearn_kd.inputs._map_augmentation import MapAugmentation
from sklearn_kd.inputs._parts import Parts, parts_of_output
from sklearn_kd.inputs._torch_datasets import DatasetRows, loader_arguments, make_loader
from sklearn_kd.runtime._ranks import ALONE, Ranks
from sklearn_kd.tasks._targets import Targets


class Batch(tuple):
    """A batch ``(X, y)``, as skorch's callbacks expect it, with attributes ``targets`` and ``n_rows``."""

    targets: Targets
    # Rows of all processes' shares and all micro-batches together; None: all rows are here.
    n_rows: int | None = None

    def __new__(cls, X: Tensor | Parts, targets: Targets, n_rows: int | None = None) -> Batch:
        batch = super().__new__(cls, (X, targets.labels))
        batch.targets = targets
        if n_rows is not None:
            batch.n_rows = n_rows
        return batch

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with ``function`` applied to each of its tensors."""
        X = self[0].map(function) if isinstance(self[0], Parts) else function(self[0])
        return Batch(X, Targets._make(t if t is None else function(t) for t in self.targets))

    def copy_(self, other: Batch) -> None:
        """Copy another batch of the same shapes into this one."""
        for own, given in zip((self[0], *self.targets), (other[0], *other.targets), strict=True):
            if own is not None:
                own.copy_(given)


class BatchSource(Protocol):
    """A data set from which batches are made."""

    seed: int

    @property
    def device(self) -> torch.device:
        """Device of the batches."""

    def __len__(self) -> int: ...


class TensorSource(BatchSource, Protocol):
    """A data set held as tensors."""

    def batch(self, rows: slice | Tensor, /) -> Batch:
        """Return the batch of these rows."""


class LoadedSource(BatchSource, Protocol):
    """A data set whose inputs a DataLoader loads."""

    rows: DatasetRows

    def batch(self, x: Tensor | Parts, rows: Tensor, /) -> Batch:
        """Return the batch of these inputs, which belong to the rows at these indices."""


# batch_size="auto": about this many batches per epoch, of sizes within the bounds.
_BATCHES_PER_EPOCH, _SMALLEST, _LARGEST = 8, 32, 256


def rows_per_batch(batch_size: int | str, n_rows: int | None = None) -> int:
    """Return the number of rows per batch.

    Parameters
    ----------
    batch_size : int or "auto"
        "auto": an eighth of the rows, as the nearest power of two from 32 to 256.
    n_rows : int or None, default=None
        Number of rows given to ``fit``. None: unknown, as in prediction; "auto" is then 256.
    """
    if not isinstance(batch_size, str):
        return batch_size
    if n_rows is None:
        return _LARGEST
    size = 2 ** round(math.log2(max(1.0, n_rows / _BATCHES_PER_EPOCH)))
    return min(max(size, _SMALLEST), _LARGEST)


class BatchOrder:
    """Divides n rows into batches; a pass yields the list of indices of each batch.

    If the last batch would have a single row, that row joins the batch before it, because batch
    normalisation cannot train on one row. If several processes train one student, each takes its share of
    every batch, and a last batch with fewer than two rows per process joins the batch before it.

    Parameters
    ----------
    n : int
    batch_size : int, default=128
        Rows per batch, of all processes together. −1: all rows in one batch.
    shuffle : bool, default=False
        Draw a new order for each pass.
    drop_last : bool, default=False
        Leave out an incomplete last batch, unless it is the only one.
    seed : int, default=0
        Seed of the generator that shuffles; the global generators are not used.
    ranks : Ranks, default=ALONE
        The processes that share each batch. All draw the same order.

    Attributes
    ----------
    slices : list of slice
        The part of a pass's order that each batch takes, for all processes together.

    Raises
    ------
    ValueError
        If there are several processes and a batch has fewer than two rows for each.
    """

    def __init__(
        self,
        n: int,
        batch_size: int = 128,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        ranks: Ranks = ALONE,
    ) -> None:
        self.n, self.shuffle, self.ranks = n, shuffle, ranks
        size = n if batch_size == -1 else batch_size
        check_shares(min(size, n), ranks)
        starts = list(range(0, n, size))
        stops = [*starts[1:], n]
        last = n - starts[-1]
        if len(starts) > 1 and drop_last and last < size:
            del starts[-1], stops[-1]
        elif len(starts) > 1 and last < 2 * ranks.size:
            del starts[-1], stops[-2]
        self.slices = [slice(*ends) for ends in zip(starts, stops, strict=True)]
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.slices)

    def draw(self) -> Tensor | None:
        """Draw the order of the next pass, shape (n,); None if the rows are not shuffled."""
        return torch.randperm(self.n, generator=self._generator) if self.shuffle else None

    def own(self, rows: Any) -> Any:
        """Return this process's share of the rows of a batch."""
        return self.ranks.own(rows)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state of the generator that draws the order of the next pass."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a state of :meth:`state_dict`."""
        self._generator.set_state(state["generator"])

    def __iter__(self) -> Iterator[list[int]]:
        # A generator draws only when a pass begins; a DataLoader with workers calls iter twice.
        drawn = self.draw()
        order = list(range(self.n)) if drawn is None else drawn.tolist()
        for part in self.slices:
            yield self.own(order[part])

    def n_rows(self, k: int) -> int | None:
        """Return the number of rows of batch ``k`` in all processes together; None for one process."""
        part = self.slices[k]
        return None if self.ranks.size == 1 else part.stop - part.start


def check_shares(n_rows: int, ranks: Ranks) -> None:
    """Raise ValueError if batches of ``n_rows`` rows have fewer than two for each of several processes."""
    if ranks.size > 1 and n_rows < 2 * ranks.size:
        raise ValueError(
            f"{ranks.size} processes share each batch, and each needs two rows or more of it; there are "
            f"batches of {n_rows}. Give a batch_size of at least {2 * ranks.size}, and at least as many rows "
            "in D_train and in D_val, or train with fewer processes (parallel)."
        )


class TensorBatches:
    """Cuts whole batches from tensors: no per-sample access, no collation, no workers.

    It takes the arguments of a DataLoader that apply.

    Parameters
    ----------
    dataset : DistillationData
        Its ``seed`` seeds the order.
    batch_size, shuffle, drop_last, ranks
        As in :class:`BatchOrder`.
    order : BatchOrder or None, default=None
        Replaces these arguments.
    """

    def __init__(
        self,
        dataset: TensorSource,
        batch_size: int = 128,
        shuffle: bool = False,
        drop_last: bool = False,
        *,
        order: BatchOrder | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.dataset = dataset
        self.order = order or BatchOrder(len(dataset), batch_size, shuffle, drop_last, dataset.seed, ranks)

    def __len__(self) -> int:
        return len(self.order)

    def state_dict(self) -> dict[str, Any]:
        """Return the state on which the next pass depends."""
        return {"order": self.order.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of :meth:`state_dict`, so that the next pass is the one that followed it."""
        self.order.load_state_dict(state["order"])

    def __iter__(self) -> Iterator[Batch]:
        order = self.order.draw()
        if order is None and self.order.ranks.size > 1:
            order = torch.arange(self.order.n)
        order = None if order is None else order.to(self.dataset.device)
        for k, part in enumerate(self.order.slices):
            batch = self.dataset.batch(part if order is None else self.order.own(order[part]))
            batch.n_rows = self.order.n_rows(k)
            yield batch


class LoadedBatches:
    """Loads batches with a DataLoader, with the same rows as :class:`TensorBatches`.

    Parameters
    ----------
    dataset : LoadedData
        Its ``seed`` seeds the order and the workers.
    batch_size, shuffle, drop_last, ranks
        As in :class:`BatchOrder`.
    order : BatchOrder or None, default=None
        Replaces these arguments.
    **loader
        As in :func:`make_loader`.
    """

    def __init__(
        self,
        dataset: LoadedSource,
        batch_size: int = 128,
        shuffle: bool = False,
        drop_last: bool = False,
        *,
        order: BatchOrder | None = None,
        ranks: Ranks = ALONE,
        **loader: Any,
    ) -> None:
        self.dataset = dataset
        self.order = order or BatchOrder(len(dataset), batch_size, shuffle, drop_last, dataset.seed, ranks)
        self._loader = make_loader(dataset.rows, self.order, seed=dataset.seed, **loader)
        several = self.order.ranks.size > 1
        # In the same state in all processes, like everything in a checkpoint.
        self._seeds = torch.Generator().manual_seed(dataset.seed) if several else self._loader.generator

    def __len__(self) -> int:
        return len(self.order)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the order and of the generator that seeds the next workers."""
        workers = {"generator": self._seeds.get_state()}
        return {"order": self.order.state_dict(), "workers": workers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of :meth:`state_dict`, so that the next pass is the one that followed it."""
        self.order.load_state_dict(state["order"])
        self._seeds.set_state(state["workers"]["generator"])

    def __iter__(self) -> Iterator[Batch]:
        ranks = self.order.ranks
        if ranks.size > 1:  # else the workers of all processes would draw the same augmentation
            seed = int(torch.randint(2**62, (), generator=self._seeds))
            self._loader.generator.manual_seed(seed + ranks.rank)
        for k, (x, _, rows) in enumerate(self._loader):
            batch = self.dataset.batch(x, rows)
            batch.n_rows = self.order.n_rows(k)
            yield batch


class AugmentedBatches:
    """Augments batches, and asks the teacher for logits of the augmented rows.

    Parameters
    ----------
    batches : TensorBatches or LoadedBatches
    augment : callable(Tensor) -> Tensor, or MapAugmentation
        For :class:`Parts` it gets the dict or tuple of tensors, and returns one with the same parts. If y
        has maps, it changes these too.
    ask : callable(Tensor) -> Tensor, or None
        Returns the teacher's logits for a batch. None: the batch keeps its targets.
    """

    def __init__(
        self,
        batches: TensorBatches | LoadedBatches,
        augment: Callable[[Tensor], Tensor] | MapAugmentation,
        ask: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.batches, self.augment, self.ask = batches, augment, ask

    def __len__(self) -> int:
        return len(self.batches)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the batches."""
        return self.batches.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of :meth:`state_dict`."""
        self.batches.load_state_dict(state)

    def __iter__(self) -> Iterator[Batch]:
        if isinstance(self.augment, MapAugmentation):
            for batch in self.batches:
                yield Batch(*self.augment(batch[0], batch.targets, self.ask), batch.n_rows)
            return
        for batch in self.batches:
            X, targets = augmented(self.augment, batch[0]), batch.targets
            if self.ask is not None:
                targets = targets._replace(teacher_logits=self.ask(X))
            yield Batch(X, targets, batch.n_rows)


def augmented(augment: Callable[[Any], Any], X: Any) -> Any:
    """Apply ``augment`` to a copy of X, because X may be a view of the data.

    Raises
    ------
    ValueError
        If the result is not a tensor with the same number of rows, or does not have the parts of X.
    """
    with torch.no_grad():
        made = augment(X.clone().given() if isinstance(X, Parts) else X.clone())
    if isinstance(X, Parts):
        return _augmented_parts(made, X)
    if not isinstance(made, Tensor) or made.ndim == 0 or len(made) != len(X):
        got = f"shape {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
        raise ValueError(
            f"augment must map a batch of inputs to a tensor with the same number of rows; from shape "
            f"{tuple(X.shape)} it made {got}."
        )
    return made


def _augmented_parts(made: Any, X: Parts) -> Parts:
    parts = parts_of_output(made, X)
    if parts is None:
        raise ValueError(
            f"augment must map a batch of inputs to one of the same parts, each a tensor of {len(X)} rows; "
            f"from a {type(X.given()).__name__} of {X.row_shape!r} it made a {type(made).__name__}."
        )
    return parts


def evaluation_batches(dataset: Any, **settings: Any) -> TensorBatches | LoadedBatches:
    """Return batches of a :class:`DistillationData` without augmentation, as skorch's ``iterator_valid``."""
    return dataset.batches(dataset, **settings)


def training_batches(dataset: Any, **settings: Any) -> Iterable[Batch]:
    """Return batches of a :class:`DistillationData` with its augmentation, as skorch's ``iterator_train``."""
    batches = dataset.training_batches(settings)
    return batches if dataset.augmentation is None else AugmentedBatches(batches, *dataset.augmentation)


class CyclicBatches:
    """Yields batches endlessly, pass after pass, each in a new order.

    Parameters
    ----------
    make : callable() -> TensorBatches or LoadedBatches
        Makes the batches of a pass. Called when the first batch is taken.
    """

    def __init__(self, make: Callable[[], TensorBatches | LoadedBatches]) -> None:
        self._make = make
        self._batches: TensorBatches | LoadedBatches | None = None
        self._pass: Iterator[Batch] = iter(())
        self._pass_start: dict[str, Any] | None = None
        self._n_taken = 0

    def __next__(self) -> Batch:
        batch = next(self._pass, None)
        if batch is None:
            self._begin_pass()
            batch = next(self._pass)
        self._n_taken += 1
        return batch

    def _begin_pass(self) -> None:
        if self._batches is None:
            self._batches = self._make()
        self._pass_start, self._n_taken = self._batches.state_dict(), 0
        self._pass = iter(self._batches)

    def state_dict(self) -> dict[str, Any]:
        """Return the state at the start of the current pass, and the number of batches taken from it.

        ``pass_start`` is None before the first batch.
        """
        return {"pass_start": self._pass_start, "n_taken": self._n_taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of :meth:`state_dict`; batches already taken are made again and skipped."""
        if state["pass_start"] is None:
            self._batches, self._pass, self._pass_start, self._n_taken = None, iter(()), None, 0
            return
        self._batches = self._make()
        self._batches.load_state_dict(state["pass_start"])
        self._begin_pass()
        for _ in range(state["n_taken"]):
            next(self._pass)
        self._n_taken = state["n_taken"]


def check_batches_state(state: dict[str, Any]) -> None:
    """Raise an error unless all values of a ``state_dict`` of batches are generator states."""
    for part in state.values():
        torch.Generator().set_state(part["generator"])


_ARGUMENTS = tuple(
    name for name in inspect.signature(TensorBatches).parameters if name not in ("dataset", "order", "ranks")
)


def iterator_arguments(loaded: bool) -> list[str]:
    """Return the names that ``iterator_train__*`` and ``iterator_valid__*`` may set.

    Parameters
    ----------
    loaded : bool
        True if a DataLoader loads the rows of a Dataset.
    """
    if loaded:
        return loader_arguments()
    return list(_ARGUMENTS)
