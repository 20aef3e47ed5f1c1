"""The trained student's logits for further rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sklearn_kd.inputs._data import as_tensor
from sklearn_kd.inputs._torch_datasets import DatasetRows, is_dataset, make_ordered_loader
from sklearn_kd.inputs._validation import check_sample_shape, validate_predict_inputs
from sklearn_kd.runtime._memory import explain_out_of_memory, format_weights_size, memory_advice
from sklearn_kd.teachers._cached import PREDICTION_BATCH
from sklearn_kd.training._divergence import refuse_overflow

if TYPE_CHECKING:
    from sklearn_kd.estimators._base import BaseDistiller
    from sklearn_kd.training._net import TrainingNet


def student_logits(estimator: BaseDistiller, X: Any, loader: Mapping[str, Any]) -> Tensor:
    """Return the logits of all rows, shape (n, n_outputs), on the CPU.

    Parameters
    ----------
    estimator : BaseDistiller
        Fitted.
    X : array-like or Dataset
    loader : mapping
        Settings of the DataLoader that reads a Dataset.
    """
    if is_dataset(X):
        return torch.cat([logits for logits, _ in iter_logits(estimator, X, loader)])
    rows = as_tensor(validate_predict_inputs(estimator, X, estimator._sample_shape))
    net = estimator.net_
    n_rows = max(net.batch_size, PREDICTION_BATCH)
    net.module_.eval()
    with _explain_out_of_memory(net, n_rows), torch.inference_mode():
        logits = torch.cat([net.module_(x.to(net.device)) for x in rows.split(n_rows)]).float().cpu()
    return refuse_overflow(logits)


def iter_logits(
    estimator: BaseDistiller, dataset: Any, loader: Mapping[str, Any], labelled: bool = False
) -> Iterator[tuple[Tensor, Any]]:
    """Yield (logits, labels or None) of a Dataset, a batch at a time."""
    rows, net = DatasetRows(dataset, loader.get("collate_fn")), estimator.net_
    check_sample_shape(rows, estimator._sample_shape, "X", estimator)
    net.module_.eval()
    for x, labels, _ in make_ordered_loader(rows, labelled=labelled, **loader):
        # Not around the loader: a Dataset may keep what it makes, to be trained on later.
        with _explain_out_of_memory(net, len(x)), torch.inference_mode():
            logits = net.module_(x.to(net.device).float()).float().cpu()
        yield refuse_overflow(logits), labels


def _explain_out_of_memory(net: TrainingNet, n_rows: int) -> AbstractContextManager[None]:
    """Name batches of ``n_rows`` rows where memory runs out inside."""
    ways = f"X as a Dataset with iterator_valid__batch_size below {n_rows}", "fewer rows at a time"

    def situation() -> str:
        weights = format_weights_size([net.module_])
        held = f"batch_size={net.batch_size} and weights of {weights} on {net.device}"
        return f"{held}; no teacher logits are cached"

    advice = memory_advice(torch.device(net.device), *ways)
    return explain_out_of_memory(f"predicting in batches of {n_rows} rows", situation, advice)
