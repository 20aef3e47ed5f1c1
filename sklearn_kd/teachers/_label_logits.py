"""Read answers about several labels: one column for each label of y, as logits or probabilities."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.inputs._arrays import column_names
from sklearn_kd.inputs._large_arrays import parts_of
from sklearn_kd.teachers._given_logits import Given, numbers_in_order
from sklearn_kd.teachers._logit_checks import refuse_wrong_numbers
from sklearn_kd.teachers._zeros import Floor, floor_of_all_rows

# Number of rows examined for sums of 1. Fewer rows may have such sums by chance.
_FEWEST_ROWS, _MOST_ROWS = 8, 1000
# Probabilities may be above 1 by rounding.
_ROUNDING = 1e-3
_A_LOGIT_IS = (
    "a logit of a label is a number; log(p / (1 - p)) is infinite where p is 0 or 1, so clip p first, as by "
    "np.clip(p, 0.01, 0.99)"
)


def are_label_probabilities(values: Tensor) -> bool:
    """Return True if all numbers lie between 0 and 1, as sigmoid outputs do."""
    return len(values) > 0 and all(
        bool(part.amin() >= 0) and bool(part.amax() <= 1 + _ROUNDING) for part in parts_of(values)
    )


def log_odds(probabilities: Any, floor: Floor = floor_of_all_rows) -> Tensor:
    """Return log(p/(1 − p)), float32.

    Probabilities of 0 and 1 are moved inwards by ``floor`` of the distances from 0 or 1.
    """
    p = torch.as_tensor(probabilities).double()
    floors = floor(torch.minimum(p, 1 - p))
    return torch.logit(p.clamp(floors, 1 - floors)).float()


def check_n_labels(n_columns: int, n_labels: int, who: str) -> None:
    """Raise ValueError unless there is one column for each label."""
    if n_columns != n_labels:
        raise ValueError(
            f"{who} gives {n_columns} columns, and y has {n_labels} labels. Give a teacher with one column "
            "for each label of y, in the order of the columns of y."
        )


def advice_about_lists(shape: Sequence[int], n_rows: int) -> str:
    """Return advice about a list of two-column arrays, one per label, as forests return; else ""."""
    if len(shape) != 3 or tuple(shape[1:]) != (n_rows, 2):
        return ""
    return (
        " predict_proba gives a list with an array for each label: turn it into np.column_stack([p[:, 1] for "
        "p in answers])."
    )


def warn_of_label_probabilities(who: str, remedy: str) -> None:
    """Warn that the teacher gave probabilities instead of logits."""
    warnings.warn(
        f"{who} gives probabilities where logits are expected: all numbers lie between 0 and 1. The "
        f"logarithms of their odds are used, which miss what the sigmoid rounded. {remedy}, or take "
        "log(p / (1 - p)).",
        UserWarning,
        stacklevel=2,
    )


def warn_if_they_exclude_each_other(values: Tensor, who: str) -> None:
    """Warn if the probabilities in every row, given as such or as logarithms, sum to 1, as a softmax's do."""
    if len(values) < _FEWEST_ROWS:
        return
    part = values[:_MOST_ROWS].double()
    sums = part.sum(dim=1) if bool((part >= 0).all()) else part.exp().sum(dim=1)
    if bool(((sums - 1).abs() <= _ROUNDING).all()):
        warnings.warn(
            f"{who}: in every row the probabilities sum to 1, as those of a softmax do, whose classes "
            "exclude each other. A teacher of several labels needs a sigmoid for each: give one that was "
            "trained in this way.",
            UserWarning,
            stacklevel=2,
        )


class LabelConversion(NamedTuple):
    """Conversion of a teacher's output to one logit for each label.

    Attributes
    ----------
    probabilities : bool
        True if the output is probabilities, so that log odds are taken.
    who : str
        Name of the teacher in messages.
    floor : callable
        Replacement of probabilities of 0 and 1.
    """

    probabilities: bool
    who: str
    floor: Floor = floor_of_all_rows

    @classmethod
    def of(
        cls,
        values: Tensor,
        n_labels: int,
        who: str,
        remedy: str | None,
        floor: Floor = floor_of_all_rows,
    ) -> LabelConversion:
        """Derive the conversion from the first batch of outputs, and check its numbers.

        ``remedy`` is the advice in the warning about probabilities. None: do not warn. ``floor`` is the
        replacement of probabilities of 0 and 1.

        Raises
        ------
        WrongAnswerError
            If a row has NaN or +inf, or only −inf.
        ValueError
            If there is not one column for each label.
        """
        check_n_labels(values.shape[1], n_labels, who)
        refuse_wrong_numbers(values, who, logit_is=_A_LOGIT_IS)
        warn_if_they_exclude_each_other(values, who)
        probabilities = are_label_probabilities(values)
        if probabilities and remedy is not None:
            warn_of_label_probabilities(who, remedy)
        return cls(probabilities, who, floor)

    def __call__(self, values: Tensor) -> Tensor:
        """Return logits of shape (n, k).

        Raises
        ------
        ValueError
            If the first batch was probabilities, but this one is not.
        """
        if not self.probabilities:
            return values
        if len(values) and not are_label_probabilities(values):
            raise ValueError(
                f"{self.who} gave numbers between 0 and 1, like probabilities, for the first rows, but "
                f"numbers from {float(values.min()):.3g} to {float(values.max()):.3g} for later ones. Have "
                "it return logits for all rows, or give its answers to fit as teacher_logits."
            )
        return log_odds(values, self.floor)


def checked_label_logits(
    teacher_logits: Any,
    n_samples: int,
    labels: np.ndarray,
    *,
    stated: list[Any] | None = None,
    names: Any = None,
    name: str = "teacher_logits",
    of: str = "X",
) -> np.ndarray | None:
    """Return checked logits of several labels, shape (n_samples, k); None for None.

    Parameters
    ----------
    teacher_logits : array-like, DataFrame, Tensor or None
    n_samples : int
        Number of rows of X.
    labels : ndarray of shape (k,)
        Column numbers of y.
    stated : None
        Unused: there are no classes to state.
    names : object, default=None
        X or y. Its pandas index, if it has one, names the rows.
    name, of : str
        Names of the logits and of the array of their rows in messages.

    Raises
    ------
    ValueError
        If the shape is wrong, names do not match, or a row has NaN or +inf.
    """
    if teacher_logits is None:
        return None
    columns = column_names(teacher_logits)
    if columns is not None and columns != labels.tolist():
        raise ValueError(
            f"{name} has the columns {columns[:10]}, but labels have no names here. Give {name}.to_numpy() "
            "with a column for each label, in the order of the columns of y."
        )
    values = numbers_in_order(teacher_logits, names, Given(name, of))
    if values.shape != (n_samples, len(labels)):
        raise ValueError(
            f"{name} must have one row per row of {of} and one column per label of y, shape "
            f"({n_samples}, {len(labels)}); got {tuple(values.shape)}."
            f"{advice_about_lists(values.shape, n_samples)}"
        )
    n_checked = 0
    for part in parts_of(values):
        refuse_wrong_numbers(part.float(), name, n_checked, of, _A_LOGIT_IS)
        n_checked += len(part)
    warn_if_they_exclude_each_other(values, name)
    if not are_label_probabilities(values):
        return values.numpy()
    warn_of_label_probabilities(name, "Give what the network returns before its sigmoid")
    return log_odds(values).numpy()
