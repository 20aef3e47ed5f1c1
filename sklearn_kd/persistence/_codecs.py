"""Encode the content of estimators other than weights: parameters, labels, tables and histories.

:mod:`sklearn_kd.files._values` defines which values can be encoded. Parameters may also be classes,
strategies, losses and executions. No name in a file is imported or called: names are looked up among the
classes of this library and the optimizers of torch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from skorch.history import History
from torch import Tensor, nn

from sklearn_kd.distpro._term import Pathways
from sklearn_kd.files._columns import Columns, join_batches, join_rows, split_batches, split_rows
from sklearn_kd.files._history import decode_history, encode_history
from sklearn_kd.files._limits import TooLargeError, check_asked, parsed_json
from sklearn_kd.files._values import JSON_VALUES, ContentError, Kind, unknown
from sklearn_kd.inputs._parts import PartShape, RowShape, row_shape_of
from sklearn_kd.losses._multilabel_distillation import MultilabelDistillation
from sklearn_kd.losses._named import LOSSES
from sklearn_kd.losses._named_terms import TERMS
from sklearn_kd.meta import STRATEGIES
from sklearn_kd.networks import VGG, MobileNetV2, ResNet, ShuffleNetV1, ShuffleNetV2, WideResNet
from sklearn_kd.persistence._container import Content
from sklearn_kd.preprocessing._table import TablePreprocessing
from sklearn_kd.runtime._execution import Execution
from sklearn_kd.students._architectures import CNNStudent, MLPStudent
from sklearn_kd.students._fcn import FCNStudent
from sklearn_kd.students._resnet import CIFARResNet
from sklearn_kd.students._tabular import TabularStudent

STUDENTS: dict[str, type[nn.Module]] = {
    student.__name__: student
    for student in (
        *(MLPStudent, CNNStudent, CIFARResNet, FCNStudent, TabularStudent),
        *(WideResNet, ResNet, ShuffleNetV1, ShuffleNetV2, MobileNetV2, VGG),
    )
}
# The kind of objects that each of these parameters may be, and the classes of this kind.
_OBJECTS: dict[str, tuple[str, Collection[type[BaseEstimator]]]] = {
    "meta": ("strategy", STRATEGIES.values()),
    "loss": ("loss", [*LOSSES.values(), MultilabelDistillation, *TERMS.values(), Pathways]),
    "execution": ("execution", [Execution]),
    "student_preprocessing": ("preprocessing", [TablePreprocessing]),
}

# The types that parts of a sample may have.
_PART_TYPES = ("float32", "int64", "bool")
# A sample with more numbers is refused, because the file would exhaust the memory.
_LARGEST_SAMPLE = 100_000_000
# Labels are restored with the stated width up to this limit; each row of a prediction is padded to the width.
_WIDEST = 1000
# A larger integer is refused in parameters: no parameter needs it, and torch does not accept it.
_LARGEST_NUMBER = 2**63 - 1

# The levels of a history, as they appear in the names of its tensors.
_LEVELS = ("epochs", "batches")
# Bytes that Python needs at least for one more value in a dictionary.
_PER_VALUE = 64

# Types of tensors that can become arrays of numbers.
_NUMPY_TYPES = {
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32",
    "float64",
}  # fmt: skip

# Parameters whose names begin with these prefixes may be classes.
_CLASSES = ("student", "optimizer", "meta")


_OF_THE_MACHINE = ("checkpoint_dir", "teacher_logits_dir", "meta__n_jobs", "parallel")


def is_machine_setting(name: str) -> bool:
    """Return whether a parameter depends on the machine, so that it is neither saved nor loaded.

    Otherwise a file could silently decide where a later fit writes and how many processes read.
    """
    return name in _OF_THE_MACHINE or name.endswith("__num_workers")


# --------------------------------------------------------------------------------------
# Parameters


def _object_kind(name: str, classes: Iterable[type[BaseEstimator]]) -> Kind:
    """Make the kind of objects of these classes, encoded as the name of the class and the parameters."""
    by_name = {cls.__name__: cls for cls in classes}

    def includes(value: Any) -> bool:
        return by_name.get(type(value).__name__) is type(value)

    def encode_object(value: BaseEstimator, encode: Callable[[Any], Any]) -> list[Any]:
        params = value.get_params(deep=False)
        return [type(value).__name__, {key: encode(part) for key, part in params.items()}]

    def decode_object(form: Any, decode: Callable[[Any], Any]) -> BaseEstimator:
        cls, params = form
        if not isinstance(cls, str) or cls not in by_name:
            raise unknown(form)
        # The number of processes depends on the machine.
        return by_name[cls](**{key: decode(part) for key, part in params.items() if key != "n_jobs"})

    return Kind(name, includes, encode_object, decode_object)


def _decode_student(form: Any, decode: Callable[[Any], Any]) -> type[nn.Module]:
    if not isinstance(form, str) or form not in STUDENTS:
        raise unknown(form)
    return STUDENTS[form]


def _is_optimizer(value: Any) -> bool:
    is_optimizer = isinstance(value, type) and issubclass(value, torch.optim.Optimizer)
    return is_optimizer and getattr(torch.optim, value.__name__, None) is value


def _decode_optimizer(form: Any, decode: Callable[[Any], Any]) -> type[torch.optim.Optimizer]:
    optimizer: Any = vars(torch.optim).get(form) if isinstance(form, str) else None
    if not _is_optimizer(optimizer):
        raise unknown(form)
    return optimizer


PARAMETER_VALUES = JSON_VALUES.with_kinds(
    *(_object_kind(kind, classes) for kind, classes in _OBJECTS.values()),
    Kind(
        "student",
        includes=lambda value: isinstance(value, type) and STUDENTS.get(value.__name__) is value,
        encode=lambda value, encode: value.__name__,
        decode=_decode_student,
    ),
    Kind("optimizer", _is_optimizer, lambda value, encode: value.__name__, _decode_optimizer),
)


def decode_parameter(name: str, form: Any) -> Any:
    """Decode a parameter from its form in ``PARAMETER_VALUES``.

    Raises
    ------
    ContentError
        If the form is unknown, or this parameter cannot have a value of this kind.
    """
    value = PARAMETER_VALUES.decode(form)
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, (list, tuple)):
            waiting.extend(part)
        elif isinstance(part, dict):
            waiting.extend(part.values())
        elif isinstance(part, int) and abs(part) > _LARGEST_NUMBER:
            raise ContentError(f"{name} with a number beyond {_LARGEST_NUMBER:,}")
        elif isinstance(part, type) and not name.startswith(_CLASSES):
            raise ContentError(f"a class, {part.__name__}, as {name}")
        elif isinstance(part, BaseEstimator) and not _may_be(name, part, alone=part is value):
            raise ContentError(f"an object, {type(part).__name__}, as {name}")
    return value


def _may_be(name: str, value: BaseEstimator, *, alone: bool) -> bool:
    """Return whether a parameter may be this object or, if not ``alone``, hold it in a list."""
    return (alone or name == "loss") and name in _OBJECTS and type(value) in _OBJECTS[name][1]


def finite_number(value: Any) -> float:
    """Return a number of the file as a float.

    Raises
    ------
    ContentError
        If the value is not a number, or not finite.
    """
    if type(value) not in (int, float) or not np.isfinite(value):
        raise ContentError(f"{str(value)[:100]!r} instead of a number")
    return float(value)


# --------------------------------------------------------------------------------------
# Labels


def encode_labels(classes: np.ndarray) -> dict[str, Any]:
    """Encode labels and their dtype.

    Raises
    ------
    TypeError
        If the labels cannot be written as JSON. The message names y.
    """
    labels = classes.tolist()
    kind, known = classes.dtype.kind, (bool, int, float, str)
    if kind not in "biufUO" or not all(type(label) in known for label in labels):
        kinds = sorted({type(label).__name__ for label in labels})
        raise TypeError(
            f"y had labels of dtype {classes.dtype} ({', '.join(kinds)}), which cannot be written as JSON. "
            "Fit with labels that are strings or numbers, for example y.astype(str)."
        )
    return {"dtype": "O" if kind == "O" else classes.dtype.str, "values": labels}


def labels_content(
    classes: np.ndarray, dtype: np.dtype | None, map_shape: tuple[int, ...] | None = None
) -> dict[str, Any]:
    """Return the entries of a file about a classifier's labels.

    ``dtype`` is the dtype of several labels, and ``map_shape`` is (H, W) of maps. Each is None if y had no
    such labels.
    """
    several = {} if dtype is None else {"label_dtype": dtype.newbyteorder("=").str}
    maps = {} if map_shape is None else {"map_shape": list(map_shape)}
    return {"labels": encode_labels(classes)} | several | maps


def decode_map_shape(given: Any) -> tuple[int, ...]:
    """Return height and width of the maps in y from a file.

    Raises
    ------
    ContentError
        If they are not two sizes, or so large that they would exhaust the memory.
    """
    shape = check_sample_shape(given)
    if len(shape) != 2 or not isinstance(given, list):
        raise ContentError(f"maps of shape {str(given)[:100]}")
    return shape


def label_attributes(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fitted attributes of labels from a file."""
    classes = decode_labels(about["labels"])
    if "map_shape" in about:
        return {"classes_": classes, "map_shape_": decode_map_shape(about["map_shape"])}
    if "label_dtype" not in about:
        return {"classes_": classes}
    return {"classes_": classes, "label_dtype_": _label_dtype(about["label_dtype"], classes)}


