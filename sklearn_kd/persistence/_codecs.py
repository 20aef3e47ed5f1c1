"""Encodes an estimator's content as JSON and tensors, and decodes it: parameters, labels, tables, modules.

Nothing is imported or called that a file names: a name is looked up among the classes of this
library and the optimizers of torch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

import numpy as np
import torch
from skorch.history import History
from torch import Tensor, nn

from sklearn_kd.files._limits import TooLargeError, check_asked, parsed_json
from sklearn_kd.meta import STRATEGIES, Strategy
from sklearn_kd.students._architectures import CNNStudent, MLPStudent
from sklearn_kd.students._resnet import CIFARResNet
from sklearn_kd.training._divergence import has_finite_state

STUDENTS: dict[str, type[nn.Module]] = {
    student.__name__: student for student in (MLPStudent, CNNStudent, CIFARResNet)
}
_STRATEGIES: dict[str, type[Strategy]] = {strategy.__name__: strategy for strategy in STRATEGIES.values()}

# Most numbers in one sample: a file with more asks for memory, not for samples.
_LARGEST_SAMPLE = 100_000_000
# Widest dtype of labels that is restored as stated: each row of a prediction is padded to it.
_WIDEST = 1000
# Largest integer in a parameter: none has a use for more, and torch does not take more.
_LARGEST_NUMBER = 2**63 - 1

# Beginnings of the names of parameters that may be classes.
_CLASSES = ("student", "optimizer", "meta_optimizer")


def is_of_machine(name: str) -> bool:
    """Return whether a parameter is about the machine, which a file must not decide for another one.

    A file that decides where a later fit writes, or how many processes read, would be obeyed unseen.
    """
    return name == "checkpoint_dir" or name.endswith("__num_workers")


class NoFormError(TypeError):
    """A value that a file has no form for."""


class ContentError(ValueError):
    """A file has something that it should not; the message goes on from "it has"."""


# --------------------------------------------------------------------------------------
# Parameters


def encoded(value: Any) -> Any:
    """Encode a parameter as JSON; what JSON has no form for is a dictionary of one key, its kind.

    Raises
    ------
    NoFormError
        If it is an object or a function that has no form here either.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is list:
        return [encoded(part) for part in value]
    if type(value) is tuple:
        return {"tuple": [encoded(part) for part in value]}
    if type(value) is dict and all(type(key) is str for key in value):
        return {"dict": {key: encoded(part) for key, part in value.items()}}
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "biufUO":
        return {"array": [encoded(part) for part in value.tolist()]}
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, PathLike):
        return str(fspath(value))
    if isinstance(value, type):
        return _encoded_class(value)
    if _STRATEGIES.get(type(value).__name__) is type(value):
        params = {name: encoded(part) for name, part in value.get_params(deep=False).items()}
        return {"strategy": [type(value).__name__, params]}
    raise NoFormError(f"{type(value).__name__} has no form in JSON")


def _encoded_class(value: type) -> dict[str, str]:
    if STUDENTS.get(value.__name__) is value:
        return {"student": value.__name__}
    if issubclass(value, torch.optim.Optimizer) and getattr(torch.optim, value.__name__, None) is value:
        return {"optimizer": value.__name__}
    raise NoFormError(f"{value.__qualname__} is neither a class of sklearn-kd nor of torch.optim")


def decoded(value: Any) -> Any:
    """Decode a parameter that :func:`encoded` has encoded.

    Raises
    ------
    ContentError
        If it made no such thing.
    """
    if isinstance(value, list):
        return [decoded(part) for part in value]
    if not isinstance(value, dict):
        return value
    kind, given = next(iter(value.items())) if len(value) == 1 else (None, None)
    if kind == "tuple" and isinstance(given, list):
        return tuple(map(decoded, given))
    if kind == "array" and isinstance(given, list):
        return np.asarray(list(map(decoded, given)))
    if kind == "dict" and isinstance(given, dict):
        return {key: decoded(part) for key, part in given.items()}
    if kind == "strategy" and isinstance(given, list) and len(given) == 2 and given[0] in _STRATEGIES:
        # The number of processes depends on the machine that fits.
        params = {key: decoded(part) for key, part in given[1].items() if key != "n_jobs"}
        return _STRATEGIES[given[0]](**params)
    if kind == "student" and given in STUDENTS:
        return STUDENTS[given]
    if kind == "optimizer" and isinstance(given, str):
        optimizer = vars(torch.optim).get(given)
        if isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer):
            return optimizer
    raise ContentError(f"{str(value)[:100]} as a parameter, which this version does not know")


def decoded_parameter(name: str, value: Any) -> Any:
    """Decode the parameter of this name that :func:`encoded` has encoded.

    Raises
    ------
    ContentError
        If it made no such thing, or not of this parameter.
    """
    made = decoded(value)
    waiting = [made]
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
        elif isinstance(part, Strategy) and (part is not made or name != "meta"):
            raise ContentError(f"a strategy, {type(part).__name__}, as {name}")
    return made


