"""K students that learn metaparameters in one batched run follow the paths that they follow one by one."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from test_stacked import Tied, made_net, made_students
from torch import nn

from helpers.parameter_ids import in_words
from sklearn_kd import MLPStudent
from sklearn_kd.bilevel._optimizer_response import OptimizerResponse
from sklearn_kd.bilevel._stacked_hypergradient import STACKED_METHODS
from sklearn_kd.inputs._data import DistillationData, SplitData
from sklearn_kd.meta import Fixed, Gradient, Linear, Strategy
from sklearn_kd.tasks._targets import Targets
from sklearn_kd.training import _stackable, _stacked
from sklearn_kd.training._alone import train_alone
from sklearn_kd.training._stackable import group_stackable, why_not_stackable
from sklearn_kd.training._stacked import train_stacked

# Students compute in float64, but the teacher's logits are float32.
ROUNDING = 1e-6
STARTS = ((0.5, 1.0), (0.3, 4.0), (0.9, 2.0))


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Whether it pays is not what is tested here."""
    monkeypatch.setattr(_stackable, "FEWEST", 2)


def made_rows(seed, dtype=torch.float64, weighted=False, n_valid=90, spoiled=()):
    """D_train of 100 rows, whose last batch is not full, and D_val."""
    draw = torch.Generator().manual_seed(seed)
    X = torch.randn(100 + n_valid, 64, generator=draw, dtype=dtype)
    f = 2 * X @ torch.randn(64, 10, generator=draw, dtype=dtype) / 8
    y = torch.where(torch.rand(len(X), generator=draw) < 0.2, 0, f.argmax(1))
    weight = torch.rand(len(X), generator=draw, dtype=dtype) * 2 if weighted else None
    X[list(spoiled)] = torch.nan
    train, valid = (
        Targets(y[part], f[part] if taught else None, None if weight is None else weight[part])
        for part, taught in ((slice(100), True), (slice(100, None), False))
    )
    return SplitData(DistillationData(X[:100], train, seed), DistillationData(X[100:], valid, seed + 1))


class InDoubles(nn.Module):
    """Computes in float64 with batches that are float32."""

    def __init__(self, student):
        super().__init__()
        self.student = student.double()

    def forward(self, x):
        return self.student(x.double())


def made_strategies(method="exact"):
    """Of one kind, but no two alike."""
    return [
        Gradient(hypergradient=method),
        Linear(e1=3, e2=2, hypergradient=method),
        Gradient(lr=0.5, clip=0.02, optimizer_params={"momentum": 0.5}, hypergradient=method),
    ]


def made_nets(strategies, wrap=InDoubles, students=None, **params):
    students = students or made_students(n=len(strategies))
    return [
        made_net(wrap(student), *start, strategy=strategy, **params)
        for student, start, strategy in zip(students, STARTS, strategies, strict=True)
    ]


def both_ways(data, strategies, **params):
    """The nets trained one by one, and those trained together."""
    apart, together = (made_nets(strategies, **params) for _ in range(2))
    for net, split in zip(apart, data, strict=True):
        train_alone(net, split, seed=0)
    reason = why_not_stackable(together, data)
    assert reason is None, reason
    train_stacked(together, data)
    return apart, together


def assert_equal_within(tolerance, apart, together):
    for one, other in zip(apart, together, strict=True):
        for w, v in zip(one.module_.parameters(), other.module_.parameters(), strict=True):
            torch.testing.assert_close(v, w, rtol=0, atol=tolerance)
        paths = [net.metaparameters.table() for net in (one, other)]
        for field in ("lambda1", "temperature", "val_loss", "predicted"):
            np.testing.assert_allclose(paths[1][field], paths[0][field], rtol=tolerance, atol=tolerance)
        for field in ("train_loss", "valid_loss", "lambda1", "skipped_steps", "skipped_hypergradients"):
            of_epochs = (net.history[:, field] for net in (other, one))
            np.testing.assert_allclose(*of_epochs, rtol=tolerance, atol=tolerance)
        assert len(one.history[-1]["batches"]) == len(other.history[-1]["batches"])


