"""Fit a scikit-learn classifier so that row weights reach all classifiers inside it."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from sklearn import config_context
from sklearn.base import is_classifier
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import get_scorer, get_scorer_names
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import get_routing_for_object
from sklearn.utils.validation import has_fit_parameter

from sklearn_kd._sklearn_compat import (
    BaseSearchCV,
    has_requests,
    is_instance,
    leaves_weights_open,
    metric_of_scorer,
)

_DIRECT = ["sample_weight"]


class WeightedFit:
    """Fits a classifier so that row weights reach all its parts that take them.

    Weights are passed as arguments of ``fit`` if possible: ``sample_weight``, prefixed with the name of the
    last step in a Pipeline. Otherwise metadata routing is used: the parts that take weights are set to
    request them, unless the user has set requests. A warning names the parts that the weights do not reach.

    Parameters
    ----------
    classifier : estimator
        Unfitted classifier. Its requests are set in place.
    sample_weight : ndarray of shape (n_samples,) or None
    """

    def __init__(self, classifier: Any, sample_weight: np.ndarray | None):
        self._weight = sample_weight
        self._routes: bool | None = None  # None: as the user has set it
        self._names: list[str] = []
        self._missed: list[str] = []
        if sample_weight is None:
            return
        self._differ = bool(np.ptp(sample_weight) > 0)
        names = _argument_names(classifier)
        self._routes = names is None or any(map(has_requests, parts_of(classifier)))
        if not self._routes:
            self._names = names or []
            return
        with config_context(enable_metadata_routing=True):
            _request_weights(classifier)
            self._names = _DIRECT if _routes_weights(classifier) else []
            self._missed = _missed_parts(classifier)
        if not self._names:
            self._routes = None

    @property
    def reaches_any(self) -> bool:
        """True if weights are an argument of ``fit`` or are routed."""
        return bool(self._names or self._routes)

    def fit(
        self, classifier: Any, X: Any, y: np.ndarray, parameters: Mapping[str, Any] | None = None
    ) -> None:
        """Fit the constructor's classifier, or a clone, with further ``parameters`` of its fit."""
        given = dict(parameters or {})
        missed, reason = self._missed, ""
        with config_context(enable_metadata_routing=self._routes):
            try:
                classifier.fit(X, y, **dict.fromkeys(self._names, self._weight), **given)
            except (TypeError, ValueError, NotImplementedError) as error:
                if not self._routes:
                    raise
                # A part makes its own estimators, or passes weights on to estimators that take none.
                classifier.fit(X, y, **given)
                missed, reason = [type(classifier).__name__], f" ({str(error).splitlines()[0]})"
        if missed and self._differ:
            message = _missed_message(missed, type(classifier).__name__, reason)
            warnings.warn(message, UserWarning, stacklevel=2)


def parts_of(value: Any) -> Iterator[Any]:
    """Iterate over an estimator and all estimators in its parameters, except frozen ones."""
    if isinstance(value, (type, FrozenEstimator)):
        return
    if hasattr(value, "fit") and hasattr(value, "get_params"):
        yield value
        value = value.get_params(deep=False)
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from parts_of(item)


# --------------------------------------------------------------------------------------
# By arguments


def _argument_names(classifier: Any) -> list[str] | None:
    """Return the arguments of ``fit`` that pass weights to all parts; None if there are none."""
    if isinstance(classifier, FrozenEstimator):
        return _DIRECT  # its fit takes them, and does nothing
    if isinstance(classifier, Pipeline):
        name, last = classifier.steps[-1]
        names = _argument_names(last)
        return None if names is None else [f"{name}__{argument}" for argument in names]
    if isinstance(classifier, BaseSearchCV) or _is_rfe(classifier):
        return _argument_names(classifier.estimator) if _candidates_take_weights(classifier) else None
    passes = is_instance(classifier, "sklearn.ensemble", "VotingClassifier", "StackingClassifier")
    if not passes and not has_fit_parameter(classifier, "sample_weight"):
        return None
    inner = _inner_classifiers(classifier)
    return _DIRECT if all(_argument_names(part) == _DIRECT for part in inner) else None


