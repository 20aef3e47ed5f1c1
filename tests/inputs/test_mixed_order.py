"""The order of batches that mix rows with labels and rows without."""

import pytest
import torch

from sklearn_kd.inputs._batches import Batch
from sklearn_kd.inputs._mixed_order import MixedOrder, share_in_batches
from sklearn_kd.tasks._targets import Targets, label_weights


def counts(order, n_labeled):
    """Rows with labels and rows without in each batch."""
    return [(sum(row < n_labeled for row in rows), sum(row >= n_labeled for row in rows)) for rows in order]


@pytest.mark.parametrize(
    ("n_labeled", "n_unlabeled", "share", "batch_size", "expected"),
    [
        (100, 300, 0.75, 40, (10, 30)),
        (1000, 10, 0.5, 40, (20, 20)),
        (7, 5, 0.5, 64, (6, 6)),
        (100, 100, 0.001, 32, (31, 1)),
        (100, 100, 0.999, 32, (1, 31)),
        (9, 27, 0.75, -1, (9, 27)),
    ],
)
@pytest.mark.parametrize("shuffle", [False, True])
def test_each_batch_has_the_ratio_and_each_row_is_seen(
    shuffle, n_labeled, n_unlabeled, share, batch_size, expected
):
    order = MixedOrder(n_labeled, n_unlabeled, share, batch_size, shuffle)
    batches = [*order]
    assert len(batches) == len(order) and set(counts(batches, n_labeled)) == {expected}
    assert {row for rows in batches for row in rows} == set(range(n_labeled + n_unlabeled))
    assert len(order) == max(-(-n_labeled // expected[0]), -(-n_unlabeled // expected[1]))


def test_the_kind_that_is_run_through_begins_again_in_a_new_order():
    order = MixedOrder(20, 200, 0.5, 20, shuffle=True)
    rows = torch.tensor([row for rows in order for row in rows if row < 20]).reshape(10, 20)
    assert (rows.sort(dim=1).values == torch.arange(20)).all()  # all once, before any twice
    assert not torch.equal(rows[0], rows[1])


def test_the_next_pass_follows_from_the_state():
    order, other = (MixedOrder(30, 50, 0.5, 10, shuffle=True, seed=seed) for seed in (3, 4))
    first, state = [*order], order.state_dict()
    second = [*order]
    other.load_state_dict(state)
    assert [*other] == second != first


def test_the_first_rows_of_a_batch_have_about_the_ratio():
    """Hypergradients may be estimated on the first rows of a batch alone."""
    for rows in MixedOrder(1000, 3000, 0.75, 64, shuffle=True):
        assert sum(row < 1000 for row in rows[:16]) in (3, 4, 5)


def test_automatic_share():
    assert share_in_batches("auto", 100, 100) == 0.5
    assert share_in_batches("auto", 10, 990) == 0.8
    assert share_in_batches(0.3, 10, 990) == 0.3


def test_no_room_for_both_kinds():
    with pytest.raises(ValueError, match=r"batch_size=1 has no room .* Set batch_size to 2"):
        MixedOrder(10, 10, 0.5, 1)


def test_batches_are_mapped_and_copied_with_their_label_weights():
    labels = torch.tensor([1, -1, 0])
    targets = Targets(labels, torch.randn(3, 2), None, label_weights(labels))
    batch = Batch(torch.randn(3, 4), targets)
    copy = batch.map(torch.zeros_like)
    copy.copy_(batch)
    assert copy.targets.weight is None
    torch.testing.assert_close(copy.targets.label_weight, torch.tensor([1.5, 0.0, 1.5]))
