"""The student that trains on all rows: a fresh one, that of the search, or an average of weights."""

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch import nn

from sklearn_kd import DistilledClassifier, MLPStudent
from sklearn_kd.meta import Hyperopt, Shortlist


class Weights(Callback):
    """Keeps the student's weights before the first epoch and after each."""

    def initialize(self):
        self.after_ = []
        return self

    def on_train_begin(self, net, **kwargs):
        self.after_ = [self._flat(net)]

    def on_epoch_end(self, net, **kwargs):
        self.after_.append(self._flat(net))

    @staticmethod
    def _flat(net):
        return torch.cat([w.detach().flatten() for w in net.module_.parameters()]).double().numpy()


def flat(clf):
    return torch.cat([w.detach().flatten() for w in clf.student_.parameters()]).double().numpy()


class Dropped(nn.Sequential):
    """A student that is not trained in one run with others."""

    def __init__(self):
        super().__init__(nn.Linear(64, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 10))


@pytest.fixture
def noisy(digits):
    """Digits of which 40 % have a random label."""
    rng, (X, y) = np.random.default_rng(0), digits
    return X, np.where(rng.random(len(y)) < 0.4, rng.integers(0, 10, len(y)), y)


@pytest.mark.parametrize("retrain", ["continue", "average", "fresh"])
@pytest.mark.parametrize("meta", ["linear", "twins", Shortlist([{"lambda1": 0.3}])])
def test_how_a_retraining_begins_and_ends(meta, retrain, make, digits, logits):
    clf = make(meta=meta, search_epochs=2, max_epochs=3, retrain=retrain, callbacks=[Weights()]).fit(
        *digits, teacher_logits=logits
    )
    before, *after = clf.net_.callbacks_[-2][1].after_
    alone = make(meta="fixed", max_epochs=3, callbacks=[Weights()]).fit(*digits, teacher_logits=logits)
    fresh = alone.net_.callbacks_[-2][1].after_[0]
    assert np.array_equal(before, fresh) == (retrain != "continue")
    # With decay d the average moves towards the weights by (d + 1) / (n + d) after epoch n.
    decay = {"continue": 8.0, "average": 1.0, "fresh": None}[retrain]
    expected = after[-1]
    if decay is not None:
        expected = np.zeros_like(expected)
        for n, weights in enumerate(after, 1):
            expected += (weights - expected) * (decay + 1) / (n + decay)
    np.testing.assert_allclose(flat(clf), expected, rtol=1e-5, atol=1e-6)
    assert clf.process_.settings["retrain"] == retrain
    assert clf.predict(digits[0]).shape == (400,)


@pytest.mark.parametrize("student", [MLPStudent, Dropped])
def test_the_student_of_the_best_trial_goes_on(student, make, digits, logits):
    """Trained with others, or one after another: its weights are the single trial's."""
    settings = [{"lambda1": 1.0, "temperature": 1.0}, {"lambda1": 0.2, "temperature": 2.0}]

    def start_of_retraining(candidates):
        strategy = Shortlist(candidates)
        clf = make(
            None, student, meta=strategy, search_epochs=2, retrain="continue", lr=0.3, callbacks=[Weights()]
        ).fit(*digits, teacher_logits=logits)
        return clf.net_.callbacks_[-2][1].after_[0], settings[clf.trials_["val_loss"].argmin()]

    found, best = start_of_retraining(settings)
    np.testing.assert_allclose(found, start_of_retraining([best])[0], rtol=1e-4, atol=1e-5)


def test_d_val_decides(make, digits, noisy, logits):
    """A student that still learns goes on; one that learns wrong labels by heart is averaged, and better."""
    X, y = digits
    short = make(meta="shortlist", search_epochs=2).fit(X, y, teacher_logits=logits)
    assert short.process_.settings["retrain"] == "continue"
    scores = {}
    for retrain in ("auto", "fresh"):
        clf = make(meta="linear", search_epochs=15, max_epochs=25, lr=0.5, lambda1=0.9, retrain=retrain)
        clf.set_params(loss__temperature_bounds=(0.9, 1.1)).fit(
            X[:200], noisy[1][:200], teacher_logits=logits[:200]
        )
        scores[retrain] = clf.score(X[200:], y[200:])
    assert clf.process_.settings["retrain"] == "fresh"
    assert scores["auto"] > scores["fresh"] + 0.03, scores


def test_auto_after_several_students_side_by_side_is_fresh(make, digits, logits):
    clf = make(meta="twins", search_epochs=2).fit(*digits, teacher_logits=logits)
    assert clf.process_.settings["retrain"] == "fresh"


def test_a_single_training_is_averaged(make, digits, logits):
    clf = make(meta="fixed", retrain="average", max_epochs=3, callbacks=[Weights()])
    clf.fit(*digits, teacher_logits=logits)
    after = clf.net_.callbacks_[-2][1].after_[1:]
    np.testing.assert_allclose(flat(clf), np.average(after, axis=0, weights=[1, 2, 3]), rtol=1e-5, atol=1e-6)


def test_the_best_of_tpe_goes_on(make, digits, logits):
    clf = make(meta=Hyperopt(3), search_epochs=1).fit(*digits, teacher_logits=logits)
    assert clf.process_.settings["retrain"] == "continue"


def test_a_continued_fit_goes_on_with_its_own_student(make, digits, logits):
    """And not with that of the search, which is fresh."""
    clf = make(meta="linear", search_epochs=1, warm_start=True, callbacks=[Weights()])
    last = flat(clf.fit(*digits, teacher_logits=logits))
    clf.fit(*digits, teacher_logits=logits)
    np.testing.assert_array_equal(clf.net_.callbacks_[-2][1].after_[0], last)


def test_wrong_ways(make, digits, logits, no_training):
    with pytest.raises(ValueError, match=r"'retrain' parameter .* must be a str among"):
        make(retrain="again").fit(*digits, teacher_logits=logits)
    widths = iter(range(3, 9))
    clf = make(None, lambda: MLPStudent(64, 10, hidden=next(widths)), search_epochs=1)
    with pytest.raises(ValueError, match="another network for the retraining than for the search"):
        clf.fit(*digits, teacher_logits=logits)


def test_continue_without_a_search_is_said(make, digits, logits):
    with pytest.warns(UserWarning, match="retrain='continue' without a search whose student could go on"):
        make(meta="fixed", retrain="continue").fit(*digits, teacher_logits=logits)


def test_it_is_saved(make, digits, logits, tmp_path):
    clf = make(meta="linear", search_epochs=1, retrain="average").fit(*digits, teacher_logits=logits)
    clf.save(tmp_path / "student.safetensors")
    loaded = DistilledClassifier.load(tmp_path / "student.safetensors")
    assert loaded.retrain == "average" and loaded.process_.settings["retrain"] == "average"
    np.testing.assert_array_equal(loaded.predict_proba(digits[0]), clf.predict_proba(digits[0]))
