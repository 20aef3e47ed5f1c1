"""Warn of regressions that learned nothing, and of teachers whose predictions are in other units."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.estimators._learned_nothing import (
    FEWEST_ROWS,
    Remedies,
    has_not_fallen,
    is_not_judged,
    means_of_fifths,
    remedies_for,
    some_batches,
    still_falls,
    unfinished_message,
    was_ended,
)
from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.inputs._validation import ValidatedInputs
from sklearn_kd.runtime._eval_mode import isolated_eval_mode
from sklearn_kd.tasks._pixels import images_at_a_time, known_rows, pixel_rows, some_known_rows
from sklearn_kd.tasks._regression import Regression
from sklearn_kd.teachers._features import FeatureTeacher
from sklearn_kd.teachers._logit_checks import name_of
from sklearn_kd.training._work import threads_of_prediction

if TYPE_CHECKING:
    from sklearn_kd.training._net import TrainingNet

# A student whose predictions vary by less than this share of y's standard deviation predicts one number.
_NEARLY_CONSTANT = 1e-3
# Predictions with a mean squared error above this many variances of y are unlikely to be in its units.
_MOST_VARIANCES = 2.0


def regression_message(
    net: TrainingNet, train: DistillationData, task: Regression, monitor: str, who: str = "The student"
) -> str | None:
    """Set ``net.collapsed_``; return a message about a fit that learned nothing or was still learning.

    Return None if all is well, for a trial run, and for a fit that a user ended or that diverged.

    Parameters
    ----------
    net : TrainingNet
        Trained.
    train : DistillationData
        The rows of D_train that have targets.
    task : Regression
    monitor : str
        The column of the history with a loss that is comparable across epochs, if there is one.
    who : str, default="The student"
        What the message calls the student.
    """
    epochs = [row for row in net.history if "train_batch_count" in row]
    if not epochs:
        return None
    predicted, y, weight = _predictions_of(net, train, task)
    remedies = remedies_for(net.optimizer_)
    net.collapsed_ = bool((predicted.std(axis=0) < _NEARLY_CONSTANT).all()) and len(y) > 1
    if is_not_judged(net, epochs):
        return None
    begun = still_falls([row["train_loss"] for row in epochs if "train_loss" in row])
    if net.collapsed_:
        cause = f"It had only begun to learn: give it {remedies.larger}" if begun else _other_cause(remedies)
        return f"{who} learned nothing: it predicts one number for all rows of D_train. {cause}."
    losses = [row[monitor] for row in epochs if monitor in row]
    r2 = _r2(predicted, y, weight)
    if has_not_fallen(losses) and len(y) >= FEWEST_ROWS and r2 < 0.5:
        first, last = losses[0], means_of_fifths(losses)[-1]
        return (
            f"{who} hardly learned: in {len(losses)} epochs its loss went from {first:.4g} to {last:.4g}, "
            f"and R² on D_train is {r2:.2g}. Set {remedies.others}, and see whether the teacher's "
            "predictions and y vary with X."
        )
    return None if was_ended(net, losses, train) else unfinished_message(losses, remedies, who)


def _other_cause(remedies: Remedies) -> str:
    return f"Its steps were too large, or X does not explain the targets: {remedies.smaller}"


def _predictions_of(
    net: TrainingNet, train: DistillationData, task: Regression
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return standardised predictions and targets of some rows of D_train, shape (n, m), and weights (n,).

    For images, the rows are the pixels that have a target.
    """
    predicted, targets, weights = [], [], []
    with isolated_eval_mode(net.module_, train.device):
        for batch in some_batches(net, train):
            with threads_of_prediction(net, batch[0]):
                outputs = pixel_rows(net.module_(batch[0]))[:, : task.n_targets]
            some = some_known_rows(outputs, batch.targets) if task.map_shape else (outputs, batch.targets)
            outputs, (labels, _, weight, _) = some
            predicted.append(outputs.double().cpu())
            targets.append(labels.double().cpu())
            weights.append(torch.ones(len(outputs)) if weight is None else weight.cpu())
    return torch.cat(predicted).numpy(), torch.cat(targets).numpy(), torch.cat(weights).double().numpy()


