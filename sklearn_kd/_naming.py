"""Refusals of scikit-learn's and NumPy's, told with the name of the argument."""

from __future__ import annotations

import re
from contextlib import contextmanager

import numpy as np
from sklearn.utils.multiclass import check_classification_targets


@contextmanager
def naming(name: str):
    """Let a ValueError or TypeError from inside begin with ``name``, unless it is in it.

    scikit-learn's own message stays: users know it, and "could not convert string to float" says
    all but of what.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        if re.search(rf"\b{name}\b", str(error)):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name}: {error}") from error


def sorted_classes(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The classes of y, and the class code of each row.

    Raises
    ------
    ValueError
        If y has no labels of classes, such as numbers on a scale.
    TypeError
        If it has labels of several types, which cannot be sorted.
    """
    try:
        check_classification_targets(y)
        return np.unique(y, return_inverse=True)
    except TypeError as error:
        kinds = sorted({type(label).__name__ for label in y.tolist()})
        raise TypeError(
            f"y has labels of types {kinds}, which cannot be sorted: {error}. Give labels of one type, "
            "for example y.astype(str)."
        ) from error
