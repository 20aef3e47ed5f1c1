"""Test rows in the user's container: count them, pick some, and convert them to the student's inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from sklearn_kd._sklearn_compat import num_samples
from sklearn_kd.inputs._parts import Parts, concatenated, shared_rows
from sklearn_kd.inputs._sparse_rows import SparseRows
from sklearn_kd.inputs._structures import is_structure, read_structure, some_rows
from sklearn_kd.inputs._torch_datasets import DatasetRows, make_ordered_loader
from sklearn_kd.inputs._validation import validate_predict_inputs
from sklearn_kd.teachers._cached import PREDICTION_BATCH


def count_rows(X: Any) -> int:
    """Return the number of rows."""
    return len(read_structure(X, "X_test")) if is_structure(X) else num_samples(X)


def indexable(X: Any) -> Any:
    """Return X, or an array if X is a list, from which rows cannot be picked."""
    return X if hasattr(X, "shape") or is_structure(X) else np.asarray(X)


def rows_at(X: Any, places: np.ndarray) -> Any:
    """Return some rows in the form in which X was given."""
    return some_rows(X, places)


def input_batches(classifier: Any, X: Any, device: torch.device) -> Iterator[torch.Tensor | Parts]:
    """Yield the student's inputs, float32 on the device, as a network teacher gets them in ``fit``."""
    rows = validate_predict_inputs(classifier, X, classifier._sample_shape, "X_test")
    for start in range(0, len(rows), PREDICTION_BATCH):
        part = rows[start : start + PREDICTION_BATCH]
        tensors = part.dense() if isinstance(part, SparseRows) else shared_rows(part)
        yield tensors.to(device).float()


def read_dataset(dataset: Any, settings: dict[str, Any], labeled: bool) -> tuple[Any, Any]:
    """Return all rows of a Dataset as an array, and the labels by batch, each None if not ``labeled``.

    Parameters
    ----------
    dataset : Dataset
    settings : dict
        Settings of the DataLoader.
    labeled : bool
    """
    rows = DatasetRows(dataset, settings.get("collate_fn"), "X_test")
    batches = list(make_ordered_loader(rows, labeled=labeled, **settings))
    read = concatenated([x for x, _, _ in batches])
    rows_read = read.map(torch.Tensor.numpy).given() if isinstance(read, Parts) else read.numpy()
    return rows_read, [labels for _, labels, _ in batches]
