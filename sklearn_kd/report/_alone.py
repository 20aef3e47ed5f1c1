"""The same student without a teacher: trained on the labels alone, with the other parameters as they were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sklearn.base import clone
from sklearn.pipeline import Pipeline

from sklearn_kd.errors._context import error_context
from sklearn_kd.estimators._classifier import DistilledClassifier
from sklearn_kd.report._models import Distilled

# What belongs to the teacher, or to the learning of metaparameters.
_LEFT_OUT = (
    "teacher", "teacher_classes", "loss", "lambda1", "temperature", "meta", "e1", "e2", "keep_teacher",
    "teacher_logits_dtype", "teacher_logits_dir", "checkpoint_dir", "warm_start",
    "unlabeled_share", "soft_validation", "synthesize",
    "search_epochs", "weights", "retrain", "process", "search_callbacks",
)  # fmt: skip


def student_alone(distilled: Distilled, X: Any, y: Any, fit_params: Mapping[str, Any]) -> Any:
    """Train the student alone, on all rows, and return it: an estimator as the distilled one is.

    Parameters
    ----------
    distilled : Distilled
    X, y
        The training data, as they were given to the distilled estimator.
    fit_params : mapping
        Further arguments of its ``fit``.
    """
    classifier = _without_teacher(distilled.classifier)
    whole = classifier
    if isinstance(distilled.whole, Pipeline):
        whole = clone(distilled.whole)
        whole.steps[-1] = (whole.steps[-1][0], classifier)
    with error_context("student_alone"):
        return whole.fit(X, y, **fit_params)


def _without_teacher(classifier: Any) -> DistilledClassifier:
    """Return an unfitted classifier of the same student, optimizer, batches and seed; ``meta="none"``."""
    without = clone(classifier)
    own = without.get_params(deep=False)
    known = DistilledClassifier(None, None).get_params(deep=False)  # type: ignore[arg-type]
    kept = {
        name: value
        for name, value in own.items()
        if name not in _LEFT_OUT
        and (name in known or "__" in name)
        and name.partition("__")[0] not in ("meta", "loss")
    }
    if classifier._teacher_is_trained:  # a DistProClassifier holds rows out for its search alone
        kept.pop("validation_fraction")
    return DistilledClassifier(None, meta="none", **kept)
