"""A small student for tables with categories: embeddings of codes, together with the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sklearn_kd.inputs._integers import EXACT
from sklearn_kd.students._architectures import MLPStudent
from sklearn_kd.students._sizes import check_sizes


class TabularStudent(nn.Module):
    """A multilayer perceptron over the numbers of a table and embeddings of its codes.

    Some columns of the table hold codes of categories, 0, 1, …, as made by an ``OrdinalEncoder``. Each code
    is looked up in an embedding. The embeddings and the other columns, side by side, are the input of an
    :class:`MLPStudent`. ``standardize=True`` scales the columns of numbers and leaves the codes unchanged.

    A code outside a column's range (too large, negative, NaN or not a whole number) is looked up as
    "unknown". Each column has one more vector for such codes, which starts at zero.

    Parameters
    ----------
    in_features : int
        Columns of the table; filled in by :class:`DistilledClassifier`.
    n_classes : int
        Width of the output; filled in by :class:`DistilledClassifier`.
    categorical : mapping of int to int, or None, default=None
        Number of codes in each column of codes: ``{column: cardinality}``. Columns are counted from 0, and
        codes are below the cardinality. None: no column holds codes or, with
        ``student_preprocessing=TablePreprocessing(categories="ordinal")``, the columns that it encodes do.
    hidden : int or sequence of int, default=256
        Width of the hidden layer, or the widths of several.
    embedding_dim : int, default=8
        Length of the vector of each code.

    Attributes
    ----------
    code_columns : tuple of int
        The columns that hold codes. ``standardize=True`` leaves the columns in this attribute unchanged, for
        students of your own too.

    Raises
    ------
    ValueError
        If a column is not in the table, a cardinality is below 1 or above 2**24, beyond which float32
        cannot represent all codes, or another size is not a whole number, 1 or more.

    Examples
    --------
    Fit a table with a column of numbers and one of codes, where the code decides which sign is class True:

    >>> import numpy as np
    >>> from sklearn_kd import DistilledClassifier, TabularStudent
    >>> rng = np.random.default_rng(0)
    >>> X = np.column_stack([rng.normal(size=800), rng.integers(12, size=800)])
    >>> y = (X[:, 0] > 0) == (X[:, 1] % 2 == 0)
    >>> clf = DistilledClassifier(
    ...     None, TabularStudent, student__categorical={1: 12}, meta="none", random_state=0, device="cpu")
    >>> clf.fit(X, y).score(X, y) > 0.95
    True
    """

    constant_buffers = True  # they hold the kinds of the columns

    if TYPE_CHECKING:
        _numbers: Tensor
        _codes: Tensor
        _cardinalities: Tensor
        _starts: Tensor

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        categorical: Mapping[int, int] | None = None,
        hidden: int | Sequence[int] = 256,
        embedding_dim: int = 8,
    ):
        super().__init__()
        check_sizes(in_features=in_features, n_classes=n_classes, embedding_dim=embedding_dim)
        cardinality_of = _checked(categorical or {}, in_features)
        columns, sizes = list(cardinality_of), list(cardinality_of.values())
        numbers = [column for column in range(in_features) if column not in cardinality_of]
        self.code_columns = tuple(columns)
        starts = [0]
        for size in sizes:
            starts.append(starts[-1] + size + 1)  # one more for "unknown"
        for name, values in (
            ("_numbers", numbers),
            ("_codes", columns),
            ("_cardinalities", sizes),
            ("_starts", starts[:-1]),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.long), persistent=False)
        if columns:
            self.embedding = nn.Embedding(starts[-1], embedding_dim)
            with torch.no_grad():
                self.embedding.weight.mul_(embedding_dim**-0.5)
                self.embedding.weight[self._starts + self._cardinalities] = 0.0
        self.perceptron = MLPStudent(len(numbers) + embedding_dim * len(columns), n_classes, hidden)

    @property
    def categorical(self) -> dict[int, int]:
        """The number of codes in each column of codes."""
        return dict(zip(self.code_columns, self._cardinalities.tolist(), strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (B, n_classes) of rows of shape (B, in_features)."""
        if not self.code_columns:
            return self.perceptron(x)
        codes = x.index_select(1, self._codes)
        is_known = (codes >= 0) & (codes < self._cardinalities) & (codes == codes.floor())
        # Replace NaN and values beyond int64 before the conversion.
        known = torch.where(is_known, codes, 0).long()
        places = torch.where(is_known, known, self._cardinalities) + self._starts
        embedded = self.embedding(places).flatten(1)
        numbers = x.index_select(1, self._numbers).to(embedded.dtype)
        return self.perceptron(torch.cat([numbers, embedded], dim=1))


def _checked(categorical: Mapping[int, int], in_features: int) -> dict[int, int]:
    """Return the cardinalities by column, in the order of the columns."""
    if not isinstance(categorical, Mapping):
        raise TypeError(
            f"TabularStudent: categorical={categorical!r} must be a mapping {{column: cardinality}}, such as "
            "{0: 12, 3: 5}."
        )
    for column, size in categorical.items():
        if not isinstance(column, Integral) or not 0 <= column < in_features:
            raise ValueError(
                f"TabularStudent: categorical has the column {column!r}, but the table has columns 0 to "
                f"{in_features - 1}."
            )
        if not isinstance(size, Integral) or not 1 <= size <= EXACT:
            raise ValueError(
                f"TabularStudent: categorical gives column {column} the cardinality {size!r}; it must be a "
                f"number from 1 to {EXACT}."
            )
    return {int(column): int(categorical[column]) for column in sorted(categorical)}
