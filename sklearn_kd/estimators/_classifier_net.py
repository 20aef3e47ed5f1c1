"""Make the nets of a DistilledClassifier: that of the training, and those of trials."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor, nn

from sklearn_kd.checkpointing._fingerprint import fingerprint, relevant_parameters
from sklearn_kd.checkpointing._trial_cache import TrialCache
from sklearn_kd.errors._context import error_context
from sklearn_kd.estimators._callback_checks import listed_callbacks
from sklearn_kd.estimators._feature_terms import FeatureTerms, check_names
from sklearn_kd.estimators._named_objects import named_object
from sklearn_kd.estimators._named_terms import FEATURE_TERMS
from sklearn_kd.estimators._plan import FitPlan, Stage
from sklearn_kd.estimators._search import (
    RETRAINING,
    SEARCH,
    count_epochs,
    progress_callbacks,
    share_of_a_search_step,
)
from sklearn_kd.estimators._several_labels import output_params
from sklearn_kd.losses._distillation_loss import DistillationLoss
from sklearn_kd.losses._feature_objective import FeatureObjective
from sklearn_kd.losses._feature_term import FeatureTerm
from sklearn_kd.losses._labels_alone import LabelLoss
from sklearn_kd.losses._loss_list import (
    ListedLosses,
    entries_of,
    is_listed,
    listed_losses,
    params_of_names,
    with_entry_params,
)
from sklearn_kd.losses._named import LOSSES
from sklearn_kd.losses._objective import LogitObjective
from sklearn_kd.losses._output_loss import LearnedOutputLoss
from sklearn_kd.losses._regression import RegressionLoss
from sklearn_kd.meta import Fixed, Metaparameter, Shortlist, StartContext, Strategy
from sklearn_kd.meta._path import MetaparameterPath, path_dtype
from sklearn_kd.meta._process import MetaparameterProcess
from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.runtime._execution import Execution
from sklearn_kd.runtime._optimizers import optimizer_class
from sklearn_kd.runtime._ranks import ALONE, Ranks
from sklearn_kd.tasks._task import MapTask, Task
from sklearn_kd.training._label_scorers import r2_scoring
from sklearn_kd.training._net import TrainingNet
from sklearn_kd.training._pixel_scoring import PixelScoring
from sklearn_kd.training._trials import Trials
from sklearn_kd.training._weight_average import LONG, Averaging, load_same_modules

if TYPE_CHECKING:
    from sklearn_kd.estimators._classifier import DistilledClassifier
    from sklearn_kd.estimators._classifier_search import SearchRecord


class NetSettings(NamedTuple):
    """Everything that the nets of one fit share.

    Attributes
    ----------
    task : Task
    loss : DistillationLoss
    space : MetaparameterSpace
        The metaparameters of the loss and of the feature terms.
    execution : Execution
    batch_size : int
    features : FeatureTerms or None
        Feature terms. None: there are none, or the strategy needs no teacher.
    ranks : Ranks
    """

    task: Task
    loss: DistillationLoss
    space: MetaparameterSpace
    execution: Execution
    batch_size: int
    features: FeatureTerms | None = None
    ranks: Ranks = ALONE


@dataclass(frozen=True, eq=False)
class DistillationPlan(FitPlan):
    """One fit of a DistilledClassifier.

    Attributes
    ----------
    net_settings : NetSettings
    search_student : nn.Module or None
        Copied by the nets of the search; None without a search.
    process : MetaparameterProcess or None
        What the retraining follows: the given process, or the one that the finished search found.
    searched : SearchRecord or None
        Result of the search, once it is over.
    n_steps : int
        Number of iterations of the retraining.
    """

    net_settings: NetSettings
    search_student: nn.Module | None = None
    process: MetaparameterProcess | None = None
    searched: SearchRecord | None = None
    n_steps: int = 0

    @property
    def search(self) -> Stage | None:
        """The search, if there is one."""
        return self.stages[0] if self.stages[0].name == SEARCH else None

    def teacher_signature(self) -> Tensor | None:
        """Return some of the teacher's logits, and of its features if terms compare them."""
        of_logits, features = super().teacher_signature(), self.net_settings.features
        if features is None:
            return of_logits
        of_features = features.signature(self.data.train.samples)
        return (
            of_features
            if of_logits is None
            else torch.cat([of_logits.flatten().to(of_features), of_features])
        )


# Parameters of the estimator that give these metaparameters their start value, if they have none.
ESTIMATOR_STARTS = ("lambda1", "temperature")


