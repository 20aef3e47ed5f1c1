"""Targets of a batch, and means over its rows."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Targets(NamedTuple):
    """The targets of one batch of student logits.

    Attributes
    ----------
    labels : Tensor of shape (B,), int64
        Class codes.
    teacher_logits : Tensor of shape (B, K) or None
        −inf is a probability of 0. None: there is no teacher, and the labels are all there is.
    weight : Tensor of shape (B,) or None
        Row weights with mean 1 over the training set. None: all ones.
    """

    labels: Tensor
    teacher_logits: Tensor | None = None
    weight: Tensor | None = None


def mean_rows(rows: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mean, weighted if there are weights, over rows of shape (..., B, 1)."""
    return (rows if weight is None else weight[..., None] * rows).mean(dim=(-2, -1))


def share_of_rows(rows: Tensor, weight: Tensor | None) -> Tensor:
    """Return the derivative of :func:`mean_rows` times ``rows``, along the first axis but one."""
    return rows / rows.shape[-2] if weight is None else rows * (weight[..., None] / rows.shape[-2])
