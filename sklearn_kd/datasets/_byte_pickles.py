"""Read pickled arrays of bytes without running code or allocating more than the file holds."""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

# CIFAR's largest file has 155,261,379 bytes, and fewer than half as many operations as allowed here.
_MAX_BYTES, _MAX_OPERATIONS = 200_000_000, 1_000_000


class _Uint8:
    """Stand in for numpy's dtype, which would take fields, objects and sizes from the pickle."""

    def __setstate__(self, state: Any) -> None:
        if not all(part is None or isinstance(part, (int, str, bytes)) for part in state):
            raise pickle.UnpicklingError("it has an array of records, not of bytes as the original")


class _Array:
    """Stand in for a numpy array, which would allocate as much as the pickle states."""

    value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        if type(dtype) is not _Uint8 or type(data) is not bytes or math.prod(shape) != len(data):
            raise pickle.UnpicklingError(f"it has an array of shape {str(shape)[:100]} without as many bytes")
        self.value = np.frombuffer(data, np.uint8).reshape(shape, order="F" if is_fortran else "C")


def _reconstruct(*_: Any) -> _Array:
    """Stand in for the function that numpy pickles its arrays with."""
    return _Array()


def _uint8(code: Any, *_: Any) -> _Uint8:
    """Stand in for ``numpy.dtype``, which has other types, objects among them."""
    if code not in ("u1", b"u1"):
        raise pickle.UnpicklingError(f"it has an array of {code!r}, not of bytes as the original")
    return _Uint8()


class _Unpickler(pickle.Unpickler):
    """Admit arrays of uint8 and Python's own containers, numbers and strings; call nothing of numpy."""

    # numpy's module has moved with numpy 2.
    ADMITTED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _uint8,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for the object that a pickle asks for by name."""
        if (module, name) not in self.ADMITTED:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which the original does not: arrays of bytes are all it holds"
            )
        return self.ADMITTED[module, name]


def _check_operations(data: bytes) -> None:
    """Refuse a pickle that makes the unpickler allocate more than the pickle holds."""
    for n, (operation, argument, _) in enumerate(pickletools.genops(data)):
        place: Any = argument
        # The memo is a list up to its largest index, and picklers number the entries.
        if n > _MAX_OPERATIONS or (operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(place) > n):
            raise pickle.UnpicklingError("it asks for more memory than the original")


def load_values(file: BinaryIO, path: Path, *keys: bytes) -> list[Any]:
    """Read values of a pickled dictionary.

    Parameters
    ----------
    file : binary file
        The open pickle, of Python 2 or 3.
    path : Path
        Path of the file, for error messages.
    *keys : bytes
        Keys of the values. They are bytes, as Python 2's strings become.

    Returns
    -------
    values : list
        Values in the order of the keys. Arrays are ndarrays of uint8.

    Raises
    ------
    pickle.UnpicklingError
        If the pickle is damaged, too large, or asks for anything but arrays of uint8 and Python's own
        containers, numbers and strings.
    OSError
        If the pickle holds no dictionary with these keys.
    """
    try:
        data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise pickle.UnpicklingError(f"it is longer than {_MAX_BYTES:,} bytes, which the original is not")
        _check_operations(data)
        # From memory, since a read from a file allocates as many bytes as the pickle states.
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle fails in many ways
        raise pickle.UnpicklingError(f"{path} was not read: {error}. Put the original there.") from error
    if not isinstance(content, dict) or not content.keys() >= set(keys):
        raise OSError(f"{path} is not a dictionary with {list(keys)}. Put the original there.")
    values = [content[key] for key in keys]
    return [value.value if isinstance(value, _Array) else value for value in values]
