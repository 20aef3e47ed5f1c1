"""CIFAR-10 and CIFAR-100, from their pickled batches."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, BinaryIO, cast

import numpy as np
from sklearn.utils import Bunch

from sklearn_kd._sklearn_compat import Decorated
from sklearn_kd.datasets import _fetcher
from sklearn_kd.datasets._byte_pickles import load_values

URL = "https://www.cs.toronto.edu/~kriz/"


@dataclass(frozen=True)
class Archive:
    """One of the two archives: its content, names and numbers."""

    title: str
    name: str
    megabytes: int
    md5: str
    folder: str
    batches: dict[str, list[str]]
    meta: str
    labels: bytes
    label_names: bytes
    n_classes: int
    per_class: dict[str, int]


CIFAR10 = Archive(
    title="CIFAR-10",
    name="cifar-10-python.tar.gz",
    megabytes=170,
    md5="c58f30108f718f92721af3b95e74349a",
    folder="cifar-10-batches-py",
    batches={"train": [f"data_batch_{k}" for k in range(1, 6)], "test": ["test_batch"]},
    meta="batches.meta",
    labels=b"labels",
    label_names=b"label_names",
    n_classes=10,
    per_class={"train": 5_000, "test": 1_000},
)
CIFAR100 = Archive(
    title="CIFAR-100 with its fine labels",
    name="cifar-100-python.tar.gz",
    megabytes=169,
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    folder="cifar-100-python",
    batches={"train": ["train"], "test": ["test"]},
    meta="meta",
    labels=b"fine_labels",
    label_names=b"fine_label_names",
    n_classes=100,
    per_class={"train": 500, "test": 100},
)
_REFERENCE = """A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", technical report,
University of Toronto, 2009. https://www.cs.toronto.edu/~kriz/cifar.html"""
_DESCR = """{title}: 50,000 training and 10,000 test images, colour, 32×32, {n_classes} classes.

{reference}
"""
# Docstring of both fetchers.
_DOCSTRING = Template("""Load $title; download it if necessary.

=================   ======================================
Classes             $classes
Images              50,000 for training, 10,000 for testing
Shape               (3, 32, 32): red, green, blue
Features            float32, between 0 and 1
=================   ======================================

Parameters
----------
data_home : str or path-like, default=None
    Folder of the data sets, by default scikit-learn's (:func:`sklearn.datasets.get_data_home`). It
    holds the folder ``$folder`` or the archive that unpacks to it,
    ``$name``. If both are there the folder is read, which is faster.
subset : {"train", "test", "all"}, default="train"
    Images to load. ``"all"`` has the training images first.
download_if_missing : bool, default=True
    Download the archive ($megabytes MB) if neither is there, and show a progress bar. This needs the
    extra ``sklearn-kd[datasets]``. If False, raise OSError instead of downloading.
return_X_y : bool, default=False
    Return ``(data, target)`` instead of the Bunch.
n_retries : int, default=3
    Number of further attempts after a failed download. pooch waits 1 second before the first of them,
    1 second longer before each next one, and at most 10.

Returns
-------
data : :class:`~sklearn.utils.Bunch`
    data : ndarray of shape (n, 3, 32, 32), float32
        Pixels divided by 255, as networks take them: (n, channels, height, width).
        ``np.rint(255 * data).astype(np.uint8)`` gives the bytes of the files.
    target : ndarray of shape (n,), int64
        Classes 0 to $last.
    target_names : list of str
        Names of the $n_classes classes.
    DESCR : str
        Description and source of the data.
(data, target) : tuple of ndarray
    If ``return_X_y`` is True.

Raises
------
OSError
    If the files are missing and cannot be downloaded, if the archive's checksum is wrong, or if a
    file does not hold the original's data. The message says which files to put where.
ImportError
    If the archive is missing and pooch, which downloads it, is not installed.
pickle.UnpicklingError
    If a file asks for anything but arrays of bytes, or is damaged.

See Also
--------
$other : Load the other of the two data sets.

Notes
-----
The files are pickles, which can run any code when they are read. They are read by an unpickler that
admits only numpy arrays of uint8 and Python's own containers, numbers and strings. The archive's MD5
checksum, which its author publishes, is verified at every call; shapes and the number of images per
class are verified for both forms.

References
----------
$reference

Examples
--------
>>> from sklearn_kd.datasets import $fetcher
>>> X, y = $fetcher(return_X_y=True)  # doctest: +SKIP
>>> X.shape  # doctest: +SKIP
(50000, 3, 32, 32)
""")


def _documented(archive: Archive, other: str) -> Callable[[Decorated], Decorated]:
    """Return a decorator that gives a fetcher the common docstring with the numbers of its archive."""

    def decorate(fetcher: Decorated) -> Decorated:
        train, test = archive.per_class["train"], archive.per_class["test"]
        fetcher.__doc__ = _DOCSTRING.substitute(
            vars(archive),
            classes=f"{archive.n_classes}, of {train:,} and {test:,} images each",
            last=archive.n_classes - 1,
            fetcher=fetcher.__name__,
            other=other,
            reference=_REFERENCE,
        )
        return fetcher

    return decorate


