"""Write the weights of modules as tensors, and load them after checking that they fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sklearn_kd.files._values import ContentError
from sklearn_kd.inputs._parts import row_shape_of
from sklearn_kd.persistence._codecs import STUDENTS, finite_number
from sklearn_kd.runtime._finite import has_finite_state
from sklearn_kd.students._standardize import own_student


def module_tensors(module: nn.Module, name: str) -> dict[str, Tensor]:
    """Return the state of a module as tensors ``name.KEY``.

    Raises
    ------
    TypeError
        If a part of the state is not a tensor.
    """
    state = module.state_dict()
    other = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if other:
        raise TypeError(
            f"{name} {type(module).__name__} has state that is not a tensor: {other}. A file without code "
            "can hold only tensors. Keep such state in buffers."
        )
    return {f"{name}.{key}": value for key, value in state.items()}


def take_weights(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the state of a module and remove its tensors from ``tensors``."""
    keys = sorted(key for key in tensors if key.startswith(f"{name}."))
    return {key[len(name) + 1 :]: tensors.pop(key) for key in keys}


def check_sizes(params: Any, weights: Mapping[str, Tensor], name: str) -> None:
    """Refuse parameters too large for the weights in the file, before a module is built from them.

    A width must be the size of some tensor. A depth, or the length of a list of widths, is at most the number
    of tensors.

    Raises
    ------
    ContentError
        If a size is too large. The message names it and the largest size that the weights allow.
    """
    sizes = [size for tensor in weights.values() if tensor.numel() for size in tensor.shape]
    largest, most = max([len(weights), *sizes], default=0), len(weights)
    waiting = list(params.items()) if isinstance(params, dict) else [("", params)]
    while waiting:
        key, value = waiting.pop()
        parts = list(value.values()) if isinstance(value, dict) else value
        is_list = isinstance(parts, (list, tuple))
        size = len(parts) if isinstance(parts, (list, tuple, str)) else parts
        is_depth = (is_list and not isinstance(value, dict)) or key == "depth"
        if isinstance(size, int) and abs(size) > max(most if is_depth else largest, 100):
            known = (
                f"the file has {most:,} tensors"
                if is_depth
                else f"no tensor in the file is larger than {largest:,}"
            )
            raise ContentError(f"{name} of size {size:,}, but {known}")
        if is_list:
            waiting.extend((key, part) for part in parts)


def check_scaling(limit: Any, weights: Mapping[str, Tensor], sample_shape: tuple[Any, ...]) -> None:
    """Refuse a layer that standardises rows of another shape, before it takes memory.

    Raises
    ------
    ContentError
        If its limit is not a number above 0, or it does not have one number for each column.
    """
    if finite_number(limit) <= 0:
        raise ContentError(f"a limit of standardised values of {limit}, which must be above 0")
    found = [tuple(weights[key].shape) for key in ("scaling.center", "scaling.factor") if key in weights]
    if found != [tuple(sample_shape)] * 2 or len(sample_shape) != 1 or row_shape_of(sample_shape) is not None:
        raise ContentError(
            f"standardize: center and factor of shapes {found}, samples of shape {sample_shape}"
        )


def load_weights(module: nn.Module, weights: dict[str, Tensor], name: str) -> nn.Module:
    """Load weights into a module, and return it in evaluation mode.

    Raises
    ------
    ContentError
        If names, shapes, types or values of the weights are wrong.
    """
    check_fits(module, weights, name)
    if type(own_student(module)) in STUDENTS.values():
        # load_state_dict searches all weights for each layer, which takes minutes for thousands of layers.
        for key, value in module.state_dict().items():
            value.copy_(weights[key])
    else:
        module.load_state_dict(weights)
    if not has_finite_state([module]):
        broken = [key for key, w in weights.items() if w.is_floating_point() and not torch.isfinite(w).all()]
        raise ContentError(f"weights of the {name} that are not finite: {_some(broken)}")
    return module.eval()


def check_fits(module: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Refuse the weights of another network.

    Raises
    ------
    ContentError
        If weights are missing, unexpected, or of another shape or type. The message names them.
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
        raise ContentError(f"weights that do not fit the {name} {type(own_student(module)).__name__}. {said}")


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
