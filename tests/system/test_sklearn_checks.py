"""scikit-learn's own checks of an estimator."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import (
    check_estimators_nan_inf,
    check_fit2d_1feature,
    parametrize_with_checks,
)
from torch import nn

from helpers.settings import SINGLE_RUN
from sklearn_kd import DistilledClassifier, MLPStudent

# With and without a teacher, with and without D_val, and with a search.
METHODS = ("none", "linear", "shortlist")
# Half of this loss is the teacher's, who has no class_weight, and on noise the two nearly cancel: smaller steps.
FOR_METHOD = {"shortlist": {"lr": 0.1, "search_epochs": 1 / 3}}

# Every check that must fail, and why. Strict (``xfail_strict`` in pyproject.toml, which every
# scikit-learn heeds): one that passes after all fails the suite, and its line goes.
EXPECTED_FAILURES = dict.fromkeys(
    [
        "check_sample_weight_equivalence_on_dense_data",
        "check_sample_weight_equivalence_on_sparse_data",
    ],
    "shuffled mini-batches of weighted rows are not those of repeated rows, as for "
    "scikit-learn's own SGD estimators; test_weights_are_repetitions_in_one_batch is as "
    "near as it gets",
)


def quick(meta, **params):
    settings = {"optimizer": "SGD", "lr": 0.3, "max_epochs": 8, "batch_size": 16, "device": "cpu"}
    return DistilledClassifier(
        LogisticRegression(),
        MLPStudent,
        **(SINGLE_RUN | settings | params | {"meta": meta}),
    )


# Some checks have labels that nothing tells of, or features around 100, and train for 8 epochs.
@pytest.mark.filterwarnings("ignore:The student (learned nothing|hardly learned|was still learning)")
@parametrize_with_checks(
    [quick(meta, **FOR_METHOD.get(meta, {})) for meta in METHODS],
    expected_failed_checks=lambda _: EXPECTED_FAILURES,
)
def test_scikit_learn_check(estimator, check):
    check(estimator)


class Normed(nn.Module):
    """A student with batch normalisation, which takes no batch of one row."""

    def __init__(self, in_features, n_classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(in_features, 16), nn.BatchNorm1d(16), nn.Linear(16, n_classes))

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("check", [check_estimators_nan_inf, check_fit2d_1feature])
def test_ten_rows_with_batch_normalisation(check):
    """D_val has two of them, so that a batch of it can be normalised."""
    estimator = quick("linear", max_epochs=2)
    estimator.student = Normed
    check("DistilledClassifier", estimator)


def test_expected_failures_are_strict(pytestconfig):
    assert pytestconfig.getini("xfail_strict")


@pytest.mark.parametrize("meta", ["none", "naive"])
def test_weights_are_repetitions_in_one_batch(meta):
    """Equal up to float32's rounding; the check above asks for 1e-7 of float64."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 5)), rng.integers(0, 3, 30)
    weight = rng.integers(0, 4, 30)
    # The layer that standardises counts rows, not weights.
    clf = quick(meta, iterator_train__batch_size=-1, lr=0.5, random_state=0, standardize=False)
    weighted = clf.fit(X, y, sample_weight=weight).predict_proba(X)
    repeated = clf.fit(X.repeat(weight, axis=0), y.repeat(weight)).predict_proba(X)
    plain = clf.fit(X, y).predict_proba(X)
    np.testing.assert_allclose(weighted, repeated, atol=1e-5)
    assert np.abs(weighted - plain).max() > 0.01
