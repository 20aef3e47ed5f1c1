"""Check ``teacher_predictions``, align them with the rows of X, and standardise them as y."""

from __future__ import annotations

from typing import Any

import numpy as np

from sklearn_kd.inputs._arrays import from_torch
from sklearn_kd.tasks._regression import Regression
from sklearn_kd.teachers._given_logits import Given, in_order
from sklearn_kd.teachers._regressors import standardised


def checked_predictions(
    predictions: Any,
    n_samples: int,
    task: Regression,
    *,
    names: Any = None,
    name: str = "teacher_predictions",
    of: str = "X",
) -> np.ndarray | None:
    """Return checked, aligned and standardised predictions, float32, shape (n_samples, m); None for None.

    If y has maps, the shape is (n_samples, 1, h, w).

    Parameters
    ----------
    predictions : array-like, Series, DataFrame, Tensor or None
        Predictions in the units of y.
    n_samples : int
        Number of rows of X.
    task : Regression
    names : object, default=None
        X or y. Its pandas index, if it has one, names the rows.
    name, of : str
        Names of the predictions and of the array of their rows in messages.

    Raises
    ------
    ValueError
        If the shape is wrong, an index does not match, or a row has NaN or infinity.
    """
    if predictions is None:
        return None
    index = getattr(names, "index", None)
    called = Given(name, of)
    given = in_order(predictions, index, called) if hasattr(index, "equals") else predictions
    if np.shape(given)[:1] != (n_samples,):
        wanted = f"({n_samples}, height, width)" if task.map_shape else f"({n_samples}, {task.n_targets})"
        raise ValueError(
            f"{name} must have one row for each row of {of}, shape {wanted}; got shape {np.shape(given)}."
        )
    return standardised(from_torch(given, name), n_samples, task, name).numpy()
