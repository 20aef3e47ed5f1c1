"""Write and read bytes of ``torch.save``, and hash tensors.

Reading never runs code, and no small file can fill the memory.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from sklearn_kd.files._limits import FACTOR, TooLargeError, check_asked

# weights_only=True runs code before torch 2.6 (CVE-2025-32434), and corrupts memory before 2.10
# (CVE-2026-24747).
_SAFE_SINCE = (2, 10)

# The only name admitted by torch's reader that allocates and fills as much memory as the file says.
_ALLOCATES = re.compile(rb"c(?:builtins|__builtin__)\nbytearray\n")


def dump_tensors(content: Any) -> memoryview:
    """Return plain values and tensors as the bytes of ``torch.save``."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getbuffer()


def hash_tensor(update: Callable[[bytes | memoryview], Any], tensor: Tensor, name: str = "") -> None:
    """Add a tensor's name, type, shape and numbers to a digest.

    Parameters
    ----------
    update : callable ``(data) -> Any``
        The ``update`` of a digest of :mod:`hashlib`.
    tensor : Tensor
    name : str, default=""
    """
    tensor = tensor.detach().cpu().contiguous()
    update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
    if tensor.numel():  # through bytes, since NumPy has no bfloat16
        update(tensor.reshape(-1).view(torch.uint8).numpy().data)


def load_tensors(data: bytes) -> Any:
    """Return the plain values and tensors in the bytes of ``torch.save``, on the CPU.

    Parameters
    ----------
    data : bytes

    Raises
    ------
    ImportError
        If torch is too old to read untrusted files safely.
    TooLargeError
        If they request more memory than their length allows.
    Exception
        Of any type, if they are anything else.
    """
    _check_torch()
    if _ALLOCATES.search(data):
        raise ValueError("it asks for bytearrays, which are not tensors")
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            # The pickle inside could not be searched.
            raise ValueError("it is compressed, which torch.save never does")
        check_asked(sum(part.file_size for part in parts), len(data))
        # Load on the device "meta" first, which takes no memory.
        _check_tensors(torch.load(io.BytesIO(data), map_location="meta", weights_only=True), len(data))
    content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    _check_tensors(content, len(data))  # again, for the format before torch 1.6, which is not a zip archive
    return content


def _check_torch() -> None:
    version = tuple(map(int, re.findall(r"\d+", torch.__version__)[:2]))
    if version < _SAFE_SINCE:
        raise ImportError(
            f"torch {torch.__version__} runs code in files that are read with weights_only=True, or corrupts "
            "memory (CVE-2025-32434, CVE-2026-24747). Install torch 2.10 or later."
        )


def _check_tensors(content: Any, length: int) -> None:
    """Refuse tensors that would take more memory than a file of this length may request."""
    tensors = _tensors_in(content, most_parts=FACTOR * length + 10**6)
    check_asked(sum(tensor.numel() * tensor.element_size() for tensor in tensors), length)


def _tensors_in(content: Any, most_parts: int) -> Iterator[Tensor]:
    """Yield all tensors in nested dicts, lists and tuples, once for each occurrence."""
    waiting, n_parts = [content], 0
    while waiting:
        part, n_parts = waiting.pop(), n_parts + 1
        if n_parts > most_parts:  # one list may be part of many others
            raise TooLargeError(f"its {content.__class__.__name__} has parts without end")
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, dict):
            waiting.extend(part.values())
        elif isinstance(part, (list, tuple, set, frozenset)):
            waiting.extend(part)
