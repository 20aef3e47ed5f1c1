"""CIFAR-10 and CIFAR-100, from their pickled batches."""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from sklearn_kd.datasets import _files
from sklearn_kd.datasets._files import RemoteFile

REFERENCE = """
A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", technical report, University of
Toronto, 2009. https://www.cs.toronto.edu/~kriz/cifar.html
"""


@dataclass(frozen=True)
class Archive:
    """One of the two archives: what is in it and under which names."""

    file: RemoteFile
    folder: str
    batches: dict[str, list[str]]
    meta: str
    labels: bytes
    names: bytes
    n_classes: int
    per_class: dict[str, int]
    descr: str


CIFAR10 = Archive(
    file=RemoteFile(
        "cifar-10-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "c58f30108f718f92721af3b95e74349a",
    ),
    folder="cifar-10-batches-py",
    batches={"train": [f"data_batch_{k}" for k in range(1, 6)], "test": ["test_batch"]},
    meta="batches.meta",
    labels=b"labels",
    names=b"label_names",
    n_classes=10,
    per_class={"train": 5_000, "test": 1_000},
    descr="CIFAR-10: 50,000 training and 10,000 test images, colour, 32×32, 10 classes.\n" + REFERENCE,
)
CIFAR100 = Archive(
    file=RemoteFile(
        "cifar-100-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "eb9058c3a382ffc7106e4002c42a8d85",
    ),
    folder="cifar-100-python",
    batches={"train": ["train"], "test": ["test"]},
    meta="meta",
    labels=b"fine_labels",
    names=b"fine_label_names",
    n_classes=100,
    per_class={"train": 500, "test": 100},
    descr="CIFAR-100: 50,000 training and 10,000 test images, colour, 32×32, 100 classes.\n" + REFERENCE,
)


@_files.validated
def fetch_cifar10(
    *, data_home=None, subset="train", download_if_missing=True, return_X_y=False, n_retries=3, delay=1.0
):
    """Load CIFAR-10; download it if necessary.

    =================   ======================================
    Classes             10, of 5,000 and 1,000 images each
    Images              50,000 for training, 10,000 for testing
    Shape               (3, 32, 32): red, green, blue
    Features            float32, between 0 and 1
    =================   ======================================

    Parameters
    ----------
    data_home : str or path-like, default=None
        Folder of the data sets, by default scikit-learn's
        (:func:`sklearn.datasets.get_data_home`). In it, the folder ``cifar-10-batches-py`` or the
        archive that unpacks to it, ``cifar-10-python.tar.gz``. Where both are the folder is read,
        which is faster.
    subset : {"train", "test", "all"}, default="train"
        ``"all"`` has the training images first.
    download_if_missing : bool, default=True
        Whether to download the archive (170 MB) if neither is there. This takes the extra
        ``sklearn-kd[datasets]``, and shows a progress bar.
    return_X_y : bool, default=False
        Return ``(data, target)`` in place of the Bunch.
    n_retries : int, default=3
        Further attempts after a failed download.
    delay : float, default=1.0
        Seconds before each of them.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        data : ndarray of shape (n, 3, 32, 32), float32
            Pixels divided by 255, as networks take them: (n, channels, height, width).
            ``np.rint(255 * data).astype(np.uint8)`` are the bytes of the files.
        target : ndarray of shape (n,), int64
            Classes 0 to 9.
        target_names : list of str
            Their names.
        DESCR : str
            Where the data come from.
    (data, target) : tuple of ndarray
        If ``return_X_y``.

    Raises
    ------
    OSError
        If the files are missing and cannot be downloaded, if the archive's checksum is wrong, or if
        a file does not hold what the original does. The message says which files to put where.
    ImportError
        If the archive is missing and pooch, which downloads it, is not installed.
    pickle.UnpicklingError
        If a file asks for anything but arrays of bytes.

    Notes
    -----
    The files are pickles, which can run any code when they are read. Here they are read by an
    unpickler that admits numpy arrays of uint8 and Python's own containers, numbers and strings, and
    nothing else. The archive's MD5 checksum, which its author publishes, is verified at every call;
    shapes and the number of images per class are verified for both forms.

    Examples
    --------
    >>> from sklearn_kd.datasets import fetch_cifar10
    >>> X, y = fetch_cifar10(return_X_y=True)  # doctest: +SKIP
    >>> X.shape  # doctest: +SKIP
    (50000, 3, 32, 32)
    """
    return _fetch(
        CIFAR10,
        data_home=data_home,
        subset=subset,
        return_X_y=return_X_y,
        download_if_missing=download_if_missing,
        n_retries=n_retries,
        delay=delay,
    )


