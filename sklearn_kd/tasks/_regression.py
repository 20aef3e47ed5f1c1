"""Regression: y has one number or several per row, standardised for the student."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from sklearn.metrics import r2_score
from torch import Tensor

from sklearn_kd.tasks._criterion import Criterion, gaussian_parameters
from sklearn_kd.tasks._measures import RowScores, number_scores, quantile_scores
from sklearn_kd.tasks._numbers import checked_numbers
from sklearn_kd.tasks._random_split import split_at_random
from sklearn_kd.tasks._targets import Targets

if TYPE_CHECKING:
    from typing_extensions import Self

# The squares of targets farther from the mean than this, in standard deviations, overflow float32.
MOST_DEVIATIONS = 1e15


class Regression:
    """m numbers per row, encoded to mean 0 and standard deviation 1 each.

    The student has one output for each target, or two (mean and logarithm of the variance) if the
    criterion is "gaussian_nll"; the m means come first.

    Parameters
    ----------
    mean, scale : ndarray of shape (m,), float64
        Mean and divisor of y.
    single : bool
        Whether y and predictions have shape (n,).
    criterion : Criterion
        The loss on y.
    """

    numeric: ClassVar[bool] = True
    outputs_noun: ClassVar[str] = "outputs"
    map_shape: tuple[int, ...] = ()
    answers_by: ClassVar[str] = "predict"
    has_unknown: bool = False

    def __init__(self, mean: np.ndarray, scale: np.ndarray, single: bool, criterion: Criterion):
        self.mean, self.scale, self.single, self.criterion = mean, scale, single, criterion

    @property
    def n_targets(self) -> int:
        """Number of targets m, and of a teacher's columns."""
        return len(self.mean)

    @property
    def n_outputs(self) -> int:
        """Number of the student's outputs."""
        return self.n_targets * self.criterion.outputs_per_target

    @property
    def output_labels(self) -> np.ndarray:
        """Indices of the outputs, which have no labels."""
        return np.arange(self.n_outputs)

    # ----------------------------------------------------------------------------------
    # From the targets

    @staticmethod
    def check_targets(y: Any, n_rows: int, name: str = "y", of: str = "X") -> np.ndarray:
        """Check that y holds finite real numbers; return them, shape (n_rows,) or (n_rows, m), float64."""
        return checked_numbers(y, n_rows, name, of)

    @classmethod
    def of_targets(
        cls, targets: np.ndarray, weight: np.ndarray | None, criterion: Criterion
    ) -> tuple[Self, np.ndarray]:
        """Make the task of checked targets; return it and the encoded targets.

        Raises
        ------
        ValueError
            If numbers are so large that their sum or their differences overflow.
        """
        columns = targets.reshape(len(targets), -1)
        counts = np.ones(len(columns), bool) if weight is None else weight > 0
        seen, share = columns[counts], None if weight is None else weight[counts]
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.average(seen, axis=0, weights=share)
            apart = seen - mean
            # Scale by a power of two, which rounds nothing, so that squares neither overflow nor vanish.
            power = np.frexp(np.abs(apart).max(axis=0))[1]
            scale = np.sqrt(np.average(np.ldexp(apart, -power) ** 2, axis=0, weights=share))
            scale = np.ldexp(scale, power)
        if not np.isfinite(scale).all():
            raise ValueError(
                f"y has numbers up to {np.abs(seen).max():.2g}, whose sum or differences overflow. Divide y "
                "by a constant."
            )
        task = cls(mean, np.where(scale > 0, scale, 1.0), targets.ndim == 1, criterion)
        return task, task.standardised(targets)

    @classmethod
    def of_fitted(cls, estimator: Any) -> Self:
        """Read the task of a fitted estimator."""
        return cls(estimator.target_mean_, estimator.target_scale_, estimator._single, estimator._criterion)

    def check_learnable(self, codes: np.ndarray, weight: np.ndarray | None) -> None:
        """Raise ValueError unless each target varies among the rows of positive weight."""
        seen = codes if weight is None else codes[weight > 0]
        constant = np.flatnonzero(np.ptp(seen, axis=0) == 0)
        if len(constant):
            which = "y" if self.single else f"column {constant[0]} of y"
            value = self.decode(seen[:1]).ravel()[constant[0]]
            raise ValueError(
                f"{which} is one number, {value:.6g}, in all n_samples = {len(seen)} rows"
                f"{'' if weight is None else ' of positive weight'}: there is nothing to learn. Give rows "
                "whose targets differ."
            )

    def encode(self, targets: np.ndarray, name: str = "y") -> np.ndarray:
        """Standardise checked targets; return shape (n, m), float64.

        Raises
        ------
        ValueError
            If their number per row is not that in ``fit``, or they are so far from the mean of y that their
            squares overflow float32.
        """
        n_columns = 1 if targets.ndim == 1 else targets.shape[1]
        if n_columns != self.n_targets:
            raise ValueError(
                f"{name} has {n_columns} number(s) for each row, but y has {self.n_targets}. Give the same "
                "number of targets in both."
            )
        codes = self.standardised(targets)
        far = np.flatnonzero((np.abs(codes) > MOST_DEVIATIONS).any(axis=1))
        if len(far):
            raise ValueError(
                f"{name} has {np.abs(targets[far[0]]).max():.3g} in row {far[0]}, more than "
                f"{MOST_DEVIATIONS:g} standard deviations from the mean of y. Give both in the same units."
            )
        return codes

    def standardised(self, targets: np.ndarray) -> np.ndarray:
        """Standardise checked targets with the same number of columns, however far they are from the mean."""
        with np.errstate(over="ignore"):  # rows of weight 0 may have any targets
            codes: np.ndarray = (targets.reshape(len(targets), -1) - self.mean) / self.scale
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Convert encoded targets to the units of y, shape (n,) or (n, m), float64."""
        values = np.asarray(codes, dtype=np.float64) * self.scale + self.mean
        return values[:, 0] if self.single else values

    def fitted_attributes(self) -> dict[str, Any]:
        """Return what :meth:`of_fitted` reads."""
        return {
            "target_mean_": self.mean,
            "target_scale_": self.scale,
            "n_outputs_": self.n_targets,
            "_single": self.single,
            "_criterion": self.criterion,
        }

    def split(
        self,
        codes: np.ndarray,
        fraction: float,
        rng: np.random.RandomState,
        otherwise: str,
        groups: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of D_train and D_val, drawn at random; no group is in both.

        Raises
        ------
        ValueError
            If no row can be spared for D_val.
        """
        return split_at_random(len(codes), fraction, rng, otherwise, groups)

    def example_targets(self, unlabeled: bool) -> Tensor:
        """Return encoded targets of two rows; the second has none if ``unlabeled``."""
        targets = torch.linspace(-0.7, 0.9, 2 * self.n_targets).reshape(2, self.n_targets)
        if unlabeled:
            targets[1] = torch.nan
        return targets

    # ----------------------------------------------------------------------------------
    # Validation

    def validation_loss(
        self, logits: Tensor, targets: Targets, val_temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Return the criterion on y, averaged over targets and rows, and its gradient by the outputs."""
        outputs = logits.detach().requires_grad_()
        with torch.enable_grad():
            value = self._row_losses(outputs, targets).mean()
            (gradient,) = torch.autograd.grad(value, [outputs])
        return value.detach(), gradient

    @torch.no_grad()
    def validation_losses(self, logits: Tensor, targets: Targets, val_temperature: float = 1.0) -> Tensor:
        """Return each row's part of the validation loss, shape (n,), with the loss as their mean."""
        return self._row_losses(logits, targets)

    def _row_losses(self, outputs: Tensor, targets: Targets) -> Tensor:
        losses = self.criterion.errors(outputs, targets.labels.to(outputs)).mean(dim=-1)
        return losses if targets.weight is None else targets.weight.to(losses) * losses

    @staticmethod
    def optimal_val_temperature(validated: Sequence[tuple[Tensor, Targets]]) -> float:
        """Return 1: numbers have no temperature."""
        return 1.0

    # ----------------------------------------------------------------------------------
    # From the student's outputs

    def predictions(self, logits: Tensor) -> np.ndarray:
        """Return the predicted targets in the units of y, shape (n,) or (n, m), float64."""
        return self.decode(logits[:, : self.n_targets].double().cpu().numpy())

    def deviations(self, logits: Tensor) -> np.ndarray:
        """Return the standard deviations of Gaussian outputs in the units of y, shaped as predictions."""
        _, log_variance = gaussian_parameters(logits.double())
        found = np.exp(log_variance.cpu().numpy() / 2) * self.scale
        return found[:, 0] if self.single else found

    def score(
        self, targets: np.ndarray, predictions: np.ndarray, sample_weight: np.ndarray | None = None
    ) -> float:
        """Return R², averaged over the targets."""
        return float(r2_score(targets, predictions, sample_weight=sample_weight))

    @property
    def measures(self) -> tuple[str, ...]:
        """R², RMSE and the mean absolute error; for a quantile, D² and the pinball loss."""
        return ("d2", "pinball_loss") if self.criterion.name == "quantile" else ("r2", "rmse", "mae")

    def row_scores(self, targets: np.ndarray, answers: np.ndarray) -> RowScores:
        """Score predictions in the units of y."""
        if self.criterion.name == "quantile":
            assert self.criterion.parameter is not None
            return quantile_scores(targets, answers, self.criterion.parameter)
        return number_scores(targets, answers)


class RegressionTargets(NamedTuple):
    """Maker of the task of a fit from its targets, with a loss.

    Attributes
    ----------
    criterion : Criterion
    last : Regression or None
        The task of the fit that this one continues, whose units the student has learned.
    """

    criterion: Criterion
    last: Regression | None = None

    @staticmethod
    def check_targets(y: Any, n_rows: int, name: str = "y", of: str = "X") -> np.ndarray:
        """Check the targets like :meth:`Regression.check_targets`."""
        return checked_numbers(y, n_rows, name, of)

    def from_targets(
        self, targets: np.ndarray, weight: np.ndarray | None = None
    ) -> tuple[Regression, np.ndarray]:
        """Return the task and the encoded targets, in the units of the last fit if there is one."""
        if self.last is None:
            return Regression.of_targets(targets, weight, self.criterion)
        last = self.last
        task = Regression(last.mean, last.scale, targets.ndim == 1, self.criterion)
        if targets.size != len(targets) * task.n_targets:
            raise ValueError(
                f"warm_start=True continues with a student for {task.n_targets} target(s), but y has "
                f"{targets.shape[-1] if targets.ndim > 1 else 1} number(s) for each row. Give the same "
                "number, or set warm_start=False."
            )
        codes = task.encode(targets)
        mean = np.average(codes, axis=0, weights=weight)
        warn_of_other_units(mean, np.sqrt(np.average((codes - mean) ** 2, axis=0, weights=weight)))
        return task, codes


def warn_of_other_units(mean: np.ndarray, deviation: np.ndarray) -> None:
    """Warn if targets, in the last fit's units, are far from that fit's mean 0 and deviation 1."""
    known = (np.abs(mean) <= 10) & (deviation <= 10) & ((deviation >= 0.01) | (deviation == 0))
    if not known.all():
        first = int(known.argmin())
        warnings.warn(
            "warm_start=True continues in the units of the last fit, in which its targets had mean 0 and "
            f"standard deviation 1; y has mean {mean[first]:.3g} and standard deviation "
            f"{deviation[first]:.3g}. If the units of y have changed, set warm_start=False.",
            UserWarning,
            stacklevel=2,
        )
