"""Strategies that keep the metaparameters at their initial values."""

from __future__ import annotations

from sklearn_kd.meta._strategy import StartContext, Strategy, Values


class Fixed(Strategy):
    """Keep the given metaparameters, and train on all of D.

    Parameters
    ----------
    val_temperature : float or "auto", default=1.0
        As in :class:`Strategy`.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> clf = DistilledClassifier(
    ...     RandomForestClassifier(10), MLPStudent, meta="fixed", lambda1=0.3, temperature=2.0, max_epochs=2)
    >>> clf.fit(*load_iris(return_X_y=True)).metaparameters_
    {'lambda1': 0.3, 'temperature': 2.0}
    """


class Naive(Strategy):
    """Keep lambda1 = 0.5 and T = 1: the paper's baseline "naive".

    Other metaparameters, and those whose initial value the loss itself sets, keep their initial value.

    Parameters
    ----------
    val_temperature : float or "auto", default=1.0
        As in :class:`Strategy`.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> clf = DistilledClassifier(
    ...     RandomForestClassifier(10), MLPStudent, meta="naive", search_epochs=None, max_epochs=2)
    >>> clf.fit(*load_iris(return_X_y=True)).metaparameters_
    {'lambda1': 0.5, 'temperature': 1.0}
    """

    def start(self, context: StartContext) -> Values:
        return _without_start(context, {"lambda1": 0.5, "temperature": 1.0})


class NoDistillation(Strategy):
    """Train on the labels alone, lambda1 = 1, without a teacher.

    Parameters
    ----------
    val_temperature : float or "auto", default=1.0
        As in :class:`Strategy`.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> clf = DistilledClassifier(None, MLPStudent, meta="none", max_epochs=2)
    >>> clf.fit(*load_iris(return_X_y=True)).lambda1_
    1.0
    """

    needs_teacher = False

    def start(self, context: StartContext) -> Values:
        return _without_start(context, {"lambda1": 1.0, "temperature": 1.0})


def _without_start(context: StartContext, values: dict[str, float]) -> Values:
    """Return the values of metaparameters whose initial value the loss does not set itself."""
    space = context.space
    return {name: value for name, value in values.items() if name in space and space[name].start is None}
