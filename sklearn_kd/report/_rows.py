"""Test rows in the user's container: counted, picked, and made the student's inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from sklearn_kd._sklearn_compat import num_samples, safe_indexing
from sklearn_kd.inputs._data import as_tensor
from sklearn_kd.inputs._torch_datasets import DatasetRows, make_ordered_loader
from sklearn_kd.inputs._validation import validate_predict_inputs
from sklearn_kd.teachers._cached import PREDICTION_BATCH


def count_rows(X: Any) -> int:
    """Return the number of rows."""
    return num_samples(X)


def indexable(X: Any) -> Any:
    """Return X, or an array of it if it is a list, whose rows cannot be picked."""
    return X if hasattr(X, "shape") else np.asarray(X)


def rows_at(X: Any, places: np.ndarray) -> Any:
    """Return some rows in the form in which X was given."""
    return safe_indexing(X, places)


def input_batches(classifier: Any, X: Any, device: torch.device) -> Iterator[torch.Tensor]:
    """Yield the student's inputs, float32 on the device, as a network teacher is given them in ``fit``."""
    rows = validate_predict_inputs(classifier, X, classifier._sample_shape, "X_test")
    for start in range(0, len(rows), PREDICTION_BATCH):
        yield as_tensor(rows[start : start + PREDICTION_BATCH], device).float()


def read_dataset(dataset: Any, settings: dict[str, Any], labelled: bool) -> tuple[np.ndarray, Any]:
    """Return all rows of a Dataset as an array, and the labels by batch, each None if not ``labelled``.

    Parameters
    ----------
    dataset : Dataset
    settings : dict
        Of the DataLoader.
    labelled : bool
    """
    rows = DatasetRows(dataset, settings.get("collate_fn"), "X_test")
    batches = list(make_ordered_loader(rows, labelled=labelled, **settings))
    return torch.cat([x for x, _, _ in batches]).numpy(), [labels for _, labels, _ in batches]
