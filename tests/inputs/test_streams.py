"""Streams: what is refused, how they are cut into batches, and who reads which row."""

import gc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset

from helpers.streams import Counted, Digits, Divided, Endless, X, y
from sklearn_kd import Stream
from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.inputs._stream_data import BoundStream, StreamBatches, StreamData
from sklearn_kd.inputs._streams import Share, check_divided, read_head
from sklearn_kd.inputs._torch_datasets import Collation


def data_of(stream, encode=lambda labels: labels):
    head = read_head(stream, None)
    return StreamData(
        DistillationData(torch.from_numpy(head.x)), BoundStream(stream, encode, head.x.shape[1:])
    )


def rows_of(batches):
    return [(batch[0].numpy(), batch[1].numpy()) for batch in batches]


def ranks(rank, size):
    """What a process of several knows of itself."""
    return SimpleNamespace(rank=rank, size=size, own=lambda rows: rows[rank::size])


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (((i for i in range(3)), 3), TypeError, "cannot be begun again"),
        ((7, 3), TypeError, "cannot be begun again"),
        ((Digits(),), ValueError, "has no __len__.*Give n_rows"),
        ((Digits(), 1), ValueError, "n_rows=1 must be at least 2"),
        ((Digits(), 2.5), TypeError, "n_rows=2.5 must be an integer"),
        ((Digits(), True), TypeError, "n_rows=True must be an integer"),
        ((Digits(), 9, ["a"]), ValueError, "two or more labels"),
        ((Digits(), 9, {0, 1}), TypeError, r"Give sorted\(classes\)"),
    ],
)
def test_what_is_no_stream_is_refused(given, kind, words):
    with pytest.raises(kind, match=words):
        Stream(*given)


@pytest.mark.parametrize("n_rows, sizes", [(600, [128] * 4 + [88]), (513, [128] * 3 + [129]), (100, [100])])
def test_batches_have_the_sizes_of_those_in_memory_and_the_order_of_the_stream(n_rows, sizes):
    found = rows_of(StreamBatches(data_of(Stream(Digits(), n_rows)), 128))
    assert [len(labels) for _, labels in found] == sizes
    np.testing.assert_array_equal(np.concatenate([x for x, _ in found]), X[:n_rows])
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in found]), y[:n_rows])


def test_workers_with_stride_read_the_order_of_one_process():
    alone = rows_of(StreamBatches(data_of(Stream(Counted())), 64))
    shared = rows_of(StreamBatches(data_of(Stream(Counted(), stride=True)), 64, num_workers=2))
    for (x, labels), (x_shared, labels_shared) in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(x, x_shared)
        np.testing.assert_array_equal(labels, labels_shared)


def test_workers_of_a_dataset_that_divides_itself_give_each_row_once():
    found = rows_of(StreamBatches(data_of(Stream(Divided())), 64, num_workers=2))
    assert [len(labels) for _, labels in found] == [64] * 9 + [24]
    rows = np.concatenate([x for x, _ in found])
    np.testing.assert_array_equal(np.unique(rows, axis=0), np.unique(X[:600], axis=0))


@pytest.mark.parametrize("n_rows", [600, 513, 515])  # whose last batches are of several kinds
def test_processes_with_stride_share_the_batches_of_one(n_rows):
    alone = rows_of(StreamBatches(data_of(Stream(Digits(), n_rows)), 128))
    stream = Stream(Digits(), n_rows, stride=True)
    own = [rows_of(StreamBatches(data_of(stream), 128, ranks=ranks(k, 2))) for k in range(2)]
    if n_rows == 513:  # two rows for each process
        assert [len(labels) for _, labels in own[0]] == [64, 64, 64, 65]
    for k in range(2):
        for (x, _), (x_own, _) in zip(alone, own[k], strict=False):
            np.testing.assert_array_equal(x[k::2], x_own[: len(x[k::2])])
    n_shared = sum(len(labels) for of_rank in own for _, labels in of_rank)
    assert n_shared == n_rows


def test_a_batch_says_how_many_rows_all_processes_have_of_it():
    stream = Stream(Digits(), 513, stride=True)
    batches = StreamBatches(data_of(stream), 128, ranks=ranks(1, 2))
    assert [batch.n_rows for batch in batches] == [128, 128, 128, 129]


def test_each_pass_is_told_its_number_also_after_a_checkpoint():
    dataset = Digits(60)
    batches = StreamBatches(data_of(Stream(dataset, 60)), 16)
    dataset.passes.clear()
    list(batches), list(batches)
    again = StreamBatches(data_of(Stream(dataset, 60)), 16)
    again.load_state_dict(batches.state_dict())
    dataset.passes.pop()  # of the head
    list(again)
    assert dataset.passes == [0, 1, 2]


def test_a_pass_that_ends_early_is_refused():
    with pytest.raises(ValueError, match=r"X ended after 600 rows of a pass, and n_rows says .* 700"):
        rows_of(StreamBatches(data_of(Stream(Digits(600), 700)), 64))


def test_a_counted_dataset_that_goes_on_is_refused():
    with pytest.raises(ValueError, match=r"went on after 600 rows of a pass, and len\(dataset\) says"):
        rows_of(StreamBatches(data_of(Stream(Counted(600, times=2))), 64))


def test_a_stream_says_in_short_what_it_is():
    assert repr(Stream(Endless(), n_rows=50, classes=np.arange(1000), stride=True)) == (
        "Stream(Endless, n_rows=50, classes=[0, 1, 2, 3, 4, 5, ...], stride=True)"
    )
    assert repr(Stream(Counted())) == f"Stream(Counted, n_rows={len(Counted())})"


