"""Shared parts of the fetchers: parameters, data folder, download, checksums and result."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from io import BufferedIOBase
from numbers import Integral
from pathlib import Path

import numpy as np
from sklearn.datasets import get_data_home
from sklearn.utils import Bunch

from sklearn_kd._sklearn_compat import Decorated, Interval, StrOptions, validate_params

PARTS = {"train": ("train",), "test": ("test",), "all": ("train", "test")}

# All fetchers take these parameters, by keyword.
_check = validate_params(
    {
        "data_home": [str, os.PathLike, None],
        "subset": [StrOptions(set(PARTS))],
        "download_if_missing": ["boolean"],
        "return_X_y": ["boolean"],
        "n_retries": [Interval(Integral, 0, None, closed="left")],
    },
    prefer_skip_nested_validation=True,
)


def validated(fetch: Decorated) -> Decorated:
    """Return a fetcher that checks these parameters before it runs."""
    return _check(fetch)


def data_folder(data_home: str | os.PathLike[str] | None) -> Path:
    """Return the folder of the data sets; None means scikit-learn's."""
    return Path(get_data_home()) if data_home is None else Path(data_home).expanduser()


def download(
    registry: Mapping[str, str], base_url: str, folder: Path, *, download_if_missing: bool, n_retries: int
) -> None:
    """Download files into a folder with pooch, which checks their checksums and tries again.

    Parameters
    ----------
    registry : mapping of str to str
        Checksum of each file by its name, in pooch's form: ``"md5:..."``.
    base_url : str
        Address of the files without their names. It ends in a slash.
    folder : Path
        Folder to put the files into. It is created if it is missing.
    download_if_missing : bool
        If False, raise OSError instead of downloading.
    n_retries : int
        Number of further attempts per file.

    Raises
    ------
    OSError
        If ``download_if_missing`` is False or a download fails. The message says which files to put
        where.
    ImportError
        If pooch is not installed.
    """
    listed = "\n".join(f"  {name}  ({base_url}{name})" for name in registry)
    by_hand = f"Put into {folder} yourself:\n{listed}"
    if not download_if_missing:
        raise OSError(f"Files are missing, and download_if_missing=False. {by_hand}")
    try:
        import pooch
    except ImportError as error:
        raise ImportError(
            "Files are missing, and pooch, which downloads them, is not installed: pip install pooch "
            f"tqdm, as the extra sklearn-kd[datasets] does. Or do without it. {by_hand}"
        ) from error
    source = pooch.create(folder, base_url, registry=dict(registry), retry_if_failed=n_retries)
    for name in registry:
        try:
            source.fetch(name, progressbar=True)
        except (OSError, ValueError) as error:  # no connection or a full disk; a wrong checksum
            raise OSError(f"{base_url}{name} could not be downloaded: {error}\n{by_hand}") from error


def check_digest(
    file: BufferedIOBase, path: Path, algorithm: str, expected: str, max_bytes: float = math.inf
) -> None:
    """Check the checksum of an open file and rewind it.

    pooch checks a file when it downloads it. This function checks files that users put there, needs
    no pooch, and takes unpacked content too.

    Parameters
    ----------
    file : binary file
        The open file, which may unpack while it is read.
    path : Path
        Path of the file, for the error message.
    algorithm : str
        Name of the checksum in hashlib.
    expected : str
        Hexadecimal checksum of the original.
    max_bytes : float, default=math.inf
        Size of the largest original in bytes, since a small archive may unpack to any number.

    Raises
    ------
    OSError
        If the checksum is wrong, or the file cannot be unpacked or holds more than ``max_bytes``.
    """
    damaged = f"{path} is damaged or another file"
    remedy = "Delete it to have it downloaded again, or put the original there."
    digest, n_bytes = hashlib.new(algorithm, usedforsecurity=False), 0
    try:
        while chunk := file.read(1 << 20):
            n_bytes += len(chunk)
            if n_bytes > max_bytes:
                raise OSError(f"{damaged}: it holds more than {max_bytes:,} bytes. {remedy}")
            digest.update(chunk)
        file.seek(0)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise OSError(f"{damaged}: it cannot be unpacked ({error}). {remedy}") from error
    if (found := digest.hexdigest()) != expected:
        raise OSError(
            f"{damaged}: its {algorithm.upper()} checksum is {found}, that of the original {expected}. "
            f"{remedy}"
        )


def fetched(
    parts: Sequence[tuple[np.ndarray, np.ndarray]], target_names: list[str], descr: str, return_X_y: bool
) -> Bunch | tuple[np.ndarray, np.ndarray]:
    """Build the result of a fetcher.

    Parameters
    ----------
    parts : sequence of (images, labels)
        Images of shape (n, channels, height, width), uint8, and labels of shape (n,), per part of the
        data set.
    target_names : list of str
        Names of the classes.
    descr : str
        Description of the data set.
    return_X_y : bool
        Return (images, labels) instead of a Bunch.

    Returns
    -------
    data : Bunch or (images, labels)
        Images as float32 between 0 and 1 and labels as int64, the parts one after the other.
    """
    images, labels = zip(*parts, strict=True)
    data = np.empty((sum(map(len, images)), *images[0].shape[1:]), np.float32)
    np.concatenate(images, out=data)
    data /= 255  # in place: a copy of the training images would take up to 600 MB
    target = np.concatenate(labels).astype(np.int64)
    if return_X_y:
        return data, target
    return Bunch(data=data, target=target, target_names=target_names, DESCR=descr)