# --------------------------------------------------------------------------------------
# Labels


def encoded_labels(classes: np.ndarray) -> dict[str, Any]:
    """Encode labels and their dtype.

    Raises
    ------
    TypeError
        Naming y, if JSON has no form for them.
    """
    labels = classes.tolist()
    kind, known = classes.dtype.kind, (bool, int, float, str)
    if kind not in "biufUO" or not all(type(label) in known for label in labels):
        kinds = sorted({type(label).__name__ for label in labels})
        raise TypeError(
            f"y had labels of dtype {classes.dtype} ({', '.join(kinds)}), for which JSON has no form. Fit "
            "with labels that are strings or numbers, for example y.astype(str)."
        )
    return {"dtype": "O" if kind == "O" else classes.dtype.str, "values": labels}


def decoded_labels(given: Mapping[str, Any]) -> np.ndarray:
    """The labels, sorted and at least two.

    Raises
    ------
    ContentError
        If they are not.
    """
    kind, labels = given["dtype"], given["values"]
    if not isinstance(kind, str) or not re.fullmatch(r"O|[<>|]?[biufU]\d{1,9}", kind):
        raise ContentError(f"labels of dtype {kind!r}")
    if not isinstance(labels, list) or not all(type(v) in (bool, int, float, str) for v in labels):
        raise ContentError("labels that are no list of strings or numbers")
    if "U" in kind:
        kind = kind[: kind.index("U") + 1] + str(_width(int(kind.rpartition("U")[2]), labels))
    classes = np.array(labels, dtype=np.dtype(kind))
    if len(labels) < 2 or classes.tolist() != labels or not np.array_equal(np.unique(classes), classes):
        raise ContentError(f"labels that are not at least two, sorted and of dtype {classes.dtype}")
    return classes


def _width(stated: int, labels: list[Any]) -> int:
    """Return the width of the labels' dtype: as stated, or theirs where that is out of proportion.

    Raises
    ------
    ContentError
        If one label is so much longer than the others that padding these takes the memory.
    """
    lengths = [len(label) for label in labels if isinstance(label, str)]
    width = stated if stated <= _WIDEST else max([1, *lengths])
    try:
        check_asked(4 * width * len(labels), 4 * sum(lengths))
    except TooLargeError as error:
        raise ContentError(f"{len(labels)} labels of {width:,} characters each: {error}") from error
    return width


def checked_sample_shape(given: Any) -> tuple[int, ...]:
    """Check and return the shape of a sample.

    Raises
    ------
    ContentError
        If it is none, or so large that it can only be there to exhaust the memory.
    """
    if not isinstance(given, list) or not given or not all(type(size) is int and size > 0 for size in given):
        raise ContentError(f"samples of shape {str(given)[:100]}")
    if math.prod(given) > _LARGEST_SAMPLE:
        raise ContentError(f"samples of shape {given}, beyond the limit of {_LARGEST_SAMPLE:,} numbers")
    return tuple(given)


# --------------------------------------------------------------------------------------
# Tables and histories


def tensors_of(table: np.ndarray, name: str) -> dict[str, Tensor]:
    """The columns of a structured array, as ``name.COLUMN``."""
    assert table.dtype.names is not None
    return {f"{name}.{column}": tensor_of(table[column]) for column in table.dtype.names}


def tensor_of(array: np.ndarray) -> Tensor:
    """The array as a tensor, copied, since the strides of a column are none for torch."""
    return torch.from_numpy(np.array(array, order="C"))


def take_table(tensors: dict[str, Tensor], name: str, dtype: np.dtype) -> np.ndarray:
    """The structured array, taken out of ``tensors``.

    Raises
    ------
    ContentError
        If columns are missing, or of another type or length.
    """
    assert dtype.names is not None
    columns = {column: take_array(tensors, f"{name}.{column}", dtype[column]) for column in dtype.names}
    if len({column.shape for column in columns.values()}) != 1 or any(c.ndim != 1 for c in columns.values()):
        shapes = {key: column.shape for key, column in columns.items()}
        raise ContentError(f"columns of {name} that are not of one length: {shapes}")
    table = np.empty(len(columns[dtype.names[0]]), dtype=dtype)
    for key, column in columns.items():
        table[key] = column
    return table


def take_array(tensors: dict[str, Tensor], name: str, dtype: Any) -> np.ndarray:
    """A tensor as an array, taken out of ``tensors``.

    Raises
    ------
    ContentError
        If it is missing, or of another type.
    """
    tensor = tensors.pop(name, None)
    if tensor is None:
        raise ContentError(f"no tensor {name!r}")
    array = tensor.numpy()
    if array.dtype != np.dtype(dtype):
        raise ContentError(f"a tensor {name!r} of {array.dtype}, not of {np.dtype(dtype)}")
    return array.copy()


