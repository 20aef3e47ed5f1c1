"""A lock for the state that the threads of one process share.

Some state belongs to the whole process: torch's global generators, which draw initial weights and dropout
masks, its flags for TF32, and the mode, weights and hooks of a teacher that several fits share. A thread
holds the lock while it seeds, sets or changes this state, and while it depends on it, as in training.
Prediction does not depend on it and does not take the lock.

The lock is not held while a scikit-learn teacher is fitted or predicts, nor while trials or methods wait for
each other, because these may run in threads that need the lock themselves. Each process has its own lock.
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
    # A thread that held the lock during the fork does not exist in this process and cannot release it.
    global _lock
    _lock = RLock()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_replace_lock)
