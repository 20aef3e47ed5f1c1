"""Name and check the methods that can be compared, for each kind of estimator."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple

from sklearn.base import clone, is_regressor
from sklearn.pipeline import Pipeline

from sklearn_kd.comparison._result import check_baseline
from sklearn_kd.distpro._process import WEIGHTS
from sklearn_kd.errors._did_you_mean import did_you_mean
from sklearn_kd.estimators import _classifier_plan, _distpro_plan
from sklearn_kd.estimators._classifier import DistilledClassifier
from sklearn_kd.estimators._distpro import DistProClassifier
from sklearn_kd.estimators._distpro_regressor import DistProRegressor
from sklearn_kd.estimators._named_terms import has_terms
from sklearn_kd.estimators._regressor import DistilledRegressor
from sklearn_kd.meta import STRATEGIES
from sklearn_kd.teachers._logit_store import LogitStorage

# Parameters that all methods share, so that no method can set its own.
_SHARED = ("teacher", "teacher_transform", "teacher_classes", "random_state", "validation_fraction")


class Method(NamedTuple):
    """A method, ready to be cloned and fitted.

    Attributes
    ----------
    name : str
    estimator : DistilledClassifier, DistilledRegressor, DistProClassifier or DistProRegressor
    needs_teacher : bool
        Whether the strategy learns from a teacher if there is one.
    holds_out : bool
        Whether the student never trains on the rows of D_val, which ``fit`` is then given as X_val.
    can_do_without : bool
        Whether the loss can be computed without a teacher.
    """

    name: str
    estimator: Any
    needs_teacher: bool
    holds_out: bool
    can_do_without: bool = False


class DistilledMethods:
    """Methods of a DistilledClassifier or -Regressor: values of ``meta``, or named sets of parameters."""

    estimator_types: ClassVar[tuple[type, ...]] = (DistilledClassifier, DistilledRegressor)
    named: ClassVar[dict[str, dict[str, Any]]] = {name: {"meta": name} for name in STRATEGIES}
    default: ClassVar[tuple[str, ...]] = (
        "none", "naive", "shortlist", "random", "gradient", "linear", "hyperopt",
    )  # fmt: skip
    baseline: ClassVar[str] = "naive"
    example: ClassVar[str] = '{"labels (.8)": {"meta": "fixed", "lambda1": 0.8}}'

    @staticmethod
    def checked(name: str, estimator: Any) -> Method:
        """Check a method's parameters.

        Raises
        ------
        ValueError
            If one cannot be used, or the teacher would have to be asked about rows that are not in X.
        """
        if not has_terms(estimator.loss):  # the teacher's answers are enough
            estimator.set_params(teacher=None, teacher_transform=None)
        strategy, losses, *_ = checked_settings(estimator)
        if estimator.augment is not None and strategy.needs_teacher:
            raise ValueError(
                f"method {name!r} has an augment, but here the teacher is asked once, for all methods, "
                "and never about augmented rows. Set augment=None, or fit the methods yourself."
            )
        if strategy.needs_teacher and (estimator.synthesize is not None or estimator.soft_validation):
            raise ValueError(
                f"method {name!r} has synthesize or soft_validation, but here the teacher is asked once, for "
                "all methods, and only about the rows that the students train on with labels. Set "
                "synthesize=None and soft_validation=False, or fit the methods yourself."
            )
        searches = _classifier_plan.searches_first(estimator, strategy)
        if not searches and estimator.process is None:  # do not warn of it for each method and fold
            estimator.set_params(search_epochs=None, search_callbacks=None, weights="mean")
            if estimator.retrain == "continue":  # only possible after a search
                estimator.set_params(retrain="fresh")
        # A regressor standardises by all rows, including those of D_val, and holds D_val out itself.
        holds_out = strategy.learns_from_validation and not searches and not is_regressor(estimator)
        return Method(name, estimator, strategy.needs_teacher, holds_out, not losses.of_outputs.needs_teacher)


class DistProMethods:
    """Methods of a DistPro estimator: values of ``weights`` and ``meta``, or named sets of parameters."""

    estimator_types: ClassVar[tuple[type, ...]] = (DistProClassifier, DistProRegressor)
    named: ClassVar[dict[str, dict[str, Any]]] = {name: {"weights": name} for name in WEIGHTS} | {
        name: {"meta": name} for name in DistProClassifier._strategies
    }
    default: ClassVar[tuple[str, ...]] = ("equal", "process")
    baseline: ClassVar[str] = "equal"
    example: ClassVar[str] = '{"weak": {"weights": "process", "distill_weight": 0.1}}'

    @staticmethod
    def checked(name: str, estimator: Any) -> Method:
        """Check a method's parameters.

        Raises
        ------
        ValueError
            If one cannot be used.
        TypeError
            If the teacher is not a network.
        """
        _distpro_plan.checked_parameters(estimator)
        return Method(name, estimator, needs_teacher=True, holds_out=False)


Kind = type[DistilledMethods] | type[DistProMethods]
_KINDS: tuple[Kind, ...] = (DistilledMethods, DistProMethods)


def checked_settings(estimator: Any) -> _classifier_plan.Settings:
    """Check the parameters of a DistilledClassifier or -Regressor and turn them into objects."""
    storage = LogitStorage() if is_regressor(estimator) else None  # a regressor has no parameters for it
    return _classifier_plan.checked_parameters(estimator, storage=storage)


def refuse_maps(task: Any, who: str) -> None:
    """Raise ValueError for targets that are maps."""
    if not task.map_shape:
        return
    pixels = " × ".join(map(str, task.map_shape))
    metric, settings = "masked_root_mean_squared_error", ", greater_is_better=False"
    if not task.numeric:
        metric = "mean_iou_score"
        settings = "" if task.ignore_index is None else f", ignore_index={task.ignore_index}"
    raise ValueError(
        f"{who} does not take maps, but y has a map of {pixels} pixels for each image. Score each fitted "
        f"model by sklearn_kd.metrics.{metric}, or compare estimators of one random_state by "
        f"sklearn.model_selection.cross_validate(estimator, X, y, cv=KFold(5), "
        f"scoring=make_scorer({metric}{settings}))."
    )


def taken_apart(estimator: Any) -> tuple[Pipeline | None, Any, Kind]:
    """Return the estimator's transformers, a Pipeline or None, its last step, and the kind of that.

    Raises
    ------
    TypeError
        If it does not end in an estimator of this library.
    """
    transformers, classifier = None, estimator
    if isinstance(estimator, Pipeline):
        classifier = estimator.steps[-1][1]
        transformers = estimator[:-1] if len(estimator.steps) > 1 else None
    kind = next((kind for kind in _KINDS if isinstance(classifier, kind.estimator_types)), None)
    if kind is None:
        hint = " Give an instance, not the class." if isinstance(estimator, type) else ""
        raise TypeError(
            "estimator must be a DistilledClassifier, a DistilledRegressor, a DistProClassifier, a "
            f"DistProRegressor, or a Pipeline that ends in one of them; got {estimator!r}.{hint}"
        )
    return transformers, classifier, kind


def checked_methods(classifier: Any, kind: Kind, methods: Any, baseline: str) -> list[Method]:
    """Return the methods with their estimators, clones of ``classifier``.

    Raises
    ------
    TypeError
        If ``methods`` is neither a sequence of names nor a dict of parameters.
    ValueError
        If a name or the baseline is unknown, or a parameter cannot be used.
    """
    given = _as_dict(methods, kind)
    check_baseline(baseline, given)
    checked = []
    for name, params in given.items():
        for param in params:
            if param.partition("__")[0] in _SHARED:
                raise ValueError(
                    f"methods[{name!r}] sets {param!r}, which all methods share. Set it on the estimator."
                )
        checked.append(kind.checked(name, clone(classifier).set_params(**params)))
    return checked


def _as_dict(methods: Any, kind: Kind) -> dict[str, dict[str, Any]]:
    """Return the parameters of each method, by name."""
    if isinstance(methods, dict):
        for name, params in methods.items():
            if not isinstance(name, str) or not isinstance(params, dict):
                raise TypeError(
                    f"methods={{{name!r}: {params!r}}}: a name is mapped to a dict of parameters, "
                    f"such as {kind.example}."
                )
        return methods
    is_sequence = isinstance(methods, Iterable) and not isinstance(methods, str)
    if not is_sequence or not all(isinstance(name, str) for name in methods):
        names = kind.default[-2:]
        raise TypeError(
            f"methods={methods!r} must be a sequence of names, such as {names!r}, or a "
            "dict of names and their parameters."
        )
    for name in methods:
        if name not in kind.named:
            raise ValueError(
                f"methods has {name!r}, which is not known.{did_you_mean(name, kind.named)} Known are "
                f"{list(kind.named)}; for names of your own, give a dict with their parameters."
            )
    if len(set(methods)) < len(methods):
        raise ValueError(f"methods={methods!r} names a method twice. Vary parameters by a dict.")
    return {name: kind.named[name] for name in methods}
