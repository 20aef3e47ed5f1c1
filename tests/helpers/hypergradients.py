"""Nets in the midst of a search, and the error of a hypergradient."""

import itertools
from typing import Any

import numpy as np
import torch
from skorch.callbacks import GradientNormClipping

from sklearn_kd import DistProClassifier
from sklearn_kd.meta import Gradient
from sklearn_kd.training._net import TrainingNet


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of ``expected``."""
    return float((found.double() - expected).norm() / expected.norm())


def ready_net(
    clf: DistProClassifier, images: tuple[np.ndarray, np.ndarray], callbacks: list[Any] | None = None
) -> tuple[TrainingNet, Any, Any]:
    """Return the search's net in float64 after three steps, and both batches of the fourth."""
    weight = np.linspace(0.5, 1.5, len(images[1]))
    run = clf._prepared(*images, weight, None, None)
    callbacks = [("clip", GradientNormClipping(0.3))] if callbacks is None else callbacks
    net = clf._make_net(run, run.search, clf._factors(run), Gradient(), callbacks)
    for module in net.trained_modules():
        module.double()
    net.teacher.network.double()
    batches = [
        b.map(lambda t: t.double() if t.is_floating_point() else t)
        for b in net.get_iterator(run.search.data.train)
    ]
    val_batch = next(iter(net.get_iterator(run.search.data.valid)))
    val_batch = val_batch.map(lambda t: t.double() if t.is_floating_point() else t)
    net.notify("on_train_begin", X=run.search.data, y=None)
    net.validation_batches_ = itertools.repeat(val_batch)
    net.history.new_epoch()
    net.on_epoch_begin(net)
    for batch in batches[:3]:
        net.train_step(batch)
    return net, batches[3], val_batch
