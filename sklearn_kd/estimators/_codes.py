"""Tell a student with embeddings which columns of codes ``student_preprocessing`` makes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from sklearn.frozen import FrozenEstimator

from sklearn_kd.students._factory import takes_argument

if TYPE_CHECKING:
    from sklearn_kd.estimators._base import BaseDistiller

# The student's argument for the number of codes of each column of codes, as in TabularStudent.
_ARGUMENT = "categorical"


def wants_codes(estimator: BaseDistiller) -> bool:
    """Return whether the student takes the columns of codes and the user has not given them."""
    return takes_argument(estimator.student, _ARGUMENT) and _ARGUMENT not in estimator._routed("student")


def known_codes(estimator: BaseDistiller) -> dict[str, Any]:
    """Return the student's argument for the columns of codes that the fitted preprocessing makes.

    Raises
    ------
    ValueError
        If the user has given another value.
    """
    known = _codes_of(vars(estimator).get("student_preprocessing_"))
    if not known:
        return {}
    if wants_codes(estimator):
        return {_ARGUMENT: known}
    told = _told(estimator)
    if isinstance(told, Mapping):  # the student refuses anything else
        _check_told(told, known)
    return {}


def _codes_of(preprocessing: Any) -> dict[int, int]:
    """Return the number of codes in each column of codes that a fitted preprocessing makes."""
    table = preprocessing.estimator if isinstance(preprocessing, FrozenEstimator) else preprocessing
    columns = getattr(table, "categorical_columns_", None)
    return dict(zip(columns, table.cardinalities_, strict=True)) if columns else {}


def _told(estimator: BaseDistiller) -> Any:
    """Return the columns of codes that the user has given to the student, or None."""
    student = estimator.student
    bound = student.keywords if isinstance(student, partial) else {}
    own = None if isinstance(student, type) else getattr(student, _ARGUMENT, None)
    return (bound | estimator._routed("student")).get(_ARGUMENT, own)


def _check_told(told: Mapping[int, int], known: Mapping[int, int]) -> None:
    missing, others = known.keys() - told.keys(), told.keys() - known.keys()
    too_few = [column for column in known.keys() & told.keys() if told[column] < known[column]]
    if too_few or (missing and others):
        raise ValueError(
            f"student__categorical={dict(told)} does not match student_preprocessing: fitted on D_train, its "
            f"columns of codes and their numbers of codes are {dict(known)}. Leave student__categorical out "
            "to have it filled in for each D_train."
        )
