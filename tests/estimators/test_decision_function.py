"""``decision_function`` and the curves, as scikit-learn's own classifiers have them."""

import numpy as np
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import get_scorer, roc_auc_score
from sklearn.model_selection import FixedThresholdClassifier
from torch.utils.data import TensorDataset

from sklearn_kd import MLPStudent


@pytest.fixture(scope="module")
def two(digits):
    X, y = digits
    return X, np.where(y < 5, "low", "high")


@pytest.fixture
def binary(make, two):
    return make(meta="none", max_epochs=10).fit(*two)


def test_of_two_classes(binary, two):
    X, y = two
    decision = binary.decision_function(X)
    assert decision.shape == (400,) and decision.dtype == np.float32
    np.testing.assert_array_equal(binary.classes_[(decision > 0).astype(int)], binary.predict(X))
    log_p = binary.predict_log_proba(X)
    np.testing.assert_allclose(decision, log_p[:, 1] - log_p[:, 0], atol=1e-4)
    assert roc_auc_score(y == "low", decision) > 0.8  # classes_[1]


def test_of_several_classes(make, digits):
    X, y = digits
    clf = make(meta="none").fit(X, y)
    decision = clf.decision_function(X)
    assert decision.shape == (400, 10)
    np.testing.assert_array_equal(clf.classes_[decision.argmax(axis=1)], clf.predict(X))
    with torch.no_grad():
        np.testing.assert_allclose(decision, clf.student_(torch.as_tensor(X)), atol=1e-5)


def test_of_a_dataset(binary, two):
    dataset = TensorDataset(torch.as_tensor(two[0]))
    np.testing.assert_allclose(binary.decision_function(dataset), binary.decision_function(two[0]), atol=1e-5)


def test_of_a_distpro_classifier(make_distpro, digits):
    X, y = digits[0][:100].reshape(-1, 1, 8, 8), digits[1][:100]
    clf = make_distpro(weights="equal", max_epochs=1).fit(X, y)
    np.testing.assert_array_equal(clf.classes_[clf.decision_function(X).argmax(axis=1)], clf.predict(X))


def test_inside_scikit_learn(binary, two):
    X, y = two
    scored = get_scorer("roc_auc")(binary, X, y)
    assert scored == roc_auc_score(y, binary.decision_function(X))
    calibrated = CalibratedClassifierCV(FrozenEstimator(binary), method="sigmoid", cv=2).fit(X, y)
    assert calibrated.score(X, y) > 0.7
    options = {"response_method": "decision_function", "pos_label": "low"}
    never = FixedThresholdClassifier(FrozenEstimator(binary), threshold=1e6, **options).fit(X, y)
    assert set(never.predict(X)) == {"high"}


def test_without_a_fit(make):
    with pytest.raises(AttributeError, match="not fitted"):
        make().decision_function(np.zeros((2, 3)))


def test_the_curves(make, digits):
    X, y = digits
    clf = make(meta="none", max_epochs=3).fit(X, y)
    assert clf.loss_curve_ == clf.history_[:, "train_loss"] and len(clf.loss_curve_) == 3
    assert clf.validation_scores_ is None
    clf.fit(X, y, X_val=X[:50], y_val=y[:50])
    assert clf.validation_scores_ == clf.history_[:, "valid_acc"]
    assert clf.validation_scores_[-1] == pytest.approx(clf.score(X[:50], y[:50]))
    assert not hasattr(make(student=MLPStudent), "loss_curve_")
