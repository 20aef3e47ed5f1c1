"""Ask the teacher that all methods of a comparison share; give its answers as arguments of ``fit``."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from sklearn_kd._sklearn_compat import safe_indexing
from sklearn_kd.comparison._methods import Method
from sklearn_kd.estimators._preprocessing import student_data_of
from sklearn_kd.estimators._several_labels import has_several_labels
from sklearn_kd.runtime._devices import checked_device
from sklearn_kd.tasks._task import Task
from sklearn_kd.teachers._adapter import TeacherAdapter
from sklearn_kd.teachers._cached import ask_teacher, fit_teacher
from sklearn_kd.teachers._given_logits import checked_logits
from sklearn_kd.teachers._given_predictions import checked_predictions
from sklearn_kd.teachers._label_logits import checked_label_logits
from sklearn_kd.teachers._label_teachers import make_label_teacher
from sklearn_kd.teachers._logit_checks import name_of, naming_rows
from sklearn_kd.teachers._registry import make_teacher
from sklearn_kd.teachers._regressors import NumbersTeacher, make_numbers_teacher

Rows = tuple[np.ndarray, np.ndarray]


class Answers(NamedTuple):
    """Wrap the teacher of one kind of target, and name the argument of ``fit`` that takes its answers.

    Attributes
    ----------
    task : Task
        The task of all rows of the comparison.
    columns : list or None
        The checked ``teacher_classes``.
    """

    task: Any
    columns: list[Any] | None

    def wrapped(self, teacher: Any, fit_parameters: Mapping[str, Any]) -> TeacherAdapter:
        """Wrap a teacher, and check it."""
        if self.task.numeric:
            return make_numbers_teacher(teacher, self.task, fit_parameters)
        make = make_label_teacher if has_several_labels(self.task) else make_teacher
        return make(teacher, self.columns, fit_parameters)

    def checked(self, given: Any, n_rows: int, names: Any, name: str) -> np.ndarray | None:
        """Check given answers to all rows, and return them in the form that ``fit`` takes."""
        if self.task.numeric:
            found = checked_predictions(given, n_rows, self.task, names=names, name=name)
            return None if found is None else self.task.decode(found)
        check = checked_label_logits if has_several_labels(self.task) else checked_logits
        return check(given, n_rows, self.task.output_labels, stated=self.columns, names=names)

    def of_fold(self, given: np.ndarray, rows: np.ndarray, task: Task) -> np.ndarray:
        """Return checked answers to the rows of a fold, whose y may lack some classes."""
        if self.task.numeric:
            return given[rows]
        return given[rows][:, np.isin(self.task.output_labels, task.output_labels)]

    def example(self, task: Task, n_rows: int) -> np.ndarray:
        """Return answers of the right shape, to check a fit before the teacher is asked."""
        zeros = np.zeros((n_rows, task.n_targets), np.float32)
        return task.decode(zeros) if task.numeric else zeros


def shared_teacher(
    teacher: Any,
    answers: Answers,
    methods: Sequence[Method],
    fit_parameters: Mapping[str, Any],
    name: str,
) -> TeacherAdapter | None:
    """Return the wrapped teacher of all methods; None if no method needs one.

    ``name`` is the argument that can replace it.

    Raises
    ------
    ValueError
        If there is none although a method needs one.
    """
    asking = [method for method in methods if method.needs_teacher]
    needing = [method.name for method in asking if not method.can_do_without]
    if not asking or (teacher is None and not needing):
        return None
    if teacher is None:
        raise ValueError(
            f"teacher=None leaves nothing to distil by {needing}. Give the estimator a teacher, or "
            f"give {name}."
        )
    return answers.wrapped(teacher, fit_parameters)


def answers_of_fold(
    shared: TeacherAdapter,
    estimator: Any,
    task: Any,
    X: Any,
    y: np.ndarray,
    rows: Rows,
    *,
    places: np.ndarray,
    seed: int,
) -> np.ndarray:
    """Fit a teacher on D_train of a training fold alone; return its answers to all rows of the fold.

    Parameters
    ----------
    shared : TeacherAdapter
        Stays unfitted; a copy is fitted.
    estimator : DistilledClassifier or DistilledRegressor
    task : Task
        The task of the fold.
    X, y
        The fold, as for ``fit``.
    rows : pair of ndarray
        Indices of D_train and D_val in X.
    places : ndarray
        Indices of the fold's rows in the whole X, for messages.
    seed : int
    """
    teacher = shared.for_task(task) if isinstance(shared, NumbersTeacher) else copy.copy(shared)
    device: torch.device = checked_device(estimator.device)
    train, _ = rows
    X_train = safe_indexing(X, train)
    student_data = student_data_of(estimator, X_train, y[train], device)
    fit_teacher(teacher, X_train, y[train], None, seed=seed, device=device)
    answers = np.empty((len(y), task.n_targets), dtype=np.float32)
    # D_train separately, so that these answers equal those that ``fit`` would compute.
    for part in rows:
        X_part = safe_indexing(X, part)
        data = student_data(X_part)
        with naming_rows(places[part]):
            found = ask_teacher(
                teacher, X_part, data, task.output_labels, seed=seed, who=name_of(teacher.fitted)
            )
        answers[part] = found.cpu().numpy()
    return task.decode(answers) if task.numeric else answers
