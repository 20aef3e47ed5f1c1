"""The processes that train one student together: what each method exchanges, and what one process does not."""

import copy
import pickle
import time

import pytest
import torch

from sklearn_kd.runtime._ranks import ALONE, LostRanks, Ranks


def reduced(ranks):
    k = ranks.rank
    tensors = [torch.full((2, 3), float(k)), torch.tensor([10 * k]), torch.tensor(1.0 + k).double()]
    summed = [t.clone() for t in tensors]
    ranks.sum_(summed)
    averaged = [torch.full((3, 2), float(k)).T, torch.tensor(float(k * k))]
    ranks.mean_(averaged)
    ranks.broadcast_(tensors)
    return summed, averaged, tensors


def test_tensors_of_several_types_are_reduced(two):
    for summed, averaged, first in two.run(reduced):
        assert summed[0].unique().item() == 1.0 and summed[0].dtype == torch.float32
        assert summed[1].tolist() == [10] and summed[2].item() == 3.0
        assert averaged[0].unique().item() == 0.5 and averaged[0].shape == (2, 3)
        assert averaged[1].item() == 0.5
        assert [float(t.sum()) for t in first] == [0.0, 0.0, 1.0]


def decided(ranks):
    k = ranks.rank
    ranks.barrier()
    return {
        "all": [ranks.all(True), ranks.all(k > 0), ranks.all(False)],
        "any": [ranks.any(True), ranks.any(k > 0), ranks.any(False)],
        "broadcast": ranks.broadcast({"of": k}),
        "gather": ranks.gather(k),
        "first": ranks.is_first,
    }


def test_decisions_and_objects(two):
    found = two.run(decided)
    assert [of.pop("first") for of in found] == [True, False]
    expected = {"all": [True, False, False], "any": [True, True, False]}
    assert found == [expected | {"broadcast": {"of": 0}, "gather": [0, 1]}] * 2


def shared_rows(ranks, n):
    rows = torch.arange(2.0 * n).reshape(n, 2)
    own = ranks.own(rows)
    whole = ranks.joined_rows(rows[ranks.padded_places(n)], n)
    mean = own.mean(0) * ranks.weight_of(len(own), n) if len(own) else torch.zeros(2)
    ranks.mean_([mean])
    return own[:, 0].tolist(), torch.equal(whole, rows), torch.allclose(mean, rows.mean(0))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 12])
def test_rows_are_divided_and_joined(n, two):
    found = two.run(shared_rows, n)
    assert sorted(place for own, _, _ in found for place in own) == [2.0 * k for k in range(n)]
    assert all(joined and mean for _, joined, mean in found)


def differing(ranks):
    ranks.check_same({"a": 1, "b": torch.ones(2)})
    try:
        ranks.check_same({"a": 1, "b": torch.ones(2) * (1 + 1e-7 * (ranks.rank == 1)), "c": ranks.rank})
    except RuntimeError as error:
        return str(error)


def test_what_differs_is_named_in_all_processes(two):
    messages = two.run(differing)
    assert len(set(messages)) == 1 and "differ in b, c. Call fit with the same" in messages[0]


def copied(ranks):
    clone = pickle.loads(pickle.dumps(ranks))
    return copy.deepcopy(ranks) is ranks and clone is ALONE


def test_an_unpickled_copy_is_one_process(two):
    assert all(two.run(copied))


def test_alone_nothing_happens():
    rows = torch.arange(4.0)
    ALONE.mean_([rows])
    ALONE.sum_([rows])
    ALONE.broadcast_([rows])
    ALONE.barrier()
    ALONE.check_same({"rows": rows})
    assert rows.tolist() == [0, 1, 2, 3] and ALONE.own(rows) is rows and ALONE.joined_rows(rows, 4) is rows
    assert (ALONE.rank, ALONE.size, ALONE.is_first) == (0, 1, True)
    assert ALONE.all(True) and not ALONE.all(False) and ALONE.any(True) and not ALONE.any(False)
    assert ALONE.broadcast("a") == "a" and ALONE.gather("a") == ["a"]


def left_alone(ranks, how):
    own, message = Ranks.joined(timeout=1.5), None
    if ranks.rank == 0 and how == "closed":
        own.close()
    try:
        if ranks.rank or how == "closed":
            own.mean_([torch.ones(3)])
    except LostRanks as error:
        message = str(error)
    ranks.barrier()
    own.close()
    return message


@pytest.mark.parametrize("how", ["closed", "silent"])
def test_who_is_left_alone_ends_with_an_error(how, two):
    first, second = two.run(left_alone, how)
    assert first == ("Process 0 of 2 has left the others." if how == "closed" else None)
    assert second.startswith("Process 1 of 2 lost the others: one has failed or was ended, or did not answer")
    assert "within 1.5 s" in second


def waits_longer_than_groups_take(ranks):
    """The group's own limit is not that of its making."""
    from sklearn_kd.runtime import _ranks

    before, _ranks._MEETING = _ranks._MEETING, 1.0
    try:
        further = _ranks.Ranks.joined(timeout=20.0)
        if ranks.rank:
            time.sleep(1.5)
        return further.gather(ranks.rank)
    finally:
        _ranks._MEETING = before


def test_a_group_waits_longer_than_it_takes_to_make(two):
    assert two.run(waits_longer_than_groups_take) == [[0, 1], [0, 1]]
