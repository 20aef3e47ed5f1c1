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

# Parameters that the estimator passes on by itself.
_PASSED_ON = ("X", "y", "sample_weight")
# Boosters whose early stopping fails without validation rows, and the parameters that switch it on.
_STOP_EARLY = {
    "xgboost": ("early_stopping_rounds",),
    "lightgbm": ("early_stopping_round", "early_stopping_rounds", "early_stopping", "n_iter_no_change"),
}
_ROWS_TO_STOP_BY = ("eval_set", "eval_X")
# Parameters that hold labels: in pairs with their rows, and alone.
_PAIRS, _LABELS = "eval_set", "eval_y"


class UncodedLabelsError(ValueError):
    """A parameter of ``fit`` has labels without a code, because no row of D_train has them."""


class FitParameters:
    """Further parameters of a classifier's ``fit``.

    Parameters
    ----------
    given : mapping
        Values by parameter name of ``fit``.
    """

    def __init__(self, given: Mapping[str, Any]):
        self.given = dict(given)

    def check(self, classifier: Any) -> None:
        """Check the parameters against the signature of ``fit``, if it names them.

        Raises
        ------
        TypeError
            If ``fit`` takes no such parameter, or the estimator passes it on by itself.
        ValueError
            If a booster is set to stop early but has no rows to stop by.
        """
        for name in self.given:
            if name.rpartition("__")[2] in _PASSED_ON:
                raise TypeError(
                    f"teacher__fit__{name}: the teacher is fitted on X, y and sample_weight of D_train. Give "
                    "them to fit itself."
                )
            _check_taken(classifier, name, f"teacher__fit__{name}", name_of(classifier))
        self._check_early_stopping(classifier)

    @property
    def need_codes(self) -> bool:
        """True if the classifier may expect codes in a parameter of labels, though it encodes those of y."""
        # LightGBM 4.7 encodes the labels of eval_set, but not those of eval_y.
        return any(name.endswith(_LABELS) for name in self.given)

    def for_labels(self, coded: np.ndarray | None) -> dict[str, Any]:
        """Return the parameters for a fit on labels or, if ``coded`` is given, on the codes of these."""
        if coded is None:
            return self.given
        ways = {_PAIRS: _with_codes, _LABELS: _codes_of_each}
        return {
            name: ways.get(name.rpartition("__")[2], _as_given)(value, coded, name)
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
                        f"{name_of(classifier)}: {type(part).__name__} has {name}={params[name]}, but no "
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
    """Return the further arguments of ``fit``; None if the signature does not name them."""
    try:
        arguments = inspect.signature(classifier.fit).parameters
    except (AttributeError, TypeError, ValueError):
        return []
    if any(argument.kind is argument.VAR_KEYWORD for argument in arguments.values()):
        return None
    return [name for name in arguments if name not in _PASSED_ON]


def _as_given(value: Any, labels: np.ndarray, name: str) -> Any:
    return value


def _with_codes(value: Any, labels: np.ndarray, name: str) -> Any:
    """Return ``(X, y)``, or a list of such pairs, with codes in place of labels; anything else as it is."""
    if not isinstance(value, (list, tuple)):
        return value
    if _is_pair(value):
        return type(value)((value[0], _codes(value[1], labels, name)))
    return type(value)([_with_codes(pair, labels, name) for pair in value])


def _codes_of_each(value: Any, labels: np.ndarray, name: str) -> Any:
    """Return the codes of labels, or of each of several lists of labels."""
    if isinstance(value, (list, tuple)) and value and np.ndim(value[0]) > 0:
        return type(value)([_codes(own, labels, name) for own in value])
    return _codes(value, labels, name)


def _is_pair(value: list | tuple) -> bool:
    """Return True for rows and their labels, False for a list of such pairs."""
    inner = (part for part in value if isinstance(part, (list, tuple)) and len(part) > 0)
    return len(value) == 2 and not any(_is_table(part[0]) for part in inner)


def _is_table(value: Any) -> bool:
    return len(getattr(value, "shape", None) or np.shape(value)) > 1


def _codes(own: Any, labels: np.ndarray, name: str) -> np.ndarray:
    own = np.asarray(from_torch(own, name))
    if own.ndim == 2 and own.shape[1] == 1:
        own = own.ravel()
    unknown = sorted(set(own.tolist()) - set(labels.tolist()), key=str)
    if unknown:
        raise UncodedLabelsError(
            f"teacher__fit__{name} has the label(s) {unknown[:5]}, which D_train lacks: the teacher is "
            "fitted on codes of the labels, and these have no code. Leave their rows out."
        )
    return np.searchsorted(labels, own)
