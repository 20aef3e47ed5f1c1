"""The models of a report: what answers about rows, what is timed, and what is counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNet

from sklearn_kd._sklearn_compat import BaseSearchCV
from sklearn_kd.comparison._methods import taken_apart
from sklearn_kd.estimators._several_labels import has_several_labels
from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.report._rows import count_rows, input_batches
from sklearn_kd.report._sizes import Size, size_of
from sklearn_kd.students._standardize import own_student
from sklearn_kd.teachers._adapter import BatchTeacherAdapter, TeacherAdapter
from sklearn_kd.teachers._cached import ask_teacher
from sklearn_kd.teachers._class_alignment import checked_teacher_classes, select_columns
from sklearn_kd.teachers._class_probabilities import probabilities_of
from sklearn_kd.teachers._classifiers import ClassifierTeacher
from sklearn_kd.teachers._ensembles import TeacherEnsemble
from sklearn_kd.teachers._given_logits import checked_logits
from sklearn_kd.teachers._logit_checks import thawed
from sklearn_kd.teachers._registry import adapter_class, comes_trained, make_teacher, short_repr
from sklearn_kd.teachers._trained_objects import TrainedObjectTeacher


@dataclass(frozen=True, eq=False)
class Model:
    """One row of a report.

    Attributes
    ----------
    kind : str
        Name of its class, for the table.
    probabilities : callable(X) -> ndarray of shape (n, K)
        Columns in the order of the student's classes.
    call : callable(X) or None
        What is timed; None where the answers were given.
    size : Size
    seconds : float or None
        Of its training, if known.
    """

    kind: str
    probabilities: Callable[[Any], np.ndarray]
    call: Callable[[Any], Any] | None
    size: Size
    seconds: float | None


# --------------------------------------------------------------------------------------
# The student


@dataclass(frozen=True, eq=False)
class Distilled:
    """A fitted estimator of the library, taken apart.

    Attributes
    ----------
    whole : estimator
        What predicts: a Pipeline, or the classifier.
    transformers : Pipeline or None
        What stands before the classifier.
    classifier : DistilledClassifier or DistProClassifier
        Fitted.
    """

    whole: Any
    transformers: Pipeline | None
    classifier: Any

    @property
    def classes(self) -> np.ndarray:
        """The labels, in the order of the student's outputs."""
        return self.classifier.classes_

    def transformed(self, X: Any) -> Any:
        """Return rows as the classifier sees them."""
        return X if self.transformers is None else self.transformers.transform(X)

    def before_the_student(self) -> list[Any]:
        """Return the fitted transformers that prediction by the student needs."""
        own = getattr(self.classifier, "student_preprocessing_", None)
        return [part for part in (self.transformers, own) if part is not None]


def taken_apart_fitted(estimator: Any) -> Distilled:
    """Take a fitted estimator apart; a search gives its best one.

    Raises
    ------
    TypeError
        If it ends in no estimator of this library.
    NotFittedError
        If it has not been fitted.
    """
    if isinstance(estimator, BaseSearchCV):
        check_is_fitted(estimator, "best_estimator_")
        estimator = estimator.best_estimator_
    transformers, classifier, _ = taken_apart(estimator)
    check_is_fitted(classifier, "net_")
    if is_regressor(classifier):
        raise TypeError(f"estimator is a {type(classifier).__name__}, and the report is about classes.")
    if has_several_labels(classifier._task):
        raise ValueError(
            f"estimator={type(classifier).__name__} was fitted on several labels for each row, and the "
            "report compares predictions of one. Score it by sklearn.metrics, such as "
            "classification_report(y_test, estimator.predict(X_test)), beside the teacher."
        )
    return Distilled(estimator, transformers, classifier)


def student_model(distilled: Distilled) -> Model:
    """Return the student as a row of the report."""
    whole, classifier = distilled.whole, distilled.classifier
    return Model(
        type(own_student(classifier.student_)).__name__,
        whole.predict_proba,
        whole.predict_proba,
        size_of([*distilled.before_the_student(), classifier.student_]),
        training_seconds(classifier),
    )


