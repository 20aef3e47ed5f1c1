"""Compressed rows and histories: without loss, and no more memory than stated."""

import pickle
import zlib

import numpy as np
import pytest
from skorch.history import History

from helpers.parameter_ids import in_words
from sklearn_kd.files._columns import CompressedHistory, join_batches, join_rows, split_batches, split_rows
from sklearn_kd.files._compression import (
    CompressedArray,
    CompressionError,
    bytes_of,
    compress_rows,
    decompress_rows,
)

NUMBERS = np.random.default_rng(0).normal(size=100).astype(np.float32).astype(np.float64)


def test_numbers_come_back_in_less_space():
    data = compress_rows(bytes_of(NUMBERS))
    assert len(data) < 0.7 * NUMBERS.nbytes  # the lower half of each is 0
    assert decompress_rows(data, 100, 8).tobytes() == NUMBERS.tobytes()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda data: data[:-5], "end after"),
        (lambda data: data[:50], "end after"),
        (lambda data: b"", "end after 0"),
        (lambda data: data + b"more", "after the end"),
        (lambda data: b"x" + data, "cannot be decompressed"),
        (lambda data: compress_rows(bytes_of(NUMBERS[1:])), "end after 792 of 800"),
        (lambda data: compress_rows(bytes_of(np.append(NUMBERS, 1.0))), "more than the stated 800"),
        (lambda data: zlib.compress(bytes(10**8)), "more than the stated 800"),
    ],
)
def test_other_bytes_are_refused(change, message):
    with pytest.raises(CompressionError, match=message):
        decompress_rows(change(compress_rows(bytes_of(NUMBERS))), 100, 8)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)])
@pytest.mark.parametrize("dtype", ["f8", "?", [("a", "i8"), ("b", "f8", (2,)), ("c", "?")]], ids=in_words)
def test_arrays_come_back(dtype, shape):
    array = np.ones(shape, np.dtype(dtype))
    again = pickle.loads(pickle.dumps(CompressedArray(array))).array()
    assert again.dtype == array.dtype and again.shape == shape and again.tobytes() == array.tobytes()


def history():
    """Return a history whose rows have different keys, orders and types."""
    batch = {"train_loss": 0.1, "train_batch_size": 3}
    return History(
        [
            {"batches": [batch, batch | {"valid_loss": 2.0}], "epoch": 1, "loss": 0.5, "best": True},
            {"batches": [], "epoch": 2, "best": False, "loss": float("nan"), "odd": 1},
            {"batches": [{"valid_loss": -0.0}], "epoch": 3, "loss": 2, "odd": [1, None], "big": 2**70},
        ]
    )


def test_a_history_comes_back():
    again = pickle.loads(pickle.dumps(CompressedHistory(history()))).history()
    assert type(again) is History
    assert repr(again) == repr(history())  # types and the order of keys, too
    assert CompressedHistory(History()).history() == []


def test_rows_that_are_no_columns_are_refused():
    epochs, batches = split_batches(history().to_list())
    columns = split_rows(batches)
    for wrong in (
        columns._replace(layout_of_row=columns.layout_of_row[1:]),
        columns._replace(layout_of_row=columns.layout_of_row + 1),
        columns._replace(layout_of_row=columns.layout_of_row - 1),
        columns._replace(arrays={}),
        columns._replace(others={"train_loss": []}),
        columns._replace(arrays=columns.arrays | {"train_loss": np.zeros(1)}),
    ):
        with pytest.raises(ValueError, match=r"key|layout|values"):
            join_rows(wrong)
    with pytest.raises(ValueError, match="2 batches, not the 3"):
        join_batches(epochs, batches[1:])
    with pytest.raises(ValueError, match="-1 as the number of batches"):
        join_batches([{"batches": -1}], [])
