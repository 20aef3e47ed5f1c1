"""Converter for skl2onnx that turns a fitted estimator, alone or at the end of a Pipeline, into a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from sklearn_kd.estimators._base import BaseDistiller
from sklearn_kd.estimators._classifier import DistilledClassifier
from sklearn_kd.estimators._distpro import DistProClassifier
from sklearn_kd.estimators._distpro_regressor import DistProRegressor
from sklearn_kd.estimators._regressor import DistilledRegressor
from sklearn_kd.estimators._several_labels import has_several_labels
from sklearn_kd.export._table_converter import register_table
from sklearn_kd.inputs._parts import RowShape, row_shape_of
from sklearn_kd.persistence._requirements import import_package
from sklearn_kd.persistence._student_graph import student_graph

_ALIAS = "SklearnKD"
# The options of scikit-learn's classifiers.
_OPTIONS = {
    "zipmap": [True, False, "columns"],
    "nocl": [True, False],
    "output_class_labels": [False, True],
    "raw_scores": [True, False],
}
_TYPES_OF_PARTS = {"float32": "FloatTensorType", "int64": "Int64TensorType", "bool": "BooleanTensorType"}
_PURPOSE = "Writing a whole model as ONNX"


def register_onnx_converter() -> None:
    """Teach skl2onnx to convert the estimators of this library.

    After the call, ``skl2onnx.to_onnx`` takes a fitted :class:`DistilledClassifier`,
    :class:`DistilledRegressor`, :class:`DistProClassifier` or :class:`DistProRegressor`, and a Pipeline that
    ends in one. :func:`export_student` calls this function itself. Further calls change nothing.

    The graph has the outputs of other classifiers: ``label``, int64 or string of shape (n_samples,), and
    ``probabilities``, float32 of shape (n_samples, n_classes). It takes their options too: ``zipmap``,
    ``nocl`` (the label is the index of the class), ``output_class_labels`` and ``raw_scores`` (logits instead
    of probabilities). The graph of a regressor has the output ``predictions``, float64 of shape (n_samples,
    n_outputs), in the units of y.

    Raises
    ------
    ImportError
        If skl2onnx is not installed; ``pip install sklearn-kd[export]`` installs it.

    See Also
    --------
    export_student : Converts, checks the graph and writes it to a file.

    Examples
    --------
    >>> import skl2onnx, sklearn_kd
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = DistilledClassifier(None, MLPStudent, meta="none", max_epochs=5, device="cpu")
    >>> pipe = make_pipeline(StandardScaler(), clf).fit(X, y)
    >>> sklearn_kd.register_onnx_converter()
    >>> model = skl2onnx.to_onnx(pipe, X[:1], options={"zipmap": False})
    >>> [output.name for output in model.graph.output]
    ['label', 'probabilities']
    """
    for cls in (DistilledClassifier, DistilledRegressor, DistProClassifier, DistProRegressor):
        register_class(cls)


def register_class(cls: type[BaseDistiller]) -> None:
    """Register a class of estimators and their preprocessing; skl2onnx looks up classes, not their bases."""
    register_table()
    skl2onnx = import_package("skl2onnx", _PURPOSE)
    alias = f"{_ALIAS}{cls.__name__}"
    if issubclass(cls, RegressorMixin):
        skl2onnx.update_registered_converter(
            cls, alias, _set_type_of_numbers, _convert_numbers, parser=_parse_regressor
        )
        return
    skl2onnx.update_registered_converter(
        cls, alias, _set_output_types, _convert, parser=_parse, options=_OPTIONS
    )


def _parse(scope: Any, model: BaseDistiller, inputs: list[Any], custom_parsers: Any = None) -> list[Any]:
    """Declare the operators of a classifier: the preprocessing and the student."""
    parse = import_package("skl2onnx._parse", _PURPOSE)
    inputs = _inputs_of_student(scope, model, inputs, custom_parsers)
    return parse._parse_sklearn_classifier(scope, model, inputs, custom_parsers=custom_parsers)


def _parse_regressor(
    scope: Any, model: BaseDistiller, inputs: list[Any], custom_parsers: Any = None
) -> list[Any]:
    """Declare the operators of a regressor in the same way."""
    inputs = _inputs_of_student(scope, model, inputs, custom_parsers)
    alias = f"{_ALIAS}{type(model).__name__}"
    return [_operator(scope, alias, inputs, "predictions", "DoubleTensorType", model)]


def _inputs_of_student(scope: Any, model: BaseDistiller, inputs: list[Any], custom_parsers: Any) -> list[Any]:
    """Declare the preprocessing; return the inputs of the student."""
    parse = import_package("skl2onnx._parse", _PURPOSE)
    check_is_fitted(model, "net_")
    preprocessing = getattr(model, "student_preprocessing_", None)
    if isinstance(preprocessing, FrozenEstimator):  # unknown to skl2onnx
        preprocessing = preprocessing.estimator
    if preprocessing is not None:
        inputs = parse._parse_sklearn(scope, preprocessing, inputs, custom_parsers=custom_parsers)
    parts = row_shape_of(model._sample_shape)
    if parts is not None:
        return _in_parts(scope, inputs, parts)
    # The student takes float32, whatever the steps before it return, and columns of a frame as one matrix.
    inputs = [_operator(scope, "SklearnCast", [given], "rows_float32") for given in inputs]
    if len(inputs) > 1:
        inputs = [_operator(scope, "SklearnConcat", inputs, "rows_joined")]
    return inputs


def _in_parts(scope: Any, inputs: list[Any], parts: RowShape) -> list[Any]:
    """Return the inputs in the order of the student's parts, each with the type of its part."""
    if len(inputs) != len(parts.parts):
        raise ValueError(
            f"The student takes {len(parts.parts)} parts, {parts}, but is given {len(inputs)} inputs. Give X "
            "in the form that fit was given."
        )
    if isinstance(parts.keys, tuple):
        by_name = {given.raw_name: given for given in inputs}
        inputs = [by_name[key] for key in parts.keys]
    return [
        _operator(scope, "SklearnCast", [given], f"part_{k}", _TYPES_OF_PARTS[part.dtype])
        for k, (given, part) in enumerate(zip(inputs, parts.parts, strict=True))
    ]


