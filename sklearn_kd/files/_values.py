"""Encode the values that files can hold.

A codec turns a value into its *form*: plain values (None, bool, int, float, str), lists, and dicts with one
key. The key names a kind, and the item holds the form of the value's parts: ``(1, 2)`` becomes ``{"tuple":
[1, 2]}``. There are two codecs:

- :data:`JSON_VALUES`, for files that other programs can read: saved estimators and processes;
- :data:`STATE_VALUES`, for checkpoints, which ``torch.load(weights_only=True)`` reads. It also takes
  tensors, and restores exactly the types that it was given.

:mod:`sklearn_kd.persistence._codecs` adds the classes and strategies that parameters may be. No form names
code that decoding would import or call.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from os import PathLike, fspath
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

_PLAIN = (type(None), bool, int, float, str)


class Unserializable(TypeError):
    """A codec has no form for a value.

    Attributes
    ----------
    type_name : str
        Type of the value.
    """

    def __init__(self, type_name: str):
        super().__init__(f"{type_name} has no form in this file")
        self.type_name = type_name


class ContentError(ValueError):
    """A file has wrong content; the message completes the sentence "the file has ..."."""


class Kind(NamedTuple):
    """A kind of values.

    Attributes
    ----------
    name : str
        Key of its form.
    includes : callable ``(value) -> bool``
        Returns True for values of this kind.
    encode : callable ``(value, encode) -> form``
        Returns the form; its argument ``encode`` encodes a part.
    decode : callable ``(form, decode) -> value``
        The inverse. Raises an error if the form is wrong.
    """

    name: str
    includes: Callable[[Any], bool]
    encode: Callable[[Any, Callable[[Any], Any]], Any]
    decode: Callable[[Any, Callable[[Any], Any]], Any]


class ValueCodec:
    """Encodes values of some kinds as forms, and decodes them.

    Parameters
    ----------
    kinds : sequence of Kind
        The first kind that includes a value encodes it.
    simplify : callable ``(value) -> value``
        Replaces a value before encoding by one that represents it in the file.
    plain : tuple of types
        Values of exactly these types are their own forms.
    """

    def __init__(
        self,
        kinds: Sequence[Kind],
        *,
        simplify: Callable[[Any], Any],
        plain: tuple[type, ...] = _PLAIN,
    ):
        self.kinds, self.simplify, self._plain = tuple(kinds), simplify, plain
        self._by_name = {kind.name: kind for kind in kinds}

    def with_kinds(self, *kinds: Kind) -> ValueCodec:
        """Return a codec with more kinds."""
        return ValueCodec((*self.kinds, *kinds), simplify=self.simplify, plain=self._plain)

    def encode(self, value: Any) -> Any:
        """Return the form of a value; tensors in it share no memory with the value.

        Raises
        ------
        Unserializable
            If the value is, or contains, an object of no known kind.
        """
        try:
            return self._encode(value)
        except RecursionError:
            raise Unserializable(f"a {type(value).__name__} that contains itself") from None

    def _encode(self, value: Any) -> Any:
        if type(value) in _PLAIN:  # most values of a long path
            return value
        value = self.simplify(value)
        if type(value) in self._plain:
            return value
        if type(value) is list:
            return [self._encode(part) for part in value]
        for kind in self.kinds:
            if kind.includes(value):
                return {kind.name: kind.encode(value, self._encode)}
        raise Unserializable(type(value).__name__)

    def decode(self, form: Any) -> Any:
        """Return the value of a form.

        Raises
        ------
        ContentError
            If it is not a form of this codec.
        Exception
            Of any type, if the form of a known kind is wrong.
        """
        if isinstance(form, list):
            return [self.decode(part) for part in form]
        if not isinstance(form, dict):
            return form
        name, parts = next(iter(form.items())) if len(form) == 1 else (None, None)
        if name not in self._by_name:
            raise unknown(form)
        return self._by_name[name].decode(parts, self.decode)


def unknown(form: Any) -> ContentError:
    """Return the error for a form that this version does not know."""
    return ContentError(f"{str(form)[:100]} as a value, which this version does not know")


def is_same(a: Any, b: Any) -> bool:
    """Return True if two forms are equal; NaN equals NaN."""
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
# Kinds of both codecs


def _by_type(
    name: str,
    types: type | tuple[type, ...],
    reduce: Callable[[Any], Any],
    restore: Callable[[Any], Any],
) -> Kind:
    """Return a kind for values of exactly these types, encoded through a simpler value."""
    types = types if isinstance(types, tuple) else (types,)
    return Kind(
        name,
        includes=lambda value: type(value) in types,
        encode=lambda value, encode: encode(reduce(value)),
        decode=lambda form, decode: restore(decode(form)),
    )


def _from_list(restore: Callable[[list[Any]], Any]) -> Callable[[Any], Any]:
    def checked(parts: Any) -> Any:
        if type(parts) is not list:
            raise unknown(parts)
        return restore(parts)

    return checked


def _has_string_keys(value: Any) -> bool:
    return type(value) is dict and all(type(key) is str for key in value)


def _decode_dict(form: Any, decode: Callable[[Any], Any]) -> dict[str, Any]:
    if not isinstance(form, dict):
        raise unknown(form)
    return {key: decode(part) for key, part in form.items()}


_TUPLE = _by_type("tuple", tuple, list, _from_list(tuple))
_DICT = Kind(
    "dict",
    includes=_has_string_keys,
    encode=lambda value, encode: {key: encode(part) for key, part in value.items()},
    decode=_decode_dict,
)


def _pairs(mapping: Any) -> list[list[Any]]:
    return [[key, value] for key, value in mapping.items()]


_MAPPING = _by_type("dict of any keys", dict, _pairs, dict)

# --------------------------------------------------------------------------------------
# JSON


def simplified(value: Any) -> Any:
    """Convert NumPy numbers to Python's, and paths and devices to strings, which JSON can hold."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.device):
        return str(value)
    return str(fspath(value)) if isinstance(value, PathLike) else value


