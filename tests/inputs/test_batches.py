"""Batches go on from a state_dict exactly where they were."""

from itertools import islice

import pytest
import torch
from torch.utils.data import TensorDataset

from sklearn_kd.inputs._batches import (
    AugmentedBatches,
    BatchOrder,
    CyclicBatches,
    LoadedBatches,
    TensorBatches,
    check_batches_state,
    rows_per_batch,
)
from sklearn_kd.inputs._data import DistillationData, LoadedData
from sklearn_kd.inputs._torch_datasets import DatasetRows

X = torch.arange(22.0).reshape(11, 2)


def tensor_batches():
    return TensorBatches(DistillationData(X, seed=3), batch_size=4, shuffle=True)


def loaded_batches():
    data = LoadedData(DatasetRows(TensorDataset(X)), DistillationData(X).targets, seed=3)
    return LoadedBatches(data, batch_size=4, shuffle=True)


def augmented_batches():
    return AugmentedBatches(tensor_batches(), lambda x: x + 1)


KINDS = {"tensors": tensor_batches, "a Dataset": loaded_batches, "augmented": augmented_batches}


def rows_of(batches):
    return [batch[0][:, 0].tolist() for batch in batches]


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_passes_are_the_same(kind):
    batches, again = KINDS[kind](), KINDS[kind]()
    first = rows_of(batches)
    state = batches.state_dict()
    check_batches_state(state)
    expected = [rows_of(batches) for _ in range(3)]
    again.load_state_dict(state)
    assert [rows_of(again) for _ in range(3)] == expected
    assert first not in expected
    again.load_state_dict(state)
    assert rows_of(again) == expected[0]


@pytest.mark.parametrize("kind", ["tensors", "a Dataset"])
@pytest.mark.parametrize("n_taken", [0, 1, 3, 5])
def test_cyclic_batches_go_on_within_a_pass(kind, n_taken):
    batches, again = CyclicBatches(KINDS[kind]), CyclicBatches(KINDS[kind])
    for _ in range(n_taken):
        next(batches)
    state = batches.state_dict()
    assert state["n_taken"] == (n_taken - 1) % 3 + 1 if n_taken else state["pass_start"] is None
    expected = [next(batches)[0].tolist() for _ in range(7)]
    next(again)
    again.load_state_dict(state)
    assert [next(again)[0].tolist() for _ in range(7)] == expected


@pytest.mark.parametrize("state", [{"order": {"generator": torch.zeros(3)}}, {"order": {}}, {"order": [1]}])
def test_states_of_no_batches_are_refused(state):
    with pytest.raises((RuntimeError, TypeError, KeyError)):
        check_batches_state(state)


def test_a_single_last_row_joins_the_batch_before_it():
    order = BatchOrder(9, batch_size=4)
    assert list(islice(order, 3)) == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]
    assert list(BatchOrder(9, batch_size=4, drop_last=True)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert list(BatchOrder(9, batch_size=-1)) == [list(range(9))]


@pytest.mark.parametrize(
    ("n_rows", "size"), [(3, 32), (150, 32), (569, 64), (1257, 128), (1797, 256), (10**6, 256), (None, 256)]
)
def test_auto_takes_an_eighth_of_the_rows_within_bounds(n_rows, size):
    assert rows_per_batch("auto", n_rows) == size


def test_a_given_batch_size_stays():
    assert rows_per_batch(7, 10**6) == 7
