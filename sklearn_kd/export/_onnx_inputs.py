"""Determine the inputs of a graph from some rows: names, types, and the rows in the graph's form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np

from sklearn_kd.persistence._requirements import import_package
from sklearn_kd.preprocessing._columns import is_missing

INT64, FLOAT32, FLOAT64, BOOL = (f"{name}TensorType" for name in ("Int64", "Float", "Double", "Boolean"))
_STRING = "StringTensorType"
# skl2onnx's type and NumPy's dtype for each kind of NumPy dtype.
_KINDS = {"b": (BOOL, np.bool_), "i": (INT64, np.int64), "u": (INT64, np.int64)}
_KINDS |= {"U": (_STRING, np.object_), "T": (_STRING, np.object_)}
_FLOATS = {2: (FLOAT32, np.float32), 4: (FLOAT32, np.float32)}
_DOUBLES = (FLOAT64, np.float64)
# Types to compute in if those of the inputs do not work: skl2onnx only joins columns of one type, and some
# of ONNX Runtime's operators, such as that of SimpleImputer, only take float32.
_OTHERWISE = (
    {INT64: FLOAT64, BOOL: FLOAT64},
    {FLOAT64: FLOAT32},
    {INT64: FLOAT32, BOOL: FLOAT32, FLOAT64: FLOAT32},
)


@dataclass(frozen=True, eq=False)
class Input:
    """An input of the graph.

    Attributes
    ----------
    name : str
    type_name : str
        skl2onnx's name of the type that the graph computes in.
    shape : list of int or None
    values : ndarray of this shape
        The given rows, in the type that the graph takes.
    """

    name: str
    type_name: str
    shape: list[int | None]
    values: np.ndarray

    def declared(self) -> tuple[str, Any]:
        """Return name and type as skl2onnx takes them."""
        types = import_package("skl2onnx.common.data_types", "Writing a whole model as ONNX")
        return self.name, getattr(types, self.type_name)(self.shape)


def inputs_of(X: Any) -> list[Input]:
    """Return the inputs for rows like these.

    Parameters
    ----------
    X : DataFrame, array-like of shape (n_samples, ...), mapping or tuple of arrays
        A frame has one input for each column, of shape (n_samples, 1); a mapping one for each part, by its
        name; a tuple ``X0``, ``X1``, ...; anything else one input, ``X``.

    Raises
    ------
    TypeError
        If a type has no counterpart in ONNX, or is unknown.
    ValueError
        If there are no rows.
    """
    columns = getattr(X, "columns", None)
    if columns is not None and not callable(columns):
        found = [_input(str(name), np.asarray(X[name]), f"column {name!r}") for name in columns]
        return [replace(given, shape=[None, 1], values=given.values.reshape(-1, 1)) for given in found]
    parts = _parts(X)
    if parts is not None:
        return [_input(name, np.asarray(part), f"X[{name!r}]") for name, part in parts.items()]
    if hasattr(X, "tocsr"):
        raise TypeError("X is a sparse matrix, but ONNX takes dense ones. Give some rows, X[:100].toarray().")
    values = np.asarray(X)
    if values.dtype.kind == "U" and not hasattr(X, "dtype"):
        values = np.asarray(X, dtype=object)  # keeps numbers among words in a list from becoming words
    return [_input("X", values, "X")]


def lacking_words(inputs: Sequence[Input], n_rows: int) -> np.ndarray:
    """Return which rows have a missing word, "" in the graph, shape (n_rows,)."""
    lacking = np.zeros(n_rows, dtype=bool)
    for given in inputs:
        if given.type_name == _STRING:
            lacking |= (given.values == "").reshape(n_rows, -1).any(axis=1)
    return lacking


def rows_of(X: Any, n_rows: int) -> Any:
    """Return the first rows of what :func:`inputs_of` takes."""
    if isinstance(X, tuple):
        return tuple(part[:n_rows] for part in X)
    if isinstance(X, Mapping):
        return {name: part[:n_rows] for name, part in X.items()}
    return X.iloc[:n_rows] if hasattr(X, "iloc") else X[:n_rows]


def _parts(X: Any) -> dict[str, Any] | None:
    """Return the parts of X by the names of their inputs; None if X is one array."""
    if isinstance(X, Mapping):
        return {str(name): part for name, part in X.items()}
    return {f"X{k}": part for k, part in enumerate(X)} if isinstance(X, tuple) else None


def feeds(inputs: Sequence[Input], names: Sequence[str], n_rows: int) -> dict[str, np.ndarray]:
    """Return the first rows as onnxruntime takes them, under the graph's names."""
    return {name: given.values[:n_rows] for name, given in zip(names, inputs, strict=True)}


