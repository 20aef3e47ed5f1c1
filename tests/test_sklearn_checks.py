"""scikit-learn's own checks of an estimator."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_kd import DistilledClassifier, MLPStudent

METHODS = ("none", "naive", "gradient", "linear")

# Every check that must fail, and why. Strict (``xfail_strict`` in pyproject.toml, which every
# scikit-learn heeds): one that passes after all fails the suite, and its line goes.
EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": (
        "shuffled mini-batches of weighted rows are not those of repeated rows, as for "
        "scikit-learn's own SGD estimators; test_weights_are_repetitions_in_one_batch is as "
        "near as it gets"
    ),
}


def quick(meta, **params):
    return DistilledClassifier(
        LogisticRegression(),
        MLPStudent,
        meta=meta,
        **({"max_epochs": 20, "batch_size": 16, "device": "cpu"} | params),
    )


# Some checks have labels that nothing tells of, or features around 100, and train for 20 epochs.
@pytest.mark.filterwarnings("ignore:The student (learned nothing|was still learning)")
@parametrize_with_checks(
    [quick(meta) for meta in METHODS], expected_failed_checks=lambda _: EXPECTED_FAILURES
)
def test_scikit_learn_check(estimator, check):
    check(estimator)


def test_expected_failures_are_strict(pytestconfig):
    assert pytestconfig.getini("xfail_strict")


@pytest.mark.parametrize("meta", ["none", "naive"])
def test_weights_are_repetitions_in_one_batch(meta):
    """Equal up to float32's rounding; the check above asks for 1e-7 of float64."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 5)), rng.integers(0, 3, 30)
    weight = rng.integers(0, 4, 30)
    clf = quick(meta, iterator_train__batch_size=-1, lr=0.5, random_state=0)
    weighted = clf.fit(X, y, sample_weight=weight).predict_proba(X)
    repeated = clf.fit(X.repeat(weight, axis=0), y.repeat(weight)).predict_proba(X)
    plain = clf.fit(X, y).predict_proba(X)
    np.testing.assert_allclose(weighted, repeated, atol=1e-5)
    assert np.abs(weighted - plain).max() > 0.01