def classifier_model(classifier: Any, classes: np.ndarray, name: str) -> Model:
    """Return the student alone, trained here or given: a classifier with the classes of the other models.

    Raises
    ------
    NotFittedError
        If it has not been fitted.
    TypeError
        If it has no ``predict_proba``.
    ValueError
        If it knows other classes.
    """
    try:
        distilled = taken_apart_fitted(classifier)
    except TypeError:  # another classifier
        distilled = None
    if distilled is not None:
        _check_classes(distilled.classes, classes, name)
        return student_model(distilled)
    if not hasattr(classifier, "predict_proba"):
        raise TypeError(
            f'{name}={short_repr(classifier)} must be None, "train", or a fitted classifier that has '
            "predict_proba."
        )
    check_is_fitted(classifier)
    _check_classes(classifier.classes_, classes, name)
    kind = type(classifier).__name__
    call = classifier.predict_proba
    return Model(kind, call, call, size_of([classifier]), training_seconds(classifier))


def _check_classes(own: Any, classes: np.ndarray, name: str) -> None:
    if not np.array_equal(own, classes):
        raise ValueError(
            f"{name}: it was trained on the classes {np.asarray(own).tolist()[:10]}, and the distilled "
            f"student on {classes.tolist()[:10]}. Train both on rows of the same classes."
        )


# --------------------------------------------------------------------------------------
# The teacher


def teacher_of(classifier: Any, given: Any) -> Any:
    """Return the trained teacher: the given one, the one kept, the one that came trained, or None."""
    if given is not None:
        return given
    kept = getattr(classifier, "teacher_", None)
    if kept is not None:
        return kept
    own = classifier.teacher
    trained = own is not None and (classifier._teacher_is_trained or comes_trained(own))
    return own if trained else None


def learns_from_maps_alone(classifier: Any) -> bool:
    """Return True for a DistProClassifier without a logit term, whose teacher may be no classifier."""
    return classifier._teacher_is_trained and classifier.logit_weight == 0


def logits_model(logits: Any, X: Any, n_rows: int, distilled: Distilled) -> Model:
    """Return a teacher of which only the logits of the test rows are known."""
    classes = distilled.classes
    stated = checked_teacher_classes(distilled.classifier.teacher_classes, classes)
    checked = checked_logits(logits, n_rows, classes, stated=stated, names=X)
    assert checked is not None
    return Model("teacher_logits", lambda _: _softmax(checked), None, Size(None, ""), None)


def teacher_model(teacher: Any, distilled: Distilled) -> Model:
    """Return a trained teacher as a row of the report; it sees rows as the classifier does.

    Raises
    ------
    NotFittedError
        If it has not been fitted.
    TypeError, ValueError
        If it can be no teacher, or does not know the student's classes.
    """
    classifier = distilled.classifier
    stated = checked_teacher_classes(classifier.teacher_classes, distilled.classes)
    is_own = teacher is getattr(classifier, "teacher_", None)
    columns = _columns_found_in_fit(teacher, classifier)
    frozen = _frozen(teacher)
    knows = getattr(adapter_class(frozen), "knows_classes", False)
    adapter = make_teacher(frozen, columns if stated is None and not knows else stated)
    if getattr(classifier, "student_preprocessing_", None) is not None and classifier.augment is None:
        adapter.ask_about_given_rows()
    ask, call = _answers(adapter, classifier, columns)
    before = [] if distilled.transformers is None else [distilled.transformers]
    seconds = getattr(classifier, "_teacher_seconds", None)
    return Model(
        adapter.name.removeprefix("teacher "),
        lambda X: ask(distilled.transformed(X)),
        lambda X: call(distilled.transformed(X)),
        size_of([*before, adapter.teacher]),
        seconds if is_own and seconds is not None else training_seconds(thawed(teacher)),
    )


def _columns_found_in_fit(teacher: Any, classifier: Any) -> Any:
    """Return the labels of the columns, as ``fit`` found them, if it asked this teacher; else None."""
    kept = getattr(classifier, "teacher_", None)
    own = classifier.teacher if kept is None and comes_trained(classifier.teacher) else kept
    return getattr(classifier, "_teacher_columns", None) if teacher is own else None


