"""Ctrl-C, wherever it comes: what was learned is kept, and predicts."""

import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ConvNet
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import EarlyStopping
from torch import nn

from sklearn_kd import MLPStudent, _together, compare_methods
from sklearn_kd._trials import TrialsInterrupted
from sklearn_kd.meta import Hyperopt, Random


class CtrlC:
    """Sends the signal at the n-th pass through a student, counted from the first one with a gradient."""

    def __init__(self):
        self.at, self.passes, self.begun = None, 0, False

    def set(self, at):
        self.at, self.passes, self.begun = at, 0, False

    def passed(self, module):
        self.begun = self.begun or (module.training and torch.is_grad_enabled())
        self.passes += self.begun
        if self.at is not None and self.passes == self.at:
            self.at = None
            signal.raise_signal(signal.SIGINT)


key = CtrlC()


pytestmark = pytest.mark.usefixtures("sigint_heard")


@pytest.fixture
def ctrl_c():
    """That of the students of this module."""
    yield key
    key.set(None)


class Interrupted(nn.Module):
    """Two layers, and dropout, so that the generators are drawn from."""

    def __init__(self, in_features, n_classes, hidden=8):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_features, hidden),
            nn.BatchNorm1d(hidden),
            nn.Dropout(0.2),
            nn.Linear(hidden, n_classes),
        )

    def forward(self, x):
        key.passed(self)
        return self.layers(x)


class InterruptedConvNet(ConvNet):
    def forward(self, x):
        key.passed(self)
        return super().forward(x)


def assert_usable(clf, X):
    proba = clf.predict_proba(X)
    assert np.isfinite(proba).all() and set(clf.predict(X)) <= set(clf.classes_)
    assert clf.net_.interrupted_


def test_in_any_pass_of_a_training(make, digits, logits, ctrl_c):
    # Of twelve iterations 3 take a hypergradient with two passes more, 3 do not, and so on; then come
    # D_val, twice, and the rows of the largest values.
    passes = np.cumsum([*[3] * 3, *[1] * 3, *[3] * 3, *[1] * 3, 3])
    ends = np.concatenate([passes[:12], passes[12] + passes[:12]])
    state = torch.get_rng_state()
    for at in range(1, 45):
        ctrl_c.set(at)
        clf = make(student=Interrupted, meta="linear", e1=3, e2=3, max_epochs=50)
        clf.fit(*digits, teacher_logits=logits)
        assert_usable(clf, digits[0])
        path = clf.metaparameter_path_
        assert clf.n_iter_ == len(path) == (ends < at).sum()
        assert np.isfinite(path["lambda1"]).all() and 0 <= clf.lambda1_ <= 1
        assert clf.net_.step_record_ is None and clf.net_.validation_batches_ is None
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("strategy", [Hyperopt(n_trials=4, n_startup_trials=1), Random(n_trials=4)])
def test_in_a_trial_the_best_so_far_is_kept(strategy, make, digits, logits, ctrl_c, monkeypatch):
    """Every student is at hand, whether it was trained to the end or not."""
    monkeypatch.setattr(_together, "FEWEST", 99)  # one after the other
    found = []
    for at in (70, 10_000):  # 24 iterations and 8 passes to judge them: in the third trial
        ctrl_c.set(at)
        clf = make(student=Interrupted, meta=strategy).fit(*digits, teacher_logits=logits)
        found.append(clf)
    interrupted, whole = found
    assert_usable(interrupted, digits[0])
    finished = whole.trials_[:2]
    best = finished[finished["val_loss"].argmin()]
    assert (interrupted.lambda1_, interrupted.temperature_) == pytest.approx(
        (best["lambda1"], best["temperature"])
    )
    assert interrupted.n_iter_ == 24


def test_trials_that_are_trained_together(make, digits, logits, monkeypatch):
    taken, step = [], _together._BatchedRun.step

    def interrupted(run, *args):
        taken.append(1)
        if len(taken) == 10:
            signal.raise_signal(signal.SIGINT)
        return step(run, *args)

    monkeypatch.setattr(_together._BatchedRun, "step", interrupted)
    clf = make(student=MLPStudent, meta=Random(n_trials=4), max_epochs=50)
    clf.fit(*digits, teacher_logits=logits)
    assert_usable(clf, digits[0])
    assert len(taken) == 10 and clf.n_iter_ == 0  # a batched run notes its iterations by the epoch


def test_in_the_search_of_a_process(make_distpro, images, ctrl_c):
    ctrl_c.set(9)
    clf = make_distpro(student=InterruptedConvNet, search_epochs=3).fit(*images)
    assert_usable(clf, images[0])
    assert clf.history_ is clf.search_history_ or len(clf.history_) == len(clf.search_history_) == 1
    assert len(clf.process_) == clf.n_iter_ == 2
    followed = make_distpro(process=clf.process_).fit(*images)
    assert followed.n_iter_ == 10 and not followed.net_.interrupted_


