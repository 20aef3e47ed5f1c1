"""CityScapes: street scenes with a class for each pixel, from the files of its authors."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from sklearn_kd._sklearn_compat import StrOptions, validate_params
from sklearn_kd.datasets import _fetcher
from sklearn_kd.datasets._map_files import MapDataset, check_size, import_pillow, loaded

# The 19 classes of the benchmark by their ids in the files; all other ids are not evaluated.
CLASSES = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car",
    27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip
IGNORED = 255
_TRAIN_IDS = np.full(256, IGNORED, np.int64)
_TRAIN_IDS[list(CLASSES)] = np.arange(len(CLASSES))
_LARGEST_ID = 33
_PARTS = {"train": ("train",), "val": ("val",), "all": ("train", "val")}
DESCR = """CityScapes: street scenes from 50 cities, 1024×2048 pixels, 2,975 for training and 500 for
validation with fine annotations of 19 classes; other pixels are {ignored}.

M. Cordts et al., "The Cityscapes dataset for semantic urban scene understanding", CVPR 2016.
https://www.cityscapes-dataset.com
"""


class CityscapesFiles:
    """Read an image and its map from the files of one scene."""

    def __init__(self, images: list[Path], maps: list[Path]):
        self.images, self.maps = images, maps

    def __call__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the image, uint8 of shape (height, width, 3), and its map of train ids, int64."""
        pillow = import_pillow()
        with pillow.open(self.images[i]) as file:
            image = np.asarray(file.convert("RGB"))
        with pillow.open(self.maps[i]) as file:
            ids = np.asarray(file)
        if ids.dtype != np.uint8 or ids.shape != image.shape[:2]:
            raise OSError(
                f"{self.maps[i]} holds {ids.dtype} of shape {ids.shape}; expected one byte for each pixel of "
                f"the image, {image.shape[:2]}. Put the original there."
            )
        is_train_ids = self.maps[i].name.endswith("_labelTrainIds.png")
        largest = len(CLASSES) - 1 if is_train_ids else _LARGEST_ID
        wrong = np.unique(ids[(ids > largest) & (ids != IGNORED)])
        if len(wrong):
            raise OSError(
                f"{self.maps[i]} holds the ids {wrong[:5].tolist()}; expected 0 to {largest}, and {IGNORED} "
                "for pixels without a class. Put the original there."
            )
        return image, ids.astype(np.int64) if is_train_ids else _TRAIN_IDS[ids]