def _frozen(teacher: Any) -> Any:
    """Return a teacher that is asked as it is and not trained; of several, each of them."""
    found = adapter_class(teacher)
    members = () if found is None else found.members(teacher)
    if members:
        return TeacherEnsemble([_frozen(member) for member in members], getattr(teacher, "weights", None))
    if found is None or not issubclass(found, ClassifierTeacher):
        return teacher
    try:
        check_is_fitted(teacher)
    except NotFittedError:
        raise NotFittedError(
            f"teacher={short_repr(teacher)} has not been fitted, and the report trains no teacher. Give "
            "the one that the student learned from, or fit with keep_teacher=True and leave teacher out."
        ) from None
    except (TypeError, AttributeError):  # a classifier without scikit-learn's base
        pass
    return FrozenEstimator(teacher)


def _answers(
    adapter: TeacherAdapter, classifier: Any, known: Any
) -> tuple[Callable[[Any], np.ndarray], Callable[[Any], Any]]:
    """Return functions of rows: the teacher's probabilities, and the call that is timed.

    ``known`` are the labels of its columns, some of the student's, where ``fit`` has found them; or None.
    """
    classes, device, who = classifier.classes_, classifier._device(), adapter.name

    if adapter.takes_batches():
        on_batch = adapter.on(device, classes)  # type: ignore[attr-defined]

        def ask_batch(X: Any) -> np.ndarray:
            parts = [on_batch(batch).cpu() for batch in input_batches(classifier, X, device)]
            return _softmax(torch.cat(parts).numpy())

        return ask_batch, ask_batch
    inner = adapter.teacher
    if isinstance(adapter, TrainedObjectTeacher) and hasattr(inner, "predict_proba"):
        return lambda X: _with_sum_1(adapter.probabilities(X, count_rows(X), classes)), inner.predict_proba
    if hasattr(inner, "predict_proba"):
        if known is None:
            columns = select_columns(_labels_of(inner, classes), classes, "Give the teacher of this student")
            return (
                lambda X: _with_sum_1(probabilities_of(inner, X, count_rows(X))[:, columns]),
                inner.predict_proba,
            )
        places = select_columns(classes, np.asarray(known))

        def ask_classifier(X: Any) -> np.ndarray:
            found = probabilities_of(inner, X, count_rows(X))
            spread = np.zeros((len(found), len(classes)), dtype=found.dtype)
            spread[:, places] = found
            return _with_sum_1(spread)

        return ask_classifier, inner.predict_proba

    def ask_adapter(X: Any) -> np.ndarray:
        data = DistillationData(torch.zeros((count_rows(X), 1), device=device))  # counted, not read
        return _softmax(ask_teacher(adapter, X, data, classes, seed=0, who=who).cpu().numpy())

    inherited = (TeacherAdapter.predict_logits, BatchTeacherAdapter.predict_logits)
    is_own = type(adapter).predict_logits not in inherited
    return ask_adapter, adapter.predict_logits if is_own else ask_adapter


def _with_sum_1(probabilities: np.ndarray) -> np.ndarray:
    sums = probabilities.sum(axis=1, keepdims=True)
    return probabilities / np.maximum(sums, np.finfo(probabilities.dtype).tiny)


def _labels_of(teacher: Any, classes: np.ndarray) -> np.ndarray:
    """Return the label of each column of a classifier, which may have been trained on codes of the labels."""
    own = np.asarray(teacher.classes_)
    codes = np.arange(len(classes))
    if not set(classes.tolist()) <= set(own.tolist()) and np.array_equal(own, codes):
        return classes
    return own


def _softmax(logits: np.ndarray) -> np.ndarray:
    return torch.softmax(torch.as_tensor(logits), dim=1).numpy()


# --------------------------------------------------------------------------------------
# Seconds


def training_seconds(model: Any) -> float | None:
    """Return the seconds of a model's training if it has a record of them, else None."""
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
    """Return the seconds of trials before the training; those of a population are its epochs'."""
    strategy = getattr(model, "strategy_", None)  # loaded files may not know it
    before = hasattr(model, "trials_") and not getattr(strategy, "trains_population", True)
    return float(model.trials_["seconds"].sum()) if before else 0.0
