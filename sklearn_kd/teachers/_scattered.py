"""Send a trained teacher to the workers of a cluster once, instead of with each task."""

from __future__ import annotations

import uuid
from typing import Any

# Teachers that were sent to this process, a dask worker, by name.
_HELD: dict[str, Any] = {}


class ScatteredTeacher:
    """A trained teacher, sent to each worker of a cluster once; estimators are pickled without it.

    Use it in scikit-learn's searches, which send a clone of the estimator with each task: clones share this
    object, and its pickle is only a reference. :func:`~sklearn_kd.compare_methods` and trials do not need
    it.

    Parameters
    ----------
    teacher : object
        Any teacher that comes trained, such as a network or ``FrozenEstimator(fitted)``.
    cluster : dask.distributed.Client or the module ray
        A connected client of dask, or ray after ``ray.init()``.

    Raises
    ------
    TypeError
        If ``cluster`` is neither.

    Attributes
    ----------
    teacher : object
        The teacher as given; None in another process.

    Notes
    -----
    Dask workers, including those that start later, hold the teacher until :meth:`release`; the tasks of a
    worker share it. On ray each task has a copy, from its machine's object store.

    Examples
    --------
    ::

        client = Client("scheduler:8786")
        teacher = ScatteredTeacher(network, client)
        search = GridSearchCV(DistilledClassifier(teacher, MLPStudent), {"lr": [0.01, 0.1]})
        with joblib.parallel_config("dask", scatter=[X, y]):
            search.fit(X, y)
        teacher.release()
    """

    def __init__(self, teacher: Any, cluster: Any):
        self.teacher, self._cluster = teacher, cluster
        if hasattr(cluster, "register_plugin"):
            self._where: Any = f"sklearn_kd-teacher-{uuid.uuid4().hex}"
            cluster.register_plugin(_plugin(teacher, self._where), name=self._where)
        elif hasattr(cluster, "ObjectRef"):
            self._where = cluster.put(teacher)
        else:
            raise TypeError(
                f"cluster={cluster!r} must be a dask.distributed.Client, or the module ray after ray.init()."
            )

    def fetch(self) -> Any:
        """Return the teacher, in the process that made this object or in a task on the cluster.

        Raises
        ------
        RuntimeError
            If this process does not have the teacher.
        """
        if self.teacher is not None:
            return self.teacher
        if self._where in _HELD:
            return _HELD[self._where]
        if self._where is None or isinstance(self._where, str):
            raise RuntimeError(
                "The teacher of a ScatteredTeacher is not in this process. The process that made it holds "
                "it and, until release(), those of the cluster do too."
            )
        import ray

        return ray.get(self._where)

    def release(self) -> None:
        """Drop the teacher from the workers; this process keeps it."""
        if isinstance(self._where, str):
            self._cluster.unregister_worker_plugin(self._where)
        self._where = None

    def __deepcopy__(self, memo: Any) -> ScatteredTeacher:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {"teacher": None, "_cluster": None, "_where": self._where}

    def __repr__(self) -> str:
        shown = "..." if self.teacher is None else type(self.teacher).__name__
        return f"ScatteredTeacher({shown})"


def fetched(teacher: Any) -> Any:
    """Return the teacher behind a :class:`ScatteredTeacher`; return any other as it is."""
    return teacher.fetch() if isinstance(teacher, ScatteredTeacher) else teacher


def _plugin(teacher: Any, name: str) -> Any:
    """Return a plugin by which each dask worker, present or future, holds a teacher under a name."""
    from distributed import WorkerPlugin

    class Holds(WorkerPlugin):
        def __init__(self) -> None:
            self.teacher = teacher

        def setup(self, worker: Any) -> None:
            hold(name, self.teacher)

        def teardown(self, worker: Any) -> None:
            drop(name)

    return Holds()


def hold(name: str, teacher: Any) -> None:
    """Keep a teacher in this process."""
    _HELD[name] = teacher


def drop(name: str) -> None:
    """Drop a teacher from this process."""
    _HELD.pop(name, None)
