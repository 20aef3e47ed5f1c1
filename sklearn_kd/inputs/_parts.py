"""Hold rows that are not one float array: several arrays or tensors with the same rows, or integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.inputs._large_arrays import shared_tensor

# Keys of a Dataset's items, and columns of a ``datasets.Dataset``, that hold the label.
LABEL_KEYS = ("labels", "label")


class PartShape(NamedTuple):
    """Shape of a row in one part, and the type of its numbers: "float32", "int64" or "bool"."""

    sizes: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype} {self.sizes}"


class RowShape:
    """Shape of a row of :class:`Parts`, which takes the place of a sample's shape.

    Parameters
    ----------
    keys : tuple of str, int or None
        Names of the parts, if the student is called as ``forward(**parts)``; their number, if it is called
        as ``forward(*parts)``; or None for a single part, ``forward(part)``.
    parts : tuple of PartShape
    """

    def __init__(self, keys: tuple[str, ...] | int | None, parts: tuple[PartShape, ...]):
        self.keys, self.parts = keys, parts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RowShape) and (self.keys, self.parts) == (other.keys, other.parts)

    def __hash__(self) -> int:
        return hash((self.keys, self.parts))

    def __repr__(self) -> str:
        if self.keys is None:
            return str(self.parts[0])
        said = [f"{key!r}: {part}" for key, part in zip(self.names, self.parts, strict=True)]
        return f"{{{', '.join(said)}}}"

    @property
    def names(self) -> list[str | int]:
        """Names of the parts in messages."""
        if isinstance(self.keys, tuple):
            return list(self.keys)
        return list(range(len(self.parts)))

    def with_values(self, values: Sequence[Any]) -> Any:
        """Return values of the parts in the form that user functions take: dict, tuple or single value."""
        if self.keys is None:
            return values[0]
        return dict(zip(self.keys, values, strict=True)) if isinstance(self.keys, tuple) else tuple(values)

    def zeros(self, n_rows: int, device: str = "cpu") -> Parts:
        """Return rows of zeros, each part expanded from one number."""
        parts = [
            torch.zeros((), dtype=getattr(torch, part.dtype), device=device).expand(n_rows, *part.sizes)
            for part in self.parts
        ]
        return Parts(self.keys, parts)


def row_shape_of(sample_shape: tuple[Any, ...]) -> RowShape | None:
    """Return the RowShape in a sample shape; None if rows are one float array."""
    return sample_shape[0] if sample_shape and type(sample_shape[0]) is RowShape else None


def are_integers(sample_shape: tuple[Any, ...]) -> bool:
    """Return True if rows are one tensor of integers that keeps its type."""
    shape = row_shape_of(sample_shape)
    return shape is not None and shape.keys is None


def plain_sizes(sample_shape: tuple[Any, ...]) -> tuple[int, ...]:
    """Return the sizes of a sample's only tensor; () if it has several parts."""
    shape = row_shape_of(sample_shape)
    if shape is None:
        return sample_shape
    return shape.parts[0].sizes if shape.keys is None else ()


