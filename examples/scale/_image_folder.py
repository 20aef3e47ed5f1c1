"""Images in ImageNet's layout, FOLDER/train/CLASS/*.JPEG, cropped by the workers that load them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

MEAN, STD = np.float32((0.485, 0.456, 0.406)), np.float32((0.229, 0.224, 0.225))
ENDINGS = (".jpeg", ".jpg", ".png")


class ImageFolder(Dataset):
    """The images below one folder for each class; items are (image, number of its class).

    Parameters
    ----------
    files : sequence of Path
    labels : sequence of int
    transform : callable
        Converts an RGB image to a tensor: :class:`TrainingCrop` or :class:`CentralCrop`.

    Attributes
    ----------
    labels : ndarray of shape (n,)
        If passed to ``fit`` as y, they save a pass over all images.
    """

    def __init__(
        self, files: Sequence[Path], labels: Sequence[int], transform: Callable[[Image.Image], Tensor]
    ):
        self.files = np.array([str(file) for file in files])  # one block of memory for all workers
        self.labels, self.transform = np.asarray(labels), transform

    @classmethod
    def read(cls, folder: Path, transform: Callable[[Image.Image], Tensor]) -> ImageFolder:
        """List the images of a folder; classes are numbered in the order of their names.

        Raises
        ------
        FileNotFoundError
            If the folder has no folders of images.
        """
        classes = sorted(path for path in folder.glob("*") if path.is_dir())
        found = [sorted(f for f in c.rglob("*") if f.suffix.lower() in ENDINGS) for c in classes]
        files = [file for of_class in found for file in of_class]
        if not files:
            raise FileNotFoundError(
                f"{folder} has no images. Expected one folder for each class: CLASS/*.JPEG"
            )
        return cls(
            files, np.repeat(np.arange(len(classes)), [len(of_class) for of_class in found]), transform
        )

    def rows(self, rows: np.ndarray, transform: Callable[[Image.Image], Tensor]) -> ImageFolder:
        """Return some of the images, with another transform."""
        return ImageFolder(self.files[rows], self.labels[rows], transform)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        with Image.open(self.files[row]) as image:
            return self.transform(image.convert("RGB")), int(self.labels[row])


class ImageArrays(Dataset):
    """Images in an array, with the interface of :class:`ImageFolder`.

    Parameters
    ----------
    images : ndarray of shape (n, 3, height, width)
        In [0, 1].
    labels : ndarray of shape (n,)
    transform : callable
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Callable[[Image.Image], Tensor]):
        self.images, self.labels, self.transform = images, labels, transform

    def rows(self, rows: np.ndarray, transform: Callable[[Image.Image], Tensor]) -> ImageArrays:
        """Return some of the images, with another transform."""
        return ImageArrays(self.images[rows], self.labels[rows], transform)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        pixels = np.round(255 * self.images[row]).astype(np.uint8).transpose(1, 2, 0)
        return self.transform(Image.fromarray(pixels)), int(self.labels[row])


class TrainingCrop:
    """Cut out a rectangle at random, resize it, mirror half of the images.

    Its area is 8 to 100 % of the image's, and its ratio of width to height 3/4 to 4/3, as usual for ImageNet.

    Parameters
    ----------
    size : int
        Height and width of the result.
    """

    def __init__(self, size: int):
        self.size = size

    def __call__(self, image: Image.Image) -> Tensor:
        box = self.box(*image.size)
        crop = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        if random.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return normalised(crop)

    @staticmethod
    def box(width: int, height: int) -> tuple[float, float, float, float]:
        """Draw left, upper, right and lower edge; of ten that do not fit, the largest central square."""
        for _ in range(10):
            area = width * height * random.uniform(0.08, 1.0)
            ratio = math.exp(random.uniform(-1, 1) * math.log(4 / 3))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = random.randint(0, width - w), random.randint(0, height - h)
                return left, top, left + w, top + h
        return central_box(width, height, 1.0)


class CentralCrop:
    """Cut out the central square of 7/8 of the shorter edge and resize it.

    This equals resizing the shorter edge to 256 pixels and cropping the central 224.

    Parameters
    ----------
    size : int
        Height and width of the result.
    """

    def __init__(self, size: int):
        self.size = size

    def __call__(self, image: Image.Image) -> Tensor:
        box = central_box(*image.size, 7 / 8)
        return normalised(image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box))


def central_box(width: int, height: int, share: float) -> tuple[float, float, float, float]:
    """Return the edges of the central square with this share of the shorter edge."""
    edge = min(width, height) * share
    left, top = (width - edge) / 2, (height - edge) / 2
    return left, top, left + edge, top + edge


def normalised(image: Image.Image) -> Tensor:
    """Return an image as a float32 tensor of shape (3, height, width), normalised as ImageNet's."""
    pixels = (np.asarray(image, dtype=np.float32) / 255 - MEAN) / STD
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def split(images: ImageFolder, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of D_train and D_val, with this share of each class in D_val."""
    rng, held_out = np.random.default_rng(seed), np.zeros(len(images), dtype=bool)
    for label in np.unique(images.labels):
        rows = rng.permutation(np.flatnonzero(images.labels == label))
        held_out[rows[: max(1, round(share * len(rows)))]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def write_images(folder: Path, n_classes: int, per_class: int, size: tuple[int, int], seed: int = 0) -> None:
    """Write generated images, train and val, in ImageNet's layout: stripes whose direction is the class."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in size))
    for part, n in (("train", per_class), ("val", max(2, per_class // 4))):
        for c in range(n_classes):
            place = folder / part / f"n{c:08d}"
            place.mkdir(parents=True, exist_ok=True)
            angle = math.pi * c / n_classes
            for i in range(n):
                wave = np.sin(9 * (x * math.cos(angle) + y * math.sin(angle)) + rng.uniform(0, 2 * math.pi))
                colour = rng.uniform(0.3, 1, 3)
                pixels = 127 + 90 * wave[..., None] * colour + rng.normal(0, 12, (*wave.shape, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{part}_{c}_{i}.JPEG")
