"""Hold D_train as a stream: its head in memory as a sample, its batches read during training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.inputs._batches import Batch, BatchOrder
from sklearn_kd.inputs._data import DistillationData, as_input, as_tensor
from sklearn_kd.inputs._parts import Parts, concatenated
from sklearn_kd.inputs._streams import Share, Stream, check_divided, chunk_loader, labels_of
from sklearn_kd.inputs._torch_datasets import Collation
from sklearn_kd.runtime._ranks import ALONE, Ranks
from sklearn_kd.tasks._targets import Targets


@dataclass(frozen=True, eq=False)
class BoundStream:
    """A stream, with what a fit knows about its items.

    Attributes
    ----------
    stream : Stream
    encode : callable(ndarray) -> ndarray
        Returns the codes of labels; raises ValueError for a label that is not among the classes.
    sample_shape : tuple
        Shape that each sample must have.
    keeps_integers : bool
        Whether integers keep their type, because the student looks them up.
    """

    stream: Stream
    encode: Callable[[np.ndarray], np.ndarray]
    sample_shape: tuple[Any, ...]
    keeps_integers: bool = False

    def collation(self, collate_fn: Callable | None) -> Collation:
        """Return a collation that makes chunks of the stream's items."""
        shape = None if self.keeps_integers else self.sample_shape
        return Collation(
            "X", collate_fn, labeled=True, sample_shape=shape, keeps_integers=self.keeps_integers
        )


class StreamData(DistillationData):
    """The head of a stream as tensors, used in every check; training batches come from the stream.

    Parameters
    ----------
    head : DistillationData
        The stream's first rows.
    bound : BoundStream
    """

    def __init__(self, head: DistillationData, bound: BoundStream) -> None:
        super().__init__(head._inputs, head._targets, head.seed, head.places)
        self.bound = bound

    def training_batches(self, settings: Mapping[str, Any]) -> StreamBatches:
        """Return the batches of the stream."""
        return StreamBatches(self, **settings)

    def check_divided(self, ranks: Ranks, loader: Mapping[str, Any]) -> None:
        """Raise ValueError in all processes if two workers or processes would read the same rows."""
        share = Share(ranks.rank, ranks.size)
        check_divided(
            self.bound.stream,
            loader.get("num_workers", 0),
            ranks.gather,
            share,
            self.bound.collation(loader.get("collate_fn")),
        )

    def streamed_batch(self, x: Tensor | Parts, labels: np.ndarray) -> Batch:
        """Return the batch of these rows on the device."""
        x = x.to(self.device, non_blocking=self.device.type == "cuda")
        return Batch(as_input(x), Targets(as_tensor(self.bound.encode(labels), self.device)))


class StreamBatches:
    """Reads one pass of a stream per epoch, in batches of the sizes given by :class:`BatchOrder`.

    Parameters
    ----------
    dataset : StreamData
        Its ``seed`` seeds the workers.
    batch_size, drop_last, ranks
        As in :class:`BatchOrder`.
    shuffle : bool, default=False
        No effect: rows come in the order of the stream.
    collate_fn : callable or None, default=None
        Makes a list of items into a batch.
    **loader
        Settings of the DataLoader.
    """

    def __init__(
        self,
        dataset: StreamData,
        batch_size: int = 128,
        shuffle: bool = False,
        drop_last: bool = False,
        collate_fn: Callable | None = None,
        ranks: Ranks = ALONE,
        **loader: Any,
    ) -> None:
        self.dataset, self._loader = dataset, loader
        self._stream = dataset.bound.stream
        self._collate = dataset.bound.collation(collate_fn)
        self.order = BatchOrder(self._stream.n_rows, batch_size, drop_last=drop_last, ranks=ranks)
        self._generator = torch.Generator().manual_seed(dataset.seed)
        self._n_passes = 0

    def __len__(self) -> int:
        return len(self.order)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of the next pass, and the state of the generator that seeds its workers."""
        return {"workers": {"generator": self._generator.get_state(), "n_passes": self._n_passes}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of :meth:`state_dict`, so that the next pass is the one that followed it."""
        self._generator.set_state(state["workers"]["generator"])
        self._n_passes = state["workers"]["n_passes"]

    def __iter__(self) -> Iterator[Batch]:
        self._stream.begin_pass(self._n_passes)
        self._n_passes += 1
        sizes = [part.stop - part.start for part in self.order.slices]
        ranks, loader = self.order.ranks, {"generator": self._generator, **self._loader}
        loader["share"] = Share(ranks.rank, ranks.size)
        rows = _Rows(chunk_loader(self._stream, self._collate, sizes, **loader))
        for k, size in enumerate(sizes):
            n_own = len(self.order.own(range(size)))
            x, labels = rows.take(n_own)
            if len(labels) < n_own:
                raise ValueError(self._message(f"ended after {rows.n_taken:,}"))
            batch = self.dataset.streamed_batch(x, labels)
            batch.n_rows = self.order.n_rows(k)
            yield batch
        if self._stream.is_counted and self.order.slices[-1].stop == self.order.n and not rows.at_end():
            raise ValueError(self._message(f"went on after {rows.n_taken:,}"))

    def _message(self, what: str) -> str:
        n_processes = self.order.ranks.size
        own = "" if n_processes == 1 else f" in one of {n_processes} processes"
        whence = "len(dataset)" if self._stream.is_counted else "n_rows"
        mend = (
            "Do the workers of iterator_train__num_workers read the same items, or parts of a part? See "
            "stride of Stream. Otherwise correct n_rows."
        )
        return f"X {what} rows of a pass{own}, and {whence} says that an epoch has {self.order.n:,}. {mend}"


class _Rows:
    """Regroups the rows of chunks of any size into batches of given sizes."""

    def __init__(self, chunks: Iterator[Any]) -> None:
        self._chunks, self._waiting, self.n_taken = chunks, [], 0  # type: ignore[var-annotated]

    def take(self, n_rows: int) -> tuple[Any, np.ndarray]:
        """Return the inputs and labels of the next rows, fewer if the stream ends."""
        n_waiting = sum(len(labels) for _, labels in self._waiting)
        while n_waiting < n_rows and (chunk := next(self._chunks, None)) is not None:
            self._waiting.append((chunk.x, labels_of(chunk.labels)))
            n_waiting += len(chunk)
        if not self._waiting:
            return None, np.empty(0)
        x, labels = self._waiting[0]
        if len(self._waiting) > 1:
            x = concatenated([x for x, _ in self._waiting])
            labels = np.concatenate([labels for _, labels in self._waiting])
        self._waiting = [(x[n_rows:], labels[n_rows:])] if n_waiting > n_rows else []
        self.n_taken += min(n_rows, n_waiting)
        return x[:n_rows], labels[:n_rows]

    def at_end(self) -> bool:
        """Return True if there are no more rows."""
        return not self._waiting and next(self._chunks, None) is None
