"""The page on failures has the messages that are given."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from skorch.callbacks import Callback
from torch import nn

from sklearn_kd._checkpoint_files import read, write

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
    "a file as the folder of checkpoints": lambda X, y: ({"checkpoint_dir": __file__}, {}),
}
REPORTED = {
    "some steps are not finite": Fills(n=3),
    "ten steps in a row are not finite": Fills(n=1000),
    "weights become too large": Fills(weights=1e37),
}


class Ends(Callback):
    """Breaks the fit off in its fourth epoch, as often as it is told to."""

    n_times = 0

    def __init__(self):
        pass

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) == 4 and Ends.n_times:
            Ends.n_times -= 1
            raise MemoryError


def rewrite(change):
    """Do something with what is in a file."""
    return lambda path: path.write_bytes(change(path.read_bytes()))


# What is done to the last checkpoint of a fit that was broken off.
DAMAGED = {
    "a truncated checkpoint": rewrite(lambda content: content[:-1]),
    "an altered checkpoint": rewrite(lambda content: content[:-1] + bytes([content[-1] ^ 1])),
    "an empty checkpoint": rewrite(lambda content: b""),
    "a file that is no checkpoint": rewrite(lambda content: b"PK" + content),
    "a checkpoint of another fit": lambda path: write(path, read(path) | {"fit": "0" * 24}),
}


def messages():
    """First cell → message, as a pattern, of every row of the page's tables."""
    rows = re.findall(r"^   \* - (.*)\n     - (.*)\n     - ", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {first: ".+".join(map(re.escape, said.split("…"))) for first, said in rows}


def test_the_page_has_all_that_is_tried_here():
    headings = {"In training", "What was given", "What is found"}
    apart = {"rows to predict overflow", "no checkpoint that can be used", "another teacher"}
    apart |= {"a callback with an open file", "a full disk"}
    assert messages().keys() - headings == REFUSED.keys() | REPORTED.keys() | DAMAGED.keys() | apart


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


@pytest.fixture
def broken_off(make, digits, logits, tmp_path):
    """f(**params), which fits again what was broken off, and its checkpoints."""

    def fit(teacher_logits=logits, **params):
        clf = make(max_epochs=5, checkpoint_dir=tmp_path, **{"callbacks": [Ends()]} | params)
        return clf.fit(*digits, teacher_logits=teacher_logits)

    Ends.n_times = 1
    with pytest.raises(MemoryError):
        fit()
    return fit, sorted(tmp_path.glob("*/*.checkpoint"))


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_checkpoint(what, broken_off):
    fit, (_, newest) = broken_off
    DAMAGED[what](newest)
    with pytest.warns(UserWarning, match=messages()[what]):
        fit()


def test_no_checkpoint_that_can_be_used(broken_off):
    fit, paths = broken_off
    for path in paths:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=messages()["no checkpoint that can be used"]):
        fit()


def test_another_teacher(make, digits, tmp_path):
    X, y = digits
    teachers = [FrozenEstimator(LogisticRegression(C=0.1).fit(X[:n], y[:n])) for n in (200, 300)]
    clf = make(max_epochs=5, checkpoint_dir=tmp_path, callbacks=[Ends()])
    Ends.n_times = 1
    with pytest.raises(MemoryError):
        clf.set_params(teacher=teachers[0]).fit(X, y)
    with pytest.raises(ValueError, match=messages()["another teacher"]):
        clf.set_params(teacher=teachers[1]).fit(X, y)


class Logs(Callback):
    def on_train_begin(self, net, **kwargs):
        self.file = open(PAGE, "rb")  # noqa: SIM115

    def on_train_end(self, net, **kwargs):
        self.file.close()


def test_callback_with_an_open_file(make, digits, logits, tmp_path):
    clf = make(callbacks=[Logs()], checkpoint_dir=tmp_path)
    with pytest.warns(UserWarning, match=messages()["a callback with an open file"]):
        clf.fit(*digits, teacher_logits=logits)


def test_full_disk(make, digits, logits, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sklearn_kd._checkpoint_files.os.replace", full)
    with pytest.warns(UserWarning, match=messages()["a full disk"]):
        make(checkpoint_dir=tmp_path).fit(*digits, teacher_logits=logits)
