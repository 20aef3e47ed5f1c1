"""Find the tensors in a network's output, a single tensor or a nested structure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

# Deeper than any network's output; the limit ends the search in an output that contains itself.
_DEEPEST = 10
# Largest distance of a row's sum of probabilities from 1; bfloat16 has three digits.
SUM_TOLERANCE = 0.02


def tensors_in(value: Any, where: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors in nested tuples, lists, mappings and dataclasses, with places such as ``"[0]"``."""
    if isinstance(value, Tensor):
        yield where, value
    elif depth < _DEEPEST:
        for place, item in _parts(value):
            yield from tensors_in(item, f"{where}{place}", depth + 1)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((f"[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, tuple | list):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif is_dataclass(value) and not isinstance(value, type):
        yield from ((f".{entry.name}", getattr(value, entry.name)) for entry in fields(value))


def shape_or_type(value: Any) -> str:
    """Describe an output in a message: a tensor by its shape, anything else by its type."""
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def are_probabilities(values: Tensor) -> bool:
    """Return True if each row is a distribution over at least two classes: ≥ 0, with sum 1."""
    if values.shape[1] < 2 or len(values) == 0:
        return False
    # Most logits include a negative number; finding it takes a tenth of the time. NaN fails here too.
    if not bool(values.amin() >= 0):
        return False
    return bool(((values.sum(dim=1) - 1).abs() <= SUM_TOLERANCE).all())
