"""Run the trained student on further rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_kd.estimators._routed_parameters import loader_settings
from sklearn_kd.estimators._tiles import Tiling, tiled
from sklearn_kd.inputs._arrays import from_torch
from sklearn_kd.inputs._parts import Parts, are_integers, shared_rows
from sklearn_kd.inputs._sample_shape import check_sample_shape
from sklearn_kd.inputs._sparse_rows import SparseRows
from sklearn_kd.inputs._streams import Stream
from sklearn_kd.inputs._torch_datasets import DatasetRows, is_dataset, make_ordered_loader
from sklearn_kd.inputs._validation import validate_predict_inputs
from sklearn_kd.runtime._memory import (
    explain_out_of_memory,
    format_weights_size,
    is_out_of_memory,
    memory_advice,
)
from sklearn_kd.students._checks import cannot_take_row
from sklearn_kd.tasks._pixels import images_at_a_time
from sklearn_kd.teachers._cached import PREDICTION_BATCH
from sklearn_kd.training._divergence import refuse_overflow
from sklearn_kd.training._work import threads_of_prediction

if TYPE_CHECKING:
    from sklearn_kd.estimators._base import BaseDistiller
    from sklearn_kd.training._net import TrainingNet


def student_logits(estimator: BaseDistiller, X: Any) -> Tensor:
    """Return the logits of all rows, shape (n, n_outputs), or maps of logits, on the CPU.

    Parameters
    ----------
    estimator : BaseDistiller
        Fitted.
    X : array-like, mapping or tuple of arrays, or Dataset
    """
    if is_dataset(X):
        loader = loader_settings(estimator, "iterator_valid")
        return torch.cat([logits for logits, _ in iter_logits(estimator, X, loader)])
    found = _checked(estimator, X)
    net = estimator.net_
    n_rows = _rows_at_a_time(estimator, found)
    _set_evaluation_mode(net.module_)
    if isinstance(found, SparseRows):
        return refuse_overflow(
            torch.cat([_logits_of_batch(net, x, n_rows) for x in found.dense_parts(n_rows)])
        )
    rows = shared_rows(found if isinstance(found, Parts) else np.ascontiguousarray(found))
    if len(rows) <= n_rows:
        return refuse_overflow(_logits_of_batch(net, rows, n_rows))
    return refuse_overflow(torch.cat([_logits_of_batch(net, x, n_rows) for x in rows.split(n_rows)]))


def iter_maps(estimator: BaseDistiller, X: Any, tiling: Tiling | None = None) -> Iterator[Tensor]:
    """Yield the maps of images, shape (B, n_outputs, H, W), a few images at a time.

    Parameters
    ----------
    estimator : BaseDistiller
        Fitted on maps.
    X : array-like of shape (n, channels, height, width), or Dataset
    tiling : Tiling or None, default=None
        Tiles to predict. None: whole images.
    """
    if is_dataset(X):
        loader = loader_settings(estimator, "iterator_valid")
        yield from (maps for maps, _ in iter_logits(estimator, X, loader, tiling=tiling))
        return
    found = _checked(estimator, X)
    _set_evaluation_mode(estimator.net_.module_)
    images = shared_rows(np.ascontiguousarray(found))
    for x in images.split(_rows_at_a_time(estimator, found)):
        yield refuse_overflow(_outputs_of_batch(estimator.net_, x, len(x), tiling))


def _checked(estimator: BaseDistiller, X: Any) -> Any:
    """Check X and return it in the student's form; images for maps may have any height and width."""
    if isinstance(X, Stream):
        raise TypeError("X is a Stream, which only fit takes. Predict its rows as arrays, a few at a time.")
    any_size = vars(estimator).get("map_shape_") is not None
    return validate_predict_inputs(estimator, X, sample_shape_for(estimator, X), any_size=any_size)


def _rows_at_a_time(estimator: BaseDistiller, rows: Any) -> int:
    """Return the number of rows per batch; fewer for maps of large images."""
    n_rows = max(estimator.net_.batch_size, PREDICTION_BATCH)
    if len(rows.shape) == 4 and estimator._task.map_shape:
        return images_at_a_time(tuple(rows.shape[1:]), n_rows)
    return n_rows


def _outputs_of_batch(net: TrainingNet, x: Any, n_rows: int, tiling: Tiling | None) -> Tensor:
    """Return the student's outputs for a batch, assembled from tiles if there is a tiling."""
    if tiling is None:
        return _logits_of_batch(net, x, n_rows)
    return tiled(lambda part: _logits_of_batch(net, part, n_rows), x, tiling)


def sample_shape_for(estimator: BaseDistiller, X: Any) -> tuple[Any, ...]:
    """Return the shape that samples of X must have; images for maps may have any height and width."""
    shape, fitted = estimator._sample_shape, vars(estimator)
    if fitted.get("map_shape_") is None or fitted.get("student_preprocessing_") is not None:
        return shape
    own = X.shape if hasattr(X, "shape") else np.shape(from_torch(X, "X"))
    return (shape[0], *own[2:]) if len(own) == 4 else shape


def iter_logits(
    estimator: BaseDistiller,
    dataset: Any,
    loader: Mapping[str, Any],
    labeled: bool = False,
    tiling: Tiling | None = None,
) -> Iterator[tuple[Tensor, Any]]:
    """Yield (logits, labels or None) for a Dataset, batch by batch."""
    rows, net = DatasetRows(dataset, loader.get("collate_fn")), estimator.net_
    if are_integers(estimator._sample_shape):
        rows = rows.with_integers()
    check_sample_shape(rows, sample_shape_for(estimator, rows), "X", estimator)
    _set_evaluation_mode(net.module_)
    for x, labels, _ in make_ordered_loader(rows, labeled=labeled, **loader):
        yield refuse_overflow(_outputs_of_batch(net, x, len(x), tiling)), labels


def _set_evaluation_mode(student: nn.Module) -> None:
    # A fit leaves the student in it, and checking takes a third of the time of ``eval()``. A frozen
    # TorchScript module has no such mode.
    if any(getattr(part, "training", False) for part in student.modules()):
        student.eval()


def _logits_of_batch(net: TrainingNet, x: Any, n_rows: int) -> Tensor:
    """Return the student's logits for a batch, float32, on the CPU.

    ``n_rows``, the number of rows in a full batch, is for the message if memory runs out.
    """
    try:
        # A copy: a student may change its batch, but never the user's X.
        x = x.to(net.device, torch.float32, copy=True)
        with threads_of_prediction(net, x), torch.inference_mode():
            return net.module_(x).to("cpu", torch.float32)
    except (RuntimeError, MemoryError, IndexError) as error:
        if isinstance(x, Parts) and not is_out_of_memory(error):
            raise cannot_take_row(net.module_, "X", error) from error
        with _explain_out_of_memory(net, n_rows):
            raise


def _explain_out_of_memory(net: TrainingNet, n_rows: int) -> AbstractContextManager[None]:
    """Name batches of ``n_rows`` rows if memory runs out inside."""
    ways = f"X as a Dataset with iterator_valid__batch_size below {n_rows}", "fewer rows at a time"

    def situation() -> str:
        weights = format_weights_size([net.module_])
        held = f"batch_size={net.batch_size} and weights of {weights} on {net.device}"
        return f"{held}; no teacher logits are cached"

    advice = memory_advice(torch.device(net.device), *ways)
    return explain_out_of_memory(f"predicting in batches of {n_rows} rows", situation, advice)
