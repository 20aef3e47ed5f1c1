"""Judge the end of a training on D_train: its loss on D_val, at the last weights or at their average."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.layers._names import named_network
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.tasks._pixels import n_known, some_known_rows
from sklearn_kd.tasks._targets import Targets
from sklearn_kd.training._net import TrainingNet
from sklearn_kd.training._weight_average import weights_of, weights_of_modules

# Smallest classification loss that a D_val of one row can show. Below it, all rows are clearly right, and
# candidates differ only by rounding.
_SMALLEST = 0.1


class Ending(NamedTuple):
    """The end of a training on D_train, judged on D_val.

    Attributes
    ----------
    loss : float
        L_val of the last weights, or of their average if that is smaller. For classes it is at least
        0.1 / n_val, since n_val rows cannot distinguish smaller losses.
    averaged : bool or None
        Whether the loss is that of the average: then the student has trained past its best. None: there is
        no average, or the training diverged, so that neither shows how the student learns.
    weights : dict of str to Tensor
        The last weights of the user's own module.
    beside : dict of str to Tensor
        The last weights of the modules that are trained with it.
    """

    loss: float
    averaged: bool | None
    weights: dict[str, Tensor]
    beside: dict[str, Tensor]


def ending_of(net: TrainingNet, valid: DistillationData) -> Ending:
    """Judge a trained net; its T_val becomes that of the better weights.

    Without an average, only the last weights are judged.
    """
    floor = 0.0 if net.task.numeric else _SMALLEST / len(valid)
    loss, val_temperature = max(floor, validation_loss(net, valid)), net.val_temperature_
    ending = Ending(loss, None, weights_of(named_network(net.module_)), weights_of_modules(net.others))
    average = net.average_
    if average is None or net.diverged_:
        return ending
    average.swap()
    try:
        of_average = max(floor, validation_loss(net, valid, refit=True))
    finally:
        average.swap()
    if of_average < loss:
        return ending._replace(loss=of_average, averaged=True)
    net.val_temperature_ = val_temperature
    return ending._replace(averaged=False)


def validation_loss(net: TrainingNet, dataset: DistillationData, *, refit: bool = False) -> float:
    """Compute L_val on all rows of ``dataset``; restore the generators that the student draws from.

    ``refit``: at a new T_val, if the net refits it. For pixels, L_val is the mean over those with a label.
    """
    if dataset.map_shape:
        return _loss_of_pixels(net, dataset, refit)
    with preserved_random_state(torch.device(net.device), seed=0):
        batches = net.get_iterator(dataset)
        validated = [(net.validation_step(batch)["y_pred"], batch.targets) for batch in batches]
    if refit and net.val_temperature == "auto":
        net.val_temperature_ = net.task.optimal_val_temperature(validated)
    losses = [
        len(z) * float(net.task.validation_loss(z, targets, net.val_temperature_)[0])
        for z, targets in validated
    ]
    return sum(losses) / len(dataset)


def _loss_of_pixels(net: TrainingNet, dataset: DistillationData, refit: bool) -> float:
    """Compute L_val for maps batch by batch, because memory may not hold all outputs."""

    def validated() -> Iterator[tuple[Tensor, Targets, Tensor]]:
        with preserved_random_state(torch.device(net.device), seed=0):
            for batch in net.get_iterator(dataset):
                step = net.validation_step(batch)
                yield step["y_pred"], batch.targets, step["loss"]

    if refit and net.val_temperature == "auto":
        some = [some_known_rows(outputs, targets) for outputs, targets, _ in validated()]
        net.val_temperature_ = net.task.optimal_val_temperature(some)
    found = [(n_known(targets), float(loss)) for _, targets, loss in validated()]
    return sum(n * loss for n, loss in found) / max(1, sum(n for n, _ in found))
