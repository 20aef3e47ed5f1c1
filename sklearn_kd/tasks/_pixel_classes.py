"""Classes of pixels: y has a map of integers for each image; unknown pixels have ``ignore_index``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.runtime._threads import PER_ELEMENT, threads_for
from sklearn_kd.tasks._confusion import mean_iou_of_maps
from sklearn_kd.tasks._cross_entropy import optimal_val_temperature, validation_loss, validation_losses
from sklearn_kd.tasks._image_weights import weights_of_images
from sklearn_kd.tasks._label_maps import LabelMaps
from sklearn_kd.tasks._pixel_codes import (
    UNKNOWN,
    checked_integers,
    checked_shape,
    classes_of_maps,
    codes_of_maps,
    labels_of_codes,
    shown,
)
from sklearn_kd.tasks._pixels import known_weight
from sklearn_kd.tasks._random_split import split_known
from sklearn_kd.tasks._targets import Targets
from sklearn_kd.tasks._usual_ignored import warn_of_usual_ignored

if TYPE_CHECKING:
    from typing_extensions import Self


class PixelClassification:
    """Maps of K classes, encoded as 0 … K−1 in sorted order; the student returns a map of logits per class.

    Parameters
    ----------
    classes : ndarray of shape (K,)
        The labels, sorted.
    map_shape : tuple of int
        (H, W) of the maps in y.
    ignore_index : int or None
        The label of unknown pixels. None: all pixels have a class.
    """

    numeric: ClassVar[bool] = False
    outputs_noun: ClassVar[str] = "classes"
    history_score: ClassVar[str] = "valid_acc"  # the column of the history with the score of pixels

    def __init__(self, classes: np.ndarray, map_shape: tuple[int, ...], ignore_index: int | None = None):
        self.classes, self.map_shape, self.ignore_index = classes, tuple(map_shape), ignore_index

    @property
    def n_outputs(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def n_targets(self) -> int:
        """Number of classes, and of a teacher's maps."""
        return len(self.classes)

    @property
    def has_unknown(self) -> bool:
        """Whether pixels of images with maps may have no label."""
        return self.ignore_index is not None

    @property
    def output_labels(self) -> np.ndarray:
        """Classes, in the order of the maps of logits."""
        return self.classes

    # ----------------------------------------------------------------------------------
    # From the labels

    @staticmethod
    def check_targets(y: Any, n_rows: int, name: str = "y", of: str = "X") -> np.ndarray:
        """Check that there is one map of integers for each image; return the maps, shape (n_rows, H, W).

        Raises
        ------
        ValueError
            If the maps differ in shape, are not integers, or their number is not that of the images.
        """
        return checked_integers(checked_shape(y, n_rows, name, of), name)

    @classmethod
    def of_targets(cls, targets: np.ndarray, ignore_index: int | None) -> tuple[Self, np.ndarray]:
        """Find the classes of maps; return the task and the maps of codes, −1 for unknown pixels.

        Raises
        ------
        ValueError
            If no pixel has a label.
        """
        classes = classes_of_maps(targets, ignore_index)
        if not len(classes):
            raise ValueError(
                f"y has ignore_index={ignore_index} in all pixels: there is nothing to learn. Give maps "
                "with labels."
            )
        warn_of_usual_ignored(classes, ignore_index)
        codes, _ = codes_of_maps(targets, classes, ignore_index)
        return cls(classes, targets.shape[1:], ignore_index), codes

    @classmethod
    def of_fitted(cls, estimator: Any) -> Self:
        """Read the classes and the shape of a map of a fitted estimator."""
        return cls(estimator.classes_, estimator.map_shape_, estimator.ignore_index)

    def check_learnable(self, codes: np.ndarray, weight: np.ndarray | None) -> None:
        """Raise ValueError unless pixels of images of positive weight have two classes or more."""
        counting = codes if weight is None else codes[weight > 0]
        seen = classes_of_maps(counting, UNKNOWN)
        of_weight = "" if weight is None else " of positive weight"
        if not len(seen):
            raise ValueError(
                f"y has no pixel with a label in n_samples = {len(counting)} images{of_weight}. Give maps "
                "with labels."
            )
        if len(seen) < 2:
            raise ValueError(
                f"y has 1 class ({self.classes.tolist()[seen[0]]!r}) in all pixels of n_samples = "
                f"{len(counting)} images{of_weight}; a classifier needs at least two classes."
            )

    def encode(self, targets: np.ndarray, name: str = "y") -> np.ndarray:
        """Return the codes of checked maps, −1 for unknown pixels.

        Raises
        ------
        ValueError
            If the maps have another shape, a label that y in ``fit`` lacks, or no label at all.
        """
        if targets.shape[1:] != self.map_shape:
            raise ValueError(
                f"{name} has maps of shape {targets.shape[1:]}, but y of shape {self.map_shape}. Resize or "
                "crop images and maps to one shape."
            )
        codes, unknown = codes_of_maps(targets, self.classes, self.ignore_index)
        if len(unknown):
            raise ValueError(
                f"{name} has labels that y lacks: {unknown[:5].tolist()}. The classes of y are "
                f"{shown(self.classes)}, and ignore_index={self.ignore_index}."
            )
        if codes.max() < 0:
            raise ValueError(f"{name} has no pixel with a label. Give maps with labels.")
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Convert maps of codes to maps of labels, with ``ignore_index`` in unknown pixels."""
        return labels_of_codes(codes, self.classes, -1 if self.ignore_index is None else self.ignore_index)

    def fitted_attributes(self) -> dict[str, Any]:
        """Return ``classes_`` and ``map_shape_``."""
        return {"classes_": self.classes, "map_shape_": self.map_shape}

    def split(
        self,
        codes: np.ndarray,
        fraction: float,
        rng: np.random.RandomState,
        otherwise: str,
        groups: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of D_train and D_val: images drawn at random, with known pixels in both.

        Images without a known pixel go to D_train or, with ``groups``, to where their group is.

        Raises
        ------
        ValueError
            If no image with a known pixel can be spared for D_val.
        """
        known = np.asarray((codes >= 0).any(axis=(1, 2)))
        return split_known(known, fraction, rng, otherwise, groups)

    def form(self, device: torch.device) -> LabelMaps:
        """Return the converter between codes and labels on a device."""
        return LabelMaps(self.classes, self.ignore_index, device)

    def example_targets(self, unlabeled: bool) -> Tensor:
        """Return the codes of two pixels; the second has none if ``unlabeled``."""
        return torch.tensor([0, UNKNOWN if unlabeled else self.n_outputs - 1])

    # ----------------------------------------------------------------------------------
    # Validation

    @staticmethod
    def validation_loss(
        logits: Tensor, targets: Targets, val_temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Return the mean cross-entropy of the known pixels, and its gradient by the logits."""
        return validation_loss(logits, _of_known(targets), val_temperature)

    @staticmethod
    def validation_losses(logits: Tensor, targets: Targets, val_temperature: float = 1.0) -> Tensor:
        """Return each pixel's part of the validation loss, with the loss as their mean."""
        return validation_losses(logits, _of_known(targets), val_temperature)

    @staticmethod
    def optimal_val_temperature(validated: Sequence[tuple[Tensor, Targets]]) -> float:
        """Return the T_val at which batches of logits and targets of pixels have the smallest loss."""
        return optimal_val_temperature([(logits, _of_known(targets)) for logits, targets in validated])

    @staticmethod
    def pixel_sums(logits: Tensor, targets: Targets) -> Tensor:
        """Return how many known pixels of a batch are predicted correctly, and how many there are."""
        known = targets.labels >= 0
        right = known & (logits.argmax(dim=1) == targets.labels)
        return torch.stack([right.sum(), known.sum()])

    @staticmethod
    def score_of_sums(sums: Sequence[float]) -> float:
        """Return the share of correctly predicted known pixels, from the sums of all batches."""
        right, known = sums
        return right / known if known else float("nan")

    # ----------------------------------------------------------------------------------
    # From the logits

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return class probabilities of pixels, shape (n, K, H, W): the softmax at temperature 1."""
        with threads_for(PER_ELEMENT * logits.numel()):
            return torch.softmax(logits, dim=1)

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Return log probabilities of the classes, shape (n, K, H, W)."""
        with threads_for(PER_ELEMENT * logits.numel()):
            return torch.log_softmax(logits, dim=1)

    def predictions(self, logits: Tensor) -> np.ndarray:
        """Return the label of the largest logit of each pixel, shape (n, H, W), in the type of y."""
        return self.classes[logits.argmax(dim=1).numpy()]

    def score(
        self, targets: np.ndarray, predictions: np.ndarray, sample_weight: np.ndarray | None = None
    ) -> float:
        """Return the mean intersection over union of the classes that occur, over all known pixels."""
        targets = self.check_targets(targets, len(predictions), "score's y")
        if targets.shape != predictions.shape:
            raise ValueError(
                f"score's y has maps of shape {targets.shape[1:]}, but the predictions for X have shape "
                f"{predictions.shape[1:]}. Give X and y at the sizes they had in fit, or scale both alike."
            )
        weight = weights_of_images(sample_weight, len(targets))
        return mean_iou_of_maps(targets, predictions, self.ignore_index, weight, "score's y")


def _of_known(targets: Targets) -> Targets:
    """Return the targets without a teacher; unknown pixels have weight 0 and an arbitrary class."""
    return Targets(targets.labels.clamp(min=0), None, known_weight(targets))
