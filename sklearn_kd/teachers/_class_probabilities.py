"""Check and fit scikit-learn classifiers as teachers, and ask them for probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from sklearn_kd._sklearn_compat import BaseSearchCV, is_instance
from sklearn_kd.inputs._arrays import from_torch
from sklearn_kd.runtime._memory import is_out_of_memory
from sklearn_kd.teachers._fit_parameters import UncodedLabelsError
from sklearn_kd.teachers._known_classes import in_order_of_names
from sklearn_kd.teachers._logit_checks import (
    checked_probabilities,
    log_probabilities,
    name_of,
    thawed,
)
from sklearn_kd.teachers._margins import gives_margins, margins_of, refuse_pairwise_margins
from sklearn_kd.teachers._zeros import Floor

# --------------------------------------------------------------------------------------
# Classifiers without probabilities


def require_scores(classifier: Any) -> None:
    """Raise if a classifier, fitted or not, will have neither ``predict_proba`` nor ``decision_function``.

    An unfitted classifier is judged by its parts, since many have the method only once they are fitted. If
    the parts do not show it, the classifier is accepted; :func:`answers_of` raises after the fit.

    Raises
    ------
    ValueError
        The message names the part without ``predict_proba`` and a remedy.
    """
    part = _part_without_probabilities(classifier)
    if part is None:
        return
    if not gives_margins(classifier):
        raise ValueError(_no_probabilities(classifier, part))
    refuse_pairwise_margins(classifier)


def _part_without_probabilities(classifier: Any) -> Any | None:
    """Return the part that deprives a classifier of ``predict_proba``, or None."""
    if is_instance(classifier, "sklearn.ensemble", "VotingClassifier"):
        parts = [part for _, part in classifier.estimators if part != "drop"]
        lacking = [_part_without_probabilities(part) for part in parts]
        return classifier if classifier.voting == "hard" else next(filter(None, lacking), None)
    if is_instance(classifier, "sklearn.ensemble", "StackingClassifier"):
        last = classifier.final_estimator  # None: a logistic regression
        return None if last is None else _part_without_probabilities(last)
    if isinstance(classifier, Pipeline):
        last = classifier.steps[-1][1]
        return classifier if isinstance(last, str) else _part_without_probabilities(last)
    if isinstance(classifier, BaseSearchCV):
        if not classifier.refit:
            return classifier
        part = _part_without_probabilities(classifier.estimator)
        return None if part is None or _may_find_probabilities(classifier) else part
    if hasattr(classifier, "predict_proba"):
        return None
    kind = type(classifier)
    if not hasattr(kind, "predict_proba"):
        return None if hasattr(kind, "__getattr__") else classifier
    # The method is conditional; fitting may fulfil the condition.
    inner = getattr(classifier, "estimator", None)
    if hasattr(inner, "fit"):
        return _part_without_probabilities(inner)
    return classifier if kind.__module__.startswith("sklearn.") else None


def _may_find_probabilities(search: Any) -> bool:
    """Return True if a candidate of a search gives its estimator ``predict_proba``."""
    grids = getattr(search, "param_grid", getattr(search, "param_distributions", ()))
    for grid in [grids] if isinstance(grids, dict) else grids:
        for name, values in grid.items():
            for value in values if isinstance(values, (list, tuple, np.ndarray)) else ():
                candidate = clone(search.estimator).set_params(**{name: clone(value, safe=False)})
                if _part_without_probabilities(candidate) is None:
                    return True
    return False


def _no_probabilities(classifier: Any, part: Any) -> str:
    kind, inner = type(classifier).__name__, type(part).__name__
    because = "" if part is classifier else f", because its {inner} has none"
    if is_instance(part, "sklearn.ensemble", "VotingClassifier"):
        remedy = f"Set voting='soft' in {inner}, or wrap it"
    elif isinstance(part, BaseSearchCV):
        return f"teacher {kind} has no predict_proba{because}. Set refit=True in {inner}."
    else:
        remedy = f"Wrap {'it' if part is classifier else inner}"
    return (
        f"teacher {kind} has no predict_proba{because}. {remedy} in "
        "sklearn.calibration.CalibratedClassifierCV."
    )


# --------------------------------------------------------------------------------------
# Fitting


def fitted_classifier(
    classifier: Any,
    fit: Callable[[Any, np.ndarray, np.ndarray | None], None],
    y: np.ndarray,
    needs_codes: bool = False,
) -> tuple[Any, np.ndarray]:
    """Fit a classifier on labels or, if it refuses them, on the codes 0 to K−1 of the labels in y.

    Parameters
    ----------
    classifier : estimator
        Unfitted classifier.
    fit : callable(classifier, y, coded)
        ``coded`` are the labels whose codes y holds, or None if y holds labels.
    y : ndarray of shape (n_samples,)
        Labels.
    needs_codes : bool, default=False
        Whether to fit on codes only, without trying the labels.

    Returns
    -------
    fitted : estimator
        The classifier, or a clone of it.
    classes : ndarray
        The label of each column of its probabilities.

    Raises
    ------
    Exception
        The error of the fit on labels, if the fit on codes fails too. If the two messages differ, a
        ValueError or TypeError states both; an error of another class has the second error as its cause.
    UncodedLabelsError
        If a parameter of ``fit`` has labels that y lacks.
    """
    labels, codes = np.unique(y, return_inverse=True)
    # Older versions of NumPy warn if strings are compared with numbers.
    are_codes = labels.dtype.kind in "biuf" and np.array_equal(labels, np.arange(len(labels)))

    def fitted_on_codes() -> tuple[Any, np.ndarray]:
        again = _with_coded_weights(clone(classifier), labels)
        fit(again, codes, labels)
        return again, labels[_known_classes(again, np.arange(len(labels)))]

    if needs_codes and not are_codes:
        return fitted_on_codes()
    try:
        fit(classifier, y, None)
        return classifier, _known_classes(classifier, labels)
    except Exception as error:
        if is_out_of_memory(error) or are_codes:
            raise
        refused = error
    try:
        return fitted_on_codes()
    except UncodedLabelsError:
        raise
    except Exception as error:
        if str(error) == str(refused):
            raise refused from None
        if type(refused) in (ValueError, TypeError):
            raise type(refused)(
                f"{str(refused).rstrip('.')}. Fitted on the codes 0 to {len(labels) - 1} of the labels, it "
                f"fails too: {error}"
            ) from error
        raise refused from error


def _with_coded_weights(classifier: Any, labels: np.ndarray) -> Any:
    """Replace the labels in each ``class_weight`` dict by their codes."""
    codes = {label: code for code, label in enumerate(labels.tolist())}
    coded = {
        name: {codes[label]: weight for label, weight in value.items() if label in codes}
        for name, value in classifier.get_params().items()
        if name.rpartition("__")[2] == "class_weight" and isinstance(value, dict)
    }
    return classifier.set_params(**coded)


def require_classes(classifier: Any) -> None:
    """Raise ValueError if a fitted classifier has no ``classes_``, or learned several labels per row."""
    if not hasattr(classifier, "classes_"):
        raise ValueError(
            f"{name_of(classifier)} is fitted but has no classes_, so it is not known which column of its "
            "predict_proba is which class. Have its fit set classes_, the labels in the order of the "
            "columns, or give its answers to fit as teacher_logits."
        )
    if isinstance(classifier.classes_, (list, tuple)) and any(map(np.ndim, classifier.classes_)):
        raise ValueError(
            f"{name_of(classifier)} was fitted on {len(classifier.classes_)} labels for each row, and y "
            "has one. Give a teacher that was fitted on one label for each row."
        )


def _known_classes(classifier: Any, labels: np.ndarray) -> np.ndarray:
    """Return the ``classes_`` of a classifier that was fitted on all or some of ``labels``.

    Raises
    ------
    ValueError
        If it has no ``classes_``, or classes that are not in ``labels``.
    """
    require_classes(classifier)
    classes = np.asarray(classifier.classes_)
    if classes.ndim != 1 or not set(classes.tolist()) <= set(labels.tolist()):
        raise ValueError(
            f"{name_of(classifier)} was fitted on the labels {labels.tolist()[:10]}, but its classes_ are "
            f"{classes.tolist()[:10]}: which column of its predict_proba is which class is not known. Have "
            "its fit set classes_, the labels in the order of the columns."
        )
    return classes


# --------------------------------------------------------------------------------------
# Answers


class Answers(NamedTuple):
    """Probabilities or margins of a fitted classifier, with columns in the order of its ``classes_``."""

    values: np.ndarray
    are_probabilities: bool

    def logits(self, columns: np.ndarray, floor: Floor) -> np.ndarray:
        """Return the logits of some columns, with probabilities of 0 replaced by ``floor``."""
        logits = log_probabilities(self.values, floor) if self.are_probabilities else self.values
        return logits[:, columns]

    def spread_logits(self, columns: np.ndarray, n_classes: int, floor: Floor) -> np.ndarray:
        """Return logits of ``n_classes`` classes; classes not in ``columns`` have probability 0."""
        spread = np.full((len(self.values), n_classes), 0.0 if self.are_probabilities else -np.inf)
        spread[:, columns] = self.values
        return log_probabilities(spread, floor) if self.are_probabilities else spread.astype(np.float32)


def answers_of(classifier: Any, X: Any, n_samples: int) -> Answers:
    """Ask a fitted classifier for probabilities, or for margins if it has none.

    Raises
    ------
    ValueError
        If it has neither, or does not answer with one number per class.
    """
    inner = thawed(classifier)
    if hasattr(inner, "predict_proba") or not gives_margins(inner):
        return Answers(probabilities_of(classifier, X, n_samples), are_probabilities=True)
    margins, _ = margins_of(classifier, X, n_samples, np.asarray(inner.classes_))
    return Answers(margins, are_probabilities=False)


def probabilities_of(classifier: Any, X: Any, n_samples: int) -> np.ndarray:
    """Return a fitted classifier's probabilities for X, with columns in the order of its ``classes_``.

    Raises
    ------
    ValueError
        If it has no ``predict_proba``, or the output is not an array with one column per class.
    """
    who, inner = name_of(classifier), thawed(classifier)
    if not hasattr(inner, "predict_proba"):
        raise ValueError(_no_probabilities(inner, inner))
    found, classes = classifier.predict_proba(X), np.asarray(inner.classes_)
    values = from_torch(found, "predict_proba")
    if isinstance(found, (list, tuple)) and any(np.ndim(part) > 1 for part in found):
        shape = f"a {type(found).__name__} of {len(found)} arrays, as for several outputs"
    else:
        values = np.asarray(values)
        shape = f"shape {values.shape}"
        if values.shape == (n_samples, len(classes)):
            columns = in_order_of_names(found, classes, who)
            return checked_probabilities(values[:, columns], who)
    raise ValueError(
        f"{who}: predict_proba must return an array of shape (n_samples, n_classes) = ({n_samples}, "
        f"{len(classes)}), one column for each of its classes_; it returned {shape}. Wrap it in a classifier "
        "whose predict_proba does, or give its answers to fit as teacher_logits."
    )
