"""Choose between the kinds of numbers that a regressor takes: per row, or per pixel of an image."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sklearn_kd.tasks._criterion import Criterion
from sklearn_kd.tasks._layered_maps import refuse_layered_maps
from sklearn_kd.tasks._missing_codes import warn_of_missing_codes
from sklearn_kd.tasks._pixel_codes import are_maps
from sklearn_kd.tasks._pixel_numbers import PixelRegression
from sklearn_kd.tasks._regression import Regression, RegressionTargets


class Numbers(NamedTuple):
    """Maker of the :class:`Regression` or the :class:`PixelRegression` for y, with a loss.

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
        """Check numbers according to their kind; return them in one or two dimensions, maps in three."""
        refuse_layered_maps(y, name, "number")
        if not are_maps(y):
            return Regression.check_targets(y, n_rows, name, of)
        maps = PixelRegression.check_targets(y, n_rows, name, of)
        if name == "y":  # targets of D_val are of the same kind
            warn_of_missing_codes(np.asarray(y))
        return maps

    def from_targets(
        self, targets: np.ndarray, weight: np.ndarray | None = None
    ) -> tuple[Regression, np.ndarray]:
        """Return the task and the encoded targets, in the units of the last fit if there is one."""
        if targets.ndim < 3 and not isinstance(self.last, PixelRegression):
            return RegressionTargets(self.criterion, self.last).from_targets(targets, weight)
        if self.last is None:
            return PixelRegression.of_targets(targets, weight, self.criterion)
        if targets.ndim < 3 or not isinstance(self.last, PixelRegression):
            kinds = ("rows", "pixels") if targets.ndim == 3 else ("pixels", "rows")
            raise ValueError(
                f"warm_start=True continues with a student for numbers of {kinds[0]}, but y has numbers of "
                f"{kinds[1]}, shape {targets.shape}. Give the same kind of targets, or set warm_start=False."
            )
        return self.last.continued(targets, weight, self.criterion)


def fitted_numbers(estimator: Any) -> Regression:
    """Return the task of a fitted estimator."""
    kind = Regression if vars(estimator).get("map_shape_") is None else PixelRegression
    return kind.of_fitted(estimator)