def _label_dtype(about: Any, classes: np.ndarray) -> np.dtype:
    """Return the dtype of several labels, given by its number. Refuse dtypes other than those of 0 and 1."""
    known = {np.dtype(kind).str for kind in "?bBhHiIlLqQefd"}
    if about not in known or classes.tolist() != list(range(len(classes))):
        raise ContentError(f"several labels of type {str(about)[:100]!r}")
    return np.dtype(about)


def decode_labels(given: Mapping[str, Any]) -> np.ndarray:
    """Decode labels.

    Raises
    ------
    ContentError
        If they are not at least two sorted labels of one dtype.
    """
    kind, labels = given["dtype"], given["values"]
    if not isinstance(kind, str) or not re.fullmatch(r"O|[<>|]?[biufU]\d{1,9}", kind):
        raise ContentError(f"labels of dtype {kind!r}")
    if not isinstance(labels, list) or not all(type(v) in (bool, int, float, str) for v in labels):
        raise ContentError("labels that are not a list of strings or numbers")
    if "U" in kind:
        kind = kind[: kind.index("U") + 1] + str(_width(int(kind.rpartition("U")[2]), labels))
    classes = np.array(labels, dtype=np.dtype(kind))
    if len(labels) < 2 or classes.tolist() != labels or not np.array_equal(np.unique(classes), classes):
        raise ContentError(f"labels that are not at least two, sorted and of dtype {classes.dtype}")
    return classes


