"""Adapters of scikit-learn classifiers, which are trained on D_train or frozen."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.inputs._structures import is_structure
from sklearn_kd.teachers._adapter import TeacherAdapter
from sklearn_kd.teachers._class_alignment import refuse_stated_classes, select_columns
from sklearn_kd.teachers._class_probabilities import (
    answers_of,
    fitted_classifier,
    require_classes,
    require_scores,
)
from sklearn_kd.teachers._fit_parameters import FitParameters
from sklearn_kd.teachers._logit_checks import WrongAnswerError, name_of, thawed
from sklearn_kd.teachers._registry import register_teacher
from sklearn_kd.teachers._weighted_fit import WeightedFit


@register_teacher(FrozenEstimator)
class FrozenTeacher(TeacherAdapter):
    """Adapter of a classifier that comes fitted; its logits are log-probabilities or margins."""

    knows_classes, gives_numbers = True, False

    @classmethod
    def accepts(cls, teacher: Any) -> bool:
        # Other objects name their classes in other ways.
        return hasattr(thawed(teacher), "classes_") or hasattr(thawed(teacher), "get_params")

    def check(self) -> None:
        if not is_fitted(self.teacher, otherwise=True):
            raise ValueError(
                f"teacher={self.fitted!r} is frozen but not fitted. Fit it before freezing, or "
                "give it unfrozen to have it fitted on your training rows (D_train)."
            )
        require_scores(self.teacher)
        self._check_classes()

    def _check_classes(self) -> None:
        require_classes(self.teacher)
        refuse_stated_classes(self.teacher_classes, self.teacher)

    def iter_logits(
        self, X: Any, data: DistillationData, classes: np.ndarray, batch_size: int
    ) -> Iterator[Tensor]:
        advice = "Train it on the classes of y, not on codes of them"
        columns = select_columns(self.column_classes(), classes, advice)
        with data_explained(self.teacher, X):
            answers = answers_of(self.fitted, X, len(data))
        yield torch.as_tensor(answers.logits(columns, self._floor)).to(data.device)


@register_teacher(object)  # classifiers need not derive from scikit-learn's base classes
class ClassifierTeacher(TeacherAdapter):
    """Adapter of a classifier; a clone of it is fitted on D_train.

    Its logits are log-probabilities, or margins if it gives no probabilities.
    """

    knows_classes, gives_numbers = True, False
    # Returns the fitted classifier, and the classes of its columns.
    _trained: Callable[..., tuple[Any, Any]] = staticmethod(fitted_classifier)

    @classmethod
    def accepts(cls, teacher: Any) -> bool:
        if isinstance(teacher, (type, FrozenEstimator)) or not hasattr(teacher, "fit"):
            return False
        if hasattr(teacher, "__sklearn_tags__") and is_classifier(teacher):
            return True
        return _is_like_a_classifier(teacher)

    def check(self) -> None:
        self._fit_parameters = FitParameters({})
        require_scores(self.teacher)
        refuse_stated_classes(self.teacher_classes, clone(self.teacher))
        warn_if_fitted(self.teacher)

    def fit(
        self, X: Any, y: np.ndarray, *, sample_weight: np.ndarray | None, rng: np.random.RandomState
    ) -> None:
        teacher = set_open_seeds(clone(self.teacher), rng)
        weighted, parameters = WeightedFit(teacher, sample_weight), self._fit_parameters
        with data_explained(teacher, X):
            try:
                self.teacher, self.known_columns = self._trained(
                    teacher,
                    lambda part, y, coded: weighted.fit(part, X, y, parameters.for_labels(coded)),
                    y,
                    parameters.need_codes,
                )
            except NotFittedError as error:
                raise ValueError(
                    f"{name_of(teacher)} has a part that must come fitted ({error}), but an unfitted clone "
                    "of it is fitted here on your training rows (D_train). Wrap such parts in "
                    "sklearn.frozen.FrozenEstimator, or give FrozenEstimator(fitted teacher)."
                ) from error

    def iter_logits(
        self, X: Any, data: DistillationData, classes: np.ndarray, batch_size: int
    ) -> Iterator[Tensor]:
        # If all rows of a class have weight 0, the teacher was fitted without that class.
        answers = answers_of(self.teacher, X, len(data))
        columns = select_columns(classes, self.known_columns)
        logits = answers.spread_logits(columns, len(classes), self._floor)
        yield torch.as_tensor(logits).to(data.device)

    def take_fit_parameters(self, parameters: Mapping[str, Any]) -> None:
        self._fit_parameters = FitParameters(parameters)
        self._fit_parameters.check(self.teacher)


def _is_like_a_classifier(teacher: Any) -> bool:
    """Return True for a cloneable object that gives scores and is not another kind of estimator."""
    if not (hasattr(teacher, "get_params") and hasattr(teacher, "set_params")):
        return False
    if hasattr(teacher, "__sklearn_tags__") and get_tags(teacher).estimator_type is not None:
        return False
    return hasattr(teacher, "predict_proba") or hasattr(teacher, "decision_function")


def is_fitted(estimator: Any, otherwise: bool) -> bool:
    """Return whether an estimator has been fitted; ``otherwise`` if scikit-learn cannot tell."""
    if hasattr(estimator, "__sklearn_tags__") and not get_tags(estimator).requires_fit:
        return otherwise  # it predicts unfitted, as GaussianProcessRegressor does
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    except (TypeError, AttributeError):  # it has no fit, or no base class of scikit-learn's
        return otherwise
    return True


def warn_if_fitted(teacher: Any) -> None:
    """Warn if a teacher is already fitted, since a clone of it will be fitted anew."""
    if is_fitted(teacher, otherwise=False):
        warnings.warn(
            "teacher is already fitted, but a clone of it will be fitted anew on your training rows "
            "(D_train). Wrap it in sklearn.frozen.FrozenEstimator to use it as it is.",
            UserWarning,
            stacklevel=3,
        )


@contextmanager
def data_explained(classifier: Any, X: Any) -> Iterator[None]:
    """Add a remedy to a classifier's error about an X that is not a table."""
    try:
        yield
    except WrongAnswerError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        said = (str(error).splitlines() or [""])[0].rstrip(".:")
        if is_structure(X):
            raise kind(
                f"{name_of(classifier)} cannot take the parts of X: {type(error).__name__}: {said}. If it "
                "takes only tables, begin a pipeline with a transformer of your own that returns one of the "
                "parts, or give its answers to fit as teacher_logits."
            ) from error
        if np.ndim(X) > 2 and kind is ValueError:
            raise ValueError(
                f"{name_of(classifier)} was given samples of shape {tuple(np.shape(X)[1:])}: {error} If "
                "it takes only tables, flatten X before it, by a FunctionTransformer in a pipeline, or give "
                "its answers about the flattened X to fit as teacher_logits."
            ) from error
        raise


def set_open_seeds(estimator: Any, rng: np.random.RandomState) -> Any:
    """Set each ``random_state=None`` of an estimator and its parts to a seed from ``rng``."""
    open_seeds = {
        name: int(rng.randint(np.iinfo(np.int32).max))
        for name, value in sorted(estimator.get_params(deep=True).items())
        if value is None and (name == "random_state" or name.endswith("__random_state"))
    }
    return estimator.set_params(**open_seeds)