def history_tensor(history: History | None, lost: set[str]) -> Tensor:
    """A history as JSON in bytes; names of columns that JSON has no form for are put into ``lost``.

    As bytes, since the header of a safetensors file is limited, and a history is not.
    """
    text = json.dumps(None if history is None else _plain(list(history), lost))
    return torch.from_numpy(np.frombuffer(text.encode(), dtype=np.uint8).copy())


def _plain(value, lost):
    if isinstance(value, (list, tuple)):
        return [_plain(part, lost) for part in value]
    if not isinstance(value, dict):
        value = value.item() if isinstance(value, np.generic) else value
        if value is None or type(value) in (bool, int, float, str):
            return value
        raise NoFormError(f"{type(value).__name__} has no form in JSON")
    row = {}
    for key, part in value.items():
        try:
            row[str(key)] = _plain(part, lost)
        except NoFormError:
            lost.add(f"{key!r} of the history")
    return row


def take_history(tensors: dict[str, Tensor], name: str) -> History | None:
    """The history, taken out of ``tensors``.

    Raises
    ------
    ContentError
        If it is none.
    """
    rows = parsed_json(take_array(tensors, name, np.uint8).tobytes())
    if rows is None:
        return None
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("batches"), list) for row in rows
    ):
        raise ContentError(f"a {name} that is no list of epochs")
    return History(rows)


# --------------------------------------------------------------------------------------
# Modules


def weights_of(module: nn.Module, name: str) -> dict[str, Tensor]:
    """The module's state, as ``name.KEY``.

    Raises
    ------
    TypeError
        If some of it is no tensor.
    """
    state = module.state_dict()
    other = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if other:
        raise TypeError(
            f"{name} {type(module).__name__} has a state that is no tensor: {other}. A file without code can "
            "hold tensors alone; keep such a state in buffers."
        )
    return {f"{name}.{key}": value for key, value in state.items()}


def take_weights(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The state of a module, taken out of ``tensors``."""
    keys = sorted(key for key in tensors if key.startswith(f"{name}."))
    return {key[len(name) + 1 :]: tensors.pop(key) for key in keys}


def check_numbers(params: Any, weights: Mapping[str, Tensor], name: str) -> None:
    """Refuse parameters too large for the weights that are there, before anything is built of them.

    A width is the size of some tensor, and a depth, or the length of a list of widths, at most the number
    of tensors.

    Raises
    ------
    ContentError
    """
    sizes = [size for tensor in weights.values() if tensor.numel() for size in tensor.shape]
    largest, most = max([len(weights), *sizes], default=0), len(weights)
    waiting = list(params.items()) if isinstance(params, dict) else [("", params)]
    while waiting:
        key, value = waiting.pop()
        parts = list(value.values()) if isinstance(value, dict) else value
        is_list = isinstance(parts, (list, tuple))
        size = len(parts) if isinstance(parts, (list, tuple, str)) else parts
        is_depth = is_list or key == "depth"
        if isinstance(size, int) and abs(size) > max(most if is_depth else largest, 100):
            known = (
                f"the file has {most:,} tensors"
                if is_depth
                else f"no tensor in the file is larger than {largest:,}"
            )
            raise ContentError(f"{name} of size {size:,}, where {known}")
        if is_list:
            waiting.extend((key, part) for part in parts)


def fill(module: nn.Module, weights: dict[str, Tensor], name: str) -> nn.Module:
    """Put these weights into the module, and that into evaluation mode.

    Raises
    ------
    ContentError
        If names, shapes, types or values of the weights are wrong.
    """
    check_fits(module, weights, name)
    if type(module) in STUDENTS.values():
        # load_state_dict looks through all weights for each layer: minutes for thousands of layers.
        for key, value in module.state_dict().items():
            value.copy_(weights[key])
    else:
        module.load_state_dict(weights)
    if not has_finite_state([module]):
        broken = [key for key, w in weights.items() if w.is_floating_point() and not torch.isfinite(w).all()]
        raise ContentError(f"weights of the {name} that are not finite: {_some(broken)}")
    return module.eval()


def check_fits(module: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Refuse weights of another network.

    Raises
    ------
    ContentError
        Naming what is missing, unexpected, or of another shape or type.
    """
    state = {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}
    wrong = [
        f"{key!r} is {_kind(weights[key])} in the file and {_kind(state[key])} in the module"
        for key in state
        if key in weights and _kind(weights[key]) != _kind(state[key])
    ]
    faults = {
        "missing": [key for key in state if key not in weights],
        "unexpected": [key for key in weights if key not in state],
        "of another shape or type": wrong,
    }
    said = "; ".join(f"{what}: {_some(keys)}" for what, keys in faults.items() if keys)
    if said:
        raise ContentError(f"weights that do not fit the {name} {type(module).__name__}. {said}")


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