def ways_to_compute(inputs: Sequence[Input]) -> list[list[Input]]:
    """Return the inputs in each choice of types that a graph may compute in, the most precise first."""
    ways = [list(inputs)]
    for types in _OTHERWISE:
        way = [replace(given, type_name=types.get(given.type_name, given.type_name)) for given in inputs]
        if [given.type_name for given in way] not in [[given.type_name for given in w] for w in ways]:
            ways.append(way)
    return ways


def take_given_types(model: Any, inputs: Sequence[Input]) -> None:
    """Add casts to a graph, so that it takes the given types and computes in its own."""
    onnx = import_package("onnx", "Writing a whole model as ONNX")
    casts = []
    for entry, given in zip(model.graph.input, inputs, strict=True):
        computed, taken = entry.type.tensor_type.elem_type, onnx.TensorProto.STRING
        if given.type_name != _STRING:
            taken = onnx.helper.np_dtype_to_tensor_dtype(given.values.dtype)
        if taken != computed:
            inside = f"{entry.name}/computed"
            _rename(model.graph, entry.name, inside)
            entry.type.tensor_type.elem_type = taken
            casts.append(onnx.helper.make_node("Cast", [entry.name], [inside], inside, to=computed))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _rename(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == old:
                node.input[place] = new


def _input(name: str, values: np.ndarray, called: str) -> Input:
    if not len(values):
        raise ValueError(f"{called} of X has no rows. Give at least one, preferably 100 different ones.")
    if values.dtype == object:
        values = _of_objects(values, called)
    kind, size = values.dtype.kind, values.dtype.itemsize
    known = _FLOATS.get(size, _DOUBLES) if kind == "f" else _KINDS.get(kind)
    if known is None:
        raise TypeError(
            f"{called} has values of {values.dtype}, for which ONNX has no type. Give numbers or strings."
        )
    return Input(name, known[0], [None, *values.shape[1:]], values.astype(known[1]))


def _of_objects(values: np.ndarray, called: str) -> np.ndarray:
    """Convert objects to strings with "" for missing ones, to booleans, or to float64 with NaN."""
    missing = np.vectorize(is_missing, otypes=[bool])(values)
    kinds = {type(value) for value in values[~missing]}
    if kinds and all(issubclass(kind, str) for kind in kinds):
        return np.where(missing, "", values).astype(str)
    if kinds and kinds <= {bool, np.bool_} and not missing.any():
        return values.astype(bool)
    if kinds and all(issubclass(kind, (Real, Decimal, np.bool_)) for kind in kinds):
        return np.where(missing, np.nan, values).astype(np.float64)
    named = ", ".join(sorted(kind.__name__ for kind in kinds)) or "missing values"
    remedy = "give a table of both as a DataFrame with a column of each"
    if not kinds:
        remedy = "give rows that have values, or leave the column out before fit"
    elif called != "X":
        remedy = "before fit, write all values of the column as strings or convert all to numbers"
    raise TypeError(
        f"{called} has dtype object and holds {named}. ONNX takes tensors of one type: give numbers of "
        f"one dtype, such as float64, or strings; {remedy}."
    )
