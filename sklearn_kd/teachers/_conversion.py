"""Convert a teacher's output to logits with one column per class of y."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.layers._outputs import are_probabilities
from sklearn_kd.teachers._class_alignment import align_columns
from sklearn_kd.teachers._logit_checks import AnswersWatch, logarithms, refuse_wrong_numbers
from sklearn_kd.teachers._zeros import Floor, floor_of_all_rows


class LogitConversion(NamedTuple):
    """Conversion of a teacher's output to logits of the classes of y.

    Attributes
    ----------
    columns : Tensor of shape (K,) or None
        Column of each class. None: the columns are in order.
    probabilities : bool
        True if the output is probabilities, so that logarithms are taken.
    floor : callable
        Replacement of probabilities of 0.
    """

    columns: Tensor | None
    probabilities: bool
    floor: Floor = floor_of_all_rows

    @classmethod
    def of(
        cls,
        values: Tensor,
        *,
        own: Any,
        stated: list[Any] | None,
        classes: np.ndarray,
        who: str,
        remedy: str | None,
        floor: Floor = floor_of_all_rows,
    ) -> LogitConversion:
        """Derive the conversion from the first batch of outputs, and check its numbers.

        Parameters
        ----------
        values : Tensor of shape (n, n_columns)
        own : array-like or None
            Classes of the columns, if the teacher knows them.
        stated : list or None
            Classes of the columns, if the user states them.
        classes : ndarray of shape (K,)
            Classes of y.
        who : str
            Name of the teacher in messages.
        remedy : str or None
            Advice in the warning about probabilities. None: do not warn.
        floor : callable
            Replacement of probabilities of 0.

        Raises
        ------
        WrongAnswerError
            If a row has NaN or +inf, or only −inf.
        ValueError
            If it is not known which column is which class.
        """
        refuse_wrong_numbers(values, who)
        n_columns = values.shape[1]
        columns = align_columns(n_columns, own=own, stated=stated, classes=classes, who=who)
        probabilities = are_probabilities(values)
        if probabilities and remedy is not None:
            warn_of_probabilities(who, remedy)
        in_place = np.array_equal(columns, np.arange(n_columns))
        places = None if in_place else torch.as_tensor(columns, device=values.device)
        return cls(places, probabilities, floor)

    def __call__(self, values: Tensor) -> Tensor:
        """Return logits of shape (n, K), with columns in the order of the classes of y."""
        logits = logarithms(values, self.floor) if self.probabilities else values
        return logits if self.columns is None else logits.index_select(1, self.columns)


def warn_of_probabilities(who: str, remedy: str) -> None:
    """Warn that the teacher gave probabilities instead of logits, and that their logarithms are used."""
    warnings.warn(
        f"{who} gives probabilities where logits are expected: every row is ≥ 0 and sums to 1. Their "
        f"logarithms are used, which miss what the softmax rounded to 0. {remedy}, or take the logarithm "
        "(log_softmax).",
        UserWarning,
        stacklevel=2,
    )


class BatchLogits:
    """Return a teacher's logits batch by batch; the first batch determines the conversion.

    Parameters
    ----------
    ask : callable(Tensor) -> Tensor
        Returns the teacher's output for a batch, shape (n, n_columns).
    convert : callable(Tensor) -> LogitConversion
        Derives the conversion from the first output.
    who : str
        Name of the teacher in messages.
    """

    def __init__(
        self, ask: Callable[[Tensor], Tensor], convert: Callable[[Tensor], LogitConversion], who: str
    ):
        self._ask, self._derive, self.watch = ask, convert, AnswersWatch(who)
        self._conversion: LogitConversion | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits of a batch, with columns in the order of the classes.

        The teacher gets a copy, because the student or another teacher gets the same batch.
        """
        values = self._ask(x.clone())
        if self._conversion is None:
            self._conversion = self._derive(values)
        self.watch.note(values)
        return self._conversion(values)
