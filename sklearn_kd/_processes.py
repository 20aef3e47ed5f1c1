"""How many processes to use, and one thread of torch in each."""

from __future__ import annotations

import logging
from contextlib import nullcontext

from joblib import effective_n_jobs, parallel_config
from joblib.parallel import LokyBackend, get_active_backend

log = logging.getLogger("sklearn_kd")


def one_thread_per_process():
    """A context in which loky's processes get one thread each, unless the user set them."""
    backend, _ = get_active_backend()
    if isinstance(backend, LokyBackend) and backend.inner_max_num_threads is None:
        return parallel_config("loky", inner_max_num_threads=1)
    return nullcontext()


def count_processes(n_jobs: int | None, n_tasks: int) -> int:
    """Processes for so many tasks: joblib's reading of ``n_jobs``, and no more than tasks.

    One where joblib would use threads, as it does inside its own workers: threads take turns
    in training, because they share torch's global generators, and gain nothing.
    """
    wanted = min(effective_n_jobs(n_jobs), n_tasks)
    backend, _ = get_active_backend()
    if wanted > 1 and getattr(backend, "uses_threads", False):
        log.info("%d trainings run one after another: threads would share torch's generators.", n_tasks)
        return 1
    return wanted


def one_by_one() -> str:
    """joblib's ``return_as`` for results as they come, in their order, where its backend can do that."""
    backend, _ = get_active_backend()
    return "generator" if getattr(backend, "supports_return_generator", False) else "list"


def default_n_jobs(device_type: str) -> int | None:
    """What ``n_jobs=None`` means where runs take long: every core.

    None, and so what ``joblib.parallel_config`` says, where that has been used, and one
    process on a GPU, which several would have to share.
    """
    backend, configured = get_active_backend()
    if configured is not None or not isinstance(backend, LokyBackend):
        return None
    return -1 if device_type == "cpu" else 1
