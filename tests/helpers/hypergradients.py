"""Nets in the midst of a search, and the error of a hypergradient."""

import itertools
from typing import Any

import numpy as np
import torch
from skorch.callbacks import GradientNormClipping

from sklearn_kd import DistProClassifier, DistProRegressor
from sklearn_kd.estimators._distpro_net import initial_path, make_net
from sklearn_kd.estimators._distpro_plan import checked_parameters, plan_distpro
from sklearn_kd.estimators._plan import Stage
from sklearn_kd.estimators._preflight import validate
from sklearn_kd.estimators._regressor_inputs import validate_regression
from sklearn_kd.training._net import TrainingNet


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of ``expected``."""
    return float((found.double() - expected).norm() / expected.norm())


def search_net(
    clf: DistProClassifier | DistProRegressor,
    images: tuple[np.ndarray, np.ndarray],
    weight: np.ndarray | None = None,
    callbacks: list[Any] | None = None,
) -> tuple[TrainingNet, Stage]:
    """Return the net of a search, not trained, and its stage."""
    check = validate_regression if isinstance(clf, DistProRegressor) else validate
    plan = plan_distpro(clf, checked_parameters(clf), check(clf, *images, weight))
    assert plan.search is not None
    path = initial_path(clf, plan, plan.strategy)
    return make_net(clf, plan, plan.search, path, plan.strategy, callbacks or []), plan.search


def ready_net(
    clf: DistProClassifier | DistProRegressor,
    images: tuple[np.ndarray, np.ndarray],
    callbacks: list[Any] | None = None,
) -> tuple[TrainingNet, Any, Any]:
    """Return the search's net in float64 after three steps, and both batches of the fourth."""
    weight = np.linspace(0.5, 1.5, len(images[1]))
    callbacks = [("clip", GradientNormClipping(0.3))] if callbacks is None else callbacks
    net, search = search_net(clf, images, weight, callbacks)
    for module in net.trained_modules():
        module.double()
    net.objective.teacher.network.double()
    batches = [
        b.map(lambda t: t.double() if t.is_floating_point() else t)
        for b in net.get_iterator(search.data.train)
    ]
    val_batch = next(iter(net.get_iterator(search.data.valid)))
    val_batch = val_batch.map(lambda t: t.double() if t.is_floating_point() else t)
    net.notify("on_train_begin", X=search.data, y=None)
    net.validation_batches_ = itertools.repeat(val_batch)
    net.history.new_epoch()
    net.on_epoch_begin(net)
    for batch in batches[:3]:
        net.train_step(batch)
    return net, batches[3], val_batch
