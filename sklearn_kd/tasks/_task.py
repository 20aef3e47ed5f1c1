"""The interface of every kind of target y."""

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
    """Checks the targets of a ``fit``, and makes its :class:`Task`: the class of a task, or an object."""

    def check_targets(self, y: Any, n_rows: int, name: str = "y", of: str = "X") -> np.ndarray:
        """Check the form of targets as given, as :meth:`Task.check_targets`."""

    def from_targets(self, targets: np.ndarray, weight: np.ndarray | None = None) -> tuple[Task, np.ndarray]:
        """Make the task from checked targets and the rows' weights; return it and the encoded targets."""


class Task(Protocol):
    """Everything that estimators and plans ask about y. Made from the targets of ``fit``."""

    numeric: ClassVar[bool]  # True: targets are numbers, and scorers see them in the user's units

    outputs_noun: ClassVar[str]  # what messages call the outputs

    @property
    def map_shape(self) -> tuple[int, ...]:
        """(H, W) where y has a map for each row, whose pixels are the targets; () for other targets."""

    @property
    def has_unknown(self) -> bool:
        """True if targets that are given may have parts without one, such as pixels of a map."""

    @property
    def n_outputs(self) -> int:
        """Width of the student's output; its number of maps where y has maps."""

    @property
    def output_labels(self) -> np.ndarray:
        """Label of each output, shape (n_outputs,), by which a teacher's columns are aligned."""

    # ----------------------------------------------------------------------------------
    # From the targets

    @staticmethod
    def check_targets(y: Any, n_rows: int, name: str = "y", of: str = "X") -> np.ndarray:
        """Check the form of targets as given, and return them as an array with one row per sample.

        ``name`` and ``of`` are what messages call the targets and the rows they belong to.
        """

    @classmethod
    def of_fitted(cls, estimator: Any) -> Self:
        """Make the task of a fitted estimator from its fitted attributes."""

    def check_learnable(self, codes: np.ndarray, weight: np.ndarray | None) -> None:
        """Raise ValueError if the rows of positive weight leave nothing to learn."""

    def encode(self, targets: np.ndarray, name: str = "y") -> np.ndarray:
        """Encode checked targets of further rows, such as those of D_val, as those of ``fit``."""

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Return the targets of encoded ones."""

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

        ``otherwise`` is the remedy in the message where no row can be spared. ``groups`` has the code of each
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
        """Return the loss on D_val that hypergradients descend, shape (), and its gradient by the outputs."""

    def validation_losses(self, logits: Tensor, targets: Targets, val_temperature: float = 1.0) -> Tensor:
        """Return the share of each row in the loss on D_val, shape (n,): their mean is the loss."""

    def optimal_val_temperature(self, validated: Sequence[tuple[Tensor, Targets]]) -> float:
        """Return the T_val at which batches of outputs and targets have the smallest validation loss."""

    # ----------------------------------------------------------------------------------
    # From the student's outputs

    def predictions(self, logits: Tensor) -> np.ndarray:
        """Return the predicted target of each row of outputs, in the user's terms."""

    def score(
        self, targets: np.ndarray, predictions: np.ndarray, sample_weight: np.ndarray | None = None
    ) -> float:
        """Score predictions; the greater the better."""


class RowTask(Task, Protocol):
    """A task with a target for each row, or several, which reports and comparisons score."""

    answers_by: ClassVar[str]  # the method of an estimator whose answers are scored

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures that :meth:`row_scores` takes; the first is the one to go by."""

    def row_scores(self, targets: np.ndarray, answers: np.ndarray) -> RowScores:
        """Score answers of ``answers_by`` to test rows with these targets, in the user's terms."""


class MapForm(Protocol):
    """Maps of targets as tensors: as the user has them, and as they are encoded."""

    def given(self, codes: Tensor) -> Tensor:
        """Return encoded maps in the user's terms."""

    def codes(self, maps: Tensor) -> Tensor:
        """Return maps in the user's terms encoded, without waiting for the device."""

    def check(self, maps: Tensor) -> None:
        """Raise ValueError if maps in the user's terms hold what y cannot."""


class MapTask(Task, Protocol):
    """A task of maps: losses see its pixels as rows."""

    history_score: ClassVar[str]  # the column of the history with the score of pixels

    def form(self, device: torch.device) -> MapForm:
        """Return what makes maps in the user's terms of encoded ones, and the reverse, for ``augment``."""

    def pixel_sums(self, logits: Tensor, targets: Targets) -> Tensor:
        """Return numbers of the pixels of a batch, shape (m,), whose sums over batches make the score."""

    def score_of_sums(self, sums: Sequence[float]) -> float:
        """Return the score of the pixels of all batches."""