def _r2(predicted: np.ndarray, y: np.ndarray, weight: np.ndarray) -> float:
    """Return 1 − mean squared error / variance, averaged over the targets."""
    error = np.average((y - predicted) ** 2, axis=0, weights=weight)
    centred = y - np.average(y, axis=0, weights=weight)
    variance = np.average(centred**2, axis=0, weights=weight)
    return float(np.mean(1 - error / np.maximum(variance, np.finfo(float).tiny)))


def _rows_said(train: DistillationData) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return a teacher's predictions and the targets of all rows, shape (n, m), and weights or None."""
    said = torch.cat([part.cpu() for part in train.iter_teacher_logits()]).double().numpy()
    return said, train.y.cpu().double().numpy(), _as_array(train.weight)


def _pixels_said(train: DistillationData) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the same for the known pixels of some images."""
    targets = train.first_targets(images_at_a_time(train.shape[1:], len(train)))
    assert targets.teacher_logits is not None
    said, (y, _, weight, _) = known_rows(targets.teacher_logits, targets)
    return said.cpu().double().numpy(), y.cpu().double().numpy(), _as_array(weight)


def _as_array(weight: Tensor | None) -> np.ndarray | None:
    return None if weight is None else weight.cpu().double().numpy()


def warn_of_units(estimator: Any, inputs: ValidatedInputs, train: DistillationData) -> None:
    """Warn if a teacher's predictions of D_train are too far from y to be in its units.

    Parameters
    ----------
    estimator : DistilledRegressor
    inputs : ValidatedInputs
    train : DistillationData
        D_train, with the teacher's predictions if it was asked before the training.
    """
    own = train.labeled
    if not own.has_teacher_logits:
        return
    who = name_of(estimator.teacher) if inputs.teacher_logits is None else estimator._answers
    _warn_of_far(who, *(_pixels_said(own) if own.map_shape else _rows_said(own)))


def warn_of_units_in_batches(net: TrainingNet, train: DistillationData, teacher: FeatureTeacher) -> None:
    """Warn as :func:`warn_of_units` does, from some rows, of a teacher that is asked during the training.

    Parameters
    ----------
    net : TrainingNet
        Initialised.
    train : DistillationData
    teacher : FeatureTeacher
        Its predictions are aligned with y.
    """
    said, y, weights = [], [], []
    for batch in some_batches(net, train):
        _, numbers = teacher(batch[0], [])
        assert numbers is not None
        found, (labels, _, weight, _) = some_known_rows(numbers, batch.targets)
        said.append(found.double().cpu())
        y.append(labels.double().cpu())
        weights.append(torch.ones(len(found)) if weight is None else weight.cpu())
    shares = torch.cat(weights).double().numpy()
    _warn_of_far(teacher.who, torch.cat(said).numpy(), torch.cat(y).numpy(), shares)


def _warn_of_far(who: str, said: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> None:
    """Warn if predictions, standardised like y, have a much larger error than the mean of y."""
    errors = np.average((said - y) ** 2, axis=0, weights=weight)
    worst = int(errors.argmax())
    if errors[worst] <= _MOST_VARIANCES:
        return
    which = "y" if len(errors) == 1 else f"column {worst} of y"
    warnings.warn(
        f"{who} predicts {which} with a mean squared error of {errors[worst]:.3g} times its variance in "
        "D_train; always predicting the mean of y has 1. Are the predictions in the units of y? A network "
        "that was trained on standardised targets needs a layer that undoes that; instead of the student_ of "
        "a DistilledRegressor, whose outputs are standardised, give FrozenEstimator(that regressor).",
        UserWarning,
        stacklevel=2,
    )
