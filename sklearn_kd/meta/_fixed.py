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
