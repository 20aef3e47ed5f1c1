"""Read state dicts from files of weights, in the layouts in which they are published."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sklearn_kd.files._limits import TooLargeError
from sklearn_kd.files._tensors import load_tensors

# Keys under which other libraries' checkpoints store the network's state dict.
_KEYS = ("model", "state_dict", "model_state_dict", "net")
# Prefixes that nn.DataParallel and torch.compile add to every name.
_PREFIXES = ("module.", "_orig_mod.")


def read_state_dict(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Return the state dict in a file of ``torch.save``. No code in the file is run.

    The file holds the state dict itself, or a dict with it under "model", "state_dict", "model_state_dict"
    or "net". The prefixes "module." of a parallel network and "_orig_mod." of a compiled one are removed.

    Parameters
    ----------
    path : str or path-like

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds no state dict, or several.
    """
    content = _read(path)
    weights = content if _is_state_dict(content) else _inner_state_dict(content, path)
    while prefix := _prefix(weights):
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def check_finite(network: nn.Module, weights: Mapping[str, Tensor], path: str | PathLike[str]) -> None:
    """Raise ValueError, naming a tensor, if weights have NaN, infinity or complex numbers.

    Numbers too large for the type of the network's weights count as infinite. Buffers may have such numbers
    if the network's own buffer has them too, as attention masks do.

    Parameters
    ----------
    network : nn.Module
        The network to load the weights into.
    weights : mapping of str to Tensor
    path : str or path-like
        The file of the weights.
    """
    buffers = {name for name, buffer in network.named_buffers() if not _is_finite(buffer)}
    own = network.state_dict()
    for name, weight in weights.items():
        if weight.is_complex() and name in own and not own[name].is_complex():
            raise ValueError(f"{path} has complex numbers in {name}, but the network's are real.")
    bad = [
        name
        for name, weight in weights.items()
        if name not in buffers and not _is_finite(weight.to(own[name].dtype) if name in own else weight)
    ]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise ValueError(
            f"{path} has NaN or infinity in {bad[0]}{more}. The network diverged when it was trained, or the "
            "file is damaged. Give the file of an earlier epoch."
        )


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _prefix(weights: dict[str, Tensor]) -> str | None:
    """Return the prefix common to all names, or None."""
    common = (prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in weights))
    return next(common, None) if weights else None


def _read(path: str | PathLike[str]) -> Any:
    try:
        return load_tensors(Path(path).read_bytes())
    except (OSError, ImportError):
        raise
    except TooLargeError as error:
        raise ValueError(
            f"{path} is refused: {error}. Save the weights again, each tensor with its own numbers: "
            "torch.save({name: w.clone() for name, w in network.state_dict().items()}, path)."
        ) from error
    except Exception as error:  # the reader may raise any error for an arbitrary file
        raise ValueError(
            f"{path} cannot be read as a state dict ({type(error).__name__}). Give a file written by "
            "torch.save(network.state_dict(), path)."
        ) from error


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    )


def _inner_state_dict(content: Any, path: str | PathLike[str]) -> dict[str, Tensor]:
    """Return the only state dict inside the dict of a checkpoint."""
    inside = content if isinstance(content, dict) else {}
    found = [key for key in _KEYS if inside.get(key) and _is_state_dict(inside[key])]
    if len(found) == 1:
        return inside[found[0]]
    if found:
        raise ValueError(
            f"{path} holds several state dicts, under {found}. Write the one that you mean to its own file: "
            f"torch.save(torch.load(path, weights_only=True)[{found[0]!r}], new_path)."
        )
    keys = f" with the keys {list(inside)[:4]}" if inside else ""
    raise ValueError(
        f"{path} holds a {type(content).__name__}{keys}, not a state dict of names and tensors, and none "
        f"under {', '.join(map(repr, _KEYS))}. Write the state dict alone: "
        "torch.save(network.state_dict(), path)."
    )