@validate_params(
    {
        "data_home": [str, os.PathLike, None],
        "subset": [StrOptions(set(_PARTS))],
        "size": [tuple, list, None],
        "as_dataset": ["boolean"],
        "return_X_y": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def load_cityscapes(
    *,
    data_home: str | os.PathLike[str] | None = None,
    subset: str = "train",
    size: tuple[int, int] | None = None,
    as_dataset: bool = False,
    return_X_y: bool = False,
) -> Bunch | MapDataset | tuple[np.ndarray, np.ndarray]:
    """Load CityScapes from the files of its authors.

    =================   ======================================
    Classes             19; other pixels are 255
    Images              2,975 for training, 500 for validation
    Shape               (3, 1024, 2048): red, green, blue
    Features            float32, between 0 and 1
    =================   ======================================

    The authors give the files to those who register: ``leftImg8bit_trainvaltest.zip`` and
    ``gtFine_trainvaltest.zip``, which unpack to the folders ``leftImg8bit`` and ``gtFine``. This function
    does not download them.

    Parameters
    ----------
    data_home : str or path-like, default=None
        Folder that has the folders ``leftImg8bit`` and ``gtFine``, or a folder ``cityscapes`` with both. By
        default scikit-learn's (:func:`sklearn.datasets.get_data_home`).
    subset : {"train", "val", "all"}, default="train"
        Images to load. ``"all"`` has the training images first. The test images have no public classes.
    size : tuple of (int, int) or None, default=None
        Height and width to resize to: images by averaging pixels, maps by the nearest pixel. None: as in
        the files. All training images as arrays take 75 GB in their original size.
    as_dataset : bool, default=False
        Return a torch Dataset that reads images on demand, instead of arrays.
    return_X_y : bool, default=False
        Return ``(data, target)`` instead of the Bunch.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        data : ndarray of shape (n, 3, height, width), float32
            Pixels divided by 255.
        target : ndarray of shape (n, height, width), int64
            Classes 0 to 18, and 255 for pixels that are not evaluated: ``ignore_index=255``.
        target_names : list of str
            Names of the 19 classes.
        cities : ndarray of shape (n,)
            City of each image, as groups for cross-validation.
        DESCR : str
            Description and source of the data.
    samples : torch.utils.data.Dataset
        If ``as_dataset`` is True: pairs of tensors of shape (3, height, width) and (height, width).
    (data, target) : tuple of ndarray
        If ``return_X_y`` is True.

    Raises
    ------
    OSError
        If a folder or the map of an image is missing, or a file does not hold the original's kind of data.
    ImportError
        If Pillow is not installed.
    ValueError
        If ``size`` is not a pair of whole numbers, or both a Dataset and arrays are asked for.

    See Also
    --------
    load_nyu_depth : Rooms with a distance for each pixel.
    make_segmentation_scenes : Small scenes for tests.

    Notes
    -----
    Maps are read from ``*_gtFine_labelIds.png``, whose 34 ids become the benchmark's 19 classes, or, where
    they are missing, from ``*_gtFine_labelTrainIds.png``, which the authors' tools write.

    References
    ----------
    M. Cordts et al., "The Cityscapes dataset for semantic urban scene understanding", CVPR 2016.
    https://www.cityscapes-dataset.com

    Examples
    --------
    >>> from sklearn_kd.datasets import load_cityscapes
    >>> street = load_cityscapes(subset="val", size=(256, 512))  # doctest: +SKIP
    >>> street.data.shape, street.target.shape  # doctest: +SKIP
    ((500, 3, 256, 512), (500, 256, 512))
    """
    home = _fetcher.data_folder(data_home)
    folder = home / "cityscapes" if (home / "cityscapes").is_dir() else home
    images = [image for part in _PARTS[subset] for image in _images_of(folder, part)]
    maps = [_map_of(folder, image) for image in images]
    samples = MapDataset(CityscapesFiles(images, maps), range(len(images)), check_size(size))
    return loaded(
        samples,
        as_dataset=as_dataset,
        return_X_y=return_X_y,
        target_names=list(CLASSES.values()),
        cities=np.array([image.parent.name for image in images]),
        DESCR=DESCR.format(ignored=IGNORED),
    )


def _images_of(folder: Path, part: str) -> list[Path]:
    found = sorted((folder / "leftImg8bit" / part).glob("*/*_leftImg8bit.png"))
    if not found:
        raise OSError(
            f"There are no images {folder / 'leftImg8bit' / part}/*/*_leftImg8bit.png. Register at "
            "https://www.cityscapes-dataset.com, unpack leftImg8bit_trainvaltest.zip and "
            f"gtFine_trainvaltest.zip into {folder}, or give their folder as data_home."
        )
    return found


def _map_of(folder: Path, image: Path) -> Path:
    """Return the file of an image's map."""
    city = folder / "gtFine" / image.parent.parent.name / image.parent.name
    scene = image.name.removesuffix("_leftImg8bit.png")
    kinds = [city / f"{scene}_gtFine_{kind}.png" for kind in ("labelIds", "labelTrainIds")]
    for path in kinds:
        if path.is_file():
            return path
    raise OSError(
        f"{image} has no map: neither {kinds[0]} nor {kinds[1].name} is there. Unpack "
        f"gtFine_trainvaltest.zip into {folder}."
    )
