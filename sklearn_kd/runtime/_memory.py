"""Explain out-of-memory errors: the operation, the memory in use, and ways to use less."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Texts of torch's plain RuntimeErrors, and the type to raise. MPS has no type of its own.
_TEXTS: dict[str, type[Exception]] = {
    "DefaultCPUAllocator": MemoryError,
    "std::bad_alloc": MemoryError,
    "MPS backend out of memory": RuntimeError,
    "CUDA out of memory": torch.cuda.OutOfMemoryError,
    "CUDA error: out of memory": torch.cuda.OutOfMemoryError,
    "CUBLAS_STATUS_ALLOC_FAILED": torch.cuda.OutOfMemoryError,
    "CUDNN_STATUS_ALLOC_FAILED": torch.cuda.OutOfMemoryError,
}


def _kind(error: BaseException) -> type[Exception] | None:
    """Return the exception type to raise for lack of memory, or None for any other error."""
    for kind in (torch.cuda.OutOfMemoryError, MemoryError):
        if isinstance(error, kind):
            return kind
    if not isinstance(error, RuntimeError):
        return None
    return next((kind for text, kind in _TEXTS.items() if text in str(error)), None)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a device or the host ran out of memory."""
    return _kind(error) is not None


@contextmanager
def explain_out_of_memory(doing: str, situation: Callable[[], str], advice: str) -> Iterator[None]:
    """Re-raise out-of-memory errors with the operation, the memory in use and ways to use less.

    The error keeps its type, so that existing handlers still catch it. A RuntimeError of torch's allocator on
    the CPU becomes a MemoryError. An error that has already been explained passes unchanged.

    Parameters
    ----------
    doing : str
        The operation, as in "Out of memory while ...".
    situation : callable() -> str
        Function that describes batch size and memory in use. Called only when memory has run out.
    advice : str
        Result of :func:`memory_advice`.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        kind = _kind(error)
        if kind is None or getattr(error, "explained_", False):
            raise
        # Keep the error with the new one, but not the tensors of the calls that raised it.
        traceback.clear_frames(error.__traceback__)
        message = f"Out of memory while {doing}, with {situation()}. {advice} ({_first_line(error)})"
        explained: Any = kind(message)
        explained.explained_ = True
        try:
            raise explained from error
        finally:
            del explained  # its traceback holds this frame and all its objects


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'without a message').splitlines()[0]}"


# --------------------------------------------------------------------------------------
# Sizes and advice


def format_mebibytes(n_bytes: float) -> str:
    """Format a number of bytes for a message."""
    return f"{n_bytes / 2**20:.1f} MiB"


def memory_advice(device: torch.device, *ways: str) -> str:
    """Return the sentence of a message that lists ways to use less memory of ``device``."""
    elsewhere = () if device.type == "cpu" else ("device='cpu'",)
    return f"To use less memory: {'; '.join((*ways, *elsewhere))}."


def nbytes(values: Iterable[Any]) -> int:
    """Add up the bytes of the tensors among ``values``."""
    return sum(t.nbytes for t in values if isinstance(t, Tensor))


def format_weights_size(modules: Iterable[nn.Module]) -> str:
    """Format the size of the modules' weights for a message."""
    return format_mebibytes(nbytes(w for module in modules for w in module.parameters()))
