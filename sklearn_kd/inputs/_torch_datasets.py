"""Load the rows of a user's ``torch.utils.data.Dataset`` with a DataLoader.

The items are ``(x, label)``, or a dict with the label as "labels" or "label". If the labels are given
separately, an item may also be x alone, or x followed by anything. x is a tensor, or a dict or a tuple of
tensors.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, default_collate

from sklearn_kd.inputs._arrays import from_torch
from sklearn_kd.inputs._parts import LABEL_KEYS, Parts, in_batch_type

# Arguments of a DataLoader that make_loader sets itself. random_state seeds the order of the rows.
_SET_HERE = {"dataset", "sampler", "batch_sampler", "generator"}


def is_dataset(X: Any) -> bool:
    """Return True if X is a torch Dataset, whose rows are loaded item by item."""
    return isinstance(X, Dataset)


def loader_arguments() -> list[str]:
    """Return the names of the DataLoader's arguments that a user may set."""
    return [name for name in inspect.signature(DataLoader).parameters if name not in _SET_HERE]


class DatasetRows(Dataset):
    """Rows of a Dataset, with the length, shape and indexing of an array.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset
        Map-style: with ``__getitem__`` and ``__len__``.
    collate_fn : callable or None, default=None
        Makes a batch of a list of items, to check the first items.
    name : str, default="X"
        Name of the Dataset in messages.

    Attributes
    ----------
    samples : Tensor of shape (2, ...) or Parts of 2 rows
        The first two rows, or the only one.
    keeps_integers : bool
        Whether items that are one tensor of integers keep their type.

    Raises
    ------
    TypeError
        If the dataset cannot be counted and indexed.
    ValueError
        If the dataset is empty, or its items do not make a batch.
    """

    samples: Any
    sample_shape: tuple[Any, ...] | None = None  # None until the first items have been read
    keeps_integers = False

    def __init__(self, dataset: Dataset, collate_fn: Callable | None = None, name: str = "X") -> None:
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise TypeError(
                f"{name} is a {type(dataset).__name__}, whose rows cannot be counted and picked by "
                "index, which a split and cached teacher logits need. Give a map-style Dataset, with "
                "__len__ and __getitem__, or, to fit a classifier, sklearn_kd.Stream(dataset, n_rows=..., "
                "classes=...)."
            )
        if len(dataset) == 0:
            raise ValueError(f"{name} is empty: {type(dataset).__name__} has 0 samples (items).")
        self.dataset, self.name = dataset, name
        self.samples, _, _ = BatchFetcher(self, collate_fn)[list(range(min(2, len(dataset))))]
        self.sample_shape = tuple(self.samples.shape[1:])
        if isinstance(self.samples, Parts):
            return
        if self.samples.is_meta:
            raise ValueError(
                f"{name} has items on the device 'meta', which hold no numbers. Make them on a CPU, outside "
                "torch.device('meta')."
            )
        if self.samples.is_complex():
            raise ValueError(
                f"{name} has complex items, of {self.samples.dtype}, and students take real numbers. Give "
                "real and imaginary parts as two channels, as torch.view_as_real does."
            )

    @property
    def shape(self) -> tuple[Any, ...]:
        """Shape (n, ...) of an array with these rows."""
        return len(self), *self.samples.shape[1:]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, rows: np.ndarray) -> DatasetRows:
        """Return the rows at these indices, in this order."""
        some = copy.copy(self)
        some.dataset = Subset(self.dataset, rows.tolist())  # not every Dataset takes NumPy's integers
        return some

    def with_integers(self) -> DatasetRows:
        """Return the same rows, whose items are one tensor of integers, as rows that keep this type."""
        kept = copy.copy(self)
        kept.samples = Parts(None, [in_batch_type(self.samples)])
        kept.sample_shape, kept.keeps_integers = tuple(kept.samples.shape[1:]), True
        return kept


def concatenated_rows(parts: Sequence[DatasetRows]) -> DatasetRows:
    """Return the rows of several Datasets, one after another, under the name of the first.

    Their items may have different forms, x and ``(x, anything)``: batches are made of x alone. Only a
    ``collate_fn`` of the user's gets items as they are.
    """
    all_rows = copy.copy(parts[0])
    all_rows.dataset = ConcatDataset([part.dataset for part in parts])
    return all_rows


