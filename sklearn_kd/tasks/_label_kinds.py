"""The two kinds of labels that a classifier takes: one for each row, or several."""

from __future__ import annotations

from typing import Any

import numpy as np

from sklearn_kd.tasks._classification import Classification
from sklearn_kd.tasks._indicators import has_several_labels
from sklearn_kd.tasks._multilabel import Multilabel


class Labels:
    """Makes the :class:`Classification` or the :class:`Multilabel` that y stands for."""

    @staticmethod
    def check_targets(y: Any, n_rows: int, name: str = "y", of: str = "X") -> np.ndarray:
        """Check labels as the kind that they are; return them in one dimension, or in two for several."""
        kind = Multilabel if has_several_labels(y) else Classification
        return kind.check_targets(y, n_rows, name, of)

    @classmethod
    def from_targets(cls, targets: np.ndarray, weight: np.ndarray | None = None) -> tuple[Any, np.ndarray]:
        """Make the task from checked labels; return it and the encoded labels."""
        return (Multilabel if targets.ndim == 2 else Classification).from_targets(targets, weight)

    @classmethod
    def of_fitted(cls, estimator: Any) -> Any:
        """Make the task of a fitted estimator."""
        kind = Multilabel if vars(estimator).get("label_dtype_") is not None else Classification
        return kind.of_fitted(estimator)