@pytest.mark.parametrize("method", STACKED_METHODS)
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"optimizer__momentum": 0.9, "optimizer__nesterov": True, "optimizer__weight_decay": 1e-3},
        {"optimizer": torch.optim.AdamW, "lr": 1e-2, "max_epochs": 4},
        {"max_grad_norm": 0.6, "optimizer__momentum": 0.9},
        {"max_grad_norm": 0.6, "optimizer": torch.optim.Adam, "lr": 1e-2, "max_epochs": 4},
        {"optimizer__param_groups": [("*bias", {"lr": 0.02})]},
    ],
    ids=in_words,
)
def test_each_follows_its_own_path(params, method):
    """A difference of logits magnifies rounding; "exact" has none of it."""
    data = [made_rows(seed) for seed in range(3)]
    apart, together = both_ways(data, made_strategies(method), **params)
    assert_equal_within(ROUNDING, apart, together)
    moves = [np.ptp(net.metaparameters.table()["temperature"]) for net in together]
    assert min(moves) > 1e-4 and len(set(moves)) == 3


class Scaled(nn.Linear):
    """Has a weight that is a number, and one without any."""

    def __init__(self):
        super().__init__(64, 10)
        self.scale, self.none = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.zeros(0))

    def forward(self, x):
        return super().forward(x) * self.scale + self.none.sum()


@pytest.mark.parametrize("method", ["central_difference", "exact"])
@pytest.mark.parametrize("make", [Tied, Scaled])
def test_shared_frozen_unused_and_single_weights(make, method):
    data = [made_rows(seed) for seed in range(3)]
    students = made_students(make)
    params = {"optimizer": torch.optim.Adam, "lr": 1e-2, "max_epochs": 4}
    apart, together = (made_nets(made_strategies(method), students=students, **params) for _ in range(2))
    for net, split in zip(apart, data, strict=True):
        train_alone(net, split, seed=0)
    train_stacked(together, data)
    assert_equal_within(ROUNDING, apart, together)


class Switches(nn.Module):
    """Has a bias in evaluation alone, which no step moves."""

    def __init__(self):
        super().__init__()
        self.out, self.late = nn.Linear(64, 10), nn.Parameter(torch.ones(10))

    def forward(self, x):
        return self.out(x) if self.training else self.out(x) + self.late


def test_l_val_is_that_of_the_validation_mode():
    data, students = [made_rows(seed) for seed in range(3)], made_students(Switches)
    apart, together = (made_nets(made_strategies("finite_difference"), students=students) for _ in range(2))
    for net, split in zip(apart, data, strict=True):
        train_alone(net, split, seed=0)
    train_stacked(together, data)
    assert_equal_within(ROUNDING, apart, together)


def test_in_float32_differences_agree_as_far_as_they_are_right():
    data = [made_rows(0, torch.float32)] * 3
    apart, together = both_ways(data, made_strategies("finite_difference"), wrap=nn.Sequential)
    assert _stacked._Streams(together, data).shared
    assert_equal_within(3e-3, apart, together)


def test_batches_of_validation_rows_need_not_be_alike():
    """Nor their weights, nor T_val."""
    data = [made_rows(k, weighted=k == 1, n_valid=n) for k, n in enumerate((90, 40, 20))]
    apart, together = both_ways(
        data, made_strategies(), iterator_valid__drop_last=False, val_temperature="auto"
    )
    assert_equal_within(ROUNDING, apart, together)  # T_val is sought by an optimizer
    assert len({net.val_temperature_ for net in together}) == 3


def test_without_a_teacher_nothing_is_learned():
    data = [made_rows(seed) for seed in range(3)]
    data[1].train.set_teacher_logits(None)
    apart, together = both_ways(data, made_strategies())
    assert_equal_within(ROUNDING, apart, together)
    assert np.ptp(together[1].metaparameters.table()["lambda1"]) == 0


def test_one_that_diverges_does_no_harm_to_the_others():
    data = [made_rows(seed, torch.float32) for seed in range(3)]
    strategies = made_strategies()
    nets = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for train in ("one by one", "together"):
            students = made_students()
            with torch.no_grad():
                for w in students[1].parameters():
                    w.mul_(1e25)  # its logits overflow
            nets.append(made_nets(strategies, nn.Sequential, students))
            if train == "together":
                train_stacked(nets[-1], data)
            else:
                for net, split in zip(nets[-1], data, strict=True):
                    train_alone(net, split, seed=0)
    apart, together = nets
    diverged = [str(w.message) for w in said if w.category is ConvergenceWarning]
    assert len(diverged) == 2 and diverged[0] == diverged[1]
    assert [net.diverged_ for net in together] == [False, True, False]
    for k in (0, 2):
        assert_equal_within(1e-4, apart[k : k + 1], together[k : k + 1])
    lengths = [[len(net.metaparameters.table()) for net in of] for of in nets]
    assert lengths[0] == lengths[1] and lengths[0][1] < lengths[0][0]


