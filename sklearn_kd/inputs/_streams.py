"""Read streams: rows that come one after another, more than fit into memory.

A stream is read in chunks. The user states what a fit must know beforehand (:class:`Stream`); the rest is
read from the first rows, the head.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from sklearn_kd.inputs._arrays import from_torch
from sklearn_kd.inputs._parts import Parts, concatenated
from sklearn_kd.inputs._torch_datasets import Collation
from sklearn_kd.runtime._memory import nbytes
from sklearn_kd.runtime._random_state import preserved_random_state

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# The head: at most this many rows and bytes, but at least the third number of rows.
_HEAD_ROWS, _HEAD_BYTES, _HEAD_LEAST = 1024, 2**26, 16
_HEAD_CHUNK = 16
WITHOUT_LABELS = "Make each item (x, label), or a dict with the label as 'label'."
# Number of first rows of each reader to compare; with ``stride``, number of labels.
_COMPARED, _COMPARED_LABELS = 8, 64


class Stream:
    """Rows for ``fit`` that are read one after another in each epoch, and never all held in memory.

    A stream cannot be counted or searched. Therefore a ``Stream`` states how many rows an epoch has, and
    which labels exist.

    Parameters
    ----------
    dataset : torch.utils.data.IterableDataset, or another iterable that can be begun again
        Each ``iter(dataset)`` begins a pass. Items are ``(x, label)``, or a dict with the label as "labels"
        or "label", as in a map-style Dataset. The student is trained on them in this order: shuffle them in
        the dataset. If the dataset has a method ``set_epoch``, it is called before each pass with the number
        of the pass, from 0.
    n_rows : int or None, default=None
        Number of rows in an epoch, at least 2. None: ``len(dataset)``, and each pass must have exactly that
        many. A stated number cuts an endless or a long stream; a shorter pass is refused.
    classes : array-like of shape (n_classes,) or None, default=None
        All labels. None: those of D_val, given as ``X_val`` and ``y_val``. Any other label in the stream
        ends the fit with an error.
    stride : bool, default=False
        How rows are divided among the workers of a DataLoader (``iterator_train__num_workers``) and the
        processes of a fit. False: the dataset divides them, by ``torch.utils.data.get_worker_info()`` and by
        the rank, as ``datasets`` and WebDataset do by worker. True: each worker and process reads all items
        and takes its own. This works for every dataset that gives all items in one order, but reads each
        item several times. The order is then that of one process without workers.

    Raises
    ------
    TypeError
        If the dataset cannot be begun again, or ``n_rows`` is not an integer.
    ValueError
        If the number of rows in an epoch is unknown or below 2, or there are fewer than two classes.

    See Also
    --------
    sklearn_kd.teachers.StoredAnswers : A teacher whose answers are stored on disk, once for each row.

    Notes
    -----
    The first rows, at most 1,024 rows and 64 MiB, stay in memory as a sample of the stream. The layer of
    ``standardize=True`` is fitted to them, and ``fit`` checks only them. Therefore the stream must not be
    sorted.

    Nothing is held out of a stream: a strategy that learns from D_val needs ``X_val`` and ``y_val``. The
    teacher must come trained, and is asked about each batch.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from sklearn_kd import DistilledClassifier, MLPStudent, Stream
    >>> class Numbers(torch.utils.data.IterableDataset):
    ...     def __iter__(self):
    ...         rng = np.random.default_rng(0)
    ...         while True:
    ...             x = rng.normal(size=4).astype("float32")
    ...             yield x, "pos" if x.sum() > 0 else "neg"
    >>> stream = Stream(Numbers(), n_rows=2000, classes=["neg", "pos"])
    >>> clf = DistilledClassifier(
    ...     None, MLPStudent, meta="none", max_epochs=5, random_state=0, device="cpu").fit(stream)
    >>> clf.predict(np.ones((1, 4))).tolist()
    ['pos']
    """

    def __init__(
        self,
        dataset: Iterable[Any],
        n_rows: int | None = None,
        classes: ArrayLike | None = None,
        stride: bool = False,
    ) -> None:
        is_iterator = hasattr(dataset, "__next__") and not isinstance(dataset, IterableDataset)
        if is_iterator or not hasattr(dataset, "__iter__"):
            raise TypeError(
                f"Stream: dataset is a {type(dataset).__name__}, which cannot be begun again for each epoch. "
                "Give an IterableDataset, whose __iter__ makes a new iterator."
            )
        self.dataset, self.classes, self.stride = dataset, classes, stride
        self.is_counted = n_rows is None
        self.n_rows = _checked_length(dataset) if n_rows is None else n_rows
        if isinstance(self.n_rows, bool) or not isinstance(self.n_rows, (int, np.integer)):
            raise TypeError(f"Stream: n_rows={n_rows!r} must be an integer, the rows of an epoch.")
        if self.n_rows < 2:
            raise ValueError(f"Stream: n_rows={self.n_rows} must be at least 2, the rows of an epoch.")
        if isinstance(classes, (Set, Mapping)):
            raise TypeError(f"Stream: classes={classes!r} must be a list or an array. Give sorted(classes).")
        if classes is not None and len(np.unique(np.asarray(classes))) < 2:
            raise ValueError(f"Stream: classes={classes!r} must be two or more labels.")

    def __repr__(self) -> str:
        classes = (
            "" if self.classes is None else f", classes={reprlib.repr(np.asarray(self.classes).tolist())}"
        )
        stride = ", stride=True" if self.stride else ""
        return f"Stream({type(self.dataset).__name__}, n_rows={self.n_rows}{classes}{stride})"

    def begin_pass(self, number: int) -> None:
        """Tell the dataset which pass begins, if it has a ``set_epoch``.

        Parameters
        ----------
        number : int
            Number of the pass, from 0.
        """
        set_epoch = getattr(self.dataset, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(number)


def _checked_length(dataset: Any) -> int:
    try:
        return len(dataset)
    except TypeError as error:
        raise ValueError(
            f"Stream: {type(dataset).__name__} has no __len__, so it is not known when an epoch ends. Give "
            "n_rows, the rows of an epoch."
        ) from error


class Share(NamedTuple):
    """The part of the rows read by process ``rank`` of ``size``."""

    rank: int = 0
    size: int = 1


ALL = Share()


class Chunk(NamedTuple):
    """Rows read by a worker: its number, their inputs, and their labels or None."""

    worker: int
    x: Any
    labels: Any

    def __len__(self) -> int:
        return len(self.x)


class _Chunks(IterableDataset):
    """Reads one worker's part of a stream in chunks of several rows.

    With ``stride`` a process takes its rows of each batch, and worker j of W takes batches j, j + W, ….
    """

    def __init__(self, stream: Stream, collate: Collation, sizes: Sequence[int], share: Share) -> None:
        self.dataset, self.stride = stream.dataset, stream.stride
        self.collate, self.sizes, self.share = collate, sizes, share

    def __iter__(self) -> Iterator[tuple[int, Any, Any]]:
        info = get_worker_info()
        worker, n_workers = (0, 1) if info is None else (info.id, info.num_workers)
        items = iter(self.dataset)
        if not self.stride:
            for chunk in _cut(items, repeat(-(-self.sizes[0] // self.share.size))):
                yield worker, *self.collate(chunk)
            return
        for number, batch in enumerate(_cut(items, chain(self.sizes, repeat(self.sizes[0])))):
            own = batch[self.share.rank :: self.share.size]
            if number % n_workers == worker and own:
                yield worker, *self.collate(own)


def _cut(items: Iterator[Any], sizes: Iterable[int]) -> Iterator[list[Any]]:
    """Yield lists of items of these sizes, until there are no more items."""
    for size in sizes:
        part = list(islice(items, size))
        if not part:
            return
        yield part


def chunk_loader(
    stream: Stream,
    collate: Collation,
    sizes: Sequence[int],
    *,
    share: Share = ALL,
    generator: torch.Generator | None = None,
    **settings: Any,
) -> Iterator[Chunk]:
    """Yield the chunks of one pass.

    Parameters
    ----------
    stream : Stream
    collate : Collation
    sizes : sequence of int
        Number of rows in each batch of an epoch, of all processes together.
    share : Share
    generator : torch.Generator or None, default=None
        Seeds the workers.
    **settings
        Settings of the DataLoader, such as ``num_workers``.
    """
    chunks = _Chunks(stream, collate, sizes, share)
    loader = DataLoader(chunks, batch_size=None, generator=generator, **settings)
    return (Chunk(*found) for found in loader)


# --------------------------------------------------------------------------------------
# Before a fit


class Head(NamedTuple):
    """The first rows of a stream: inputs, as one array or in the parts of an item, and labels."""

    x: Any
    labels: np.ndarray


def read_head(stream: Stream, collate_fn: Callable | None) -> Head:
    """Read the first rows of a stream, in this process and with a fixed random state.

    Raises
    ------
    TypeError
        If the dataset cannot be begun again.
    ValueError
        If there are fewer than 2 rows, they make no batches, share memory, or all have one label.
    """
    collate = Collation("X", collate_fn, labeled=True, without_labels=WITHOUT_LABELS)
    parts: list[Any] = []
    labels: list[np.ndarray] = []
    n_read, size, first = 0, 0, None
    with preserved_random_state(torch.device("cpu"), seed=0):
        stream.begin_pass(0)
        items = iter(stream.dataset)
        for chunk in _cut(items, repeat(_HEAD_CHUNK)):
            if collate_fn is None:
                _check_are_tensors(chunk[0])
            _check_memory(chunk)
            first = first if labels else chunk[0]
            x, found = collate(chunk)
            collate.sample_shape = tuple(x.shape[1:])
            parts.append(x)
            labels.append(labels_of(found))
            n_read, size = n_read + len(x), size + nbytes(x.values if isinstance(x, Parts) else [x])
            room = size < _HEAD_BYTES or n_read < _HEAD_LEAST
            if n_read >= min(_HEAD_ROWS, stream.n_rows) or not room:
                break
    _check_begins_again(stream, items, first, collate)
    if n_read < 2:
        raise ValueError(f"X gave {n_read} rows: the stream is empty, or has no second row to learn from.")
    all_labels = np.concatenate(labels)[: stream.n_rows]
    x = concatenated(parts)[: stream.n_rows]
    _check_is_mixed(all_labels)
    return Head(x.map(_as_array).given() if isinstance(x, Parts) else _as_array(x), all_labels)


def labels_of(labels: Any) -> np.ndarray:
    """Return the labels of a chunk as an array with one label for each row.

    Raises
    ------
    ValueError
        If rows have several labels or maps.
    """
    found = np.asarray(from_torch(labels, "The labels in X"))
    if found.ndim != 1:
        raise ValueError(
            f"The items of X have labels of shape {found.shape[1:]}. A stream has one label for each row; "
            "give several labels, or maps, as arrays or as a map-style Dataset."
        )
    return found


def _as_array(values: Tensor) -> np.ndarray:
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def _input_of(item: Any) -> Any:
    return item[0] if isinstance(item, (tuple, list)) and item else item


def _check_are_tensors(item: Any) -> None:
    """Refuse rows that are lists of numbers, since torch would read each number as an input."""
    x = _input_of(item)
    for row in x.values() if isinstance(x, Mapping) else [x]:
        if isinstance(row, list) and row and np.isscalar(row[0]):
            raise ValueError(
                f"The items of X have a list of {len(row)} numbers as x. Give a tensor or an array; a "
                "Hugging Face dataset does so after with_format('torch')."
            )


def _check_memory(items: list[Any]) -> None:
    """Refuse rows that all use the same memory, so that only the last would remain."""
    at = {_memory_of(_input_of(item)) for item in items}
    if len(items) > 1 and len(at) == 1 and None not in at:
        raise ValueError(
            f"The first {len(items)} rows of X are in the same memory, so each batch would repeat its last "
            "row. Have the dataset give a copy of each row, as x.copy() or x.clone()."
        )


def _memory_of(row: Any) -> int | None:
    """Return the address of a row's first numbers; None if they are in no tensor or array."""
    if isinstance(row, Mapping):
        row = next((part for part in row.values() if isinstance(part, (Tensor, np.ndarray))), None)
    if isinstance(row, Tensor):
        return None if row.is_meta else row.data_ptr()
    return row.__array_interface__["data"][0] if isinstance(row, np.ndarray) else None


