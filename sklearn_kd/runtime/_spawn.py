"""Start processes on this machine that train one student together, and return the result."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import wait
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.backend.reduction import dump, dumps
from joblib.parallel import get_active_backend
from torch import Tensor

from sklearn_kd.runtime._process_group import RankError

# Arrays and tensors of at least this many bytes are written once and mapped by all processes.
_MAPPED_FROM = 2**20
_PID = "pid"  # the file with the number of the first process
# Seconds between the parent's checks of its processes, and theirs of the parent.
_LOOK = 0.1
# Seconds in which the processes must end by themselves after Ctrl-C, and after one of them has failed.
GRACE = 60.0


def inside_joblib() -> bool:
    """Return whether this code runs in a worker or a thread started by joblib."""
    return bool(getattr(get_active_backend()[0], "nesting_level", 0))


def run_in_processes(function: Callable[[], Any], n_processes: int, device: torch.device) -> Any:
    """Call a function in processes that form a torch.distributed group; return the first one's result.

    The processes are loky's: they need no ``if __name__ == "__main__"``, and take functions and classes of a
    notebook. Large arrays in the function are written once, and mapped by each process. The output of the
    first process is printed here, and its warnings are issued here. All processes have ended when this
    function returns.

    Parameters
    ----------
    function : callable()
        Function to call in each process. Its result must be picklable.
    n_processes : int
    device : torch.device
        On CUDA, each process gets a GPU.

    Raises
    ------
    RuntimeError
        If a process is killed.
    KeyboardInterrupt
        At the second Ctrl-C, or if the first does not end the processes within 60 s.
    """
    folder = Path(tempfile.mkdtemp(prefix="sklearn-kd-", dir=os.environ.get("JOBLIB_TEMP_FOLDER")))
    threads = str(max(1, (os.cpu_count() or 1) // n_processes))
    own = {name: os.environ.get(name, threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    executor = ProcessPoolExecutor(n_processes, timeout=GRACE, env=own)
    try:
        _write(folder / "main", _classes_of_main())
        try:
            with (folder / "function").open("wb") as file:
                dump(function, file, reducers=_mapping(folder))
        except (TypeError, pickle.PicklingError) as error:
            raise TypeError(
                f"parallel={n_processes} sends the estimator and its data to other processes, but part of "
                f"them cannot be pickled: {error}. Remove this part, or start the script with torchrun and "
                "set parallel='ddp', which sends nothing."
            ) from error
        futures = [
            executor.submit(_rank, str(folder), rank, n_processes, device.type, os.getpid())
            for rank in range(n_processes)
        ]
        _attend(futures, folder, n_processes)
        return _result(folder)
    finally:
        executor.shutdown(wait=True, kill_workers=True)
        shutil.rmtree(folder, ignore_errors=True)


# --------------------------------------------------------------------------------------
# Here


def _classes_of_main() -> dict[str, bytes]:
    """Return the classes of the script or notebook, pickled by value.

    skorch, for example, pickles classes by name, but the processes have another main module.
    """
    found = {}
    for name, value in vars(sys.modules["__main__"]).items():
        if isinstance(value, type) and value.__module__ == "__main__":
            with suppress(Exception):  # the fit does not need a class that cannot be pickled
                found[name] = bytes(dumps(value))
    return found


def _attend(futures: list[Any], folder: Path, n_processes: int) -> None:
    """Wait for the processes, print the first one's output, forward Ctrl-C, and raise a process's error."""
    output, pending, deadline, interrupted = _Output(folder), set(futures), float("inf"), False
    while pending:
        try:
            done, pending = wait(pending, timeout=_LOOK)
            output.show()
            if any(_failed(future) for future in done) and deadline == float("inf"):
                deadline = time.monotonic() + GRACE
            if time.monotonic() > deadline:
                break
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted, deadline = True, time.monotonic() + GRACE
            _hand_on_interrupt(folder)
    output.show()
    if pending and interrupted:
        raise KeyboardInterrupt(f"the {n_processes} processes did not end within {GRACE:g} s, and were ended")
    killed = [future.exception() for future in futures if future.done() and future.exception() is not None]
    if killed and interrupted:
        raise KeyboardInterrupt("in the processes of parallel, before there was a student to keep")
    if killed:
        raise RuntimeError(
            f"parallel={n_processes}: one of the processes was killed, and the others were ended "
            f"({str(killed[0]).splitlines()[0]:.200}). The usual cause is lack of memory. With "
            "checkpoint_dir, the same fit continues from its last checkpoint."
        ) from killed[0]
    errors = [_read(folder / f"error-{k}") for k in range(n_processes) if (folder / f"error-{k}").exists()]
    if errors:
        raise _first_cause(errors)


def _failed(future: Any) -> bool:
    return future.exception() is not None or future.result() == "error"


def _first_cause(errors: list[BaseException]) -> BaseException:
    """Return the error that is not the consequence of another."""
    return next((error for error in errors if not isinstance(error, RankError)), errors[0])


def _hand_on_interrupt(folder: Path) -> None:
    """Interrupt the first process, which stops all others.

    A signal to another process could arrive after that has stopped, and would end it with an error.
    """
    with suppress(OSError, ValueError):
        os.kill(int((folder / _PID).read_text()), signal.SIGINT)


def _result(folder: Path) -> Any:
    value, caught = _read(folder / "result")
    for message, category, filename, line in caught:
        warnings.warn_explicit(message, category, filename, line)
    return value


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        return pickle.load(file)  # written by a process of this fit


class _Output:
    """The output of the first process so far."""

    def __init__(self, folder: Path) -> None:
        self._path, self._shown = folder / "output", 0

    def show(self) -> None:
        """Print the new output."""
        if not self._path.exists():
            return
        with self._path.open(encoding="utf-8") as file:
            file.seek(self._shown)
            text = file.read()
            self._shown = file.tell()
        if text:
            sys.stdout.write(text)
            sys.stdout.flush()


def _mapping(folder: Path) -> dict[type, Callable[[Any], Any]]:
    """Return the reducers that write large arrays and tensors into files of their own."""

    def path() -> str:
        return str(folder / f"array-{len(list(folder.glob('array-*')))}")

    def reduce_array(array: np.ndarray) -> Any:
        if array.nbytes < _MAPPED_FROM or array.dtype.hasobject:
            return array.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        where = path()
        with open(where, "wb") as file:
            np.save(file, array, allow_pickle=False)
        return _mapped_array, (where,)

    def reduce_tensor(tensor: Tensor) -> Any:
        if tensor.nbytes < _MAPPED_FROM or not tensor.is_cpu or tensor.layout is not torch.strided:
            return tensor.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        where = path()
        torch.save(tensor.detach().contiguous().clone(), where)
        return _mapped_tensor, (where,)

    return {np.ndarray: reduce_array, np.memmap: reduce_array, Tensor: reduce_tensor}


def _mapped_array(path: str) -> np.ndarray:
    """Return an array mapped from a file. Other processes do not see changes to it."""
    return np.load(path, mmap_mode="c", allow_pickle=False)


def _mapped_tensor(path: str) -> Tensor:
    found: Tensor = torch.load(path, mmap=True, weights_only=True)
    return found


# --------------------------------------------------------------------------------------
# In each of the processes


def _rank(folder: str, rank: int, size: int, device: str, parent: int) -> str:
    """Join the others, call the function, and write its result or error to the folder."""
    where = Path(folder)
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # a terminal's Ctrl-C goes to the parent, which forwards it once
    _end_with(parent)
    if not rank:
        (where / _PID).write_text(str(os.getpid()))  # the process that the parent interrupts
    with (where / "output").open("a", encoding="utf-8") if not rank else open(os.devnull, "w") as shown:
        try:
            _join(where, rank, size, device)
            with warnings.catch_warnings(record=True) as caught, redirect_stdout(_Unbuffered(shown)):
                warnings.simplefilter("always")
                for name, content in _read(where / "main").items():
                    setattr(sys.modules["__main__"], name, pickle.loads(content))
                value = _read(where / "function")()
            if not rank:
                found = [(w.message, w.category, w.filename, w.lineno) for w in caught]
                _write(where / "result", (value, found))
            return "ok"
        except BaseException as error:
            _write_error(where / f"error-{rank}", error)
            return "error"
        finally:
            if dist.is_initialized():
                with suppress(RuntimeError):
                    dist.destroy_process_group()


def _join(folder: Path, rank: int, size: int, device: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size))
    names = {name for _, name in socket.if_nameindex()} if hasattr(socket, "if_nameindex") else set()
    for name in ("lo", "lo0"):  # all are on this machine: nothing is listened to from outside
        if name in names:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    if device == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
        init_method=(folder / "rendezvous").as_uri(),
        rank=rank,
        world_size=size,
    )


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, for example because it was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if os.getppid() == parent:  # otherwise, as on Windows, the parent cannot be watched
        threading.Thread(target=watch, daemon=True).start()


def _write(path: Path, value: Any) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        dump(value, file)
    part.replace(path)


def _write_error(path: Path, error: BaseException) -> None:
    try:
        _write(path, error)
        _read(path)
    except Exception:  # pickling an error may fail, and so may loading it again
        _write(path, RuntimeError(f"{type(error).__name__}: {error}"))


class _Unbuffered:
    """A text file that is flushed at each write, so that the parent shows lines at once."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Write and flush."""
        n: int = self._file.write(text)
        self._file.flush()
        return n

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
