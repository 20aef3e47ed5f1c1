"""Read tensors and tables given where arrays are expected."""

from __future__ import annotations

import re
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.errors._masked_arrays import refuse_masked


def from_torch(values: Any, name: str) -> Any:
    """Convert a tensor, or a list of tensors, to an array; return anything else as it is.

    Types that NumPy lacks, such as bfloat16, become float32, which represents all their values. So do NumPy
    types that another package defines.

    Parameters
    ----------
    values : Tensor, list or tuple of Tensor, ndarray, or anything else
    name : str
        Name in messages.

    Raises
    ------
    TypeError
        If it is sparse, quantized or nested, or its numbers cannot be read.
    ValueError
        If it is a masked array with a masked entry.
    """
    refuse_masked(values, name)
    if type(values) in (list, tuple) and values and all(isinstance(value, Tensor) for value in values):
        rows = [from_torch(value, name) for value in values]
        return np.stack(rows) if len({row.shape for row in rows}) == 1 else rows
    if isinstance(values, np.ndarray) and values.dtype.kind == "V" and values.dtype.type is not np.void:
        return values.astype(np.float32)
    if not isinstance(values, Tensor):
        return values
    _check_readable(values, name)
    try:
        values = values.detach().cpu().resolve_conj().resolve_neg()
        if values.dtype is torch.bfloat16 or (values.is_floating_point() and values.itemsize < 2):
            values = values.float()
        return values.numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise TypeError(
            f"{name} is a {type(values).__name__} of {values.dtype} on {values.device}, whose numbers cannot "
            f"be read ({str(error).strip().splitlines()[0]}). Give {name} as an array, or as a tensor that "
            "holds numbers."
        ) from error


def _check_readable(values: Tensor, name: str) -> None:
    if values.is_nested:
        kind, mend = "nested", "torch.nested.to_padded_tensor(...), all rows of one shape"
    elif values.layout is not torch.strided:
        kind, mend = "sparse", f"{name}.to_dense()"
    elif values.is_quantized:
        kind, mend = "quantized", f"{name}.dequantize()"
    else:
        return
    raise TypeError(f"{name} is a {kind} tensor, but dense numbers are required. Give {mend}.")


def column_names(values: Any) -> list | None:
    """Return the column names of a table; None if they are the default ones."""
    names = getattr(values, "column_names", getattr(values, "columns", None))
    if names is None or isinstance(values, (np.ndarray, Tensor)):
        return None
    if type(names).__name__ == "RangeIndex" and list(names) == list(range(len(names))):
        return None  # pandas
    names = names.tolist() if hasattr(names, "tolist") else list(names)
    if all(isinstance(name, str) and re.fullmatch(r"column_\d+", name) for name in names):
        return None  # polars
    return names


def refuse_path(X: Any) -> None:
    """Raise TypeError if X is the path of a file."""
    if isinstance(X, (str, PathLike)):
        raise TypeError(
            f"X is a path, {str(X)!r}. Read the file first, for example with pandas. If its rows do not fit "
            "into memory, give a Dataset or a sklearn_kd.Stream."
        )