@_files.validated
def fetch_cifar100(
    *, data_home=None, subset="train", download_if_missing=True, return_X_y=False, n_retries=3, delay=1.0
):
    """Load CIFAR-100 with its 100 fine labels; download it if necessary.

    =================   ======================================
    Classes             100, of 500 and 100 images each
    Images              50,000 for training, 10,000 for testing
    Shape               (3, 32, 32): red, green, blue
    Features            float32, between 0 and 1
    =================   ======================================

    Parameters
    ----------
    data_home : str or path-like, default=None
        Folder of the data sets, by default scikit-learn's
        (:func:`sklearn.datasets.get_data_home`). In it, the folder ``cifar-100-python`` or the archive
        that unpacks to it, ``cifar-100-python.tar.gz``. Where both are the folder is read, which is
        faster.
    subset : {"train", "test", "all"}, default="train"
        ``"all"`` has the training images first.
    download_if_missing : bool, default=True
        Whether to download the archive (169 MB) if neither is there. This takes the extra
        ``sklearn-kd[datasets]``, and shows a progress bar.
    return_X_y : bool, default=False
        Return ``(data, target)`` in place of the Bunch.
    n_retries : int, default=3
        Further attempts after a failed download.
    delay : float, default=1.0
        Seconds before each of them.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        data : ndarray of shape (n, 3, 32, 32), float32
            Pixels divided by 255, as networks take them: (n, channels, height, width).
            ``np.rint(255 * data).astype(np.uint8)`` are the bytes of the files.
        target : ndarray of shape (n,), int64
            Classes 0 to 99.
        target_names : list of str
            Their names.
        DESCR : str
            Where the data come from.
    (data, target) : tuple of ndarray
        If ``return_X_y``.

    Raises
    ------
    OSError
        If the files are missing and cannot be downloaded, if the archive's checksum is wrong, or if
        a file does not hold what the original does. The message says which files to put where.
    ImportError
        If the archive is missing and pooch, which downloads it, is not installed.
    pickle.UnpicklingError
        If a file asks for anything but arrays of bytes.

    Notes
    -----
    The files are read and verified as :func:`fetch_cifar10` does.

    Examples
    --------
    >>> from sklearn_kd.datasets import fetch_cifar100
    >>> X, y = fetch_cifar100(return_X_y=True)  # doctest: +SKIP
    >>> X.shape  # doctest: +SKIP
    (50000, 3, 32, 32)
    """
    return _fetch(
        CIFAR100,
        data_home=data_home,
        subset=subset,
        return_X_y=return_X_y,
        download_if_missing=download_if_missing,
        n_retries=n_retries,
        delay=delay,
    )


def _fetch(archive: Archive, *, data_home, subset, return_X_y, **download):
    """Read a subset of either data set."""
    home = _files.home(data_home)
    if not (home / archive.folder).is_dir() and not (home / archive.file.name).is_file():
        _files.download([archive.file], home, **download)
    with _opened(archive, home) as (source, open_member):

        def load(name, *keys):
            with open_member(name) as file:
                return _load(file, source / name, *keys)

        parts = [_part(archive, part, load, source) for part in _files.PARTS[subset]]
        (names,) = load(archive.meta, archive.names)
    return _files.as_bunch(parts, _decoded(names, archive, source), archive.descr, return_X_y)


def _decoded(names: Any, archive: Archive, source: Path) -> list[str]:
    if isinstance(names, list) and len(names) == archive.n_classes:
        with suppress(AttributeError, UnicodeDecodeError):
            return [name.decode() for name in names]
    raise OSError(
        f"The names of the classes in {source} are not the original's: expected a list of "
        f"{archive.n_classes} byte strings. Put the original files there."
    )


