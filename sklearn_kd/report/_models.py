"""The models of a report: their answers, the calls to time, and their sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNet

from sklearn_kd._sklearn_compat import BaseSearchCV
from sklearn_kd.comparison._methods import taken_apart
from sklearn_kd.report._forms import Form, check_classes
from sklearn_kd.report._sizes import Size, size_of
from sklearn_kd.students._standardize import own_student
from sklearn_kd.tasks._classification import Classification
from sklearn_kd.teachers._registry import short_repr


@dataclass(frozen=True, eq=False)
class Model:
    """One row of a report.

    Attributes
    ----------
    kind : str
        Name of the model's class, for the table.
    answers : callable(X) -> ndarray
        Probabilities of shape (n, K), with columns in the order of the student's outputs, or predictions.
    call : callable(X) or None
        The call to time. None if the answers were given.
    size : Size
    seconds : float or None
        Training time, if known.
    """

    kind: str
    answers: Callable[[Any], np.ndarray]
    call: Callable[[Any], Any] | None
    size: Size
    seconds: float | None


# --------------------------------------------------------------------------------------
# The student


@dataclass(frozen=True, eq=False)
class Distilled:
    """The parts of a fitted estimator of the library.

    Attributes
    ----------
    whole : estimator
        The object that predicts: a Pipeline, or the student's estimator.
    transformers : Pipeline or None
        The steps before the student's estimator.
    estimator : DistilledClassifier, DistilledRegressor or DistProClassifier
        The student's fitted estimator.
    """

    whole: Any
    transformers: Pipeline | None
    estimator: Any

    @property
    def task(self) -> Any:
        """The task: the kind of target in y."""
        return self.estimator._task

    def transformed(self, X: Any) -> Any:
        """Return rows in the form that the student's estimator gets."""
        return X if self.transformers is None else self.transformers.transform(X)

    def before_the_student(self) -> list[Any]:
        """Return the fitted transformers that the student's predictions need."""
        own = getattr(self.estimator, "student_preprocessing_", None)
        return [part for part in (self.transformers, own) if part is not None]


def taken_apart_fitted(estimator: Any) -> Distilled:
    """Take a fitted estimator apart. For a search, take its best estimator.

    Raises
    ------
    TypeError
        If it does not end in an estimator of this library.
    NotFittedError
        If it has not been fitted.
    """
    if isinstance(estimator, BaseSearchCV):
        check_is_fitted(estimator, "best_estimator_")
        estimator = estimator.best_estimator_
    transformers, last, _ = taken_apart(estimator)
    check_is_fitted(last, "net_")
    return Distilled(estimator, transformers, last)


def student_model(distilled: Distilled) -> Model:
    """Return the student as a row of the report."""
    ask = getattr(distilled.whole, distilled.task.answers_by)
    student = distilled.estimator.student_
    size = size_of([*distilled.before_the_student(), student])
    return Model(type(own_student(student)).__name__, ask, ask, size, training_seconds(distilled.estimator))


def fitted_model(model: Any, distilled: Distilled, form: Form, name: str) -> Model:
    """Return another fitted estimator, of this library or not, as a row of the report.

    Raises
    ------
    NotFittedError
        If it has not been fitted.
    TypeError
        If it has no method for the answers, or is of another kind.
    ValueError
        If it was fitted on other classes or on another kind of y.
    """
    try:
        own = taken_apart_fitted(model)
    except TypeError:  # an estimator of another library
        own = None
    if own is not None:
        _check_same_targets(own.task, distilled.task, name)
        return student_model(own)
    method = distilled.task.answers_by
    if not hasattr(model, method):
        kind = "regressor" if distilled.task.numeric else "classifier"
        train = ', "train"' if name == "student_alone" else ""
        raise TypeError(f"{name}={short_repr(model)} must be None{train}, or a fitted {kind} with {method}.")
    check_is_fitted(model)
    answers, call = form.answers_of(model, name)
    return Model(type(model).__name__, answers, call, size_of([model]), training_seconds(model))


def _check_same_targets(own: Any, task: Any, name: str) -> None:
    if isinstance(own, Classification) and isinstance(task, Classification):
        check_classes(own.classes, task.classes, name)
    elif type(own) is not type(task) or own.n_targets != task.n_targets:
        raise ValueError(
            f"{name} was fitted on {own.n_targets} {own.outputs_noun}, but the distilled student on "
            f"{task.n_targets} {task.outputs_noun}. Train both on the same y."
        )


# --------------------------------------------------------------------------------------
# Seconds


def training_seconds(model: Any) -> float | None:
    """Return the seconds of a model's training, or None if it has no record of them."""
    recorded = getattr(model, "_student_seconds", None)
    if recorded is not None:
        return recorded
    if isinstance(model, BaseSearchCV):
        return getattr(model, "refit_time_", None)
    history = getattr(model, "history_" if hasattr(model, "net_") else "history", None)
    searched = getattr(model, "search_history_", None)
    history = history if searched is None else [*searched, *(history or [])]
    if isinstance(model, NeuralNet) or hasattr(model, "net_"):
        epochs = [epoch.get("dur") for epoch in history or []]
        return sum(epochs, _seconds_of_trials(model)) if epochs and None not in epochs else None
    return None


def _seconds_of_trials(model: Any) -> float:
    """Return the seconds of trials before the training. A population's trials count in its epochs."""
    strategy = getattr(model, "strategy_", None)  # loaded files may lack it
    before = hasattr(model, "trials_") and not getattr(strategy, "trains_population", True)
    return float(model.trials_["seconds"].sum()) if before else 0.0
