"""The numbers of a report, against computations by hand."""

import math

import numpy as np
import pytest
from scipy.stats import binom, ttest_rel
from sklearn.metrics import accuracy_score, log_loss, r2_score

from sklearn_kd.report._panels import N_BINS, Bins, ErrorCurve
from sklearn_kd.report._scores import difference_between, error_of_mean
from sklearn_kd.tasks._measures import class_scores, number_scores


def bins_of(P, codes):
    return Bins.of(P.max(axis=1), P.argmax(axis=1) == codes)


@pytest.fixture
def answers():
    """(probabilities float32, codes) of 500 rows and 4 classes, of an overconfident model."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, 500)
    logits = 3 * rng.normal(size=(500, 4)) + 2 * np.eye(4)[codes]
    P = np.exp(logits)
    return (P / P.sum(axis=1, keepdims=True)).astype(np.float32), codes


def calibration_error_by_hand(P, codes, n_bins):
    """A loop over rows and bins, in float64."""
    total, error = 0, 0.0
    for k in range(n_bins):
        members = []
        for row, code in zip(P.tolist(), codes.tolist(), strict=True):
            confidence = max(row)
            if k / n_bins < confidence <= (k + 1) / n_bins:
                members.append((confidence, row.index(confidence) == code))
        if members:
            accuracy = sum(right for _, right in members) / len(members)
            confidence = sum(c for c, _ in members) / len(members)
            error += len(members) * abs(accuracy - confidence)
            total += len(members)
    assert total == len(P)
    return error / total


def test_calibration_error_is_that_of_a_loop(answers):
    P, codes = answers
    found = bins_of(P, codes).calibration_error
    assert found == pytest.approx(calibration_error_by_hand(P, codes, N_BINS), rel=1e-9)
    assert found > 0.05


def test_calibration_error_of_certain_rows():
    P, codes = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]), np.array([0, 1, 1, 0])
    bins = bins_of(P, codes)
    assert bins.calibration_error == 0.25 and bins.n_rows[-1] == 4


def test_accuracy_and_log_loss_are_those_of_scikit_learn(answers):
    P, codes = answers
    scores = class_scores(codes, P)
    right = scores.rows["accuracy"]
    assert scores.values["accuracy"] == accuracy_score(codes, P.argmax(axis=1))
    assert scores.values["log_loss"] == pytest.approx(log_loss(codes, P), rel=1e-6)
    assert error_of_mean(right) == pytest.approx(math.sqrt(right.mean() * (1 - right.mean()) / 500))


def test_a_probability_of_zero_costs_the_same_in_float64():
    P = np.array([[1.0, 0.0], [0.0, 1.0]])
    codes = np.array([1, 1])
    narrow, wide = (
        class_scores(codes, P.astype(kind)).rows["log_loss"][0] for kind in (np.float32, np.float64)
    )
    assert narrow == wide == pytest.approx(-math.log(2**-23))


def test_paired_difference():
    """10 rows that only the first model gets right, 2 that only the second does, 8 alike."""
    codes = np.zeros(20, dtype=int)
    sure, wrong = [0.9, 0.1], [0.2, 0.8]
    one = class_scores(codes, np.array([sure] * 10 + [wrong] * 2 + [sure] * 8))
    other = class_scores(codes, np.array([wrong] * 10 + [sure] * 2 + [sure] * 8))
    difference = difference_between(one, other)
    rows = np.array([1.0] * 10 + [-1.0] * 2 + [0.0] * 8)
    assert difference["accuracy"] == pytest.approx(0.4)
    assert difference["standard_error"] == pytest.approx(rows.std(ddof=1) / math.sqrt(20))
    assert difference["p_value"] == pytest.approx(2 * binom.cdf(2, 12, 0.5))
    assert difference["log_loss"] == pytest.approx(-0.4 * math.log(0.9 / 0.2))
    assert difference_between(other, one)["accuracy"] == -difference["accuracy"]
    same = difference_between(one, one)
    assert (same["accuracy"], same["standard_error"], same["p_value"]) == (0, 0, 1)


def test_the_difference_of_numbers_is_that_of_squared_errors():
    rng = np.random.default_rng(0)
    y = rng.normal(size=40)
    one, other = y + 0.3 * rng.normal(size=40), y + 0.5 * rng.normal(size=40)
    found = difference_between(number_scores(y, one), number_scores(y, other))
    assert found["r2"] == pytest.approx(r2_score(y, one) - r2_score(y, other))
    test = ttest_rel((y - one) ** 2, (y - other) ** 2)
    assert found["p_value"] == pytest.approx(test.pvalue)
    same = difference_between(number_scores(y, one), number_scores(y, one))
    assert (same["r2"], same["p_value"]) == (0, 1)


def test_an_error_curve_has_the_quantiles():
    curve = ErrorCurve.of(np.arange(11.0))
    assert curve.errors[[0, 50, 100]].tolist() == [0, 5, 10]
