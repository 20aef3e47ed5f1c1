"""The page on failures has the messages that are given."""

import json
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


def messages():
    """First cell → message, as a pattern, of every row of the page's tables."""
    rows = re.findall(r"^   \* - (.*)\n     - (.*)\n     - ", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {first: ".+".join(map(re.escape, said.split("…"))) for first, said in rows}


def test_the_page_has_all_that_is_tried_here():
    headings = {"In training", "What was given"}
    assert messages().keys() - headings == REFUSED.keys() | REPORTED.keys() | {"rows to predict overflow"}


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


def test_rows_that_overflow(make, digits):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf = make(meta="none", student=steep_student()).fit(*digits)
    for predict in (clf.predict, clf.predict_proba, clf.predict_log_proba):
        with pytest.raises(ValueError, match=messages()["rows to predict overflow"]):
            predict(digits[0] * 1e38)


def test_the_fits_that_were_tried_are_those_of_the_script():
    record = json.loads((PAGE.parents[2] / "examples" / "evidence" / "divergence.json").read_text())
    total = {name: sum(found[name] for found in record["by lr"].values()) for name in record["by lr"]["1"]}
    page = PAGE.read_text(encoding="utf-8")
    assert f"{total['fits']} fits" in page and f"{total['given up']} were given up" in page
    assert total["not finite"] == total["unreported"] == total["false alarms"] == 0
