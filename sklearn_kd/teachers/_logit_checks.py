"""Check the numbers that teachers return, and find the logits in a network's output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from torch import Tensor

from sklearn_kd.inputs._large_arrays import parts
from sklearn_kd.layers._outputs import SUM_TOLERANCE, tensors_in
from sklearn_kd.teachers._transformed import TransformedTeacher
from sklearn_kd.teachers._zeros import Floor, floor_of_all_rows

# The share of rows whose sums may be further off, if their numbers lie between 0 and 1.
_MOST_OFF = 0.05


class WrongAnswerError(ValueError):
    """A row of logits is not finite, or a row of ``predict_proba`` is not a distribution.

    The message consists of ``before``, the row and ``after``, so that the row can be renumbered.
    """

    def __init__(self, before: str, row: int, after: str):
        super().__init__(f"{before} row {row}{after}")
        self.before, self.row, self.after = before, row, after

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.before, self.row, self.after)


@contextmanager
def naming_rows(rows: np.ndarray, further: Sequence[tuple[str, np.ndarray]] = ()) -> Iterator[None]:
    """Renumber the row in a WrongAnswerError raised inside: row i becomes ``rows[i]``.

    The rows after these belong to ``further`` sources, given as (name, rows).
    """
    try:
        yield
    except WrongAnswerError as error:
        row, after = error.row, error.after
        for name, more in further:
            if row < len(rows):
                break
            row, rows = row - len(rows), more
            after = error.after.replace(" of X ", f" of {name} ", 1)
        raise WrongAnswerError(error.before, int(rows[row]), after) from None


@contextmanager
def counting_rows_from(n_before: int) -> Iterator[None]:
    """Add ``n_before`` to the row in a WrongAnswerError raised inside."""
    try:
        yield
    except WrongAnswerError as error:
        raise WrongAnswerError(error.before, n_before + error.row, error.after) from None


def name_of(teacher: Any, name: str = "teacher") -> str:
    """Return the name in messages of a teacher, or of another network given as ``name``."""
    shown = thawed(teacher)
    shown = shown.network if isinstance(shown, TransformedTeacher) else shown
    return f"{name} {type(shown).__name__}"


def thawed(teacher: Any) -> Any:
    """Return the content of a FrozenEstimator; return anything else as it is."""
    return teacher.estimator if isinstance(teacher, FrozenEstimator) else teacher


# --------------------------------------------------------------------------------------
# Numbers


_A_LOGIT_IS = "a logit is a number, or −inf for a class that is switched off"


def refuse_wrong_numbers(
    logits: Tensor, who: str, n_before: int = 0, of: str = "X", logit_is: str = _A_LOGIT_IS
) -> None:
    """Raise if a row of logits has NaN, +inf or only −inf.

    A single −inf is allowed: the class has probability 0. ``logit_is`` explains in the message what a logit
    is.

    Raises
    ------
    WrongAnswerError
        The message names ``who`` and the first such row, counted after ``n_before`` others.
    """
    wrong = ~torch.isfinite(_peaks(logits))
    if not bool(wrong.any()):
        return
    row = int(wrong.nonzero()[0][0])
    values = logits[row]
    found = (
        "NaN" if bool(values.isnan().any()) else "+inf" if bool((values > 0).any()) else "nothing but −inf"
    )
    raise WrongAnswerError(
        f"{who}:",
        n_before + row,
        f" of {of} has {found} among its logits; {logit_is}. Check that this row is all numbers, scaled as "
        "for the teacher, ask the teacher in float32, or leave such rows out.",
    )


def _peaks(logits: Tensor) -> Tensor:
    # NaN, +inf and a row of only −inf all show in the maximum of the row.
    return logits.amax(dim=1)


class AnswersWatch:
    """Checks the teacher's logits for NaN and +inf during training, without synchronising with the device.

    Parameters
    ----------
    who : str
        Name of the teacher in messages.
    """

    def __init__(self, who: str):
        self.who = who
        self._sum: Tensor | None = None

    def note(self, logits: Tensor) -> None:
        """Record a batch of logits."""
        # A sum with a value that is not finite is not finite either.
        peaks = _peaks(logits).sum()
        self._sum = peaks if self._sum is None else self._sum + peaks

    def fault(self) -> str | None:
        """Return a message if a recorded batch had NaN or +inf, else None."""
        if self._sum is None or bool(torch.isfinite(self._sum)):
            return None
        return (
            f"{self.who} answered some training batches with NaN or +inf, which no lr mends: try the teacher "
            "in float32, and check that augment keeps X in the range that the teacher was trained on."
        )


# --------------------------------------------------------------------------------------
# Probabilities


def checked_probabilities(probabilities: Any, who: str) -> np.ndarray:
    """Check the output of ``predict_proba`` and return it as an array.

    Raises
    ------
    WrongAnswerError
        If a row is not a distribution; the message names ``who`` and the first such row.
    ValueError
        If the shape is not (n, K).
    """
    probabilities = np.asarray(probabilities)
    if probabilities.ndim != 2:
        raise ValueError(
            f"{who}: predict_proba must return an array of shape (n_samples, n_classes), one label per row; "
            f"it returned shape {probabilities.shape}.{columns_of_two(probabilities)}"
        )
    sums = probabilities.sum(axis=1)
    # These comparisons are False for NaN.
    right = (probabilities >= 0).all(axis=1) & (np.abs(sums - 1) <= _tolerance(probabilities))
    # A few sums may be off by cancellation, as GaussianNB's are in float32; the softmax corrects them.
    possible = right | ((probabilities >= 0) & (probabilities <= 1 + SUM_TOLERANCE)).all(axis=1) & (
        sums > 0.5
    )
    if right.all() or (possible.all() and np.mean(~right) <= _MOST_OFF):
        return probabilities
    row = int(np.flatnonzero(~right)[0])
    raise WrongAnswerError(
        f"{who}: predict_proba must give probabilities, ≥ 0 and with sum 1;",
        row,
        f" of X has {_looks_like(probabilities, row)}. Give a teacher whose predict_proba does, or its "
        "logits as teacher_logits.",
    )


def columns_of_two(values: Any) -> str:
    """Return advice about an answer with one number per row, or an empty string."""
    if values.ndim != 1 or not len(values):
        return ""
    return (
        " Turn one margin z for two classes into np.column_stack([0 * z, z]), and one probability p into "
        "np.column_stack([1 - p, p])."
    )


def _tolerance(probabilities: np.ndarray) -> float:
    """Return the tolerance of the sums: each number rounded to two decimals may be off by 0.005."""
    two_decimals = np.allclose(probabilities, np.round(probabilities, 2), rtol=0, atol=1e-6)
    return min(max(SUM_TOLERANCE, 0.0051 * probabilities.shape[1]), 0.5) if two_decimals else SUM_TOLERANCE


def _looks_like(values: np.ndarray, row: int) -> str:
    found = values[row]
    if np.isnan(found).any():
        return "NaN"
    lowest, total = found.min(), found.sum()
    spread = f"the smallest value {lowest:.3g} and the sum {total:.3g}"
    if (values <= 0).all() and abs(np.exp(found).sum() - 1) <= SUM_TOLERANCE:
        return f"{spread}, as log-probabilities have"
    if lowest >= 0 and abs(total - 100) <= 100 * SUM_TOLERANCE:
        return f"{spread}, as percentages have"
    return f"{spread}, as decision values or logits may have" if lowest < 0 else spread


def log_probabilities(probabilities: np.ndarray, floor: Floor = floor_of_all_rows) -> np.ndarray:
    """Return logarithms, float32, with zeros replaced by ``floor``."""
    given = torch.as_tensor(np.ascontiguousarray(probabilities))
    floors = floor(given)
    logits = np.empty(given.shape, dtype=np.float32)
    for part in parts(len(given), given[:1].nbytes):
        logits[part] = torch.maximum(given[part], floors[part]).log().numpy()
    return logits


def logarithms(probabilities: Tensor, floor: Floor = floor_of_all_rows) -> Tensor:
    """Return a tensor's logarithms as :func:`log_probabilities` does, without waiting for the device."""
    return torch.maximum(probabilities, floor(probabilities)).log()


