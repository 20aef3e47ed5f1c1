"""Write and read bytes of ``numpy.savez``, without pickles and without excessive memory."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from typing import Any, Literal, cast

import numpy as np
from numpy.lib import format as npy

from sklearn_kd.files._limits import check_asked


def dump_arrays(arrays: Mapping[str, np.ndarray]) -> memoryview:
    """Return named arrays as the bytes of ``numpy.savez``."""
    buffer = io.BytesIO()
    np.savez(buffer, **cast(Any, dict(arrays)))
    return buffer.getbuffer()


def load_arrays(data: bytes) -> dict[str, np.ndarray]:
    """Return the arrays in bytes of ``numpy.savez`` by name.

    Parameters
    ----------
    data : bytes

    Raises
    ------
    TooLargeError
        If they request more memory than their length allows.
    Exception
        Of any type, if they are anything else.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = archive.infolist()
        check_asked(sum(part.file_size for part in parts), len(data))
        return {part.filename.removesuffix(".npy"): _array_of(archive.read(part)) for part in parts}


def _array_of(data: bytes) -> np.ndarray:
    """Return the array in the bytes of a .npy file; NumPy's own reader would allocate any stated size."""
    file = io.BytesIO(data)
    version = npy.read_magic(file)
    if version == (1, 0):
        shape, is_fortran, dtype = npy.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, is_fortran, dtype = npy.read_array_header_2_0(file)
    else:
        raise ValueError(f"an array has the format {version}")
    start = file.tell()
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - start or start == len(data):
        raise ValueError(f"an array of {dtype} of shape {shape} does not have {len(data) - start:,} bytes")
    order: Literal["F", "C"] = "F" if is_fortran else "C"
    return np.frombuffer(data, dtype, offset=start).reshape(shape, order=order).copy()
