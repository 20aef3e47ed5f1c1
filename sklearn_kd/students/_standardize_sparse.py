"""The layer of ``standardize=True`` for sparse rows, fitted without making all of them dense."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sklearn_kd.students._standardize import (
    Standardization,
    factor_of,
    fit_scaling,
    stride_of,
)

# Numbers that are made dense at a time.
_BLOCK = 2**20


def fit_sparse_scaling(matrix: Any) -> Standardization:
    """Return the layer that :func:`fit_scaling` would return for the same rows as a dense array.

    Columns of mostly zeros, which most are, keep their zeros: only the others are made dense, some at a time.

    Parameters
    ----------
    matrix : scipy sparse array of shape (n, n_features), CSR
        Finite numbers, without duplicates.
    """
    stride = stride_of(*matrix.shape)
    scaling = Standardization(matrix.shape[1])
    some = matrix[::stride].tocsc()
    mostly_zero = _is_mostly_zero(some)
    low, high = (extreme(axis=0).toarray().ravel() for extreme in (matrix.min, matrix.max))
    spread = _median_sizes(some, otherwise=np.maximum(high, -low))
    factor = factor_of(spread, low, high)
    scaling.factor.copy_(torch.from_numpy(np.where(mostly_zero, factor, 0)))
    scaling.center.copy_(torch.from_numpy(np.where(mostly_zero & (factor == 0), low, 0)))
    others = np.flatnonzero(~mostly_zero)
    if len(others):
        columns = matrix.tocsc()
        for start in range(0, len(others), max(1, _BLOCK // matrix.shape[0])):
            block = others[start : start + max(1, _BLOCK // matrix.shape[0])]
            rows = torch.from_numpy(columns[:, block].toarray())
            found = fit_scaling([rows], stride, len(block))
            scaling.center[block], scaling.factor[block] = found.center, found.factor
    scaling.has_fit = True
    return scaling


def _is_mostly_zero(some: Any) -> np.ndarray:
    """Return for each column whether both of its quartiles are 0."""
    quarter = (some.shape[0] - 1) // 4
    n_positive, n_negative = ((some > 0).sum(axis=0), (some < 0).sum(axis=0))
    return (np.ravel(n_positive) <= quarter) & (np.ravel(n_negative) <= quarter)


def _median_sizes(some: Any, otherwise: np.ndarray) -> np.ndarray:
    """Return the median absolute value of each column's numbers that are not 0.

    A column of zeros gets its value in ``otherwise``.
    """
    column = np.repeat(np.arange(some.shape[1]), np.diff(some.indptr))
    sizes = np.abs(some.data.astype(np.float64))
    column, sizes = column[sizes > 0], sizes[sizes > 0]
    sizes = sizes[np.lexsort((sizes, column))]
    counts = np.bincount(column, minlength=some.shape[1])
    starts, found = np.cumsum(counts) - counts, np.flatnonzero(counts)
    middle = starts[found] + (counts[found] - 1) // 2, starts[found] + counts[found] // 2
    medians = otherwise.astype(np.float64)
    medians[found] = (sizes[middle[0]] + sizes[middle[1]]) / 2
    return medians
