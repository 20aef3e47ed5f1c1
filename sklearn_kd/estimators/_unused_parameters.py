"""Warn of parameters that have no effect because of others, and say what counts instead.

Parameters that keep their default are ignored. So are those that a search over ``meta`` may leave unused,
such as ``e1`` with ``meta="fixed"``: they mislead nobody.
"""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sklearn_kd.losses import LOSSES, DistillationLoss, LogitDistillation, RegressionLoss
from sklearn_kd.meta import Hyperopt, MetaparameterSpace, Naive, Optuna, Random, Shortlist, Strategy
from sklearn_kd.meta._shortlist import CANDIDATES

if TYPE_CHECKING:
    from sklearn_kd.distpro._process import DistillationProcess
    from sklearn_kd.inputs._validation import ValidatedInputs

_STARTS = ("lambda1", "temperature")
_CYCLE = ("e1", "e2")
_DEFAULT_BOUNDS = LogitDistillation().temperature_bounds


def warn_without_effect(reasons: list[str]) -> None:
    """Put all reasons, if there are any, into one warning."""
    if reasons:
        warnings.warn(f"Without effect: {'; '.join(reasons)}.", UserWarning, stacklevel=2)


def beside_strategy(
    estimator: Any, strategy: Strategy, loss: DistillationLoss, space: MetaparameterSpace
) -> list[str]:
    """List changed parameters of a DistilledClassifier that its strategy or its loss does not use."""
    reasons = beside_own_cycle(estimator, strategy) + beside_optimizer_lr(estimator)
    if type(strategy) is Naive:
        reasons += [
            f"{name}={getattr(estimator, name)!r} with meta={estimator.meta!r}, which is lambda1=0.5 and "
            "T=1 (set meta='fixed')"
            for name in _STARTS
            if _is_changed(estimator, name) and getattr(estimator, name) != "random"
        ]
    if isinstance(strategy, Shortlist):
        of_library = isinstance(loss, RegressionLoss) or type(loss) in LOSSES.values()
        reasons += beside_shortlist(estimator, strategy, space, fixed=of_library)
    draws = "temperature" in space and space["temperature"].start is None  # otherwise from its own bounds
    bounds = getattr(loss, "temperature_bounds", _DEFAULT_BOUNDS) if draws else _DEFAULT_BOUNDS
    if isinstance(strategy, (Random, Hyperopt, Optuna)) and tuple(bounds) != _DEFAULT_BOUNDS:
        low, high = (10**end for end in strategy.log10_temperature)
        if not all(map(math.isclose, bounds, (low, high))):
            wanted = ", ".join(f"{math.log10(bound):.3g}" for bound in bounds)
            reasons.append(
                f"temperature_bounds={bounds!r} of the loss with meta={estimator.meta!r}, which draws T "
                f"from {low:.3g} to {high:.3g} (set "
                f"meta={type(strategy).__name__}(log10_temperature=({wanted})))"
            )
    if estimator.retrain == "average" and estimator.search_epochs is None and strategy.trains_population:
        reasons.append(
            f"retrain='average' with meta={estimator.meta!r} in a single run, which replaces students during "
            "the training (set search_epochs)"
        )
    return reasons + beside_default_loss(estimator, loss) + beside_loss(estimator, loss, space)