class Parts:
    """Several arrays or tensors with the same rows, indexed, moved and copied as one.

    It has the tensor methods needed by code that passes rows on. All of them keep floats as float32,
    integers as int64 and booleans as bool.

    Parameters
    ----------
    keys : tuple of str, int or None
        As in :class:`RowShape`.
    values : sequence of ndarray or of Tensor
        Float32, int64 or bool, of shape (n, ...).
    """

    def __init__(self, keys: tuple[str, ...] | int | None, values: Sequence[Any]):
        self.keys, self.values = keys, tuple(values)

    # ----------------------------------------------------------------------------------
    # Contents

    def __len__(self) -> int:
        return len(self.values[0])

    @property
    def row_shape(self) -> RowShape:
        """Shape of a row."""
        kinds = [PartShape(tuple(v.shape[1:]), str(v.dtype).removeprefix("torch.")) for v in self.values]
        return RowShape(self.keys, tuple(kinds))

    @property
    def shape(self) -> tuple[int, RowShape]:
        """Number of rows, and the shape of a row in place of a tensor's further sizes."""
        return len(self), self.row_shape

    @property
    def nbytes(self) -> int:
        """Memory of all parts in bytes."""
        return sum(v.nbytes for v in self.values)

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.values[0].device

    @property
    def is_cpu(self) -> bool:
        """True if the tensors are on the CPU."""
        return self.values[0].is_cpu

    @property
    def floats(self) -> list[Tensor]:
        """Parts that hold floating-point numbers."""
        return [v for v in self.values if v.is_floating_point()]

    def equals(self, other: Parts) -> bool:
        """Return True if the other tensors have the same names, types and numbers."""
        return self.shape == other.shape and all(map(torch.equal, self.values, other.values))

    # ----------------------------------------------------------------------------------
    # In the user's form

    def given(self) -> Any:
        """Return the parts in the form that user functions take: dict, tuple or single value."""
        return RowShape(self.keys, ()).with_values(self.values)

    def feed(self, function: Callable[..., Any]) -> Any:
        """Call a network: ``function(**parts)``, ``function(*parts)`` or ``function(part)``."""
        args, kwargs = self.arguments()
        return function(*args, **kwargs)

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return positional and keyword arguments for calling a network."""
        if isinstance(self.keys, tuple):
            return (), dict(zip(self.keys, self.values, strict=True))
        return self.values, {}

    # ----------------------------------------------------------------------------------
    # Methods of a tensor

    def map(self, function: Callable[[Any], Any]) -> Parts:
        """Return the parts with ``function`` applied to each."""
        return Parts(self.keys, [function(v) for v in self.values])

    def __getitem__(self, rows: Any) -> Parts:
        return self.map(lambda v: v[rows])

    def index_select(self, dim: int, index: Tensor) -> Parts:
        """Return the rows at these indices; ``dim`` is 0."""
        return self.map(lambda v: v.index_select(dim, index))

    def split(self, n_rows: int) -> list[Parts]:
        """Return views of ``n_rows`` rows each."""
        return [self[start : start + n_rows] for start in range(0, len(self), n_rows)]

    def clone(self) -> Parts:
        """Return a copy."""
        return self.map(torch.clone)

    def float(self) -> Parts:
        """Return the same rows: floats are already float32, and other numbers keep their type."""
        return self

    def to(self, where: torch.device | str, *_: Any, **settings: Any) -> Parts:
        """Return the rows on another device, with the same types."""
        return self.map(lambda v: v.to(where, **settings))

    def with_floats_as(self, dtype: torch.dtype) -> Parts:
        """Return the rows with floating-point numbers cast to another type."""
        return self.map(lambda v: v.to(dtype) if v.is_floating_point() else v)

    def copy_(self, other: Parts) -> None:
        """Copy the numbers of other rows into these."""
        for own, given in zip(self.values, other.values, strict=True):
            own.copy_(given)

    def pin_memory(self, *_: Any) -> Parts:
        """Return a copy in pinned memory; DataLoaders call it."""
        return self.map(lambda v: v.pin_memory())

    def usable(self) -> Parts:
        """Return a user's tensors in the types of a batch, without gradient history."""
        return self.map(lambda v: in_batch_type(v.clone() if v.is_inference() else v.detach()))


def in_batch_type(values: Tensor) -> Tensor:
    """Cast a tensor to float32, int64 or bool."""
    if values.dtype is torch.bool:
        return values
    return values.float() if values.is_floating_point() else values.long()


def parts_of_output(made: Any, like: Parts) -> Parts | None:
    """Convert a user function's output to parts like ``like``; None if it has another structure."""
    if like.keys is None:
        values = [made]
    elif isinstance(like.keys, tuple):
        if not isinstance(made, Mapping) or set(made) != set(like.keys):
            return None
        values = [made[key] for key in like.keys]
    else:
        if not isinstance(made, (tuple, list)) or len(made) != like.keys:
            return None
        values = list(made)
    if not all(isinstance(v, Tensor) and v.ndim > 0 and len(v) == len(like) for v in values):
        return None
    return Parts(like.keys, [in_batch_type(v) for v in values])


def concatenated(rows: Sequence[Any]) -> Any:
    """Concatenate the rows of several tensors, or of several :class:`Parts` of tensors."""
    first = rows[0]
    if not isinstance(first, Parts):
        return torch.cat(list(rows))
    values = zip(*(given.values for given in rows), strict=True)
    return Parts(first.keys, [torch.cat(parts) for parts in values])


def varied_rows(rows: Any, factors: Tensor) -> Any:
    """Return one row per factor: the rows in turn, with floats multiplied by the factor."""
    if isinstance(rows, Parts):
        return rows.map(lambda v: varied_rows(v, factors))
    n_rows = len(factors)
    more = rows.repeat(n_rows, *[1] * (rows.ndim - 1))[:n_rows]
    return more * factors.reshape(-1, *[1] * (rows.ndim - 1)) if rows.is_floating_point() else more


def shared_rows(rows: np.ndarray | Parts) -> Tensor | Parts:
    """Return rows as tensors that share their memory; nothing may write into it."""
    return rows.map(shared_tensor) if isinstance(rows, Parts) else shared_tensor(rows)
