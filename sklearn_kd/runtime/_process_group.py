"""Join the processes that torchrun, ``accelerate launch`` or this library has started, for one fit."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from sklearn_kd.runtime._ranks import LostRanks, Ranks

Result = TypeVar("Result")

# How long the other ranks wait for work that the first does alone, such as the teacher's training, in seconds.
# A rank that has ended is noticed at once.
PATIENCE = 7 * 24 * 3600.0
# How long a rank that has failed waits for the others to hear of it.
_FAREWELL = 20.0


class RankError(RuntimeError):
    """Another rank has failed; the message has its number and its error."""


def count_launched() -> int:
    """Return how many processes the environment or torch.distributed says were launched; 1 without either."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    size = os.environ.get("WORLD_SIZE", "1")
    return int(size) if size.isdigit() else 1


def join(device: torch.device) -> None:
    """Make this process one of torch.distributed, by the environment, unless it is one already.

    It stays one until it ends: torch cannot join the same launch twice. On CUDA the process gets the GPU of its
    ``LOCAL_RANK``.

    Raises
    ------
    ValueError
        If the environment does not say where the first process is, or there are fewer GPUs than processes.
    """
    if dist.is_initialized():
        return
    if device.type == "cuda":
        _take_gpu()
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    except ValueError as error:
        raise ValueError(
            f"parallel='ddp' joins the processes that torchrun or accelerate launch has started, and {error}"
        ) from error
    atexit.register(_leave)


def _take_gpu() -> None:
    """Let "cuda" mean the GPU of this process's number on its machine."""
    local, n_gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= n_gpus:
        raise ValueError(
            f"parallel='ddp': this is process {local + 1} on a machine that has {n_gpus} GPUs. Start at most "
            "one process for each GPU (torchrun --nproc-per-node), or set device='cpu'."
        )
    torch.cuda.set_device(local)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


class RankedFit:
    """One fit on several ranks: what they exchange, and how an error of one ends all.

    Attributes
    ----------
    ranks : Ranks
        For the training.
    """

    def __init__(self) -> None:
        self.ranks = Ranks.joined()
        self._patient = Ranks.joined(timeout=PATIENCE)
        self._outcomes = Ranks.joined(timeout=PATIENCE)

    def by_first(self, work: Callable[[], Result]) -> Result:
        """Return what ``work`` returns on the first rank, which alone does it; the others wait.

        Parameters
        ----------
        work : callable()
            Returns an object that can be pickled. Its error is raised on all ranks.
        """
        return by_first(self._patient, work)

    def end(self, error: BaseException | None) -> None:
        """Leave the ranks, and tell each other how it went.

        Parameters
        ----------
        error : BaseException or None
            Of this rank.

        Raises
        ------
        RankError
            If another rank has failed by an error of its own, and this one has not.
        KeyboardInterrupt
            If another rank was interrupted.
        """
        if error is not None:  # others that wait for this rank end with LostRanks, and come here too
            self.ranks.close()
            self._patient.close()
        told = _exchanged(self._outcomes, _described(error))
        rank = self._outcomes.rank
        for part in (self.ranks, self._patient, self._outcomes):
            part.close()
        if error is not None and not isinstance(error, LostRanks):
            return  # it is raised as it is
        if told is None:
            if error is not None:
                raise RankError(
                    f"Rank {rank} of {self._outcomes.size} ends: another was killed, or its machine was lost, "
                    "before it could say why (memory that ran out is the usual cause). With checkpoint_dir the same "
                    "fit goes on from its last checkpoint."
                ) from error
            return
        failed = [(k, *outcome) for k, outcome in enumerate(told) if outcome is not None]
        own = [(k, kind, text) for k, kind, text in failed if kind != LostRanks.__name__]
        if not failed:
            return
        k, kind, text = (own or failed)[0]
        if kind == KeyboardInterrupt.__name__:
            raise KeyboardInterrupt(f"rank {k} was interrupted")
        raise RankError(f"Rank {k} of {len(told)} failed, so that all end: {kind}: {text}") from error


def by_first(ranks: Ranks, work: Callable[[], Result]) -> Result:
    """Return what ``work`` returns on the first rank; its error is raised on all ranks."""
    if ranks.size == 1:
        return work()
    found: Any = None
    if ranks.is_first:
        try:
            found = work(), None
        except Exception as error:
            ranks.broadcast((None, _described(error)))
            raise
    value, failure = ranks.broadcast(found)
    if failure is not None:
        kind, text = failure
        raise RankError(f"Rank 0 of {ranks.size} failed, so that all end: {kind}: {text}")
    return value  # type: ignore[no-any-return]


def _described(error: BaseException | None) -> tuple[str, str] | None:
    return None if error is None else (type(error).__name__, str(error))


def _exchanged(ranks: Ranks, outcome: Any) -> list[Any] | None:
    """Return the outcomes of all ranks; None if one has gone, or does not answer in time."""
    found: list[Any] = []

    def exchange() -> None:
        try:
            found.append(ranks.gather(outcome))
        except RuntimeError:
            pass  # a rank has been killed

    thread = threading.Thread(target=exchange, daemon=True)
    thread.start()
    thread.join(None if outcome is None else _FAREWELL)
    return found[0] if found else None


@contextmanager
def ranked_fit(device: torch.device) -> Iterator[RankedFit | None]:
    """Join the launched processes for one fit; None if there is one only."""
    if count_launched() == 1 and not (dist.is_available() and dist.is_initialized()):
        yield None
        return
    join(device)
    if dist.get_world_size() == 1:
        yield None
        return
    fit = RankedFit()
    try:
        yield fit
    except BaseException as error:
        fit.end(error)
        raise
    fit.end(None)
