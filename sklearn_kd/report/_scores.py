"""Paired differences between two models on the same test rows, and the standard errors of measures."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from sklearn_kd.tasks._measures import RowScores


class PairedDifference(NamedTuple):
    """The difference between two models in one measure.

    Attributes
    ----------
    mean, error : float
        Difference, and its standard error over the rows.
    p_value : float
        If rows are right or wrong, of McNemar's exact test that both models are right equally often. For
        other values, of a paired t-test that the mean difference is 0. 1 if the models do not differ in
        any row.
    """

    mean: float
    error: float
    p_value: float

    @classmethod
    def between(cls, one: np.ndarray, other: np.ndarray) -> PairedDifference:
        """Return the difference ``one`` minus ``other`` of the rows' values, shape (n,)."""
        difference = one.astype(np.float64) - other
        mean, error = float(difference.mean()), math.nan
        if len(difference) > 1:
            error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
        is_right = one.dtype == bool and other.dtype == bool
        return cls(mean, error, _mcnemar(one, other) if is_right else _t_test(mean, error, len(difference)))


def _mcnemar(one: np.ndarray, other: np.ndarray) -> float:
    gained, lost = int((one & ~other).sum()), int((other & ~one).sum())
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _t_test(mean: float, error: float, n: int) -> float:
    if not error > 0:
        return 1.0 if mean == 0 or math.isnan(error) else 0.0
    return float(2 * stats.t.sf(abs(mean) / error, n - 1))


def error_of_mean(values: np.ndarray) -> float:
    """Return the standard error of a mean over rows. For a share a it is √(a (1 − a) / n)."""
    return float(values.std(dtype=np.float64)) / math.sqrt(len(values))


def difference_between(one: RowScores, other: RowScores) -> dict[str, float]:
    """Return the paired differences of two models as plain numbers.

    The first measure has ``standard_error`` and ``p_value``. For other measures, the name comes in front.
    """
    found: dict[str, float] = {}
    for place, name in enumerate(one.rows):
        difference = PairedDifference.between(one.rows[name], other.rows[name])
        if place == 0:
            numbers = {"standard_error": difference.error, "p_value": difference.p_value}
        else:
            numbers = {f"{name}_standard_error": difference.error}
        found |= {name: difference.mean} | numbers
    return found
