"""Detect non-finite predictions before, during and after training."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from sklearn_kd.inputs._data import DistillationData, LoadedData, SplitData
from sklearn_kd.inputs._parts import Parts
from sklearn_kd.runtime._eval_mode import isolated_eval_mode
from sklearn_kd.runtime._finite import has_finite_state
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.runtime._recurrent import copied_module
from sklearn_kd.tasks._pixels import images_at_a_time
from sklearn_kd.training._nonfinite import divergence_message

if TYPE_CHECKING:
    from sklearn_kd.training._net import TrainingNet

# Number of rows, those of the largest values, that are tried instead of all.
_N_TRIED = 16
# If logits of these rows exceed this, they are too near to overflow to represent the other rows.
_LARGE = 1e15
# Squares of values above this may overflow, for example in the variance of a batch normalisation.
_LARGE_SQUARES = 1e9


class OverflowCheck:
    """Check whether a student's probabilities for the rows of a fit are numbers.

    The check uses the rows of the largest values, or all rows if the logits of those are too large to
    represent the others. For a user's Dataset, and for rows in parts, it uses two rows.

    Parameters
    ----------
    data : SplitData
    """

    rows: Any  # a tensor, or Parts

    def __init__(self, data: SplitData):
        sets = [part for part in data if part is not None]
        # Parts of rows have no common size, so two rows are used for them, too.
        are_tensors = isinstance(sets[0].samples, Tensor)
        self._all = [part for part in sets if are_tensors and not isinstance(part, LoadedData)]
        if are_tensors:
            self.rows = torch.cat([_largest(part) for part in self._all] or [part.samples for part in sets])
        else:
            self.rows = sets[0].samples

    @property
    def largest(self) -> float:
        """Largest absolute value in the rows."""
        parts = self.rows.floats if isinstance(self.rows, Parts) else [self.rows]
        return max((float(part.abs().max()) for part in parts), default=0.0)

    def passed_by(self, student: nn.Module) -> bool:
        """Return whether no probability is NaN in evaluation mode."""
        with isolated_eval_mode(student, self.rows.device):
            known, small = torch.stack(_known_and_small(student(self.rows))).tolist()
            if small or not known:
                return known
            # The batch size of prediction; rows are predicted independently of each other.
            batches = (x for part in self._all for x in part.iter_batches(_rows_at_a_time(part, 1024)))
            return all(bool(_known_and_small(student(x))[0]) for x in batches)


class DivergenceGuard:
    """Remember the last student that predicts, and restore it if training diverges.

    Parameters
    ----------
    data : SplitData
        Rows that a student must be able to predict.

    Attributes
    ----------
    message : str or None
        Why training was given up.
    silent : bool
        Whether to hide the message from the user, since other students that train too may be kept.
    """

    message: str | None = None
    silent = False

    def __init__(self, data: SplitData):
        self._check = OverflowCheck(data)
        self._checked_at: int | None = None
        self._states: list[dict[str, Any]] = []

    def remember(self, modules: Sequence[nn.Module]) -> None:
        """Copy the states of the trained modules, the student first."""
        self._states = [
            {
                name: value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)
                for name, value in module.state_dict().items()
            }
            for module in modules
        ]

    def give_up(self, message: str) -> None:
        """Record why training is given up, and warn."""
        self.message = message
        if not self.silent:
            warnings.warn(message, ConvergenceWarning, stacklevel=3)

    def is_new(self, iteration: int) -> bool:
        """Return True at the first call in an iteration; later calls find nothing changed."""
        is_new, self._checked_at = iteration != self._checked_at, iteration
        return is_new

    def restored(self, modules: Sequence[nn.Module]) -> bool:
        """Load the remembered states if the student no longer predicts; return whether that was so."""
        if has_finite_state(modules) and self._check.passed_by(modules[0]):
            return False
        for module, state in zip(modules, self._states, strict=True):
            module.load_state_dict(state)
        return True


def give_up_if_diverged(net: TrainingNet, mend: str) -> None:
    """Restore the last student that predicts, and warn with a remedy, if the present one does not."""
    iteration, skips = net.metaparameters.iteration, net.skips_
    assert net.guard_ is not None
    if net.diverged_ or not net.guard_.is_new(iteration):
        return
    restored = net.guard_.restored(net.trained_modules())
    if not restored and not skips.over:
        return
    net.diverged_ = True
    described, n_epochs = net.metaparameters.describe, len(net.history)
    net.guard_.give_up(divergence_message(skips, not restored, iteration, n_epochs, described, mend))


def _known_and_small(logits: Tensor) -> tuple[Tensor, Tensor]:
    return ~torch.softmax(logits.float(), dim=1).isnan().any(), logits.abs().max() < _LARGE


def _rows_at_a_time(data: DistillationData, most: int) -> int:
    """Return the number of rows to predict at once; fewer for maps of large images."""
    return max(2, images_at_a_time(data.shape[1:], most)) if data.map_shape else most


def _largest(data: DistillationData) -> Tensor:
    """Return the rows with the largest values, the largest first."""
    n_tried = _rows_at_a_time(data, _N_TRIED)
    if len(data) <= n_tried:
        return data.batch(slice(None))[0]
    # Judge by their norm, which takes a fifth of the time of the maximum. A norm that overflows is largest.
    lengths, rows, n = [], [], 0
    for x in data.iter_inputs():
        longest = torch.linalg.vector_norm(x.flatten(1), dim=1).topk(min(n_tried, len(x)))
        lengths.append(longest.values)
        rows.append(longest.indices + n)
        n += len(x)
    return data.batch(torch.cat(rows)[torch.cat(lengths).topk(n_tried).indices])[0]


def refuse_overflow(logits: Tensor) -> Tensor:
    """Return the logits if all probabilities are numbers, else raise.

    Raises
    ------
    ValueError
        Names X.
    """
    # A sum is finite only if all logits are, and takes little time compared with a softmax.
    if math.isfinite(logits.sum().item()) or bool(_known_and_small(logits)[0]):
        return logits
    rows = torch.softmax(logits.float(), dim=1).isnan().flatten(1).any(dim=1).nonzero().flatten()
    raise ValueError(
        f"X has {len(rows)} rows, such as row {int(rows[0])} of a batch, for which the "
        "student's logits overflow float32. Are they scaled like the rows given to fit?"
    )


def check_scale(student: nn.Module, data: SplitData, *, standardized: bool = False) -> None:
    """Refuse values for which the untrained student has no probabilities.

    ``standardized``: whether a layer in front of it standardises the rows.

    Raises
    ------
    ValueError
        Names the student if its weights are not finite, else X or X_val.
    """
    if not has_finite_state([student]):
        raise ValueError(
            "student has weights or buffers that are not finite. Give one whose weights are numbers, or "
            "a class, from which fit makes a new student."
        )
    for name, part in (("X", data.train), ("X_val", data.valid)):
        if part is None:
            continue
        check = OverflowCheck(SplitData(part, None))
        if not check.passed_by(student) or not _keeps_finite_state(student, check):
            remedy = (
                f"The student is given standardised rows; if it needs {name} unscaled, for example for a "
                "logarithm, set standardize=False"
                if standardized
                else f"Scale {name}: with standardize=True if it is a table, or a StandardScaler before the "
                "estimator in a pipeline"
            )
            raise ValueError(
                f"{name} has values up to {check.largest:.2g}, for which the outputs of the untrained "
                f"student are not finite in float32. {remedy}."
            )


def _keeps_finite_state(student: nn.Module, check: OverflowCheck) -> bool:
    """Return whether a training pass leaves buffers, such as running variances, finite."""
    if check.largest < _LARGE_SQUARES or len(check.rows) < 2 or not any(True for _ in student.buffers()):
        return True
    student = copied_module(student).train()
    with preserved_random_state(check.rows.device), torch.no_grad():
        student(check.rows)
    return has_finite_state([student])
