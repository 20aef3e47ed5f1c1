"""Threads of one process take turns where they share what cannot be shared.

torch's global generators, from which initial weights and dropout masks come, its flags for TF32,
and the mode, weights and hooks of a teacher that several fits are given belong to the whole
process. While they are seeded, set or changed, one thread has them; what it does meanwhile, such
as a training, the others wait for. Prediction shares nothing of it and waits for nobody.

Nothing is held while a scikit-learn teacher is fitted or asked, nor while trials or methods wait
for each other: these may be at work in threads that need a turn of their own. Processes have one
lock each.
"""

from __future__ import annotations

import os
from threading import RLock
from typing import Any

_lock = RLock()


def torch_state_lock() -> Any:
    """Return the process-wide re-entrant lock as a context; waiting for it can be interrupted."""
    return _lock


def _begin_anew() -> None:
    # A thread that had its turn when this process was forked does not exist here, nor ends it.
    global _lock
    _lock = RLock()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_begin_anew)
