"""Compress rows of numbers losslessly, and read them back within a stated size."""

from __future__ import annotations

import zlib

import numpy as np


class CompressionError(ValueError):
    """Bytes are not the expected compressed rows."""


def compress_rows(rows: np.ndarray) -> bytes:
    """Compress items of one size, such as the numbers of an array.

    The first bytes of all items come first, then the second ones, and so on, because these are alike for
    similar numbers.

    Parameters
    ----------
    rows : ndarray of shape (n_items, item_size), uint8
    """
    return zlib.compress(np.ascontiguousarray(rows.T).tobytes(), level=9)


def decompress_rows(data: bytes, n_items: int, item_size: int) -> np.ndarray:
    """Return the items of :func:`compress_rows`; never allocate more than their stated size.

    Parameters
    ----------
    data : bytes
        Any bytes.
    n_items, item_size : int
        Stated size. The caller has checked that this much memory may be used.

    Returns
    -------
    ndarray of shape (n_items, item_size), uint8

    Raises
    ------
    CompressionError
        If the bytes are not one complete compressed stream, or hold more or less than stated.
    """
    size = n_items * item_size
    stream = zlib.decompressobj()
    try:
        # One byte more than stated reveals a stream that holds more.
        found = stream.decompress(data, size + 1)
    except zlib.error as error:
        raise CompressionError(f"bytes that cannot be decompressed ({error})") from error
    if len(found) > size:
        raise CompressionError(f"compressed bytes that hold more than the stated {size:,}")
    if len(found) < size or not stream.eof:
        raise CompressionError(f"compressed bytes that end after {len(found):,} of {size:,}")
    if stream.unused_data:
        raise CompressionError("bytes after the end of the compressed ones")
    return np.ascontiguousarray(np.frombuffer(found, np.uint8).reshape(item_size, n_items).T)


def bytes_of(array: np.ndarray) -> np.ndarray:
    """Return the bytes of an array, one row for each item."""
    return np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8).reshape(array.size, -1)


class CompressedArray:
    """A compressed array of numbers, for a pickle.

    Parameters
    ----------
    array : ndarray
        The array, which may be structured but not of objects.
    """

    def __init__(self, array: np.ndarray):
        self._dtype, self._shape = array.dtype, array.shape
        self._data = compress_rows(bytes_of(array)) if array.size else b""

    def array(self) -> np.ndarray:
        """Return the array."""
        found = np.empty(self._shape, self._dtype)
        if found.size:
            items = decompress_rows(self._data, found.size, self._dtype.itemsize)
            found[...] = np.frombuffer(items.tobytes(), self._dtype).reshape(self._shape)
        return found
