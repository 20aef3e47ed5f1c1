"""Share a teacher's answers among ranks: the first sends its own, or each asks about a share of rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sklearn_kd.runtime._ranks import Ranks
from sklearn_kd.teachers._logit_store import LogitStorage, LogitStore

BatchT = TypeVar("BatchT")

# Most bytes in one message.
_MESSAGE = 2**26


def send_answers(
    ranks: Ranks, logits: Tensor | None, device: torch.device, storage: LogitStorage, who: str
) -> Tensor:
    """Send the first rank's logits to all ranks; the others store them as ``storage`` says.

    Parameters
    ----------
    ranks : Ranks
    logits : Tensor of shape (n, ...) or None
        None on all ranks but the first.
    device : torch.device
        Device of the student.
    storage : LogitStorage
    who : str
        Name of the teacher in messages.
    """
    about = None if logits is None else (tuple(logits.shape), logits.dtype)
    shape, dtype = ranks.broadcast(about)
    row_bytes = dtype.itemsize * math.prod(shape[1:])
    if logits is not None:
        for part in _messages(shape[0], row_bytes):
            ranks.broadcast_([logits[part].to(device, copy=True)])
        return logits
    store = LogitStore(shape[0], storage, who)
    for part in _messages(shape[0], row_bytes):
        received = torch.empty((part.stop - part.start, *shape[1:]), dtype=dtype, device=device)
        ranks.broadcast_([received])
        store.append(received)
    return store.finish()


def own_batches(batches: Iterable[BatchT], ranks: Ranks) -> Iterator[BatchT]:
    """Yield the batches that this rank asks about: every ``size``-th.

    All ranks ask equally often: at the end, some ranks get the last batch again.
    """
    together: list[BatchT] = []
    for batch in batches:
        together.append(batch)
        if len(together) == ranks.size:
            yield together[ranks.rank]
            together = []
    if together:
        yield together[min(ranks.rank, len(together) - 1)]


def gathered(answers: Iterable[Tensor], n_rows: int, ranks: Ranks) -> Iterator[Tensor]:
    """Yield the answers to all batches in order, from each rank's answers to its :func:`own_batches`."""
    n_before = 0
    for own in answers:
        sizes = ranks.gather(len(own))
        padded = own if len(own) == max(sizes) else nn.functional.pad(own, _behind(own, max(sizes)))
        by_rank = ranks.joined_rows(padded, max(sizes) * ranks.size)
        for rank, size in enumerate(sizes):
            if n_before < n_rows:
                yield by_rank[rank :: ranks.size][:size]
                n_before += size


class OwnBatches:
    """A data set restricted to the batches that one rank asks about."""

    def __init__(self, data: Any, ranks: Ranks) -> None:
        self._data, self._ranks = data, ranks

    def iter_batches(self, n_rows: int) -> Iterator[Any]:
        """Yield this rank's batches of ``n_rows`` rows."""
        return own_batches(self._data.iter_batches(n_rows), self._ranks)

    def __len__(self) -> int:
        return len(self._data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)


def _behind(own: Tensor, n_rows: int) -> list[int]:
    """Return the padding for ``torch.nn.functional.pad`` that makes a tensor ``n_rows`` long."""
    return [0, 0] * (own.ndim - 1) + [0, n_rows - len(own)]


def _messages(n_rows: int, row_bytes: int) -> Iterator[slice]:
    size = max(1, _MESSAGE // max(1, row_bytes))
    return (slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size))