def _check_begins_again(stream: Stream, items: Any, first: Any, collate: Collation) -> None:
    """Refuse a dataset whose ``__iter__`` returns the same iterator, which continues where it was."""
    if iter(stream.dataset) is not items:
        return
    with preserved_random_state(torch.device("cpu"), seed=0):
        stream.begin_pass(0)
        again = next(iter(stream.dataset), None)
    if again is None or _bytes_of(*collate([again])[::-1]) != _bytes_of(*collate([first])[::-1]):
        raise TypeError(
            f"X: {type(stream.dataset).__name__}.__iter__ gives the same iterator each time, which goes on "
            "where it was; each epoch must begin anew. Return a new one, as a generator function does."
        )


def _check_is_mixed(labels: np.ndarray) -> None:
    if len(labels) > 1 and len(np.unique(labels)) == 1:
        raise ValueError(
            f"The first {len(labels)} rows of X all have the label {labels.tolist()[0]!r}. A student is "
            "trained on a stream in its order: shuffle it, by a buffer or by the order of its files."
        )


def check_divided(
    stream: Stream,
    n_workers: int,
    gather: Callable[[Any], list[Any]],
    share: Share,
    collate: Collation,
) -> None:
    """Refuse a stream if two workers or processes would read the same rows.

    With ``stride`` they must read the same rows, and a stream is refused if they do not. Their first rows
    are compared, which costs one start of the workers.

    Parameters
    ----------
    stream : Stream
    n_workers : int
        Workers of each process's DataLoader.
    gather : callable(object) -> list
        Returns the objects of all processes.
    share : Share
    collate : Collation

    Raises
    ------
    ValueError
        In all processes, if rows are divided wrongly.
    """
    if n_workers < 2 and share.size == 1:
        return
    firsts = dict.fromkeys(range(max(1, n_workers)), b"") if stream.stride else {}
    # With stride, different seeds reveal an order that is drawn from a global generator.
    seed = share.rank if stream.stride else 0
    with preserved_random_state(torch.device("cpu"), seed=seed):
        stream.begin_pass(0)
        first = _Firsts(stream, collate)
        generator = torch.Generator().manual_seed(seed)
        loader = DataLoader(first, batch_size=None, generator=generator, num_workers=n_workers)
        for worker, x, labels in islice(loader, max(1, n_workers)):
            firsts[worker] = _bytes_of(labels) if stream.stride else _bytes_of(labels, x)
    found = [
        (rank, worker, first)
        for rank, own in enumerate(gather(firsts))
        for worker, first in sorted(own.items())
    ]
    if stream.stride:
        for rank, worker, first in found[1:]:
            if first != found[0][2]:
                raise ValueError(_message_of_orders(found[0][:2], (rank, worker), share.size))
        return
    seen: dict[bytes, tuple[int, int]] = {}
    for rank, worker, first in found:
        if first in seen:
            raise ValueError(_message_of_repeats(seen[first], (rank, worker), share.size))
        seen[first] = rank, worker