class Collation:
    """Collates a list of items into ``(x, labels)``, and checks the result.

    Parameters
    ----------
    name : str
        Name of the Dataset in messages.
    collate_fn : callable or None, default=None
        Makes a batch of a list of items. None: torch's ``default_collate``.
    labeled : bool, default=False
        Whether to return the labels of the items; otherwise ``labels`` is None.
    sample_shape : tuple or None, default=None
        Shape that every sample must have. None: any.
    keeps_integers : bool, default=False
        Whether items that are one tensor of integers keep their type.
    without_labels : str
        Advice in the message if items have no label.
    """

    def __init__(
        self,
        name: str,
        collate_fn: Callable | None = None,
        labeled: bool = False,
        sample_shape: tuple[Any, ...] | None = None,
        keeps_integers: bool = False,
        without_labels: str = "Give y (y_val for X_val).",
    ) -> None:
        self.without_labels = without_labels
        self.name, self.collate_fn, self.labeled = name, collate_fn, labeled
        self.sample_shape, self.keeps_integers = sample_shape, keeps_integers

    def __call__(self, items: list[Any]) -> tuple[Any, Any]:
        n_rows, batch = len(items), self._collated(items)
        if isinstance(batch, Mapping):
            batch = _without_label(batch)
        x, *rest = batch if isinstance(batch, (tuple, list)) else (batch,)
        if isinstance(x, (Mapping, tuple, list)):
            x = self._parts_of(x, n_rows)
        elif self.keeps_integers and isinstance(x, Tensor):
            x = Parts(None, [in_batch_type(x)])
        elif not isinstance(x, Tensor) or x.ndim < 2 or len(x) != n_rows:
            got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(
                f"{n_rows} items of {self.name} must make a batch of inputs, a tensor of shape "
                f"({n_rows}, ...) with at least two dimensions; got {got}. Make the items "
                "(x, label) or x, with x a tensor or an array, or give iterator_train__collate_fn "
                "and iterator_valid__collate_fn."
            )
        if self.sample_shape is not None and tuple(x.shape[1:]) != self.sample_shape:
            raise ValueError(
                f"{self.name} has samples of shape {tuple(x.shape[1:])}, but its first ones have shape "
                f"{self.sample_shape}. All must have one shape: resize or crop them in the Dataset or in "
                "a collate_fn."
            )
        if self.labeled and len(rest) != 1:
            raise ValueError(
                f"The items of {self.name} must be pairs (x, label) if labels are not given separately; "
                f"they have {1 + len(rest)} part(s). {self.without_labels}"
            )
        labels = rest[0] if self.labeled else None
        if labels is not None and len(labels) != n_rows:
            raise ValueError(
                f"The items of {self.name} must be pairs (x, label). The label is a number or a string, a "
                "tensor of 0 and 1 for several labels, or a map of integers; "
                f"{n_rows} items made a batch of {len(labels)} labels."
            )
        return x, labels

    def _parts_of(self, x: Any, n_rows: int) -> Parts:
        """Return the parts of a batch as tensors in the types of a batch."""
        given = dict(x) if isinstance(x, Mapping) else dict(enumerate(x))
        for key, part in given.items():
            if not isinstance(part, Tensor) or part.ndim == 0 or len(part) != n_rows:
                got = f"shape {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
                raise ValueError(
                    f"{n_rows} items of {self.name} must make a batch whose parts are tensors of {n_rows} "
                    f"rows; {self.name}[{key!r}] made {got}. Leave it out of the items, or turn it into "
                    "numbers."
                )
        keys = tuple(map(str, given)) if isinstance(x, Mapping) else len(given)
        return Parts(keys, [in_batch_type(part) for part in given.values()])

    def _collated(self, items: list) -> Any:
        if self.collate_fn is not None:
            return self.collate_fn(items)
        if not self.labeled:  # anything may follow x
            items = [item[0] if isinstance(item, (tuple, list)) else item for item in items]
        try:
            return default_collate(items)
        except (RuntimeError, TypeError, ValueError, KeyError) as error:
            raise ValueError(
                f"Items of {self.name} cannot be made a batch: {error}. Are they of differing shapes? Give "
                "iterator_train__collate_fn and iterator_valid__collate_fn, which make a batch of a list "
                "of items."
            ) from error


