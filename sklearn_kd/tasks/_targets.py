"""Targets of a batch, and means over its rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Targets(NamedTuple):
    """The targets of one batch of student logits.

    Attributes
    ----------
    labels : Tensor of shape (B,), int64; (B, k), int8; or (B, m), float32
        Class codes, −1 for a row without a label; for several labels, whether each is present (1) or absent
        (0), all −1 in a row without labels; for regression, standardised targets, all NaN in a row without.
    teacher_logits : Tensor of shape (B, K) or None
        −inf is a probability of 0. For regression, the teacher's standardised predictions, shape (B, m).
        None: there is no teacher.
    weight : Tensor of shape (B,) or None
        Row weights with mean 1 over the training set. None: all ones.
    label_weight : Tensor of shape (B,) or None
        Further weights for the label term only: 0 for rows without a label and, for the others, the number
        that makes their mean over the batch 1. None: all rows have labels.
    """

    labels: Tensor
    teacher_logits: Tensor | None = None
    weight: Tensor | None = None
    label_weight: Tensor | None = None


def label_weights(labels: Tensor) -> Tensor:
    """Return the ``label_weight`` of the rows of a batch, float32, without waiting for the device."""
    known = is_known(labels).float()
    return known * (len(labels) / known.sum().clamp(min=1))


def is_known(labels: Tensor) -> Tensor:
    """Return whether each row has a label, shape (B,)."""
    first = labels if labels.ndim == 1 else labels[:, 0]
    return ~first.isnan() if labels.is_floating_point() else first >= 0


def unknown_like(labels: Tensor, n_rows: int) -> Tensor:
    """Return the values that mark unlabeled rows, in the form of other labels."""
    return labels.new_full((n_rows, *labels.shape[1:]), torch.nan if labels.is_floating_point() else -1)


def mean_rows(rows: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mean over rows of shape (..., B, 1), weighted if there are weights."""
    return (rows if weight is None else weight[..., None] * rows).mean(dim=(-2, -1))


def share_of_rows(rows: Tensor, weight: Tensor | None) -> Tensor:
    """Return ``rows`` times the derivative of :func:`mean_rows`, along the second to last axis."""
    return rows / rows.shape[-2] if weight is None else rows * (weight[..., None] / rows.shape[-2])
