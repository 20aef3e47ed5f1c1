"""The base of strategies: where the metaparameters start and how they move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.base import BaseEstimator
from torch import Tensor

from sklearn_kd.meta._path import LearnedPath


@dataclass(frozen=True)
class Setting:
    """The context in which a strategy chooses where the metaparameters start.

    Attributes
    ----------
    lambda1, temperature : float
        The start that the estimator was given.
    rng : numpy.random.Generator
        The only source of randomness to use.
    evaluate_all : callable(settings, n_jobs=None) -> list of float
        :meth:`evaluate` for each of several (lambda1, temperature) that do not wait for each
        other. Students that are small enough are trained in one batched run, the others in
        ``n_jobs`` processes, as joblib reads that number.
    verbose : int
        The estimator's.

    Examples
    --------
    A strategy that takes the better of two temperatures:

    >>> from sklearn_kd import meta
    >>> class Better(meta.Strategy):
    ...     learns_from_validation = True
    ...
    ...     def start(self, setting):
    ...         tried = [(setting.lambda1, 1.0), (setting.lambda1, 4.0)]
    ...         losses = setting.evaluate_all(tried)
    ...         return tried[losses.index(min(losses))]
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> clf = DistilledClassifier(
    ...     RandomForestClassifier(10), MLPStudent, meta=Better(), max_epochs=3)
    >>> clf.fit(*load_iris(return_X_y=True)).temperature_ in (1.0, 4.0)
    True
    """

    lambda1: float
    temperature: float
    rng: np.random.Generator
    evaluate_all: Callable[..., list[float]]
    verbose: int = 0

    def evaluate(self, lambda1: float, temperature: float) -> float:
        """L_val on D_val of a fresh student trained on D_train with these fixed."""
        return self.evaluate_all([(lambda1, temperature)])[0]


class Strategy(BaseEstimator):
    """Base class: the metaparameters start where the estimator says and stay there.

    A strategy holds its own settings and no state of a run, so one object can serve any
    number of fits. To write one, subclass, state what it needs in the two class attributes,
    and override what differs. The shortest is :class:`Naive`, a single line.

    Attributes
    ----------
    needs_teacher : bool, default=True
        False: the student learns from the labels alone.
    learns_from_validation : bool, default=False
        True: D_val is held out, and ``takes_hypergradient`` or ``start`` may use it. False:
        the student trains on all of D.
    trials_ : structured array
        Set by strategies that try several settings in ``start``.
    """

    needs_teacher = True
    learns_from_validation = False

    def check(self) -> None:
        """Raise ValueError if the strategy's own parameters cannot be used."""

    def start(self, setting: Setting) -> tuple[float, float]:
        """(lambda1, T) before the first iteration."""
        return setting.lambda1, setting.temperature

    def takes_hypergradient(self, iteration: int) -> bool:
        """Return whether this iteration (0, 1, …) moves the metaparameters by the hypergradient.

        Adam and AdamW take ten steps before a hypergradient can be taken. As long as a strategy
        asks for one and has to wait for it, nothing moves and its count of iterations stands
        still, so that a cycle begins with the first hypergradient.
        """
        return False

    def predict(self, metaparameters: LearnedPath) -> Tensor | None:
        """θ after an iteration without hypergradient; None: stay.

        θ is (lambda1, log T), or (lambda1, T) with ``meta_coordinates="raw"``. In the search of
        :class:`DistProClassifier` it is the raw factors, of any number L in place of 2, and
        behind them lambda1 and log T where they are learned.

        ``metaparameters.iteration`` says which it is, counted as in :meth:`takes_hypergradient`, and
        ``metaparameters.trajectory(...)`` where they have been. Return shape (2,) for this
        iteration alone, or (k, 2) for it and the k − 1 that follow, before the strategy is asked
        again. What is returned is projected onto the bounds; what is not finite stays where it is.
        """
        return None