def _width(stated: int, labels: list[Any]) -> int:
    """Return the width of the labels' dtype: the stated one, or the labels' own if that is too large.

    Raises
    ------
    ContentError
        If one label is so much longer than the others that padding these would exhaust the memory.
    """
    lengths = [len(label) for label in labels if isinstance(label, str)]
    width = stated if stated <= _WIDEST else max([1, *lengths])
    try:
        check_asked(4 * width * len(labels), 4 * sum(lengths))
    except TooLargeError as error:
        raise ContentError(f"{len(labels)} labels of {width:,} characters each: {error}") from error
    return width


def encode_sample_shape(shape: tuple[Any, ...]) -> Any:
    """Return the shape of a sample as JSON: the list of its sizes, or its parts."""
    parts = row_shape_of(shape)
    if parts is None:
        return [int(size) for size in shape]
    keys = list(parts.keys) if isinstance(parts.keys, tuple) else parts.keys
    return {"keys": keys, "parts": [[list(map(int, part.sizes)), part.dtype] for part in parts.parts]}


def check_sample_shape(given: Any) -> tuple[Any, ...]:
    """Return the shape of a sample from the result of :func:`encode_sample_shape`.

    Raises
    ------
    ContentError
        If it is not a shape, or so large that it would exhaust the memory.
    """
    if isinstance(given, dict):
        return (_checked_parts(given),)
    if not isinstance(given, list) or not given or not all(type(size) is int and size > 0 for size in given):
        raise ContentError(f"samples of shape {str(given)[:100]}")
    if math.prod(given) > _LARGEST_SAMPLE:
        raise ContentError(f"samples of shape {given}, beyond the limit of {_LARGEST_SAMPLE:,} numbers")
    return tuple(given)