@pytest.mark.parametrize("limit", [None, 0.6])
def test_a_batch_that_cannot_be_learned_from_moves_nothing(limit):
    """Of one student; the others take their steps."""
    data = [made_rows(seed, spoiled=[5] if seed == 2 else []) for seed in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        apart, together = both_ways(data, made_strategies(), max_grad_norm=limit)
    assert_equal_within(ROUNDING, apart[:2], together[:2])
    one, other = (nets[2].metaparameters.table() for nets in (apart, together))
    np.testing.assert_allclose(other["temperature"], one["temperature"], rtol=ROUNDING)
    np.testing.assert_array_equal(np.isnan(other["val_loss"]), np.isnan(one["val_loss"]))
    assert sum(together[2].history[:, "skipped_steps"]) == sum(apart[2].history[:, "skipped_steps"]) > 0


def test_training_can_go_on_one_by_one():
    """Optimizer, path and place in a cycle of the line are handed back."""
    data = [made_rows(seed) for seed in range(3)]
    apart, together = both_ways(data, made_strategies(), optimizer__momentum=0.9)
    for nets in (apart, together):
        for net, split in zip(nets, data, strict=True):
            assert net.validation_batches_ is None
            net.partial_fit(split)
    assert_equal_within(ROUNDING, apart, together)


def test_an_interrupt_keeps_what_was_learned(monkeypatch):
    steps, step = [], _stacked.BatchedRun.step

    def interrupted(run, *args):
        steps.append(1)
        if len(steps) == 6:  # in the second epoch of four iterations
            raise KeyboardInterrupt
        return step(run, *args)

    monkeypatch.setattr(_stacked.BatchedRun, "step", interrupted)
    nets, data = made_nets(made_strategies()), [made_rows(seed) for seed in range(3)]
    train_stacked(nets, data)
    for net in nets:
        assert len(net.metaparameters.table()) == 5 and len(net.history) == 2
        assert net.validation_batches_ is None


# --------------------------------------------------------------------------------------
# What is not trained together


@pytest.mark.parametrize(
    ("strategy", "valid", "match"),
    [
        (Gradient(hypergradient="jvp"), True, "takes hypergradients by 'jvp'"),
        (Gradient(hypergradient_rows=4), True, "on some rows"),
        (Gradient(), False, "no D_val"),
    ],
    ids=in_words,
)
def test_reasons_against(strategy, valid, match):
    data = [made_rows(0)._replace(**({} if valid else {"valid": None}))] * 2
    nets = [made_net(InDoubles(MLPStudent(64, 10, 8)), 0.5, 1.0, strategy=strategy) for _ in data]
    assert match in why_not_stackable(nets, data)


def test_an_optimizer_with_a_response_of_its_own_is_left_alone(monkeypatch):
    class Own(OptimizerResponse):
        pass

    monkeypatch.setitem(_stackable.response_class.__globals__["_RESPONSES"], torch.optim.RMSprop, Own)
    nets = made_nets(made_strategies(), optimizer=torch.optim.RMSprop)
    assert "RMSprop responds weight by weight" in why_not_stackable(nets, [made_rows(0)] * 3)


class Predicts(Strategy):
    """Moves the metaparameters without a hypergradient."""

    learns_from_validation = True

    def predict(self, metaparameters):
        return metaparameters.trajectory(0, metaparameters.iteration)[-1] + 0.01


def test_those_that_learn_are_apart_from_those_that_do_not():
    data = [made_rows(0)] * 6
    strategies = [Gradient(), Fixed(), Predicts(), Fixed(), Linear(), Fixed()]
    students = made_students(n=6)
    nets = [
        made_net(InDoubles(student), 0.5, 2.0, strategy=strategy)
        for student, strategy in zip(students, strategies, strict=True)
    ]
    assert group_stackable(nets, data) == [[0, 2, 4], [1, 3, 5]]
    train_stacked(nets[:1] + nets[2:3], data[:2])
    assert np.ptp(nets[2].metaparameters.table()["temperature"]) > 0.1