def test_an_endless_stream_is_cut():
    assert len(rows_of(StreamBatches(data_of(Stream(Endless(), 300)), 100))) == 3


def test_the_same_rows_in_two_workers_are_refused_unless_they_are_divided():
    collate = Collation("X", labeled=True)

    def check(dataset, stride=False):
        check_divided(Stream(dataset, stride=stride), 2, lambda own: [own], Share(), collate)

    with pytest.raises(ValueError, match=r"worker 0 and worker 1 the same first rows.*stride=True"):
        check(Counted())
    check(Divided())
    check(Counted(), stride=True)


def test_the_same_rows_in_two_processes_are_refused():
    collate = Collation("X", labeled=True)
    with pytest.raises(
        ValueError, match=r"worker 0 of process 0 and worker 0 of process 1.*takes its own\.$"
    ):
        check_divided(Stream(Counted()), 0, lambda own: [own, own], Share(0, 2), collate)


class Shuffled(Digits):
    """Digits in an order drawn from torch's global generator, another one in each worker."""

    def __iter__(self):
        return ((torch.from_numpy(X[i]), int(y[i])) for i in torch.randperm(self.n).tolist())


@pytest.mark.parametrize("dataset", [Shuffled(), Divided()])
def test_readers_with_stride_need_one_order(dataset):
    collate, stream = Collation("X", labeled=True), Stream(dataset, 600, stride=True)
    with pytest.raises(ValueError, match="worker 0 and worker 1 different first rows, but stride=True"):
        check_divided(stream, 2, lambda own: [own], Share(), collate)


def test_processes_with_stride_need_one_order():
    collate, stream, found = Collation("X", labeled=True), Stream(Shuffled(), 600, stride=True), []
    for rank in range(2):
        check_divided(stream, 0, lambda own: found.append(own) or [own], Share(rank, 2), collate)
    with pytest.raises(ValueError, match="of process 0 and worker 0 of process 1 different first rows"):
        check_divided(stream, 0, lambda own: found, Share(0, 2), collate)


def test_random_crops_are_no_other_order():
    class Noisy(Digits):
        def __iter__(self):
            return ((x + torch.rand(64), label) for x, label in super().__iter__())

    stream = Stream(Noisy(), 600, stride=True)
    check_divided(stream, 2, lambda own: [own], Share(), Collation("X", labeled=True))


class OneIterator(IterableDataset):
    """Goes on where it was, or begins again where ``resets``."""

    def __init__(self, resets):
        self.resets, self.items = resets, iter(Digits())

    def __iter__(self):
        if self.resets:
            self.items = iter(Digits())
        return self

    def __next__(self):
        return next(self.items)


def test_a_dataset_that_does_not_begin_again_is_refused():
    with pytest.raises(TypeError, match="__iter__ gives the same iterator each time"):
        read_head(Stream(OneIterator(resets=False), 600), None)
    assert len(read_head(Stream(OneIterator(resets=True), 600), None).labels) == 600


@pytest.mark.parametrize("wrap", [torch.from_numpy, lambda x: {"x": x}, lambda x: x[:32]])
def test_rows_in_one_memory_are_refused(wrap):
    class Reused(Digits):
        def __iter__(self):
            row = np.empty(64, np.float32)
            for i in range(self.n):
                row[:] = X[i]
                yield wrap(row), int(y[i])

    with pytest.raises(ValueError, match="The first 16 rows of X are in the same memory"):
        read_head(Stream(Reused(), 600), None)


def test_lists_of_numbers_are_refused_unless_a_function_collates_them():
    items = [(X[i].tolist(), int(y[i])) for i in range(100)]
    with pytest.raises(ValueError, match=r"a list of 64 numbers as x.*with_format\('torch'\)"):
        read_head(Stream(items), None)
    with pytest.raises(ValueError, match="a list of 64 numbers as x"):
        read_head(Stream([{"x": x, "label": label} for x, label in items]), None)

    def collate(rows):
        return torch.tensor([x for x, _ in rows]), torch.tensor([label for _, label in rows])

    assert read_head(Stream(items), collate).x.shape == (100, 64)


def test_items_may_be_bfloat16():
    items = [(torch.from_numpy(X[i]).bfloat16(), int(y[i])) for i in range(100)]
    np.testing.assert_allclose(read_head(Stream(items), None).x, X[:100], rtol=1e-2)


def test_the_head_is_no_larger_than_the_stream_and_of_mixed_labels():
    assert len(read_head(Stream(Digits(), 40), None).labels) == 40
    assert len(read_head(Stream(Endless(), 10**6), None).labels) == 1024
    assert len(read_head(Stream(Endless(2**17), 10**6), None).labels) == 128  # of half a mebibyte each

    class Sorted(Digits):
        def __iter__(self):
            return ((torch.zeros(4), 3) for _ in range(50))

    with pytest.raises(ValueError, match=r"first 50 rows of X all have the label 3.*shuffle"):
        read_head(Stream(Sorted(), 50), None)


def test_no_more_than_a_few_batches_are_in_memory():
    class Wide(Endless):
        pass

    batches = StreamBatches(data_of(Stream(Wide(1003), 20_000)), 100)  # a width that nothing else here has
    most = 0
    for number, _ in enumerate(batches):
        if number % 50 == 10:
            held = {
                t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
                for t in gc.get_objects()
                if isinstance(t, torch.Tensor) and t.ndim and t.shape[-1] == 1003
            }
            most = max(most, sum(held.values()) // (4 * 1003))
    assert 0 < most <= 1024 + 4 * 100  # the head, and what is being cut
