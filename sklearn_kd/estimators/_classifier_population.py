"""Train a DistilledClassifier whose strategy trains several students side by side."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
from sklearn.base import clone

from sklearn_kd.estimators._classifier_net import (
    DistillationPlan,
    changes_for,
    make_net,
    own_callbacks,
)
from sklearn_kd.estimators._plan import Stage
from sklearn_kd.meta import Fixed, PopulationStrategy
from sklearn_kd.training._net import TrainingNet
from sklearn_kd.training._population import StudentPopulation

if TYPE_CHECKING:
    from sklearn_kd.estimators._classifier import DistilledClassifier


def train_population(
    estimator: DistilledClassifier, plan: DistillationPlan, stage: Stage, net: TrainingNet
) -> None:
    """Train a population by the strategy, with ``net`` as its first member; ``net`` becomes the best one."""
    strategy, settings = plan.strategy, plan.net_settings
    assert isinstance(strategy, PopulationStrategy)
    fixed = Fixed(val_temperature=strategy.val_temperature)
    rng = np.random.default_rng([stage.seeds.strategy, 1])  # not the draws of a random start
    start = settings.space.shaped(net.metaparameters.values_now())
    untrained = copy.deepcopy(net.module)
    net.strategy, net.averaging = fixed, None  # no student's weights come from one training alone

    def make_member() -> TrainingNet:
        callbacks = clone(own_callbacks(estimator, stage.name), safe=False)
        changes = changes_for(estimator, stage) | {"verbose": 0, "averaging": None}
        return make_net(estimator, settings, copy.deepcopy(untrained), fixed, start, callbacks, **changes)

    population = StudentPopulation(
        net,
        make_member,
        stage.data,
        space=settings.space,
        start=start,
        rng=rng,
        seed=stage.seeds.training,
        verbose=estimator.verbose,
    )
    population.search(strategy)
