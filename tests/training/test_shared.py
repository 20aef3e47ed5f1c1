"""Several processes that train one student: what they end with is what one process ends with."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from helpers.process_group import Processes
from sklearn_kd.inputs._data import DistillationData, SplitData
from sklearn_kd.losses._logit_distillation import LogitDistillation
from sklearn_kd.losses._objective import LogitObjective
from sklearn_kd.meta import Gradient, Linear
from sklearn_kd.meta._path import MetaparameterPath
from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.runtime._ranks import ALONE
from sklearn_kd.tasks._targets import Targets
from sklearn_kd.training._alone import train_alone
from sklearn_kd.training._net import TrainingNet


@pytest.fixture(scope="module")
def two():
    processes = Processes(2)
    yield processes
    processes.close()


class InFloat64(DistillationData):
    """Batches in float64."""

    def batch(self, rows):
        return super().batch(rows).map(lambda t: t.double() if t.is_floating_point() else t)


def rows(n=100, n_val=41, weighted=True):
    """100 rows and 41 of D_val: the last batch of 36 rows is not full, and cannot be halved."""
    draw = torch.Generator().manual_seed(0)
    X = torch.randn(n + n_val, 20, generator=draw)
    y = X[:, :5].argmax(1)
    f = 2 * X[:, :5] + torch.randn(n + n_val, 5, generator=draw)
    weight = torch.rand(n, generator=draw) + 0.5 if weighted else None
    weight = None if weight is None else weight / weight.mean()
    train = InFloat64(X[:n], Targets(y[:n], f[:n], weight), 1)
    return SplitData(train, InFloat64(X[n:], Targets(y[n:]), 2))


def student(dropout=0.0):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 5)).double()


def fitted(ranks, strategy, data=None, module=None, **params):
    """Train a net; what it ends with."""
    loss = LogitDistillation(temperature_scaling="hinton")
    space = MetaparameterSpace(loss.metaparameters(n_classes=5))
    net = TrainingNet(
        module or student(),
        objective=LogitObjective(loss),
        metaparameters=MetaparameterPath(space, {"lambda1": 0.5, "temperature": 2.0}),
        strategy=strategy,
        classes=np.arange(5),
        verbose=0,
        ranks=ranks,
        **({"lr": 0.1, "max_epochs": 3, "batch_size": 33} | params),
    ).initialize()
    net = train_alone(net, data or rows(), 5)
    return ended(net)


def ended(net):
    path = net.metaparameters
    history = {
        name: net.history[:, name]
        for name in ("train_loss", "valid_loss", "valid_acc", "skipped_steps", "lambda1")
    }
    return SimpleNamespace(
        weights=[w.detach() for w in net.module_.state_dict().values()],
        metaparameters=path.named(),
        n=path.iteration,
        history=history,
        val_temperature=net.val_temperature_,
        interrupted=net.interrupted_,
        diverged=net.diverged_,
    )


def assert_equal(found, expected, atol):
    for a, b in zip(found.weights, expected.weights, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)
    for name, value in expected.metaparameters.items():
        assert found.metaparameters[name] == pytest.approx(value, rel=0, abs=atol), name
    assert found.n == expected.n
    for name, values in expected.history.items():
        np.testing.assert_allclose(found.history[name], values, rtol=0, atol=atol, err_msg=name)
    assert found.val_temperature == pytest.approx(expected.val_temperature, abs=max(atol, 1e-6))
    assert (found.interrupted, found.diverged) == (expected.interrupted, expected.diverged)


SGD = {"optimizer": torch.optim.SGD, "optimizer__momentum": 0.9, "lr": 0.05}
ADAM = {"optimizer": torch.optim.Adam, "lr": 0.01}
ADAMW = {"optimizer": torch.optim.AdamW, "lr": 0.01}
CASES = {
    "exact": (Gradient(hypergradient="exact"), SGD, 1e-13),
    "jvp": (Gradient(hypergradient="jvp"), SGD, 1e-13),
    "finite differences": (Gradient(), SGD, 1e-7),
    "central differences": (Gradient(hypergradient="central_difference"), ADAM, 1e-7),
    "Adam": (Gradient(hypergradient="exact"), ADAM, 1e-12),
    "AdamW, clipped": (Gradient(hypergradient="exact"), ADAMW | {"max_grad_norm": 0.05}, 1e-12),
    "linear": (Linear(e1=3, e2=2, hypergradient="exact"), SGD | {"max_grad_norm": 0.05}, 1e-13),
    "some rows": (Gradient(hypergradient="jvp", hypergradient_rows=9), SGD, 1e-13),
    "T_val": (Gradient(hypergradient="exact"), SGD | {"val_temperature": "auto"}, 1e-7),
}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_where_one_does(case, two):
    strategy, params, atol = CASES[case]
    expected = fitted(ALONE, strategy, **copy.deepcopy(params))
    for found in two.run(_fitted_by, strategy, params):
        assert_equal(found, expected, atol)


def _fitted_by(ranks, strategy, params):
    return fitted(ranks, strategy, **params)
