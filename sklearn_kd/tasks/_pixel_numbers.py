"""Numbers per pixel: y has a map for each image, standardised for the student; NaN: no target."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from sklearn.metrics import r2_score
from torch import Tensor

from sklearn_kd.tasks._criterion import Criterion, gaussian_parameters
from sklearn_kd.tasks._image_weights import no_pixels, weights_of_images
from sklearn_kd.tasks._number_maps import NumberMaps
from sklearn_kd.tasks._numbers import as_floats
from sklearn_kd.tasks._pixel_codes import checked_shape
from sklearn_kd.tasks._pixels import known_weight
from sklearn_kd.tasks._random_split import split_known
from sklearn_kd.tasks._regression import MOST_DEVIATIONS, Regression, warn_of_other_units
from sklearn_kd.tasks._targets import Targets

if TYPE_CHECKING:
    from typing_extensions import Self

# Number of pixels to read at a time, so that temporary arrays are small compared to y.
_PIXELS_AT_A_TIME = 2**20


class PixelRegression(Regression):
    """A number for each pixel of an image, encoded to mean 0 and standard deviation 1 over the known pixels.

    Pixels with NaN have no target. Losses see the pixels of a batch as rows.

    Parameters
    ----------
    mean, scale : ndarray of shape (1,), float64
        Mean and divisor of the known pixels.
    criterion : Criterion
        The loss on y.
    map_shape : tuple of int
        (H, W), the shape of a map in ``fit``.
    """

    history_score: ClassVar[str] = "valid_r2"  # the column of the history with the score of pixels

    def __init__(self, mean: np.ndarray, scale: np.ndarray, criterion: Criterion, map_shape: tuple[int, ...]):
        super().__init__(mean, scale, True, criterion)
        self.map_shape = tuple(map_shape)

    # ----------------------------------------------------------------------------------
    # From the targets

    @staticmethod
    def check_targets(y: Any, n_rows: int, name: str = "y", of: str = "X") -> np.ndarray:
        """Check that y is maps of real numbers; return them, shape (n_rows, H, W), with NaN."""
        return checked_number_maps(y, n_rows, name, of)

    @classmethod
    def of_targets(
        cls, targets: np.ndarray, weight: np.ndarray | None, criterion: Criterion
    ) -> tuple[Self, np.ndarray]:
        """Make the task of checked maps; return it and the encoded maps.

        Raises
        ------
        ValueError
            If no pixel of an image of positive weight is known, or numbers are so large that their sum or
            their differences overflow.
        """
        mean, scale = _mean_and_deviation(targets, weight)
        task = cls(np.array([mean]), np.array([scale if scale > 0 else 1.0]), criterion, targets.shape[1:])
        return task, task.standardised(targets)

    def continued(
        self, targets: np.ndarray, weight: np.ndarray | None, criterion: Criterion
    ) -> tuple[Self, np.ndarray]:
        """Return the task in the same units for a further fit, and its encoded maps.

        Raises
        ------
        ValueError
            If the maps have another shape.
        """
        if targets.shape[1:] != self.map_shape:
            raise ValueError(
                f"warm_start=True continues with a student for maps of shape {self.map_shape}, but y has "
                f"maps of shape {targets.shape[1:]}. Give maps of that shape, or set warm_start=False."
            )
        task = type(self)(self.mean, self.scale, criterion, self.map_shape)
        codes = task.encode(targets)
        mean, deviation = _mean_and_deviation(codes, weight)
        warn_of_other_units(np.array([mean]), np.array([deviation]))
        return task, codes

    @classmethod
    def of_fitted(cls, estimator: Any) -> Self:
        """Read the task of a fitted estimator."""
        return cls(
            estimator.target_mean_, estimator.target_scale_, estimator._criterion, estimator.map_shape_
        )

    def check_learnable(self, codes: np.ndarray, weight: np.ndarray | None) -> None:
        """Raise ValueError unless the known pixels of the images of positive weight vary."""
        seen = codes if weight is None else codes[weight > 0]
        low = np.nanmin(seen)
        if low == np.nanmax(seen):
            raise ValueError(
                f"y is one number, {self.decode(low):.6g}, in all known pixels of n_samples = {len(seen)} "
                f"images{'' if weight is None else ' of positive weight'}: there is nothing to learn. Give "
                "maps whose pixels differ."
            )

    def encode(self, targets: np.ndarray, name: str = "y") -> np.ndarray:
        """Standardise checked maps; return shape (n, H, W), float32.

        Raises
        ------
        ValueError
            If their shape is not that in ``fit``, or they are so far from the mean of y that their squares
            overflow float32.
        """
        if targets.shape[1:] != self.map_shape:
            raise ValueError(
                f"{name} has maps of shape {targets.shape[1:]}, but y has {self.map_shape}. Resize them to "
                "one shape."
            )
        codes = self.standardised(targets)
        far = np.flatnonzero((np.abs(codes) > MOST_DEVIATIONS).any(axis=(1, 2)))
        if len(far):
            raise ValueError(
                f"{name} has {np.nanmax(np.abs(targets[far[0]])):.3g} in image {far[0]}, more than "
                f"{MOST_DEVIATIONS:g} standard deviations from the mean of y. Give both in the same units."
            )
        return codes

    def standardised(self, targets: np.ndarray) -> np.ndarray:
        """Standardise numbers in the units of y; return the same shape, float32."""
        codes = np.empty(targets.shape, dtype=np.float32)
        with np.errstate(over="ignore"):  # images of weight 0 may have any targets
            for some in _chunks(targets):
                codes[some] = (targets[some].astype(np.float64) - self.mean) / self.scale
        return codes

    def decode(self, codes: Any) -> np.ndarray:
        """Convert encoded maps to the units of y, in the same shape, float64; rows of pixels to (n,)."""
        values: np.ndarray = np.asarray(codes, dtype=np.float64) * self.scale[0] + self.mean[0]
        return values[:, 0] if values.ndim == 2 else values

    def form(self, device: torch.device) -> NumberMaps:
        """Return the converter between encoded maps and the units of y, for ``augment``."""
        return NumberMaps(self.mean, self.scale)

    def fitted_attributes(self) -> dict[str, Any]:
        """Return what :meth:`of_fitted` reads."""
        return super().fitted_attributes() | {"map_shape_": self.map_shape}

    def split(
        self,
        codes: np.ndarray,
        fraction: float,
        rng: np.random.RandomState,
        otherwise: str,
        groups: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of D_train and D_val: images drawn at random, with known pixels in both.

        Images without a known pixel go to D_train, where a teacher may answer for them or, with ``groups``,
        to where their group is.

        Raises
        ------
        ValueError
            If no image with a known pixel can be spared for D_val.
        """
        return split_known(~np.isnan(codes).all(axis=(1, 2)), fraction, rng, otherwise, groups)

    # ----------------------------------------------------------------------------------
    # Validation, of the pixels as rows

    def _row_losses(self, outputs: Tensor, targets: Targets) -> Tensor:
        """Return each pixel's part of the mean over the pixels with a target."""
        labels, weight = targets.labels.to(outputs), known_weight(targets)
        losses = self.criterion.errors(outputs, labels.nan_to_num()).mean(dim=-1)
        return losses if weight is None else weight.to(losses) * losses

    def pixel_sums(self, logits: Tensor, targets: Targets) -> Tensor:
        """Return n, Σ y, Σ y² and Σ (f − y)² over the known pixels of a batch, float64."""
        y = targets.labels[:, 0].double()
        known = ~y.isnan()
        y = y.nan_to_num()
        error = torch.where(known, logits[:, 0].double() - y, 0.0)
        return torch.stack([known.sum(), y.sum(), (y**2).sum(), (error**2).sum()])

    @staticmethod
    def score_of_sums(sums: Sequence[float]) -> float:
        """Return R² of the known pixels, from the sums of all batches; NaN if they do not vary."""
        n, total, squares, errors = sums
        variation = squares - total**2 / n if n else 0.0
        return 1 - errors / variation if variation > 0 else math.nan

    # ----------------------------------------------------------------------------------
    # From the student's outputs

    def predictions(self, logits: Tensor) -> np.ndarray:
        """Return maps in the units of y, shape (n, h, w), float64, of outputs of shape (n, K, h, w)."""
        return self.decode(logits[:, 0].double().cpu().numpy())

    def deviations(self, logits: Tensor) -> np.ndarray:
        """Return the standard deviations of Gaussian outputs in the units of y, shaped as predictions."""
        _, log_variance = gaussian_parameters(logits.double().movedim(1, -1))
        found: np.ndarray = np.exp(log_variance[..., 0].cpu().numpy() / 2) * self.scale[0]
        return found

    def score(
        self, targets: np.ndarray, predictions: np.ndarray, sample_weight: np.ndarray | None = None
    ) -> float:
        """Return R² over the known pixels of all images."""
        true = checked_number_maps(targets, len(predictions))
        if true.shape != predictions.shape:
            raise ValueError(
                f"y has shape {true.shape}, but the predictions for X have {predictions.shape}. Give a map "
                "with the same number of pixels for each image."
            )
        known = ~np.isnan(true)
        weight = weights_of_images(sample_weight, len(true))
        if weight is not None:
            weight = np.broadcast_to(weight[:, None, None], true.shape)[known]
            if not weight.any():
                raise no_pixels("y", "all are NaN")
        return float(r2_score(true[known], predictions[known], sample_weight=weight))


