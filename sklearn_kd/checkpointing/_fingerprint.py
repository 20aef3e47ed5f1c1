"""A digest of all that determines a fit, the same in every process.

Of a parameter that cannot be described in full, such as a compiled function, the name counts.
"""

from __future__ import annotations

import hashlib
import inspect
import re
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
from sklearn_kd.inputs._torch_datasets import DatasetRows, Fetcher
from sklearn_kd.runtime._random_state import preserved_random_state

# Parameters that change nothing of what comes out.
_NO_MATTER = {"verbose", "n_jobs", "checkpoint_dir", "keep_teacher"}
# So many rows of a Dataset stand for it, with all labels.
_N_SAMPLES = 4


def digest_of(**parts: Any) -> str:
    """Return a digest of named values, 24 hexadecimal digits."""
    found = hashlib.sha256()
    for name, value in parts.items():
        found.update(f"{name}\n".encode())
        _describe(value, found.update, depth=0)
    return found.hexdigest()[:24]


def parameters_of(estimator: BaseEstimator) -> dict[str, Any]:
    """The parameters that matter, by name; those of nested estimators are described with them."""
    # What was drawn from random_state counts, and the device that is used.
    unnamed = _NO_MATTER | {"random_state", "device"}
    return {name: v for name, v in estimator.get_params(deep=False).items() if name not in unnamed}


def samples_of(rows: DatasetRows, collate_fn=None) -> Tensor:
    """Return a few rows of a Dataset, read under one random state."""
    places = np.unique(np.linspace(0, len(rows) - 1, _N_SAMPLES).astype(int)).tolist()
    with preserved_random_state(torch.device("cpu"), seed=0):
        return Fetcher(rows, collate_fn)[places][0]


def _describe(value, say, depth):
    """Tell ``say`` the bytes that stand for a value."""
    say(f"{type(value).__module__}.{type(value).__qualname__}(".encode())
    if depth < 20:  # beyond, it holds itself
        _describe_inside(value, partial(_describe, say=say, depth=depth + 1), say)
    say(b")")


def _describe_inside(value, describe, say):
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.device, torch.dtype)):
        say(repr(value).encode())
    elif isinstance(value, (np.ndarray, np.generic)):
        _describe_array(np.asarray(value), describe, say)
    elif isinstance(value, Tensor):
        hash_tensor(say, value)
    elif isinstance(value, PathLike):
        say(str(value).encode())
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
    elif isinstance(value, (type, ModuleType, BuiltinFunctionType)):
        say(f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value)}".encode())
    elif isinstance(value, (FunctionType, MethodType, partial, CodeType)):
        _describe_function(value, describe)
    else:
        describe(_state_of(value))


def _describe_array(array, describe, say):
    say(f"{array.dtype.str}{array.shape}".encode())
    if array.dtype.hasobject:
        describe(array.ravel().tolist())
    else:
        say(np.ascontiguousarray(array).data if array.size else b"")


def _describe_function(function, describe):
    if isinstance(function, partial):
        describe([function.func, function.args, function.keywords])
    elif isinstance(function, MethodType):
        describe([function.__func__, function.__self__])
    elif isinstance(function, CodeType):
        # Not its line numbers, which an edit elsewhere moves.
        describe([function.co_code, function.co_names, function.co_consts])
    else:
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
        named = [function.__module__, function.__qualname__, function.__code__, function.__defaults__]
        describe([*named, function.__kwdefaults__, cells])


def _state_of(value) -> Any:
    """Return the values that an object of any other class consists of."""
    if isinstance(value, nn.Module):
        plain = {k: v for k, v in vars(value).items() if isinstance(v, (bool, int, float, str))}
        structure = re.sub("0x[0-9a-f]+", "", repr(value))
        return [structure, list(value.named_parameters()), list(value.named_buffers()), plain]
    if isinstance(value, NeuralNet):
        return getattr(value, "module_", value.module)
    if hasattr(value, "net_") and hasattr(type(value), "student_"):  # fitted, of this library
        return value.student_
    if isinstance(value, (np.random.RandomState, np.random.Generator, torch.Generator)):
        return None  # where it stands tells nothing of the fit that it is for
    if isinstance(value, (BaseEstimator, Callback)):
        names = inspect.signature(type(value)).parameters
        given = {name: getattr(value, name) for name in names if hasattr(value, name)}
        if isinstance(value, BaseEstimator):
            given |= value.get_params(deep=False)
        return {name: v for name, v in given.items() if name not in _NO_MATTER}
    return {name: v for name, v in getattr(value, "__dict__", {}).items() if not name.startswith("__")}
