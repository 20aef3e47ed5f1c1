"""Whole groups are held out, with the classes' shares kept as far as the groups allow."""

import numpy as np
import pytest
from sklearn.model_selection import GroupShuffleSplit

from sklearn_kd.tasks._grouped_split import split_groups


def split(codes, groups, fraction=0.2, seed=0):
    return split_groups(codes, groups, fraction, np.random.RandomState(seed))


@pytest.mark.parametrize("n_groups", [5, 40, 2000])
@pytest.mark.parametrize("fraction", [0.1, 0.3])
def test_disjoint_complete_and_near(n_groups, fraction):
    rng = np.random.default_rng(n_groups)
    codes, groups = rng.choice(4, 4000, p=[0.6, 0.2, 0.15, 0.05]), rng.integers(0, n_groups, 4000)
    train, val = split(codes, groups, fraction)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, val])), np.arange(4000))
    assert not set(groups[train]) & set(groups[val])
    assert np.unique(codes[train]).size == 4
    assert abs(len(val) / 4000 - fraction) < max(0.5 / n_groups, 0.02) + 0.02
    share = np.bincount(codes[val], minlength=4) / np.bincount(codes)
    assert np.abs(share - fraction).max() < (0.15 if n_groups == 5 else 0.03)


def test_classes_are_kept_better_than_by_a_draw():
    """Groups that are nearly of one class each: a draw misses classes."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), rng.integers(2, 40, 30))
    codes = (groups + (rng.random(len(groups)) < 0.1)) % 3
    wanted = 0.2 * np.bincount(codes)

    def off(val):
        return np.abs(np.bincount(codes[val], minlength=3) / wanted - 1).max()

    ours = [off(split(codes, groups, seed=seed)[1]) for seed in range(5)]
    drawn = [
        off(val) for _, val in GroupShuffleSplit(5, test_size=0.2, random_state=0).split(codes, groups=groups)
    ]
    assert max(ours) < 0.2 < min(drawn)


def test_it_repeats_with_the_seed():
    rng = np.random.default_rng(0)
    codes, groups = rng.integers(0, 3, 300), rng.integers(0, 20, 300)
    first, again, other = (split(codes, groups, seed=seed)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_group_with_all_rows_of_a_class_stays():
    codes, groups = np.array([0, 0, 1, 1, 2, 2, 0, 1]), np.array([0, 0, 1, 1, 2, 2, 3, 3])
    for seed in range(10):
        train, val = split(codes, groups, 0.5, seed)
        assert len(val) and 2 not in groups[val] and set(codes[train]) == {0, 1, 2}


@pytest.mark.parametrize("groups", [np.zeros(6, int), np.array([0, 0, 1, 1, 2, 2])])
def test_where_none_can_be_spared(groups):
    with pytest.raises(
        ValueError, match=r"none of the \d groups can be held out, since each has all rows of"
    ):
        split(np.array([0, 0, 1, 1, 2, 2]), groups)
