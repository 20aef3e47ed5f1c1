"""``groups`` of ``fit``: no group is in D_train and in D_val."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from skorch.callbacks import Callback
from torch.utils.data import TensorDataset

from sklearn_kd.estimators import _classifier_plan, _distpro_plan
from sklearn_kd.estimators._plan import stage_data

GROUPS = np.arange(400) // 8


@pytest.fixture
def splits(monkeypatch):
    """The rows of D_train and of D_val of each stage that is planned, as places in X."""
    seen = []

    def recording(estimator, inputs, hold_out, seeds):
        data, places = stage_data(estimator, inputs, hold_out, seeds)
        held_out = None if data.valid is None else np.setdiff1d(np.arange(len(inputs.rows)), places)
        seen.append((places, held_out))
        return data, places

    for module in (_classifier_plan, _distpro_plan):
        monkeypatch.setattr(module, "stage_data", recording)
    return seen


def assert_apart(split, groups):
    train, val = (set(groups[rows]) for rows in split)
    assert train and val and not train & val


@pytest.mark.parametrize("form", ["array", "words", "tensor", "series", "dataset"])
def test_no_group_is_in_both(form, make, digits, logits, splits):
    X, y = digits
    groups = {"words": GROUPS.astype(str), "tensor": torch.as_tensor(GROUPS)}.get(form, GROUPS)
    if form == "series":
        groups = pytest.importorskip("pandas").Series(GROUPS, index=GROUPS[::-1])
    if form == "dataset":
        X, y = TensorDataset(torch.as_tensor(X), torch.as_tensor(y)), None
    clf = make(meta="gradient", max_epochs=1)
    clone(clf).fit(X, y, teacher_logits=logits, groups=groups)
    assert_apart(splits[0], GROUPS)
    clone(clf).fit(X, y, teacher_logits=logits)
    assert set(GROUPS[splits[1][0]]) & set(GROUPS[splits[1][1]])  # else the test says nothing


def test_beside_rows_of_weight_0(make, digits, logits, splits):
    weight = (np.arange(400) % 3 > 0).astype(float)
    make(max_epochs=1).fit(*digits, teacher_logits=logits, groups=GROUPS, sample_weight=weight)
    train, rest = splits[0]
    held_out = rest[weight[rest] > 0]
    assert_apart((train, held_out), GROUPS)
    assert (weight[train] > 0).all() and 0.05 < len(held_out) / weight.sum() < 0.15


def test_of_a_search_of_pathways(make_distpro, digits, splits):
    X, y = digits[0][:120].reshape(-1, 1, 8, 8), digits[1][:120]
    make_distpro(max_epochs=1).fit(X, y, groups=GROUPS[:120])
    (search,) = [split for split in splits if split[1] is not None]
    assert_apart(search, GROUPS)


def test_they_follow_the_folds(make, digits, splits):
    """The splitter and ``fit`` ask for the same groups."""
    teacher = FrozenEstimator(LogisticRegression(max_iter=500).fit(*digits))
    clf = make(teacher, meta="gradient", max_epochs=1)
    with config_context(enable_metadata_routing=True):
        clf.set_fit_request(groups=True)
        scores = cross_val_score(
            clf, *digits, cv=GroupKFold(2), params={"groups": GROUPS}, error_score="raise"
        )
    assert len(scores) == len(splits) == 2
    for (_, test), split in zip(GroupKFold(2).split(*digits, GROUPS), splits, strict=True):
        assert_apart(split, np.delete(GROUPS, test))


@pytest.mark.parametrize(
    ("meta", "given", "reason"),
    [
        ("naive", False, "groups with meta='naive', which trains on all rows and holds none out"),
        ("gradient", True, "groups with X_val, which is D_val"),
    ],
)
def test_where_nothing_is_held_out_they_are_without_effect(meta, given, reason, make, digits, logits):
    X, y = digits
    more = {"X_val": X[:50], "y_val": y[:50]} if given else {}
    with pytest.warns(UserWarning, match=f"Without effect: {reason}"):
        make(meta=meta).fit(X, y, teacher_logits=logits, groups=GROUPS, **more)


class Folders(Callback):
    """Notes the folders of checkpoints, one for each fit, while there are any."""

    seen: ClassVar[set] = set()

    def __init__(self, root):
        self.root = root

    def on_epoch_end(self, net, **kwargs):
        Folders.seen.update(path.name for path in self.root.iterdir())


def test_another_grouping_is_another_fit(make, digits, logits, tmp_path):
    """Its checkpoints are not those of the first."""
    clf = make(checkpoint_dir=tmp_path, callbacks=[Folders(tmp_path)])
    for groups, n_fits in ((GROUPS, 1), (GROUPS, 1), (np.arange(400) // 4, 2)):
        clf.fit(*digits, teacher_logits=logits, groups=groups)
        assert len(Folders.seen) == n_fits


@pytest.mark.parametrize("groups", ["person", 3, np.zeros((400, 2))])
def test_they_must_be_one_for_each_row(groups, make, digits, logits, no_training):
    with pytest.raises(
        ValueError, match=r"groups must have one entry for each row of X, shape \(400,\); got shape"
    ):
        make().fit(*digits, teacher_logits=logits, groups=groups)
