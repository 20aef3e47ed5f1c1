"""Measures of predictions on test rows: their names in tables, and the values of each row."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from sklearn.metrics import f1_score

# Lower bound of probabilities, the resolution of float32, before the logarithm is taken.
SMALLEST_PROBABILITY = float(np.finfo(np.float32).eps)


class Measure(NamedTuple):
    """The heading and the units of a measure in tables.

    Attributes
    ----------
    title : str
    in_units : bool, default=False
        Whether it has the units of y, so that its size is not known beforehand.
    """

    title: str
    in_units: bool = False


# All measures by their names in results, in the order of table columns.
MEASURES = {
    "accuracy": Measure("accuracy"),
    "subset_accuracy": Measure("subset accuracy"),
    "macro_f1": Measure("macro F1"),
    "r2": Measure("R²"),
    "d2": Measure("D²"),
    "rmse": Measure("RMSE", in_units=True),
    "mae": Measure("MAE", in_units=True),
    "pinball_loss": Measure("pinball loss", in_units=True),
    "log_loss": Measure("log loss"),
}


class RowScores(NamedTuple):
    """Scores of one model on test rows.

    Attributes
    ----------
    rows : dict of str to ndarray of shape (n,)
        Values of the rows, by measure; their mean is the measure. Verdicts use the first one. Booleans say
        whether a row is right.
    further : dict of str to float
        Measures that are not means over rows.
    """

    rows: dict[str, np.ndarray]
    further: dict[str, float]

    @property
    def values(self) -> dict[str, float]:
        """Return all measures by name."""
        means = {name: float(values.mean(dtype=np.float64)) for name, values in self.rows.items()}
        known = means | self.further
        return {name: known[name] for name in MEASURES if name in known}


def class_scores(codes: np.ndarray, probabilities: np.ndarray) -> RowScores:
    """Score probabilities of shape (n, K) with the column of each row's label; −1: a label without column."""
    known = codes >= 0
    own = np.zeros(len(codes))
    own[known] = probabilities[known, codes[known]]
    loss = -np.log(np.clip(own, SMALLEST_PROBABILITY, 1))
    return RowScores({"accuracy": probabilities.argmax(axis=1) == codes, "log_loss": loss}, {})


def label_scores(codes: np.ndarray, probabilities: np.ndarray) -> RowScores:
    """Score probabilities of several labels with the labels of each row, both of shape (n, k).

    The log loss is the mean over the labels. Macro F1 is the mean of the labels' F1, which is 0 for a
    label that no row has or is predicted to have.
    """
    said = probabilities > 0.5
    right = (said == codes).all(axis=1)
    own = np.where(codes == 1, probabilities, 1 - probabilities.astype(np.float64))
    loss = -np.log(np.clip(own, SMALLEST_PROBABILITY, 1)).mean(axis=1)
    f1 = f1_score(codes, said.astype(codes.dtype), average="macro", zero_division=0)
    return RowScores({"subset_accuracy": right, "log_loss": loss}, {"macro_f1": float(f1)})


def number_scores(targets: np.ndarray, predictions: np.ndarray) -> RowScores:
    """Score numeric predictions, both of shape (n,) or (n, m): R², RMSE and the mean absolute error.

    Each is averaged over the targets, as in scikit-learn's functions.
    """
    errors = _columns(predictions) - _columns(targets)
    apart = _columns(targets) - _columns(targets).mean(axis=0)
    shares = _explained(errors**2, apart**2)
    rmse = float(np.sqrt((errors**2).mean(axis=0)).mean())
    return RowScores({"r2": shares, "mae": np.abs(errors).mean(axis=1)}, {"rmse": rmse})


def quantile_scores(targets: np.ndarray, predictions: np.ndarray, quantile: float) -> RowScores:
    """Score predictions of a quantile by the pinball loss and by D² = 1 − loss / loss of y's quantile."""
    y = _columns(targets)
    losses = _pinball(y - _columns(predictions), quantile)
    of_constant = _pinball(y - np.percentile(y, 100 * quantile, axis=0), quantile)
    return RowScores({"d2": _explained(losses, of_constant), "pinball_loss": losses.mean(axis=1)}, {})


def _columns(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float64).reshape(len(values), -1)


def _pinball(below: np.ndarray, quantile: float) -> np.ndarray:
    return np.maximum(quantile * below, (quantile - 1) * below)


def _explained(losses: np.ndarray, of_constant: np.ndarray) -> np.ndarray:
    """Return 1 − loss / mean loss of a constant prediction, shape (n,), averaged over the targets.

    Return NaN for a single row. As in scikit-learn, a constant target counts 1 if it is predicted exactly,
    else 0.
    """
    if len(losses) < 2:
        return np.full(len(losses), np.nan)
    base = of_constant.mean(axis=0)
    exact = np.where((losses == 0).all(axis=0), 1.0, 0.0)
    shares = np.where(base > 0, 1 - losses / np.where(base > 0, base, 1), exact)
    return shares.mean(axis=1)
