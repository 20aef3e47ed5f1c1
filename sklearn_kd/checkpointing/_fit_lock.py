"""Lock a folder for one fit, against other threads, other processes, and across forks."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Number of attempts to make a folder, which another fit may remove at its end at the same time.
_TRIES = 100

_GUARD = threading.Lock()
# (process, folder) of each held lock. A fork inherits a copy of this set, but not the locks.
_HELD: set[tuple[int, str]] = set()


class FitLock:
    """A lock on a folder, held until it is released or its process ends in any way.

    The folder is created if it is missing.

    Parameters
    ----------
    folder : Path

    Attributes
    ----------
    held : bool
        Whether this fit holds the lock; False if another fit, in any process, holds it. On a file system
        without locks, fits in other processes go unnoticed.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "lock"
        self._key = os.getpid(), os.path.realpath(folder)
        self._system: Any = None
        with _GUARD:
            self.held = self._key not in _HELD
            if self.held:
                _HELD.add(self._key)
        if not self.held:
            return
        try:
            self.held = self._take()
        finally:
            if not self.held or self._system is None:
                self._forget()

    def _take(self) -> bool:
        """Take the system's lock; return False if another process holds it."""
        take = _FileLock if fcntl is None else _RecordLock
        for _ in range(_TRIES):
            self._path.parent.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):  # another fit has ended and removed the folder
                self._system = take(self._path)
                return self._system.held
        raise OSError(f"{self._path} disappears whenever it is created. Give each fit its own folder.")

    def remove(self) -> None:
        """Release the lock and remove its file."""
        if self._system is not None:
            self._system.remove()
        self.release()

    def release(self) -> None:
        """Release the lock."""
        system, self._system = self._system, None
        if system is not None:
            system.release()
            self._forget()

    def _forget(self) -> None:
        with _GUARD:
            _HELD.discard(self._key)

    def __del__(self) -> None:
        # A fork must not release the lock of its parent.
        if getattr(self, "_system", None) is not None and self._key[0] == os.getpid():
            self.release()


class _RecordLock:
    """A POSIX record lock, which a fork neither inherits, as with ``flock``, nor releases when it ends.

    So the workers of a loader, which may outlive a killed fit, do not block the next fit. Threads of the
    same process do not see the lock.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._descriptor, self.held = path, -1, False
        while not self.held:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                self.release()
                return
            except OSError:
                self.held = True  # a file system without locks
                return
            self.held = self._is_there()
            if not self.held:  # its last holder removed it after it was opened
                self.release()

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)  # while the lock is held, so that no other fit's file is removed

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class _FileLock:
    """A lock by the package filelock, for Windows."""

    def __init__(self, path: Path) -> None:
        from filelock import FileLock, Timeout

        self._path, self.held = path, True
        self._lock = FileLock(path, timeout=0, thread_local=False)
        try:
            self._lock.acquire()
        except Timeout:
            self.held = False
        except NotImplementedError:
            pass  # a file system without locks

    def remove(self) -> None:
        self.release()  # before the removal: Windows removes no open file
        with suppress(OSError):  # another fit has opened it since
            self._path.unlink()

    def release(self) -> None:
        self._lock.release()
