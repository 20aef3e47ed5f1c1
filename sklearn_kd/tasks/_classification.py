"""Classification: y has one label per row, of two classes or more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from sklearn.metrics import accuracy_score
from torch import Tensor

from sklearn_kd.errors._context import error_context
from sklearn_kd.runtime._threads import PER_ELEMENT, threads_for
from sklearn_kd.tasks._cross_entropy import optimal_val_temperature, validation_loss, validation_losses
from sklearn_kd.tasks._grouped_split import split_groups
from sklearn_kd.tasks._labels import checked_labels, sorted_classes
from sklearn_kd.tasks._measures import RowScores, class_scores
from sklearn_kd.tasks._stratified_split import split_rows
from sklearn_kd.tasks._targets import Targets

if TYPE_CHECKING:
    from typing_extensions import Self

# Largest number of classes that a message shows.
_N_SHOWN = 10


class Classification:
    """Labels of K classes, encoded as 0 … K−1 in sorted order; the student has one logit per class.

    Parameters
    ----------
    classes : ndarray of shape (K,)
        The labels, sorted.
    """

    numeric: ClassVar[bool] = False
    outputs_noun: ClassVar[str] = "classes"
    map_shape: tuple[int, ...] = ()
    answers_by: ClassVar[str] = "predict_proba"
    measures: ClassVar[tuple[str, ...]] = ("accuracy", "log_loss")
    has_unknown: bool = False

    def __init__(self, classes: np.ndarray):
        self.classes = classes

    @property
    def n_outputs(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def n_targets(self) -> int:
        """Number of classes, and of a teacher's columns."""
        return len(self.classes)

    @property
    def output_labels(self) -> np.ndarray:
        """Classes, in the order of the logits."""
        return self.classes

    # ----------------------------------------------------------------------------------
    # From the labels

    @staticmethod
    def check_targets(y: Any, n_rows: int, name: str = "y", of: str = "X") -> np.ndarray:
        """Check that there is one label per row, and return the labels, shape (n_rows,).

        Raises
        ------
        ValueError
            If labels are missing, a row has several, or their number is not that of the rows.
        """
        return checked_labels(y, n_rows, name, of)

    @classmethod
    def from_targets(cls, targets: np.ndarray, weight: np.ndarray | None = None) -> tuple[Self, np.ndarray]:
        """Find the classes of labels; return the task and the class code of each row. Weights are ignored.

        Raises
        ------
        ValueError
            If y does not hold class labels, but for example numbers on a scale.
        TypeError
            If the labels are of several types, which cannot be sorted.
        """
        classes, codes = sorted_classes(targets)
        return cls(classes), codes

    @classmethod
    def of_fitted(cls, estimator: Any) -> Self:
        """Read the classes of a fitted estimator."""
        return cls(estimator.classes_)

    def check_learnable(self, codes: np.ndarray, weight: np.ndarray | None) -> None:
        """Raise ValueError unless rows of positive weight have two classes or more."""
        seen = np.flatnonzero(np.bincount(codes if weight is None else codes[weight > 0]))
        if len(seen) < 2:
            raise ValueError(
                f"y has 1 class ({self.classes.tolist()[seen[0]]!r}) in n_samples = {len(codes)} rows"
                f"{'' if weight is None else ' of positive weight'}; a classifier needs at "
                "least two classes."
            )

    def encode(self, targets: np.ndarray, name: str = "y") -> np.ndarray:
        """Return the class codes of checked labels.

        Raises
        ------
        ValueError
            If there is a label that y in ``fit`` lacks; ``name`` is what the message calls the labels.
        """
        with error_context(name):
            unknown = np.setdiff1d(targets, self.classes)
        if len(unknown):
            raise ValueError(
                f"{name} has labels that y lacks: {unknown[:5].tolist()}. The classes of y are "
                f"{self.classes.tolist()[:_N_SHOWN]}."
            )
        return np.searchsorted(self.classes, targets)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Return the labels of class codes."""
        return self.classes[codes]

    def fitted_attributes(self) -> dict[str, Any]:
        """Return ``classes_``."""
        return {"classes_": self.classes}

    def split(
        self,
        codes: np.ndarray,
        fraction: float,
        rng: np.random.RandomState,
        otherwise: str,
        groups: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of D_train and D_val, stratified by class if classes and groups allow it.

        Raises
        ------
        ValueError
            If no row can be spared for D_val; ``otherwise`` is a remedy that the message names.
        """
        if groups is not None:
            return split_groups(codes, groups, fraction, rng, otherwise)
        return split_rows(codes, fraction, rng, otherwise)

    def example_targets(self, unlabeled: bool) -> Tensor:
        """Return the codes of two rows; the second has none if ``unlabeled``."""
        return torch.tensor([0, -1 if unlabeled else self.n_outputs - 1])

    # ----------------------------------------------------------------------------------
    # Validation

    @staticmethod
    def validation_loss(
        logits: Tensor, targets: Targets, val_temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy of softmax(logits / T_val), and its gradient by the logits."""
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
        """Return class probabilities, shape (n, K): the softmax at temperature 1."""
        with _threads_for_softmax(logits):
            return torch.softmax(logits, dim=1)

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Return log probabilities of the classes, shape (n, K)."""
        with _threads_for_softmax(logits):
            return torch.log_softmax(logits, dim=1)

    def predictions(self, logits: Tensor) -> np.ndarray:
        """Return the label of the largest probability of each row, shape (n,)."""
        return self.classes[self.probabilities(logits).numpy().argmax(axis=1)]

    def score(
        self, targets: np.ndarray, predictions: np.ndarray, sample_weight: np.ndarray | None = None
    ) -> float:
        """Return the accuracy, a share from 0 to 1."""
        return float(accuracy_score(targets, predictions, sample_weight=sample_weight))

    def row_scores(self, targets: np.ndarray, answers: np.ndarray) -> RowScores:
        """Score probabilities; a label that is not one of the classes has probability 0."""
        codes = np.full(len(targets), -1)
        known = np.isin(targets, self.classes)
        codes[known] = np.searchsorted(self.classes, targets[known])
        return class_scores(codes, answers)


def _threads_for_softmax(logits: Tensor) -> threads_for:
    # Torch would divide even two rows among all threads.
    return threads_for(PER_ELEMENT * logits.numel())
