"""Plan a fit with pathways: an optional search, and the retraining."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from skorch.history import History
from torch import Tensor, nn

from sklearn_kd.distpro._distances import Distance, checked_distance
from sklearn_kd.distpro._importance import IMPORTANCE
from sklearn_kd.distpro._normalization import checked_threshold
from sklearn_kd.distpro._pathways import Pathway, find_pathways, named_transforms
from sklearn_kd.distpro._process import DistillationProcess, retraining_weights
from sklearn_kd.errors._context import error_context
from sklearn_kd.estimators._augmentation import checked_augmentation
from sklearn_kd.estimators._callback_checks import listed_callbacks
from sklearn_kd.estimators._distpro_net import (
    initial_path,
    make_net,
    schedule_of,
    search_space,
    stage_student,
)
from sklearn_kd.estimators._distpro_terms import TeacherTerm, check_followed
from sklearn_kd.estimators._parallel import check_networks, check_same_inputs, ranks_of
from sklearn_kd.estimators._plan import (
    FitPlan,
    Seeds,
    Stage,
    open_checkpoints,
    stage_data,
    train_to_the_end,
)
from sklearn_kd.estimators._preflight import (
    check_single_rows,
    dry_run,
    named_execution,
    named_strategy,
    refuse_hidden_layers,
)
from sklearn_kd.estimators._routed_parameters import loader_settings
from sklearn_kd.estimators._search import (
    RETRAINING,
    SEARCH,
    drawn_seeds,
    progress_callbacks,
    run_search,
    share_of_a_search_step,
)
from sklearn_kd.estimators._stream_inputs import check_has_val
from sklearn_kd.estimators._unused_parameters import (
    beside_own_cycle,
    beside_process,
    beside_split,
    warn_without_effect,
)
from sklearn_kd.inputs._data import SplitData
from sklearn_kd.inputs._splitting import HoldOut
from sklearn_kd.inputs._validation import ValidatedInputs, check_same_form
from sklearn_kd.meta import Fixed, Strategy
from sklearn_kd.persistence._save_load import warn_not_in_file
from sklearn_kd.runtime._execution import Execution
from sklearn_kd.runtime._optimizers import optimizer_class
from sklearn_kd.runtime._ranks import Ranks
from sklearn_kd.students._standardize import StandardizedStudent, own_student
from sklearn_kd.teachers._features import FeatureTeacher
from sklearn_kd.training._divergence import check_scale
from sklearn_kd.training._net import TrainingNet
from sklearn_kd.training._sklearn_callbacks import FitReport

if TYPE_CHECKING:
    from sklearn_kd.estimators._distpro import DistProClassifier
    from sklearn_kd.estimators._distpro_regressor import DistProRegressor

    DistProEstimator: TypeAlias = DistProClassifier | DistProRegressor

NEEDS_NO_VALIDATION = "a process to follow"

# Parameters that a process records.
_RECORDED = (
    "search_epochs", "validation_fraction", "e1", "e2", "importance_lr", "lr", "batch_size",
    "distill_weight",
)  # fmt: skip

# The loss on D_train changes with the weights of the pathways.
_MONITOR = "valid_loss"


class Settings(NamedTuple):
    """Checked parameters of an estimator, as objects."""

    strategy: Strategy
    distance: Distance
    process: DistillationProcess | None
    threshold: float | None
    teacher: FeatureTeacher
    execution: Execution
    term: TeacherTerm
    ranks: Ranks


class SearchOutcome(NamedTuple):
    """Result of a search: the raw factors by step, the result of the teacher's term, and the history."""

    raw: np.ndarray
    term: Any
    history: History

    @classmethod
    def of(cls, net: TrainingNet, term: TeacherTerm) -> SearchOutcome:
        """Read the result from the present state of a net."""
        table = net.metaparameters.table(before=True)
        return cls(table[IMPORTANCE].astype(np.float32), term.found(table), net.history)