def _operator(
    scope: Any,
    kind: str,
    inputs: list[Any],
    name: str,
    type_name: str = "FloatTensorType",
    model: BaseDistiller | None = None,
) -> Any:
    """Declare an operator of skl2onnx, for a model or not, with one output of this type; return that."""
    types = import_package("skl2onnx.common.data_types", _PURPOSE)
    operator = scope.declare_local_operator(kind, model)
    operator.inputs = inputs
    output = scope.declare_local_variable(name, getattr(types, type_name)())
    operator.outputs.append(output)
    return output


def _set_output_types(operator: Any) -> None:
    """Set the types and shapes of label and probabilities, and check the shape of the input."""
    types = import_package("skl2onnx.common.data_types", _PURPOSE)
    model = operator.raw_operator
    _check_sample_shape(operator)
    n_rows = operator.inputs[0].get_first_dimension()
    if has_several_labels(model._task):
        n_labels = len(model.classes_)
        operator.outputs[0].set_type(types.Int64TensorType([n_rows, n_labels]))
        operator.outputs[1].set_type(types.FloatTensorType([n_rows, n_labels]))
        return
    labels = output_labels(operator.scope_inst, model)
    kind = types.StringTensorType if labels.dtype == object else types.Int64TensorType
    operator.outputs[0].set_type(kind([n_rows]))
    operator.outputs[1].set_type(types.FloatTensorType([n_rows, len(labels)]))


def _set_type_of_numbers(operator: Any) -> None:
    """Set the type and shape of predictions, and check the shape of the input."""
    types = import_package("skl2onnx.common.data_types", _PURPOSE)
    _check_sample_shape(operator)
    n_rows, task = operator.inputs[0].get_first_dimension(), operator.raw_operator._task
    operator.outputs[0].set_type(types.DoubleTensorType([n_rows, task.n_targets]))


def _check_sample_shape(operator: Any) -> None:
    """Raise ValueError if input samples have another shape than those of ``fit``."""
    model = operator.raw_operator
    shape = list(operator.inputs[0].type.shape[1:])
    in_parts = row_shape_of(model._sample_shape) is not None
    if (
        not in_parts
        and len(shape) == len(model._sample_shape)
        and None not in shape
        and tuple(shape) != model._sample_shape
    ):
        raise ValueError(
            f"{type(model).__name__} is given samples of shape {tuple(shape)}, but was fitted on samples of "
            f"shape {model._sample_shape}."
        )


def output_labels(scope: Any, model: BaseDistiller) -> np.ndarray:
    """Return the labels as the graph returns them: int64, or strings of dtype object."""
    if scope.get_options(model, {"nocl": False}, fail=False)["nocl"]:
        return np.arange(len(model.classes_))
    return onnx_labels(model.classes_)


def onnx_labels(classes: np.ndarray) -> np.ndarray:
    """Return labels as ONNX holds them: int64, or strings of dtype object.

    Raises
    ------
    TypeError
        If they are neither strings nor whole numbers. The message names y.
    """
    values = classes.tolist()
    if all(type(value) is str for value in values):
        return np.array(values, dtype=object)
    other = [value for value in values if not _is_int64(value)]
    if other:
        raise TypeError(
            f"y had the label {other[0]!r}, of {type(other[0]).__name__}: an ONNX file returns labels that "
            "are strings or whole numbers below 2**63. Fit with y.astype(str), or write the student alone by "
            "the method export_student, which returns logits."
        )
    return np.array([int(value) for value in values], dtype=np.int64)


