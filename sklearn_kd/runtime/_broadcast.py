"""Send what many tasks of joblib share to each worker once, and not with each task."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import cloudpickle
import numpy as np
from joblib.parallel import get_active_backend
from sklearn.utils.parallel import delayed

Shared = TypeVar("Shared")
Task = TypeVar("Task")
Result = TypeVar("Result")


def calls(
    function: Callable[[Shared, Task], Result], shared: Shared, tasks: Iterable[Task], n_processes: int
) -> Iterator[Any]:
    """Yield the calls ``function(shared, task)`` for joblib's ``Parallel``, one per task.

    In other processes each call has a copy of ``shared`` of its own, but for its NumPy arrays: those are the
    worker's, for all of its calls, and may be read-only.

    Parameters
    ----------
    function : callable(shared, task)
    shared : object
        Pickled once. In this process it is passed as it is.
    tasks : iterable
        Sent each with its call, so small.
    n_processes : int
        1: the calls are made in this process.
    """
    if n_processes == 1:
        yield from (delayed(function)(shared, task) for task in tasks)
    else:
        sent = _on_all_workers(_as_arrays(shared))
        yield from (delayed(_call)(function, task, *sent) for task in tasks)


def _call(
    function: Callable[[Any, Task], Result], task: Task, pickled: np.ndarray, *arrays: np.ndarray
) -> Result:
    return function(pickle.loads(pickled, buffers=arrays), task)


def _as_arrays(shared: Any) -> list[np.ndarray]:
    """Return the pickle of an object, and behind it the memory of the NumPy arrays in it, without a copy.

    Arrays that are arguments are what every backend sends once: loky maps them into the workers' memory,
    ray puts them into its store, dask scatters them.
    """
    buffers: list[pickle.PickleBuffer] = []
    pickled = cloudpickle.dumps(shared, protocol=5, buffer_callback=buffers.append)
    return [np.frombuffer(part, np.uint8) for part in (pickled, *(buffer.raw() for buffer in buffers))]


def _on_all_workers(arrays: list[np.ndarray]) -> Sequence[Any]:
    """Return arguments that stand for arrays: where dask is the backend, futures of copies on each worker.

    joblib alone would have dask put each array on one worker, with which it would be lost.
    """
    backend, _ = get_active_backend()
    if type(backend).__name__ != "DaskDistributedBackend":
        return arrays
    # hash=False: scattered again inside a worker, equal arrays would share a key, and be released together.
    futures: Sequence[Any] = backend.client.scatter(arrays, broadcast=True, hash=False)
    return futures
