"""Hash everything that determines a fit; the hash is the same in every process.

Objects that cannot be hashed by content, such as compiled functions, are hashed by name.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable
from functools import partial
from os import PathLike
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import Tensor, nn

from sklearn_kd.files._tensors import hash_tensor
from sklearn_kd.inputs._torch_datasets import BatchFetcher, DatasetRows
from sklearn_kd.runtime._random_state import preserved_random_state

Update = Callable[[Any], None]

# Parameters that do not change the result of a fit.
_WITHOUT_EFFECT = {"verbose", "n_jobs", "checkpoint_dir", "teacher_logits_dir", "keep_teacher", "parallel"}
# Number of rows of a Dataset to hash, besides all labels.
_N_SAMPLES = 4


def fingerprint(**parts: Any) -> str:
    """Return a hash of named values: 24 hexadecimal digits of a SHA-256."""
    digest = hashlib.sha256()
    for name, value in parts.items():
        digest.update(f"{name}\n".encode())
        _describe(value, digest.update, depth=0)
    return digest.hexdigest()[:24]


def relevant_parameters(estimator: BaseEstimator) -> dict[str, Any]:
    """Return the parameters that change the result of a fit; nested estimators are hashed with theirs."""
    # The seeds and the device in use are hashed instead of random_state and device.
    left_out = _WITHOUT_EFFECT | {"random_state", "device"}
    return {name: v for name, v in estimator.get_params(deep=False).items() if name not in left_out}


def sample_rows(rows: DatasetRows, collate_fn: Callable[[list[Any]], Any] | None = None) -> Tensor:
    """Return a few rows of a Dataset, read with a fixed random state."""
    indices = np.unique(np.linspace(0, len(rows) - 1, _N_SAMPLES).astype(int)).tolist()
    with preserved_random_state(torch.device("cpu"), seed=0):
        return BatchFetcher(rows, collate_fn)[indices][0]


def _describe(value: Any, update: Update, depth: int) -> None:
    """Call ``update`` with bytes that identify a value."""
    update(f"{type(value).__module__}.{type(value).__name__}(".encode())
    if depth < 20:  # a value nested more deeply contains itself
        _describe_inside(value, partial(_describe, update=update, depth=depth + 1), update)
    update(b")")


def _describe_inside(value: Any, describe: Callable[[Any], None], update: Update) -> None:
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.device, torch.dtype)):
        update(repr(value).encode())
    elif isinstance(value, (np.ndarray, np.generic)):
        _describe_array(np.asarray(value), describe, update)
    elif isinstance(value, Tensor):
        # For a network sharded among processes, the part of this one.
        hash_tensor(update, value.to_local() if hasattr(value, "to_local") else value)
    elif isinstance(value, PathLike):
        update(str(value).encode())
    elif isinstance(value, (list, tuple)):
        for v in value:
            describe(v)
    elif isinstance(value, (set, frozenset)):
        for v in sorted(value, key=repr):
            describe(v)
    elif isinstance(value, dict):
        for key, v in sorted(value.items(), key=lambda item: repr(item[0])):
            describe(key)
            describe(v)
    elif isinstance(value, type):
        # Not __qualname__, which a class defined in a function loses when sent to another process.
        update(f"{value.__module__}.{value.__name__}".encode())
    elif isinstance(value, (ModuleType, BuiltinFunctionType)):
        update(f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value)}".encode())
    elif isinstance(value, (FunctionType, MethodType, partial, CodeType)):
        _describe_function(value, describe)
    else:
        describe(_state_of(value))
        own = _own_code(type(value))
        if own:
            describe(own)


def _own_code(kind: type) -> dict[str, Any]:
    """Return the methods and plain attributes of a user's subclass of a class of this library.

    A user's own loss or strategy is part of the fit, as a function is.
    """
    is_ours = [base.__module__.startswith("sklearn_kd.") for base in kind.__mro__]
    users = kind.__mro__[: is_ours.index(True)] if any(is_ours) else ()
    return {
        f"{base.__name__}.{name}": value
        for base in users
        for name, value in vars(base).items()
        if isinstance(value, FunctionType)
        or (isinstance(value, (bool, int, float, str)) and not name.startswith("__"))
    }


def _describe_array(array: np.ndarray, describe: Callable[[Any], None], update: Update) -> None:
    update(f"{array.dtype.str}{array.shape}".encode())
    if array.dtype.hasobject:
        describe(array.ravel().tolist())
    else:
        update(np.ascontiguousarray(array).data if array.size else b"")


def _describe_function(function: Any, describe: Callable[[Any], None]) -> None:
    if isinstance(function, partial):
        describe([function.func, function.args, function.keywords])
    elif isinstance(function, MethodType):
        describe([function.__func__, function.__self__])
    elif isinstance(function, CodeType):
        # Line numbers are left out, since an edit elsewhere in the file changes them.
        describe([function.co_code, function.co_names, function.co_consts])
    else:
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
        named = [function.__module__, function.__qualname__, function.__code__, function.__defaults__]
        describe([*named, function.__kwdefaults__, cells])


def _state_of(value: Any) -> Any:
    """Return the values that identify an object of any other class."""
    if isinstance(value, nn.Module):
        plain = {k: v for k, v in vars(value).items() if isinstance(v, (bool, int, float, str))}
        structure = re.sub("0x[0-9a-f]+", "", repr(value))
        return [structure, list(value.named_parameters()), list(value.named_buffers()), plain]
    if isinstance(value, NeuralNet):
        return getattr(value, "module_", value.module)
    if hasattr(value, "net_") and hasattr(type(value), "student_"):  # fitted, of this library
        return value.student_
    if isinstance(value, (np.random.RandomState, np.random.Generator, torch.Generator)):
        return None  # the state of a generator does not identify the fit
    if isinstance(value, (BaseEstimator, Callback)):
        names = inspect.signature(type(value)).parameters
        given = {name: getattr(value, name) for name in names if hasattr(value, name)}
        if isinstance(value, BaseEstimator):
            given |= value.get_params(deep=False)
        return {name: v for name, v in given.items() if name not in _WITHOUT_EFFECT}
    return {name: v for name, v in getattr(value, "__dict__", {}).items() if not name.startswith("__")}
