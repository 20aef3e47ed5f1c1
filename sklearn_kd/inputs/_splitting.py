"""From validated inputs to D_train and D_val on the device."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.utils import check_random_state

from sklearn_kd.inputs._data import DistillationData, LoadedData, SplitData, as_tensor
from sklearn_kd.inputs._torch_datasets import DatasetRows
from sklearn_kd.inputs._validation import Rows, ValidatedInputs, ValidationRows
from sklearn_kd.runtime._memory import explain_out_of_memory, format_mebibytes, memory_advice
from sklearn_kd.tasks._targets import Targets


class HoldOut(NamedTuple):
    """The share of X that is held out as D_val where none is given.

    Attributes
    ----------
    fraction : float
        Share of the rows.
    seed : int
        Of the split.
    otherwise : str
        What a message says needs no D_val.
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
        None: D_val is the given one, or there is none. A given one is always used.
    train_seed, valid_seed : int
        Of the order in which batches are drawn.
    device : torch.device
    batch_size : int
        For messages where memory runs out.
    """
    places, held_out = _split_places(inputs, hold_out)
    weight, valid = inputs.weight, inputs.valid

    def situation() -> str:
        return f"batch_size={batch_size} and {_rows_to_copy(inputs, device)}"

    advice = memory_advice(device, "X as a Dataset, whose rows are copied batch by batch")
    with explain_out_of_memory("copying the data", situation, advice):
        codes = inputs.codes
        train = make_data(inputs.rows[places], codes[places], at(weight, places), train_seed, device)
        if held_out is not None:
            valid = ValidationRows(inputs.rows[held_out], codes[held_out], at(weight, held_out))
        if valid is None:
            return SplitData(train, None), places
        return SplitData(train, make_data(*valid, valid_seed, device)), places


def _split_places(inputs: ValidatedInputs, hold_out: HoldOut | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the places of D_train's rows in X, and of D_val's where it is held out, else None."""
    weight = inputs.weight
    places = np.arange(len(inputs.codes)) if weight is None else np.flatnonzero(weight)
    if inputs.valid is not None or hold_out is None:
        return places, None
    rng = check_random_state(hold_out.seed)
    codes = inputs.codes[places]
    train, held_out = inputs.task.split(codes, hold_out.fraction, rng, hold_out.otherwise)
    return places[train], places[held_out]


def make_data(
    rows: Rows, codes: np.ndarray, weight: np.ndarray | None, seed: int, device: torch.device
) -> DistillationData:
    """Copy rows and targets to the device; rows of a Dataset are copied batch by batch later.

    Weights are scaled to mean 1.
    """
    if weight is not None:
        scaled = as_tensor((weight / weight.mean()).astype(np.float32), device)
    targets = Targets(as_tensor(codes, device), None, None if weight is None else scaled)
    if isinstance(rows, DatasetRows):
        return LoadedData(rows, targets, seed)
    return DistillationData(as_tensor(rows, device), targets, seed)


def at(values: Any, places: Any) -> Any:
    """Return ``values[places]``, or None for None."""
    return None if values is None else values[places]


def _rows_to_copy(inputs: ValidatedInputs, device: torch.device) -> str:
    logits = 4 * len(inputs.rows) * inputs.task.n_outputs
    return (
        f"data of {format_mebibytes(getattr(inputs.rows, 'nbytes', 0))} to be copied to {device}, where "
        f"cached teacher logits will take {format_mebibytes(logits)}"
    )
