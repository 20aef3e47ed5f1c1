"""Converter for skl2onnx that turns a fitted TablePreprocessing into a graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from sklearn_kd.persistence._requirements import import_package
from sklearn_kd.preprocessing._columns import CategoryColumn, NumberColumn
from sklearn_kd.preprocessing._table import TablePreprocessing

_PURPOSE = "Writing a whole model as ONNX"
# ONNX has no value for a missing string. The empty string stands for it, and so does the text into which
# onnxruntime converts NaN, None, pandas' NaT and NA.
MISSING = ("", "nan", "NaN", "None", "NaT", "<NA>")


def register_table() -> None:
    """Teach skl2onnx to convert a TablePreprocessing."""
    skl2onnx = import_package("skl2onnx", _PURPOSE)
    skl2onnx.update_registered_converter(
        TablePreprocessing, "SklearnKDTablePreprocessing", _set_output_type, _convert
    )


def _set_output_type(operator: Any) -> None:
    types = import_package("skl2onnx.common.data_types", _PURPOSE)
    n_rows = operator.inputs[0].get_first_dimension()
    width = len(operator.raw_operator.get_feature_names_out())
    operator.outputs[0].set_type(types.FloatTensorType([n_rows, width]))


def _convert(scope: Any, operator: Any, container: Any) -> None:
    """Add the operators of each column, and join their outputs."""
    table: TablePreprocessing = operator.raw_operator
    graph = _Graph(scope, container)
    names = [given.full_name for given in operator.inputs]
    strings = [type(given.type).__name__ == "StringTensorType" for given in operator.inputs]
    if len(names) == 1 and len(table.columns_) > 1:  # one matrix
        names = [
            graph.add("Gather", [names[0], graph.integers([j])], axis=1) for j in range(len(table.columns_))
        ]
        strings = strings * len(names)
    parts: list[str] = []
    for column, name, is_string in zip(table.columns_, names, strings, strict=True):
        if isinstance(column, NumberColumn):
            parts += _of_numbers(graph, name, column)
        elif isinstance(column, CategoryColumn):
            parts += _of_categories(graph, name, column, is_string, table.categories == "onehot")
    graph.add("Concat", parts, operator.outputs[0].full_name, axis=1)


def _of_numbers(graph: _Graph, name: str, column: NumberColumn) -> list[str]:
    numbers = graph.cast(name, "DOUBLE")
    missing = graph.add("IsNaN", [numbers])
    known = graph.add("Where", [missing, graph.doubles([column.fill]), numbers])
    parts = [graph.cast(known, "FLOAT")]
    return [*parts, graph.cast(missing, "FLOAT")] if column.has_missing else parts


def _of_categories(
    graph: _Graph, name: str, column: CategoryColumn, is_string: bool, is_onehot: bool
) -> list[str]:
    """Return the outputs for a column of categories."""
    n_known = len(column.categories)
    if is_string:
        if "" in column.categories and column.has_missing:
            raise ValueError(
                f"column {column.name!r} has missing values and the empty string as a category, but in ONNX "
                "the empty string means a missing one. Rename one of them before fit."
            )
        found = {str(category): code for code, category in enumerate(column.categories, start=1)}
        for word in MISSING:
            found.setdefault(word, n_known + 1)
        code = graph.add(
            "LabelEncoder", [name], domain="ai.onnx.ml", op_version=2, keys_strings=list(found),
            values_int64s=list(found.values()), default_int64=0,
        )  # fmt: skip
        known = graph.add("Equal", [code, graph.integers(range(1, n_known + 1))])
        missing = graph.add("Equal", [code, graph.integers([n_known + 1])])
    else:
        numbers = graph.cast(name, "DOUBLE")
        known = graph.add("Equal", [numbers, graph.doubles([float(value) for value in column.categories])])
        missing = graph.add("IsNaN", [numbers])
    known, missing = graph.cast(known, "FLOAT"), graph.cast(missing, "FLOAT")
    if not is_onehot:
        code = graph.add("MatMul", [known, graph.floats(np.arange(1, n_known + 1)[:, None])])
        if column.has_missing:
            code = graph.add("Add", [code, graph.add("Mul", [missing, graph.floats([n_known + 1])])])
        return [code]
    parts = [known]
    if column.has_rare:
        is_known = graph.add("ReduceSum", [known, graph.integers([1])], keepdims=1)
        parts.append(graph.add("Sub", [graph.add("Sub", [graph.floats([1]), is_known]), missing]))
    return [*parts, missing] if column.has_missing else parts


class _Graph:
    """Add operators and constants to a container of skl2onnx."""

    def __init__(self, scope: Any, container: Any):
        self.scope, self.container = scope, container
        self._types = import_package("onnx", _PURPOSE).TensorProto

    def add(
        self, kind: str, inputs: list[str], output: str | None = None, domain: str = "", **attributes: Any
    ) -> str:
        """Add an operator; return the name of its output."""
        output = output or self.scope.get_unique_variable_name(kind)
        version = attributes.pop("op_version", self.container.target_opset)
        name = self.scope.get_unique_operator_name(kind)
        self.container.add_node(
            kind, inputs, [output], op_domain=domain, op_version=version, name=name, **attributes
        )
        return output

    def cast(self, name: str, dtype: str) -> str:
        return self.add("Cast", [name], to=getattr(self._types, dtype))

    def integers(self, values: Any) -> str:
        return self._constant(np.asarray(values, np.int64), self._types.INT64)

    def doubles(self, values: Any) -> str:
        return self._constant(np.asarray(values, np.float64), self._types.DOUBLE)

    def floats(self, values: Any) -> str:
        return self._constant(np.asarray(values, np.float32), self._types.FLOAT)

    def _constant(self, values: np.ndarray, dtype: int) -> str:
        name = self.scope.get_unique_variable_name("constant")
        self.container.add_initializer(name, dtype, list(values.shape), values.ravel().tolist())
        return name
