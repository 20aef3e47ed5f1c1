"""Keep the rows of sparse matrices sparse until they become batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

# Most bytes of dense rows to predict at a time.
_PART = 2**25


class SparseRows:
    """Rows of a sparse matrix, with the length, shape and indexing of an array.

    Parameters
    ----------
    matrix : scipy sparse array or matrix, CSR
        Float32, of shape (n, n_features).
    """

    ndim = 2

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (n, n_features)."""
        return self.matrix.shape

    @property
    def values(self) -> np.ndarray:
        """The stored numbers."""
        return self.matrix.data

    @property
    def nbytes(self) -> int:
        """Memory of the matrix in bytes."""
        return self.matrix.data.nbytes + self.matrix.indices.nbytes + self.matrix.indptr.nbytes

    def __len__(self) -> int:
        return self.matrix.shape[0]

    def __getitem__(self, places: Any) -> SparseRows:
        """Return the rows of a slice, or at these indices."""
        return SparseRows(self.matrix[places])

    def described(self) -> list[Any]:
        """Return the shape and contents, by which a checkpoint recognises the rows."""
        return [self.shape, self.matrix.data, self.matrix.indices, self.matrix.indptr]

    def dense(self, places: slice | np.ndarray = slice(None)) -> Tensor:
        """Return some rows as a new dense float32 tensor."""
        return torch.from_numpy(self.matrix[places].toarray())

    def dense_parts(self, most: int) -> Iterator[Tensor]:
        """Yield all rows dense, in order, at most ``most`` rows and about 32 MiB at a time."""
        n_rows = max(1, min(most, _PART // (4 * self.shape[1])))
        for start in range(0, len(self), n_rows):
            yield self.dense(slice(start, start + n_rows))


def sparse_rows(matrix: Any) -> SparseRows:
    """Convert any sparse matrix to rows: CSR, float32, with duplicate entries summed.

    The memory is shared if the matrix already has this form.
    """
    with np.errstate(over="ignore"):  # overflow becomes infinity, which is checked
        rows = sparse.csr_array(matrix, dtype=np.float32)
    if not rows.has_canonical_format:
        rows = rows.copy()  # the original may be the user's own
        rows.sum_duplicates()
    return SparseRows(rows)


def stacked_rows(rows: Sequence[SparseRows]) -> SparseRows:
    """Return the rows of several sparse matrices, one after another."""
    return SparseRows(sparse.vstack([part.matrix for part in rows], format="csr"))
