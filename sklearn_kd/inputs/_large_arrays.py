"""Keep large arrays as given, and read their rows in parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

# From this size in bytes on, arrays of other types than float32 are kept and converted batch by batch.
# Smaller ones are converted once, which takes less time.
_KEPT_FROM = 2**25
# Bytes to read at a time; they fit into a processor's cache.
_PART = 2**20

# Types of arrays whose rows torch can index.
_KNOWN = {np.dtype(name) for name in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "?")}


def parts(n_rows: int, row_bytes: int) -> Iterator[slice]:
    """Yield slices that cover all rows in order, about a mebibyte each."""
    size = max(1, _PART // max(1, row_bytes))
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


def parts_of(array: np.ndarray | Tensor) -> Iterator[Any]:
    """Yield all rows of an array, in order, about a mebibyte at a time."""
    for part in parts(len(array), array.nbytes // max(1, len(array))):
        yield array[part]


def is_large(X: object) -> bool:
    """Return True if X is an array so large that it is kept as given."""
    return isinstance(X, np.ndarray) and X.nbytes >= _KEPT_FROM


def kept_or_float32(array: np.ndarray) -> np.ndarray:
    """Return an array whose rows torch can index: the given one if it is large or float32, else a copy.

    An array in another order than C is copied, because its rows would be slow to gather. Copies are float32
    and made in parts.

    Parameters
    ----------
    array : ndarray of numbers
    """
    is_known = array.flags.c_contiguous and array.dtype in _KNOWN
    if is_known and (array.dtype == np.float32 or is_large(array)):
        return array
    copy = np.empty(array.shape, dtype=np.float32)
    with np.errstate(over="ignore"):  # overflow becomes infinity, which is checked
        for part in parts(len(array), array.nbytes // max(1, len(array))):
            copy[part] = array[part]
    return copy


def all_finite(array: np.ndarray) -> bool:
    """Return True if all numbers are finite as float32; the array is read in parts."""
    if array.dtype.kind not in "f":
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        for part in parts_of(array):
            part = part.astype(np.float32, copy=False)
            # A sum is quick. If it is not finite, check each number, since a sum of finite ones may
            # overflow.
            if not np.isfinite(part.sum()) and not np.isfinite(part).all():
                return False
    return True


class _Writable:
    """An array's memory, to be wrapped by NumPy as writable; nothing may write into it."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = array.__array_interface__ | {"data": (address, False)}


def shared_tensor(array: np.ndarray) -> Tensor:
    """Return a tensor that shares an array's memory, even read-only memory; nothing may write into it."""
    if not array.flags.writeable and array.size:  # torch would warn
        array = np.asarray(_Writable(array))
    return torch.from_numpy(array)
