"""The numbers of a report, against computations by hand."""

import math

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import accuracy_score, log_loss

from sklearn_kd.report._scores import N_BINS, PairedDifference, scores_of


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
    found = scores_of(P, codes).bins.calibration_error
    assert found == pytest.approx(calibration_error_by_hand(P, codes, N_BINS), rel=1e-9)
    assert found > 0.05


def test_calibration_error_of_certain_rows():
    P, codes = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]), np.array([0, 1, 1, 0])
    bins = scores_of(P, codes).bins
    assert bins.calibration_error == 0.25 and bins.n_rows[-1] == 4


def test_accuracy_and_log_loss_are_those_of_scikit_learn(answers):
    P, codes = answers
    scores = scores_of(P, codes)
    assert scores.accuracy == accuracy_score(codes, P.argmax(axis=1))
    assert scores.log_loss == pytest.approx(log_loss(codes, P), rel=1e-6)
    assert scores.accuracy_error == pytest.approx(scores.right.std() / math.sqrt(500))


def test_a_probability_of_zero_costs_the_same_in_float64():
    P = np.array([[1.0, 0.0], [0.0, 1.0]])
    codes = np.array([1, 1])
    narrow, wide = (scores_of(P.astype(kind), codes).loss[0] for kind in (np.float32, np.float64))
    assert narrow == wide == pytest.approx(-math.log(2**-23))


def test_paired_difference():
    """10 rows that only the first model gets right, 2 that only the second does, 8 alike."""
    codes = np.zeros(20, dtype=int)
    sure, wrong = [0.9, 0.1], [0.2, 0.8]
    one = scores_of(np.array([sure] * 10 + [wrong] * 2 + [sure] * 8), codes)
    other = scores_of(np.array([wrong] * 10 + [sure] * 2 + [sure] * 8), codes)
    difference = PairedDifference.between(one, other)
    rows = np.array([1.0] * 10 + [-1.0] * 2 + [0.0] * 8)
    assert difference.accuracy == pytest.approx(0.4)
    assert difference.accuracy_error == pytest.approx(rows.std(ddof=1) / math.sqrt(20))
    assert difference.p_value == pytest.approx(2 * binom.cdf(2, 12, 0.5))
    assert difference.log_loss == pytest.approx(-0.4 * math.log(0.9 / 0.2))
    assert PairedDifference.between(other, one).accuracy == -difference.accuracy
    assert PairedDifference.between(one, one)[:3] == (0, 0, 1)
