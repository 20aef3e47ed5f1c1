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
        Class codes, −1 for a row without a label; of several labels, whether each is there (1) or not (0), −1
        in all of such a row; of a regression standardised targets, NaN in all of such a row.
    teacher_logits : Tensor of shape (B, K) or None
        −inf is a probability of 0. Of a regression the teacher's standardised predictions, shape (B, m).
        None: there is no teacher, and the labels are all there is.
    weight : Tensor of shape (B,) or None
        Row weights with mean 1 over the training set. None: all ones.
    label_weight : Tensor of shape (B,) or None
        Further weights of the label term alone: 0 for rows without a label and, for the others, the number
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
    """Return the labels of rows that have none, in the form of others."""
    return labels.new_full((n_rows, *labels.shape[1:]), torch.nan if labels.is_floating_point() else -1)


def mean_rows(rows: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mean, weighted if there are weights, over rows of shape (..., B, 1)."""
    return (rows if weight is None else weight[..., None] * rows).mean(dim=(-2, -1))


def share_of_rows(rows: Tensor, weight: Tensor | None) -> Tensor:
    """Return the derivative of :func:`mean_rows` times ``rows``, along the first axis but one."""
    return rows / rows.shape[-2] if weight is None else rows * (weight[..., None] / rows.shape[-2])
