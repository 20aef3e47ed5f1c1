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
    """Number of bytes, and a word for what was counted, such as "weights"."""

    n_bytes: int | None
    counted: str


def size_of(parts: Sequence[Any]) -> Size:
    """Return the size of the objects that a prediction needs, such as transformers and a student's network.

    Parameters
    ----------
    parts : sequence of objects
        For a network, count the bytes of its parameters and buffers; for an ONNX file, its size; for any
        other object, its pickle; for several teachers, their sum.
    """
    sizes = [_size_of_part(own) for part in parts for own in _content(part)]
    counted = " + ".join(dict.fromkeys(size.counted for size in sizes))
    known = [size.n_bytes for size in sizes if size.n_bytes is not None]
    return Size(sum(known) if len(known) == len(sizes) else None, counted)


def _content(part: Any) -> Iterator[Any]:
    """Yield the objects of which a part consists: the teachers of a list, or the part itself."""
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
        files = [Path(part), Path(f"{part}.data")]  # torch writes large weights to a second file
        return Size(sum(file.stat().st_size for file in files if file.is_file()) or None, "file")
    network = part.module_ if isinstance(part, NeuralNet) else part
    if isinstance(network, nn.Module):
        tensors = chain(network.parameters(), network.buffers())
        return Size(sum(tensor.numel() * tensor.element_size() for tensor in tensors), "weights")
    if isroutine(part) or isinstance(part, partial):  # a pickle holds only its name
        return Size(None, "unknown size")
    counter = _ByteCounter()
    try:
        pickle.dump(part, counter, protocol=pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, TypeError, AttributeError, ValueError, NotImplementedError):
        return Size(None, "unknown size")
    return Size(counter.n_bytes, "pickle")


class _ByteCounter:
    """A file that counts the bytes written to it and discards them."""

    def __init__(self) -> None:
        self.n_bytes = 0

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self.n_bytes += size
        return size
