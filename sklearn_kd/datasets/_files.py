"""Where the files of a data set lie, how they get there, and how they are checked."""

from __future__ import annotations

import gzip
import hashlib
import os
import time
import zlib
from dataclasses import dataclass
from io import BufferedIOBase
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from sklearn.datasets import get_data_home
from sklearn.utils import Bunch

from sklearn_kd._sklearn_compat import Interval, StrOptions, validate_params

PARTS = {"train": ("train",), "test": ("test",), "all": ("train", "test")}

# A fetcher's parameters, all keywords: the same for every data set.
validated = validate_params(
    {
        "data_home": [str, os.PathLike, None],
        "subset": [StrOptions(set(PARTS))],
        "download_if_missing": ["boolean"],
        "return_X_y": ["boolean"],
        "n_retries": [Interval(Integral, 0, None, closed="left")],
        "delay": [Interval(Real, 0, None, closed="left")],
    },
    prefer_skip_nested_validation=True,
)


@dataclass(frozen=True)
class RemoteFile:
    """A file as its authors publish it."""

    name: str
    url: str
    md5: str


def home(data_home) -> Path:
    """Folder of the data sets: scikit-learn's unless another is given."""
    return Path(get_data_home()) if data_home is None else Path(data_home).expanduser()


def digest(file: BufferedIOBase, algorithm: str, most: int | None = None) -> str | None:
    """Hexadecimal checksum of what is left to read; None where that is more than ``most`` bytes."""
    sums, n_bytes = hashlib.new(algorithm, usedforsecurity=False), 0
    while chunk := file.read(1 << 20):
        n_bytes += len(chunk)
        if most is not None and n_bytes > most:
            return None
        sums.update(chunk)
    return sums.hexdigest()


def check_digest(
    file: BufferedIOBase, path: Path, algorithm: str, expected: str, most: int | None = None
) -> None:
    """Raise unless the checksum of an open file is the published one; then rewind it.

    ``most`` is how many bytes the largest original has: a small archive may unpack to any number.
    """
    try:
        found = digest(file, algorithm, most)
        file.seek(0)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise OSError(
            f"{path} is damaged or another file: it cannot be unpacked ({error}). Delete it to have it "
            "downloaded again, or put the original there."
        ) from error
    if found != expected:
        is_which = f"its {algorithm.upper()} checksum is {found}, that of the original {expected}"
        is_which = is_which if found is not None else f"it holds more than {most:,} bytes"
        raise OSError(
            f"{path} is damaged or another file: {is_which}. Delete it to have it downloaded again, or put "
            "the original there."
        )


def download(
    files: list[RemoteFile], folder: Path, *, download_if_missing: bool, n_retries: int, delay: float
) -> None:
    """Put the files into the folder, their checksums verified; refuse where that is not wanted.

    Raises
    ------
    OSError
        If they may not, or cannot, be downloaded; it says which files to put where.
    ImportError
        If pooch, which downloads, is not installed.
    """
    by_hand = f"Put into {folder} yourself:\n" + "\n".join(f"  {file.name}  ({file.url})" for file in files)
    if not download_if_missing:
        raise OSError(f"Files are missing, and download_if_missing=False. {by_hand}")
    try:
        import pooch
    except ImportError as error:
        raise ImportError(
            "Files are missing, and pooch, which downloads them, is too: pip install pooch tqdm, as the "
            f"extra sklearn-kd[datasets] does. Or do without it. {by_hand}"
        ) from error
    for file in files:
        for trial in range(n_retries + 1):
            try:
                pooch.retrieve(file.url, f"md5:{file.md5}", fname=file.name, path=folder, progressbar=True)
                break
            except (OSError, ValueError) as error:  # no connection; a wrong checksum
                if trial == n_retries:
                    raise OSError(f"{file.url} could not be downloaded: {error}\n{by_hand}") from error
                time.sleep(delay)


def check_labels(target: np.ndarray, per_class: int, n_classes: int, source: Path) -> None:
    """Raise unless every class has the rows that it has in the original."""
    counts = np.bincount(target, minlength=n_classes)
    if len(counts) != n_classes or (counts != per_class).any():
        raise OSError(
            f"The labels in {source} are not the original's: expected {n_classes} classes of {per_class} "
            f"rows each, found {len(counts)} of {counts.min()} to {counts.max()}. Put the original files "
            "there."
        )


def as_bunch(parts, target_names: list[str], descr: str, return_X_y: bool):
    """Join (images of uint8, labels) per part to what a fetcher returns."""
    images, labels = zip(*parts, strict=True)
    data = np.empty((sum(map(len, images)), *images[0].shape[1:]), np.float32)
    np.concatenate(images, out=data)
    data /= 255  # in place: a copy of the training images would take up to 600 MB
    target = np.concatenate(labels).astype(np.int64)
    if return_X_y:
        return data, target
    return Bunch(data=data, target=target, target_names=target_names, DESCR=descr)
