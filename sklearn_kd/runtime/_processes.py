"""Choose the number of processes and their threads; warn about torch.distributed."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from joblib import effective_n_jobs, parallel_config
from joblib.parallel import LokyBackend, get_active_backend

log = logging.getLogger("sklearn_kd")


def one_thread_per_process() -> AbstractContextManager[Any]:
    """Return a context in which loky's processes get one thread each, unless the user has set a number."""
    backend, _ = get_active_backend()
    if isinstance(backend, LokyBackend) and backend.inner_max_num_threads is None:
        return parallel_config("loky", inner_max_num_threads=1)
    return nullcontext()


def count_processes(n_jobs: int | None, n_tasks: int) -> int:
    """Return the number of processes: joblib's reading of ``n_jobs``, but at most the number of tasks.

    Return 1 if joblib would use threads, as it does inside its own workers. Threads share torch's global
    generators, so that one would wait while another trains.
    """
    wanted = min(effective_n_jobs(n_jobs), n_tasks)
    backend, _ = get_active_backend()
    if wanted > 1 and getattr(backend, "uses_threads", False):
        log.info("%d trainings run one after another: threads would share torch's generators.", n_tasks)
        return 1
    return wanted


def streaming_return_as() -> str:
    """Return joblib's ``return_as`` that yields results in order as they finish, if supported."""
    backend, _ = get_active_backend()
    return "generator" if getattr(backend, "supports_return_generator", False) else "list"


def default_n_jobs(device_type: str) -> int | None:
    """Return the number of jobs for long runs if the user has not set one: -1, all cores.

    Return 1 on a GPU, which several processes would have to share. Return None if the user has set
    ``joblib.parallel_config``, which then decides.
    """
    backend, configured = get_active_backend()
    if configured is not None or not isinstance(backend, LokyBackend):
        return None
    return -1 if device_type == "cpu" else 1
