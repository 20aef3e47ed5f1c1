"""Handle a y with several labels: the loss, the student, and refused parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sklearn_kd.estimators._learned_nothing import (
    has_not_fallen,
    is_not_judged,
    remedies_for,
    unfinished_message,
    was_ended,
)
from sklearn_kd.losses._distillation_loss import DistillationLoss
from sklearn_kd.losses._named import loss_for_labels
from sklearn_kd.runtime._eval_mode import isolated_eval_mode
from sklearn_kd.students._standardize import own_student
from sklearn_kd.tasks._multilabel import Multilabel
from sklearn_kd.tasks._task import Task

if TYPE_CHECKING:
    from sklearn_kd.inputs._data import DistillationData
    from sklearn_kd.training._net import TrainingNet


def has_several_labels(task: Task) -> bool:
    """Return whether y has several labels."""
    return isinstance(task, Multilabel)


def loss_of_task(loss: DistillationLoss, task: Task, given: Any) -> DistillationLoss:
    """Return the form of the loss for this kind of y; ``given`` is the estimator's parameter."""
    return loss_for_labels(loss, has_several_labels(task), by_name=isinstance(given, str))


def output_params(task: Task) -> dict[str, Any]:
    """Return the net's parameters that tell skorch's scorers how logits become probabilities."""
    return {"predict_nonlinearity": torch.sigmoid} if has_several_labels(task) else {}


def refuse_classes(class_weight: Any, teacher_classes: Any) -> None:
    """Refuse parameters about classes that exclude each other.

    Raises
    ------
    ValueError
        Names the parameter.
    """
    if class_weight is not None:
        raise ValueError(
            f"class_weight={class_weight!r} weights classes that exclude each other, but y has several "
            "labels. Set class_weight=None, and give weights to rows by fit's sample_weight."
        )
    if teacher_classes is not None:
        raise ValueError(
            "teacher_classes are the classes of columns, but y has several labels. Set teacher_classes=None, "
            "and give the teacher's answers with a column for each label, in the order of the columns of y."
        )


def check_gives_logits(student: nn.Module, samples: Any) -> None:
    """Refuse a student that ends, by a module or a function, in a sigmoid or in log probabilities.

    Raises
    ------
    ValueError
        If its last module or operation is a sigmoid and its outputs lie between 0 and 1, or if the last
        operation is log_softmax or logsigmoid, so that no label can have a probability above one half.
    """
    with isolated_eval_mode(student, samples.device), torch.enable_grad():
        outputs = student(samples)
    last = [*own_student(student).modules()][-1]
    operation = type(outputs.grad_fn).__name__
    if operation.startswith(("LogSoftmaxBackward", "LogSigmoidBackward")):
        raise ValueError(
            f"student {type(own_student(student)).__name__} ends in a log_softmax or logsigmoid, whose "
            "numbers are never above 0: no label could have a probability above one half. Leave it out: the "
            "losses and predict_proba take logits."
        )
    if not (isinstance(last, (nn.Sigmoid, nn.Hardsigmoid)) or "igmoidBackward" in operation):
        return
    if bool(((outputs >= 0) & (outputs <= 1)).all()):
        raise ValueError(
            f"student {type(own_student(student)).__name__} ends in a sigmoid, and returns probabilities. "
            "Leave the sigmoid out: the losses and predict_proba apply it to the logits."
        )


def message_of_labels(net: TrainingNet, train: DistillationData, monitor: str, who: str) -> str | None:
    """Return a message about a loss that did not fall, or was still falling; None if all is well.

    Parameters
    ----------
    net : TrainingNet
        Trained.
    train : DistillationData
        The data it was trained on.
    monitor : str
        The column of the history with a loss that is comparable across epochs.
    who : str
        What the message calls the student.
    """
    epochs = [row for row in net.history if "train_batch_count" in row]
    losses = [row[monitor] for row in epochs if monitor in row]
    if not losses or is_not_judged(net, epochs) or was_ended(net, losses, train):
        return None
    remedies = remedies_for(net.optimizer_)
    if has_not_fallen(losses):
        return (
            f"{who} hardly learned: in {len(losses)} epochs its loss went from {losses[0]:.4g} to "
            f"{losses[-1]:.4g}. Set {remedies.others}, and see whether the teacher's answers and the labels "
            "vary with X."
        )
    return unfinished_message(losses, remedies, who)