def beside_shortlist(
    estimator: Any, strategy: Shortlist, space: MetaparameterSpace, *, fixed: bool = False
) -> list[str]:
    """List changed parameters of an estimator, and metaparameters of its loss, that have no effect.

    ``fixed``: whether metaparameters that no candidate sets may stay as given.
    """
    reasons = [
        f"{name}={getattr(estimator, name)!r} with meta={estimator.meta!r}, whose candidates have "
        "their own (set meta='fixed', or give it candidates)"
        for name in _STARTS
        if _is_changed(estimator, name) and strategy.sets(name)
    ]
    if estimator.search_epochs is not None and _is_changed(estimator, "weights"):
        reasons.append(
            f"weights={estimator.weights!r} with meta={estimator.meta!r}, whose setting does not change "
            "(set meta='linear', which learns a path)"
        )
    if isinstance(estimator.meta, str):  # the default: a user who sets these may have meant another
        own = strategy.get_params(deep=False)
        given = {name: getattr(estimator, name) for name in _CYCLE if _is_changed(estimator, name)}
        given |= {f"meta__{name}": v for name, v in estimator._routed("meta").items() if name not in own}
        reasons += [
            f"{name}={value!r} with meta={estimator.meta!r}, which takes no steps (set meta='linear')"
            for name, value in given.items()
        ]
    others = [name for name in space if name not in CANDIDATES[0]]
    if (
        strategy.candidates is None and others and not fixed and len(space) > len(others)
    ):  # otherwise it refuses the loss
        reasons.append(
            f"meta={estimator.meta!r} on the metaparameters {others} of the loss, which keep their start "
            "values (set meta='linear', which learns them, or give it candidates)"
        )
    return reasons


def beside_loss(estimator: Any, loss: DistillationLoss, space: MetaparameterSpace) -> list[str]:
    """List lambda1 and temperature if they are changed but the loss does not start at them."""
    return [
        f"{name}={getattr(estimator, name)!r} with loss={loss!r}, whose metaparameters "
        f"{'start elsewhere' if name in space else f'are {list(space)}'} (give the loss its own start)"
        for name in _STARTS
        if _is_changed(estimator, name) and (name not in space or space[name].start is not None)
    ]


def beside_default_loss(estimator: Any, loss: DistillationLoss) -> list[str]:
    """List ``loss__*`` that only other losses take, if the loss is the default: another may be meant."""
    if _is_changed(estimator, "loss"):
        return []
    own = loss.get_params(deep=False)
    return [
        f"loss__{name}={value!r} with loss={estimator.loss!r}, which does not take it (set loss to one of "
        f"{[kind for kind, make in estimator._losses.items() if name in make().get_params(deep=False)]})"
        for name, value in estimator._routed("loss").items()
        if name not in own
    ]


def beside_own_cycle(estimator: Any, strategy: Strategy) -> list[str]:
    """List e1 and e2 if ``meta`` is an object with its own."""
    if not isinstance(estimator.meta, Strategy):
        return []
    own = {name: getattr(strategy, name) for name in _CYCLE if hasattr(strategy, name)}
    return [
        f"{name}={getattr(estimator, name)!r} with meta={strategy!r}, whose own {name}={counts!r} counts "
        f"(set meta__{name}={getattr(estimator, name)!r})"
        for name, counts in own.items()
        if _is_changed(estimator, name) and getattr(estimator, name) != counts
    ]


def beside_optimizer_lr(estimator: Any) -> list[str]:
    """List lr if the optimizer is given its own."""
    own = estimator.get_params(deep=False).get("optimizer__lr")
    if own is None or not _is_changed(estimator, "lr") or own == estimator.lr:
        return []
    return [f"lr={estimator.lr!r} with optimizer__lr={own!r}, which counts (give one of them)"]


def beside_process(estimator: Any, process: DistillationProcess | None) -> list[str]:
    """List changed parameters of an estimator with pathways that a given process overrides."""
    reasons = beside_optimizer_lr(estimator)
    if process is not None:
        reasons += [
            f"{name}={getattr(estimator, name)!r} with a given process, whose own {name}="
            f"{getattr(process, name)!r} counts (leave it out, or search with it: process=None)"
            for name in ("normalization", "softmax_bias")
            if _is_changed(estimator, name) and getattr(estimator, name) != getattr(process, name)
        ]
    elif _is_changed(estimator, "softmax_bias") and estimator.normalization != "biased_softmax":
        reasons.append(
            f"softmax_bias={estimator.softmax_bias!r} with normalization={estimator.normalization!r}, "
            "which has no bias (set normalization='biased_softmax')"
        )
    return reasons


