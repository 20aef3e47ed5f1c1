"""Scorers in skorch's callbacks see the user's labels."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import is_classifier
from sklearn.metrics import (
    balanced_accuracy_score,
    f1_score,
    get_scorer,
    make_scorer,
    recall_score,
    roc_auc_score,
)
from skorch import NeuralNet
from skorch.callbacks import BatchScoring, Callback, EpochScoring

from sklearn_kd import DistilledClassifier
from sklearn_kd.inputs._batches import Batch
from sklearn_kd.tasks._targets import Targets
from sklearn_kd.training import _label_scorers
from sklearn_kd.training._label_scorers import rows_with_labels

NAMES = np.array([f"digit {i}" for i in range(10)])


def is_zero(net, X, y):
    """A scorer of one's own: the share of one label."""
    return float(np.mean(np.asarray(y) == "zero"))


def says_labels(net, X, y):
    """What the net is for a scorer; cached answers can be asked for once."""
    assert isinstance(net, NeuralNet) and is_classifier(net)
    return float(np.isin(net.predict(X), net.classes_).all() and np.isin(y, net.classes_).all())


def follows_classes(net, X, y):
    """The accuracy by the columns of predict_proba."""
    return float(np.mean(net.classes_[net.predict_proba(X).argmax(axis=1)] == y))


def scored(make, X, y, scoring, kind=EpochScoring, valid=None, **how):
    callback = kind(scoring, name="s", lower_is_better=False, **how)
    X_val, y_val = (X, y) if valid is None else valid
    clf = make(meta="none", max_epochs=4, optimizer__momentum=0.9, callbacks=[callback])
    return clf.fit(X, y, X_val=X_val, y_val=y_val)


@pytest.fixture
def binary(digits):
    """Ones against zeros, by name: the codes of "one" and "zero" are 0 and 1."""
    X, y = digits
    some = y < 2
    return X[some], np.array(["zero", "one"])[y[some]]


def test_own_scorer_sees_labels(make, binary):
    X, y = binary
    assert scored(make, X, y, is_zero).history_[-1]["s"] == pytest.approx(np.mean(y == "zero"))
    assert scored(make, X, y, is_zero, on_train=True).history_[-1]["s"] == pytest.approx(np.mean(y == "zero"))
    assert scored(make, X, y, is_zero, BatchScoring).history_[-1]["s"] == pytest.approx(np.mean(y == "zero"))


@pytest.mark.parametrize("use_caching", [True, False])
@pytest.mark.parametrize("kind", [EpochScoring, BatchScoring])
def test_predictions_are_labels_and_columns_in_order(use_caching, kind, make, digits):
    X, y = digits[0], NAMES[digits[1]]
    assert scored(make, X, y, says_labels, kind, use_caching=use_caching).history_[-1]["s"] == 1.0
    clf = scored(make, X, y, follows_classes, kind, use_caching=use_caching)
    assert clf.history_[-1]["s"] == pytest.approx(clf.score(X, y)) and clf.score(X, y) > 0.3


@pytest.mark.parametrize("use_caching", [True, False])
@pytest.mark.parametrize(
    ("scoring", "metric"),
    [
        (make_scorer(f1_score, labels=["zero"], average="macro"), {"labels": ["zero"], "average": "macro"}),
        (make_scorer(f1_score, pos_label="zero"), {"pos_label": "zero"}),
        (make_scorer(f1_score, pos_label="one"), {"pos_label": "one"}),
        ("f1_macro", {"average": "macro"}),
        # No label is named: that of the second class, as ever.
        ("f1", {"pos_label": "zero"}),
        (f1_score, {"pos_label": "zero"}),
    ],
)
def test_f1_by_label(scoring, metric, use_caching, make, binary):
    """Where the classes differ in size and not all is right, each f1 is another number."""
    X, y = binary
    rng = np.random.default_rng(0)
    some = (y == "zero") | (rng.random(len(y)) < 0.3)
    noisy = np.where(rng.random(some.sum()) < 0.2, "one", y[some])
    clf = scored(make, X, y, scoring, valid=(X[some], noisy), use_caching=use_caching)
    expected = f1_score(noisy, clf.predict(X[some]), **metric)
    assert clf.history_[-1]["s"] == pytest.approx(expected) and 0 < expected < 1
    others = {f1_score(noisy, clf.predict(X[some]), pos_label=label) for label in ("zero", "one")}
    assert len(others) == 2


def test_label_one_is_the_positive_one(make, binary):
    """Of labels 1 and 2 the first class, as in scikit-learn; not the code 1."""
    X, y = binary
    y = np.where(y == "zero", 1, 2)
    noisy = np.where(np.random.default_rng(0).random(len(y)) < 0.3, 1, y)
    for scoring in ("recall", make_scorer(recall_score)):
        clf = scored(make, X, y, scoring, valid=(X, noisy))
        assert clf.history_[-1]["s"] == pytest.approx(recall_score(noisy, clf.predict(X)))
        assert clf.history_[-1]["s"] == pytest.approx(get_scorer("recall")(clf, X, noisy))


