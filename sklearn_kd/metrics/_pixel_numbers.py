"""Metrics for a number for each pixel, such as its depth."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite

from sklearn_kd.metrics._maps import checked_maps
from sklearn_kd.tasks._image_weights import no_pixels
from sklearn_kd.tasks._numbers import as_floats


def masked_root_mean_squared_error(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> float:
    """Return the root mean squared error over the pixels that have a target.

    The pixels of all images are pooled.

    Parameters
    ----------
    y_true : array-like of shape (n_samples, H, W)
        The target of each pixel. NaN: the pixel has no target and is left out.
    y_pred : array-like of shape (n_samples, H, W)
        The prediction of each pixel.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the images.

    Returns
    -------
    float
        At least 0. Lower is better.

    Raises
    ------
    ValueError
        If the maps differ in shape, no pixel has a target, or predictions are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_kd.metrics import masked_root_mean_squared_error
    >>> y_true = [[[1.0, np.nan], [2.0, 4.0]]]
    >>> y_pred = [[[1.0, 9.0], [2.0, 1.0]]]
    >>> round(masked_root_mean_squared_error(y_true, y_pred), 3)  # of 0, 0 and 3
    1.732

    Make a scorer for a search. Scorers are greater for better predictions:

    >>> from sklearn.metrics import make_scorer
    >>> scorer = make_scorer(masked_root_mean_squared_error, greater_is_better=False)
    """
    true, predicted, weight = _known_pixels(y_true, y_pred, sample_weight)
    return float(np.sqrt(np.average((predicted - true) ** 2, weights=weight)))


def masked_mean_relative_error(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> float:
    """Return the mean of abs(y_pred − y_true) / abs(y_true) over the pixels that have a target.

    Papers on depth call this error REL or AbsRel. The pixels of all images are pooled.

    Parameters
    ----------
    y_true : array-like of shape (n_samples, H, W)
        The target of each pixel, not 0. NaN: the pixel has no target and is left out.
    y_pred : array-like of shape (n_samples, H, W)
        The prediction of each pixel.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the images.

    Returns
    -------
    float
        At least 0. Lower is better.

    Raises
    ------
    ValueError
        If the maps differ in shape, no pixel has a target, a target is 0, or predictions are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_kd.metrics import masked_mean_relative_error
    >>> y_true = [[[1.0, np.nan], [2.0, 4.0]]]
    >>> y_pred = [[[1.0, 9.0], [2.0, 1.0]]]
    >>> masked_mean_relative_error(y_true, y_pred)  # of 0, 0 and 3/4
    0.25
    """
    true, predicted, weight = _known_pixels(y_true, y_pred, sample_weight)
    if not true.all():
        raise ValueError(
            f"y_true is 0 in {np.count_nonzero(true == 0)} pixels, whose relative error is undefined. Give "
            "NaN for pixels whose target is unknown."
        )
    return float(np.average(np.abs(predicted - true) / np.abs(true), weights=weight))


def _known_pixels(y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return target, prediction and weight, float64, of the pixels with a target and a positive weight."""
    true, predicted, weight = checked_maps(y_true, y_pred, sample_weight)
    true = as_floats(true, "y_true", keep_float32=True)
    predicted = as_floats(predicted, "y_pred", keep_float32=True)
    by_pixel = np.broadcast_to(weight.reshape(-1, *[1] * (true.ndim - 1)), true.shape)
    known = ~np.isnan(true) & (by_pixel > 0)
    if not known.any():
        raise no_pixels("y_true", "all are NaN")
    true, predicted = true[known].astype(np.float64), predicted[known].astype(np.float64)
    assert_all_finite(true, input_name="y_true")
    assert_all_finite(predicted, input_name="y_pred")
    return true, predicted, by_pixel[known]
