"""Interfaces of the kinds of target y."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.tasks._measures import RowScores
from sklearn_kd.tasks._targets import Targets

if TYPE_CHECKING:
    from typing_extensions import Self


class TaskMaker(Protocol):
    """Maker of a fit's :class:`Task` from its targets: the class of a task, or an object."""

    def check_targets(self, y: Any, n_rows: int, name: str = "y", of: str = "X") -> np.ndarray:
        """Check the form of given targets, like :meth:`Task.check_targets`."""

    def from_targets(self, targets: np.ndarray, weight: np.ndarray | None = None) -> tuple[Task, np.ndarray]:
        """Make the task from checked targets and row weights; return it and the encoded targets."""


class Task(Protocol):
    """Everything that estimators and plans need to know about y. Made from the targets of ``fit``."""

    numeric: ClassVar[bool]  # True: targets are numbers, and scorers see them in the user's units

    outputs_noun: ClassVar[str]  # what messages call the outputs

    @property
    def map_shape(self) -> tuple[int, ...]:
        """(H, W) if y has a map for each row, whose pixels are the targets; () for other targets."""

    @property
    def has_unknown(self) -> bool:
        """Whether given targets may lack parts, such as pixels of a map."""

    @property
    def n_outputs(self) -> int:
        """Width of the student's output; its number of maps if y has maps."""

    @property
    def output_labels(self) -> np.ndarray:
        """Label of each output, shape (n_outputs,), used to align a teacher's columns."""

    # ----------------------------------------------------------------------------------
    # From the targets

    @staticmethod
    def check_targets(y: Any, n_rows: int, name: str = "y", of: str = "X") -> np.ndarray:
        """Check the form of given targets, and return them as an array with one row per sample.

        ``name`` and ``of`` are what messages call the targets and the rows they belong to.
        """

    @classmethod
    def of_fitted(cls, estimator: Any) -> Self:
        """Make the task of a fitted estimator from its fitted attributes."""

    def check_learnable(self, codes: np.ndarray, weight: np.ndarray | None) -> None:
        """Raise ValueError if the rows of positive weight leave nothing to learn."""

    def encode(self, targets: np.ndarray, name: str = "y") -> np.ndarray:
        """Encode checked targets of further rows, such as those of D_val, like those of ``fit``."""

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Convert encoded targets back."""

    def fitted_attributes(self) -> dict[str, Any]:
        """Return the public fitted attributes that :meth:`of_fitted` reads."""

    def split(
        self,
        codes: np.ndarray,
        fraction: float,
        rng: np.random.RandomState,
        otherwise: str,
        groups: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of D_train and of D_val, ``fraction`` of the rows.

        ``otherwise`` is the remedy in the message if no row can be spared. ``groups`` has the code of each
        row's group; no group may be in both.
        """

    def example_targets(self, unlabeled: bool) -> Tensor:
        """Return encoded targets of two rows, to try a loss on; the second has none if ``unlabeled``."""

    @property
    def n_targets(self) -> int:
        """Number of columns of a teacher's answers."""

    # ----------------------------------------------------------------------------------
    # Validation

    def validation_loss(
        self, logits: Tensor, targets: Targets, val_temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Return the loss on D_val that hypergradients reduce, shape (), and its gradient by the outputs."""

    def validation_losses(self, logits: Tensor, targets: Targets, val_temperature: float = 1.0) -> Tensor:
        """Return each row's part of the loss on D_val, shape (n,), with the loss as their mean."""

    def optimal_val_temperature(self, validated: Sequence[tuple[Tensor, Targets]]) -> float:
        """Return the T_val at which batches of outputs and targets have the smallest validation loss."""

    # ----------------------------------------------------------------------------------
    # From the student's outputs

    def predictions(self, logits: Tensor) -> np.ndarray:
        """Return the predicted target of each row of outputs, in the user's terms."""

    def score(
        self, targets: np.ndarray, predictions: np.ndarray, sample_weight: np.ndarray | None = None
    ) -> float:
        """Score predictions; greater is better."""


class RowTask(Task, Protocol):
    """A task with one target or several for each row, which reports and comparisons can score."""

    answers_by: ClassVar[str]  # the estimator's method whose answers are scored

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures that :meth:`row_scores` takes; verdicts use the first."""

    def row_scores(self, targets: np.ndarray, answers: np.ndarray) -> RowScores:
        """Score answers of ``answers_by`` to test rows with these targets, in the user's terms."""


class MapForm(Protocol):
    """Converter of maps of targets, as tensors, between the user's terms and the encoded form."""

    def given(self, codes: Tensor) -> Tensor:
        """Convert encoded maps to the user's terms."""

    def codes(self, maps: Tensor) -> Tensor:
        """Encode maps in the user's terms, without waiting for the device."""

    def check(self, maps: Tensor) -> None:
        """Raise ValueError if maps in the user's terms hold values that y cannot have."""


class MapTask(Task, Protocol):
    """A task of maps, whose pixels losses see as rows."""

    history_score: ClassVar[str]  # the column of the history with the score of pixels

    def form(self, device: torch.device) -> MapForm:
        """Return the converter between encoded maps and the user's terms, for ``augment``."""

    def pixel_sums(self, logits: Tensor, targets: Targets) -> Tensor:
        """Return numbers of the pixels of a batch, shape (m,), whose sums over batches make the score."""

    def score_of_sums(self, sums: Sequence[float]) -> float:
        """Return the score of the pixels of all batches."""
