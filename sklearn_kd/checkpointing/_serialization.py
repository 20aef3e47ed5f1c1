"""Convert values to plain values and tensors, which ``torch.load(weights_only=True)`` reads without code.

A value of another known type becomes a dict that names the type.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PLAIN = (type(None), bool, int, float, str)
_KIND = "kind of value"


class Unserializable(Exception):
    """A value has no plain form; the message is the name of its type."""


def to_plain(value: Any) -> Any:
    """Convert a value to plain values and tensors that share no memory with it.

    Raises
    ------
    Unserializable
        If the value is, or holds, an object of an unknown type.
    """
    try:
        return _to_plain(value)
    except RecursionError:
        raise Unserializable(f"a {type(value).__name__} that holds itself") from None


def _to_plain(value: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind in (Tensor, torch.nn.Parameter):
        return value.detach().to("cpu", copy=True)
    if kind is list:
        return [_to_plain(v) for v in value]
    if kind is dict and all(type(key) is str for key in value) and _KIND not in value:
        return {key: _to_plain(v) for key, v in value.items()}
    for name, (types, plain, _) in _KINDS.items():
        if kind in types:
            return {_KIND: name, "value": _to_plain(plain(value))}
    raise Unserializable(kind.__name__)


def from_plain(value: Any) -> Any:
    """Restore a value from :func:`to_plain`; tensors are on the CPU."""
    if type(value) is list:
        return [from_plain(v) for v in value]
    if type(value) is not dict:
        return value
    if _KIND not in value:
        return {key: from_plain(v) for key, v in value.items()}
    _, _, made_of = _KINDS[value[_KIND]]
    return made_of(from_plain(value["value"]))


def is_same(a: Any, b: Any) -> bool:
    """Return whether two results of :func:`to_plain` are equal; NaN equals NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(is_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(is_same(a[key], b[key]) for key in a)
    return a == b or (a != a and b != b)


# --------------------------------------------------------------------------------------
# Kinds


def _pairs(mapping: Mapping[Any, Any]) -> list[list[Any]]:
    return [[key, value] for key, value in mapping.items()]


def _of_array(array: np.ndarray) -> list[Any]:
    if array.dtype.hasobject:
        raise Unserializable("an array of objects")
    data = torch.frombuffer(bytearray(array.tobytes()), dtype=torch.uint8) if array.size else None
    return [np.lib.format.dtype_to_descr(array.dtype), list(array.shape), data]


def _to_array(parts: list[Any]) -> np.ndarray:
    descr, shape, data = parts
    dtype = np.lib.format.descr_to_dtype(descr)
    if data is None:
        if 0 not in shape:
            raise ValueError(f"an array of shape {shape} without numbers")
        return np.empty(shape, dtype)
    return np.frombuffer(bytearray(data.numpy().tobytes()), dtype).reshape(shape)


def _of_generator(generator: np.random.Generator) -> list[Any]:
    state = dict(generator.bit_generator.state)
    return [type(generator.bit_generator).__name__, state]


def _to_generator(parts: list[Any]) -> np.random.Generator:
    name, state = parts
    generator = np.random.Generator(_BIT_GENERATORS[name]())
    generator.bit_generator.state = state
    return generator


def _to_random_state(state: Any) -> np.random.RandomState:
    random_state = np.random.RandomState()
    random_state.set_state(state)
    return random_state


def _to_torch_generator(state: Tensor) -> torch.Generator:
    generator = torch.Generator()
    generator.set_state(state)
    return generator


_BIT_GENERATORS: dict[str, Callable] = {
    kind.__name__: kind
    for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)
}
_SCALARS = tuple({np.dtype(code).type for code in "?bhilqBHILQefdFD"})

# Name of a kind: (its exact types, function to a simpler value, function back from it).
_KINDS: dict[str, tuple[tuple[type, ...], Callable, Callable]] = {
    "tuple": ((tuple,), list, tuple),
    "set": ((set,), list, set),
    "frozenset": ((frozenset,), list, frozenset),
    "deque": ((deque,), lambda v: [list(v), v.maxlen], lambda p: deque(*p)),
    "Counter": ((Counter,), _pairs, lambda p: Counter(dict(p))),
    "OrderedDict": ((OrderedDict,), _pairs, OrderedDict),
    "dict": ((dict,), _pairs, dict),
    "complex": ((complex,), lambda v: [v.real, v.imag], lambda p: complex(*p)),
    "bytes": ((bytes,), lambda v: list(v), lambda v: bytes([*v])),  # bytes(n) of a number makes n bytes
    "NumPy number": (_SCALARS, lambda v: np.asarray(v), lambda v: v[()]),
    "array": ((np.ndarray,), _of_array, _to_array),
    "device": ((torch.device,), str, torch.device),
    "size": ((torch.Size,), list, torch.Size),
    "numpy.random.Generator": ((np.random.Generator,), _of_generator, _to_generator),
    "numpy.random.RandomState": ((np.random.RandomState,), lambda v: v.get_state(), _to_random_state),
    "torch.Generator": ((torch.Generator,), lambda v: v.get_state(), _to_torch_generator),
}
