"""Row weights on their way into a scikit-learn classifier and the classifiers it is made of."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn import config_context
from sklearn.base import is_classifier
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.feature_selection import RFE
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import get_routing_for_object
from sklearn.utils.validation import has_fit_parameter

from sklearn_kd._sklearn_compat import BaseSearchCV, has_requests, metric_of_scorer, weight_request

_DIRECT = ["sample_weight"]


class WeightedFit:
    """How a classifier is fitted so that its weights reach all that takes them.

    By arguments of ``fit`` where that is possible: ``sample_weight``, or the name of a Pipeline's last step
    before it. Else by metadata routing, for which the parts that take weights are set to request them, unless
    the user has said what they request. A warning names what the weights do not reach.

    Parameters
    ----------
    classifier : estimator
        Unfitted; its requests are set in place.
    sample_weight : ndarray of shape (n_samples,) or None
    """

    def __init__(self, classifier: Any, sample_weight: np.ndarray | None):
        self._weight = sample_weight
        self._routes: bool | None = None  # as the user has set it
        self._names: list[str] = []
        if sample_weight is None:
            return
        names = _argument_names(classifier)
        self._routes = names is None or any(map(has_requests, parts_of(classifier)))
        if not self._routes:
            self._names = names or []
            return
        with config_context(enable_metadata_routing=True):
            _request_weights(classifier)
            self._names = _DIRECT if _routes_weights(classifier) else []
        if np.ptp(sample_weight) > 0:  # equal weights are none
            _warn_of_missed(classifier, self._names)

    def fit(self, classifier: Any, X: Any, y: np.ndarray) -> None:
        """Fit the classifier that this was made for, or a clone of it."""
        with config_context(enable_metadata_routing=self._routes):
            classifier.fit(X, y, **dict.fromkeys(self._names, self._weight))


def parts_of(value: Any) -> Iterator[Any]:
    """Iterate over the estimators in an estimator and in its parameters, itself first; none is frozen."""
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
    """Return the arguments of ``fit`` that take weights to all parts; None where there are no such."""
    if isinstance(classifier, FrozenEstimator):
        return _DIRECT  # taken by its fit, which does nothing
    if isinstance(classifier, Pipeline):
        name, last = classifier.steps[-1]
        names = _argument_names(last)
        return None if names is None else [f"{name}__{argument}" for argument in names]
    if isinstance(classifier, BaseSearchCV) or type(classifier) is RFE:
        return _argument_names(classifier.estimator) if _candidates_take_weights(classifier) else None
    passes = isinstance(classifier, (VotingClassifier, StackingClassifier))
    if not passes and not has_fit_parameter(classifier, "sample_weight"):
        return None
    inner = _inner_classifiers(classifier)
    return _DIRECT if all(_argument_names(part) == _DIRECT for part in inner) else None


def _candidates_take_weights(search: Any) -> bool:
    """Return whether all classifiers that a search may put in the place of others take sample_weight."""
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
    """Let classifiers request weights, for ``fit`` and in scores, and all else be fitted without."""
    for part in parts_of(classifier):
        if isinstance(part, StackingClassifier) and part.final_estimator is None:
            part.set_params(final_estimator=LogisticRegression())  # which it would make itself, unasked
        if getattr(part, "scoring", None) is not None:
            part.set_params(scoring=_weighted_scoring(part.scoring))
    for part in parts_of(classifier):
        for method in ("fit", "score"):
            if weight_request(part, method) is None and hasattr(part, f"set_{method}_request"):
                takes = "sample_weight" in inspect.signature(getattr(part, method)).parameters
                if takes:
                    getattr(part, f"set_{method}_request")(sample_weight=is_classifier(part))


def _weighted_scoring(scoring: Any) -> Any:
    """Return a search's ``scoring`` with scorers that take weights where their metrics do."""
    if isinstance(scoring, dict):
        return {name: _weighted_scoring(own) for name, own in scoring.items()}
    if isinstance(scoring, (list, tuple, set)):
        return {name: _weighted_scoring(name) for name in scoring}
    scorer = get_scorer(scoring) if isinstance(scoring, str) else scoring
    metric, _ = metric_of_scorer(scorer)
    if metric is not None and not has_requests(scorer):
        scorer.set_score_request(sample_weight="sample_weight" in inspect.signature(metric).parameters)
    return scorer


def _routes_weights(classifier: Any) -> bool:
    """Return whether a part of a classifier, or itself, is given weights by metadata routing."""
    try:
        return bool(get_routing_for_object(classifier).consumes("fit", ["sample_weight"]))
    except NotImplementedError:  # of a part that cannot route
        return False


def _warn_of_missed(classifier: Any, names: list[str]) -> None:
    """Warn of the classifiers that are fitted without weights though nobody has asked for that."""
    kind = type(classifier).__name__
    missed = [kind]
    if names:
        innermost = [p for p in parts_of(classifier) if is_classifier(p) and not _inner_classifiers(p)]
        missed = [type(p).__name__ for p in innermost if not has_fit_parameter(p, "sample_weight")]
    elif weight_request(classifier, "fit") is False:
        missed = []
    if not missed:
        return
    whole = "It is" if missed == [kind] else f"Within {kind} these are"
    warnings.warn(
        f"sample_weight does not reach the teacher's {', '.join(dict.fromkeys(missed))}. {whole} fitted on "
        "D_train without weights; rows of weight 0 are left out all the same. Give classifiers whose fit "
        "takes sample_weight (in a Pipeline the last step), let a classifier of your own pass it on by "
        "metadata routing, or fit the teacher with its weights and give FrozenEstimator(fitted).",
        UserWarning,
        stacklevel=2,
    )
