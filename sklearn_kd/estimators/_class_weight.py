"""Apply ``class_weight``: multiply the weights of rows by those of their classes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from sklearn_kd.errors._did_you_mean import did_you_mean
from sklearn_kd.inputs._validation import ValidatedInputs

# Largest number of classes that a message shows.
_N_SHOWN = 10


def with_class_weight(inputs: ValidatedInputs, class_weight: Mapping | str | None) -> ValidatedInputs:
    """Multiply the weights of D_train's and D_val's rows by those of their classes.

    ``sample_weight`` stays as given, since the teacher has its own ``class_weight``.

    Parameters
    ----------
    inputs : ValidatedInputs
    class_weight : mapping, "balanced" or None
        "balanced": all classes count alike, in the rows of X and in a given D_val.

    Raises
    ------
    ValueError
        If the mapping names a class that y does not have, a weight cannot be used, or the weights leave only
        one class.
    """
    if class_weight is None:
        return inputs
    classes = inputs.task.output_labels
    given = None if isinstance(class_weight, str) else _weights_of_classes(class_weight, classes)
    weight = _row_weights(inputs.codes, inputs.weight, given, len(classes))
    if not weight.any():
        raise ValueError(f"class_weight={class_weight!r} gives every row of X the weight 0.")
    inputs.task.check_learnable(inputs.codes, weight)
    valid = inputs.valid
    if valid is not None:
        weight_val = _row_weights(valid.codes, valid.weight, given, len(classes))
        if not weight_val.any():
            raise ValueError(f"class_weight={class_weight!r} gives every row of X_val the weight 0.")
        valid = valid._replace(weight=weight_val)
    return dataclasses.replace(inputs, weight=weight, valid=valid)


def _weights_of_classes(class_weight: Mapping, classes: np.ndarray) -> np.ndarray:
    """Return the weight of each class, shape (K,); 1 where none is given."""
    labels = classes.tolist()
    places = {label: place for place, label in enumerate(labels)}
    weights = np.ones(len(labels))
    all_given = all(label in class_weight for label in labels)
    for label, weight in class_weight.items():
        if not _is_weight(weight):
            raise ValueError(f"class_weight[{label!r}]={weight!r} must be a finite number of at least 0.")
        if label in places:
            weights[places[label]] = weight
        elif not all_given:  # if all are given, a fold of a cross-validation may lack the class
            raise ValueError(
                f"class_weight has {label!r}, which is not a class of y.{_meant(label, labels)} The classes "
                f"of y are {labels[:_N_SHOWN]}."
            )
    return weights


def _is_weight(value: Any) -> bool:
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return is_number and 0 <= value < math.inf


def _meant(label: Any, labels: list) -> str:
    """Suggest the nearest class to a string; a suggested number would be quoted, and so be another label."""
    return did_you_mean(label, [k for k in labels if isinstance(k, str)]) if isinstance(label, str) else ""


def _row_weights(
    codes: np.ndarray, weight: np.ndarray | None, given: np.ndarray | None, n_classes: int
) -> np.ndarray:
    """Return the weights of rows times those of their classes; ``given`` is None for "balanced"."""
    own = np.ones(len(codes)) if weight is None else weight
    if given is None:
        # compute_class_weight takes sample_weight only in scikit-learn's newest versions.
        totals = np.bincount(codes, weights=own, minlength=n_classes)
        seen = totals > 0
        given = np.divide(totals.sum() / seen.sum(), totals, out=np.ones(n_classes), where=seen)
    return own * given[codes]
