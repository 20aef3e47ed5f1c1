"""Count pairs of labels and predictions, and compute the mean intersection over union from them."""

from __future__ import annotations

import math

import numpy as np

from sklearn_kd.tasks._image_weights import no_pixels
from sklearn_kd.tasks._pixel_codes import classes_of_maps, codes_of_maps


def confusion_of(
    codes: np.ndarray, predicted: np.ndarray, n_classes: int, weight: np.ndarray | None = None
) -> np.ndarray:
    """Count the pairs of code and predicted code over pixels whose code is not negative.

    Parameters
    ----------
    codes, predicted : ndarray of shape (n, H, W)
        Predictions are codes from 0 to n_classes − 1.
    n_classes : int
    weight : ndarray of shape (n,) or None, default=None
        Weights of the images.

    Returns
    -------
    ndarray of shape (n_classes, n_classes), float64
        By code, then by prediction.
    """
    counts = np.zeros(n_classes * n_classes)
    for k, (own, found) in enumerate(zip(codes, predicted, strict=True)):
        known = own >= 0
        pairs = own[known].astype(np.int64) * n_classes + found[known]
        counts += (1.0 if weight is None else weight[k]) * np.bincount(pairs, minlength=len(counts))
    return counts.reshape(n_classes, n_classes)


def mean_iou_of_maps(
    true: np.ndarray,
    predicted: np.ndarray,
    ignore_index: int | None,
    weight: np.ndarray | None = None,
    name: str = "y",
) -> float:
    """Return the mean intersection over union of maps of integer labels, over all known pixels.

    Parameters
    ----------
    true, predicted : ndarray of shape (n, H, W)
    ignore_index : int or None
        The label of unknown pixels.
    weight : ndarray of shape (n,) or None, default=None
        Weights of the images.
    name : str, default="y"
        What messages call the labels.

    Raises
    ------
    ValueError
        If no pixel is known, or all known pixels have weight 0.
    """
    found = [classes_of_maps(maps, unknown) for maps, unknown in ((true, ignore_index), (predicted, None))]
    labels = np.union1d(*(classes.astype(np.int64) for classes in found))
    codes, _ = codes_of_maps(true, labels, ignore_index)
    predicted_codes, _ = codes_of_maps(predicted, labels, None)
    score = mean_iou(confusion_of(codes, predicted_codes, len(labels), weight))
    if math.isnan(score):
        raise no_pixels(name, "all have the label ignore_index")
    return score


def mean_iou(confusion: np.ndarray) -> float:
    """Return the intersection over union, averaged over classes with a pixel or a prediction.

    Return NaN if there is no such class.
    """
    right = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - right
    occurs = union > 0
    return float((right[occurs] / union[occurs]).mean()) if occurs.any() else float("nan")
