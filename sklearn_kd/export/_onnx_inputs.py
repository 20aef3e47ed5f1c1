"""The inputs of a graph: their names and types, from some rows, and the rows as the graph takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sklearn_kd.persistence._requirements import import_package

# The type in skl2onnx, and NumPy's, for each kind of NumPy's dtypes.
_KINDS = {"b": ("BooleanTensorType", np.bool_), "i": ("Int64TensorType", np.int64)}
_KINDS |= {"u": _KINDS["i"], "U": ("StringTensorType", np.object_), "T": ("StringTensorType", np.object_)}
FLOAT32 = "FloatTensorType"
_FLOATS = {2: (FLOAT32, np.float32), 4: (FLOAT32, np.float32)}
_DOUBLES = ("DoubleTensorType", np.float64)


class Input(NamedTuple):
    """An input of the graph.

    Attributes
    ----------
    name : str
    type_name : str
        skl2onnx's name of the type that the graph computes in.
    shape : list of int or None
    values : ndarray of this shape
        The rows that were given, of the type that the graph takes.
    """

    name: str
    type_name: str
    shape: list[int | None]
    values: np.ndarray

    @property
    def is_double(self) -> bool:
        """True if the rows are float64."""
        return self.values.dtype == np.float64

    def computed_in_float32(self) -> Input:
        """Return the input of a graph that computes in float32, if this is one of float64; else itself."""
        return self._replace(type_name=FLOAT32) if self.is_double else self

    def declared(self) -> tuple[str, Any]:
        """Return name and type as skl2onnx takes them."""
        types = import_package("skl2onnx.common.data_types", "Writing a whole model as ONNX")
        return self.name, getattr(types, self.type_name)(self.shape)


def inputs_of(X: Any) -> list[Input]:
    """Return the inputs for rows like these.

    Parameters
    ----------
    X : DataFrame, array-like of shape (n_samples, ...), or sequence of str
        A frame: one input for each column, of shape (n_samples, 1). Else one input, ``X``.

    Raises
    ------
    TypeError
        If a type has no form in ONNX, or is not known.
    ValueError
        If there is no row.
    """
    columns = getattr(X, "columns", None)
    if columns is not None and not callable(columns):
        found = [_input(str(name), np.asarray(X[name]), f"column {name!r}") for name in columns]
        return [given._replace(shape=[None, 1], values=given.values.reshape(-1, 1)) for given in found]
    if hasattr(X, "tocsr"):
        raise TypeError("X is a sparse matrix, and ONNX takes dense ones. Give some rows, X[:100].toarray().")
    return [_input("X", np.asarray(X), "X")]


def rows_of(X: Any, n_rows: int) -> Any:
    """Return the first rows of what :func:`inputs_of` takes."""
    return X.iloc[:n_rows] if hasattr(X, "iloc") else X[:n_rows]


def feeds(inputs: Sequence[Input], names: Sequence[str], n_rows: int) -> dict[str, np.ndarray]:
    """Return the first rows, as onnxruntime takes them under these names of the graph."""
    return {name: given.values[:n_rows] for name, given in zip(names, inputs, strict=True)}


def take_float64(model: Any, number: int) -> None:
    """Let an input of float32 of a graph take float64, which it makes float32 at once."""
    onnx = import_package("onnx", "Writing a whole model as ONNX")
    given = model.graph.input[number]
    inside = f"{given.name}/float32"
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == given.name:
                node.input[place] = inside
    given.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    cast = onnx.helper.make_node("Cast", [given.name], [inside], inside, to=onnx.TensorProto.FLOAT)
    model.graph.node.insert(0, cast)


def _input(name: str, values: np.ndarray, called: str) -> Input:
    if not len(values):
        raise ValueError(f"{called} of X has no rows. Give at least one, better 100 that differ.")
    if values.dtype == object:
        values = _strings(values, called)
    kind, size = values.dtype.kind, values.dtype.itemsize
    known = _FLOATS.get(size, _DOUBLES) if kind == "f" else _KINDS.get(kind)
    if known is None:
        raise TypeError(
            f"{called} has values of {values.dtype}, for which ONNX has no type. Give numbers or strings."
        )
    return Input(name, known[0], [None, *values.shape[1:]], values.astype(known[1]))


def _strings(values: np.ndarray, called: str) -> np.ndarray:
    """Return an array of strings, "" where one is missing, or of booleans, that came as objects."""
    missing = np.vectorize(_is_missing, otypes=[bool])(values)
    kinds = {type(value) for value in values[~missing]}
    if kinds and all(issubclass(kind, str) for kind in kinds):
        return np.where(missing, "", values).astype(str)
    if kinds and kinds <= {bool, np.bool_} and not missing.any():
        return values.astype(bool)
    named = ", ".join(sorted(kind.__name__ for kind in kinds)) or "missing values"
    raise TypeError(
        f"{called} has a dtype of objects and holds {named}. ONNX takes tensors of one type: give numbers of "
        "one dtype, such as float64, or strings; a table of both as a DataFrame."
    )


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating)) and value != value
