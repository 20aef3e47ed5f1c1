"""Fashion-MNIST, from its four IDX files."""

from __future__ import annotations

import gzip
import os
from io import BufferedIOBase
from pathlib import Path
from typing import cast

import numpy as np
from sklearn.utils import Bunch

from sklearn_kd.datasets import _fetcher

URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
# MD5 of the .gz files, as their authors publish them.
MD5 = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
# SHA-256 of the unpacked contents, since distributors compress them anew, with other bytes.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
# Size of the largest unpacked file: four numbers and 60,000 images.
MAX_BYTES = 60_000 * 28 * 28 + 16
PREFIX = {"train": "train", "test": "t10k"}
TARGET_NAMES = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
]  # fmt: skip
DESCR = """Fashion-MNIST: 60,000 training and 10,000 test images of clothes, grey, 28×28, 10 classes.

H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
Algorithms", arXiv:1708.07747, 2017. MIT licence.
"""


@_fetcher.validated
def fetch_fashion_mnist(
    *,
    data_home: str | os.PathLike[str] | None = None,
    subset: str = "train",
    download_if_missing: bool = True,
    return_X_y: bool = False,
    n_retries: int = 3,
) -> Bunch | tuple[np.ndarray, np.ndarray]:
    """Load Fashion-MNIST; download it if necessary.

    =================   ======================================
    Classes             10, of 6,000 and 1,000 images each
    Images              60,000 for training, 10,000 for testing
    Shape               (1, 28, 28): grey
    Features            float32, between 0 and 1
    =================   ======================================

    Parameters
    ----------
    data_home : str or path-like, default=None
        Folder of the data sets, by default scikit-learn's
        (:func:`sklearn.datasets.get_data_home`). It holds the files ``fashion-mnist/*.gz``, packed or
        unpacked. On Debian, ``data_home="/usr/share/datasets"`` reads the package
        dataset-fashion-mnist.
    subset : {"train", "test", "all"}, default="train"
        Images to load. ``"all"`` has the training images first.
    download_if_missing : bool, default=True
        Download missing files (31 MB in all), and show a progress bar. This needs the extra
        ``sklearn-kd[datasets]``. If False, raise OSError instead of downloading.
    return_X_y : bool, default=False
        Return ``(data, target)`` instead of the Bunch.
    n_retries : int, default=3
        Number of further attempts after a failed download of a file. pooch waits 1 second before the
        first of them, 1 second longer before each next one, and at most 10.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        data : ndarray of shape (n, 1, 28, 28), float32
            Pixels divided by 255, as networks take them: (n, channels, height, width).
            ``np.rint(255 * data).astype(np.uint8)`` gives the bytes of the files.
        target : ndarray of shape (n,), int64
            Classes 0 to 9.
        target_names : list of str
            Names of the 10 classes.
        DESCR : str
            Description and source of the data.
    (data, target) : tuple of ndarray
        If ``return_X_y`` is True.

    Raises
    ------
    OSError
        If files are missing and cannot be downloaded, or their checksum is wrong. The message says
        which files to put where.
    ImportError
        If files are missing and pooch, which downloads them, is not installed.

    Notes
    -----
    The MD5 checksums that the authors publish are verified after a download. The SHA-256 checksum
    of the uncompressed contents is verified at every call.

    References
    ----------
    H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
    Learning Algorithms", arXiv:1708.07747, 2017.

    Examples
    --------
    >>> from sklearn_kd.datasets import fetch_fashion_mnist
    >>> X, y = fetch_fashion_mnist(return_X_y=True)  # doctest: +SKIP
    >>> X.shape  # doctest: +SKIP
    (60000, 1, 28, 28)
    """
    folder = _fetcher.data_folder(data_home) / "fashion-mnist"
    prefixes = [PREFIX[part] for part in _fetcher.PARTS[subset]]
    missing = [name for name in MD5 if name.startswith(tuple(prefixes)) and not _path(folder, name).is_file()]
    if missing:
        registry = {f"{name}.gz": f"md5:{MD5[name]}" for name in missing}
        _fetcher.download(registry, URL, folder, download_if_missing=download_if_missing, n_retries=n_retries)
    parts = [_read_part(folder, prefix) for prefix in prefixes]
    return _fetcher.fetched(parts, TARGET_NAMES.copy(), DESCR, return_X_y)


def _path(folder: Path, name: str) -> Path:
    """Return the path of the packed file, present or not, unless only the unpacked one is present."""
    packed, unpacked = folder / f"{name}.gz", folder / name
    return unpacked if unpacked.is_file() and not packed.is_file() else packed


def _read_part(folder: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Read images of shape (n, 1, 28, 28) and labels of shape (n,), uint8."""
    images = _read_idx(folder, f"{prefix}-images-idx3-ubyte")
    return images[:, None], _read_idx(folder, f"{prefix}-labels-idx1-ubyte")


def _read_idx(folder: Path, name: str) -> np.ndarray:
    """Read the array of uint8 in an IDX file and check its content by its checksum."""
    path = _path(folder, name)
    with cast(BufferedIOBase, gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as file:
        _fetcher.check_digest(file, path, "sha256", SHA256[name], MAX_BYTES)
        magic = file.read(4)
        shape = [int.from_bytes(file.read(4), "big") for _ in range(magic[3])]
        return np.frombuffer(file.read(), np.uint8).reshape(shape)
