"""Ctrl-C, wherever it comes: what was learned is kept, and predicts."""

import os
import pickle
import select
import signal
import warnings

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier
from skorch.callbacks import Callback, EarlyStopping
from torch import nn

from helpers.networks import ConvNet
from helpers.settings import SINGLE_RUN
from sklearn_kd import DistilledClassifier, MLPStudent, compare_methods
from sklearn_kd.meta import Hyperopt, Random
from sklearn_kd.training import _stackable, _stacked
from sklearn_kd.training._trials import TrialsInterrupted


class CtrlC:
    """Sends the signal at the n-th pass through a student, counted from the first one of its training.

    That is the first with a gradient of more than the two rows which the student is tried on.
    """

    def __init__(self):
        self.at, self.passes, self.begun = None, 0, False

    def set(self, at):
        self.at, self.passes, self.begun = at, 0, False

    def passed(self, module, x):
        self.begun = self.begun or (module.training and torch.is_grad_enabled() and len(x) > 2)
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
        key.passed(self, x)
        return self.layers(x)


class InterruptedConvNet(ConvNet):
    def forward(self, x):
        key.passed(self, x)
        return super().forward(x)


def said():
    """What a fit that a user ends warns of."""
    return pytest.warns(
        UserWarning, match=r"Interrupted in epoch \d+ of \d+, after \d+ iterations: the student"
    )


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
        with said() as warned:
            clf.fit(*digits, teacher_logits=logits)
        assert_usable(clf, digits[0])
        assert len(warned) == 1 and f"after {clf.n_iter_} iterations" in str(warned[0].message)
        path = clf.metaparameter_path_
        assert clf.n_iter_ == len(path) == (ends < at).sum()
        assert np.isfinite(path["lambda1"]).all() and 0 <= clf.lambda1_ <= 1
        assert clf.net_.hypergradient_estimator_ is None and clf.net_.validation_batches_ is None
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("at", [3, 14, 17, 32, 40])
def test_in_a_population_the_first_student_is_kept(at, make, digits, logits, ctrl_c, monkeypatch):
    """In its epoch, in that of its twin, where they are compared."""
    monkeypatch.setattr(_stackable, "FEWEST", 99)  # one after the other
    ctrl_c.set(at)
    with said() as warned:
        clf = make(student=Interrupted, meta="twins", max_epochs=50).fit(*digits, teacher_logits=logits)
    assert_usable(clf, digits[0])
    assert len(warned) == 1 and f"after {clf.n_iter_} iterations" in str(warned[0].message)
    path = clf.metaparameter_path_
    assert len(path) == clf.n_iter_ and clf.net_.validation_batches_ is None
    if clf.n_iter_:
        assert clf.lambda1_ == path["lambda1"][-1]


@pytest.mark.parametrize("strategy", [Hyperopt(n_trials=4, n_startup_trials=1), Random(n_trials=4)])
def test_in_a_trial_the_best_so_far_is_kept(strategy, make, digits, logits, ctrl_c, monkeypatch):
    """Every student is at hand, whether it was trained to the end or not."""
    monkeypatch.setattr(_stackable, "FEWEST", 99)  # one after the other
    # 24 iterations and 8 passes to judge them: in the third trial
    ctrl_c.set(70)
    with said():
        interrupted = make(student=Interrupted, meta=strategy).fit(*digits, teacher_logits=logits)
    whole = make(student=Interrupted, meta=strategy).fit(*digits, teacher_logits=logits)
    assert_usable(interrupted, digits[0])
    finished = whole.trials_[:2]
    best = finished[finished["val_loss"].argmin()]
    assert (interrupted.lambda1_, interrupted.temperature_) == pytest.approx(
        (best["lambda1"], best["temperature"])
    )
    assert interrupted.n_iter_ == 24


def test_trials_that_are_trained_together(make, digits, logits, monkeypatch):
    taken, step = [], _stacked.BatchedRun.step

    def interrupted(run, *args):
        taken.append(1)
        if len(taken) == 10:
            signal.raise_signal(signal.SIGINT)
        return step(run, *args)

    monkeypatch.setattr(_stacked.BatchedRun, "step", interrupted)
    clf = make(student=MLPStudent, meta=Random(n_trials=4), max_epochs=50)
    with said():
        clf.fit(*digits, teacher_logits=logits)
    assert_usable(clf, digits[0])
    assert len(taken) == 10 and clf.n_iter_ == 0  # a batched run notes its iterations by the epoch


def test_in_the_search_of_a_process(make_distpro, images, ctrl_c):
    ctrl_c.set(9)
    with said():
        clf = make_distpro(student=InterruptedConvNet, search_epochs=3).fit(*images)
    assert_usable(clf, images[0])
    assert clf.history_ is clf.search_history_ or len(clf.history_) == len(clf.search_history_) == 1
    assert len(clf.process_) == clf.n_iter_ == 2
    followed = make_distpro(process=clf.process_).fit(*images)
    assert followed.n_iter_ == 10 and not followed.net_.interrupted_


