"""Check the arguments of a regressor's ``fit``, and wrap its teacher."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sklearn_kd.estimators._preflight import keep_described, validate_data
from sklearn_kd.estimators._unlabeled import check_given_together, check_one_size
from sklearn_kd.inputs._validation import Continued, ValidatedInputs
from sklearn_kd.tasks._regression import Regression
from sklearn_kd.teachers._adapter import TeacherAdapter
from sklearn_kd.teachers._given_predictions import checked_predictions
from sklearn_kd.teachers._regressors import make_numbers_teacher

if TYPE_CHECKING:
    from sklearn_kd.estimators._regressor import DistilledRegressor


def validate_regression(
    estimator: DistilledRegressor,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    X_val: Any = None,
    y_val: Any = None,
    teacher_predictions: Any = None,
    X_unlabeled: Any = None,
    teacher_predictions_unlabeled: Any = None,
    *,
    sample_weight_val: Any = None,
    groups: Any = None,
    continued: Continued | None = None,
) -> ValidatedInputs:
    """Check everything that ``fit`` was given; set the fitted attributes that describe it.

    The arguments are those of ``fit``, and ``continued``, the fit that this one continues.
    """
    name = estimator._answers
    check_given_together(teacher_predictions, X_unlabeled, teacher_predictions_unlabeled, name)
    given = X, y, sample_weight, X_val, y_val, X_unlabeled
    inputs = validate_data(
        estimator,
        *given,
        sample_weight_val=sample_weight_val,
        groups=groups,
        continued=continued,
        task_type=estimator._task_type,
    )
    keep_described(estimator, inputs)
    task: Any = inputs.task
    named_rows = X if hasattr(X, "index") else y
    found = checked_predictions(teacher_predictions, len(inputs.rows), task, names=named_rows, name=name)
    inputs = dataclasses.replace(inputs, teacher_logits=found)
    if inputs.unlabeled is None or teacher_predictions_unlabeled is None:
        return inputs
    further = checked_predictions(
        teacher_predictions_unlabeled,
        len(inputs.unlabeled),
        task,
        names=X_unlabeled,
        name=f"{name}_unlabeled",
        of="X_unlabeled",
    )
    check_one_size(found, further, name)
    return dataclasses.replace(
        inputs, unlabeled=dataclasses.replace(inputs.unlabeled, teacher_logits=further)
    )


def make_regression_teacher(
    teacher: Any, inputs: ValidatedInputs, fit_parameters: Mapping[str, Any]
) -> TeacherAdapter:
    """Wrap the teacher of a regressor."""
    assert isinstance(inputs.task, Regression)
    return make_numbers_teacher(teacher, inputs.task, fit_parameters)