@dataclass(frozen=True, eq=False)
class DistProPlan(FitPlan):
    """One fit of a DistProClassifier or DistProRegressor.

    Attributes
    ----------
    term : TeacherTerm
    pathways : list of Pathway
    process : DistillationProcess or None
        The given process, or the one that the finished search found.
    threshold : float or None
        Raw factor at or below which a pathway is skipped.
    execution : Execution
    n_steps : int
        Number of iterations of the retraining.
    search_history : History or None
        History of the search, once it is over.
    """

    term: TeacherTerm
    pathways: list[Pathway]
    process: DistillationProcess | None
    threshold: float | None
    execution: Execution
    n_steps: int = 0
    search_history: History | None = None

    @property
    def retraining(self) -> Stage:
        """Stage that trains the student to keep."""
        return self.stages[-1]

    @property
    def search(self) -> Stage | None:
        """The search, if there is one."""
        return self.stages[0] if len(self.stages) > 1 else None

    def teacher_signature(self) -> Tensor | None:
        """Return some of the teacher's feature maps, by which a checkpoint recognises it."""
        layers = sorted({pathway.teacher_layer for pathway in self.pathways})
        return self.teacher.signature(self.data.train.samples, layers)


# --------------------------------------------------------------------------------------
# Parameters


def checked_parameters(estimator: DistProEstimator, X: Any = None, X_val: Any = None) -> Settings:
    """Check the parameters and turn them into objects.

    ``X`` and ``X_val`` are those of ``fit``; only their form counts here.
    """
    loaded = check_same_form(X, X_val)
    estimator._validate_params()
    estimator._check_routed(loaded)
    warn_not_in_file(estimator)
    named_transforms(estimator.transforms)
    distance = checked_distance(estimator.distance)
    strategy = search_strategy(estimator)
    execution = _checked_execution(estimator)
    process = estimator.process
    if process is not None and not isinstance(process, DistillationProcess):
        process = DistillationProcess.load(process)
    threshold = checked_threshold(
        estimator.pathway_threshold, (estimator if process is None else process).normalization
    )
    term = estimator._teacher_term()
    term.check()
    check_followed(term, process, estimator.weights)
    teacher = FeatureTeacher(estimator._asked_teacher(), estimator._device())
    return Settings(strategy, distance, process, threshold, teacher, execution, term, ranks_of(estimator))


def _checked_execution(estimator: DistProEstimator) -> Execution:
    """Return the execution; refuse one whose passes hide the layers."""
    execution = named_execution(estimator)
    refuse_hidden_layers(execution)
    return execution


def search_strategy(estimator: DistProEstimator) -> Strategy:
    """Return the strategy that moves the factors in the search; refuse one that moves nothing."""
    strategy = named_strategy(estimator)
    moves = type(strategy).takes_hypergradient is not Strategy.takes_hypergradient
    for name, usual in (("hypergradient_rows", None), ("val_temperature", 1.0)):
        value = getattr(strategy, name)
        if value != usual:
            raise ValueError(
                f"meta__{name}={value!r}: a search takes hypergradients of whole batches, by the "
                f"loss on D_val at T_val = 1. Set meta__{name}={usual!r}."
            )
    if not (moves and strategy.learns_from_validation):
        raise ValueError(
            f"meta={estimator.meta!r} takes no hypergradient: the search would move nothing. Give one of "
            f"{list(estimator._strategies)}, or a Strategy with learns_from_validation=True that overrides "
            "takes_hypergradient and, to save some of them, predict."
        )
    return strategy


# --------------------------------------------------------------------------------------
# The plan