def _is_rfe(classifier: Any) -> bool:
    """Return True for RFE itself, not for RFECV, which is derived from it."""
    return type(classifier).__name__ == "RFE" and is_instance(classifier, "sklearn.feature_selection", "RFE")


def _candidates_take_weights(search: Any) -> bool:
    """Return True if all candidate classifiers of a search take sample_weight."""
    given = search.get_params(deep=False) | {"estimator": None}
    return all(_argument_names(part) == _DIRECT for part in _inner_classifiers(given))


def _inner_classifiers(value: Any) -> list[Any]:
    """Return the classifiers one level inside an estimator or a collection."""
    if not isinstance(value, (dict, list, tuple)):
        value = value.get_params(deep=False) if hasattr(value, "get_params") else ()
    found = []
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, (dict, list, tuple)):
            found += _inner_classifiers(item)
        elif hasattr(item, "fit") and not isinstance(item, type) and is_classifier(item):
            found.append(item)
    return found


# --------------------------------------------------------------------------------------
# By metadata routing


def _request_weights(classifier: Any) -> None:
    """Set classifiers to request weights, in ``fit`` and in scores, and other parts to request none."""
    for part in parts_of(classifier):
        scoring = getattr(part, "scoring", None)
        if _is_scored_by_accuracy(part) and scoring in (None, "warn"):
            scoring = "accuracy"
        if scoring is not None:
            part.set_params(scoring=_weighted_scoring(scoring))
    for part in parts_of(classifier):
        for method in ("fit", "score"):
            if leaves_weights_open(part, method):
                getattr(part, f"set_{method}_request")(sample_weight=is_classifier(part))


def _is_scored_by_accuracy(part: Any) -> bool:
    """Return True for an estimator whose default scorer, made without ``scoring``, requests no weights."""
    return is_instance(part, "sklearn.feature_selection", "RFECV") or is_instance(
        part, "sklearn.linear_model", "LogisticRegressionCV"
    )


def _weighted_scoring(scoring: Any) -> Any:
    """Return a search's ``scoring`` with scorers that take weights if their metrics do."""
    if isinstance(scoring, dict):
        return {name: _weighted_scoring(own) for name, own in scoring.items()}
    if isinstance(scoring, (list, tuple, set)):
        return {name: _weighted_scoring(name) for name in scoring}
    # Other names, such as "loss", mean something only to the estimator.
    scorer = get_scorer(scoring) if scoring in get_scorer_names() else scoring
    metric, _ = metric_of_scorer(scorer)
    if metric is not None and not has_requests(scorer):
        scorer.set_score_request(sample_weight="sample_weight" in inspect.signature(metric).parameters)
    return scorer


def _routes_weights(classifier: Any) -> bool:
    """Return True if metadata routing gives weights to a classifier or a part of it."""
    try:
        return bool(get_routing_for_object(classifier).consumes("fit", ["sample_weight"]))
    except NotImplementedError:  # a part cannot route
        return False


def _missed_parts(classifier: Any) -> list[str]:
    """Return the names of the innermost classifiers that weights cannot reach."""
    return [
        type(part).__name__
        for part in parts_of(classifier)
        if _takes_none(part) and not any(map(_takes_none, _inner_classifiers(part)))
    ]


def _missed_message(missed: list[str], kind: str, reason: str) -> str:
    names = ", ".join(dict.fromkeys(missed))
    whole = "It is" if missed == [kind] else f"Within {kind} these are"
    return (
        f"sample_weight does not reach the teacher's {names}{reason}. {whole} fitted on your training "
        "rows (D_train) without weights; rows of weight 0 are still left out. Give classifiers whose "
        "fit takes sample_weight (in a Pipeline the last step), let a classifier of your own pass it on by "
        "metadata routing, or fit the teacher with its weights and give FrozenEstimator(fitted)."
    )


def _takes_none(part: Any) -> bool:
    """Return True if weights go neither to a classifier nor through it."""
    return is_classifier(part) and not has_fit_parameter(part, "sample_weight") and not _routes_weights(part)
