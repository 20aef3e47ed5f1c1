"""Tensors of a file, compressed if that makes them smaller."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.files._compression import CompressionError, compress_rows, decompress_rows
from sklearn_kd.files._limits import check_asked
from sklearn_kd.files._values import ContentError

# A tensor is compressed if that saves a quarter of its bytes, so weights stay readable without this library.
_SMALLER = 0.75
# Bytes that are compressed at most, counted before compression: less than a reader allows for any file.
_MOST = 16 * 2**20

_DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name)
    for name in (
        "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16",
        "bfloat16", "float32", "float64",
    )
}  # fmt: skip


def compress_tensors(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Compress some tensors to bytes. Return all tensors, and type and shape of the compressed ones by name.

    Parameters
    ----------
    tensors : dict of Tensor
        Dense, contiguous tensors on the CPU.
    """
    written, compressed, left = dict(tensors), {}, _MOST
    for name, tensor in tensors.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        if kind not in _DTYPES or tensor.numel() == 0 or tensor.nbytes > left:
            continue
        left -= tensor.nbytes
        rows = tensor.reshape(-1, 1).view(torch.uint8).numpy()
        data = compress_rows(rows)
        if len(data) <= _SMALLER * tensor.nbytes:
            written[name] = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
            compressed[name] = [kind, list(tensor.shape)]
    return written, compressed


def decompress_tensors(tensors: dict[str, Tensor], compressed: Any, length: int) -> dict[str, Tensor]:
    """Undo :func:`compress_tensors`, and return the tensors.

    Parameters
    ----------
    tensors : dict of Tensor
    compressed : dict
        Types and shapes by name, as stated in the file.
    length : int
        Length of the file in bytes.

    Raises
    ------
    TooLargeError
        If the stated sizes are out of proportion to the length of the file.
    ContentError
        If the bytes of a tensor do not match its stated type and shape.
    """
    if not isinstance(compressed, dict):
        raise ContentError("compressed tensors that are not a dictionary")
    stated = {name: _checked(name, form, tensors) for name, form in compressed.items()}
    check_asked(sum(dtype.itemsize * math.prod(shape) for dtype, shape in stated.values()), length)
    found = dict(tensors)
    for name, (dtype, shape) in stated.items():
        try:
            rows = decompress_rows(tensors[name].numpy().tobytes(), math.prod(shape), dtype.itemsize)
        except CompressionError as error:
            raise ContentError(f"a tensor {name!r} of {error}") from error
        found[name] = torch.from_numpy(rows.copy()).view(dtype).reshape(shape)
    return found


def _checked(name: str, form: Any, tensors: dict[str, Tensor]) -> tuple[torch.dtype, list[int]]:
    """Return the type and the shape stated in the file."""
    data = tensors.get(name)
    if data is None or data.dtype != torch.uint8 or data.ndim != 1:
        raise ContentError(f"no bytes of the compressed tensor {name!r}")
    dtype: Any
    shape: Any
    dtype, shape = form if isinstance(form, list) and len(form) == 2 else (None, None)
    is_known = isinstance(dtype, str) and dtype in _DTYPES and isinstance(shape, list)
    if not is_known or not all(type(size) is int and size > 0 for size in shape):
        raise ContentError(f"a compressed tensor {name!r} of type and shape {str(form)[:100]}")
    return _DTYPES[dtype], shape
