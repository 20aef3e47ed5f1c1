"""Use margins of ``decision_function`` as logits, for classifiers without ``predict_proba``."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from sklearn_kd._sklearn_compat import is_instance
from sklearn_kd.inputs._arrays import from_torch
from sklearn_kd.teachers._known_classes import named_columns
from sklearn_kd.teachers._logit_checks import name_of, thawed


def gives_margins(classifier: Any) -> bool:
    """Return True if a classifier, fitted or not, has a usable ``decision_function``."""
    # The fit of SelfTrainingClassifier needs probabilities even so.
    trains_by_probabilities = is_instance(classifier, "sklearn.semi_supervised", "SelfTrainingClassifier")
    return hasattr(classifier, "decision_function") and not trains_by_probabilities


def refuse_pairwise_margins(classifier: Any) -> None:
    """Raise ValueError for an SVC whose margins belong to pairs of classes.

    With three classes there are three pairs, so the shape alone does not show it.
    """
    best = getattr(classifier, "best_estimator_", None)  # of a search
    for part in (classifier, *([] if best is None else [best])):
        params = part.get_params() if hasattr(part, "get_params") else {}
        for name, value in params.items():
            if name.endswith("decision_function_shape") and value == "ovo":
                raise ValueError(
                    f"{name_of(classifier)} has {name}='ovo': its decision_function returns margins of "
                    "pairs of classes, but a logit belongs to one class. Set decision_function_shape='ovr', "
                    "or wrap it in sklearn.calibration.CalibratedClassifierCV."
                )


def margins_of(classifier: Any, X: Any, n_samples: int, known: Any) -> tuple[np.ndarray, Any]:
    """Return a fitted classifier's margins as logits, and the classes of the columns if they are known.

    Warn, once for each teacher, that margins are used. With two classes, the margin m of the second becomes
    the logits 0 and m.

    Parameters
    ----------
    classifier : estimator
        Fitted, with a ``decision_function``.
    X : array-like
    n_samples : int
        Number of rows of X.
    known : array-like of shape (n_classes,) or None
        Its classes, in the order of the columns unless the columns have names.

    Raises
    ------
    ValueError
        If there is not one margin per class.
    """
    who = name_of(classifier)
    refuse_pairwise_margins(thawed(classifier))
    n_classes = None if known is None else len(known)
    found = classifier.decision_function(X)
    margins = np.asarray(from_torch(found, "decision_function"))
    logits = margins.reshape(len(margins), -1) if margins.ndim in (1, 2) else margins
    if logits.ndim == 2 and logits.shape[1] == 1 and n_classes in (2, None):
        logits = np.hstack([np.zeros_like(logits), logits])
    wanted = logits.shape[-1] if n_classes is None else n_classes
    if logits.ndim != 2 or logits.shape != (n_samples, wanted):
        raise ValueError(
            f"{who}: decision_function must return one margin for each class, shape ({n_samples}, "
            f"{'n_classes' if n_classes is None else n_classes}), or one margin for two classes, shape "
            f"({n_samples},); it returned shape {margins.shape}. Wrap it in "
            "sklearn.calibration.CalibratedClassifierCV."
        )
    logits, known = named_columns(found, logits, known, who, "decision_function")
    say_that_margins_are_used(who)
    return logits.astype(np.float32), known


def say_that_margins_are_used(who: str) -> None:
    """Warn, once for each teacher, that margins are not calibrated."""
    _say_once(
        f"{who} has no predict_proba: the margins of its decision_function are used as logits. Margins are "
        "not calibrated: a learned temperature scales them; choose a fixed one to suit them. For "
        "probabilities, wrap it in sklearn.calibration.CalibratedClassifierCV."
    )


# In a search with many fits one warning is enough.
_SAID: set[str] = set()


def _say_once(message: str) -> None:
    """Warn, once per process and message."""
    if message not in _SAID:
        _SAID.add(message)
        warnings.warn(message, UserWarning, stacklevel=3)