def losses_of(estimator: DistilledClassifier) -> ListedLosses:
    """Return the loss of the outputs and the feature terms that ``loss`` names, lists or is."""
    if is_listed(estimator.loss):
        found = _listed_losses(estimator)
        _check_kind(estimator, found.of_outputs)
        return found
    loss: Any = estimator.loss
    if isinstance(loss, FeatureTerm) or (isinstance(loss, str) and loss in FEATURE_TERMS):
        raise TypeError(
            f"loss={loss!r} is a feature term. Give a list, with or without a loss of the outputs: "
            f"loss=[{next(iter(estimator._losses))!r}, {loss!r}]."
        )
    return ListedLosses(_single_loss(estimator), estimator.loss, {})


def _listed_losses(estimator: DistilledClassifier) -> ListedLosses:
    """Return the losses of a list, with the parameters kept for those given by name."""
    losses, kept = estimator.loss, estimator._routed("loss")
    if kept:
        makers = {**estimator._losses, **FEATURE_TERMS}
        losses = with_entry_params(losses, params_of_names(losses, kept), makers)
    found = listed_losses(losses, estimator._losses, FEATURE_TERMS, partial(_loss_of_labels, estimator))
    # For a loss given by name, the library chooses the form for several labels.
    names = (item for _, item in entries_of(estimator.loss) if isinstance(item, str))
    return found._replace(given=next((name for name in names if name in estimator._losses), found.given))


def loss_of(estimator: DistilledClassifier) -> DistillationLoss:
    """Return the loss of the outputs that ``loss`` names, lists or is."""
    return losses_of(estimator).of_outputs


def _loss_of_labels(estimator: DistilledClassifier) -> DistillationLoss:
    """Return the loss that accompanies feature terms if no loss of the outputs is given."""
    if estimator._losses is LOSSES:
        return LabelLoss()
    raise ValueError(
        f"loss={estimator.loss!r} has no loss of the outputs. Add one of {list(estimator._losses)}."
    )


def _single_loss(estimator: DistilledClassifier) -> DistillationLoss:
    makers = estimator._losses
    kind = DistillationLoss.__name__ if makers is LOSSES else RegressionLoss.__name__
    otherwise = f"a sklearn_kd.losses.{kind} of your own, as the guide's page on losses shows"
    loss: DistillationLoss = named_object(
        "loss", estimator.loss, makers, estimator._routed("loss"), otherwise
    )
    _check_kind(estimator, loss)
    return loss


def _check_kind(estimator: DistilledClassifier, loss: DistillationLoss) -> None:
    """Refuse a classification loss for a regressor, and the other way round."""
    makers = estimator._losses
    if isinstance(loss, RegressionLoss) != (makers is not LOSSES):
        wanted = "a DistillationLoss of classes" if makers is LOSSES else "a RegressionLoss"
        raise TypeError(
            f"loss={loss!r} is not for {type(estimator).__name__}. Give one of {list(makers)}, or {wanted} "
            "of your own."
        )


def loss_space(
    loss: DistillationLoss, n_outputs: int, features: FeatureTerms | None = None
) -> MetaparameterSpace:
    """Return the metaparameters of the feature terms, then those of the loss; errors name the loss."""
    with error_context("loss"):
        own = loss.metaparameters(n_outputs)
        if features is None:
            return MetaparameterSpace(own)
        check_names(features, own)
        return MetaparameterSpace(features.metaparameters | own)


def start_of(
    estimator: DistilledClassifier, space: MetaparameterSpace, strategy: Strategy, rng: np.random.Generator
) -> dict[str, Any]:
    """Return the start values of the metaparameters: given, drawn, or those at the end of a continued fit.

    Raises
    ------
    ValueError
        If a value is missing or outside its bounds, or the last fit had other metaparameters.
    """
    if estimator._continues():
        _check_same_metaparameters(estimator, space)
        if strategy.trains_population or strategy.takes_hypergradient(0):
            return space.completed({}, estimator.metaparameters_)
    start = {name: _one_start(estimator, name, entry, rng) for name, entry in space.items()}
    if isinstance(strategy, Shortlist):  # its candidates are within any bounds
        start |= {name: np.clip(start[name], *space[name].bounds) for name in space if strategy.sets(name)}
    loss = loss_of(estimator)
    widened = {name: f"loss__{name}_bounds" for name in space if hasattr(loss, f"{name}_bounds")}
    space.check_within_bounds(start, widened)
    return space.shaped(start)