# --------------------------------------------------------------------------------------
# Logits in the output of a network


def logits_in(output: Any, n_rows: int, widths: Sequence[int], who: str, *, maps: bool = False) -> Tensor:
    """Return the logits in a network's output, shape (n_rows, n_columns), float32.

    Parameters
    ----------
    output : Tensor, object with ``logits``, tuple, list or mapping
        In a tuple, list or mapping, the logits are ``"logits"``, else the first tensor with one of
        ``widths`` columns, else the only tensor with two dimensions.
    n_rows : int
    widths : sequence of int
        Possible numbers of columns.
    who : str
        Name of the network in messages.
    maps : bool, default=False
        Whether the logits are maps, of shape (n_rows, n_columns, h, w).

    Raises
    ------
    ValueError
        If no tensor is clearly the logits.
    """
    n_dims, shape = (4, "(n, n_classes, height, width)") if maps else (2, "(n, n_classes)")
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(named, Tensor):
        output = named
    if isinstance(output, Tensor):
        if output.ndim == n_dims and len(output) == n_rows:
            return output.float()
        raise ValueError(
            f"{who} must return logits of shape {shape} for n rows; for {n_rows} it returned "
            f"{tuple(output.shape)}. Wrap it in a module that returns such logits."
        )
    tensors = [tensor for _, tensor in tensors_in(output)]
    rows = [t for t in tensors if t.ndim == n_dims and len(t) == n_rows]
    fitting = [t for t in rows if t.shape[1] in widths] or (rows if len(rows) == 1 else [])
    if fitting:
        return fitting[0].float()
    raise ValueError(
        f"{who} must return logits of shape {shape}; it returned {type(output).__name__} with tensors "
        f"of shape {[tuple(t.shape) for t in tensors[:8]]}, none of which is named logits or has "
        f"{' or '.join(map(str, widths))} columns. Wrap it in a module that returns the logits alone."
    )
