"""``class_weight``: what it weighs, and whom it does not reach; and the weights of X_val."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.utils.class_weight import compute_sample_weight
from torch.utils.data import TensorDataset

from sklearn_kd import DistilledClassifier
from sklearn_kd.estimators._preflight import validate

METHODS = ["none", "naive", "gradient"]


@pytest.fixture(scope="module")
def imbalanced(digits):
    """Digits, of which the even ones are mostly left out; the labels are words."""
    X, y = digits
    kept = (y % 2 == 1) | (np.arange(400) % 3 == 0)
    words = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
    return X[kept], words[y[kept]]


def same(a, b, X):
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X))
    assert a.metaparameter_path_.tobytes() == b.metaparameter_path_.tobytes()  # it has NaN


@pytest.mark.parametrize("meta", METHODS)
def test_it_is_a_weight_of_rows(meta, make, imbalanced):
    """In the terms of labels and of the teacher, and in D_val, which learns the metaparameters."""
    X, y = imbalanced
    logits = np.random.default_rng(0).normal(size=(len(y), 10))
    clf = make(meta=meta)
    by_row = clone(clf).fit(X, y, teacher_logits=logits, sample_weight=compute_sample_weight("balanced", y))
    by_class = clone(clf).set_params(class_weight="balanced").fit(X, y, teacher_logits=logits)
    same(by_class, by_row, X)
    plain = clone(clf).fit(X, y, teacher_logits=logits)
    assert np.abs(plain.predict_proba(X) - by_class.predict_proba(X)).max() > 1e-3
    if meta == "gradient":
        assert plain.metaparameters_ != by_class.metaparameters_


def test_it_is_multiplied_with_the_weights_of_rows(make, imbalanced):
    X, y = imbalanced
    weight = 1.0 + np.arange(len(y)) % 3
    given = {"two": 5, "six": 0.5}
    factor = np.array([given.get(label, 1.0) for label in y])
    clf = make(meta="none")
    both = clone(clf).set_params(class_weight=given).fit(X, y, sample_weight=weight)
    same(both, clone(clf).fit(X, y, sample_weight=weight * factor), X)


def test_balanced_counts_what_the_rows_weigh(make, imbalanced):
    """Rows of weight 0 are as if they were absent."""
    X, y = imbalanced
    weight = (np.arange(len(y)) % 4 > 0).astype(float)
    clf = make(meta="none", class_weight="balanced", batch_size=32)
    weighted, without = (
        clone(clf).fit(X, y, sample_weight=weight),
        clone(clf).fit(X[weight > 0], y[weight > 0]),
    )
    same(weighted, without, X)


def test_a_class_of_weight_0_is_left_out(make, digits):
    X, y = digits
    clf = make(meta="none", max_epochs=20, lr=0.5, class_weight={8: 0, 9: 0}).fit(X, y)
    assert clf.classes_.tolist() == list(range(10))
    assert not np.isin(clf.predict(X), (8, 9)).any()
    assert clf.score(X[y < 8], y[y < 8]) > 0.9


def test_in_a_given_d_val_every_class_counts_alike(make, imbalanced):
    """By the rows of D_val, whatever the shares of the classes in y."""
    X, y = imbalanced
    inputs = validate(make(class_weight="balanced"), X, y, X_val=X[:150], y_val=y[:150])
    np.testing.assert_allclose(inputs.valid.weight, compute_sample_weight("balanced", y[:150]))
    np.testing.assert_allclose(inputs.weight, compute_sample_weight("balanced", y))
    one = validate(make(class_weight={"two": 3}), X, y, X_val=X[:150], y_val=y[:150])
    assert set(one.valid.weight[y[:150] == "two"]) == {3.0} and set(one.valid.weight) == {1.0, 3.0}


def test_a_d_val_without_weight_is_refused(make, digits):
    X, y = digits
    with pytest.raises(ValueError, match="gives every row of X_val the weight 0"):
        make(class_weight={0: 0}).fit(X, y, X_val=X[y == 0], y_val=y[y == 0])


class Spy(LogisticRegression):
    """A teacher that keeps what weights it was given."""

    seen = None

    def fit(self, X, y, sample_weight=None):
        Spy.seen = sample_weight
        return super().fit(X, y, sample_weight)


def test_the_teacher_is_given_the_weights_of_rows_alone(make, digits):
    X, y = digits
    clf = make(Spy(), meta="naive", class_weight="balanced").fit(X, y)
    assert Spy.seen is None
    weight = 1.0 + y
    clf.fit(X, y, sample_weight=weight)
    np.testing.assert_array_equal(Spy.seen, weight)


def test_datasets_and_searches(make, digits):
    X, y = digits
    clf = make(meta="none", class_weight={3: 4.0})
    loaded = clone(clf).fit(TensorDataset(torch.as_tensor(X), torch.as_tensor(y)))
    same(loaded, clone(clf).fit(X, y), X)
    search = GridSearchCV(clf, {"class_weight": [None, "balanced", {0: 2.0}]}, cv=2).fit(X, y)
    assert len(search.cv_results_["params"]) == 3


def test_it_is_saved_with_labels_that_are_no_strings(make, digits, tmp_path):
    pytest.importorskip("safetensors", reason="needs safetensors")
    clf = make(meta="none", max_epochs=1, class_weight={3: 2.0, 4: 0.5}).fit(*digits)
    clf.save(tmp_path / "clf.safetensors")
    assert DistilledClassifier.load(tmp_path / "clf.safetensors").class_weight == {3: 2.0, 4: 0.5}


def test_of_a_distpro_classifier(make_distpro, digits):
    X, y = digits[0][:60].reshape(-1, 1, 8, 8), digits[1][:60]
    by_class = make_distpro(class_weight="balanced", max_epochs=1).fit(X, y)
    by_row = make_distpro(max_epochs=1).fit(X, y, sample_weight=compute_sample_weight("balanced", y))
    np.testing.assert_array_equal(by_class.predict_proba(X), by_row.predict_proba(X))


# --------------------------------------------------------------------------------------
# sample_weight_val


@pytest.mark.parametrize("meta", ["none", "gradient", "hyperopt"])
def test_rows_of_d_val_without_weight_do_not_count(meta, make, digits, logits):
    """Wrong labels among them change nothing: neither what is learned nor ``valid_loss``."""
    X, y = digits
    given = {"teacher_logits": logits[:300], "X_val": X[300:]}
    wrong = np.arange(100) % 2 == 1
    y_wrong = np.where(wrong, (y[300:] + 1) % 10, y[300:])
    clf = make(meta=meta)
    weighted = clone(clf).fit(X[:300], y[:300], y_val=y_wrong, sample_weight_val=1.0 - wrong, **given)
    given["X_val"] = X[300:][~wrong]
    without = clone(clf).fit(X[:300], y[:300], y_val=y[300:][~wrong], **given)
    same(weighted, without, X)
    assert weighted.history_[:, "valid_loss"] == without.history_[:, "valid_loss"]
    assert weighted.validation_scores_ == without.validation_scores_


def test_weights_of_d_val_are_repetitions(make, digits):
    X, y = digits
    weight = np.random.default_rng(0).integers(0, 4, 100)
    clf = make(meta="none", iterator_valid__batch_size=-1)
    weighted = clone(clf).fit(X[:300], y[:300], X_val=X[300:], y_val=y[300:], sample_weight_val=weight)
    repeated = X[300:].repeat(weight, axis=0), y[300:].repeat(weight)
    again = clone(clf).fit(X[:300], y[:300], X_val=repeated[0], y_val=repeated[1])
    np.testing.assert_allclose(weighted.history_[:, "valid_loss"], again.history_[:, "valid_loss"], rtol=1e-5)


def test_weights_of_d_val_are_counted_by_its_rows(make, digits):
    X, y = digits
    with pytest.raises(ValueError, match=r"sample_weight_val: .*Give one weight per row of X_val\."):
        make().fit(X[:300], y[:300], X_val=X[300:], y_val=y[300:], sample_weight_val=np.ones(5))


def test_no_weight_at_all(make, digits):
    with pytest.raises(ValueError, match="gives every row of X the weight 0"):
        make(class_weight=dict.fromkeys(range(10), 0)).fit(*digits)


def test_a_class_that_a_fold_lacks_may_have_a_weight(make, digits):
    X, y = digits
    few = y < 3
    weights = {0: 1.0, 1: 2.0, 2: 3.0}
    fit = make(LogisticRegression(), max_epochs=1, class_weight=weights | {3: 4.0}).fit(X[few], y[few])
    same = make(LogisticRegression(), max_epochs=1, class_weight=weights).fit(X[few], y[few])
    np.testing.assert_array_equal(fit.predict_proba(X), same.predict_proba(X))
