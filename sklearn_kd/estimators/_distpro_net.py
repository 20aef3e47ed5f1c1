"""The nets of a DistProClassifier's search and retraining."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from sklearn_kd.distpro._distances import checked_distance
from sklearn_kd.distpro._importance import (
    IMPORTANCE,
    PATHWAY_WEIGHTS,
    GivenWeights,
    LearnedWeights,
    importance_factors,
    importance_steps,
)
from sklearn_kd.distpro._normalization import NORMALIZATIONS
from sklearn_kd.distpro._objective import PathwayObjective
from sklearn_kd.estimators._plan import Stage
from sklearn_kd.estimators._preflight import initial_student
from sklearn_kd.estimators._standardization import scaling_for
from sklearn_kd.losses._logit_distillation import LogitDistillation
from sklearn_kd.meta import Strategy
from sklearn_kd.meta._path import MetaparameterPath, MetaparameterSchedule
from sklearn_kd.meta._space import Metaparameter, MetaparameterSpace
from sklearn_kd.runtime._optimizers import optimizer_class
from sklearn_kd.training._net import TrainingNet

if TYPE_CHECKING:
    from sklearn_kd.estimators._distpro import DistProClassifier
    from sklearn_kd.estimators._distpro_plan import DistProPlan

# Of a learned logit term, as DistilledClassifier has them.
INITIAL_LAMBDA1 = 0.5
TEMPERATURE_BOUNDS = (1.0, 10.0)


def learns_logit_term(estimator: DistProClassifier) -> bool:
    """Return whether lambda1 and T are learned with the pathways."""
    return isinstance(estimator.logit_weight, str)


def search_space(estimator: DistProClassifier, n_pathways: int, n_outputs: int) -> MetaparameterSpace:
    """Return the metaparameters of a search: raw factors, and lambda1 and T where they are learned."""
    entries = importance_factors(n_pathways)
    if learns_logit_term(estimator):
        entries |= LogitDistillation(TEMPERATURE_BOUNDS).metaparameters(n_outputs)
    return MetaparameterSpace(entries)


def initial_path(estimator: DistProClassifier, plan: DistProPlan, strategy: Strategy) -> MetaparameterPath:
    """Return the metaparameters of a search where they start."""
    space = search_space(estimator, len(plan.pathways), plan.task.n_outputs)
    start = {"lambda1": INITIAL_LAMBDA1, "temperature": estimator.temperature} | space.starts
    if strategy.coordinates == "raw":
        space = space.in_raw_coordinates()
    steps = {IMPORTANCE: importance_steps(estimator.importance_lr), "loss": strategy.steps()}
    return MetaparameterPath(space, start, steps, device=estimator._device())


def schedule_of(weights: np.ndarray, logit_term: np.ndarray | None) -> MetaparameterSchedule:
    """Return weights of shape (T, L), and (lambda1, T) of shape (T, 2) or None, as a schedule."""
    columns = {PATHWAY_WEIGHTS: weights}
    entries = {PATHWAY_WEIGHTS: Metaparameter(shape=weights.shape[1:])}
    if logit_term is not None:
        columns |= dict(zip(("lambda1", "temperature"), logit_term.astype(np.float64).T, strict=True))
        entries |= {"lambda1": Metaparameter(), "temperature": Metaparameter()}
    return MetaparameterSchedule(MetaparameterSpace(entries), columns)


def make_net(
    estimator: DistProClassifier,
    plan: DistProPlan,
    stage: Stage,
    metaparameters: MetaparameterPath | MetaparameterSchedule,
    strategy: Strategy,
    callbacks: Any,
    **changes: Any,
) -> TrainingNet:
    """Make an initialised net around a student and transforms of the stage's seeds."""
    searching = stage is plan.search
    student = copy.deepcopy(plan.student)
    if searching:
        student = stage_student(estimator, stage, plan.task.n_outputs)
    learned = isinstance(metaparameters, MetaparameterPath)
    normalization = NORMALIZATIONS[estimator.normalization](estimator.softmax_bias)
    logit_weight = 0.0 if isinstance(estimator.logit_weight, str) else estimator.logit_weight
    objective = PathwayObjective(
        pathways=plan.pathways,
        transforms=estimator.transforms,
        distance=checked_distance(estimator.distance),
        teacher=plan.teacher,
        weights=LearnedWeights(normalization) if learned else GivenWeights(),
        distill_weight=estimator.distill_weight,
        logit_weight=logit_weight,
        temperature=estimator.temperature,
        learns_logit_term="temperature" in metaparameters.space,
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
    return TrainingNet(
        student,
        objective=objective,
        metaparameters=metaparameters,
        strategy=strategy,
        modules_seed=stage.seeds.strategy,
        execution=plan.execution,
        callbacks=callbacks,
        task=plan.task,
        labels=plan.task.output_labels,
        device=str(estimator._device()),
        **(params | routed | changes),
    ).initialize()


def stage_student(estimator: DistProClassifier, stage: Stage, n_outputs: int) -> nn.Module:
    """Build a student from the seeds of a stage."""
    return initial_student(
        estimator.student,
        estimator._routed("student"),
        stage.data.train.samples,
        n_outputs,
        seed=stage.seeds.student,
        make_scaling=scaling_for(estimator, stage.data.train),
    )