def _one_start(
    estimator: DistilledClassifier, name: str, entry: Metaparameter, rng: np.random.Generator
) -> Any:
    """Return the start value of a metaparameter: its own, the estimator's, or a draw within its bounds."""
    starts = [own for own in ESTIMATOR_STARTS if hasattr(estimator, own)]
    if entry.start is None and name not in starts:
        raise ValueError(
            f"Metaparameter {name!r} of the loss has no start value, and {type(estimator).__name__} has "
            f"start values only for {starts}. Give it one: Metaparameter(start, ...)."
        )
    start = getattr(estimator, name) if entry.start is None else entry.start
    if not isinstance(start, str):
        return start
    (low, high), size = entry.range_to_draw_from(name), entry.shape or None
    if entry.coordinate == "log":
        return np.exp(rng.uniform(math.log(low), math.log(high), size=size))
    return rng.uniform(low, high, size=size)


def _check_same_metaparameters(estimator: DistilledClassifier, space: MetaparameterSpace) -> None:
    """Raise ValueError if the path of the last fit cannot continue with these metaparameters."""
    before, now = estimator.metaparameter_path_.dtype, path_dtype(space)
    if before != now:
        raise ValueError(
            f"warm_start=True continues the path of the last fit, which has the columns "
            f"{list(before.names or ())}; loss={estimator.loss!r} has metaparameters of other names or "
            f"shapes: { {name: entry.shape for name, entry in space.items()} }. Give the loss of the last "
            "fit, or set warm_start=False."
        )


def net_to_train(estimator: DistilledClassifier, plan: DistillationPlan) -> TrainingNet:
    """Return the net to train, with its metaparameters at the strategy's start values."""
    stage = plan.stages[0]
    rng = np.random.default_rng(stage.seeds.strategy)
    space = plan.net_settings.space
    start = start_of(estimator, space, plan.strategy, rng)
    make_trial, cache = partial(_trial_net, estimator, plan), TrialCache(plan.checkpoints)
    trials = Trials(make_trial, space, start, stage.data, stage.seeds.training, cache)
    signature = partial(_signature_of_trials, estimator, plan, start)
    context = StartContext(start, space, rng, trials.losses, estimator.verbose, signature, plan.ranks)
    chosen = plan.strategy.start(context)
    with error_context(f"{type(plan.strategy).__name__}.start"):
        start = space.completed(start, chosen)
    callbacks = [*own_callbacks(estimator, stage.name), *_epoch_callbacks(estimator, plan)]
    student = copy.deepcopy(plan.student if plan.search_student is None else plan.search_student)
    changes = changes_for(estimator, stage)
    net = make_net(estimator, plan.net_settings, student, plan.strategy, start, callbacks, **changes)
    best = trials.best
    if best is not None and best.setting == space.join(start).tolist():  # else the strategy went by its own
        net.ending_ = best.ending
    return net


def _signature_of_trials(
    estimator: DistilledClassifier, plan: DistillationPlan, start: dict[str, Any]
) -> str:
    """Hash what the losses of trials depend on, apart from their settings; of X, the first rows."""
    stage = plan.stages[0]
    parameters = relevant_parameters(estimator)
    del parameters["meta"]
    return fingerprint(
        estimator=type(estimator),
        parameters=parameters,
        val_temperature=plan.strategy.val_temperature,
        start=start,
        seeds=stage.seeds,
        rows=[(part.samples, part.y, part.weight) for part in stage.data if part is not None],
        teacher=plan.teacher_signature(),
    )


def _epoch_callbacks(estimator: DistilledClassifier, plan: DistillationPlan) -> list[Any]:
    """Return the library's own callbacks for the first stage of a plan."""

    def fitted(net: TrainingNet) -> dict[str, Any]:
        return estimator._fitted_attributes(net, plan)

    if plan.search is None:
        return plan.report.epochs(fitted)
    n_epochs = search_epochs_of(estimator)
    n_train, n_all = (len(stage.data.train) for stage in plan.stages)
    later = estimator.max_epochs * share_of_a_search_step(plan.strategy) * n_all / n_train
    progress = progress_callbacks(estimator.verbose, SEARCH, n_epochs, later)
    return [*progress, *plan.report.epochs(fitted, "search epoch")]


def own_callbacks(estimator: DistilledClassifier, stage: str) -> list[Any]:
    """Return the callbacks that the user gave for a stage."""
    if stage == SEARCH:
        return listed_callbacks(estimator.search_callbacks, "search_callbacks")
    return listed_callbacks(estimator.callbacks)


def search_epochs_of(estimator: DistilledClassifier) -> int:
    """Return the number of epochs of the search, for an estimator that has one."""
    assert estimator.search_epochs is not None
    return count_epochs(estimator.search_epochs, estimator.max_epochs)


