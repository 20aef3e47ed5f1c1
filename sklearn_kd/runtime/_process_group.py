"""Join the processes started by torchrun, ``accelerate launch`` or this library, for one fit."""

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

# Seconds that the other ranks wait for work that the first rank does alone, such as training the teacher.
# The end of a rank is noticed at once.
PATIENCE = 7 * 24 * 3600.0
# Seconds that a failed rank waits for the others to learn of its failure.
FAREWELL = 20.0


class RankError(RuntimeError):
    """Another rank has failed. The message has its number and its error."""


def count_launched() -> int:
    """Return the number of launched processes from torch.distributed or the environment; 1 without either."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    size = os.environ.get("WORLD_SIZE", "1")
    return int(size) if size.isdigit() else 1


def join(device: torch.device) -> None:
    """Join torch.distributed with the settings in the environment, unless this process has joined already.

    The process stays a member until it ends, because torch cannot join the same launch twice. On CUDA, the
    process gets the GPU with the number of its ``LOCAL_RANK``.

    Raises
    ------
    ValueError
        If the environment lacks the address of the first process, or there are fewer GPUs than processes.
    """
    if dist.is_initialized():
        return
    if device.type == "cuda":
        _take_gpu()
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    except ValueError as error:
        raise ValueError(
            f"parallel='ddp' joins the processes started by torchrun or accelerate launch, but {error}"
        ) from error
    atexit.register(_leave)


def _take_gpu() -> None:
    """Make "cuda" mean the GPU with this process's number on its machine."""
    local, n_gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= n_gpus:
        raise ValueError(
            f"parallel='ddp': this is process {local + 1} on a machine with {n_gpus} GPUs. Start at most "
            "one process per GPU (torchrun --nproc-per-node), or set device='cpu'."
        )
    torch.cuda.set_device(local)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def by_first(ranks: Ranks, work: Callable[[], Result]) -> Result:
    """Call ``work`` on the first rank while the others wait, and return the result on all ranks.

    Parameters
    ----------
    ranks : Ranks
    work : callable()
        Function that returns an object that can be pickled.

    Raises
    ------
    RankError
        On the other ranks, if ``work`` fails.
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
    """Join the launched processes for one fit. Give :data:`ALONE` if there is only one process.

    An error on one rank ends all ranks: it leaves, so that ranks waiting for it end too, and all exchange the
    error.

    Raises
    ------
    RankError
        If another rank has failed with an error of its own, and this one has not.
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
    _part(outcomes, None)  # do this first, because another rank may still wait for this one's last message
    _close(groups)


def _met() -> tuple[Ranks, Ranks]:
    """Wait until all processes are here. Return their ranks, and the ranks that exchange outcomes."""
    try:
        if "gloo" in str(dist.get_backend_config()):  # it notices a rank that has ended; new groups do not
            dist.all_reduce(torch.zeros(()))
        ranks, outcomes = Ranks.joined(), Ranks.joined(timeout=PATIENCE)
        ranks.patient = Ranks.joined(timeout=PATIENCE)
    except RuntimeError as error:
        raise RankError(
            f"Rank {dist.get_rank()} of {dist.get_world_size()} ends because another rank did not call fit "
            f"or has ended ({str(error).splitlines()[0]:.200}). Call fit with parallel='ddp' in each process."
        ) from error
    return ranks, outcomes


def _close(groups: list[Ranks]) -> None:
    for group in groups:
        group.close()


def _part(outcomes: Ranks, error: BaseException | None) -> None:
    """Tell the other ranks the outcome here, and raise an error if another rank has failed."""
    told = _exchanged(outcomes, error)
    rank, size = outcomes.rank, outcomes.size
    outcomes.close()
    if error is not None and not isinstance(error, LostRanks):
        return  # it is raised unchanged
    if told is None:
        raise RankError(
            f"Rank {rank} of {size} ends because another rank was killed or its machine was lost before it "
            "could report an error. The usual cause is lack of memory. With checkpoint_dir, the same fit "
            "continues from its last checkpoint."
        ) from error
    failed = [(k, *outcome) for k, outcome in enumerate(told) if outcome is not None]
    if not failed:
        return
    k, kind, text = next((one for one in failed if one[1] != LostRanks.__name__), failed[0])
    if kind == KeyboardInterrupt.__name__:
        raise KeyboardInterrupt(f"rank {k} was interrupted") from error
    raise RankError(_of_rank(k, size, kind, text)) from error


def _exchanged(outcomes: Ranks, error: BaseException | None) -> list[Any] | None:
    """Return the outcome on all ranks, or None if one has ended or does not answer in time."""
    found: list[Any] = []

    def exchange() -> None:
        with suppress(RuntimeError):  # a rank has been killed
            found.append(outcomes.gather(_described(error)))

    thread = threading.Thread(target=exchange, daemon=True)
    thread.start()
    # Without an error, the others may still be working; with one, they learn of it at the next exchange.
    thread.join(None if error is None else FAREWELL)
    return found[0] if found else None


def _described(error: BaseException | None) -> tuple[str, str] | None:
    return None if error is None else (type(error).__name__, str(error))


def _of_rank(rank: int, size: int, kind: str, text: str) -> str:
    return f"Rank {rank} of {size} failed, so all ranks end: {kind}: {text}"