def plan_distpro(estimator: DistProEstimator, settings: Settings, inputs: ValidatedInputs) -> DistProPlan:
    """Check and prepare everything that both trainings need."""
    searches = settings.process is None and estimator.weights != "equal"
    if searches:
        check_has_val(estimator, settings.strategy, inputs)
    warn_without_effect(
        beside_own_cycle(estimator, settings.strategy)
        + beside_process(estimator, settings.process)
        + settings.term.unused(estimator, settings.process)
        + beside_split(inputs, "a retraining without a search", holds_out=searches)
    )
    check_networks(estimator, settings.ranks)
    check_same_inputs(estimator, inputs, settings.ranks)
    teacher, term, task = settings.teacher, settings.term, inputs.task
    term.check_task(task, weighted=inputs.weight is not None)
    drawn = drawn_seeds(estimator.random_state, searches=searches)
    checkpoints = open_checkpoints(estimator, inputs, drawn, ranks=settings.ranks)
    stages = _stages(estimator, inputs, [Seeds(*seeds) for seeds in checkpoints.seeds])
    samples = stages[-1].data.train.samples
    student = _checked_student(estimator, inputs, stages)
    if term.weight:
        term.ask(teacher, samples, inputs)
    pathways = find_pathways(
        teacher,
        student,
        samples,
        teacher_layers=estimator.teacher_layers,
        student_layers=estimator.student_layers,
        connections=estimator.connections,
        transforms=estimator.transforms,
        distance=settings.distance,
        of_maps=bool(task.map_shape),
    )
    if searches:
        with error_context("meta"):
            settings.strategy.check(search_space(term, len(pathways), task))
    process = None if settings.process is None else settings.process.fitted_to(pathways)
    if process is not None:
        term.check_path(process, task)
    n_epochs = estimator.max_epochs + (estimator.search_epochs if searches else 0)
    report = FitReport(estimator, inputs.X_given, inputs.targets(), inputs.sample_weight, n_epochs)
    plan = DistProPlan(
        task,
        stages,
        student,
        settings.strategy,
        teacher,
        report,
        checkpoints,
        settings.ranks,
        term,
        pathways,
        process,
        settings.threshold,
        settings.execution,
    )
    return dataclasses.replace(plan, n_steps=_dry_run(estimator, plan))


def _stages(estimator: DistProEstimator, inputs: ValidatedInputs, seeds: list[Seeds]) -> tuple[Stage, ...]:
    """Return the search, if there are seeds for one, and the retraining on all rows."""
    data, _ = stage_data(estimator, inputs, None, seeds[0])
    retraining_net = partial(_retraining_net, estimator)
    retraining = Stage(RETRAINING, data, seeds[0], retraining_net, train_to_the_end, _MONITOR)
    if len(seeds) == 1:
        return (retraining,)
    hold_out = HoldOut(estimator.validation_fraction, seeds[1].split, NEEDS_NO_VALIDATION)
    data, _ = stage_data(estimator, inputs, hold_out, seeds[1])
    who = "The student that searched the process"
    search_net, train = partial(_search_net, estimator), partial(_search, estimator)
    return Stage(SEARCH, data, seeds[1], search_net, train, _MONITOR, who), retraining


def _checked_student(
    estimator: DistProEstimator, inputs: ValidatedInputs, stages: tuple[Stage, ...]
) -> nn.Module:
    """Check the student of the retraining on the data of all stages, and return it; set ``augmentation``."""
    retraining, task = stages[-1], inputs.task
    samples = retraining.data.train.samples
    student = stage_student(estimator, retraining, task)
    batch_size = loader_settings(estimator, "iterator_train")["batch_size"]
    for train, valid in (stage.data for stage in reversed(stages)):
        check_single_rows(student, samples, valid, batch_size)
        standardized = isinstance(student, StandardizedStudent)
        check_scale(student, SplitData(train, valid), standardized=standardized)
        train.augmentation = checked_augmentation(
            estimator.augment, None, samples, student, task.output_labels, maps_of=(train, task)
        )
    return student


def _dry_run(estimator: DistProEstimator, plan: DistProPlan) -> int:
    """Run the checks that need skorch and torch; return the number of steps of the retraining."""
    callbacks = {
        RETRAINING: listed_callbacks(estimator.callbacks),
        SEARCH: listed_callbacks(estimator.search_callbacks, "search_callbacks"),
    }
    max_epochs = {RETRAINING: estimator.max_epochs, SEARCH: estimator.search_epochs}
    n_batches = {}
    for stage in reversed(plan.stages):
        net = make_net(
            estimator,
            plan,
            stage,
            initial_path(estimator, plan, Fixed()),
            Fixed(),
            copy.deepcopy(callbacks[stage.name]),
            max_epochs=max_epochs[stage.name],
        )
        params = estimator._routed("callbacks") if stage is plan.retraining else None
        n_batches[stage.name] = dry_run(net, stage.data, "the retraining", params)
        if stage is plan.retraining:  # it has the rows of both stages
            plan.term.warn_of_answers(net, stage.data.train, plan.teacher)
    return n_batches[RETRAINING] * estimator.max_epochs


