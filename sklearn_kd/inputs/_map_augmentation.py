"""Augment images together with their maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sklearn_kd.inputs._image_sizes import scaled_size
from sklearn_kd.tasks._pixels import pixel_targets
from sklearn_kd.tasks._targets import Targets
from sklearn_kd.tasks._task import MapForm


class MapAugmentation:
    """Applies ``augment`` to the images and the maps of batches.

    Parameters
    ----------
    augment : callable(Tensor, Tensor) -> (Tensor, Tensor)
        Called with images and maps, returns both.
    form : MapForm
    image_size, map_size : tuple of int
        Height and width of the images and of the maps in ``fit``.
    """

    def __init__(
        self,
        augment: Callable[[Tensor, Tensor], Any],
        form: MapForm,
        image_size: Sequence[int],
        map_size: Sequence[int],
    ):
        self.augment, self.form = augment, form
        self.image_size, self.map_size = tuple(image_size), tuple(map_size)

    def __call__(
        self, X: Tensor, targets: Targets, ask: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Targets]:
        """Return the augmented images of a batch and the targets of their pixels.

        Parameters
        ----------
        X : Tensor of shape (B, channels, height, width)
        targets : Targets
            Targets of the batch's pixels.
        ask : callable(Tensor) -> Tensor, or None
            Returns the teacher's maps for images. None: there is no teacher.
        """
        X, maps = self.pair(X, targets)
        weight = targets.weight
        if weight is not None:  # of each image, from its first pixel
            weight = weight.reshape(len(X), -1)[:, 0]
        logits = None if ask is None else ask(X)
        return X, pixel_targets(Targets(self.form.codes(maps), logits, weight))

    def pair(self, X: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """Return the augmented images of a batch and their maps, in the user's labels or units.

        Raises
        ------
        ValueError
            If ``augment`` does not return the same number of images, and maps that match them.
        """
        maps = self.form.given(targets.labels.reshape(len(X), *self.map_size))
        with torch.no_grad():
            made = self.augment(X.clone(), maps)
        return self._checked(made, X, maps)

    def _checked(self, made: Any, X: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        wanted = (
            f"augment is called with images and their maps, of shapes {tuple(X.shape)} and "
            f"{tuple(maps.shape)}, and must return both, the same number of each"
        )
        is_pair = isinstance(made, (tuple, list)) and len(made) == 2
        if not is_pair or not all(isinstance(part, Tensor) for part in made):
            raise ValueError(f"{wanted}; it returned {_described(made)}. Return (X, y), two tensors.")
        images, own = made
        if images.ndim != 4 or own.ndim != 3 or not len(images) == len(own) == len(X):
            raise ValueError(f"{wanted}; it returned {_described(made)}. Keep the dimensions of both.")
        size = scaled_size(images.shape[2:], self.image_size, self.map_size)
        if list(own.shape[1:]) != size:
            raise ValueError(
                f"augment returned images of shape {tuple(images.shape)} with maps of shape "
                f"{tuple(own.shape)}; the maps of such images have height and width {tuple(size)}. Change "
                "both in the same way."
            )
        if own.is_floating_point() != maps.is_floating_point():
            raise ValueError(
                f"augment was given maps of {maps.dtype}, and returned {own.dtype}. Keep the type: resize "
                "maps of classes with mode='nearest'."
            )
        return images, own


def _described(made: Any) -> str:
    """Describe what ``augment`` returned, by shapes."""
    if isinstance(made, Tensor):
        return f"one tensor of shape {tuple(made.shape)}"
    if isinstance(made, (tuple, list)):
        return f"a {type(made).__name__} of {[tuple(getattr(part, 'shape', ())) for part in made]}"
    return f"a {type(made).__name__}"
