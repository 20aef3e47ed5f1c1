"""Searches on clusters, through joblib's backends: equal to one process's, sent once, and not lost with a worker."""

import contextlib
import logging
import os
import pickle
import signal
import sys
import warnings

import cloudpickle
import numpy as np
import pytest
import torch
from joblib import parallel_config
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.utils.parallel import Parallel
from skorch.callbacks import Callback

import sklearn_kd
from sklearn_kd import compare_methods, meta
from sklearn_kd.comparison import _compare
from sklearn_kd.runtime import _broadcast
from sklearn_kd.teachers import ScatteredTeacher
from sklearn_kd.training import _trials

distributed = pytest.importorskip("distributed")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
WHAT_COUNTS = ("accuracy", "log_loss", "lambda1", "temperature")


class Notes(Callback):
    """Notes the processes that train; it rules out that students are trained in one batched run."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_begin(self, net, **kwargs):
        open(f"{self.folder}/{os.getpid()}", "w").close()


class Dies(Notes):
    """Kills the first process that trains, unless it is that of the test."""

    def __init__(self, folder, own_process):
        self.folder, self.own_process = folder, own_process

    def on_train_begin(self, net, **kwargs):
        if os.getpid() != self.own_process:
            with contextlib.suppress(FileExistsError):
                open(f"{self.folder}/died", "x").close()
                os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def client():
    dask = pytest.importorskip("dask")
    with (
        dask.config.set(
            {"distributed.comm.timeouts.connect": "3s"}
        ),  # so long it asks a lost worker for data
        distributed.LocalCluster(
            2, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.run(torch.set_num_threads, 1)
        yield client


@pytest.fixture
def on_dask(client):
    client.wait_for_workers(2, timeout=120)  # one may have been killed
    with parallel_config("dask", n_jobs=2):
        yield client


def compared(make, digits, callback):
    clf = make(LogisticRegression(max_iter=300), callbacks=[callback], max_epochs=1)
    found = compare_methods(clf, *digits, methods=("naive", "linear"), cv=2, n_seeds=2, random_state=0)
    return [found.results_[name] for name in WHAT_COUNTS]


def tried(make, digits, callback, strategy=None):
    strategy = meta.Random(n_trials=4) if strategy is None else strategy
    clf = make(LogisticRegression(max_iter=300), meta=strategy, callbacks=[callback], max_epochs=1)
    clf.fit(*digits)
    return [clf.trials_["val_loss"], clf.predict_proba(digits[0])]


def tried_by_hyperopt(make, digits, callback):
    return tried(make, digits, callback, meta.Hyperopt(n_trials=4, n_startup_trials=2, n_guided_at_once=2))


def searched(make, digits, callback):
    clf = make(LogisticRegression(max_iter=300), callbacks=[callback], max_epochs=1, verbose=0)
    search = GridSearchCV(clf, {"lr": [0.05, 0.2]}, cv=2, error_score="raise").fit(*digits)
    return [search.cv_results_["mean_test_score"], search.predict_proba(digits[0])]


def in_one_process(work, make, digits, once, tmp_path):
    with parallel_config("sequential"):
        return once(work, lambda: work(make, digits, Notes(str(tmp_path))))


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


# --------------------------------------------------------------------------------------
# dask


@pytest.mark.parametrize("work", [compared, tried, tried_by_hyperopt, searched])
def test_dask_gives_what_one_process_gives(work, make, digits, once, on_dask, tmp_path):
    expected = in_one_process(work, make, digits, once, tmp_path)
    found = work(make, digits, Notes(str(tmp_path)))
    assert len({*os.listdir(tmp_path)} - {str(os.getpid())}) > 0  # the workers have trained
    assert_same(found, expected)


def test_calls_on_dask_take_a_reference_along(on_dask):
    X, network = np.random.default_rng(0).normal(size=(1000, 100)), torch.nn.Linear(300, 300)
    calls = [*_broadcast.calls(predicted, (X, network, {"X again": X}), range(5), 2)]
    (future,) = {id(sent): sent for _, (_, _, sent), _ in calls}.values()
    assert isinstance(future, distributed.Future)
    assert max(len(cloudpickle.dumps(call)) for call in calls) < 2_000 < X.nbytes / 100
    (holder,) = on_dask.who_has(distributed.wait(future).done)[future.key]
    os.kill(on_dask.run(os.getpid, workers=[holder])[holder], signal.SIGKILL)
    assert Parallel()(calls) == [(k, float(X[k].sum()), True) for k in range(5)]


def predicted(shared, k):
    X, network, further = shared
    return k, float(X[k].sum()), further["X again"] is X and network.weight.requires_grad


@pytest.mark.parametrize("params", [{}, {"loss": ["kd", "similarity"]}], ids=["answers", "features"])
def test_a_scattered_teacher_is_not_in_the_tasks_of_a_search(params, make, digits, on_dask):
    network = torch.nn.Sequential(torch.nn.Linear(64, 3000), torch.nn.ReLU(), torch.nn.Linear(3000, 10))
    params |= {"max_epochs": 1, "meta": "fixed", "verbose": 0}
    grid = {"lr": [0.05, 0.2]}
    with parallel_config("sequential"):
        expected = GridSearchCV(make(network, **params), grid, cv=2, error_score="raise").fit(*digits)
    scattered = ScatteredTeacher(network, on_dask)
    clf = make(scattered, **params)
    assert clone(clf).teacher is scattered and len(cloudpickle.dumps(clone(clf))) < 5_000
    found = GridSearchCV(clf, grid, cv=2, error_score="raise").fit(*digits)
    for name in ("mean_test_score", "std_test_score"):
        np.testing.assert_array_equal(found.cv_results_[name], expected.cv_results_[name])
    np.testing.assert_array_equal(found.predict_proba(digits[0]), expected.predict_proba(digits[0]))
    held = on_dask.run(lambda: len(sklearn_kd.teachers._scattered._HELD))
    scattered.release()
    assert [*held.values()] == [1, 1]
    assert [*on_dask.run(lambda: len(sklearn_kd.teachers._scattered._HELD)).values()] == [0, 0]
    with pytest.raises(RuntimeError, match="is not in this process"):
        pickle.loads(pickle.dumps(scattered)).fetch()


def test_a_scattered_teacher_needs_a_cluster(network):
    with pytest.raises(
        TypeError, match=r"cluster='dask' must be a dask.distributed.Client, or the module ray"
    ):
        ScatteredTeacher(network, "dask")


def test_what_a_lost_worker_did_is_done_by_another(make, digits, once, on_dask, tmp_path):
    """It has the data too. The results are those of no loss."""
    expected = in_one_process(tried, make, digits, once, tmp_path)
    found = tried(make, digits, Dies(str(tmp_path), os.getpid()))
    assert (tmp_path / "died").exists()
    assert_same(found, expected)


# --------------------------------------------------------------------------------------
# What is sent, by any backend


@pytest.mark.parametrize(("work", "where"), [(compared, _compare), (tried, _trials)])
def test_tasks_are_small_and_share_the_rest(work, where, make, digits, monkeypatch, tmp_path):
    """The data, the teacher and the student are not in them."""
    sizes, shared = [], set()

    def recorded(*given):
        for call in _broadcast.calls(*given):
            function, (_, task, sent), named = call
            sizes.append(len(cloudpickle.dumps((function, task, named))))
            shared.add(id(sent))
            yield call

    monkeypatch.setattr(where, "calls", recorded)
    monkeypatch.setattr(where, "Parallel", lambda **params: Parallel(n_jobs=1))
    monkeypatch.setattr(where, "count_processes", lambda *given: 2)
    work(make, digits, Notes(str(tmp_path)))
    assert len(sizes) == 4 and len(shared) == 1
    assert max(sizes) < 8_000 < digits[0].nbytes / 10


def test_arrays_are_sent_as_they_are_and_objects_are_copies():
    X, network = np.arange(6.0), torch.nn.Linear(2, 2)
    ((function, arguments, _),) = _broadcast.calls(returned, (X, network), [0], 2)
    assert any(np.shares_memory(array, X) for array in arguments[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's Parallel is not there
        (own, first), (_, second) = function(*arguments), function(*arguments)
    assert np.shares_memory(own, X) and first is not second
    assert not np.shares_memory(first.weight.detach().numpy(), second.weight.detach().numpy())
    ((_, (given, _), _),) = _broadcast.calls(returned, (X, network), [0], 1)
    assert given[1] is network  # in this process nothing is pickled


def returned(shared, task):
    return shared


# --------------------------------------------------------------------------------------
# ray


@pytest.mark.filterwarnings("ignore")
def test_ray_gives_what_one_process_gives(make, digits, once, tmp_path, monkeypatch):
    """A lost worker's task too, where ray is told to repeat it."""
    monkeypatch.setenv(
        "RAY_TQDM_PATCH_PRINT", "0"
    )  # else skorch's callbacks hold another print than pickle finds
    ray = pytest.importorskip("ray")
    from ray.util.joblib import register_ray

    expected = [in_one_process(work, make, digits, once, tmp_path) for work in (compared, tried)]
    imports = {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}}  # this module too
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=imports)
    try:
        register_ray()
        again = {"max_restarts": 1, "max_task_retries": 1}
        with parallel_config("ray", n_jobs=2, ray_remote_args=again):
            found = compared(make, digits, Notes(str(tmp_path)))
            of_trials = tried(make, digits, Dies(str(tmp_path), os.getpid()))
    finally:
        ray.shutdown()
    assert (tmp_path / "died").exists()
    assert_same([*found, *of_trials], [value for values in expected for value in values])