def changes_for(estimator: DistilledClassifier, stage: Stage, *, of_trial: bool = False) -> dict[str, Any]:
    """Return the net settings in which a stage, or a trial in it, differs from a plain training."""
    averages = ("average", "auto") if stage.name == SEARCH else ("average",)
    averaging = Averaging(LONG, is_result=not of_trial and stage.name != SEARCH)
    changes: dict[str, Any] = {
        "averaging": averaging if estimator.retrain in averages else None,
        "modules_seed": stage.seeds.strategy,
        "goes_on": stage.name != SEARCH and estimator._continues(),
    }
    if stage.name == SEARCH:
        epochs = search_epochs_of(estimator)
        return changes | {"max_epochs": epochs, "verbose": 0, "routes_callbacks": False}
    return changes | ({"verbose": 0} if of_trial or stage.name == RETRAINING else {})


def _trial_net(estimator: DistilledClassifier, plan: DistillationPlan, values: dict[str, Any]) -> TrainingNet:
    """Return the net of a trial; only its final L_val will be kept."""
    stage = plan.stages[0]
    changes = changes_for(estimator, stage, of_trial=True)
    given = own_callbacks(estimator, stage.name)
    if not given and (stage.name == SEARCH or not estimator._routed("callbacks")):
        changes["callbacks__valid_acc"] = None  # nobody reads it
    callbacks = clone(given, safe=False)
    fixed = Fixed(val_temperature=plan.strategy.val_temperature)
    student = copy.deepcopy(plan.student if plan.search_student is None else plan.search_student)
    return make_net(estimator, plan.net_settings, student, fixed, values, callbacks, **changes)


def with_score_of_task(
    task: Task, callbacks: Sequence[Any], changes: dict[str, Any]
) -> tuple[Sequence[Any], dict[str, Any]]:
    """Return callbacks and settings of a net with the task's score in its history.

    ``changes`` may switch skorch's ``valid_acc`` off, and with it any score.
    """
    if not task.numeric and not task.map_shape:
        return callbacks, changes
    scored: list[Any] = []
    if "callbacks__valid_acc" not in changes:
        scored = [("pixel_score", PixelScoring(cast(MapTask, task)))] if task.map_shape else [r2_scoring()]
    return [*scored, *callbacks], changes | {"callbacks__valid_acc": None}


def _objective(
    loss: DistillationLoss, task: Task, features: FeatureTerms | None
) -> LogitObjective | FeatureObjective:
    """Return the objective of a loss of the outputs, with or without feature terms."""
    # A teacher that is asked about each batch returns outputs with features even if no term is left.
    if features is None or not (features.bound or features.teacher.gives_outputs):
        return LogitObjective(loss)
    output_loss = LearnedOutputLoss(loss, list(loss.metaparameters(task.n_outputs)))
    return FeatureObjective(
        terms=list(features.bound.values()), teacher=features.teacher, output_loss=output_loss
    )


def make_net(
    estimator: DistilledClassifier,
    settings: NetSettings,
    student: nn.Module,
    strategy: Strategy,
    start: dict[str, Any],
    callbacks: Any,
    routes_callbacks: bool = True,
    goes_on: bool = False,
    **changes: Any,
) -> TrainingNet:
    """Make an initialised net around ``student``, which it trains in place.

    ``routes_callbacks``: whether the net gets the estimator's ``callbacks__*`` parameters. ``goes_on``:
    whether feature terms continue from what they learned in the last fit.
    """
    device, (task, loss, space, execution, batch_size, features, ranks) = estimator._device(), settings
    if strategy.coordinates == "raw":
        space = space.in_raw_coordinates()
    steps = {group: strategy.steps() for group in space.groups}
    if features is not None:
        steps |= features.steps()
    routed = estimator._passed_on("optimizer", "iterator_train", "iterator_valid")
    routed |= estimator._passed_on("callbacks") if routes_callbacks else {}
    params: dict[str, Any] = {
        "optimizer": optimizer_class(estimator.optimizer),
        "lr": estimator.lr,
        "max_grad_norm": estimator.max_grad_norm,
        "max_epochs": estimator.max_epochs,
        "batch_size": batch_size,
        "verbose": estimator.verbose,
    }
    callbacks, changes = with_score_of_task(task, callbacks, changes)
    net = TrainingNet(
        student,
        objective=_objective(loss, task, features),
        metaparameters=MetaparameterPath(space, start, steps, device=device),
        strategy=strategy,
        val_temperature=strategy.val_temperature,
        execution=execution,
        callbacks=callbacks,
        task=task,
        labels=None if task.numeric else task.output_labels,
        device=str(device),
        ranks=ranks,
        **(params | output_params(task) | routed | changes),
    ).initialize()
    if goes_on and isinstance(estimator.net_, TrainingNet):  # a net from a file has no terms
        load_same_modules(net.others, estimator.net_.others)
    return net