def test_probabilities_of_the_positive_label(make, binary):
    X, y = binary
    noisy = np.where(np.random.default_rng(0).random(len(y)) < 0.3, "one", y)
    area = make_scorer(roc_auc_score, response_method="predict_proba")
    clf = scored(make, X, y, area, valid=(X, noisy))
    expected = roc_auc_score(noisy == "zero", clf.predict_proba(X)[:, 1])
    assert clf.history_[-1]["s"] == pytest.approx(expected) and expected != 0.5


def test_labels_of_any_kind(make, digits):
    X, y = digits
    for labels in (np.arange(10) - 5, np.arange(10) * 2.0, NAMES.astype(object), np.arange(1, 11)):
        truth = labels[y]
        own = make_scorer(lambda seen, said, labels=labels: float(np.isin([*seen, *said], labels).all()))
        assert scored(make, X, truth, own).history_[-1]["s"] == 1.0
        clf = scored(make, X, truth, make_scorer(balanced_accuracy_score))
        assert clf.history_[-1]["s"] == pytest.approx(balanced_accuracy_score(truth, clf.predict(X)))
        assert clf.history_[-1]["valid_acc"] == pytest.approx(clf.score(X, truth))


def test_default_score_and_extractor(make, binary):
    """``scoring=None`` is the accuracy; what an own extractor returns is not taken for codes."""
    X, y = binary
    clf = scored(make, X, y, None)
    assert clf.history_[-1]["s"] == pytest.approx(clf.score(X, y))
    mean = lambda net, X, y: float(np.mean(y))  # noqa: E731
    clf = scored(make, X, y, mean, target_extractor=lambda y: y.numpy() + 0.5)
    assert clf.history_[-1]["s"] == pytest.approx(np.mean(y == "zero") + 0.5)


def test_an_extractor_of_ones_own_is_given_labels_on_the_host(monkeypatch):
    """A device's tensors are told apart by that their numbers are not read, as everywhere."""
    monkeypatch.setattr(_label_scorers, "reading_is_free", lambda tensor: False)
    batch = Batch(torch.zeros(2, 3), Targets(torch.tensor([0, 1])))
    told = {"batch": batch, "training": False, "y_pred": None}
    for callback, kind in (
        (EpochScoring("accuracy"), Batch),
        (EpochScoring(None, target_extractor=str), tuple),
    ):
        given = rows_with_labels(callback, told)["batch"]
        assert type(given) is kind and given[1].tolist() == [0, 1]


def test_net_and_built_in_accuracy_stay_on_codes(make, digits):
    X, y = digits
    clf = scored(make, X, NAMES[y], says_labels)
    by_code = scored(make, X, y, says_labels)
    assert clf.history_[:, "valid_acc"] == by_code.history_[:, "valid_acc"]
    assert clf.net_.classes_.tolist() == list(range(10)) and clf.net_.predict(X).max() <= 9
    assert dict(clf.net_.callbacks_)["valid_acc"].scoring_ == "accuracy"


class Killed(Exception):
    pass


class KillOnce(Callback):
    """Ends the first fit in its third epoch."""

    killed = False

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) == 3 and not KillOnce.killed:
            KillOnce.killed = True
            raise Killed


def test_resumed_fit_scores_labels(make, binary, tmp_path):
    X, y = binary
    KillOnce.killed = False

    def fit():
        callbacks = [EpochScoring(is_zero, name="s", lower_is_better=False), KillOnce()]
        clf = make(meta="none", callbacks=callbacks, max_epochs=4, checkpoint_dir=tmp_path)
        return clf.fit(X, y, X_val=X, y_val=y)

    with pytest.raises(Killed):
        fit()
    assert fit().history_[:, "s"] == [pytest.approx(np.mean(y == "zero"))] * 4


def test_net_is_put_back_when_a_scorer_fails(make, binary):
    nets = []

    def failing_scorer(net, X, y):
        nets.append(net)
        raise RuntimeError("the scorer")

    clf = make(meta="none", callbacks=[EpochScoring(failing_scorer, name="s")])
    with pytest.raises(RuntimeError, match="the scorer"):
        clf.fit(*binary, X_val=binary[0], y_val=binary[1])
    assert nets[0].classes.tolist() == [0, 1]


def test_pickles_files_and_checkpoints(make, binary, tmp_path):
    X, y = binary
    clf = scored(make, X, y, is_zero)
    again = pickle.loads(pickle.dumps(clf))
    assert again.history_[-1]["s"] == clf.history_[-1]["s"]
    clf.set_params(callbacks=None).save(tmp_path / "clf.safetensors")
    loaded = DistilledClassifier.load(tmp_path / "clf.safetensors")
    np.testing.assert_array_equal(loaded.predict(X), clf.predict(X))
    assert loaded.net_.labels.tolist() == ["one", "zero"]


def test_distpro_scorers(make_distpro, images):
    X, y = images
    callbacks = [EpochScoring(share_of_digit_3, name="s", use_caching=False)]
    clf = make_distpro(callbacks=callbacks, search_callbacks=[EpochScoring(share_of_digit_3, name="s")])
    clf.fit(X, NAMES[y], X_val=X, y_val=NAMES[y])
    for history in (clf.history_, clf.search_history_):
        assert history[-1]["s"] == pytest.approx(np.mean(y == 3))


def share_of_digit_3(net, X, y):
    return float(np.mean(np.asarray(y) == "digit 3"))
