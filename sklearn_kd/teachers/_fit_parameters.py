"""Further parameters of a teacher's own ``fit``, given as ``teacher__fit__NAME``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.pipeline import Pipeline

from sklearn_kd.errors._did_you_mean import did_you_mean
from sklearn_kd.inputs._arrays import from_torch
from sklearn_kd.teachers._logit_checks import name_of
from sklearn_kd.teachers._weighted_fit import parts_of

# What the estimator passes on by itself.
_PASSED_ON = ("X", "y", "sample_weight")
# Boosters whose early stopping fails without rows to stop by, and the parameter that asks for it.
_STOP_EARLY = {
    "xgboost": ("early_stopping_rounds",),
    "lightgbm": ("early_stopping_round", "early_stopping_rounds"),
}
_ROWS_TO_STOP_BY = ("eval_set", "eval_X")


class UncodedLabelsError(ValueError):
    """Labels in a parameter of ``fit`` have no code, since no row of D_train has them."""


class FitParameters:
    """Further parameters of a classifier's ``fit``.

    Parameters
    ----------
    given : mapping
        By the names that ``fit`` has for them.
    """

    def __init__(self, given: Mapping[str, Any]):
        self.given = dict(given)

    def check(self, classifier: Any) -> None:
        """Check the parameters against the signature of ``fit``, where that names them.

        Raises
        ------
        TypeError
            If ``fit`` takes no such parameter, or the estimator passes it on by itself.
        ValueError
            If a booster is to stop early and has no rows to stop by.
        """
        for name in self.given:
            if name.rpartition("__")[2] in _PASSED_ON:
                raise TypeError(
                    f"teacher__fit__{name}: the teacher is fitted on X, y and sample_weight of D_train. Give "
                    "them to fit itself."
                )
            _check_taken(classifier, name, f"teacher__fit__{name}", name_of(classifier))
        self._check_early_stopping(classifier)

    def for_labels(self, coded: np.ndarray | None) -> dict[str, Any]:
        """Return the parameters for a fit on labels or, if ``coded`` are given, on the codes of these."""
        if coded is None:
            return self.given
        return {
            name: _with_codes(value, coded, name) if name.endswith("eval_set") else value
            for name, value in self.given.items()
        }

    def _check_early_stopping(self, classifier: Any) -> None:
        if any(name.rpartition("__")[2] in _ROWS_TO_STOP_BY for name in self.given):
            return
        for part in parts_of(classifier):
            package = type(part).__module__.partition(".")[0]
            params = part.get_params(deep=False) if package in _STOP_EARLY else {}
            for name in _STOP_EARLY.get(package, ()):
                if params.get(name) is not None and params[name] > 0:
                    raise ValueError(
                        f"{name_of(classifier)}: {type(part).__name__} has {name}={params[name]}, and no "
                        "rows to stop by. Hold some out of X, and give them to the estimator as "
                        "teacher__fit__eval_set=[(X_stop, y_stop)], in a Pipeline as "
                        f"teacher__fit__STEP__eval_set; or set {name}=None. HistGradientBoostingClassifier "
                        "holds out rows by itself."
                    )


def _check_taken(classifier: Any, name: str, parameter: str, who: str) -> None:
    """Raise TypeError if a classifier's ``fit`` is known to take no parameter of this name."""
    if isinstance(classifier, Pipeline):
        step, _, rest = name.partition("__")
        steps = dict(classifier.steps)
        if not rest and get_config()["enable_metadata_routing"]:
            return  # a step requests it
        if not rest or step not in steps:
            nearest = did_you_mean(step, steps)
            raise TypeError(
                f"{parameter}: {who} has the steps {list(steps)}, and passes on STEP__NAME.{nearest}"
            )
        _check_taken(steps[step], rest, parameter, f"step {step!r} of {who}")
        return
    known = _arguments_of_fit(classifier)
    if known is not None and name not in known:
        takes = f"It takes {', '.join(known) or 'none'} beside X, y and sample_weight."
        raise TypeError(
            f"{parameter}: the fit of {who} takes no {name!r}.{did_you_mean(name, known)} {takes}"
        )


def _arguments_of_fit(classifier: Any) -> list[str] | None:
    """Return the further arguments of ``fit``; None where the signature does not tell."""
    try:
        arguments = inspect.signature(classifier.fit).parameters
    except (AttributeError, TypeError, ValueError):
        return []
    if any(argument.kind is argument.VAR_KEYWORD for argument in arguments.values()):
        return None
    return [name for name in arguments if name not in _PASSED_ON]


def _with_codes(value: Any, labels: np.ndarray, name: str) -> Any:
    """Return ``(X, y)``, or a list of such pairs, with codes in place of labels; anything else as it is."""
    if isinstance(value, tuple) and len(value) == 2 and not isinstance(value[0], tuple):
        X, y = value
        y = np.asarray(from_torch(y, name))
        unknown = sorted(set(y.tolist()) - set(labels.tolist()), key=str)
        if unknown:
            raise UncodedLabelsError(
                f"teacher__fit__{name} has the label(s) {unknown[:5]}, which D_train lacks: the teacher is "
                "fitted on codes of the labels, and they have none. Leave their rows out."
            )
        return X, np.searchsorted(labels, y)
    if isinstance(value, (list, tuple)):
        return type(value)([_with_codes(pair, labels, name) for pair in value])
    return value
