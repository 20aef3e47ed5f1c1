"""All private names of scikit-learn that the package uses."""

import copy
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from sklearn.base import _clone_parametrized as clone_by_parameters
from sklearn.metrics._scorer import _BaseScorer
from sklearn.model_selection._search import BaseSearchCV
from sklearn.utils import _safe_indexing as safe_indexing
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils._param_validation import validate_params as _validate_params
from sklearn.utils.validation import _check_sample_weight as check_sample_weight
from sklearn.utils.validation import _num_samples as num_samples

try:
    from sklearn.utils._repr_html.estimator import _VisualBlock as VisualBlock
except ImportError:  # scikit-learn 1.6
    from sklearn.utils._estimator_html_repr import _VisualBlock as VisualBlock

try:
    from sklearn.callback import CallbackSupportMixin
    from sklearn.callback import with_callbacks as _with_callbacks
except ImportError:  # scikit-learn < 1.9 has no callbacks

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Empty base class: ``set_callbacks`` needs scikit-learn 1.9."""

    def _with_callbacks(method: Any) -> Any:
        """Return ``method`` unchanged."""
        return method


# Attributes that scikit-learn sets on an estimator, besides parameters and fitted attributes.
OF_SCIKIT_LEARN = ("_skl_callbacks", "_parent_callback_ctx", "_metadata_request")

Decorated = TypeVar("Decorated", bound=Callable)


# scikit-learn has no type hints: without these two, a type checker would treat decorated functions as Any.
def with_callbacks(method: Decorated) -> Decorated:
    """Return ``fit`` with the callbacks of ``set_callbacks``, if scikit-learn has them."""
    return _with_callbacks(method)


def validate_params(constraints: dict[str, list[Any]], **options: bool) -> Callable[[Decorated], Decorated]:
    """Return a decorator that checks the arguments of a function before it runs."""
    return _validate_params(constraints, **options)


def is_instance(value: Any, module: str, *names: str) -> bool:
    """Return whether a value is an instance of one of these classes, without importing their module.

    If nothing in the process has imported the module, no such instance exists.
    """
    imported = sys.modules.get(module)
    return imported is not None and isinstance(value, tuple(getattr(imported, name) for name in names))


def has_callbacks(estimator: Any) -> bool:
    """Return whether ``set_callbacks`` has given the estimator any callbacks."""
    return bool(getattr(estimator, "_skl_callbacks", None))


def without_callbacks(estimator: Any) -> Any:
    """Remove the callbacks of ``set_callbacks`` from the estimator, and return it."""
    estimator.__dict__.pop("_skl_callbacks", None)
    return estimator


def without_parent(estimator: Any) -> Any:
    """Detach the estimator from the pipeline or search to which it reports, and return it."""
    estimator.__dict__.pop("_parent_callback_ctx", None)
    return estimator


def callback_context(estimator: Any, max_subtasks: int) -> Any:
    """Set up the root task of a ``fit``, or return None without callbacks."""
    if not has_callbacks(estimator):
        return None
    return estimator._init_callback_context(max_subtasks=max_subtasks)


def metric_of_scorer(scorer: Any) -> tuple[Callable | None, dict[str, Any]]:
    """Return the metric and its arguments of a scorer of ``make_scorer``; (None, {}) for other objects."""
    if not isinstance(scorer, _BaseScorer):
        return None, {}
    return scorer._score_func, scorer._kwargs


def with_arguments(scorer: Any, **arguments: Any) -> Any:
    """Return a copy of a scorer of ``make_scorer`` with further arguments of its metric."""
    copied = copy.copy(scorer)
    copied._kwargs = scorer._kwargs | arguments
    return copied


def has_requests(part: Any) -> bool:
    """Return whether metadata requests have been set on an estimator or a scorer."""
    return "_metadata_request" in vars(part)


def leaves_weights_open(part: Any, method: str) -> bool:
    """Return whether a method of an estimator takes ``sample_weight`` and its request for it is not set."""
    try:
        requests = getattr(part._get_metadata_request(), method).requests
    except (AttributeError, ValueError):  # no scikit-learn base; or RFECV, whose requests conflict
        return False
    return requests.get("sample_weight", False) is None


__all__ = [
    "OF_SCIKIT_LEARN",
    "BaseSearchCV",
    "CallbackSupportMixin",
    "Decorated",
    "Interval",
    "StrOptions",
    "VisualBlock",
    "callback_context",
    "check_sample_weight",
    "clone_by_parameters",
    "has_callbacks",
    "has_requests",
    "is_instance",
    "leaves_weights_open",
    "metric_of_scorer",
    "num_samples",
    "safe_indexing",
    "validate_params",
    "with_arguments",
    "with_callbacks",
    "without_callbacks",
    "without_parent",
]