def _checked_parts(given: dict[str, Any]) -> RowShape:
    """Return the shape of samples in parts."""
    keys, parts = given.get("keys"), given.get("parts")
    are_names = isinstance(keys, list) and all(type(key) is str for key in keys) and len({*keys}) == len(keys)
    n_parts = len(keys) if isinstance(keys, list) and are_names else 1 if keys is None else keys
    if type(n_parts) is not int or not isinstance(parts, list) or not parts or n_parts != len(parts):
        raise ContentError(f"samples of parts {str(given)[:100]}")
    found = []
    for part in parts:
        if not isinstance(part, list) or len(part) != 2 or part[1] not in _PART_TYPES:
            raise ContentError(f"samples with a part {str(part)[:100]}")
        found.append(PartShape(check_sample_shape(part[0]) if part[0] else (), part[1]))
    return RowShape(tuple(keys) if isinstance(keys, list) else keys, tuple(found))


# --------------------------------------------------------------------------------------
# Tables and histories


def table_content(table: np.ndarray, name: str) -> Content:
    """Return a structured array as one tensor per column, ``name.COLUMN``, and the order of the columns.

    Parameters
    ----------
    table : structured array of shape (n_rows,)
        Table whose columns may be subarrays: a tensor has shape (n_rows, ...).
    name : str

    Returns
    -------
    Content
    """
    columns = list(table.dtype.names or ())
    tensors = {f"{name}.{column}": tensor_of(table[column]) for column in columns}
    return Content({f"{name}_columns": columns}, tensors)


def tensor_of(array: np.ndarray) -> Tensor:
    """Return a copy of an array as a tensor, because torch does not support the strides of a column."""
    return torch.from_numpy(np.array(array, order="C"))


def take_table(content: Content, name: str, dtype: np.dtype | None = None) -> np.ndarray:
    """Return a structured array and remove its tensors from the content.

    Parameters
    ----------
    content : Content
    name : str
    dtype : structured dtype or None, default=None
        The columns that the table must have. None: any columns of numbers.

    Returns
    -------
    structured array of shape (n_rows,)

    Raises
    ------
    ContentError
        If columns are missing, not numeric, of different lengths, or not those of ``dtype``.
    """
    names = content.about.get(f"{name}_columns")
    is_list = isinstance(names, list) and all(isinstance(key, str) and key.isidentifier() for key in names)
    if not is_list or not names or len(set(names)) != len(names):
        raise ContentError(f"{str(names)[:100]} as the columns of {name}")
    columns = {key: take_array(content.tensors, f"{name}.{key}") for key in names}
    if any(column.ndim == 0 for column in columns.values()) or len(set(map(len, columns.values()))) != 1:
        shapes = {key: column.shape for key, column in columns.items()}
        raise ContentError(f"columns of {name} with different lengths: {shapes}")
    found = np.dtype([(key, column.dtype, column.shape[1:]) for key, column in columns.items()])
    if dtype is not None and found != dtype:
        raise ContentError(f"a {name} with the columns {found}, not {dtype}")
    table = np.empty(len(columns[names[0]]), dtype=found)
    for key, column in columns.items():
        table[key] = column
    return table


