"""Choose among the kinds of labels that a classifier takes: one per row, several, or a map."""

from __future__ import annotations

from typing import Any

import numpy as np

from sklearn_kd.tasks._classification import Classification
from sklearn_kd.tasks._indicators import has_several_labels
from sklearn_kd.tasks._layered_maps import refuse_layered_maps
from sklearn_kd.tasks._multilabel import Multilabel
from sklearn_kd.tasks._pixel_classes import PixelClassification
from sklearn_kd.tasks._pixel_codes import are_maps


class Labels:
    """Maker of the :class:`Classification`, :class:`Multilabel` or :class:`PixelClassification` for y.

    Parameters
    ----------
    ignore_index : int or None, default=None
        The label of unknown pixels.
    """

    def __init__(self, ignore_index: int | None = None):
        self.ignore_index = ignore_index

    @staticmethod
    def check_targets(y: Any, n_rows: int, name: str = "y", of: str = "X") -> np.ndarray:
        """Check labels according to their kind; return an array of one, two or three dimensions."""
        refuse_layered_maps(y, name, "class")
        if are_maps(y):
            return PixelClassification.check_targets(y, n_rows, name, of)
        kind = Multilabel if has_several_labels(y) else Classification
        return kind.check_targets(y, n_rows, name, of)

    def from_targets(self, targets: np.ndarray, weight: np.ndarray | None = None) -> tuple[Any, np.ndarray]:
        """Make the task from checked labels; return it and the encoded labels.

        Raises
        ------
        ValueError
            If there is an ``ignore_index`` but y has no maps, or y does not hold classes.
        """
        if targets.ndim == 3:
            return PixelClassification.of_targets(targets, self.ignore_index)
        if self.ignore_index is not None:
            raise ValueError(
                f"ignore_index={self.ignore_index} is the label of unknown pixels, but y has shape "
                f"{targets.shape}, not (n_samples, height, width). Set ignore_index=None; give rows without "
                "labels to fit as X_unlabeled."
            )
        return (Multilabel if targets.ndim == 2 else Classification).from_targets(targets, weight)

    @classmethod
    def of_fitted(cls, estimator: Any) -> Any:
        """Make the task of a fitted estimator."""
        fitted = vars(estimator)
        if fitted.get("map_shape_") is not None:
            return PixelClassification.of_fitted(estimator)
        kind = Multilabel if fitted.get("label_dtype_") is not None else Classification
        return kind.of_fitted(estimator)


class SingleLabels(Labels):
    """Maker of the :class:`Classification` or :class:`PixelClassification` for y; refuses several labels."""

    @staticmethod
    def check_targets(y: Any, n_rows: int, name: str = "y", of: str = "X") -> np.ndarray:
        """Check labels according to their kind; return an array of one or three dimensions."""
        refuse_layered_maps(y, name, "class")
        kind = PixelClassification if are_maps(y) else Classification
        return kind.check_targets(y, n_rows, name, of)
