"""Count the bytes that a search on a dask cluster sends, and compare its results with those of one process.

The cluster is a LocalCluster of two workers with one thread each. The script counts the bytes that the
process of client and scheduler writes to its connections. Results, and messages between workers, are not
counted. Each search runs with few tasks and with three times as many. The difference for each task is "per
task"; the rest is "once".

  plain     each task pickles what it needs, as ``joblib.delayed(function)(shared, task)`` does
  shared    the library's way: data that tasks share are sent separately
  search    GridSearchCV with a network as teacher: in each clone of the estimator, or a ScatteredTeacher

    python examples/benchmarks/clusters.py           # about 2 minutes

It writes clusters.json beside this file.
"""

import logging
import time
import warnings
from contextlib import contextmanager
from unittest import mock

import distributed
import distributed.comm.tcp
import joblib
import numpy as np
import torch
from _measure import SEED, options, write
from _provenance import versions
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.utils.parallel import delayed
from skorch.callbacks import Callback
from torch import nn

from sklearn_kd import DistilledClassifier, MLPStudent, compare_methods, meta
from sklearn_kd.comparison import _compare
from sklearn_kd.teachers import ScatteredTeacher
from sklearn_kd.training import _trials

ROWS, COLUMNS, CLASSES, WIDTH = 4_000, 250, 10, 1_000
FEW, MANY = 4, 12


class Alone(Callback):
    """A callback, which prevents a batched run of the trials."""


class Counter:
    """Counts the bytes that this process writes to connections."""

    def __init__(self):
        self.n_bytes = 0
        self._write = distributed.comm.tcp.TCP.write

    @contextmanager
    def counting(self):
        """Count inside the block."""
        counter = self

        async def counted(comm, *given, **named):
            written = await counter._write(comm, *given, **named)
            counter.n_bytes += written or 0
            return written

        self.n_bytes = 0
        with mock.patch.object(distributed.comm.tcp.TCP, "write", counted):
            yield self


def data():
    """Return rows, labels, and a network that is the teacher."""
    rng = np.random.default_rng(SEED)
    X = rng.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    torch.manual_seed(SEED)
    teacher = nn.Sequential(nn.Linear(COLUMNS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))
    with torch.no_grad():
        y = teacher(torch.from_numpy(X)).argmax(1).numpy()
    return X, y, teacher


def estimator(teacher, **params):
    """Return a classifier that trains very fast."""
    quick = {"max_epochs": 1, "batch_size": 256, "verbose": 0, "random_state": SEED, "device": "cpu"}
    return DistilledClassifier(teacher, MLPStudent, student__hidden=(64,), **(quick | params))


def trials(n_tasks, X, y, teacher):
    """Return L_val of random trials."""
    strategy = meta.Random(n_trials=n_tasks)
    clf = estimator(teacher, meta=strategy, search_epochs=1, search_callbacks=[Alone()])
    return clf.fit(X, y).trials_["val_loss"]


def comparison(n_tasks, X, y, teacher):
    """Return the scores of a comparison of two methods."""
    found = compare_methods(
        estimator(teacher), X, y, methods=("naive", "linear"), cv=2, n_seeds=n_tasks // 2, random_state=SEED
    )
    return found.results_["log_loss"]


def search(n_tasks, X, y, teacher):
    """Return the scores of a grid search over learning rates."""
    grid = {"lr": np.geomspace(1e-3, 1e-2, n_tasks)}
    cv = PredefinedSplit(np.where(np.arange(len(y)) % 4, -1, 0))
    clf = estimator(teacher, meta="fixed")
    found = GridSearchCV(clf, grid, cv=cv, refit=False, error_score="raise").fit(X, y)
    return found.cv_results_["mean_test_score"]


@contextmanager
def plain_calls():
    """Run tasks that each pickle what they need."""

    def calls(function, shared, tasks, n_processes):
        for task in tasks:
            given = shared
            if function is _compare._run_kth:  # of the folds and seeds its own alone
                given = (shared[0], {task: shared[1][task]})
            yield delayed(function)(given, task)

    with mock.patch.object(_trials, "calls", calls), mock.patch.object(_compare, "calls", calls):
        yield


def on_cluster(work, given, counter, scatter=None):
    """Run with few tasks and with many; return the bytes by task and once, and the results of many."""
    n_bytes, found = {}, None
    for n_tasks in (FEW, MANY):
        with joblib.parallel_config("dask", scatter=scatter), counter.counting():
            found = work(n_tasks, *given)
            time.sleep(0.5)
        n_bytes[n_tasks] = counter.n_bytes
    per_task = (n_bytes[MANY] - n_bytes[FEW]) / (MANY - FEW)
    return {"per_task": round(per_task), "once": round(n_bytes[FEW] - FEW * per_task)}, found


def main():
    """Measure all and write the record."""
    chosen = options(__doc__)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    X, y, teacher = data()
    counter, searches, equal = Counter(), {}, {}
    with joblib.parallel_config("sequential"):
        expected = {work: work(MANY, X, y, teacher) for work in (trials, comparison, search)}
    with (
        distributed.LocalCluster(
            2, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.run(torch.set_num_threads, 1)
        for work in (trials, comparison):
            with plain_calls():
                plain, of_plain = on_cluster(work, (X, y, teacher), counter)
            shared, of_shared = on_cluster(work, (X, y, teacher), counter)
            searches[work.__name__] = {"plain": plain, "shared": shared}
            equal[work.__name__] = all(
                np.array_equal(found, expected[work]) for found in (of_plain, of_shared)
            )
        plain, of_plain = on_cluster(search, (X, y, teacher), counter, scatter=[X, y])
        scattered = ScatteredTeacher(teacher, client)
        shared, of_shared = on_cluster(search, (X, y, scattered), counter, scatter=[X, y])
        searches["search"] = {"plain": plain, "shared": shared}
        equal["search"] = all(np.array_equal(found, expected[search]) for found in (of_plain, of_shared))
    sizes = {
        "X": X.nbytes,
        "teacher": sum(w.nbytes for w in teacher.parameters()),
        "student": 4 * (COLUMNS * 64 + 64 + 64 * CLASSES + CLASSES),
    }
    for name, found in searches.items():
        print(name, found, "equal to one process" if equal[name] else "DIFFERENT")
    record = {"sizes": sizes, "tasks": [FEW, MANY], "searches": searches, "equal_to_one_process": equal}
    write(record | {"versions": versions(distributed, joblib)}, __file__, chosen)


if __name__ == "__main__":
    main()
