"""The same student without a teacher: trained on the labels only, with otherwise the same parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sklearn.base import clone, is_regressor
from sklearn.pipeline import Pipeline

from sklearn_kd.errors._context import error_context
from sklearn_kd.estimators._classifier import DistilledClassifier
from sklearn_kd.estimators._classifier_net import search_epochs_of
from sklearn_kd.estimators._regressor import DistilledRegressor
from sklearn_kd.report._models import Distilled

# Parameters of the teacher, or of learning metaparameters.
_LEFT_OUT = (
    "teacher", "teacher_classes", "lambda1", "temperature", "meta", "e1", "e2", "keep_teacher", "max_epochs",
    "teacher_logits_dtype", "teacher_logits_dir", "checkpoint_dir", "warm_start",
    "unlabeled_share", "soft_validation", "synthesize",
    "search_epochs", "weights", "retrain", "process", "search_callbacks",
)  # fmt: skip


def student_alone(distilled: Distilled, X: Any, y: Any, fit_params: Mapping[str, Any]) -> Any:
    """Train the student alone on all rows, and return it as a fitted estimator.

    Parameters
    ----------
    distilled : Distilled
    X, y
        The training data that the distilled estimator was given.
    fit_params : mapping
        Further arguments of ``fit``.
    """
    alone = _without_teacher(distilled.estimator)
    whole = alone
    if isinstance(distilled.whole, Pipeline):
        whole = clone(distilled.whole)
        whole.steps[-1] = (whole.steps[-1][0], alone)
    with error_context("student_alone"):
        return whole.fit(X, y, **fit_params)


def epochs_of(estimator: Any) -> int:
    """Return the epochs of the distilled student, including those of a search that it continued."""
    return estimator.max_epochs + (search_epochs_of(estimator) if _went_on(estimator) else 0)


def note_on_alone(estimator: Any) -> str:
    """Return a note on the student alone that was trained here."""
    n_epochs, way = epochs_of(estimator), _way_to_retrain(estimator)
    searched = n_epochs - estimator.max_epochs
    as_many = f", as the distilled student in its search ({searched}) and after it" if searched else ""
    last = (
        " It ends with its last weights, the distilled student with an average." if way in _AVERAGED else ""
    )
    return f"The student alone trained for {n_epochs} epochs of all rows{as_many}.{last}"


_AVERAGED = ("continue", "average")


def _way_to_retrain(estimator: Any) -> str | None:
    """Return how the student of the retraining began and ended, or None without a search or a record."""
    if estimator._teacher_is_trained or estimator.process is not None or estimator.search_epochs is None:
        return None
    process = getattr(estimator, "process_", None)
    return None if process is None else process.settings.get("retrain")


def _went_on(estimator: Any) -> bool:
    return _way_to_retrain(estimator) == "continue"


def _without_teacher(estimator: Any) -> DistilledClassifier | DistilledRegressor:
    """Return an unfitted estimator with the same student, optimizer, batches and seed; ``meta="none"``."""
    kind: Any = DistilledRegressor if is_regressor(estimator) else DistilledClassifier
    known = kind(None, None).get_params(deep=False)
    kept = {
        name: value
        for name, value in clone(estimator).get_params(deep=False).items()
        if name not in _LEFT_OUT
        and (name in known or "__" in name)
        and name.partition("__")[0] != "meta"
        and (is_regressor(estimator) or name.partition("__")[0] != "loss")  # of numbers it is that on y, too
    }
    if estimator._teacher_is_trained:  # a DistProClassifier holds rows out for its search alone
        kept.pop("validation_fraction")
    return kind(None, meta="none", max_epochs=epochs_of(estimator), **kept)
