"""Use as many threads as the work pays for, in this thread alone, and put the number back.

A thread that waits for others to finish their part of an operation spins. For a small network it waits
longer than it works, and beside other busy processes much longer. So the number of threads follows the size
of the largest operation.

The number is that of OpenMP and MKL for the calling thread. It is never raised: what the environment,
``torch.set_num_threads``, joblib or dask have set is the most. ``torch.set_num_threads`` itself also sets a
number of the process, which threads take over that use torch for the first time. They must not find ours: the
libraries are asked directly where that is possible, and else another thread puts that number back at once.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch

# Multiply-adds of the largest operation that each thread must have, and what an element of a tensor counts.
# Measured by examples/benchmarks/threads.py; docs/guide/speed.rst has the table.
PER_THREAD = 2_000_000
PER_ELEMENT = 8


class threads_for:
    """Set the number of torch's threads inside for operations of this size; put it back after errors too.

    A number that code inside sets by ``torch.set_num_threads`` stays.

    Parameters
    ----------
    operations : float
        Multiply-adds of the largest operation; ``math.inf`` keeps the number.
    """

    __slots__ = ("_operations", "_outer", "_set", "_undo")

    def __init__(self, operations: float):
        self._operations = operations

    def __enter__(self) -> None:
        current = torch.get_num_threads()
        self._outer = _inside.numbers
        most = current
        if self._outer is not None and current == self._outer[0]:
            most = self._outer[1]  # of a block around this one, which has set the current number
        self._set = _paying(self._operations, most)
        self._undo = None if self._set == current else _set_here(self._set)
        _inside.numbers = self._set, most

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        _inside.numbers = self._outer
        if self._undo is not None and torch.get_num_threads() == self._set:
            self._undo()


class _Inside(threading.local):
    """The number that the innermost block of this thread has set, and the most that it may be."""

    numbers: tuple[int, int] | None = None


_inside = _Inside()


def _paying(operations: float, most: int) -> int:
    """Return the number of threads, at least 1 and at most ``most``."""
    return most if operations >= most * PER_THREAD else max(1, int(operations // PER_THREAD))


# --------------------------------------------------------------------------------------
# Setting the number


def _set_here(n_threads: int) -> Callable[[], object]:
    """Set the number of this thread alone; return a function that puts back what was there."""
    global _setter
    if _setter is None:
        _setter = _find_setter()
    return _setter(n_threads)


def _find_setter() -> Callable[[int], Callable[[], object]]:
    if "ATen parallel backend: OpenMP" not in torch.__config__.parallel_info():
        return _keep  # torch's own pool has one size for good
    return _direct_setter() or _set_beside_process


def _keep(n_threads: int) -> Callable[[], object]:
    return lambda: None


def _direct_setter() -> Callable[[int], Callable[[], object]] | None:
    """Return a setter that asks the libraries that torch has loaded; None if they cannot be asked."""
    try:
        libraries = ctypes.PyDLL(torch._C.__file__)
        set_openmp: Any = libraries.omp_set_num_threads
        set_mkl: Any = libraries.MKL_Set_Num_Threads_Local if torch.backends.mkl.is_available() else None
    except (OSError, AttributeError):
        return None
    before = torch.get_num_threads()

    def setter(n_threads: int) -> Callable[[], object]:
        openmp = torch.get_num_threads()
        mkl = None if set_mkl is None else set_mkl(n_threads)  # 0: it follows OpenMP
        set_openmp(n_threads)

        def undo() -> None:
            set_openmp(openmp)
            if mkl is not None:
                set_mkl(mkl)

        return undo

    undo = setter(before + 1)
    found = torch.get_num_threads()
    undo()
    # Else this is another OpenMP than torch's.
    return setter if found == before + 1 and torch.get_num_threads() == before else None


def _set_beside_process(n_threads: int) -> Callable[[], object]:
    """Set the number by torch; another thread reads the number of the process before and sets it again."""
    before = torch.get_num_threads()
    with _process_lock:
        read, changed = threading.Event(), threading.Event()

        def keep_for_others() -> None:
            number = torch.get_num_threads()  # this thread is new to torch
            read.set()
            changed.wait()
            torch.set_num_threads(number)

        helper = threading.Thread(target=keep_for_others)
        helper.start()
        read.wait()
        try:
            torch.set_num_threads(n_threads)
        finally:
            changed.set()
            helper.join()
    return lambda: _set_beside_process(before)


_setter: Callable[[int], Callable[[], object]] | None = None
_process_lock = threading.Lock()


def _replace_lock() -> None:
    # A thread that held the lock when this process was forked does not exist here to release it.
    global _process_lock
    _process_lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_replace_lock)