def take_array(tensors: dict[str, Tensor], name: str, dtype: Any = None) -> np.ndarray:
    """Return a tensor as an array and remove it from ``tensors``.

    Parameters
    ----------
    tensors : dict
    name : str
    dtype : dtype or None, default=None
        The dtype that the array must have. None: any dtype of real numbers in NumPy.

    Raises
    ------
    ContentError
        If the tensor is missing, or has another type.
    """
    tensor = tensors.pop(name, None)
    if tensor is None:
        raise ContentError(f"no tensor {name!r}")
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind not in _NUMPY_TYPES:
        raise ContentError(f"a tensor {name!r} of {kind}, which is not a type of real numbers in NumPy")
    if dtype is not None and np.dtype(kind) != np.dtype(dtype):
        raise ContentError(f"a tensor {name!r} of {kind}, not of {np.dtype(dtype)}")
    return tensor.numpy().copy()


def history_tensors(history: History | None, name: str, lost: set[str]) -> dict[str, Tensor]:
    """Encode a history: columns of numbers as tensors, everything else as JSON in a tensor of bytes.

    The JSON is not in the header of the safetensors file, because the header's length is limited.

    Parameters
    ----------
    history : History or None
    name : str
        Name of a tensor, and prefix of the other tensors' names, followed by a dot.
    lost : set of str
        Descriptions of columns that cannot be written as JSON are added.
    """
    about: dict[str, Any] | None = None
    tensors = {}
    if history is not None:
        rows = encode_history(history, JSON_VALUES, lambda column, type_name: lost.add(column))
        about = {}
        for level, columns in zip(_LEVELS, map(split_rows, split_batches(rows)), strict=True):
            about[level] = {"layouts": columns.layouts, "others": columns.others}
            tensors[f"{name}.{level}"] = tensor_of(columns.layout_of_row)
            for key, array in columns.arrays.items():
                tensors[f"{name}.{level}.{key}"] = tensor_of(array)
    data = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    return {name: tensor_of(data)} | tensors


def take_history(tensors: dict[str, Tensor], name: str) -> History | None:
    """Decode a history and remove its tensors from ``tensors``.

    Raises
    ------
    ContentError
        If a tensor is missing, or the tensors do not form a history.
    """
    about = parsed_json(take_array(tensors, name, np.uint8).tobytes())
    # In files of format 1, a history is a list of rows.
    rows = _rows_of_columns(about, tensors, name) if isinstance(about, dict) else about
    return None if rows is None else decode_history(rows, JSON_VALUES, name)


def _rows_of_columns(about: dict[str, Any], tensors: dict[str, Tensor], name: str) -> list[dict[str, Any]]:
    levels = []
    for level in _LEVELS:
        start = f"{name}.{level}."
        layout_of_row = take_array(tensors, start[:-1], np.int64)
        arrays = {key: take_array(tensors, key) for key in list(tensors) if key.startswith(start)}
        if any(array.ndim != 1 for array in [layout_of_row, *arrays.values()]):
            raise ContentError(f"a {name} with an invalid column")
        try:
            layouts, others = about[level]["layouts"], about[level]["others"]
            check_asked(_PER_VALUE * sum(len(layouts[k]) for k in layout_of_row), _n_bytes(arrays.values()))
            arrays = {key.removeprefix(start): array for key, array in arrays.items()}
            levels.append(join_rows(Columns(layouts, layout_of_row, arrays, others)))
        except TooLargeError as error:
            raise ContentError(f"a {name} of too many values: {error}") from error
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            why = f"{type(error).__name__}: {error}"
            raise ContentError(f"a {name} that is not a list of epochs ({why})") from error
    try:
        return join_batches(*levels)
    except ValueError as error:
        raise ContentError(f"a {name} with {error}") from error


def _n_bytes(arrays: Iterable[np.ndarray]) -> int:
    return sum(array.nbytes for array in arrays)
