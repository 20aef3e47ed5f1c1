"""NYU Depth V2: rooms with a distance for each pixel, from the files of its authors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat
from sklearn.utils import Bunch

from sklearn_kd._sklearn_compat import StrOptions, validate_params
from sklearn_kd.datasets import _fetcher
from sklearn_kd.datasets._map_files import MapDataset, check_size, loaded

URL = "https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html"
DATA, SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"
_PARTS = {"train": ("trainNdxs",), "test": ("testNdxs",), "all": ("trainNdxs", "testNdxs")}
_DEPTHS = {"filled": "depths", "raw": "rawDepths"}
DESCR = f"""NYU Depth V2: 1,449 images of rooms, 480×640 pixels, with the distance of each pixel in metres,
by a Kinect; 795 for training and 654 for tests.

N. Silberman, D. Hoiem, P. Kohli, R. Fergus, "Indoor segmentation and support inference from RGBD
images", ECCV 2012. {URL}
"""


class NYUFile:
    """Read an image and its distances from the file of all labeled images."""

    def __init__(self, path: Path, depth: str):
        self.path, self.depth = path, depth

    def __call__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the image, uint8 of shape (height, width, 3), and its distances, float32."""
        with _opened(self.path) as file:
            # MATLAB's arrays are stored with their axes reversed: (n, channels, width, height).
            image = np.asarray(file["images"][i]).transpose(2, 1, 0)
            distance = np.asarray(file[_DEPTHS[self.depth]][i], dtype=np.float32).T.copy()
        if self.depth == "raw":
            distance[distance == 0] = np.nan
        return image, distance


@validate_params(
    {
        "data_home": [str, os.PathLike, None],
        "subset": [StrOptions(set(_PARTS))],
        "depth": [StrOptions(set(_DEPTHS))],
        "size": [tuple, list, None],
        "as_dataset": ["boolean"],
        "return_X_y": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def load_nyu_depth(
    *,
    data_home: str | os.PathLike[str] | None = None,
    subset: str = "train",
    depth: str = "filled",
    size: tuple[int, int] | None = None,
    as_dataset: bool = False,
    return_X_y: bool = False,
) -> Bunch | MapDataset | tuple[np.ndarray, np.ndarray]:
    """Load NYU Depth V2 from the files of its authors.

    =================   ======================================
    Images              795 for training, 654 for tests
    Shape               (3, 480, 640): red, green, blue
    Features            float32, between 0 and 1
    Targets             metres, float32
    =================   ======================================

    Parameters
    ----------
    data_home : str or path-like, default=None
        Folder that has ``nyu_depth_v2_labeled.mat`` (2.8 GB) and ``splits.mat``, or a folder ``nyu_depth_v2``
        with both. By default scikit-learn's (:func:`sklearn.datasets.get_data_home`). This function does not
        download them.
    subset : {"train", "test", "all"}, default="train"
        Images to load, according to ``splits.mat``. ``"all"`` has the training images first.
    depth : {"filled", "raw"}, default="filled"
        Distances with the sensor's holes filled in by the authors, or as measured, with NaN in the holes.
    size : tuple of (int, int) or None, default=None
        Height and width to resize to: images by averaging pixels, distances by the nearest pixel. None: as
        in the file.
    as_dataset : bool, default=False
        Return a torch Dataset that reads images on demand, instead of arrays.
    return_X_y : bool, default=False
        Return ``(data, target)`` instead of the Bunch.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        data : ndarray of shape (n, 3, height, width), float32
            Pixels divided by 255.
        target : ndarray of shape (n, height, width), float32
            Distances in metres.
        indices : ndarray of shape (n,)
            Position of each image in the file, from 0.
        DESCR : str
            Description and source of the data.
    samples : torch.utils.data.Dataset
        If ``as_dataset`` is True: pairs of tensors of shape (3, height, width) and (height, width).
    (data, target) : tuple of ndarray
        If ``return_X_y`` is True.

    Raises
    ------
    OSError
        If a file is missing or does not hold the original's kind of data.
    ImportError
        If h5py is not installed, or Pillow is not and ``size`` needs it.
    ValueError
        If ``size`` is not a pair of whole numbers, or both a Dataset and arrays are asked for.

    See Also
    --------
    load_cityscapes : Streets with a class for each pixel.
    make_depth_scenes : Small scenes for tests.

    References
    ----------
    N. Silberman, D. Hoiem, P. Kohli, R. Fergus, "Indoor segmentation and support inference from RGBD
    images", ECCV 2012. https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html

    Examples
    --------
    >>> from sklearn_kd.datasets import load_nyu_depth
    >>> rooms = load_nyu_depth(subset="test", size=(240, 320))  # doctest: +SKIP
    >>> rooms.data.shape, rooms.target.shape  # doctest: +SKIP
    ((654, 3, 240, 320), (654, 240, 320))
    """
    home = _fetcher.data_folder(data_home)
    folder = home / "nyu_depth_v2" if (home / "nyu_depth_v2").is_dir() else home
    missing = [name for name in (DATA, SPLITS) if not (folder / name).is_file()]
    if missing:
        raise OSError(
            f"{' and '.join(missing)} are not in {folder}. Put the files of {URL} there, or give their "
            "folder as data_home."
        )
    n_images = _check_data(folder / DATA, depth)
    indices = np.concatenate([_read_split(folder / SPLITS, name, n_images) for name in _PARTS[subset]])
    samples = MapDataset(NYUFile(folder / DATA, depth), indices.tolist(), check_size(size))
    return loaded(samples, as_dataset=as_dataset, return_X_y=return_X_y, indices=indices, DESCR=DESCR)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            f"h5py, which reads {path.name}, is not installed: pip install h5py, as the extra "
            "sklearn-kd[datasets] does."
        ) from error
    with h5py.File(path, "r") as file:
        yield file


def _check_data(path: Path, depth: str) -> int:
    """Return the number of images in the file; raise OSError if it holds something else."""
    found = {}
    with _opened(path) as file:
        for name in ("images", _DEPTHS[depth]):
            if name in file:
                found[name] = str(file[name].dtype), tuple(file[name].shape)
    if len(found) == 2:
        (kind, shape), (_, of_depth) = found.values()
        if kind == "uint8" and len(shape) == 4 and shape[1] == 3 and of_depth == (shape[0], *shape[2:]):
            return shape[0]
    raise OSError(
        f"{path} holds {found or 'neither images nor depths'}; expected images of uint8, (n, 3, width, "
        f"height), and {_DEPTHS[depth]} of shape (n, width, height). Put the original there."
    )


def _read_split(path: Path, name: str, n_images: int) -> np.ndarray:
    """Return the indices of a subset, from 0."""
    indices = np.asarray(loadmat(path).get(name, ())).ravel()
    if not len(indices) or indices.min() < 1 or indices.max() > n_images:
        raise OSError(
            f"{path} has no {name} with numbers of images from 1 to {n_images}. Put the original there."
        )
    return indices.astype(np.int64) - 1
