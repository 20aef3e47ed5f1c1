"""The right panel of a report's picture: the reliability of probabilities, or the sizes of errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sklearn_kd.style._style import Look, ink, shown_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

# Bins of equal width of the calibration error, as in its source.
N_BINS = 15
# Bins of fewer rows, or of a smaller share of them, are faint and no line goes through them.
_FEW_ROWS, _SMALL_SHARE = 10, 0.01
# Share of the rows whose errors the picture shows; the largest would leave little room for the others.
_SHOWN = 0.98


class Bins(NamedTuple):
    """Answers binned by their probability.

    Attributes
    ----------
    n_rows : ndarray of shape (N_BINS,)
        Answers in the bin: rows, or rows × labels.
    confidence, accuracy : ndarray of shape (N_BINS,)
        Mean probability, and share of right answers; NaN in an empty bin.
    """

    n_rows: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @classmethod
    def of(cls, probability: np.ndarray, right: np.ndarray) -> Bins:
        """Bin answers: bin k of n has probabilities in (k / n, (k + 1) / n]."""
        probability = probability.astype(np.float64)
        place = np.clip(np.ceil(probability * N_BINS).astype(int) - 1, 0, N_BINS - 1)
        count = np.bincount(place, minlength=N_BINS)
        with np.errstate(invalid="ignore"):
            means = [
                np.bincount(place, weights=values, minlength=N_BINS) / count
                for values in (probability, right)
            ]
        return cls(count, *means)

    @property
    def calibration_error(self) -> float:
        """The mean distance between probability and share, weighted by the number of answers in the bins."""
        filled = self.n_rows > 0
        distance = np.abs(self.accuracy - self.confidence)[filled]
        return float(np.average(distance, weights=self.n_rows[filled]))

    @staticmethod
    def draw_frame(ax: Axes, panels: Mapping[str, Any]) -> None:
        """Draw the diagonal of perfect calibration."""
        ax.plot([0, 1], [0, 1], color=ink(), alpha=0.4, linewidth=1)
        ax.set_xlim(0, 1.02)
        ax.set_ylim(-0.02, 1.04)

    def draw(self, ax: Axes, role: str, look: Look) -> Line2D:
        """Draw a dot for each bin, and a line through those with enough answers; return the line."""
        shares = self.n_rows / self.n_rows.sum()
        clear = (self.n_rows >= _FEW_ROWS) & (shares >= _SMALL_SHARE)
        label = f"{shown_name(role)} (ECE {self.calibration_error:.3f})"
        (line,) = ax.plot(
            self.confidence[clear], self.accuracy[clear], **look.line(), markersize=5, label=label
        )
        for part, alpha in ((clear, 0.35), (~clear & (self.n_rows > 0), 0.5)):
            area = np.maximum(160 * shares[part], 12)
            dots: dict[str, Any] = {"s": area, "color": look.color, "alpha": alpha, "linewidth": 0}
            ax.scatter(self.confidence[part], self.accuracy[part], marker=look.marker, **dots)
        return line


class ErrorCurve(NamedTuple):
    """Distribution of the sizes of errors: the share of rows whose error is at most a given size.

    Attributes
    ----------
    errors : ndarray of shape (101,)
        Quantiles of the errors' sizes, in steps of 0.01.
    median : str
        Name of the median of these sizes.
    """

    errors: np.ndarray
    median: str = "median error"

    @classmethod
    def of(cls, sizes: np.ndarray, median: str = "median error") -> ErrorCurve:
        """Make the curve of the sizes of errors, shape (n,)."""
        return cls(np.quantile(sizes, np.linspace(0, 1, 101)), median)

    @staticmethod
    def draw_frame(ax: Axes, panels: Mapping[str, Any]) -> None:
        """Set the limits of the axes."""
        largest = max(panel.errors[round(100 * _SHOWN)] for panel in panels.values())
        ax.set_xlim(0, largest if largest > 0 else 1.0)
        ax.set_ylim(0, 1.02)

    def draw(self, ax: Axes, role: str, look: Look) -> Line2D:
        """Draw the curve and return it. The higher it is, the more rows have small errors."""
        label = f"{shown_name(role)} ({self.median} {self.errors[50]:.3g})"
        shares, every = np.linspace(0, 1, len(self.errors)), 20
        (line,) = ax.plot(
            self.errors, shares, **look.line(), markersize=5, markevery=every, linewidth=1.2, label=label
        )
        return line


Panel = Bins | ErrorCurve
