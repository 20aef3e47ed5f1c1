"""Fits in several processes: they end as the same fit in one, and what ends one of them ends all."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from torch import nn

from sklearn_kd import (
    DistilledClassifier,
    DistilledRegressor,
    DistProClassifier,
    MLPStudent,
    TablePreprocessing,
)

ROOT = Path(__file__).parents[2]


def table(n=150, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 6)).astype(np.float32)
    return X, (X[:, :n_classes] + 0.3 * rng.normal(size=(n, n_classes))).argmax(1)


def images(n=60):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 1, 8, 8)).astype(np.float32)
    return X, (X[:, 0, :, :4].mean((1, 2)) > X[:, 0, :, 4:].mean((1, 2))).astype(int)


class ConvNet(nn.Module):
    """Two stages without statistics of batches."""

    def __init__(self, n_classes=2, width=4):
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU())
        self.linear = nn.Linear(2 * width, n_classes)

    def forward(self, x):
        return self.linear(self.stage2(self.stage1(x)).mean(dim=(2, 3)))


class Plain(nn.Module):
    """A transform without batch normalisation, which the library's have."""

    def __init__(self, c_in, c_out):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x, size):
        return nn.functional.interpolate(self.conv(x), size)


def network():
    torch.manual_seed(1)
    return ConvNet(width=6)


SETTINGS = {"max_epochs": 3, "batch_size": 32, "random_state": 0, "device": "cpu", "parallel": "ddp"}
FOREST = ExtraTreesClassifier(10, max_depth=6)


def make(kind):
    """The estimator and the data of a kind of fit."""
    sgd = {"optimizer": "SGD", "lr": 0.1, "optimizer__momentum": 0.9}
    if kind == "search and retrain":
        return DistilledClassifier(FOREST, MLPStudent, meta="linear", e1=2, e2=2, **sgd, **SETTINGS), table()
    if kind == "gradient, Adam":
        meta = {"meta": "gradient", "search_epochs": None, "optimizer": "Adam"}
        return DistilledClassifier(FOREST, MLPStudent, **meta, **SETTINGS), table()
    if kind == "shortlist":
        return DistilledClassifier(FOREST, MLPStudent, **sgd, **SETTINGS), table()
    if kind == "hyperopt":
        return DistilledClassifier(
            FOREST, MLPStudent, meta="hyperopt", meta__n_trials=2, **sgd, **SETTINGS
        ), table()
    if kind == "CNN":
        meta = {"meta": "linear", "e1": 2, "e2": 1, "search_epochs": None}
        return DistilledClassifier(network(), ConvNet, **meta, **sgd, **SETTINGS), images()
    if kind == "DistPro":
        layers = {"teacher_layers": ["stage1", "stage2"], "student_layers": ["stage1", "stage2"]}
        return DistProClassifier(
            network(),
            ConvNet,
            search_epochs=2,
            meta__hypergradient="exact",
            transforms=[Plain],
            **layers,
            **sgd,
            **SETTINGS,
        ), images()
    if kind == "regressor":
        X, _ = table()
        y = X[:, 0] - X[:, 1] ** 2
        forest = ExtraTreesRegressor(10, max_depth=6)
        return DistilledRegressor(forest, MLPStudent, meta="linear", **sgd | {"lr": 0.01}, **SETTINGS), (X, y)
    if kind == "preprocessing":
        table_student = {"student_preprocessing": TablePreprocessing()}
        return DistilledClassifier(
            FOREST, MLPStudent, meta="naive", **table_student, **sgd, **SETTINGS
        ), table()
    raise ValueError(kind)


KINDS = [
    "search and retrain", "gradient, Adam", "shortlist", "hyperopt", "CNN", "DistPro", "regressor", "preprocessing",
]  # fmt: skip


def fit(ranks, kind):
    clf, data = make(kind)
    return result_of(clf.fit(*data), data[0])


def result_of(clf, X):
    path = clf.process_.raw if isinstance(clf, DistProClassifier) else clf.metaparameter_path_
    names = path.dtype.names
    columns = [path] if names is None else [path[name] for name in names if name not in ("iteration",)]
    return {
        "weights": [w.detach().numpy() for w in clf.student_.parameters()],
        "path": [np.asarray(column, dtype=float) for column in columns],
        "losses": [row["train_loss"] for row in clf.history_],
        "scores": clf.validation_scores_ or [],
        "outputs": clf.predict_proba(X) if hasattr(clf, "predict_proba") else clf.predict(X),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_end_as_one(two, kind):
    found = two.run(fit, kind)
    clf, data = make(kind)
    alone = result_of(clf.set_params(parallel=None).fit(*data), data[0])
    for name in alone:
        for of_rank in found:
            for ours, theirs in zip(alone[name], of_rank[name], strict=True):
                np.testing.assert_allclose(theirs, ours, rtol=2e-3, atol=2e-4, err_msg=name)
    for name in ("weights", "path"):  # of both processes to the bit
        for first, second in zip(found[0][name], found[1][name], strict=True):
            np.testing.assert_array_equal(first, second)
