"""Check class labels given to ``fit``, one per row. Errors name the argument."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from sklearn_kd.errors._context import error_context

# Largest number of labels that a message shows.
_N_SHOWN = 5


def checked_labels(y: Any, n_rows: int, name: str = "y", of: str = "X") -> np.ndarray:
    """Check labels, and return them as an array of shape (n_rows,).

    Parameters
    ----------
    y : array-like
    n_rows : int
        Number of rows that need a label.
    name, of : str
        What messages call the labels and the rows.

    Raises
    ------
    ValueError
        If some rows have no label or several, or the number of labels is not that of the rows.
    """
    try:
        labels = np.asarray(y)
    except ValueError as error:
        raise ValueError(
            f"{name} has rows of differing lengths ({error}). Give one label per row of {of}, shape "
            f"({n_rows},)."
        ) from error
    if labels.ndim != 1 and labels.shape[1:] != (1,):
        raise ValueError(_several_for_each(labels, name, of))
    with error_context(name):
        labels = column_or_1d(y, warn=True)
    if len(labels) != n_rows:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {[n_rows, len(labels)]}. {of} has "
            f"{n_rows} rows and {name} {len(labels)} labels; both must be equal. Give one label per row."
        )
    _check_present(labels, name, of)
    return labels


def _several_for_each(labels: np.ndarray, name: str, of: str) -> str:
    """Compose the message about labels of a wrong shape: what they are, and what to do."""
    message = f"{name} should be a 1d array, got an array of shape {labels.shape} instead."
    if labels.ndim != 2:
        return f"{message} Give one label per row of {of}."
    if labels.dtype.kind in "biuf" and (labels >= 0).all() and np.allclose(labels.sum(axis=1), 1):
        if np.isin(labels, (0, 1)).all():
            return (
                f"{message} It is one-hot: give {name}.argmax(axis=1) (for a DataFrame "
                f"{name}.idxmax(axis=1), for a list np.argmax({name}, axis=1))."
            )
        return (
            f"{message} Its rows are probabilities: give the most probable class, {name}.argmax(axis=1); to "
            "learn from the probabilities, also give fit teacher_logits=np.log(probabilities)."
        )
    return f"{message} Give one label per row of {of}; several outputs need one classifier each."


def missing_among(labels: np.ndarray) -> np.ndarray:
    """Return which labels are NaN, NaT, None or pandas.NA, shape (n_rows,)."""
    if labels.dtype.kind == "O":
        return np.array([_is_missing(label) for label in labels.tolist()], dtype=bool)
    return labels != labels


def _check_present(labels: np.ndarray, name: str, of: str) -> None:
    """Refuse NaN, None and infinity among the labels."""
    missing = missing_among(labels)
    if missing.any():
        rows = np.flatnonzero(missing)
        unlabeled = " DistilledClassifier learns from unlabeled rows as fit's X_unlabeled." * (of == "X")
        raise ValueError(
            f"Input {name} contains NaN or None: {len(rows)} of {len(labels)} labels are missing, such as "
            f"that of row {rows[0]}. Leave these rows out of {of} and {name}, or give them labels.{unlabeled}"
        )
    if labels.dtype.kind == "f":
        assert_all_finite(labels, input_name=name)


def _is_missing(label: Any) -> bool:
    if label is None or type(label).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(label, (float, np.floating)) and label != label


def sorted_classes(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted classes of y, and the class code of each row.

    Raises
    ------
    ValueError
        If y does not hold class labels, but for example numbers on a scale.
    TypeError
        If the labels are of several types, which cannot be sorted.
    """
    try:
        check_classification_targets(y)
        if y.dtype.kind not in "iufb":
            return np.unique(y, return_inverse=True)
        classes = np.unique(y)  # without the inverse, which takes more time and memory for many rows
        return classes, np.searchsorted(classes, y)
    except ValueError as error:
        values = ", ".join(f"{value!r}" for value in y[:_N_SHOWN].tolist())
        raise ValueError(
            f"y does not hold classes ({values}, ...). {error} Bin numbers on a scale into classes, for "
            "example by numpy.digitize, or use a regressor."
        ) from error
    except TypeError as error:
        kinds = sorted({type(label).__name__ for label in y.tolist()})
        raise TypeError(
            f"y has labels of types {kinds}, which cannot be sorted: {error}. Give labels of one type, "
            "for example y.astype(str)."
        ) from error
