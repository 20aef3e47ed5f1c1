"""Out of memory: which batches, what was held and where, and what needs less."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# What torch's plain RuntimeErrors say, and what they are. Of MPS there is no class.
_SAID: dict[str, type[Exception]] = {
    "DefaultCPUAllocator": MemoryError,
    "std::bad_alloc": MemoryError,
    "MPS backend out of memory": RuntimeError,
    "CUDA out of memory": torch.cuda.OutOfMemoryError,
    "CUDA error: out of memory": torch.cuda.OutOfMemoryError,
    "CUBLAS_STATUS_ALLOC_FAILED": torch.cuda.OutOfMemoryError,
    "CUDNN_STATUS_ALLOC_FAILED": torch.cuda.OutOfMemoryError,
}


def _kind(error: BaseException) -> type[Exception] | None:
    """Return the exception type to raise for lack of memory; None for any other error."""
    for kind in (torch.cuda.OutOfMemoryError, MemoryError):
        if isinstance(error, kind):
            return kind
    if not isinstance(error, RuntimeError):
        return None
    return next((kind for said, kind in _SAID.items() if said in str(error)), None)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a device or the host had too little memory."""
    return _kind(error) is not None


@contextmanager
def out_of_memory_named(doing: str, situation: Callable[[], str], mend: str) -> Iterator[None]:
    """Re-raise out-of-memory errors with the operation, the memory in use and ways to use less.

    It is raised as the type it has, so that it is caught as before; a RuntimeError of torch's
    allocator on the CPU as MemoryError.

    Parameters
    ----------
    doing : str
        As in "while ...".
    situation : callable() -> str
        Batch size and what is held, asked for only where memory has run out.
    mend : str
        What :func:`needing_less` says.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        kind = _kind(error)
        if kind is None or getattr(error, "named_", False):
            raise
        # The error is kept beside the new one; the tensors of the calls it came out of are not.
        traceback.clear_frames(error.__traceback__)
        named: Any = kind(f"Out of memory while {doing}, with {situation()}. {mend} ({_first_line(error)})")
        named.named_ = True
        try:
            raise named from error
        finally:
            del named  # whose traceback holds this very frame, and all that the others hold


def _first_line(error):
    return f"{type(error).__name__}: {(str(error).strip() or 'no more is known').splitlines()[0]}"


# --------------------------------------------------------------------------------------
# What is held


def mebibytes(n_bytes: float) -> str:
    """Write a size for a message."""
    return f"{n_bytes / 2**20:.1f} MiB"


def needing_less(device: torch.device, *ways: str) -> str:
    """Return the advice of a message where the memory of ``device`` has run out."""
    elsewhere = () if device.type == "cpu" else ("device='cpu'",)
    return f"What needs less: {'; '.join((*ways, *elsewhere))}."


def bytes_of(tensors) -> int:
    """Add up the bytes of the tensors, passing over anything else."""
    return sum(t.nbytes for t in tensors if isinstance(t, Tensor))


def size_of(modules: list[nn.Module]) -> str:
    """Return the size of the modules' weights, in words."""
    return mebibytes(bytes_of(w for module in modules for w in module.parameters()))


def held_of(data) -> str:
    """Describe D_train and D_val (None where there is none) and the cached logits.

    Parameters
    ----------
    data : iterable of DistillationData or None
    """
    parts = [part for part in data if part is not None]
    rows = bytes_of(part.__dict__.get("X") for part in parts)
    logits = bytes_of(part.targets.teacher_logits for part in parts)
    loaded = f"data of {mebibytes(rows)}" if rows else "data that are loaded batch by batch"
    return f"{loaded} and cached teacher logits of {mebibytes(logits)} on {parts[0].device}"


# --------------------------------------------------------------------------------------
# In training


def training_named(net, data):
    """Name what a net in training holds where memory runs out: batch size, data, logits and weights.

    Parameters
    ----------
    net : TrainingNet
    data : SplitData
    """

    def situation():
        weights = f"weights of {size_of(net.trained_modules())}"
        if net.step_record_ is not None:
            weights += f", of which hypergradients by {net.hypergradient!r} hold copies"
        batch_size = net.get_params_for("iterator_train").get("batch_size", net.batch_size)
        return f"batch_size={batch_size}, {held_of(data)} and {weights}"

    ways = [
        "a smaller batch_size",
        "execution='bfloat16'",
        "X as a Dataset, whose rows are loaded batch by batch",
    ]
    ways += ["hypergradient_rows"] if hasattr(net, "hypergradient_rows") else []
    return out_of_memory_named(
        "training the student", situation, needing_less(torch.device(net.device), *ways)
    )


def training_together_named(nets, data):
    """Name what several nets in one batched run hold where memory runs out."""

    def situation():
        weights = size_of([net.module_ for net in nets])
        return f"batch_size={nets[0].batch_size}, {held_of(data[0])} and weights of {weights}"

    doing = f"training {len(nets)} students in one batched run"
    ways = "a smaller batch_size", "fewer trials or methods at once"
    return out_of_memory_named(doing, situation, needing_less(torch.device(nets[0].device), *ways))
