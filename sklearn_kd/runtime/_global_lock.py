"""A lock for the state that the threads of one process share.

torch's global generators, from which initial weights and dropout masks are drawn, its flags for TF32, and
the mode, weights and hooks of a teacher that several fits are given belong to the whole process. A thread
holds the lock while it seeds, sets or changes them, and during all that depends on them, such as a training.
Prediction depends on none of them and does not take the lock.

The lock is not held while a scikit-learn teacher is fitted or asked, nor while trials or methods wait for
each other: these may run in threads that need the lock themselves. Each process has a lock of its own.
"""

from __future__ import annotations

import os
from threading import RLock
from typing import Any

_lock = RLock()


def torch_state_lock() -> Any:
    """Return the process-wide re-entrant lock, a context manager; Ctrl-C interrupts the wait for it."""
    return _lock


def _replace_lock() -> None:
    # A thread that held the lock when this process was forked does not exist here to release it.
    global _lock
    _lock = RLock()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_replace_lock)