_COLUMN = Kind(
    "array",
    includes=lambda value: isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "biufUO",
    encode=lambda value, encode: encode(value.tolist()),
    decode=lambda form, decode: _from_list(np.asarray)(decode(form)),
)

JSON_VALUES = ValueCodec([_TUPLE, _DICT, _MAPPING, _COLUMN], simplify=simplified)

# --------------------------------------------------------------------------------------
# States


def _detached(value: Any) -> Any:
    """Return a copy of a tensor on the CPU; return any other value as it is."""
    return value.detach().to("cpu", copy=True) if type(value) in (Tensor, torch.nn.Parameter) else value


def _array_parts(array: np.ndarray) -> list[Any]:
    if array.dtype.hasobject:
        raise Unserializable("an array of objects")
    data = torch.frombuffer(bytearray(array.tobytes()), dtype=torch.uint8) if array.size else None
    return [np.lib.format.dtype_to_descr(array.dtype), list(array.shape), data]


def _array_of(parts: list[Any]) -> np.ndarray:
    descr, shape, data = parts
    dtype = np.lib.format.descr_to_dtype(descr)
    if data is None:
        if 0 not in shape:
            raise ValueError(f"an array of shape {shape} without numbers")
        return np.empty(shape, dtype)
    return np.frombuffer(bytearray(data.numpy().tobytes()), dtype).reshape(shape)


def _generator_parts(generator: np.random.Generator) -> list[Any]:
    return [type(generator.bit_generator).__name__, dict(generator.bit_generator.state)]


def _generator_of(parts: list[Any]) -> np.random.Generator:
    name, state = parts
    generator = np.random.Generator(_BIT_GENERATORS[name]())
    generator.bit_generator.state = state
    return generator


def _random_state_of(state: Any) -> np.random.RandomState:
    random_state = np.random.RandomState()
    random_state.set_state(state)
    return random_state


def _torch_generator_of(state: Tensor) -> torch.Generator:
    generator = torch.Generator()
    generator.set_state(state)
    return generator


_BIT_GENERATORS: dict[str, Callable[[], Any]] = {
    kind.__name__: kind
    for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)
}
_NUMPY_NUMBERS = tuple({np.dtype(code).type for code in "?bhilqBHILQefdFD"})

STATE_VALUES = ValueCodec(
    [
        _TUPLE,
        _DICT,
        _MAPPING,
        _by_type("OrderedDict", OrderedDict, _pairs, OrderedDict),
        _by_type("Counter", Counter, _pairs, lambda pairs: Counter(dict(pairs))),
        _by_type("deque", deque, lambda value: [list(value), value.maxlen], lambda parts: deque(*parts)),
        _by_type("set", set, list, set),
        _by_type("frozenset", frozenset, list, frozenset),
        _by_type("complex", complex, lambda value: [value.real, value.imag], lambda parts: complex(*parts)),
        _by_type("bytes", bytes, list, _from_list(bytes)),  # bytes(n) of a number n would allocate n bytes
        _by_type("NumPy number", _NUMPY_NUMBERS, np.asarray, lambda array: array[()]),
        _by_type("ndarray", np.ndarray, _array_parts, _array_of),
        _by_type("device", torch.device, str, torch.device),
        _by_type("size", torch.Size, list, torch.Size),
        _by_type("numpy.random.Generator", np.random.Generator, _generator_parts, _generator_of),
        _by_type(
            "numpy.random.RandomState",
            np.random.RandomState,
            lambda random_state: random_state.get_state(),
            _random_state_of,
        ),
        _by_type(
            "torch.Generator",
            torch.Generator,
            lambda generator: generator.get_state(),
            _torch_generator_of,
        ),
    ],
    simplify=_detached,
    plain=(*_PLAIN, Tensor),
)
