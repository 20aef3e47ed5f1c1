"""What ``parallel`` may be, where it can be used, and what cannot be trained by several processes."""

import pickle
import warnings

import joblib
import numpy as np
import pytest
import torch
from joblib.externals.loky.backend.reduction import dumps
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sklearn_kd import (
    DistilledClassifier,
    DistilledRegressor,
    DistProClassifier,
    DistProRegressor,
    MLPStudent,
)
from sklearn_kd.estimators import _parallel

X = np.random.default_rng(0).normal(size=(60, 4))
y = (X[:, 0] > 0).astype(int)


def student_alone(**params):
    settings = {"meta": "none", "max_epochs": 1, "device": "cpu", "random_state": 0}
    return DistilledClassifier(None, MLPStudent, **settings | params)


@pytest.mark.parametrize(
    "kind", [DistilledClassifier, DistilledRegressor, DistProClassifier, DistProRegressor]
)
@pytest.mark.parametrize(
    ("value", "error"),
    [("dpp", ValueError), (0, ValueError), (-1, ValueError), (True, TypeError), (2.0, TypeError)],
)
def test_a_value_that_means_nothing_is_refused(kind, value, error):
    with pytest.raises(error, match=f"parallel={value}|parallel='{value}'"):
        kind(None, MLPStudent, parallel=value).fit(X, y)


@pytest.mark.parametrize("value", [None, 1, "ddp"])
def test_one_process_is_the_same_fit(value):
    """ "ddp" where nothing was launched is a fit in this process."""
    alone = student_alone().fit(X, y)
    np.testing.assert_array_equal(
        student_alone(parallel=value).fit(X, y).predict_proba(X), alone.predict_proba(X)
    )


def test_the_number_belongs_to_the_machine(tmp_path):
    clf = student_alone(parallel=1).fit(X, y)
    with pytest.warns(UserWarning, match="belong to this machine: parallel"):
        clf.save(tmp_path / "student.safetensors")
    assert DistilledClassifier.load(tmp_path / "student.safetensors").parallel is None
    given = DistilledClassifier.load(tmp_path / "student.safetensors", parallel=2)
    assert given.parallel == 2


def test_launched_processes_are_not_multiplied(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ValueError, match=r"parallel=2 would start 2 processes in each of the 2.*parallel='ddp'"
    ):
        student_alone(parallel=2).fit(X, y)
    with pytest.warns(UserWarning, match="2 processes were launched.*parallel='ddp'.*parallel=1"):
        student_alone().fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        student_alone(parallel=1).fit(X, y)


def test_a_launch_that_is_not_described_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"parallel='ddp' joins the processes .* RANK"):
        student_alone(parallel="ddp").fit(X, y)


def test_in_a_job_of_joblib_one_process_trains():
    clf = student_alone(parallel=2)
    with (
        joblib.parallel_config("threading"),
        pytest.warns(UserWarning, match="parallel=2 inside a job of joblib.*n_jobs=None"),
    ):
        scores = cross_val_score(clf, X, y, cv=2, n_jobs=2)
    assert scores.tolist() == cross_val_score(clone(clf).set_params(parallel=None), X, y, cv=2).tolist()


@pytest.mark.parametrize("parallel", [2, "ddp"])
def test_each_process_needs_a_device(parallel, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    if parallel == "ddp":
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("LOCAL_RANK", "1")
    words = "torch sees 1. Set" if parallel == 2 else "process 2 on a machine with 1 GPU"
    with pytest.raises(ValueError, match=f"parallel=.*{words}"):
        student_alone(parallel=parallel, device="cuda").fit(X, y)
    with pytest.raises(ValueError, match=r"parallel=.*device='cuda:0'.*of its own"):
        student_alone(parallel=parallel, device="cuda:0").fit(X, y)


@pytest.fixture
def launched():
    """As in one of two processes that torchrun has started."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    torch.distributed.destroy_process_group()


def test_a_teacher_in_ddp_is_refused(launched):
    teacher = nn.parallel.DistributedDataParallel(nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"teacher is wrapped in DistributedDataParallel.*teacher.module"):
        DistilledClassifier(teacher, MLPStudent, meta="naive", device="cpu", parallel=1).fit(X, y)


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [("FSDPModule", "Set parallel='ddp'"), ("FullyShardedDataParallel", r"Shard it by .*fully_shard")],
)
def test_a_sharded_teacher_is_asked_by_all_together(launched, kind, remedy):
    sharded = type(kind, (nn.Linear,), {})  # as torch's, which need processes
    with pytest.raises(ValueError, match=rf"teacher is wrapped in {kind}.*{remedy}"):
        teacher = nn.Sequential(sharded(4, 2))
        DistilledClassifier(teacher, MLPStudent, meta="naive", device="cpu", parallel=1).fit(X, y)


def test_new_processes_in_a_pipeline(monkeypatch):
    """scikit-learn marks the last step while it is fitted, and takes the mark back."""
    monkeypatch.setattr(_parallel, "run_in_processes", lambda task, n, device: pickle.loads(dumps(task))())
    pipeline = make_pipeline(StandardScaler(), student_alone(parallel=2))
    alone = make_pipeline(StandardScaler(), student_alone())
    np.testing.assert_array_equal(pipeline.fit(X, y).predict_proba(X), alone.fit(X, y).predict_proba(X))
    assert vars(pipeline[-1]).keys() == vars(alone[-1]).keys()


def test_what_cannot_be_sent_is_said():
    clf = student_alone(parallel=2, callbacks=[(callback for callback in [])])
    with pytest.raises(TypeError, match=r"parallel=2 sends the estimator and its data .* 'generator'"):
        clf.fit(X, y)
