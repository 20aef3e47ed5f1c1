"""Set the number of torch's threads to suit the size of the work, for the calling thread, and restore it.

A thread that waits for others to finish their part of an operation spins. For a small network it waits
longer than it works, and much longer next to other busy processes. The number of threads therefore follows
the size of the largest operation.

The number is that of OpenMP and MKL for the calling thread. It is never raised above the number set by the
environment, ``torch.set_num_threads``, joblib or dask. ``torch.set_num_threads`` also sets a number for the
process, which threads inherit when they first use torch. They must not inherit ours, so the libraries are
called directly if possible; otherwise another thread restores the process's number at once.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch

# Multiply-adds of the largest operation that each thread needs, and the multiply-adds of a tensor's element.
# Measured by examples/benchmarks/threads.py; docs/guide/speed.rst has the table.
PER_THREAD = 2_000_000
PER_ELEMENT = 8


class threads_for:
    """Set the number of torch's threads for operations of this size inside; restore it, also after errors.

    A number that code inside sets with ``torch.set_num_threads`` is kept.

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
            most = self._outer[1]  # the block around this one has set the current number
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
    """The number of threads set by this thread's innermost block, and its upper limit."""

    numbers: tuple[int, int] | None = None


_inside = _Inside()


def _paying(operations: float, most: int) -> int:
    """Return the number of threads, at least 1 and at most ``most``."""
    return most if operations >= most * PER_THREAD else max(1, int(operations // PER_THREAD))


# --------------------------------------------------------------------------------------
# Setting the number


def _set_here(n_threads: int) -> Callable[[], object]:
    """Set the number for this thread only; return a function that restores the previous number."""
    global _setter
    if _setter is None:
        _setter = _find_setter()
    return _setter(n_threads)


def _find_setter() -> Callable[[int], Callable[[], object]]:
    if "ATen parallel backend: OpenMP" not in torch.__config__.parallel_info():
        return _keep  # torch's own pool has a fixed size
    return _direct_setter() or _set_beside_process


def _keep(n_threads: int) -> Callable[[], object]:
    return lambda: None


def _direct_setter() -> Callable[[int], Callable[[], object]] | None:
    """Return a setter that calls the libraries loaded by torch, or None if they cannot be called."""
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
    # Otherwise this is another OpenMP than torch's.
    return setter if found == before + 1 and torch.get_num_threads() == before else None


def _set_beside_process(n_threads: int) -> Callable[[], object]:
    """Set the number with torch, while another thread saves and restores the process's number."""
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
    # A thread that held the lock during the fork does not exist in this process and cannot release it.
    global _process_lock
    _process_lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_replace_lock)
