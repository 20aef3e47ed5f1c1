"""The trained student's logits for further rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sklearn_kd.estimators._routed_parameters import loader_settings
from sklearn_kd.inputs._data import as_tensor
from sklearn_kd.inputs._torch_datasets import DatasetRows, is_dataset, make_ordered_loader
from sklearn_kd.inputs._validation import check_sample_shape, validate_predict_inputs
from sklearn_kd.runtime._global_lock import torch_state_lock
from sklearn_kd.runtime._memory import explain_out_of_memory, format_weights_size, memory_advice
from sklearn_kd.runtime._operations import operations_of
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.runtime._snapshots import BufferSnapshot
from sklearn_kd.runtime._threads import threads_for
from sklearn_kd.teachers._cached import PREDICTION_BATCH
from sklearn_kd.training._divergence import refuse_overflow

if TYPE_CHECKING:
    from sklearn_kd.estimators._base import BaseDistiller
    from sklearn_kd.training._net import TrainingNet


def student_logits(estimator: BaseDistiller, X: Any) -> Tensor:
    """Return the logits of all rows, shape (n, n_outputs), on the CPU.

    Parameters
    ----------
    estimator : BaseDistiller
        Fitted.
    X : array-like or Dataset
    """
    if is_dataset(X):
        loader = loader_settings(estimator, "iterator_valid")
        return torch.cat([logits for logits, _ in iter_logits(estimator, X, loader)])
    rows = as_tensor(validate_predict_inputs(estimator, X, estimator._sample_shape))
    net = estimator.net_
    n_rows = max(net.batch_size, PREDICTION_BATCH)
    _set_evaluation_mode(net.module_)
    if len(rows) <= n_rows:
        return refuse_overflow(_logits_of_batch(net, rows, n_rows))
    return refuse_overflow(torch.cat([_logits_of_batch(net, x, n_rows) for x in rows.split(n_rows)]))


def iter_logits(
    estimator: BaseDistiller, dataset: Any, loader: Mapping[str, Any], labelled: bool = False
) -> Iterator[tuple[Tensor, Any]]:
    """Yield (logits, labels or None) of a Dataset, a batch at a time."""
    rows, net = DatasetRows(dataset, loader.get("collate_fn")), estimator.net_
    check_sample_shape(rows, estimator._sample_shape, "X", estimator)
    _set_evaluation_mode(net.module_)
    for x, labels, _ in make_ordered_loader(rows, labelled=labelled, **loader):
        yield refuse_overflow(_logits_of_batch(net, x, len(x))), labels


def _set_evaluation_mode(student: nn.Module) -> None:
    # A fit ends in it; to look takes a third of the time of ``eval()``. A frozen TorchScript module has none.
    if any(getattr(part, "training", False) for part in student.modules()):
        student.eval()


def _logits_of_batch(net: TrainingNet, x: Tensor, n_rows: int) -> Tensor:
    """Return the student's logits of a batch, float32, on the CPU.

    ``n_rows``, the rows of a full batch, are for the message where memory runs out.
    """
    try:
        x = x.to(net.device, torch.float32)
        if net.row_operations_ is None:
            net.row_operations_ = _row_operations(net.module_, x[:1])
        with threads_for(net.row_operations_ * len(x)), torch.inference_mode():
            return net.module_(x).to("cpu", torch.float32)
    except (RuntimeError, MemoryError):
        with _explain_out_of_memory(net, n_rows):
            raise


def _row_operations(student: nn.Module, row: Tensor) -> float:
    """Return the size of the student's largest operation for a row, found by a pass of its own.

    So all predictions for the same rows run on the same number of threads, and agree to the bit. The pass
    leaves no trace in the student's buffers. Nor does it in the random generators, but where another thread
    fits: that has seeded them, and they are not to be restored under it.
    """
    if row.device.type != "cpu":
        return math.inf
    lock = torch_state_lock()
    free = lock.acquire(blocking=False)  # a prediction never waits for a fit
    try:
        generators = preserved_random_state(row.device) if free else nullcontext()
        with generators, BufferSnapshot(list(student.modules())), torch.no_grad():
            return operations_of(lambda: student(row), student.modules())
    finally:
        if free:
            lock.release()


def _explain_out_of_memory(net: TrainingNet, n_rows: int) -> AbstractContextManager[None]:
    """Name batches of ``n_rows`` rows where memory runs out inside."""
    ways = f"X as a Dataset with iterator_valid__batch_size below {n_rows}", "fewer rows at a time"

    def situation() -> str:
        weights = format_weights_size([net.module_])
        held = f"batch_size={net.batch_size} and weights of {weights} on {net.device}"
        return f"{held}; no teacher logits are cached"

    advice = memory_advice(torch.device(net.device), *ways)
    return explain_out_of_memory(f"predicting in batches of {n_rows} rows", situation, advice)