def test_in_the_retraining_along_a_process(make_distpro, images, ctrl_c):
    ctrl_c.set(20)
    clf = make_distpro(student=InterruptedConvNet, max_epochs=50).fit(*images)
    assert_usable(clf, images[0])
    assert len(clf.process_) == 4 and 0 < clf.n_iter_ < 20


def test_before_the_first_iteration_of_a_search_nothing_is_fitted(make_distpro, images, ctrl_c):
    clf = make_distpro(student=InterruptedConvNet)
    ctrl_c.set(1)
    with pytest.raises(KeyboardInterrupt):
        clf.fit(*images)
    assert not hasattr(clf, "net_")


def test_a_callback_that_ends_the_search_goes_on_to_the_retraining(make_distpro, images):
    stop = EarlyStopping(patience=1, threshold=10.0, sink=lambda _: None)
    clf = make_distpro(search_callbacks=[stop], search_epochs=9).fit(*images)
    assert len(clf.search_history_) == 2 and len(clf.history_) == 2 and not clf.net_.interrupted_


def test_a_search_goes_on_with_the_next_fit(make, digits, logits, ctrl_c):
    ctrl_c.set(150)  # each fit has 18 iterations, of D_val and passes of hypergradients some more
    clf = make(LogisticRegression(), Interrupted, meta="naive", max_epochs=6)
    search = GridSearchCV(clf, {"lr": [0.1, 0.2]}, cv=2).fit(*digits)
    assert ctrl_c.at is None
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert not search.best_estimator_.net_.interrupted_ and search.predict(digits[0]).shape == (400,)


def test_a_comparison_has_what_was_finished(make, digits, logits, ctrl_c):
    ctrl_c.set(60)  # two methods of 7 iterations and 2 epochs: in the second or third of four runs
    clf = make(student=Interrupted)
    with pytest.warns(UserWarning, match="Interrupted: . of 4 runs"):
        comparison = compare_methods(
            clf, *digits, teacher_logits=logits, methods=["none", "naive"], cv=2, n_seeds=2, n_jobs=1,
            random_state=0,
        )  # fmt: skip
    n_runs = len(comparison.results_) // 2
    assert 1 <= n_runs < 4 and set(comparison.results_["method"]) == {"none", "naive"}


class Failing(LogisticRegression):
    """A teacher that a user, or an error, ends."""

    def __init__(self, error=None):
        super().__init__()
        self.error = error

    def fit(self, X, y, sample_weight=None):
        if self.error is not None:
            raise self.error
        return super().fit(X, y)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no memory")])
def test_what_was_fitted_before_survives_a_fit_that_fails(error, make, digits):
    X, y = digits
    clf = make(Failing()).fit(X, y)
    fitted, proba = dict(vars(clf)), clf.predict_proba(X)
    clf.teacher = fitted["teacher"] = Failing(error)
    with pytest.raises(type(error)):
        clf.fit(X[:, :32], np.where(y > 4, "large", "small"))
    assert vars(clf) == fitted
    np.testing.assert_array_equal(clf.predict_proba(X), proba)


def test_trials_in_other_processes_cannot_be_kept(make, digits, logits, ctrl_c):
    """The exception, which names the best, comes through a pickle."""
    net = make().fit(*digits, teacher_logits=logits).net_
    again = pickle.loads(pickle.dumps(TrialsInterrupted(0.5, net)))
    assert again.val_loss == 0.5 and len(again.net.history) == 2


PROGRAM = """
import signal

from sklearn.datasets import load_digits
from skorch.callbacks import Callback
from sklearn_kd import DistilledClassifier, MLPStudent


class Begun(Callback):
    def on_batch_end(self, net, **kwargs):
        if net.metaparameters.iteration == 50:
            print("begun", flush=True)


signal.signal(signal.SIGINT, signal.default_int_handler)  # which the background ignores
X, y = load_digits(return_X_y=True)
clf = DistilledClassifier(None, MLPStudent, max_epochs=100_000, callbacks=[Begun()], device="cpu")
clf.fit(X / 16, y, teacher_logits=3.0 * (y[:, None] == range(10)))
print(clf.n_iter_, clf.score(X / 16, y), flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a signal cannot be sent to one process")
def test_from_outside():
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "begun\n"
            process.send_signal(signal.SIGINT)
            n_iter, accuracy = process.communicate(timeout=60)[0].split()
        finally:
            process.kill()  # or one that does not stop would be waited for
    assert process.returncode == 0 and int(n_iter) >= 50 and float(accuracy) > 0.3
