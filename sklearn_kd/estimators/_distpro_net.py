"""Make the nets of a search for pathway weights, and of the retraining along them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import nn

from sklearn_kd.distpro._bound_pathways import BoundPathways
from sklearn_kd.distpro._distances import checked_distance
from sklearn_kd.distpro._importance import (
    PATHWAY_WEIGHTS,
    GivenWeights,
    LearnedWeights,
    importance_factors,
    importance_steps,
)
from sklearn_kd.distpro._normalization import NORMALIZATIONS
from sklearn_kd.estimators._classifier_net import with_score_of_task
from sklearn_kd.estimators._distpro_terms import Columns, TeacherTerm, is_learned
from sklearn_kd.estimators._plan import Stage
from sklearn_kd.estimators._preflight import initial_student
from sklearn_kd.estimators._standardization import scaling_for
from sklearn_kd.losses._feature_objective import FeatureObjective
from sklearn_kd.losses._feature_term import TERM_WEIGHTS
from sklearn_kd.losses._term_weights import ScaledWeights
from sklearn_kd.meta import Strategy
from sklearn_kd.meta._path import MetaparameterPath, MetaparameterSchedule
from sklearn_kd.meta._space import Metaparameter, MetaparameterSpace
from sklearn_kd.runtime._optimizers import optimizer_class
from sklearn_kd.tasks._task import Task
from sklearn_kd.training._net import TrainingNet

if TYPE_CHECKING:
    from sklearn_kd.estimators._distpro_plan import DistProEstimator, DistProPlan


def search_space(term: TeacherTerm, n_pathways: int, task: Task) -> MetaparameterSpace:
    """Return the metaparameters of a search: the raw factors, and those of a learned term."""
    entries = importance_factors(n_pathways)
    if is_learned(term):
        entries |= term.metaparameters(task)
    return MetaparameterSpace(entries)


def initial_path(estimator: DistProEstimator, plan: DistProPlan, strategy: Strategy) -> MetaparameterPath:
    """Return the metaparameters of a search at their start values."""
    space = search_space(plan.term, len(plan.pathways), plan.task)
    start = (plan.term.starts(plan.task) if is_learned(plan.term) else {}) | space.starts
    if strategy.coordinates == "raw":
        space = space.in_raw_coordinates()
    steps = {TERM_WEIGHTS: importance_steps(estimator.importance_lr), "loss": strategy.steps()}
    return MetaparameterPath(space, start, steps, device=estimator._device())


def schedule_of(weights: Any, term: Columns) -> MetaparameterSchedule:
    """Return weights of shape (T, L) and the columns of the teacher's term as a schedule."""
    columns = {PATHWAY_WEIGHTS: weights} | term
    entries = {name: Metaparameter(shape=rows.shape[1:]) for name, rows in columns.items()}
    return MetaparameterSchedule(MetaparameterSpace(entries), columns)


def make_net(
    estimator: DistProEstimator,
    plan: DistProPlan,
    stage: Stage,
    metaparameters: MetaparameterPath | MetaparameterSchedule,
    strategy: Strategy,
    callbacks: Any,
    **changes: Any,
) -> TrainingNet:
    """Make an initialised net with a student and transforms drawn from the stage's seeds."""
    searching, task = stage is plan.search, plan.task
    student = copy.deepcopy(plan.student)
    if searching:
        student = stage_student(estimator, stage, task)
    learned = isinstance(metaparameters, MetaparameterPath)
    normalization = NORMALIZATIONS[estimator.normalization](estimator.softmax_bias)
    weights = LearnedWeights(normalization) if learned else GivenWeights()
    pathways = BoundPathways(
        plan.pathways,
        estimator.transforms,
        checked_distance(estimator.distance),
        ScaledWeights(weights, estimator.distill_weight),
        weights,
    )
    objective = FeatureObjective(
        terms=[pathways], teacher=plan.teacher, output_loss=plan.term.output_loss(task)
    )
    params: dict[str, Any] = {
        "optimizer": optimizer_class(estimator.optimizer),
        "lr": estimator.lr,
        "max_grad_norm": estimator.max_grad_norm,
        "max_epochs": estimator.max_epochs,
        "batch_size": estimator.batch_size,
        "verbose": 0,
    }
    routed = estimator._passed_on("optimizer", "iterator_train", "iterator_valid")
    if not searching:
        routed |= estimator._passed_on("callbacks")
    callbacks, params = with_score_of_task(task, callbacks, params)
    return TrainingNet(
        student,
        objective=objective,
        metaparameters=metaparameters,
        strategy=strategy,
        modules_seed=stage.seeds.strategy,
        execution=plan.execution,
        callbacks=callbacks,
        task=task,
        labels=None if task.numeric else task.output_labels,
        device=str(estimator._device()),
        ranks=plan.ranks,
        **(params | routed | changes),
    ).initialize()


def stage_student(estimator: DistProEstimator, stage: Stage, task: Task) -> nn.Module:
    """Build a student from the seeds of a stage."""
    return initial_student(
        estimator.student,
        estimator._routed("student"),
        stage.data.train.samples,
        task.n_outputs,
        seed=stage.seeds.student,
        make_scaling=scaling_for(estimator, stage.data.train),
        numeric=task.numeric,
        map_shape=task.map_shape,
    )
