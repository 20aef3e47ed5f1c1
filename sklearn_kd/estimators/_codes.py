"""The columns of codes that ``student_preprocessing`` makes, for a student that looks them up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sklearn_kd.students._factory import takes_argument

if TYPE_CHECKING:
    from sklearn_kd.estimators._base import BaseDistiller

# The argument by which a student is told which columns hold how many codes, as TabularStudent's.
_ARGUMENT = "categorical"


def wants_codes(estimator: BaseDistiller) -> bool:
    """Return whether the student can be told of columns of codes, and the user has not told it."""
    return takes_argument(estimator.student, _ARGUMENT) and _ARGUMENT not in estimator._routed("student")


def known_codes(estimator: BaseDistiller) -> dict[str, Any]:
    """Return what the student is told of the columns of codes that the fitted preprocessing makes."""
    table = vars(estimator).get("student_preprocessing_")
    columns = getattr(table, "categorical_columns_", None)
    if table is None or not columns or not wants_codes(estimator):
        return {}
    return {_ARGUMENT: dict(zip(columns, table.cardinalities_, strict=True))}
