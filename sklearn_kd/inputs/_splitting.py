"""Split validated inputs into D_train and D_val on the device."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from sklearn_kd.inputs._data import DistillationData, LoadedData, SplitData, as_tensor, take
from sklearn_kd.inputs._large_arrays import parts
from sklearn_kd.inputs._parts import Parts, shared_rows
from sklearn_kd.inputs._raw_rows import RawRows
from sklearn_kd.inputs._sparse_data import SparseData
from sklearn_kd.inputs._sparse_rows import SparseRows
from sklearn_kd.inputs._stream_data import StreamData
from sklearn_kd.inputs._torch_datasets import DatasetRows
from sklearn_kd.inputs._validation import ValidatedInputs, ValidationRows
from sklearn_kd.runtime._memory import explain_out_of_memory, format_mebibytes, memory_advice
from sklearn_kd.tasks._targets import Targets


class HoldOut(NamedTuple):
    """The share of X that is held out as D_val if none is given.

    Attributes
    ----------
    fraction : float
        Share of the rows.
    seed : int
        Seed of the split.
    otherwise : str
        Alternative without a D_val, for a message.
    """

    fraction: float
    seed: int
    otherwise: str


def split_data(
    inputs: ValidatedInputs,
    hold_out: HoldOut | None,
    *,
    train_seed: int,
    valid_seed: int,
    device: torch.device,
    batch_size: int,
) -> tuple[SplitData, np.ndarray]:
    """Return D_train and D_val, and the places in X of D_train's rows.

    Rows of weight 0 are left out.

    Parameters
    ----------
    inputs : ValidatedInputs
    hold_out : HoldOut or None
        None: hold nothing out. A given D_val is always used.
    train_seed, valid_seed : int
        Seeds of the order in which batches are drawn.
    device : torch.device
    batch_size : int
        Named in messages if memory runs out.
    """
    places, held_out = split_places(inputs, hold_out)
    valid = inputs.valid

    def situation() -> str:
        return f"batch_size={batch_size} and {_rows_to_copy(inputs, device)}"

    advice = memory_advice(device, "X as a Dataset, whose rows are copied batch by batch")
    with explain_out_of_memory("copying the data", situation, advice):
        given = ValidationRows(inputs.rows, inputs.codes, inputs.weight)
        train = make_data(given, train_seed, device, places)
        if inputs.stream is not None:
            train = StreamData(train, inputs.stream)
        if held_out is not None:
            return SplitData(train, make_data(given, valid_seed, device, held_out)), places
        if valid is None:
            return SplitData(train, None), places
        counting = None if valid.weight is None else np.flatnonzero(valid.weight)
        return SplitData(train, make_data(valid, valid_seed, device, counting)), places


def split_places(inputs: ValidatedInputs, hold_out: HoldOut | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the places in X of D_train's rows, and of D_val's if it is held out, else None."""
    weight, codes = inputs.weight, inputs.codes
    counting = None if weight is None else np.flatnonzero(weight)
    if inputs.valid is not None or hold_out is None:
        return np.arange(len(codes)) if counting is None else counting, None
    if counting is not None:
        codes = codes[counting]
    rng = check_random_state(hold_out.seed)
    groups = inputs.groups if counting is None else at(inputs.groups, counting)
    train, held_out = inputs.task.split(codes, hold_out.fraction, rng, hold_out.otherwise, groups)
    return (train, held_out) if counting is None else (counting[train], counting[held_out])


def make_data(
    given: ValidationRows, seed: int, device: torch.device, places: np.ndarray | None = None
) -> DistillationData:
    """Return rows with their targets as a data set.

    On a CPU the data set shares the whole arrays without a copy; on other devices it copies its rows. Rows
    of a Dataset are copied later, batch by batch. Weights are scaled to mean 1.

    Parameters
    ----------
    given : ValidationRows
    seed : int
        Seed of the order of the batches.
    device : torch.device
    places : ndarray or None, default=None
        Indices of the rows to take. None: all.
    """
    rows, codes, weight = given
    assert not isinstance(rows, RawRows)  # student_preprocessing has converted them to numbers
    if places is not None and len(places) == len(codes) and (np.diff(places) == 1).all():
        places = None
    scaled = None
    if weight is not None:
        mean = weight.mean() if places is None else weight[places].mean()
        scaled = as_tensor((weight / mean).astype(np.float32))
    labels, index = as_tensor(_in_student_type(codes)), None if places is None else torch.from_numpy(places)
    if isinstance(rows, np.ndarray | Parts) and device.type == "cpu":
        return DistillationData(shared_rows(rows), Targets(labels, None, scaled), seed, index)
    if index is not None:
        labels = take(labels, index)
        scaled = None if scaled is None else take(scaled, index)
    targets = Targets(labels.to(device), None, None if scaled is None else scaled.to(device))
    if isinstance(rows, DatasetRows):
        return LoadedData(rows if places is None else rows[places], targets, seed)
    if isinstance(rows, SparseRows):
        return SparseData(rows if places is None else rows[places], targets, seed)
    return DistillationData(_copied_to(device, shared_rows(rows), index), targets, seed)


def _in_student_type(codes: np.ndarray) -> np.ndarray:
    """Return encoded targets in the student's type: numbers as float32, class codes as they are."""
    return codes.astype(np.float32, copy=False) if codes.dtype.kind == "f" else codes


def _copied_to(device: torch.device, rows: Any, index: Tensor | None) -> Any:
    """Return a float32 copy of some rows on a device, made in parts."""
    if isinstance(rows, Parts):
        return (rows if index is None else take(rows, index)).to(device)
    n_rows = len(rows) if index is None else len(index)
    copy = torch.empty((n_rows, *rows.shape[1:]), dtype=torch.float32, device=device)
    for part in parts(n_rows, rows[0].nbytes):
        copy[part] = take(rows, part if index is None else index[part]).float()
    return copy


def at(values: Any, places: Any) -> Any:
    """Return ``values[places]``, or None for None."""
    return None if values is None else values[places]


def _rows_to_copy(inputs: ValidatedInputs, device: torch.device) -> str:
    logits = 4 * len(inputs.rows) * inputs.task.n_outputs
    return (
        f"data of {format_mebibytes(getattr(inputs.rows, 'nbytes', 0))} to be copied to {device}, where "
        f"cached teacher logits will take {format_mebibytes(logits)}"
    )
