"""Each process takes its share of every batch, and together they have the batches of one."""

import pytest
import torch

from sklearn_kd.inputs._batches import BatchOrder, TensorBatches, evaluation_batches
from sklearn_kd.inputs._data import DistillationData, LoadedData
from sklearn_kd.inputs._mixed_order import MixedOrder
from sklearn_kd.inputs._torch_datasets import DatasetRows
from sklearn_kd.runtime._ranks import Ranks
from sklearn_kd.tasks._targets import Targets


def ranks(size):
    """Processes of which each is asked about its own rows alone."""
    made = [Ranks() for _ in range(size)]
    for rank, of in enumerate(made):
        of.rank, of.size = rank, size
    return made


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(
    ("n", "batch_size", "drop_last"), [(50, 12, False), (53, 12, True), (48, 12, False), (19, -1, False)]
)
def test_shares_make_up_the_batches_of_one_process(size, shuffle, n, batch_size, drop_last):
    whole = BatchOrder(n, batch_size, shuffle, drop_last, seed=3)
    shares = [BatchOrder(n, batch_size, shuffle, drop_last, seed=3, ranks=of) for of in ranks(size)]
    for _ in range(2):  # passes
        of_each = [list(order) for order in shares]
        if n == 50:  # two rows that are left over join the batch before
            assert [len(batch) for batch in whole] == [12, 12, 12, 12, 2]
            assert [sum(map(len, batch)) for batch in zip(*of_each, strict=True)] == [12, 12, 12, 14]
            assert sorted(row for order in of_each for batch in order for row in batch) == list(range(n))
            continue
        for batch, *own in zip(whole, *of_each, strict=True):
            assert all(part == batch[rank::size] for rank, part in enumerate(own))
            assert min(map(len, own)) >= 2


@pytest.mark.parametrize("batch_size", [7, 2])
def test_batches_too_small_for_all_are_refused(batch_size):
    with pytest.raises(
        ValueError, match=f"batches of {batch_size}. Give a batch_size of at least 8, and at least as many"
    ):
        BatchOrder(100, batch_size, ranks=ranks(4)[0])
    with pytest.raises(ValueError, match="4 processes share each batch"):
        BatchOrder(7, 32, ranks=ranks(4)[0])


@pytest.mark.parametrize("size", [2, 3])
def test_each_process_has_its_share_of_either_kind(size):
    """Every second row of a batch would be of one kind alone."""
    orders = [MixedOrder(60, 60, 0.5, 24, shuffle=True, seed=0, ranks=of) for of in ranks(size)]
    whole = list(MixedOrder(60, 60, 0.5, 24, shuffle=True, seed=0))
    for batch, *own in zip(whole, *orders, strict=True):
        assert sorted(row for part in own for row in part) == sorted(batch)
        for part in own:
            assert sum(row < 60 for row in part) == len(part) / 2 == 12 / size
    with pytest.raises(ValueError, match="has 1 with a label and 23 without one, and each of"):
        MixedOrder(60, 60, 0.95, 24, ranks=ranks(size)[0])
    uneven = [next(iter(MixedOrder(61, 40, 0.4, 13, seed=0, ranks=of))) for of in ranks(size)]
    assert sum(map(len, uneven)) == 13 and max(map(len, uneven)) - min(map(len, uneven)) <= 1


class Items(torch.utils.data.Dataset):
    def __len__(self):
        return 23

    def __getitem__(self, k):
        return torch.full((3,), float(k))


@pytest.mark.parametrize("workers", [None, 0, 1])
@pytest.mark.parametrize("shuffle", [True, False])
def test_batches_carry_the_number_of_all_rows(workers, shuffle):
    """Tensors, or rows of a Dataset with and without workers."""
    targets = Targets(torch.arange(23))
    seen = []
    for of in ranks(2):
        if workers is None:
            data = DistillationData(torch.arange(23.0)[:, None].expand(23, 3), targets, seed=1)
        else:
            data = LoadedData(DatasetRows(Items()), targets, seed=1)
        settings = {} if workers is None else {"num_workers": workers}
        batches = evaluation_batches(data, batch_size=8, shuffle=shuffle, ranks=of, **settings)
        assert isinstance(batches, TensorBatches) == (workers is None)
        found = list(batches)
        assert [batch.n_rows for batch in found] == [8, 8, 7] and len(batches) == 3
        assert all(torch.equal(batch[0][:, 0].long(), batch.targets.labels) for batch in found)
        seen += [label for batch in found for label in batch.targets.labels.tolist()]
    assert sorted(seen) == list(range(23))


class Noise(torch.utils.data.Dataset):
    """Items that are drawn when they are read, as augmented ones are."""

    def __len__(self):
        return 16

    def __getitem__(self, k):
        return torch.rand(3)


def test_the_workers_of_each_process_draw_other_numbers():
    """And the same again from a checkpoint, which holds one state for all processes."""

    def batches_of(ranks):
        data = LoadedData(DatasetRows(Noise()), Targets(torch.arange(16)), seed=1)
        return evaluation_batches(data, batch_size=8, shuffle=True, ranks=ranks, num_workers=1)

    def drawn(batches):
        return torch.cat([x for x, _ in batches])

    first, second = map(batches_of, ranks(2))
    drawn(first), drawn(second)
    state = first.state_dict()
    assert torch.equal(state["workers"]["generator"], second.state_dict()["workers"]["generator"])
    in_first, in_second = drawn(first), drawn(second)
    assert not torch.isin(in_first, in_second).any()
    for of, before in zip(map(batches_of, ranks(2)), (in_first, in_second), strict=True):
        of.load_state_dict(state)
        assert torch.equal(drawn(of), before)