@_fetcher.validated
@_documented(CIFAR10, other="fetch_cifar100")
def fetch_cifar10(
    *,
    data_home: str | os.PathLike[str] | None = None,
    subset: str = "train",
    download_if_missing: bool = True,
    return_X_y: bool = False,
    n_retries: int = 3,
) -> Bunch | tuple[np.ndarray, np.ndarray]:
    return _fetch(CIFAR10, data_home, subset, download_if_missing, return_X_y, n_retries)


@_fetcher.validated
@_documented(CIFAR100, other="fetch_cifar10")
def fetch_cifar100(
    *,
    data_home: str | os.PathLike[str] | None = None,
    subset: str = "train",
    download_if_missing: bool = True,
    return_X_y: bool = False,
    n_retries: int = 3,
) -> Bunch | tuple[np.ndarray, np.ndarray]:
    return _fetch(CIFAR100, data_home, subset, download_if_missing, return_X_y, n_retries)


def _fetch(
    archive: Archive,
    data_home: str | os.PathLike[str] | None,
    subset: str,
    download_if_missing: bool,
    return_X_y: bool,
    n_retries: int,
) -> Bunch | tuple[np.ndarray, np.ndarray]:
    """Load a subset of either data set."""
    home = _fetcher.data_folder(data_home)
    if not (home / archive.folder).is_dir() and not (home / archive.name).is_file():
        registry = {archive.name: f"md5:{archive.md5}"}
        _fetcher.download(registry, URL, home, download_if_missing=download_if_missing, n_retries=n_retries)
    with _opened(archive, home) as (source, open_member):

        def load(name: str, *keys: bytes) -> list[Any]:
            with open_member(name) as file:
                return load_values(file, source / name, *keys)

        parts = [_read_part(archive, part, load, source) for part in _fetcher.PARTS[subset]]
        (names,) = load(archive.meta, archive.label_names)
    descr = _DESCR.format(**vars(archive), reference=_REFERENCE)
    return _fetcher.fetched(parts, _decode(names, archive, source), descr, return_X_y)


@contextmanager
def _opened(archive: Archive, home: Path) -> Iterator[tuple[Path, Callable[[str], BinaryIO]]]:
    """Yield the path of the folder, or else of the archive, and a function that opens one of its files."""
    folder, packed = home / archive.folder, home / archive.name
    if folder.is_dir():
        yield folder, lambda name: (folder / name).open("rb")
        return
    with packed.open("rb") as file:
        _fetcher.check_digest(file, packed, "md5", archive.md5)
        with tarfile.open(fileobj=file) as members:
            yield packed, lambda name: cast(BinaryIO, members.extractfile(f"{archive.folder}/{name}"))


def _read_part(
    archive: Archive, part: str, load: Callable[..., list[Any]], source: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Read images of shape (n, 3, 32, 32), uint8, and labels of shape (n,)."""
    batches = [load(name, b"data", archive.labels) for name in archive.batches[part]]
    for data, labels in batches:
        _check_batch(data, labels, archive, source)
    images = np.concatenate([data for data, _ in batches])
    labels = np.concatenate([np.asarray(labels, np.int64) for _, labels in batches])
    _check_counts(labels, archive.per_class[part], archive.n_classes, source)
    return images.reshape(-1, 3, 32, 32), labels


def _check_batch(data: Any, labels: Any, archive: Archive, source: Path) -> None:
    """Refuse a batch that is not a list of labels and an image for each."""
    last = archive.n_classes - 1
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label <= last for label in labels):
        raise OSError(
            f"The labels in {source} are not the original's: expected a list of whole numbers from 0 to "
            f"{last}. Put the original files there."
        )
    found = f"{data.dtype} of shape {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
    if found != f"uint8 of shape {(len(labels), 3 * 32 * 32)}":
        raise OSError(
            f"The images in {source} are not the original's: expected uint8 of shape ({len(labels)}, 3072), "
            f"found {found}. Put the original files there."
        )


def _check_counts(labels: np.ndarray, per_class: int, n_classes: int, source: Path) -> None:
    """Refuse labels unless every class has as many images as in the original."""
    counts = np.bincount(labels, minlength=n_classes)
    if (counts != per_class).any():
        raise OSError(
            f"The labels in {source} are not the original's: expected {n_classes} classes of {per_class} "
            f"rows each, found {len(counts)} of {counts.min()} to {counts.max()}. Put the original files "
            "there."
        )


def _decode(names: Any, archive: Archive, source: Path) -> list[str]:
    """Decode the names of the classes; refuse any number but the original's."""
    if isinstance(names, list) and len(names) == archive.n_classes:
        with suppress(AttributeError, UnicodeDecodeError):
            return [name.decode() for name in names]
    raise OSError(
        f"The names of the classes in {source} are not the original's: expected a list of "
        f"{archive.n_classes} byte strings. Put the original files there."
    )
