"""Send an object that many joblib tasks share to each worker once, instead of with each task."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
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

    In other processes, each call gets its own copy of ``shared``, except for its NumPy arrays: all calls in a
    worker share these, and they may be read-only.

    Parameters
    ----------
    function : callable(shared, task)
    shared : object
        Pickled once. In this process it is passed unchanged.
    tasks : iterable
        Each task is sent with its call, so it should be small.
    n_processes : int
        1: make the calls in this process.
    """
    if n_processes == 1:
        yield from (delayed(function)(shared, task) for task in tasks)
    else:
        sent = _sent(_as_arrays(shared))
        yield from (delayed(_call)(function, task, sent) for task in tasks)


def _call(function: Callable[[Any, Task], Result], task: Task, sent: list[np.ndarray]) -> Result:
    pickled, *arrays = sent
    return function(pickle.loads(pickled.data, buffers=arrays), task)


def _as_arrays(shared: Any) -> list[np.ndarray]:
    """Return the pickle of an object, followed by the memory of the NumPy arrays in it, without a copy.

    loky maps each array into the workers' memory once, and ray puts the list into its store once.
    """
    buffers: list[pickle.PickleBuffer] = []
    pickled = cloudpickle.dumps(shared, protocol=5, buffer_callback=buffers.append)
    return [np.frombuffer(part, np.uint8) for part in (pickled, *(buffer.raw() for buffer in buffers))]


def _sent(arrays: list[np.ndarray]) -> Any:
    """Return the object that replaces the arrays in all calls: a future if dask is the backend.

    joblib itself would scatter them to a single worker and lose them together with it. As the result of a
    task, they can be computed again from the scheduler's data. Each worker gets them from another, once.
    """
    backend, _ = get_active_backend()
    if type(backend).__name__ != "DaskDistributedBackend":
        return arrays
    from dask import config

    with config.set({"distributed.admin.large-graph-warning-threshold": "1PB"}):  # it is meant to be large
        return backend.client.submit(_held, arrays, pure=False)


def _held(arrays: list[np.ndarray]) -> list[np.ndarray]:
    return arrays