class _Firsts(IterableDataset):
    """The first rows that each reader of a stream gets, as one chunk."""

    def __init__(self, stream: Stream, collate: Collation) -> None:
        self.dataset, self.collate = stream.dataset, collate
        self.n_rows = _COMPARED_LABELS if stream.stride else _COMPARED

    def __iter__(self) -> Iterator[tuple[int, Any, Any]]:
        info = get_worker_info()
        items = list(islice(iter(self.dataset), self.n_rows))
        if items:
            yield 0 if info is None else info.id, *self.collate(items)


def _bytes_of(labels: Any, x: Any = ()) -> bytes:
    parts = x.values if isinstance(x, Parts) else [x] if isinstance(x, Tensor) else []
    return b"".join(_as_array(part).tobytes() for part in parts) + labels_of(labels).tobytes()


def _names_of(first: tuple[int, int], second: tuple[int, int], n_processes: int) -> list[str]:
    if n_processes > 1:
        return [f"worker {worker} of process {rank}" for rank, worker in (first, second)]
    return [f"worker {worker}" for _, worker in (first, second)]


def _message_of_orders(first: tuple[int, int], second: tuple[int, int], n_processes: int) -> str:
    names = _names_of(first, second, n_processes)
    return (
        f"X gives {names[0]} and {names[1]} different first rows, but stride=True of Stream needs all items "
        "in one order: some would be trained on several times in an epoch, others not at all. Draw the order "
        "from a generator that set_epoch seeds, not from a global one; if the dataset divides its items "
        "itself, leave stride=False."
    )


def _message_of_repeats(first: tuple[int, int], second: tuple[int, int], n_processes: int) -> str:
    names = _names_of(first, second, n_processes)
    # Even without workers, several processes would read the same rows.
    no_workers = "" if n_processes > 1 else ", or set iterator_train__num_workers=0"
    return (
        f"X gives {names[0]} and {names[1]} the same first rows, so that each row would be trained on "
        "several times in an epoch. Divide the items in the dataset, by torch.utils.data.get_worker_info() "
        "and the rank, or give Stream(..., stride=True), with which each reads all items and takes its "
        f"own{no_workers}."
    )
