"""Read images with a map for each from files, as arrays or one at a time as a torch Dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.utils import Bunch
from torch.utils.data import Dataset

Size = tuple[int, int] | None
# Reads one sample: an image of shape (height, width, 3), uint8, and its map of shape (height, width).
Reader = Callable[[int], tuple[np.ndarray, np.ndarray]]


class MapDataset(Dataset):
    """Torch Dataset of images and their maps, which reads samples on demand.

    Parameters
    ----------
    read : callable
        Reads the image and the map at an index, in the types of the files.
    indices : sequence of int
        Indices of the samples.
    size : tuple of (int, int) or None
        Height and width to resize to; None: as in the files.
    """

    def __init__(self, read: Reader, indices: Sequence[int], size: Size):
        self.read, self.indices, self.size = read, list(indices), size

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the image, float32 in [0, 1] of shape (3, height, width), and its map."""
        image, target = self.read(self.indices[i])
        image, target = resized(image, self.size), resized(target, self.size, nearest=True)
        pixels = np.ascontiguousarray(image.transpose(2, 0, 1))
        return torch.from_numpy(pixels).float().div_(255), torch.from_numpy(target)


def resized(image: np.ndarray, size: Size, nearest: bool = False) -> np.ndarray:
    """Resize an image: each new pixel is the mean of the old ones (``nearest``: one of them).

    Images of uint8 have shape (height, width) or (height, width, 3), maps of numbers (height, width).
    """
    if size is None or image.shape[:2] == size:
        return np.array(image)
    if nearest:
        rows, columns = (
            ((np.arange(new) + 0.5) * old / new).astype(np.int64)
            for new, old in zip(size, image.shape, strict=False)
        )
        return image[rows[:, None], columns]
    pillow = import_pillow()
    height, width = size
    return np.array(pillow.fromarray(image).resize((width, height), pillow.Resampling.BOX))


def import_pillow() -> Any:
    """Return Pillow's module of images."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "Pillow, which reads and resizes images, is not installed: pip install pillow, as the extra "
            "sklearn-kd[datasets] does."
        ) from error
    return Image


def check_size(size: Size) -> Size:
    """Return the size, or raise ValueError unless it is two whole numbers of at least 1, or None."""
    if size is not None and (
        len(size) != 2 or not all(isinstance(n, Integral) and int(n) >= 1 for n in size)
    ):
        raise ValueError(f"size={size!r} must be None or (height, width), whole numbers of 1 or more.")
    return None if size is None else (int(size[0]), int(size[1]))


def loaded(
    samples: MapDataset, *, as_dataset: bool, return_X_y: bool, **further: Any
) -> Bunch | MapDataset | tuple[np.ndarray, np.ndarray]:
    """Return the Dataset, or read all samples and return arrays or a Bunch with ``further``."""
    if as_dataset and return_X_y:
        raise ValueError(
            "as_dataset=True asks for a Dataset of pairs, and return_X_y=True for two arrays. Set one of "
            "them."
        )
    if as_dataset:
        return samples
    data = target = np.empty(0)
    for i in range(len(samples)):
        image, values = (part.numpy() for part in samples[i])
        if i == 0:
            data = np.empty((len(samples), *image.shape), image.dtype)
            target = np.empty((len(samples), *values.shape), values.dtype)
        if image.shape != data.shape[1:]:
            raise ValueError(
                f"Images have several sizes: {data.shape[2:]}, {image.shape[1:]}. Give size=(height, width)."
            )
        data[i], target[i] = image, values
    return (data, target) if return_X_y else Bunch(data=data, target=target, **further)
