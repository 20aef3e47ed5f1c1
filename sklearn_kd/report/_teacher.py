"""The teacher of a report, and its answers in the same form as the student's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from sklearn_kd.comparison._teacher import Answers
from sklearn_kd.estimators._several_labels import has_several_labels
from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.report._forms import Form
from sklearn_kd.report._models import Distilled, Model, training_seconds
from sklearn_kd.report._rows import count_rows, input_batches
from sklearn_kd.report._sizes import Size, size_of
from sklearn_kd.teachers._adapter import BatchTeacherAdapter, TeacherAdapter
from sklearn_kd.teachers._cached import ask_teacher
from sklearn_kd.teachers._class_alignment import checked_teacher_classes, select_columns
from sklearn_kd.teachers._class_probabilities import probabilities_of
from sklearn_kd.teachers._classifiers import ClassifierTeacher
from sklearn_kd.teachers._ensembles import TeacherEnsemble
from sklearn_kd.teachers._logit_checks import thawed
from sklearn_kd.teachers._registry import adapter_class, comes_trained, short_repr
from sklearn_kd.teachers._regressors import RegressorTeacher
from sklearn_kd.teachers._stored_answers import StoredAnswers
from sklearn_kd.teachers._trained_objects import TrainedObjectTeacher

Asked = tuple[Callable[[Any], np.ndarray], Callable[[Any], Any]]


def teacher_of(classifier: Any, given: Any) -> Any:
    """Return the trained teacher: the one given here, kept by ``fit`` or given to it trained; or None."""
    if given is not None:
        return given
    kept = getattr(classifier, "teacher_", None)
    if kept is not None:
        return kept
    own = classifier._asked_teacher()
    trained = own is not None and (classifier._teacher_is_trained or comes_trained(own))
    return own if trained else None


def learns_from_maps_alone(estimator: Any) -> bool:
    """Return True if the student learns from feature maps and not from the teacher's answers.

    The teacher may then have other answers, or none.
    """
    return estimator._teacher_is_trained and estimator._teacher_term().weight == 0


def answers_model(answers: Any, X: Any, n_rows: int, distilled: Distilled, form: Form) -> Model:
    """Return a teacher known only by its answers to the test rows: logits or predictions."""
    task, name = distilled.task, distilled.estimator._answers
    checked: Any = Answers(task, _stated_columns(distilled)).checked(answers, n_rows, X, name)
    found = checked if task.numeric else form.from_outputs(checked)
    return Model(name, lambda _: found, None, Size(None, ""), None)


def _stated_columns(distilled: Distilled) -> list[Any] | None:
    stated = getattr(distilled.estimator, "teacher_classes", None)
    return checked_teacher_classes(stated, distilled.task.output_labels)


def teacher_model(teacher: Any, distilled: Distilled, form: Form) -> Model:
    """Return a trained teacher as a row of the report. It gets the same rows as the student's estimator.

    Raises
    ------
    NotFittedError
        If it has not been fitted.
    TypeError, ValueError
        If it cannot be a teacher, or was not trained on the student's classes.
    """
    estimator = distilled.estimator
    is_own = teacher is getattr(estimator, "teacher_", None)
    columns, stated = _columns_found_in_fit(teacher, estimator), _stated_columns(distilled)
    frozen = _frozen(teacher)
    knows = getattr(adapter_class(frozen), "knows_classes", False)
    of_columns = columns if stated is None and not knows else stated
    adapter = Answers(distilled.task, of_columns).wrapped(frozen, {})
    if getattr(estimator, "student_preprocessing_", None) is not None and estimator.augment is None:
        adapter.ask_about_given_rows()
    ask, call = _asked(adapter, estimator, form, columns)
    before = [] if distilled.transformers is None else [distilled.transformers]
    seconds = getattr(estimator, "_teacher_seconds", None)
    return Model(
        adapter.name.removeprefix("teacher "),
        lambda X: ask(distilled.transformed(X)),
        lambda X: call(distilled.transformed(X)),
        size_of([*before, adapter.teacher]),
        seconds if is_own and seconds is not None else training_seconds(thawed(teacher)),
    )


def _columns_found_in_fit(teacher: Any, classifier: Any) -> Any:
    """Return the labels that ``fit`` found for the columns if it used this teacher, else None."""
    kept = getattr(classifier, "teacher_", None)
    own = classifier.teacher if kept is None and comes_trained(classifier.teacher) else kept
    return getattr(classifier, "_teacher_columns", None) if teacher is own else None


def _frozen(teacher: Any) -> Any:
    """Return a frozen copy of a teacher, or of each of several teachers: it is used without training.

    A teacher with stored answers is called directly, because it is to be timed and no row of the report
    should be stored.
    """
    if isinstance(teacher, StoredAnswers):
        return _frozen(teacher.teacher)
    found = adapter_class(teacher)
    members = () if found is None else found.members(teacher)
    if members:
        return TeacherEnsemble([_frozen(member) for member in members], getattr(teacher, "weights", None))
    if found is None or not issubclass(found, (ClassifierTeacher, RegressorTeacher)):
        return teacher
    try:
        check_is_fitted(teacher)
    except NotFittedError:
        raise NotFittedError(
            f"teacher={short_repr(teacher)} has not been fitted, and the report does not train teachers. "
            "Give the teacher from which the student learned, or fit with keep_teacher=True and leave "
            "teacher out."
        ) from None
    except (TypeError, AttributeError):  # a classifier without scikit-learn's base
        pass
    return FrozenEstimator(teacher)


def _asked(adapter: TeacherAdapter, estimator: Any, form: Form, known: Any) -> Asked:
    """Return two functions of rows: the teacher's answers, and the call that is timed.

    ``known`` are the labels of its columns, a subset of the student's, if ``fit`` has found them; or None.
    """
    task = estimator._task
    labels, device, who = task.output_labels, estimator._device(), adapter.name

    if adapter.takes_batches():
        on_batch = adapter.on(device, labels)  # type: ignore[attr-defined]

        def ask_batch(X: Any) -> np.ndarray:
            parts = [on_batch(batch).cpu() for batch in input_batches(estimator, X, device)]
            return form.from_outputs(torch.cat(parts).numpy())

        return ask_batch, ask_batch

    def ask_adapter(X: Any) -> np.ndarray:
        data = DistillationData(torch.zeros((count_rows(X), 1), device=device))  # counted, not read
        outputs = ask_teacher(adapter, X, data, labels, seed=0, who=who)
        return form.from_outputs(outputs.cpu().numpy())

    inner = adapter.teacher
    if hasattr(inner, task.answers_by):
        if task.numeric:
            return ask_adapter, inner.predict
        if has_several_labels(task):
            return form.answers_of(inner, "teacher")
        return _asked_for_probabilities(adapter, task.classes, known)
    inherited = (TeacherAdapter.predict_logits, BatchTeacherAdapter.predict_logits)
    is_own = type(adapter).predict_logits not in inherited
    return ask_adapter, adapter.predict_logits if is_own else ask_adapter


def _asked_for_probabilities(adapter: TeacherAdapter, classes: np.ndarray, known: Any) -> Asked:
    """Return the same functions for a classifier, whose probabilities are used unchanged."""
    inner = adapter.teacher
    if isinstance(adapter, TrainedObjectTeacher):
        return lambda X: _with_sum_1(adapter.probabilities(X, count_rows(X), classes)), inner.predict_proba
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


def _with_sum_1(probabilities: np.ndarray) -> np.ndarray:
    sums = probabilities.sum(axis=1, keepdims=True)
    return probabilities / np.maximum(sums, np.finfo(probabilities.dtype).tiny)


def _labels_of(teacher: Any, classes: np.ndarray) -> np.ndarray:
    """Return the label of each column of a classifier, which may have been trained on codes of labels."""
    own = np.asarray(teacher.classes_)
    codes = np.arange(len(classes))
    if not set(classes.tolist()) <= set(own.tolist()) and np.array_equal(own, codes):
        return classes
    return own
