"""Strategies whose metaparameters stay where they start."""

from __future__ import annotations

from sklearn_kd.meta._strategy import Setting, Strategy


class Fixed(Strategy):
    """The estimator's ``lambda1`` and ``temperature`` throughout, trained on all of D.

    Examples
    --------
    >>> from sklearn_kd.meta import Fixed
    >>> Fixed().learns_from_validation
    False
    """


class Naive(Strategy):
    """lambda1 = 0.5 and T = 1 throughout: the paper's baseline "naive"."""

    def start(self, setting: Setting) -> tuple[float, float]:
        return 0.5, 1.0


class NoDistillation(Strategy):
    """Labels alone, lambda1 = 1: the student that has no teacher."""

    needs_teacher = False

    def start(self, setting: Setting) -> tuple[float, float]:
        return 1.0, 1.0


class Random(Strategy):
    """One random draw throughout: lambda1 ~ U(0, 1), log10 T ~ U(−1, 1).

    The paper's text draws log10 T so; its comparison drew T ~ U(0.1, 10).

    Parameters
    ----------
    log10_temperature : tuple of (float, float), default=(-1.0, 1.0)
        Range of log10 T. It is the baseline's own and knows no ``temperature_bounds``.
    """

    def __init__(self, log10_temperature: tuple[float, float] = (-1.0, 1.0)):
        self.log10_temperature = log10_temperature

    def start(self, setting: Setting) -> tuple[float, float]:
        return setting.rng.uniform(0.0, 1.0), 10 ** setting.rng.uniform(*self.log10_temperature)
