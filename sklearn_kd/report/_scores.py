"""Scores of probabilities on test rows, and paired differences between two models."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest

# Bins of equal width of the calibration error, as in the source.
N_BINS = 15
# Probabilities are raised to at least this, the resolution of float32, before the logarithm is taken.
SMALLEST_PROBABILITY = float(np.finfo(np.float32).eps)


class Bins(NamedTuple):
    """Rows binned by their confidence, the probability of the predicted class.

    Attributes
    ----------
    n_rows : ndarray of shape (N_BINS,)
        Rows in the bin.
    confidence, accuracy : ndarray of shape (N_BINS,)
        Means in the bin; NaN in an empty one.
    """

    n_rows: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def calibration_error(self) -> float:
        """The mean distance of confidence and accuracy, weighted by the rows of the bins."""
        filled = self.n_rows > 0
        distance = np.abs(self.accuracy - self.confidence)[filled]
        return float(np.average(distance, weights=self.n_rows[filled]))


def binned_confidence(probabilities: np.ndarray, codes: np.ndarray) -> Bins:
    """Bin rows by confidence: bin k of n has confidences in (k / n, (k + 1) / n].

    Parameters
    ----------
    probabilities : ndarray of shape (n, K)
    codes : ndarray of shape (n,)
        Column of each row's label.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == codes
    place = np.clip(np.ceil(confidence * N_BINS).astype(int) - 1, 0, N_BINS - 1)
    count = np.bincount(place, minlength=N_BINS)
    with np.errstate(invalid="ignore"):
        means = [
            np.bincount(place, weights=values, minlength=N_BINS) / count for values in (confidence, right)
        ]
    return Bins(count, *means)


class Scores(NamedTuple):
    """Scores of a model, and the rows that they are means of.

    Attributes
    ----------
    right : ndarray of shape (n,), bool
        Whether the most probable class is the label.
    loss : ndarray of shape (n,)
        Minus the logarithm of the label's probability.
    predicted : ndarray of shape (n,)
        Column of the most probable class.
    bins : Bins
    """

    right: np.ndarray
    loss: np.ndarray
    predicted: np.ndarray
    bins: Bins

    @property
    def accuracy(self) -> float:
        """The share of right predictions."""
        return float(self.right.mean())

    @property
    def accuracy_error(self) -> float:
        """The standard error of the accuracy over the rows."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / len(self.right))

    @property
    def log_loss(self) -> float:
        """The mean of the losses."""
        return float(self.loss.mean())


def scores_of(probabilities: np.ndarray, codes: np.ndarray) -> Scores:
    """Score probabilities of shape (n, K) by the column of each row's label."""
    predicted = probabilities.argmax(axis=1)
    own = probabilities[np.arange(len(codes)), codes].astype(np.float64)
    loss = -np.log(np.clip(own, SMALLEST_PROBABILITY, 1))
    return Scores(predicted == codes, loss, predicted, binned_confidence(probabilities, codes))


class PairedDifference(NamedTuple):
    """The difference between the scores of two models on the same rows.

    Attributes
    ----------
    accuracy, accuracy_error : float
        Difference, and its standard error over the rows.
    p_value : float
        McNemar's exact test that both are right equally often; 1 where no row tells them apart.
    log_loss, log_loss_error : float
    """

    accuracy: float
    accuracy_error: float
    p_value: float
    log_loss: float
    log_loss_error: float

    @classmethod
    def between(cls, one: Scores, other: Scores) -> PairedDifference:
        """Return ``one`` minus ``other``."""
        gained = int((one.right & ~other.right).sum())
        lost = int((other.right & ~one.right).sum())
        p_value = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
        right = one.right.astype(np.float64) - other.right
        return cls(*_mean_and_error(right), p_value, *_mean_and_error(one.loss - other.loss))


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), error
