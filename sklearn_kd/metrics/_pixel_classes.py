"""Metrics of a class for every pixel."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np

from sklearn_kd.metrics._maps import checked_maps, no_pixels

_UNKNOWN = "all have the label ignore_index"


def mean_iou_score(y_true: Any, y_pred: Any, *, ignore_index: Any = None, sample_weight: Any = None) -> float:
    """Return the mean intersection over union of the classes.

    The pixels of all images count together: a class has the number of pixels that are of it and are predicted
    to be, over the number of those that are of it or are predicted to be. The mean is over the classes that
    occur among the targets or the predictions of known pixels, each of which counts alike.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n_samples, H, W)
        The class of each pixel.
    ignore_index : int or None, default=None
        The label of pixels whose class is not known; they are left out. None: all are known.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the images.

    Returns
    -------
    float
        From 0 to 1, the best.

    Raises
    ------
    ValueError
        If the maps differ in shape, or no pixel is known.

    See Also
    --------
    sklearn.metrics.jaccard_score : The same of labels in one dimension, with ``average="macro"``.

    Examples
    --------
    >>> from sklearn_kd.metrics import mean_iou_score
    >>> y_true = [[[0, 0], [1, 255]]]
    >>> y_pred = [[[0, 1], [1, 1]]]
    >>> mean_iou_score(y_true, y_pred, ignore_index=255)  # 1/2 of both classes
    0.5

    As a scorer of a search:

    >>> from sklearn.metrics import make_scorer
    >>> scorer = make_scorer(mean_iou_score, ignore_index=255)
    """
    counts = _confusion(y_true, y_pred, ignore_index, sample_weight)
    hits, union = counts.diagonal(), counts.sum(axis=0) + counts.sum(axis=1) - counts.diagonal()
    return float(np.mean(hits[union > 0] / union[union > 0]))


def pixel_accuracy_score(
    y_true: Any, y_pred: Any, *, ignore_index: Any = None, sample_weight: Any = None
) -> float:
    """Return the share of the known pixels whose class is predicted.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n_samples, H, W)
        The class of each pixel.
    ignore_index : int or None, default=None
        The label of pixels whose class is not known; they are left out. None: all are known.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the images.

    Returns
    -------
    float
        From 0 to 1, the best.

    Raises
    ------
    ValueError
        If the maps differ in shape, or no pixel is known.

    Examples
    --------
    >>> from sklearn_kd.metrics import pixel_accuracy_score
    >>> y_true = [[[0, 0], [1, 255]]]
    >>> y_pred = [[[0, 1], [1, 1]]]
    >>> round(pixel_accuracy_score(y_true, y_pred, ignore_index=255), 3)  # 2 of 3
    0.667
    """
    true, predicted, weight = checked_maps(y_true, y_pred, sample_weight)
    axes = tuple(range(1, true.ndim))
    known = np.ones(true.shape, bool) if ignore_index is None else true != ignore_index
    total = weight @ known.sum(axis=axes)
    if total == 0:
        raise no_pixels(_UNKNOWN)
    return float(weight @ (known & (true == predicted)).sum(axis=axes) / total)


def _confusion(y_true: Any, y_pred: Any, ignore_index: Any, sample_weight: Any) -> np.ndarray:
    """Return the weight of the known pixels by true and predicted class, shape (K, K).

    An image at a time: sklearn's ``confusion_matrix`` sorts all pixels and takes many times their memory.
    """
    true, predicted, weight = checked_maps(y_true, y_pred, sample_weight)
    labels = reduce(np.union1d, [np.unique(one) for maps in (true, predicted) for one in maps])
    counts = np.zeros(len(labels) ** 2)
    for one, other, share in zip(true, predicted, weight.tolist(), strict=True):
        known = np.ones(one.shape, bool) if ignore_index is None else one != ignore_index
        pairs = np.searchsorted(labels, one[known]) * len(labels) + np.searchsorted(labels, other[known])
        counts += share * np.bincount(pairs, minlength=len(counts))
    if not counts.any():
        raise no_pixels(_UNKNOWN)
    return counts.reshape(len(labels), len(labels))
