"""Rows that are not one float matrix: several arrays or tensors with the same rows, or integers alone."""

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
    """The shape of a row in one part, and the type of its numbers: "float32", "int64" or "bool"."""

    sizes: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype} {self.sizes}"


class RowShape:
    """The shape of a row of :class:`Parts`, in place of the shape of a sample.

    Parameters
    ----------
    keys : tuple of str, int or None
        The names of the parts, of which a student is called as ``forward(**parts)``; the number of the parts,
        ``forward(*parts)``; or None, one part that is the input: ``forward(part)``.
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
        """The names of the parts in messages."""
        if isinstance(self.keys, tuple):
            return list(self.keys)
        return list(range(len(self.parts)))

    def with_values(self, values: Sequence[Any]) -> Any:
        """Return the values of the parts as the user's functions take them: a dict, a tuple, or one alone."""
        if self.keys is None:
            return values[0]
        return dict(zip(self.keys, values, strict=True)) if isinstance(self.keys, tuple) else tuple(values)

    def zeros(self, n_rows: int, device: str = "cpu") -> Parts:
        """Return rows of zeros, expanded from one number for each part."""
        parts = [
            torch.zeros((), dtype=getattr(torch, part.dtype), device=device).expand(n_rows, *part.sizes)
            for part in self.parts
        ]
        return Parts(self.keys, parts)


def row_shape_of(sample_shape: tuple[Any, ...]) -> RowShape | None:
    """Return the shape of rows in parts; None for that of rows of one float array."""
    return sample_shape[0] if sample_shape and type(sample_shape[0]) is RowShape else None


def are_integers(sample_shape: tuple[Any, ...]) -> bool:
    """Return whether rows are one tensor of integers that keeps its type."""
    shape = row_shape_of(sample_shape)
    return shape is not None and shape.keys is None


def plain_sizes(sample_shape: tuple[Any, ...]) -> tuple[int, ...]:
    """Return the sizes of a sample's only tensor; none where it has several parts."""
    shape = row_shape_of(sample_shape)
    if shape is None:
        return sample_shape
    return shape.parts[0].sizes if shape.keys is None else ()


class Parts:
    """Several arrays, or several tensors, with the same rows: taken, moved and copied as one.

    It has those methods of a tensor that code uses which passes rows on. Floats stay float32 in all of them,
    integers int64 and booleans bool.

    Parameters
    ----------
    keys : tuple of str, int or None
        As of :class:`RowShape`.
    values : sequence of ndarray or of Tensor
        Float32, int64 or bool, of shape (n, ...).
    """

    def __init__(self, keys: tuple[str, ...] | int | None, values: Sequence[Any]):
        self.keys, self.values = keys, tuple(values)

    # ----------------------------------------------------------------------------------
    # What there is

    def __len__(self) -> int:
        return len(self.values[0])

    @property
    def row_shape(self) -> RowShape:
        """The shape of a row."""
        kinds = [PartShape(tuple(v.shape[1:]), str(v.dtype).removeprefix("torch.")) for v in self.values]
        return RowShape(self.keys, tuple(kinds))

    @property
    def shape(self) -> tuple[int, RowShape]:
        """The number of rows, and the shape of one, where a tensor has sizes."""
        return len(self), self.row_shape

    @property
    def nbytes(self) -> int:
        """The memory of all parts."""
        return sum(v.nbytes for v in self.values)

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.values[0].device

    @property
    def is_cpu(self) -> bool:
        """True if the tensors are on the CPU."""
        return self.values[0].is_cpu

    @property
    def floats(self) -> list[Tensor]:
        """The parts of floating-point numbers."""
        return [v for v in self.values if v.is_floating_point()]

    def equals(self, other: Parts) -> bool:
        """Return whether other tensors have the same names, types and numbers."""
        return self.shape == other.shape and all(map(torch.equal, self.values, other.values))

    # ----------------------------------------------------------------------------------
    # What users see

    def given(self) -> Any:
        """Return the parts as the user's functions take them: a dict, a tuple, or one alone."""
        return RowShape(self.keys, ()).with_values(self.values)

    def feed(self, function: Callable[..., Any]) -> Any:
        """Call a network: ``function(**parts)``, ``function(*parts)`` or ``function(part)``."""
        args, kwargs = self.arguments()
        return function(*args, **kwargs)

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a network's call."""
        if isinstance(self.keys, tuple):
            return (), dict(zip(self.keys, self.values, strict=True))
        return self.values, {}

    # ----------------------------------------------------------------------------------
    # Rows, as of a tensor

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
        """Return the same rows: their floats are float32, and other numbers keep their type."""
        return self

    def to(self, where: torch.device | str, *_: Any, **settings: Any) -> Parts:
        """Return the rows on another device; types are left as they are."""
        return self.map(lambda v: v.to(where, **settings))

    def with_floats_as(self, dtype: torch.dtype) -> Parts:
        """Return the rows with their floating-point numbers in another type."""
        return self.map(lambda v: v.to(dtype) if v.is_floating_point() else v)

    def copy_(self, other: Parts) -> None:
        """Copy the numbers of other rows into these."""
        for own, given in zip(self.values, other.values, strict=True):
            own.copy_(given)

    def pin_memory(self, *_: Any) -> Parts:
        """Return a copy in pinned memory, as DataLoaders make it."""
        return self.map(lambda v: v.pin_memory())

    def usable(self) -> Parts:
        """Return the tensors of a user's item in the types of a batch, without gradient history."""
        return self.map(lambda v: in_batch_type(v.clone() if v.is_inference() else v.detach()))


def in_batch_type(values: Tensor) -> Tensor:
    """Return a tensor as float32, int64 or bool."""
    if values.dtype is torch.bool:
        return values
    return values.float() if values.is_floating_point() else values.long()


def parts_of_output(made: Any, like: Parts) -> Parts | None:
    """Return what a user's function made of :meth:`Parts.given`; None if it is no structure of that kind."""
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
    """Return the rows of several tensors, or of several :class:`Parts` of tensors, one after another."""
    first = rows[0]
    if not isinstance(first, Parts):
        return torch.cat(list(rows))
    values = zip(*(given.values for given in rows), strict=True)
    return Parts(first.keys, [torch.cat(parts) for parts in values])


def varied_rows(rows: Any, factors: Tensor) -> Any:
    """Return one row for each factor: those of ``rows`` in turn, their floats times the factor."""
    if isinstance(rows, Parts):
        return rows.map(lambda v: varied_rows(v, factors))
    n_rows = len(factors)
    more = rows.repeat(n_rows, *[1] * (rows.ndim - 1))[:n_rows]
    return more * factors.reshape(-1, *[1] * (rows.ndim - 1)) if rows.is_floating_point() else more


def shared_rows(rows: np.ndarray | Parts) -> Tensor | Parts:
    """Return rows as tensors of their own memory, which nothing may write into."""
    return rows.map(shared_tensor) if isinstance(rows, Parts) else shared_tensor(rows)
