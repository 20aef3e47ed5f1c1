"""The page on failures has the messages that are given."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback
from torch import nn

from sklearn_kd._base import BaseDistiller
from sklearn_kd._bilevel import StepRecord
from sklearn_kd._together import _BatchedRun
from sklearn_kd.meta import Random

PAGE = Path(__file__).parents[1] / "docs" / "guide" / "failures.rst"


class Fills(Callback):
    """From the fifth batch on: ``n`` batches with NaN, or all weights with a number."""

    def __init__(self, n=0, weights=None):
        self.n, self.weights = n, weights

    def on_batch_begin(self, net, batch=None, training=False, **kwargs):
        if training and 5 <= net.metaparameters.iteration < 5 + self.n:
            batch[0].fill_(torch.nan)
        if not training and self.weights is not None:
            with torch.no_grad():
                for w in net.module_.parameters():
                    w.fill_(self.weights)


def broken_student():
    student = nn.Linear(64, 10)
    with torch.no_grad():
        student.bias[0] = torch.nan
    return student


def steep_student():
    """Its logits of 1e37 overflow."""
    student = nn.Linear(64, 10)
    with torch.no_grad():
        student.weight *= 1000
    return student


def changed(X, value):
    X = X.astype(object)
    X[3, 4] = value
    return X


# What is done, as f(X, y) -> (parameters, arguments of fit).
REFUSED = {
    "values too large for the student": lambda X, y: ({"student": steep_student()}, {"X": X * 1e38}),
    "values too large for float32": lambda X, y: ({}, {"X": X.astype(float) * 1e100}),
    "missing values": lambda X, y: ({}, {"X": np.where(X > 0.5, np.nan, X)}),
    "words among the numbers": lambda X, y: ({}, {"X": changed(X, "many")}),
    "complex numbers": lambda X, y: ({}, {"X": X + 1j}),
    "a sparse matrix": lambda X, y: ({}, {"X": sparse.csr_matrix(X)}),
    "samples without a number": lambda X, y: ({}, {"X": X.reshape(-1, 8, 8)[:, :0]}),
    "labels on a scale": lambda X, y: ({}, {"y": y + 0.5}),
    "labels of several types": lambda X, y: (
        {},
        {"y": np.array([c or "none" for c in y.tolist()], dtype=object)},
    ),
    "one class": lambda X, y: ({}, {"y": 0 * y}),
    "no row to hold out": lambda X, y: ({}, {"X": X[:5], "y": np.arange(5), "teacher_logits": np.eye(5)}),
    "classes of D_val that y has not": lambda X, y: ({}, {"X_val": X[:3], "y_val": [0, 1, 99]}),
    "weights below zero": lambda X, y: ({}, {"sample_weight": -np.ones(len(y))}),
    "weights that are no numbers": lambda X, y: ({}, {"sample_weight": np.array(["a"] * len(y))}),
    "logits of another shape": lambda X, y: ({}, {"teacher_logits": np.zeros((len(y), 9))}),
    "logits that are not finite": lambda X, y: ({}, {"teacher_logits": np.full((len(y), 10), np.nan)}),
    "a student with NaN": lambda X, y: ({"student": broken_student()}, {}),
    "a student of another width": lambda X, y: ({"student": nn.Linear(64, 9)}, {}),
    "batches of one row under batch normalisation": lambda X, y: (
        {"student": nn.Sequential(nn.Linear(64, 10), nn.BatchNorm1d(10)), "batch_size": 1},
        {},
    ),
    "too large a rate": lambda X, y: ({"lr": 1e31}, {}),
}
REPORTED = {
    "some steps are not finite": Fills(n=3),
    "ten steps in a row are not finite": Fills(n=1000),
    "weights become too large": Fills(weights=1e37),
}


class Full(nn.Linear):
    """Where ``kind`` of pass is made with more than two rows, there is no memory."""

    kind = ""

    def forward(self, x):
        if len(x) > 2 and self.kind == ("training" if self.training else "evaluation"):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return super().forward(x)


def full(kind):
    network = Full(64, 10)
    network.kind = kind
    return network


def no_memory(*args, **kwargs):
    raise MemoryError


# What is done, as f(clf, monkeypatch, X, y), with a classifier that is to be taught by ``logits``.
def in_prediction(clf, monkeypatch, X, y, **logits):
    clf.set_params(student=nn.Linear(64, 10), meta="none").fit(X, y)
    monkeypatch.setattr(nn.Linear, "forward", no_memory)
    clf.predict(X)


def patched(where, name, **params):
    def fit(clf, monkeypatch, X, y, **logits):
        monkeypatch.setattr(where, name, no_memory)
        clf.set_params(**params).fit(X, y, **logits)

    return fit


OUT_OF_MEMORY = {
    "copying the data": patched(BaseDistiller, "_as_data"),
    "asking the teacher": lambda clf, monkeypatch, X, y, **logits: clf.set_params(
        teacher=full("evaluation")
    ).fit(X, y),
    "training": lambda clf, monkeypatch, X, y, **logits: clf.set_params(
        student=full("training"), meta="none"
    ).fit(X, y),
    "hypergradients": patched(StepRecord, "hypergradient", meta="gradient"),
    "several students at once": patched(_BatchedRun, "step", meta=Random(n_trials=4)),
    "prediction": in_prediction,
}


def messages():
    """First cell → message, as a pattern, of every row of the page's tables."""
    rows = re.findall(r"^   \* - (.*)\n     - (.*)\n     - ", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {first: ".+".join(map(re.escape, said.split("…"))) for first, said in rows}


def test_the_page_has_all_that_is_tried_here():
    headings = {"In training", "While memory is used for", "What was given"}
    tried = REFUSED.keys() | REPORTED.keys() | OUT_OF_MEMORY.keys() | {"rows to predict overflow"}
    assert messages().keys() - headings == tried


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("what", REFUSED)
def test_refused(what, make, digits, logits):
    params, given = REFUSED[what](*digits)
    with pytest.raises((ValueError, TypeError), match=messages()[what]):
        make(**params).fit(**({"X": digits[0], "y": digits[1], "teacher_logits": logits} | given))


@pytest.mark.parametrize("what", REPORTED)
def test_reported(what, make, digits, logits):
    clf = make(meta="linear", callbacks=[REPORTED[what]], max_epochs=4)
    with pytest.warns(ConvergenceWarning, match=messages()[what]):
        clf.fit(*digits, teacher_logits=logits)
    assert np.isfinite(clf.predict_proba(digits[0])).all()


@pytest.mark.parametrize("what", OUT_OF_MEMORY)
def test_out_of_memory(what, make, digits, logits, monkeypatch):
    with pytest.raises(MemoryError, match=messages()[what]):
        OUT_OF_MEMORY[what](make(), monkeypatch, *digits, teacher_logits=logits)


def test_rows_that_overflow(make, digits):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf = make(meta="none", student=steep_student()).fit(*digits)
    for predict in (clf.predict, clf.predict_proba, clf.predict_log_proba):
        with pytest.raises(ValueError, match=messages()["rows to predict overflow"]):
            predict(digits[0] * 1e38)
