"""Students with losses of logits that have names, in one batched run and one by one."""

import copy

import numpy as np
import pytest
import torch

from sklearn_kd import MLPStudent
from sklearn_kd.inputs._data import DistillationData, SplitData
from sklearn_kd.losses import LOSSES
from sklearn_kd.losses._objective import LogitObjective
from sklearn_kd.meta import Fixed, Gradient
from sklearn_kd.meta._path import MetaparameterPath
from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.tasks._targets import Targets
from sklearn_kd.training import _stackable
from sklearn_kd.training._alone import train_alone
from sklearn_kd.training._net import TrainingNet
from sklearn_kd.training._stackable import group_stackable, why_not_stackable
from sklearn_kd.training._stacked import train_stacked

NAMES = [name for name in LOSSES if name != "kd"]


def made_net(name, k, strategy):
    loss = LOSSES[name]()
    space = MetaparameterSpace(loss.metaparameters(n_classes=5))
    start = {key: entry.start for key, entry in space.items()} | {"lambda1": 0.2 + 0.2 * k}
    start |= {key: 1.5 + 0.5 * k for key in space if key.endswith("temperature")}
    torch.manual_seed(k)
    return TrainingNet(
        MLPStudent(6, 5, 8),
        objective=LogitObjective(loss),
        metaparameters=MetaparameterPath(space, start),
        classes=np.arange(5),
        lr=0.1, max_epochs=2, batch_size=16, verbose=0, strategy=strategy,
    ).initialize()  # fmt: skip


def made_rows(taught=True):
    torch.manual_seed(7)
    X, y, f = torch.randn(80, 6), torch.arange(80) % 5, 2 * torch.randn(80, 5)
    weight = 0.5 + torch.rand(48)
    train = DistillationData(X[:48], Targets(y[:48], f[:48] if taught else None, weight), 1)
    return SplitData(train, DistillationData(X[48:], Targets(y[48:]), 2))


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Whether it pays is not what is tested here."""
    monkeypatch.setattr(_stackable, "FEWEST", 2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("strategy", [Fixed(), Gradient(hypergradient="exact", lr=0.5)])
def test_students_are_trained_together_as_one_by_one(name, strategy):
    data = [made_rows()] * 3
    apart, together = ([made_net(name, k, copy.deepcopy(strategy)) for k in range(3)] for _ in range(2))
    for net, split in zip(apart, data, strict=True):
        train_alone(net, split, seed=0)
    assert why_not_stackable(together, data) is None
    train_stacked(together, data)
    for one, other in zip(apart, together, strict=True):
        for w, v in zip(one.module_.parameters(), other.module_.parameters(), strict=True):
            torch.testing.assert_close(v, w, rtol=1e-4, atol=2e-6)
        for key in one.metaparameters.named():
            paths = (net.metaparameters.table()[key] for net in (one, other))
            np.testing.assert_allclose(*paths, rtol=1e-4)


def test_students_without_a_teacher_are_trained_apart_from_others():
    """At lambda1 = 1 the loss "smoothed_kd" is not yet that of the labels."""
    data = [made_rows(taught) for taught in (True, True, False, False)]
    nets = [made_net("smoothed_kd", k, Fixed()) for k in range(4)]
    assert "differ in having a teacher" in why_not_stackable(nets, data)
    assert group_stackable(nets, data) == [[0, 1], [2, 3]]
    alone = made_net("smoothed_kd", 2, Fixed())
    train_alone(alone, data[2], seed=0)
    train_stacked(nets[2:], data[2:])
    for w, v in zip(alone.module_.parameters(), nets[2].module_.parameters(), strict=True):
        torch.testing.assert_close(v, w, rtol=1e-4, atol=2e-6)