def test_in_the_retraining_along_a_process(make_distpro, images, ctrl_c):
    ctrl_c.set(24)
    with said():
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


# What a fit can be part of, each with the passes through the student after which it is interrupted.
PARTS = {
    "a grid search": lambda clf: GridSearchCV(clf, {"lr": [0.1, 0.2]}, cv=2, error_score="raise"),
    "a grid search that forgives errors": lambda clf: GridSearchCV(clf, {"lr": [0.1, 0.2]}, cv=2),
    "a grid search of pipelines": lambda clf: GridSearchCV(
        make_pipeline(StandardScaler(), clf), {"distilledclassifier__lr": [0.1, 0.2]}, cv=2
    ),
    "votes": lambda clf: VotingClassifier([("a", clf), ("b", clf)]),
    "one against the rest": lambda clf: OneVsRestClassifier(clf),
    "calibration": lambda clf: CalibratedClassifierCV(clf, cv=2, ensemble=False),
    "a chain of labels that are guessed": lambda clf: SelfTrainingClassifier(clf, max_iter=2),
    "a student's teacher": lambda clf: clone(clf).set_params(teacher=clf, meta="naive"),
}


@pytest.mark.parametrize("what", PARTS)
def test_what_a_fit_is_part_of_stops(what, make, digits, ctrl_c):
    """A student that is cut short is not scored, nor anything built on it: the whole stops."""
    clf = make(None, Interrupted, meta="none", max_epochs=6, random_state=0)
    whole = PARTS[what](clf)
    ctrl_c.set(30)
    with pytest.raises(KeyboardInterrupt, match=r"in epoch . of 6, after"):
        whole.fit(*digits)
    assert ctrl_c.at is None


def test_cross_validation_stops(make, digits, ctrl_c):
    ctrl_c.set(40)
    with pytest.raises(KeyboardInterrupt):
        cross_val_score(make(None, Interrupted, meta="none", max_epochs=6), *digits, cv=2)


def test_jobs_in_threads_stop(make, digits, ctrl_c):
    """joblib's tasks, whoever wrote them."""
    fits = [delayed(make(None, Interrupted, meta="none", max_epochs=6).fit)(*digits) for _ in range(2)]
    ctrl_c.set(30)
    with pytest.raises(KeyboardInterrupt):
        Parallel(n_jobs=1)(fits)


def test_a_pipeline_and_a_loop_of_ones_own_keep_the_student(make, digits, ctrl_c):
    clf = make(None, Interrupted, meta="none", max_epochs=6)
    ctrl_c.set(30)
    with said():
        pipeline = make_pipeline(StandardScaler(), clone(clf)).fit(*digits)
    assert_usable(pipeline[-1], digits[0])


def test_a_fit_that_was_ended_in_a_search_leaves_its_checkpoints(make, digits, ctrl_c, tmp_path):
    """The same search goes on from the last whole epoch of the fit that was under way."""
    clf = make(None, Interrupted, meta="none", max_epochs=6, checkpoint_dir=tmp_path)
    search = GridSearchCV(clf, {"lr": [0.1]}, cv=2, refit=False)
    ctrl_c.set(30)
    with pytest.raises(KeyboardInterrupt):
        search.fit(*digits)
    assert len(list(tmp_path.glob("*/training-*.checkpoint"))) == 2
    search.fit(*digits)
    whole = GridSearchCV(clf.set_params(checkpoint_dir=None), {"lr": [0.1]}, cv=2, refit=False).fit(*digits)
    assert search.cv_results_["mean_test_score"] == whole.cv_results_["mean_test_score"]


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


class Tells(Callback):
    """Writes into a pipe that the fit has begun."""

    def __init__(self, pipe):
        self.pipe = pipe

    def on_batch_end(self, net, **kwargs):
        if net.metaparameters.iteration == 50:
            os.write(self.pipe, b"begun")


def fit_without_end(digits, logits, begun, told):
    """In a process of its own: the fit's iterations and accuracy, once it was interrupted."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which the background ignores
    warnings.simplefilter("ignore")  # a fit that is interrupted says so
    params = SINGLE_RUN | {"max_epochs": 100_000, "device": "cpu"}
    clf = DistilledClassifier(None, MLPStudent, callbacks=[Tells(begun)], **params)
    clf.fit(*digits, teacher_logits=logits)
    os.write(told, f"{clf.n_iter_} {clf.score(*digits)}".encode())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_from_outside(digits, logits):
    begun, told = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            fit_without_end(digits, logits, begun[1], told[1])
        finally:
            os._exit(0)
    os.close(begun[1])
    os.close(told[1])  # so that a child that fails is not waited for
    try:
        assert os.read(begun[0], 5) == b"begun"
        os.kill(child, signal.SIGINT)
        assert select.select([told[0]], [], [], 60)[0], "the fit goes on"
        n_iter, accuracy = os.read(told[0], 100).split()
    finally:
        os.kill(child, signal.SIGKILL)  # or one that does not stop would be waited for
        os.waitpid(child, 0)
    assert int(n_iter) >= 50 and float(accuracy) > 0.3
