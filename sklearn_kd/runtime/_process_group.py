"""Join the processes that torchrun, ``accelerate launch`` or this library has started, for one fit."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from sklearn_kd.runtime._ranks import ALONE, LostRanks, Ranks

Result = TypeVar("Result")

# How long the other ranks wait for work that the first does alone, such as the teacher's training, in
# seconds. A rank that has ended is noticed at once.
PATIENCE = 7 * 24 * 3600.0
# How long a rank that has failed waits for the others to hear of it.
FAREWELL = 20.0


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

    It stays one until it ends: torch cannot join the same launch twice. On CUDA the process gets the GPU of
    its ``LOCAL_RANK``.

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


def by_first(ranks: Ranks, work: Callable[[], Result]) -> Result:
    """Return what ``work`` returns on the first rank, which alone does it while the others wait.

    Parameters
    ----------
    ranks : Ranks
    work : callable()
        Returns an object that can be pickled.

    Raises
    ------
    RankError
        On the others, if the first's work fails.
    """
    if ranks.size == 1:
        return work()
    found: Any = None
    if ranks.is_first:
        try:
            found = work(), None
        except Exception as error:
            ranks.patient.broadcast((None, _described(error)))
            raise
    value, failure = ranks.patient.broadcast(found)
    if failure is not None:
        kind, text = failure
        raise RankError(_of_rank(0, ranks.size, kind, text))
    return value


@contextmanager
def ranked_fit(device: torch.device) -> Iterator[Ranks]:
    """Join the launched processes for one fit; :data:`ALONE` if there is one only.

    An error of one rank ends all: it leaves, so that others that wait for it end too, and all tell each other
    what has happened.

    Raises
    ------
    RankError
        If another rank has failed by an error of its own, and this one has not.
    KeyboardInterrupt
        If another rank was interrupted.
    """
    if count_launched() == 1:
        yield ALONE
        return
    join(device)
    ranks, outcomes = _met()
    groups = [ranks, ranks.patient]
    try:
        yield ranks
    except BaseException as error:
        _close(groups)
        _part(outcomes, error)
        raise
    _part(outcomes, None)  # first: another may still wait for this one's last message
    _close(groups)


def _met() -> tuple[Ranks, Ranks]:
    """Wait until all processes are here; return their ranks, and those that tell how the fit went."""
    try:
        if "gloo" in str(dist.get_backend_config()):  # which notices one that has gone, as new groups do not
            dist.all_reduce(torch.zeros(()))
        ranks, outcomes = Ranks.joined(), Ranks.joined(timeout=PATIENCE)
        ranks.patient = Ranks.joined(timeout=PATIENCE)
    except RuntimeError as error:
        raise RankError(
            f"Rank {dist.get_rank()} of {dist.get_world_size()} ends: another did not come to fit, or has "
            f"ended ({str(error).splitlines()[0]:.200}). Call fit with parallel='ddp' in all processes."
        ) from error
    return ranks, outcomes


def _close(groups: list[Ranks]) -> None:
    for group in groups:
        group.close()


def _part(outcomes: Ranks, error: BaseException | None) -> None:
    """Tell the other ranks how it went here, and raise what another's error means for this one."""
    told = _exchanged(outcomes, error)
    rank, size = outcomes.rank, outcomes.size
    outcomes.close()
    if error is not None and not isinstance(error, LostRanks):
        return  # it is raised as it is
    if told is None:
        raise RankError(
            f"Rank {rank} of {size} ends: another was killed, or its machine was lost, before it could say "
            "why (memory that ran out is the usual cause). With checkpoint_dir the same fit goes on from its "
            "last checkpoint."
        ) from error
    failed = [(k, *outcome) for k, outcome in enumerate(told) if outcome is not None]
    if not failed:
        return
    k, kind, text = next((one for one in failed if one[1] != LostRanks.__name__), failed[0])
    if kind == KeyboardInterrupt.__name__:
        raise KeyboardInterrupt(f"rank {k} was interrupted") from error
    raise RankError(_of_rank(k, size, kind, text)) from error


def _exchanged(outcomes: Ranks, error: BaseException | None) -> list[Any] | None:
    """Return how it went on all ranks; None if one has gone, or does not answer in time."""
    found: list[Any] = []

    def exchange() -> None:
        with suppress(RuntimeError):  # a rank has been killed
            found.append(outcomes.gather(_described(error)))

    thread = threading.Thread(target=exchange, daemon=True)
    thread.start()
    # Without an error the others may still be at work; with one they hear of it when they next exchange.
    thread.join(None if error is None else FAREWELL)
    return found[0] if found else None


def _described(error: BaseException | None) -> tuple[str, str] | None:
    return None if error is None else (type(error).__name__, str(error))


def _of_rank(rank: int, size: int, kind: str, text: str) -> str:
    return f"Rank {rank} of {size} failed, so that all end: {kind}: {text}"
