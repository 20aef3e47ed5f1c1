"""Batches: their order, and how they are cut from tensors, loaded, or augmented."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sklearn_kd._loading import load, loader_arguments
from sklearn_kd._losses import Targets
from sklearn_kd._random import preserved_random_state
from sklearn_kd._students import check_student_output


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


class BatchOrder:
    """Which of n rows make up which batch; a pass gives a list of indices for each.

    A last batch of a single row joins the one before it, because batch normalisation cannot
    use it.

    Parameters
    ----------
    n : int
    batch_size : int, default=128
        −1: all rows.
    shuffle : bool, default=False
        A new order in each pass.
    drop_last : bool, default=False
        Leave out a last batch that is not full, unless it is the only one.
    seed : int, default=0
        Of the generator that shuffles; the global ones are left alone.

    Attributes
    ----------
    places : list of slice
        Where each batch stands in the order of a pass.
    """

    def __init__(
        self, n: int, batch_size: int = 128, shuffle: bool = False, drop_last: bool = False, seed: int = 0
    ):
        self.n, self.shuffle = n, shuffle
        size = n if batch_size == -1 else batch_size
        starts = list(range(0, n, size))
        stops = [*starts[1:], n]
        last = n - starts[-1]
        if len(starts) > 1 and drop_last and last < size:
            del starts[-1], stops[-1]
        elif len(starts) > 1 and last == 1:
            del starts[-1], stops[-2]
        self.places = [slice(*ends) for ends in zip(starts, stops, strict=True)]
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.places)

    def draw(self) -> Tensor | None:
        """The order of the next pass, shape (n,); None where the rows are not shuffled."""
        return torch.randperm(self.n, generator=self._generator) if self.shuffle else None

    def __iter__(self) -> Iterator[list[int]]:
        # A generator, which draws when a pass begins: a DataLoader with workers calls iter twice.
        drawn = self.draw()
        order = list(range(self.n)) if drawn is None else drawn.tolist()
        for place in self.places:
            yield order[place]


class TensorBatches:
    """Whole batches cut from tensors: no per-sample access, no collation, no workers.

    Takes the DataLoader's arguments that make sense for that.

    Parameters
    ----------
    dataset : DistillationData
    batch_size, shuffle, drop_last
        As in :class:`BatchOrder`; the data set has the seed.
    """

    def __init__(self, dataset, batch_size=128, shuffle=False, drop_last=False):
        self.dataset = dataset
        self.order = BatchOrder(len(dataset), batch_size, shuffle, drop_last, dataset.seed)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        order = self.order.draw()
        order = None if order is None else order.to(self.dataset.device)
        for place in self.order.places:
            yield self.dataset.batch(place if order is None else order[place])


class LoadedBatches:
    """Batches whose rows a DataLoader fetches: the same rows as :class:`TensorBatches` cuts.

    Parameters
    ----------
    dataset : LoadedData
    batch_size, shuffle, drop_last
        As in :class:`BatchOrder`; the data set has the seed.
    **loader
        As in :func:`load`.
    """

    def __init__(self, dataset, batch_size=128, shuffle=False, drop_last=False, **loader):
        self.dataset = dataset
        self.order = BatchOrder(len(dataset), batch_size, shuffle, drop_last, dataset.seed)
        self._loader = load(dataset.rows, self.order, seed=dataset.seed, **loader)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        for x, _, rows in self._loader:
            yield self.dataset.batch(x, rows)


class AugmentedBatches:
    """Training batches, augmented, with the teacher's answers about what came of it.

    Parameters
    ----------
    batches : TensorBatches or LoadedBatches
    augment : callable(Tensor) -> Tensor
    ask : callable(Tensor) -> Tensor, or None
        The teacher's logits of a batch. None: there is no teacher.
    """

    def __init__(self, batches, augment, ask: Callable[[Tensor], Tensor] | None = None):
        self.batches, self.augment, self.ask = batches, augment, ask

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            X, targets = augmented(self.augment, batch[0]), batch.targets
            if self.ask is not None:
                targets = targets._replace(teacher_logits=self.ask(X))
            yield Batch(X, targets)


def augmented(augment: Callable[[Tensor], Tensor], X: Tensor) -> Tensor:
    """What ``augment`` makes of a copy of X, which may be a view of the data.

    Raises
    ------
    ValueError
        If it is no batch of as many rows.
    """
    with torch.no_grad():
        made = augment(X.clone())
    if not isinstance(made, Tensor) or made.ndim == 0 or len(made) != len(X):
        got = f"shape {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
        raise ValueError(
            f"augment must map a batch of inputs to a tensor of as many rows; from shape "
            f"{tuple(X.shape)} it made {got}."
        )
    return made


def checked_augmentation(augment, teacher, samples: Tensor, student: nn.Module, classes) -> tuple | None:
    """``augment`` and whom to ask about what it makes, tried on some samples; None if it is None.

    Raises
    ------
    ValueError
        If it makes no batch of as many rows, or one that student or teacher cannot take.
    """
    if augment is None:
        return None
    with preserved_random_state(samples.device):
        made = augmented(augment, samples)
    try:
        check_student_output(student, made, len(classes))
    except ValueError as error:
        raise ValueError(f"What augment makes does not suit the student: {error}") from error
    ask = None if teacher is None else teacher.on(samples.device, classes)
    if ask is not None:
        ask(made)
    return augment, ask


def evaluation_batches(dataset, **settings: Any) -> TensorBatches | LoadedBatches:
    """The rows as they are: skorch's ``iterator_valid``."""
    return dataset.batches(dataset, **settings)


def training_batches(dataset, **settings: Any) -> Iterable[Batch]:
    """The rows augmented, where they are to be: skorch's ``iterator_train``."""
    batches = evaluation_batches(dataset, **settings)
    return batches if dataset.augmentation is None else AugmentedBatches(batches, *dataset.augmentation)


def endlessly(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Batch after batch, in a new order after each pass."""
    while True:
        yield from batches


def iterator_arguments(loaded: bool) -> list[str]:
    """What the routed parameters ``iterator_train__*`` and ``iterator_valid__*`` may set."""
    if loaded:
        return loader_arguments()
    return [name for name in inspect.signature(TensorBatches).parameters if name != "dataset"]