class BatchFetcher(Dataset):
    """Loads whole batches: ``fetcher[indices]`` is (x, labels, indices).

    A batch carries its indices, so that the targets of its rows can be found for any order and any number of
    workers.

    Parameters
    ----------
    rows : DatasetRows
    collate_fn, labeled
        As in :class:`Collation`.
    """

    def __init__(self, rows: DatasetRows, collate_fn: Callable | None = None, labeled: bool = False) -> None:
        self._collate = Collation(rows.name, collate_fn, labeled, rows.sample_shape, rows.keeps_integers)
        self.items = Subset(rows.dataset, range(len(rows)))

    def __getitem__(self, indices: list[int]) -> tuple[Any, Any, Tensor]:
        x, labels = self._collate(self.items.__getitems__(indices))
        return x, labels, torch.tensor(indices)


def _without_label(batch: Mapping[str, Any]) -> list[Any]:
    """Return the inputs of a batch of dicts, and the labels if it has any."""
    labels = [batch[key] for key in LABEL_KEYS if key in batch]
    return [{key: part for key, part in batch.items() if key not in LABEL_KEYS}, *labels[:1]]


def make_loader(
    rows: DatasetRows,
    order: Iterable[list[int]],
    *,
    seed: int = 0,
    labeled: bool = False,
    collate_fn: Callable | None = None,
    **settings: Any,
) -> DataLoader:
    """Return a DataLoader of (x, labels or None, indices) with the batches of ``order``.

    Parameters
    ----------
    rows : DatasetRows
    order : iterable of lists of int
        The indices of each batch.
    seed : int, default=0
        Seed of the workers. A DataLoader would otherwise draw it from torch's global generator.
    labeled, collate_fn
        As in :class:`BatchFetcher`.
    **settings
        Arguments of the DataLoader, such as ``num_workers``.
    """
    generator = torch.Generator().manual_seed(seed)
    fetcher = BatchFetcher(rows, collate_fn, labeled)
    return DataLoader(fetcher, batch_size=None, sampler=order, generator=generator, **settings)


def make_ordered_loader(
    rows: DatasetRows, *, batch_size: int, labeled: bool = False, **settings: Any
) -> DataLoader:
    """Return a loader of all rows in order, in batches of ``batch_size`` (−1: all at once)."""
    size = len(rows) if batch_size == -1 else batch_size
    starts = range(0, len(rows), size)
    order = [list(range(start, min(start + size, len(rows)))) for start in starts]
    settings = {k: v for k, v in settings.items() if k not in ("shuffle", "drop_last", "in_order")}
    return make_loader(rows, order, labeled=labeled, **settings)


def labeled_rows(
    dataset: Dataset,
    check: Callable[[Any, int, str, str], np.ndarray],
    y: Any = None,
    name: str = "X",
    **settings: Any,
) -> tuple[DatasetRows, np.ndarray]:
    """Return the rows of a Dataset and their labels.

    Parameters
    ----------
    dataset : Dataset
    check : callable
        ``check(labels, n_rows, name of the labels, name of the rows)`` returns the checked labels.
    y : array-like of shape (n,) or None, default=None
        None: read the labels from the Dataset.
    name : str, default="X"
        Name of the Dataset in messages.
    **settings
        As in :func:`make_ordered_loader`.

    Raises
    ------
    TypeError
        If the dataset cannot be counted and indexed.
    ValueError
        If its items do not make batches, or y has another length or more dimensions.
    """
    rows = DatasetRows(dataset, settings.get("collate_fn"), name)
    called = "y" if name == "X" else "y_val"
    if y is None:
        read_labels = (labels for _, labels, _ in make_ordered_loader(rows, labeled=True, **settings))
        called = f"the label in the items of {name}"
        parts = [np.asarray(from_torch(labels, f"The labels in {name}")) for labels in read_labels]
        shapes = list(dict.fromkeys(part.shape[1:] for part in parts))
        if len(shapes) > 1:
            raise ValueError(
                f"{name} has labels of differing shapes, such as {shapes[0]} and {shapes[1]}. Resize or crop "
                "maps, and their images, to one shape in the Dataset or in a collate_fn."
            )
        y = np.concatenate(parts)
    return rows, check(y, len(rows), called, name)
