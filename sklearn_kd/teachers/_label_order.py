"""Warn if a teacher's columns seem to be in another order than the labels of y."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from sklearn_kd.inputs._data import DistillationData

# Mean correlation of the labels with the teacher's probabilities. Warn if it is at most the first number in
# the given order of columns and at least the second in the best order.
_AT_CHANCE, _FAR_ABOVE = 0.15, 0.5
# With fewer rows or more labels, some order looks better by chance.
_FEWEST_ROWS, _MOST_LABELS = 100, 1000


def warn_if_labels_out_of_order(train: DistillationData, who: str) -> None:
    """Warn if a teacher's columns hardly correlate with the labels, but would in another order.

    Parameters
    ----------
    train : DistillationData
        Labeled rows of D_train, with the teacher's logits.
    who : str
        Name of the teacher in the message.
    """
    labels = train.y.cpu().numpy().astype(float)
    n_rows, n_labels = labels.shape
    if n_rows < _FEWEST_ROWS or n_labels > _MOST_LABELS:
        return
    said = torch.cat([part.cpu().sigmoid() for part in train.iter_teacher_logits()]).double().numpy()
    correlation = _standardized(labels).T @ _standardized(said) / n_rows
    varied = np.ptp(labels, axis=0) > 0
    _, columns = linear_sum_assignment(correlation, maximize=True)
    now = np.diag(correlation)[varied].mean()
    best = correlation[np.arange(n_labels), columns][varied].mean()
    if now <= _AT_CHANCE and best >= _FAR_ABOVE:
        order = columns.tolist() if n_labels <= 20 else "[...]"
        warnings.warn(
            f"{who}: its columns hardly correlate with the labels of D_train (mean correlation {now:.2f}); "
            f"in another order they would ({best:.2f}). Each column must belong to the label in the same "
            f"column of y. If they are in another order, take the columns {order} of its answers.",
            UserWarning,
            stacklevel=2,
        )


def _standardized(values: np.ndarray) -> np.ndarray:
    """Return columns with mean 0 and variance 1; a constant column becomes zeros."""
    centred = values - values.mean(axis=0)
    spread = centred.std(axis=0)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-9)
