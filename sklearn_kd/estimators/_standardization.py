"""Fit the affine layer that ``standardize=True`` puts in front of a student, on the rows of D_train."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sklearn_kd.estimators._routed_parameters import loader_settings
from sklearn_kd.inputs._data import DistillationData, LoadedData
from sklearn_kd.inputs._sparse_data import SparseData
from sklearn_kd.inputs._torch_datasets import make_ordered_loader
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.students._standardize import Standardization, fit_scaling, stride_of
from sklearn_kd.students._standardize_sparse import fit_sparse_scaling

if TYPE_CHECKING:
    from sklearn_kd.estimators._classifier import DistilledClassifier
    from sklearn_kd.estimators._distpro import DistProClassifier

# How many numbers to read at a time: 1 MiB as float64.
_CHUNK = 2**17


def scaling_for(
    estimator: DistilledClassifier | DistProClassifier, train: DistillationData
) -> Callable[[], Standardization | None] | None:
    """Return a function that fits the layer to D_train; None with ``standardize=False``."""
    if not estimator.standardize:
        return None
    return partial(scaling_of, train, loader_settings(estimator, "iterator_train"))


def scaling_of(train: DistillationData, loader: Mapping[str, Any]) -> Standardization | None:
    """Return the layer for the rows of D_train; None if they are not a table.

    Parameters
    ----------
    train : DistillationData
        Read once, in chunks. Rows of weight 0 are not in it; the others count alike.
    loader : mapping
        Settings of the DataLoader that reads a Dataset.
    """
    if not isinstance(train.samples, Tensor) or train.samples.ndim != 2:
        return None
    if isinstance(train, SparseData):
        return fit_sparse_scaling(train.rows.matrix).to(train.device)
    n_rows, n_features = len(train), train.samples.shape[1]
    with preserved_random_state(train.device, seed=0):  # a Dataset may draw random numbers
        return fit_scaling(_chunks(train, loader), stride_of(n_rows, n_features), n_features).to(train.device)


def _chunks(train: DistillationData, loader: Mapping[str, Any]) -> Iterator[Tensor]:
    if isinstance(train, LoadedData):
        yield from (x.float() for x, _, _ in make_ordered_loader(train.rows, **loader))
        return
    n_rows = max(1, _CHUNK // train.samples.shape[1])
    for start in range(0, len(train), n_rows):
        yield train.batch(slice(start, start + n_rows))[0]
