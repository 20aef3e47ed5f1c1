"""The processes that train one student together, and their communication.

Each process ("rank") has the whole student and its own share of the rows of every batch. Values that must be
equal on all ranks go through :class:`Ranks`, by collective operations: every process must call the same
methods in the same order, or the others wait until the time limit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

# Seconds that a process waits for the others before it ends with an error: torch's own limit. The end of a
# process is noticed at once.
TIMEOUT = 1800.0
# Seconds that making a group may take. The end of a process during this time is not noticed sooner.
_MEETING = 60.0


class LostRanks(RuntimeError):
    """Another process has failed, was ended, or did not answer in time."""


class Ranks:
    """The processes that train one student together. Without a group, one process; all methods are trivial.

    Parameters
    ----------
    group : ProcessGroup or None, default=None
        Group of all processes of torch.distributed. Its backends must take tensors of the CPU and of the
        student's device. :meth:`joined` makes one.
    timeout : float, default=1800
        Time limit of the group in seconds, for messages.

    Attributes
    ----------
    rank : int
        Number of this process, from 0.
    size : int
        Number of processes.
    patient : Ranks
        The same processes with a longer time limit, for example while the first one trains the teacher.
    """

    def __init__(self, group: Any = None, *, timeout: float = TIMEOUT) -> None:
        self._group, self._timeout = group, timeout
        self.rank = 0 if group is None else dist.get_rank(group)
        self.size = 1 if group is None else dist.get_world_size(group)
        self.patient = self
        self._closed = False

    @classmethod
    def joined(cls, *, timeout: float = TIMEOUT) -> Ranks:
        """Return the ranks of all processes of torch.distributed, which must be initialised.

        They have their own group, so that the user's messages do not mix with theirs. All processes must call
        this method within a minute.

        Parameters
        ----------
        timeout : float, default=1800
            Seconds that a process waits for the others before it raises an error.
        """
        from torch.distributed.distributed_c10d import _set_pg_timeout  # which not every build of torch has

        has_nccl = "nccl" in str(dist.get_backend_config())
        backend = "cpu:gloo,cuda:nccl" if has_nccl else "gloo"
        group = dist.new_group(backend=backend, timeout=timedelta(seconds=min(timeout, _MEETING)))
        _set_pg_timeout(timedelta(seconds=timeout), group)
        return cls(group, timeout=timeout)

    def close(self) -> None:
        """Leave the group. Processes that wait for this one end with an error, as later calls here do."""
        if self._group is not None:
            self._closed, group, self._group = True, self._group, None
            dist.destroy_process_group(
                group
            )  # this also drops the last reference, which holds the connection

    @property
    def is_first(self) -> bool:
        """True in the process that writes files and prints."""
        return self.rank == 0

    # ----------------------------------------------------------------------------------
    # Rows

    def own(self, rows: Any) -> Any:
        """Return this process's share of a batch's rows: every ``size``-th row from the ``rank``-th on."""
        return rows if self.size == 1 else rows[self.rank :: self.size]

    def weight_of(self, n_own: int, n_rows: int) -> float:
        """Return the weight of a mean over own rows, such that the mean over processes is over all rows."""
        return n_own * self.size / n_rows

    def joined_rows(self, own: Tensor, n_rows: int) -> Tensor:
        """Return all ``n_rows`` rows. Each process gives those at its :meth:`padded_places`."""
        if self.size == 1:
            return own
        found = self._all_gathered(own)
        return torch.stack(found, dim=1).flatten(0, 1)[:n_rows]

    def padded_places(self, n_rows: int) -> Tensor:
        """Return own places among ``n_rows``, the same number in all processes, so some may occur twice."""
        n_own = -(-n_rows // self.size)
        return (torch.arange(n_own) * self.size + self.rank).clamp(max=n_rows - 1)

    # ----------------------------------------------------------------------------------
    # Tensors

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over processes, with one message per dtype."""
        if self.size > 1:
            self._reduce_(tensors, lambda whole: whole.div_(self.size))

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over processes, with one message per dtype."""
        if self.size > 1:
            self._reduce_(tensors, lambda whole: whole)

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor's values by the first process's."""
        if self.size == 1:
            return
        for alike in _by_type(tensors):
            whole = _flat(alike)
            with self._waiting():
                dist.broadcast(whole, dist.get_global_rank(self._group, 0), group=self._group)
            _copy_back(whole, alike)

    def _reduce_(self, tensors: Sequence[Tensor], finish: Callable[[Tensor], Tensor]) -> None:
        for alike in _by_type(tensors):
            whole = _flat(alike)
            with self._waiting():
                dist.all_reduce(whole, group=self._group)
            _copy_back(finish(whole), alike)

    def _all_gathered(self, own: Tensor) -> list[Tensor]:
        sent = own.detach().contiguous()
        if sent.is_cuda and "nccl" not in str(dist.get_backend_config(self._group)):
            sent = sent.cpu()  # gloo gathers only on the host
        found = [torch.empty_like(sent) for _ in range(self.size)]
        with self._waiting():
            dist.all_gather(found, sent, group=self._group)
        return [t.to(own.device) for t in found]

    # ----------------------------------------------------------------------------------
    # Decisions and objects

    def all(self, flag: bool) -> bool:
        """Return whether a flag is true in all processes."""
        return bool(flag) if self.size == 1 else self._n_true(not flag) == 0

    def any(self, flag: bool) -> bool:
        """Return whether a flag is true in any process."""
        return bool(flag) if self.size == 1 else self._n_true(flag) > 0

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.any(False)

    def broadcast(self, value: Any) -> Any:
        """Return the first process's object; the others' objects are ignored."""
        if self.size == 1:
            return value
        box = [value if self.is_first else None]
        with self._waiting():
            source = dist.get_global_rank(self._group, 0)
            dist.broadcast_object_list(box, source, group=self._group, device=torch.device("cpu"))
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Return the objects of all processes, by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with self._waiting():
            dist.all_gather_object(found, value, group=self._group)
        return found

    def check_same(self, values: Mapping[str, Any]) -> None:
        """Raise an error in all processes unless each named value is the same in all of them.

        Parameters
        ----------
        values : mapping of str to object
            Values, compared by ``repr``; tensors and arrays are compared by their bits.

        Raises
        ------
        RuntimeError
            If values differ.
        """
        if self.size == 1:
            return
        found = self.gather({name: _digest(value) for name, value in values.items()})
        names = dict.fromkeys(name for of in found for name in of)  # other processes may have other names
        different = [name for name in names if any(of.get(name) != found[0].get(name) for of in found)]
        if different:
            raise RuntimeError(
                f"The {self.size} processes that train one student differ in {', '.join(different)}. Call "
                "fit with the same arguments and the same data in all of them."
            )

    def _n_true(self, flag: bool) -> int:
        count = torch.tensor(int(flag))
        with self._waiting():
            dist.all_reduce(count, group=self._group)
        return int(count)

    # ----------------------------------------------------------------------------------

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Re-raise errors of communication with the cause and the time limit."""
        if self._closed:
            raise LostRanks(f"Process {self.rank} of {self.size} has left the others.")
        try:
            yield
        except RuntimeError as error:
            raise LostRanks(
                f"Process {self.rank} of {self.size} lost the others: one has failed or was ended, or did "
                f"not answer within {self._timeout:g} s. The first error of the others is the cause. "
                f"({str(error).splitlines()[0]:.300})"
            ) from error

    def __copy__(self) -> Ranks:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:
        return self

    def __reduce__(self) -> Any:
        return _alone, ()  # a group belongs to its processes, so an unpickled object is a single process


ALONE = Ranks()


def _alone() -> Ranks:
    return ALONE


def _by_type(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Group tensors by type and device, in order of first occurrence."""
    found: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return list(found.values())


def _flat(tensors: list[Tensor]) -> Tensor:
    """Return a copy of the numbers of all tensors in one vector."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


@torch.no_grad()
def _copy_back(whole: Tensor, tensors: list[Tensor]) -> None:
    parts = whole.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.reshape(tensor.shape))


def _digest(value: Any) -> str:
    """Return a digest of a value, or of the bits of a tensor or an array."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):  # its repr would omit digits
        return hashlib.sha256(value.tobytes()).hexdigest()
    return hashlib.sha256(repr(value).encode()).hexdigest()