# --------------------------------------------------------------------------------------
# The search


def _search_net(estimator: DistProEstimator, plan: DistProPlan) -> TrainingNet:
    """Make the net of the search."""
    assert plan.search is not None
    later = estimator.max_epochs * share_of_a_search_step(plan.strategy) / (1 - estimator.validation_fraction)
    callbacks = [
        *listed_callbacks(estimator.search_callbacks, "search_callbacks"),
        *progress_callbacks(estimator.verbose, SEARCH, estimator.search_epochs, later),
    ]
    callbacks += plan.report.epochs(lambda net: estimator._fitted_attributes(net, plan), "search epoch")
    return make_net(
        estimator,
        plan,
        plan.search,
        initial_path(estimator, plan, plan.strategy),
        plan.strategy,
        callbacks,
        max_epochs=estimator.search_epochs,
    )


def _search(estimator: DistProEstimator, plan: DistProPlan, stage: Stage) -> tuple[DistProPlan, TrainingNet]:
    """Search a process, or take it from a checkpoint; return the plan with it, and the net."""
    net: Any
    found, net = run_search(
        plan,
        stage,
        SearchOutcome,
        lambda net: SearchOutcome.of(net, plan.term),
        check=lambda found: make_process(estimator, found, plan),
    )
    process = make_process(estimator, found, plan)
    return dataclasses.replace(plan, process=process, search_history=found.history), net


def make_process(estimator: DistProEstimator, found: SearchOutcome, plan: DistProPlan) -> DistillationProcess:
    """Make a process from the result of a search."""
    settings = (
        {name: getattr(estimator, name) for name in _RECORDED}
        | plan.term.settings()
        | {
            "distance": estimator.distance
            if isinstance(estimator.distance, str)
            else repr(estimator.distance),
            "meta": repr(plan.strategy),
            "optimizer": optimizer_class(estimator.optimizer).__name__,
            "teacher": type(plan.teacher.network).__name__,
            "student": type(own_student(plan.student)).__name__,
        }
    )
    return DistillationProcess(
        found.raw,
        plan.pathways,
        normalization=estimator.normalization,
        softmax_bias=estimator.softmax_bias,
        settings=settings,
        **plan.term.for_process(found.term, plan.task),
    )


def fitted_attributes(estimator: DistProEstimator, net: TrainingNet, plan: DistProPlan) -> dict[str, Any]:
    """Return the fitted attributes of a fit that ends with this net."""
    process = plan.process
    if process is None and plan.search is not None:  # while the search runs
        process = make_process(estimator, SearchOutcome.of(net, plan.term), plan)
    return {
        "net_": net,
        "process_": process,
        "pathways_": plan.pathways,
        "search_history_": plan.search_history,
        "teacher_": estimator._asked_teacher() if estimator.keep_teacher else None,
        "n_iter_": net.metaparameters.iteration,
    }


# --------------------------------------------------------------------------------------
# The retraining


def _retraining_net(estimator: DistProEstimator, plan: DistProPlan) -> TrainingNet:
    """Make the net that follows a given or found process."""
    process, weights = plan.process, estimator.weights
    schedule = retraining_weights(process, plan.n_steps, weights, plan.threshold, len(plan.pathways))
    term = {} if process is None else plan.term.schedule(process, plan.n_steps, weights)
    scheduled = schedule_of(schedule, term)
    callbacks = [
        *listed_callbacks(estimator.callbacks),
        *progress_callbacks(estimator.verbose, RETRAINING, estimator.max_epochs),
    ]
    callbacks += plan.report.epochs(lambda net: estimator._fitted_attributes(net, plan))
    return make_net(estimator, plan, plan.retraining, scheduled, Fixed(), callbacks)
