"""Parts shared by losses of logits: the labels' term, classes of probability 0, the target class."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_kd.errors._context import error_context
from sklearn_kd.meta._space import Coordinate, Metaparameter
from sklearn_kd.tasks._targets import label_weights

# Replaces a logit of −inf, whose probability is 0. It stays finite when divided by T², so that no derivative
# with respect to T is 0 · inf.
_SWITCHED_OFF = -1e30
# Any logit below this, divided by T or not, counts as −inf.
_LOWEST = -1e20


def label_rows(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the labels' cross-entropy, shape (B,): 0 for unlabeled rows, more weight for the others."""
    rows = F.cross_entropy(logits, labels, reduction="none", ignore_index=-1)
    return label_weights(labels).to(logits) * rows


def soft_rows(targets: Tensor, log_probabilities: Tensor) -> Tensor:
    """Return the cross-entropy with the teacher's probabilities, shape (B,)."""
    return -(targets * log_probabilities).sum(dim=1)


def finite_logits(teacher_logits: Tensor) -> Tensor:
    """Return the teacher's logits with −inf replaced by a large finite number."""
    return teacher_logits.clamp(min=_SWITCHED_OFF)


def is_possible(logits: Tensor) -> Tensor:
    """Return which logits belong to a probability above 0."""
    return logits > _LOWEST


def divergence_rows(teacher_log: Tensor, student_log: Tensor) -> Tensor:
    """Return KL(teacher, student) of log-probabilities, shape (B,); the teacher's may be near −1e30."""
    return (teacher_log.exp() * (teacher_log - student_log)).sum(dim=1)


def target_classes(labels: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return each row's label, or, for an unlabeled row, the teacher's most likely class."""
    return torch.where(labels < 0, teacher_logits.argmax(dim=1), labels)


class TargetAgainstOthers(NamedTuple):
    """Log-probabilities of a row's target class, and of the other classes among themselves.

    Attributes
    ----------
    target, others : Tensor of shape (B,)
        log p_t and log(1 − p_t).
    among_others : Tensor of shape (B, K)
        log p̂_i of the softmax over all classes except the target, and a number far below 0 at the target.
        If no other class has a probability above 0, all are far below 0, and their divergence is 0.
    """

    target: Tensor
    others: Tensor
    among_others: Tensor


def split_off_target(logits: Tensor, target: Tensor) -> TargetAgainstOthers:
    """Split log-probabilities into target and others without taking the logarithm of a difference."""
    chosen = F.one_hot(target, logits.shape[1]).bool()
    without = logits.masked_fill(chosen, _SWITCHED_OFF)
    of_others, of_all = without.logsumexp(dim=1), logits.logsumexp(dim=1)
    at_target = logits.gather(1, target[:, None]).squeeze(1)
    return TargetAgainstOthers(
        at_target - of_all, of_others - of_all, without - of_others.clamp(min=_LOWEST)[:, None]
    )


def positive_number(name: str, start: Any, bounds: tuple[float, float]) -> Metaparameter:
    """Return a metaparameter that is a scale, such as a weight, learned in its logarithm.

    Raises
    ------
    ValueError
        If the initial value lies outside the bounds, or is not a single number.
    TypeError
        If it is not a number.
    """
    return number(name, start, bounds, coordinate="log")


def number(
    name: str, start: Any, bounds: tuple[float, float], coordinate: Coordinate = "identity"
) -> Metaparameter:
    """Return a metaparameter of one number whose initial value is a parameter of its loss; errors name it."""
    with error_context(name):
        if np.ndim(start):
            raise ValueError(f"{name}={start!r} must be one number.")
        return Metaparameter(start, bounds=bounds, coordinate=coordinate)
