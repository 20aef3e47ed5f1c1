"""Every kind of teacher turned into logits aligned with the rows and the classes.

| teacher                             | trained here          | sees                       |
|-------------------------------------|-----------------------|----------------------------|
| scikit-learn classifier             | a clone, on D_train   | X as the user gave it      |
| ``FrozenEstimator(fitted)``         | no                    | X as the user gave it      |
| ``nn.Module`` that returns logits   | no                    | float32 tensor             |
| fitted skorch net                   | no                    | float32 array              |
| None, with ``teacher_logits``       | no                    |                            |
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from sklearn_kd.teachers._class_alignment import columns_of, refuse_stated_classes
from sklearn_kd.teachers._class_probabilities import (
    fitted_classifier,
    probabilities_of,
    require_classes,
    require_probabilities,
)
from sklearn_kd.teachers._logit_checks import WrongAnswerError, log_probabilities, name_of
from sklearn_kd.teachers._networks import ModuleTeacher, SkorchTeacher
from sklearn_kd.teachers._teacher import Teacher, how_to_give, shown
from sklearn_kd.teachers._weighted_fit import WeightedFit


def make_teacher(teacher: Any, stated: list | None = None) -> Teacher:
    """Wrap a teacher by its kind; the columns of a network have the ``stated`` classes.

    Raises
    ------
    TypeError
        If it is none of the kinds in the table above.
    ValueError
        If it is one of them but cannot be used.
    """
    kind = _kind_of(teacher)
    if kind is not None:
        return kind(teacher, stated)
    raise TypeError(
        f"teacher={shown(teacher)} is none of: a scikit-learn classifier, "
        "FrozenEstimator(fitted classifier), a trained torch.nn.Module that returns logits, a "
        f"fitted skorch net, or None with teacher_logits given to fit.{how_to_give(teacher)}"
    )


def _kind_of(teacher: Any) -> type[Teacher] | None:
    kinds = (ModuleTeacher, SkorchTeacher, FrozenTeacher, EstimatorTeacher)
    return next((kind for kind in kinds if kind.accepts(teacher)), None)


def without_training(teacher: Any) -> Any:
    """Return a teacher without what it has learned.

    That is an unfitted clone of a classifier to be fitted here, and None where the teacher
    comes trained.
    """
    return clone(teacher) if _kind_of(teacher) is EstimatorTeacher else None


class FrozenTeacher(Teacher):
    """A classifier fitted before; its log-probabilities."""

    @staticmethod
    def accepts(teacher):
        return isinstance(teacher, FrozenEstimator)

    def check(self):
        try:
            check_is_fitted(self.fitted.estimator)
        except NotFittedError:
            raise ValueError(
                f"teacher={self.fitted!r} is frozen but not fitted. Fit it before freezing, or "
                "give it unfrozen to have it fitted on D_train."
            ) from None
        require_probabilities(self.fitted.estimator)
        require_classes(self.fitted.estimator)
        refuse_stated_classes(self.stated, self.fitted.estimator)

    def logits(self, X, X_tensor, classes, batch_size):
        mend = "Train it on the classes of y, not on codes of them"
        columns = columns_of(self.fitted.classes_, classes, mend)
        with _shape_told(self.fitted.estimator, X):
            said = probabilities_of(self.fitted, X, len(X_tensor))
        return torch.as_tensor(log_probabilities(said)[:, columns]).to(X_tensor.device)


class EstimatorTeacher(Teacher):
    """A classifier to be cloned and fitted on D_train; its log-probabilities."""

    @staticmethod
    def accepts(teacher):
        return not isinstance(teacher, type) and hasattr(teacher, "fit") and is_classifier(teacher)

    def check(self):
        require_probabilities(self.fitted)
        refuse_stated_classes(self.stated, clone(self.fitted))
        try:
            check_is_fitted(self.fitted)
        except (NotFittedError, TypeError):
            return
        warnings.warn(
            "teacher is already fitted, but a clone of it will be fitted anew on D_train. Wrap "
            "it in sklearn.frozen.FrozenEstimator to use it as it is.",
            UserWarning,
            stacklevel=2,
        )

    def fit(self, X, y, *, sample_weight, rng):
        teacher = set_open_seeds(clone(self.fitted), rng)
        weighted = WeightedFit(teacher, sample_weight)
        with _shape_told(teacher, X):
            try:
                self.fitted, self._classes = fitted_classifier(
                    teacher, lambda part, y: weighted.fit(part, X, y), y
                )
            except NotFittedError as error:
                raise ValueError(
                    f"{name_of(teacher)} has a part that must come fitted ({error}), but a clone of it is "
                    "fitted here, on D_train, whose parts have learned nothing. Wrap such parts in "
                    "sklearn.frozen.FrozenEstimator, or give FrozenEstimator(fitted teacher)."
                ) from error

    def logits(self, X, X_tensor, classes, batch_size):
        # A class without weight may be missing from what the teacher was fitted on.
        probabilities = np.zeros((len(X_tensor), len(classes)))
        said = probabilities_of(self.fitted, X, len(X_tensor))
        probabilities[:, columns_of(classes, self._classes)] = said
        return torch.as_tensor(log_probabilities(probabilities)).to(X_tensor.device)


@contextmanager
def _shape_told(classifier: Any, X: Any) -> Iterator[None]:
    """Add what to do to a classifier's error about samples that are no rows of a table."""
    try:
        yield
    except WrongAnswerError:
        raise
    except ValueError as error:
        if np.ndim(X) <= 2:
            raise
        raise ValueError(
            f"{name_of(classifier)} was given samples of shape {tuple(np.shape(X)[1:])}: {error} Where "
            "it takes tables only, flatten X before it, by a FunctionTransformer in a pipeline, or give its "
            "answers about the flattened X to fit as teacher_logits."
        ) from error


def set_open_seeds(estimator, rng):
    """Draw the seeds that an estimator or its parts leave open (``random_state=None``)."""
    open_seeds = {
        name: int(rng.randint(np.iinfo(np.int32).max))
        for name, value in sorted(estimator.get_params(deep=True).items())
        if value is None and (name == "random_state" or name.endswith("__random_state"))
    }
    return estimator.set_params(**open_seeds)
