"""Metrics for a class for each pixel."""

from __future__ import annotations

from typing import Any

import numpy as np

from sklearn_kd.metrics._maps import check_ignored, checked_maps
from sklearn_kd.tasks._confusion import mean_iou_of_maps
from sklearn_kd.tasks._image_weights import no_pixels
from sklearn_kd.tasks._pixel_codes import checked_integers
from sklearn_kd.tasks._usual_ignored import warn_of_usual_ignored_in_score


def mean_iou_score(y_true: Any, y_pred: Any, *, ignore_index: Any = None, sample_weight: Any = None) -> float:
    """Return the mean intersection over union of the classes.

    The pixels of all images are pooled. The score of a class is the number of pixels with both this target
    and this prediction, divided by the number of pixels with this target or this prediction. The result is
    the unweighted mean over the classes that occur among the targets or the predictions of known pixels.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n_samples, H, W)
        The class of each pixel.
    ignore_index : int or None, default=None
        The label of pixels whose class is unknown. These pixels are left out. None: all are known.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the images.

    Returns
    -------
    float
        Between 0 and 1. Higher is better.

    Raises
    ------
    ValueError
        If the maps differ in shape or do not hold integers, ``ignore_index`` is not an integer, or no pixel
        is known.

    See Also
    --------
    sklearn.metrics.jaccard_score : The same score for labels in one dimension, with ``average="macro"``.

    Examples
    --------
    >>> from sklearn_kd.metrics import mean_iou_score
    >>> y_true = [[[0, 0], [1, 255]]]
    >>> y_pred = [[[0, 1], [1, 1]]]
    >>> mean_iou_score(y_true, y_pred, ignore_index=255)  # 1/2 of both classes
    0.5

    Make a scorer for a search:

    >>> from sklearn.metrics import make_scorer
    >>> scorer = make_scorer(mean_iou_score, ignore_index=255)
    """
    true, predicted, weight = _checked_classes(y_true, y_pred, ignore_index, sample_weight)
    if true.ndim == 1 and sample_weight is None:  # pixels of one image; otherwise each would be an image
        true, predicted, weight = true[None], predicted[None], weight[:1]
    return mean_iou_of_maps(true, predicted, ignore_index, weight, "y_true")


def pixel_accuracy_score(
    y_true: Any, y_pred: Any, *, ignore_index: Any = None, sample_weight: Any = None
) -> float:
    """Return the share of the known pixels whose class is predicted correctly.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n_samples, H, W)
        The class of each pixel.
    ignore_index : int or None, default=None
        The label of pixels whose class is unknown. These pixels are left out. None: all are known.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the images.

    Returns
    -------
    float
        Between 0 and 1. Higher is better.

    Raises
    ------
    ValueError
        If the maps differ in shape or do not hold integers, ``ignore_index`` is not an integer, or no pixel
        is known.

    Examples
    --------
    >>> from sklearn_kd.metrics import pixel_accuracy_score
    >>> y_true = [[[0, 0], [1, 255]]]
    >>> y_pred = [[[0, 1], [1, 1]]]
    >>> round(pixel_accuracy_score(y_true, y_pred, ignore_index=255), 3)  # 2 of 3
    0.667
    """
    true, predicted, weight = _checked_classes(y_true, y_pred, ignore_index, sample_weight)
    axes = tuple(range(1, true.ndim))
    known = np.ones(true.shape, bool) if ignore_index is None else true != ignore_index
    total = weight @ known.sum(axis=axes)
    if total == 0:
        raise no_pixels("y_true", "all have the label ignore_index")
    return float(weight @ (known & (true == predicted)).sum(axis=axes) / total)


def _checked_classes(
    y_true: Any, y_pred: Any, ignore_index: Any, sample_weight: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return two arrays of integers with the same shape, and the weights of the images."""
    check_ignored(ignore_index)
    true, predicted, weight = checked_maps(y_true, y_pred, sample_weight)
    true, predicted = checked_integers(true, "y_true"), checked_integers(predicted, "y_pred")
    if ignore_index is None:
        warn_of_usual_ignored_in_score(true, predicted)
    return true, predicted, weight