@contextmanager
def _opened(archive: Archive, home: Path) -> Iterator[tuple[Path, Callable[[str], Any]]]:
    """Yield the place of the files, and a function that opens one: of the folder, or else of the archive."""
    folder, packed = home / archive.folder, home / archive.file.name
    if folder.is_dir():
        yield folder, lambda name: (folder / name).open("rb")
        return
    with packed.open("rb") as file:
        _files.check_digest(file, packed, "md5", archive.file.md5)
        with tarfile.open(fileobj=file) as members:
            yield packed, lambda name: members.extractfile(f"{archive.folder}/{name}")


def _part(archive: Archive, part: str, load, source: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images of shape (n, 3, 32, 32), uint8, and labels of shape (n,)."""
    batches = [load(name, b"data", archive.labels) for name in archive.batches[part]]
    for data, labels in batches:
        _check_batch(data, labels, archive, source)
    images = np.concatenate([data for data, _ in batches])
    labels = np.concatenate([np.asarray(labels, np.int64) for _, labels in batches])
    _files.check_labels(labels, archive.per_class[part], archive.n_classes, source)
    return images.reshape(-1, 3, 32, 32), labels


def _check_batch(data: Any, labels: Any, archive: Archive, source: Path) -> None:
    """Refuse what is no list of labels and an image for each."""
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


# The largest of the original's files has 155,261,379 bytes, and not half as many operations.
_MOST_BYTES, _MOST_OPERATIONS = 200_000_000, 1_000_000


class _Uint8:
    """In place of numpy's dtype, which would take fields, objects and sizes from the pickle."""

    def __setstate__(self, state):
        if not all(part is None or isinstance(part, (int, str, bytes)) for part in state):
            raise pickle.UnpicklingError("it has an array of records, not of bytes as the original")


class _Array:
    """In place of a numpy array, which would allocate what the pickle says."""

    value: np.ndarray | None = None

    def __setstate__(self, state):
        _, shape, dtype, is_fortran, data = state
        if type(dtype) is not _Uint8 or type(data) is not bytes or math.prod(shape) != len(data):
            raise pickle.UnpicklingError(f"it has an array of shape {str(shape)[:100]} without as many bytes")
        self.value = np.frombuffer(data, np.uint8).reshape(shape, order="F" if is_fortran else "C")


def _reconstruct(*_: Any) -> _Array:
    """Take the place of the function that numpy pickles its arrays with."""
    return _Array()


def _uint8(code: Any, *_: Any) -> _Uint8:
    """Take the place of ``numpy.dtype``, which has other types, objects among them."""
    if code not in ("u1", b"u1"):
        raise pickle.UnpicklingError(f"it has an array of {code!r}, not of bytes as the original")
    return _Uint8()


class _Unpickler(pickle.Unpickler):
    """Admits what the batches are made of, arrays of uint8, and nothing else; calls nothing of numpy."""

    # numpy's module has moved with numpy 2.
    ADMITTED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _uint8,
    }

    def find_class(self, module, name):
        """The object that a pickle asks for by name."""
        if (module, name) not in self.ADMITTED:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which the original does not: arrays of bytes are all it holds"
            )
        return self.ADMITTED[module, name]


def _check_operations(data: bytes) -> None:
    """Refuse a pickle that makes the unpickler allocate more than is in it."""
    for n, (operation, argument, _) in enumerate(pickletools.genops(data)):
        place: Any = argument
        # The memo is a list as long as the largest place in it, and picklers number the places.
        if n > _MOST_OPERATIONS or (operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(place) > n):
            raise pickle.UnpicklingError("it asks for more memory than the original")


def _load(file: BinaryIO, path: Path, *keys: bytes) -> list:
    """The values of a pickled dictionary, whose keys are bytes as Python 2 wrote them."""
    try:
        data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise pickle.UnpicklingError(
                f"it is longer than {_MOST_BYTES:,} bytes, which the original is not"
            )
        _check_operations(data)
        # From memory: a read from a file allocates as many bytes as the pickle states.
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle fails in many ways
        raise pickle.UnpicklingError(f"{path} was not read: {error}. Put the original there.") from error
    if not isinstance(content, dict) or not content.keys() >= set(keys):
        raise OSError(f"{path} is no dictionary with {list(keys)}. Put the original there.")
    values = [content[key] for key in keys]
    return [value.value if isinstance(value, _Array) else value for value in values]
