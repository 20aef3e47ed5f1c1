"""The training of a DistilledClassifier whose strategy trains several students side by side."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import clone

from sklearn_kd.checkpointing._checkpointer import Checkpointer
from sklearn_kd.estimators._callback_checks import listed_callbacks
from sklearn_kd.estimators._classifier_net import DistillationPlan, make_net, start_of
from sklearn_kd.estimators._plan import Stage
from sklearn_kd.meta import Fixed
from sklearn_kd.training._net import TrainingNet
from sklearn_kd.training._population import StudentPopulation
from sklearn_kd.training._population_state import PopulationState

if TYPE_CHECKING:
    from sklearn_kd.estimators._classifier import DistilledClassifier


def train_population(
    estimator: DistilledClassifier, plan: DistillationPlan, stage: Stage
) -> tuple[DistillationPlan, TrainingNet]:
    """Train the population of a stage; return the net of the member that is kept."""
    space, rng = plan.net_settings.space, np.random.default_rng(stage.seeds.strategy)
    start = start_of(estimator, space, plan.strategy, rng)
    fixed = Fixed(val_temperature=plan.strategy.val_temperature)

    def make_member(values: dict[str, Any], is_first: bool) -> TrainingNet:
        """Make the net of a member; the user hears of the first one."""
        callbacks = listed_callbacks(estimator.callbacks)
        if is_first:
            callbacks = [*callbacks, *plan.report.epochs(lambda net: estimator._fitted_attributes(net, plan))]
        else:
            callbacks = clone(callbacks, safe=False)
        student = copy.deepcopy(plan.student)
        return make_net(estimator, plan.net_settings, student, fixed, values, callbacks, verbose=0)

    population = StudentPopulation(
        make_member,
        stage.data,
        space=space,
        start=start,
        rng=rng,
        seed=stage.seeds.training,
        n_epochs=estimator.max_epochs,
        verbose=estimator.verbose,
    )
    if plan.checkpoints.active:
        state = PopulationState(population)
        population.checkpointer = Checkpointer(plan.checkpoints, stage.name, state, plan.teacher_signature())
    return plan, population.search(plan.strategy)
