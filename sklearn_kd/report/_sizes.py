"""The size of models in bytes: weights of networks, pickles of everything else."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from functools import partial
from inspect import isroutine
from itertools import chain
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from skorch import NeuralNet
from torch import nn

from sklearn_kd.teachers import FunctionTeacher, OnnxTeacher, TeacherEnsemble
from sklearn_kd.teachers._logit_checks import thawed


class Size(NamedTuple):
    """Bytes, and what was counted, such as "weights"."""

    n_bytes: int | None
    counted: str


def size_of(parts: Sequence[Any]) -> Size:
    """Return the size of what a prediction needs, such as transformers and a student's network.

    Parameters
    ----------
    parts : sequence of objects
        Of a network the bytes of its parameters and buffers count, of an ONNX file its own, of anything else
        those of its pickle; of several teachers their sum.
    """
    sizes = [_size_of_part(own) for part in parts for own in _content(part)]
    counted = " + ".join(dict.fromkeys(size.counted for size in sizes))
    known = [size.n_bytes for size in sizes if size.n_bytes is not None]
    return Size(sum(known) if len(known) == len(sizes) else None, counted)


def _content(part: Any) -> Iterator[Any]:
    """Yield what a part consists of: teachers of a list, and a function or a file that stands for itself."""
    part = thawed(part)
    if isinstance(part, (list, tuple, TeacherEnsemble)):
        for member in part.teachers if isinstance(part, TeacherEnsemble) else part:
            yield from _content(member)
    elif isinstance(part, FunctionTeacher):
        yield part.function
    else:
        yield part.model if isinstance(part, OnnxTeacher) else part


def _size_of_part(part: Any) -> Size:
    if isinstance(part, bytes):
        return Size(len(part), "file")
    if isinstance(part, (str, PurePath)):
        files = [Path(part), Path(f"{part}.data")]  # torch writes large weights beside the file
        return Size(sum(file.stat().st_size for file in files if file.is_file()) or None, "file")
    network = part.module_ if isinstance(part, NeuralNet) else part
    if isinstance(network, nn.Module):
        tensors = chain(network.parameters(), network.buffers())
        return Size(sum(tensor.numel() * tensor.element_size() for tensor in tensors), "weights")
    if isroutine(part) or isinstance(part, partial):  # a pickle has its name alone
        return Size(None, "unknown size")
    counter = _ByteCounter()
    try:
        pickle.dump(part, counter, protocol=pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, TypeError, AttributeError, ValueError, NotImplementedError):
        return Size(None, "unknown size")
    return Size(counter.n_bytes, "pickle")


class _ByteCounter:
    """A file that counts what is written, and keeps nothing."""

    def __init__(self) -> None:
        self.n_bytes = 0

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self.n_bytes += size
        return size