# --------------------------------------------------------------------------------------
# Maps as given


def checked_number_maps(y: Any, n_rows: int, name: str = "y", of: str = "X") -> np.ndarray:
    """Check maps, and return them as float32 or float64, shape (n_rows, H, W); NaN: no target.

    Raises
    ------
    ValueError
        If they are not real numbers, infinite, NaN in all pixels, differ in shape, or their number is not
        that of the images.
    """
    values = as_floats(checked_shape(y, n_rows, name, of), name, keep_float32=True)
    if values.ndim != 3:
        raise ValueError(
            f"{name} has shape {values.shape}; it must have a map for each image of {of}, shape ({n_rows}, "
            "height, width)."
        )
    infinite = np.isinf(values).any(axis=(1, 2))
    if infinite.any():
        raise ValueError(
            f"{name} contains infinity, in image {int(infinite.argmax())}. Give NaN where a pixel has no "
            "target."
        )
    if np.isnan(values).all():
        raise ValueError(f"{name} is NaN in all pixels: none has a target. Give numbers for some of them.")
    return values


def _chunks(targets: np.ndarray) -> Iterator[slice]:
    """Yield slices of images, about a mebipixel at a time."""
    step = max(1, _PIXELS_AT_A_TIME // max(1, targets[0].size))
    return (slice(start, start + step) for start in range(0, len(targets), step))


def _mean_and_deviation(targets: np.ndarray, weight: np.ndarray | None) -> tuple[float, float]:
    """Return mean and standard deviation of the known pixels, weighted by the weights of the images."""
    shares = np.ones(len(targets)) if weight is None else weight
    total, mass, low, high = 0.0, 0.0, np.inf, -np.inf
    with np.errstate(over="ignore", invalid="ignore"):
        for values, share in _known(targets, shares):
            total, mass = total + share @ values, mass + share.sum()
            low, high = min(low, values.min()), max(high, values.max())
        if mass == 0:
            raise ValueError(
                "y is NaN in all pixels of the images of positive weight: there is nothing to learn. Give "
                "numbers for some of them."
            )
        mean = total / mass
        # Scale by a power of two, which rounds nothing, so that squares neither overflow nor vanish.
        power = np.frexp(max(high - mean, mean - low))[1]
        squares = sum(
            share @ np.ldexp(values - mean, -power) ** 2 for values, share in _known(targets, shares)
        )
        scale = np.ldexp(np.sqrt(squares / mass), power)
    if not np.isfinite(scale):
        raise ValueError(
            f"y has numbers up to {max(abs(low), abs(high)):.2g}, whose sum or differences overflow. Divide "
            "y by a constant."
        )
    return float(mean), float(scale)


def _known(targets: np.ndarray, shares: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield known pixels of images of positive weight, and the pixels' weights, a few images at a time."""
    for some in _chunks(targets):
        known = ~np.isnan(targets[some]) & (shares[some] > 0)[:, None, None]
        if known.any():
            by_pixel = np.broadcast_to(shares[some][:, None, None], known.shape)
            yield targets[some][known].astype(np.float64), by_pixel[known]
