"""Keep the type of integer tables for students that need it, as ``nn.Embedding`` does."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from sklearn.utils.validation import validate_data
from torch import Tensor

from sklearn_kd.errors._context import error_context
from sklearn_kd.inputs._arrays import from_torch
from sklearn_kd.inputs._parts import Parts

# Types that may hold codes which float32 cannot represent.
_WIDE = (np.dtype(np.int64), np.dtype(np.int32))
# Float32 represents all integers up to this one.
EXACT = 2**24


class KeepsIntegers(Protocol):
    """Decides whether a student gets integers as they are."""

    def __call__(self, rows: Parts, n_outputs: int, /) -> bool:
        """Return the decision, from one or two rows: ``Parts`` of one integer tensor."""


def is_wide(samples: object) -> bool:
    """Return True if rows of a Dataset are a tensor of int64 or int32."""
    return isinstance(samples, Tensor) and samples.dtype in (torch.int64, torch.int32)


def wide_integers(X: Any) -> np.ndarray | None:
    """Return X as an int64 array if all of it is int64 or int32, else None.

    Parameters
    ----------
    X : array-like
        Rows of numbers, already checked.
    """
    try:
        values = np.asarray(X)
        if values.dtype == object and all(kind.kind in "iu" for kind in getattr(X, "dtypes", [])):
            values = X.to_numpy(np.int64)  # pandas' nullable integers, none missing
    except (AttributeError, TypeError, ValueError):
        return None
    if values.dtype not in _WIDE or values.ndim < 2:
        return None
    return np.ascontiguousarray(values, dtype=np.int64)


def integers_alone(values: np.ndarray) -> Parts:
    """Return integers as rows that keep their type."""
    return Parts(None, [values])


def further_integers(estimator: Any, X: Any, sizes: tuple[int, ...], name: str) -> Parts:
    """Check further rows for a student that gets integers, and return them.

    Raises
    ------
    ValueError
        If X has other features than in ``fit``, another shape, or values that are not whole numbers.
    """
    with error_context(name):
        values = validate_data(estimator, from_torch(X, name), dtype="numeric", allow_nd=True, reset=False)
    whole = np.asarray(values)
    if whole.dtype.kind == "f" and (whole == np.trunc(whole)).all():
        whole = whole.astype(np.int64)
    who = type(estimator).__name__
    if whole.dtype.kind not in "iub":
        raise ValueError(
            f"{name} holds {whole.dtype} that are not whole numbers, but {who} was fitted on integers, which "
            "its student looks up."
        )
    if whole.shape[1:] != sizes:
        raise ValueError(
            f"{name} has samples of shape {whole.shape[1:]}, but {who} was fitted on samples of shape "
            f"{sizes}."
        )
    return integers_alone(np.ascontiguousarray(whole, dtype=np.int64))