def beside_logit_term(estimator: Any, process: DistillationProcess | None) -> list[str]:
    """List changed parameters of a DistProClassifier that its logit_weight leaves unused."""
    reasons, weight = [], estimator.logit_weight
    if _is_changed(estimator, "temperature") and weight == 0:
        reasons.append(
            f"temperature={estimator.temperature!r} with logit_weight={weight!r}, which does not distil the "
            "teacher's logits (set logit_weight)"
        )
    return reasons + _beside_fixed_term(estimator, process, "logit_weight", "lambda1 and T are not")


def beside_output_term(
    estimator: Any, process: DistillationProcess | None, loss: DistillationLoss
) -> list[str]:
    """List parameters of a DistProRegressor that its output_weight or its loss leaves unused."""
    weight = estimator.output_weight
    reasons = beside_default_loss(estimator, loss)
    if weight == 0:
        reasons += [
            f"loss__{name}={value!r} with output_weight={weight!r}, which does not distil the teacher's "
            "predictions (set output_weight)"
            for name, value in estimator._routed("loss").items()
            if name == "teacher_bound" and value is not None
        ]
    if not isinstance(weight, str):
        reasons += [
            f"loss__per_output={value!r} with output_weight={weight!r}, which learns no lambda1 "
            "(set output_weight='learned')"
            for name, value in estimator._routed("loss").items()
            if name == "per_output" and value
        ]
    return reasons + _beside_fixed_term(estimator, process, "output_weight", "nothing of the loss is")


def _beside_fixed_term(
    estimator: Any, process: DistillationProcess | None, name: str, unlearned: str
) -> list[str]:
    """List meta__lr if the search learns only the factors."""
    lr, weight = estimator.get_params(deep=False).get("meta__lr"), getattr(estimator, name)
    if process is not None or lr is None or isinstance(weight, str):
        return []
    return [
        f"meta__lr={lr!r} with {name}={weight!r}: {unlearned} learned (the rate of the "
        "factors is importance_lr)"
    ]


def beside_search(estimator: Any, *, searches: bool) -> list[str]:
    """List changed parameters of a DistilledClassifier without effect for want of a search, or by a process.

    A parameter set to None is ignored: it asks for nothing.
    """
    given = estimator.process is not None
    beside = "a given process, which is followed without a search (leave one of them out)"
    untaught = f"meta={estimator.meta!r}, which learns nothing from D_val"
    reasons = []
    if not searches and _is_set(estimator, "search_epochs"):
        reasons.append(f"search_epochs={estimator.search_epochs!r} with {beside if given else untaught}")
    if not searches and not given and _is_set(estimator, "weights"):
        single = estimator.search_epochs is None
        why = "without a process to follow (set search_epochs)" if single else f"with {untaught}"
        reasons.append(f"weights={estimator.weights!r} {why}")
    if not searches and estimator.retrain == "continue":
        reasons.append("retrain='continue' without a search whose student could continue (set search_epochs)")
    if not searches and _is_set(estimator, "search_callbacks"):
        reasons.append("search_callbacks without a search (give them as callbacks)")
    if given:
        reasons += [
            f"{name}={getattr(estimator, name)!r} with a given process, whose values count (leave it out)"
            for name in ("meta", *_STARTS)
            if _is_changed(estimator, name)
        ]
    return reasons


def _is_set(estimator: Any, name: str) -> bool:
    """Return whether a parameter is neither at its default nor None."""
    return getattr(estimator, name) is not None and _is_changed(estimator, name)


def beside_split(inputs: ValidatedInputs, what: str, *, holds_out: bool) -> list[str]:
    """List ``groups`` if the fit draws no D_val from X; ``what`` names the reason in the message."""
    if inputs.groups is None or (holds_out and inputs.valid is None):
        return []
    if inputs.valid is not None:
        return ["groups with X_val, which is D_val (leave one of them out)"]
    return [f"groups with {what}, which trains on all rows and holds none out (leave groups out)"]


def _is_changed(estimator: Any, name: str) -> bool:
    """Return whether a parameter is not at its default."""
    parameters = _parameters_of(estimator.__class__)
    return name in parameters and getattr(estimator, name) != parameters[name].default


@functools.cache
def _parameters_of(estimator_class: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(estimator_class).parameters