def _is_int64(value: Any) -> bool:
    whole = type(value) in (bool, int) or (type(value) is float and value.is_integer())
    return whole and -(2**63) <= value < 2**63


def _convert(scope: Any, operator: Any, container: Any) -> None:
    """Add the student's operators to the graph, followed by the softmax and the labels."""
    model = operator.raw_operator
    label, scores = (output.full_name for output in operator.outputs)
    logits = _add_student(scope, [given.full_name for given in operator.inputs], container, model)
    several = has_several_labels(model._task)
    if scope.get_options(model, {"raw_scores": False}, fail=False)["raw_scores"]:
        _add(container, scope, "Identity", [logits], scores)
    elif several:
        _add(container, scope, "Sigmoid", [logits], scores)
    else:
        _add(container, scope, "Softmax", [logits], scores, axis=1)
    if several:
        _add_labels_that_are_there(scope, container, logits, label)
        return
    code = scope.get_unique_variable_name("code")
    _add(container, scope, "ArgMax", [scores], code, axis=1, keepdims=0)
    labels, names = output_labels(scope, model), scope.get_unique_variable_name("labels")
    proto = import_package("onnx", _PURPOSE).TensorProto
    if labels.dtype == object:
        encoded = [value.encode("utf-8") for value in labels]
        container.add_initializer(names, proto.STRING, [len(labels)], encoded)
    else:
        container.add_initializer(names, proto.INT64, [len(labels)], labels.tolist())
    _add(container, scope, "Gather", [names, code], label, axis=0)


def _convert_numbers(scope: Any, operator: Any, container: Any) -> None:
    """Add the student's operators to the graph, and those that convert its outputs to the units of y."""
    task = operator.raw_operator._task
    rows = [given.full_name for given in operator.inputs]
    outputs = _add_student(scope, rows, container, operator.raw_operator)
    proto = import_package("onnx", _PURPOSE).TensorProto
    constants: dict[str, tuple[int, list[Any]]] = {
        "means": (proto.INT64, list(range(task.n_targets))),  # a loss may have further outputs
        "scale": (proto.DOUBLE, task.scale.tolist()),
        "mean": (proto.DOUBLE, task.mean.tolist()),
    }
    names = {name: scope.get_unique_variable_name(name) for name in (*constants, "own", "wide", "scaled")}
    for name, (kind, values) in constants.items():
        container.add_initializer(names[name], kind, [len(values)], values)
    _add(container, scope, "Gather", [outputs, names["means"]], names["own"], axis=1)
    # float32 would round targets far from 0.
    _add(container, scope, "Cast", [names["own"]], names["wide"], to=proto.DOUBLE)
    _add(container, scope, "Mul", [names["wide"], names["scale"]], names["scaled"])
    _add(container, scope, "Add", [names["scaled"], names["mean"]], operator.outputs[0].full_name)


def _add_labels_that_are_there(scope: Any, container: Any, logits: str, label: str) -> None:
    """Add 1 for each label whose logit is above 0, so that its probability is above one half; else 0."""
    proto = import_package("onnx", _PURPOSE).TensorProto
    zero, above = scope.get_unique_variable_name("zero"), scope.get_unique_variable_name("above")
    container.add_initializer(zero, proto.FLOAT, [], [0.0])
    _add(container, scope, "Greater", [logits, zero], above)
    _add(container, scope, "Cast", [above], label, to=proto.INT64)


def _add(container: Any, scope: Any, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
    """Add an operator in the version of the whole graph."""
    name = scope.get_unique_operator_name(kind)
    container.add_node(kind, inputs, [output], op_version=container.target_opset, name=name, **attributes)


def _add_student(scope: Any, rows: list[str], container: Any, model: BaseDistiller) -> str:
    """Add the student's own graph; return the name of its logits."""
    compose = import_package("onnx.compose", _PURPOSE)
    graph = student_graph(model.student_, model._sample_shape, container.target_opset)
    if graph.functions:
        graph = import_package("onnx.inliner", _PURPOSE).inline_local_functions(graph)
    prefix = scope.get_unique_operator_name("student") + "/"
    graph = compose.add_prefix(graph, prefix)
    for name, entry in zip(rows, graph.graph.input, strict=True):
        _add(container, scope, "Identity", [name], entry.name)
    container.initializers.extend(graph.graph.initializer)
    container.nodes.extend(graph.graph.node)
    container.node_domain_version_pair_sets |= {(entry.domain, entry.version) for entry in graph.opset_import}
    return graph.graph.output[0].name
