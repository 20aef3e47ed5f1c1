"""Several labels: y is a matrix of 0 and 1, and the labels of a row are independent of each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from sklearn.metrics import accuracy_score
from torch import Tensor
from torch.nn.functional import logsigmoid

from sklearn_kd.runtime._threads import PER_ELEMENT, threads_for
from sklearn_kd.tasks._binary_cross_entropy import (
    optimal_val_temperature,
    validation_loss,
    validation_losses,
)
from sklearn_kd.tasks._indicators import CODE_TYPE, checked_indicators, refuse_one_hot
from sklearn_kd.tasks._measures import RowScores, label_scores
from sklearn_kd.tasks._multilabel_split import split_labels
from sklearn_kd.tasks._targets import Targets

if TYPE_CHECKING:
    from typing_extensions import Self


class Multilabel:
    """k labels, each present (1) or absent (0); the student has one logit per label, for a sigmoid.

    Parameters
    ----------
    n_labels : int
        k.
    dtype : dtype
        Type of the numbers in y, and of predictions.
    """

    numeric: ClassVar[bool] = False
    outputs_noun: ClassVar[str] = "labels"
    map_shape: tuple[int, ...] = ()
    answers_by: ClassVar[str] = "predict_proba"
    measures: ClassVar[tuple[str, ...]] = ("subset_accuracy", "macro_f1", "log_loss")
    has_unknown: bool = False

    def __init__(self, n_labels: int, dtype: Any):
        self.n_labels, self.dtype = n_labels, np.dtype(dtype)

    @property
    def n_outputs(self) -> int:
        """Number of labels."""
        return self.n_labels

    @property
    def n_targets(self) -> int:
        """Number of labels, and of a teacher's columns."""
        return self.n_labels

    @property
    def output_labels(self) -> np.ndarray:
        """Indices of the columns of y, like ``classes_`` of scikit-learn's ``MLPClassifier``."""
        return np.arange(self.n_labels)

    # ----------------------------------------------------------------------------------
    # From the labels

    @staticmethod
    def check_targets(y: Any, n_rows: int, name: str = "y", of: str = "X") -> np.ndarray:
        """Check that y is a matrix of 0 and 1, and return it as an array of shape (n_rows, k).

        Raises
        ------
        ValueError
            If y is something else, lacks labels, or has another number of rows.
        """
        return checked_indicators(y, n_rows, name, of)

    @classmethod
    def from_targets(cls, targets: np.ndarray, weight: np.ndarray | None = None) -> tuple[Self, np.ndarray]:
        """Return the task, and the labels as int8. Weights are ignored.

        Raises
        ------
        ValueError
            If every row has exactly one label, as with classes that exclude each other.
        """
        codes = targets.astype(CODE_TYPE)
        refuse_one_hot(codes)
        return cls(targets.shape[1], targets.dtype), codes

    @classmethod
    def of_fitted(cls, estimator: Any) -> Self:
        """Read the number of labels and their type from a fitted estimator."""
        return cls(len(estimator.classes_), estimator.label_dtype_)

    def check_learnable(self, codes: np.ndarray, weight: np.ndarray | None) -> None:
        """Raise ValueError unless at least one label varies among the rows of positive weight."""
        counting = codes if weight is None else codes[weight > 0]
        if (counting == counting[:1]).all():
            raise ValueError(
                f"y has the same labels in all {len(counting)} rows"
                f"{'' if weight is None else ' of positive weight'}, {counting[0].tolist()[:10]}; at "
                "least one label must be present in some rows and absent in others."
            )

    def encode(self, targets: np.ndarray, name: str = "y") -> np.ndarray:
        """Return checked labels as int8.

        Raises
        ------
        ValueError
            If the number of labels is not that of y in ``fit``; ``name`` is what the message calls them.
        """
        if targets.ndim != 2 or targets.shape[1] != self.n_labels:
            raise ValueError(
                f"{name} has shape {targets.shape}, but y has {self.n_labels} labels: {name} must be a "
                f"matrix of 0 and 1 of shape (n_rows, {self.n_labels})."
            )
        return targets.astype(CODE_TYPE)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Return labels in the type of y."""
        return codes.astype(self.dtype)

    def example_targets(self, unlabeled: bool) -> Tensor:
        """Return the labels of two rows, the first and the last; the second has none if ``unlabeled``."""
        labels = torch.eye(self.n_labels, dtype=torch.int8)[[0, -1]]
        if unlabeled:
            labels[1] = -1
        return labels

    def fitted_attributes(self) -> dict[str, Any]:
        """Return ``classes_`` and ``label_dtype_``."""
        return {"classes_": self.output_labels, "label_dtype_": self.dtype}

    def split(
        self,
        codes: np.ndarray,
        fraction: float,
        rng: np.random.RandomState,
        otherwise: str,
        groups: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of D_train and D_val; every label is in D_train.

        Raises
        ------
        ValueError
            If no row can be spared for D_val; ``otherwise`` is a remedy that the message names.
        """
        return split_labels(codes, fraction, rng, groups, otherwise)

    # ----------------------------------------------------------------------------------
    # Validation

    @staticmethod
    def validation_loss(
        logits: Tensor, targets: Targets, val_temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Return the mean binary cross-entropy of σ(logits / T_val), and its gradient by the logits."""
        return validation_loss(logits, targets, val_temperature)

    @staticmethod
    def validation_losses(logits: Tensor, targets: Targets, val_temperature: float = 1.0) -> Tensor:
        """Return each row's part of the validation loss, shape (n,), with the loss as their mean."""
        return validation_losses(logits, targets, val_temperature)

    @staticmethod
    def optimal_val_temperature(validated: Sequence[tuple[Tensor, Targets]]) -> float:
        """Return the T_val at which batches of logits and targets have the smallest validation loss."""
        return optimal_val_temperature(validated)

    # ----------------------------------------------------------------------------------
    # From the logits

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probability of each label, shape (n, k): the sigmoid at temperature 1."""
        with threads_for(PER_ELEMENT * logits.numel()):
            return torch.sigmoid(logits)

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Return log probabilities of the labels, shape (n, k)."""
        with threads_for(PER_ELEMENT * logits.numel()):
            return logsigmoid(logits)

    def predictions(self, logits: Tensor) -> np.ndarray:
        """Return 1 for labels with a probability above one half, else 0, shape (n, k), in the type of y."""
        return (self.probabilities(logits).numpy() > 0.5).astype(self.dtype)

    def score(self, targets: Any, predictions: np.ndarray, sample_weight: np.ndarray | None = None) -> float:
        """Return the share of rows with all labels right, as scikit-learn's classifiers do.

        Raises
        ------
        ValueError
            If the targets are not a matrix of 0 and 1 with these labels; scikit-learn would count rows with
            other numbers as wrong.
        """
        codes = self.encode(checked_indicators(targets, len(predictions), "score's y"), "score's y")
        return float(accuracy_score(codes, predictions.astype(CODE_TYPE), sample_weight=sample_weight))

    def row_scores(self, targets: np.ndarray, answers: np.ndarray) -> RowScores:
        """Score probabilities of the labels."""
        return label_scores(targets.astype(CODE_TYPE), answers)
