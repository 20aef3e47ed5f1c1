"""K students in one batched run are what they are one by one."""

import copy
import logging
import re
import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import EarlyStopping
from torch import nn

from helpers.parameter_ids import in_words
from sklearn_kd import CNNStudent, MLPStudent
from sklearn_kd.inputs._data import DistillationData, SplitData
from sklearn_kd.losses import LogitDistillation
from sklearn_kd.losses._objective import LogitObjective
from sklearn_kd.meta import Fixed, Gradient
from sklearn_kd.meta._path import MetaparameterPath
from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.runtime._execution import Execution
from sklearn_kd.tasks._targets import Targets
from sklearn_kd.training import _stackable, _stacked
from sklearn_kd.training._alone import train_alone
from sklearn_kd.training._net import TrainingNet
from sklearn_kd.training._stackable import why_not_stackable
from sklearn_kd.training._stacked import train_stacked
from sklearn_kd.training._trials import trial_losses

STARTS = ((0.2, 1.0), (0.5, 4.0), (0.9, 0.5))


def made_net(student, lambda1, temperature, *, temperature_scaling="hinton", **params):
    quick = {"lr": 0.1, "max_epochs": 3, "batch_size": 32, "verbose": 0, "strategy": Fixed()}
    loss = LogitDistillation(temperature_scaling=temperature_scaling)
    space = MetaparameterSpace(loss.metaparameters(n_classes=10))
    return TrainingNet(
        copy.deepcopy(student),
        objective=LogitObjective(loss),
        metaparameters=MetaparameterPath(space, {"lambda1": lambda1, "temperature": temperature}),
        classes=np.arange(10),
        **(quick | params),
    ).initialize()


def made_rows(digits, logits, seed, weighted=False, n=200, valid=True):
    """Rows of its own for each seed, the last batch not full."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(400)
    X, y, f = (torch.as_tensor(values[order]) for values in (*digits, logits))
    weight = torch.rand(n, generator=torch.Generator().manual_seed(seed)) * 2 if weighted else None
    train = DistillationData(X[:n], Targets(y[:n], f[:n], weight), seed)
    return SplitData(train, DistillationData(X[n:], Targets(y[n:]), seed + 1) if valid else None)


@pytest.fixture
def rows(digits, logits):
    return [made_rows(digits, logits, seed) for seed in range(3)]


def made_students(make=lambda: MLPStudent(64, 10, 16), n=3):
    """Different initial weights."""
    students = []
    for seed in range(n):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            students.append(make())
    return students


def both_ways(data, students=None, starts=STARTS, **params):
    """The nets trained one by one, and those trained together."""
    students = students or made_students(n=len(data))
    sets = [
        [made_net(student, *start, **params) for student, start in zip(students, starts, strict=True)]
        for _ in range(2)
    ]
    for net, split in zip(sets[0], data, strict=True):
        train_alone(net, split, seed=0)
    reason = why_not_stackable(sets[1], data)
    assert reason is None, reason
    train_stacked(sets[1], data)
    return sets


def assert_equal_within_rounding(apart, together):
    for one, other in zip(apart, together, strict=True):
        for w, v in zip(one.module_.parameters(), other.module_.parameters(), strict=True):
            torch.testing.assert_close(v, w, rtol=1e-4, atol=2e-6)
            assert v.is_leaf and v._base is None and v.untyped_storage().nbytes() == v.nbytes
        for field in ("epoch", "train_loss", "valid_loss", "valid_acc", "lambda1", "temperature"):
            if field not in one.history[-1]:
                assert field not in other.history[-1]
                continue
            np.testing.assert_allclose(other.history[:, field], one.history[:, field], rtol=1e-4, atol=1e-6)
        for field in ("train_batch_count", "valid_batch_count"):
            assert [e.get(field) for e in one.history] == [e.get(field) for e in other.history]
        assert len(one.history[-1]["batches"]) == len(other.history[-1]["batches"])
        for field in ("lambda1", "temperature", "val_loss", "predicted"):
            paths = (net.metaparameters.table()[field] for net in (one, other))
            np.testing.assert_array_equal(*paths)
        assert other.val_temperature_ == pytest.approx(one.val_temperature_, rel=1e-4)


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Whether it pays is not what is tested here."""
    monkeypatch.setattr(_stackable, "FEWEST", 2)
    monkeypatch.setattr(_stackable, "MOST_FLOPS", np.inf)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"optimizer__momentum": 0.9, "optimizer__nesterov": True, "optimizer__weight_decay": 1e-3},
        {"optimizer": torch.optim.Adam, "lr": 3e-3},
        {"optimizer": torch.optim.AdamW, "lr": 3e-3, "optimizer__weight_decay": 0.1},
        {"optimizer__param_groups": [("*bias", {"lr": 0.02})]},
        {"temperature_scaling": "none", "val_temperature": "auto"},
        {"iterator_train__drop_last": True, "iterator_train__shuffle": False},
    ],
    ids=in_words,
)
def test_own_rows_weights_and_metaparameters(params, rows):
    apart, together = both_ways(rows, **params)
    assert_equal_within_rounding(apart, together)
    losses = [net.history[-1, "train_loss"] for net in together]
    assert len(set(losses)) == 3  # students of their own


@pytest.mark.parametrize("optimizer", _stackable.ELEMENTWISE_OPTIMIZERS)
def test_every_optimizer_that_is_let_in_steps_weight_by_weight(optimizer, rows):
    assert_equal_within_rounding(*both_ways(rows, optimizer=optimizer, lr=1e-3, max_epochs=1))


def test_sample_weights(digits, logits):
    data = [made_rows(digits, logits, seed, weighted=seed != 1) for seed in range(3)]
    apart, together = both_ways(data)
    assert_equal_within_rounding(apart, together)
    unweighted = SplitData(made_rows(digits, logits, 0).train, None)
    plain = train_alone(made_net(made_students()[0], *STARTS[0]), unweighted, 0)
    assert abs(plain.history[-1, "train_loss"] - together[0].history[-1, "train_loss"]) > 1e-3


@pytest.mark.parametrize("taught", [(False, False, False), (True, False, True)])
def test_without_a_teacher_the_metaparameters_say_nothing(taught, rows):
    for split, has_teacher in zip(rows, taught, strict=True):
        if not has_teacher:
            split.train.set_teacher_logits(None)
    assert_equal_within_rounding(*both_ways(rows))


@pytest.mark.parametrize("copied", [False, True])
def test_the_same_rows_for_all_are_one_stream(copied, rows):
    """Also where they are copies, one of them without a teacher."""
    data = [rows[0]] * 3
    if copied:
        data = copy.deepcopy(data[:1]) + [copy.deepcopy(rows[0]) for _ in range(2)]
        data[0].train.set_teacher_logits(None)
    nets = [made_net(student, *start) for student, start in zip(made_students(), STARTS, strict=True)]
    assert _stacked._Streams(nets, data).shared
    assert_equal_within_rounding(*both_ways(data))
    other = SplitData(copy.deepcopy(rows[0].train), rows[0].valid)
    other.train.targets.labels[7] += 1
    assert not _stacked._Streams(nets, [rows[0], rows[0], other]).shared


def test_without_validation_rows(digits, logits):
    data = [made_rows(digits, logits, seed, valid=False) for seed in range(3)]
    assert_equal_within_rounding(*both_ways(data))


def test_convolutions(digits, logits):
    images = digits[0].reshape(-1, 1, 8, 8), digits[1]
    data = [made_rows(images, logits, seed) for seed in range(3)]
    students = made_students(lambda: CNNStudent((1, 8, 8), 10, (2, 2, 2), 4))
    assert_equal_within_rounding(*both_ways(data, students))


class Tied(nn.Module):
    """One weight used twice, one frozen, one not used."""

    def __init__(self):
        super().__init__()
        self.into, self.square, self.out = nn.Linear(64, 12), nn.Linear(12, 12), nn.Linear(12, 10)
        self.again = nn.Linear(12, 12)
        self.again.weight = self.square.weight
        self.out.bias.requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.out(torch.tanh(self.again(torch.tanh(self.square(self.into(x))))))


def test_shared_frozen_and_unused_weights(rows):
    students = made_students(Tied)
    apart, together = both_ways(rows, students, optimizer__weight_decay=0.1)
    assert_equal_within_rounding(apart, together)
    for student, net in zip(students, together, strict=True):
        assert net.module_.again.weight is net.module_.square.weight
        assert not net.module_.out.bias.requires_grad
        torch.testing.assert_close(net.module_.out.bias, student.out.bias, rtol=0, atol=0)
        torch.testing.assert_close(net.module_.unused, torch.ones(3), rtol=0, atol=0)


def test_the_optimizer_can_go_on(rows):
    """Its state is handed back: a second training continues the first."""
    apart, together = both_ways(rows, optimizer=torch.optim.Adam, lr=3e-3)
    for nets in (apart, together):
        for net, split in zip(nets, rows, strict=True):
            net.partial_fit(split)
    assert_equal_within_rounding(apart, together)


class Overflows(nn.Linear):
    """Overflows to inf by itself and to NaN under vmap, as sums in another order do; notes the precision."""

    seen: list = []

    def forward(self, x):
        self.seen.append(torch.get_float32_matmul_precision())
        z = super().forward(x)
        return z * (torch.nan if torch._C._functorch.is_batchedtensor(z) else torch.inf)


def test_the_comparison_with_vmap_is_of_finite_numbers_in_full_precision(rows):
    nets = [made_net(student, 1.0, 1.0) for student in made_students(lambda: Overflows(64, 10))]
    torch.set_float32_matmul_precision("high")
    try:
        Overflows.seen.clear()
        assert why_not_stackable(nets, rows) is None and Overflows.seen[-4:] == 4 * ["highest"]
    finally:
        torch.set_float32_matmul_precision("highest")


def test_one_that_diverges_keeps_finite_weights_and_disturbs_nobody(rows):
    starts = [(1.0, 1.0), (1.0, 1.0), (0.5, 2.0)]
    students = made_students()
    with torch.no_grad():
        for w in students[1].parameters():
            w.mul_(1e25)  # its logits overflow
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        apart, together = both_ways(rows, students, starts)
    diverged = [str(w.message) for w in said if w.category is ConvergenceWarning]
    assert len(diverged) == 2 and diverged[0] == diverged[1] and "epoch 1" in diverged[0]
    assert [net.diverged_ for net in together] == [False, True, False]
    assert [len(net.history) for net in together] == [len(net.history) for net in apart] == [3, 1, 3]
    for k in (0, 2):
        assert_equal_within_rounding(apart[k : k + 1], together[k : k + 1])
    for one, other in zip(apart[1].module_.parameters(), together[1].module_.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert len(together[1].metaparameters.table()) == len(apart[1].metaparameters.table())


def test_an_interrupt_ends_all_and_keeps_what_was_learned(rows, monkeypatch):
    steps, step = [], _stacked.BatchedRun.step

    def interrupted(run, *args):
        steps.append(1)
        if len(steps) == 10:  # in the second epoch of seven iterations
            raise KeyboardInterrupt
        return step(run, *args)

    monkeypatch.setattr(_stacked.BatchedRun, "step", interrupted)
    students = made_students()
    nets = [made_net(student, *start) for student, start in zip(students, STARTS, strict=True)]
    train_stacked(nets, rows)
    for student, net in zip(students, nets, strict=True):
        assert len(net.history) == 2 and net.guard_ is None
        assert not torch.equal(next(student.parameters()), next(net.module_.parameters()))


# --------------------------------------------------------------------------------------
# What cannot, or should not, be trained together


class Sways(nn.Module):
    """Depends on the values of its input."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(64, 10)

    def forward(self, x):
        return self.out(x) if x.sum() > 0 else -self.out(x)


class Scaled(nn.Module):
    """Of one architecture by all that can be seen, but for a number in no parameter."""

    def __init__(self, factor):
        super().__init__()
        self.out, self.factor = nn.Linear(64, 10), factor

    def forward(self, x):
        return self.factor * self.out(x)


def mlp(*more):
    return nn.Sequential(nn.Linear(64, 8), *more, nn.ReLU(), nn.Linear(8, 10))


@pytest.mark.parametrize(
    ("students", "params", "match"),
    [
        ([mlp(nn.BatchNorm1d(8))] * 2, {}, "buffers, which a pass may change, such as '1.running_mean'"),
        ([mlp(nn.Dropout(0.5))] * 2, {}, "vmap refuses the student: .*random"),
        ([Sways()] * 2, {}, "vmap refuses the student: .*data-dependent"),
        ([Scaled(1.0), Scaled(2.0)], {}, "does not give this student's own outputs"),
        ([mlp(), mlp(nn.Tanh())], {}, "differ in architecture"),
        ([MLPStudent(64, 10, 8), MLPStudent(64, 10, 9)], {}, "differ in architecture"),
        ([mlp()], {}, "only one student"),
        ([mlp()] * 2, {"optimizer": torch.optim.LBFGS}, "LBFGS takes its step weight by weight"),
        ([mlp()] * 2, {"callbacks": [EarlyStopping(monitor="train_loss")]}, "callbacks"),
        ([mlp()] * 2, {"verbose": 1}, "verbose"),
        ([mlp()] * 2, {"execution": Execution(compile=True)}, "execution='compiled'"),
        ([mlp()] * 2, {"execution": Execution(autocast=True)}, "bfloat16 and CUDA graphs"),
        ([mlp()] * 2, {"execution": Execution(cuda_graph=True)}, "bfloat16 and CUDA graphs"),
    ],
    ids=lambda value: "" if isinstance(value, list) else in_words(value),
)
def test_reasons_against(students, params, match, rows):
    nets = [made_net(student, 0.5, 1.0, **params) for student in students]
    before = torch.get_rng_state()
    reason = why_not_stackable(nets, rows[: len(nets)])
    assert reason is not None and torch.equal(torch.get_rng_state(), before)
    assert re.search(match, reason, re.DOTALL), reason


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"lr": 0.2}, "optimizer"),
        ({"optimizer__momentum": 0.9}, "optimizer"),
        ({"batch_size": 16}, "rows and batches"),
        ({"max_epochs": 4}, "max_epochs"),
        ({"temperature_scaling": "none"}, "loss"),
    ],
    ids=in_words,
)
def test_what_must_be_alike(change, match, rows):
    nets = [made_net(mlp(), 0.5, 1.0), made_net(mlp(), 0.5, 1.0, **change)]
    assert f"differ in {match}" in why_not_stackable(nets, rows[:2])


def test_numbers_of_rows_must_be_alike(digits, logits):
    data = [made_rows(digits, logits, 0, n=n) for n in (200, 201)]
    assert "differ in rows" in why_not_stackable([made_net(mlp(), 0.5, 1.0) for _ in data], data)


def test_one_that_has_been_trained_is_left_alone(rows):
    nets = [made_net(mlp(), 0.5, 1.0) for _ in range(2)]
    nets[0].partial_fit(rows[0])
    assert "trained before" in why_not_stackable(nets, rows[:2])


def test_on_a_cpu_it_must_pay(rows, monkeypatch):
    monkeypatch.undo()
    small, wide = MLPStudent(64, 10, 16), MLPStudent(64, 10, (512, 512))
    for student, n, match in (
        (small, _stackable.FEWEST - 1, f"fewer than {_stackable.FEWEST} students"),
        (small, _stackable.FEWEST, None),
        (wide, _stackable.FEWEST, "this student's takes 1.9e+07"),
    ):
        reason = why_not_stackable([made_net(student, 0.5, 1.0) for _ in range(n)], (rows * 2)[:n])
        assert (reason is None) if match is None else (match in reason)


def test_division_and_its_log(rows, digits, logits, caplog):
    fewer = made_rows(digits, logits, 0, n=150)
    nets = [made_net(MLPStudent(64, 10, 8), 0.5, 1.0) for _ in range(5)]
    nets += [made_net(MLPStudent(64, 10, 8), 0.5, 1.0, strategy=Gradient(hypergradient="jvp"))]
    data = [rows[0], fewer, rows[1], fewer, rows[2], rows[0]]
    with caplog.at_level(logging.INFO, logger="sklearn_kd"):
        groups = _stackable.group_stackable(nets, data)
    assert sorted(groups) == [[0, 2, 4], [1, 3], [5]]
    assert "3 students are trained together" in caplog.text
    assert "one by one, because Gradient takes hypergradients by" in caplog.text


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_trial_losses_however_they_are_computed(n_jobs, rows, monkeypatch):
    def nets():
        student = made_students()[0]
        return [made_net(student, *start) for start in STARTS]

    found = [{}, {}]
    together = trial_losses(nets(), rows[0], 0, note=lambda endings, _: found[0].update(endings))
    monkeypatch.setattr(_stackable, "why_not_stackable", lambda nets, data: "of the test")
    apart = trial_losses(nets(), rows[0], 0, n_jobs, note=lambda endings, _: found[1].update(endings))
    np.testing.assert_allclose(together, apart, rtol=1e-5)
    assert len(set(apart)) == 3
    for k, loss in enumerate(apart):  # weights come back from other processes
        ours, theirs = (endings[k] for endings in found)
        assert theirs.loss == loss and ours.averaged == theirs.averaged
        for name, weights in ours.weights.items():
            np.testing.assert_allclose(weights, theirs.weights[name], rtol=1e-4, atol=1e-5)


def test_equal_inputs_are_held_once(rows):
    data = [rows[0], copy.deepcopy(rows[0]), rows[1]]
    _stacked.share_inputs(data)
    assert data[1].train.X is data[0].train.X and data[1].valid.X is data[0].valid.X
    assert data[2].train.X is not data[0].train.X


# --------------------------------------------------------------------------------------
# Steps that are not finite


@pytest.mark.parametrize(
    "settings", [{}, {"optimizer__momentum": 0.9}, {"optimizer": torch.optim.Adam, "lr": 1e-3}]
)
def test_a_skipped_step_is_skipped_for_one_student_alone(rows, monkeypatch, settings):
    """The third and the first step of the second student, which goes on afterwards."""
    seen, moved, find, step = [], [], _stacked.are_finite, _stacked.BatchedRun.step

    def spoilt(losses, gradients):
        seen.append(1)
        if len(seen) in (1, 3):
            for g in gradients:
                g[1] = torch.nan
        return find(losses, gradients)

    def watched(run, *args):
        before = [w.detach().clone() for w in run.weights.values()]
        result = step(run, *args)
        moved.append(
            [
                not all(torch.equal(w[k], b[k]) for w, b in zip(run.weights.values(), before, strict=True))
                for k in range(3)
            ]
        )
        return result

    monkeypatch.setattr(_stacked, "are_finite", spoilt)
    monkeypatch.setattr(_stacked.BatchedRun, "step", watched)
    nets = [
        made_net(student, *start, **settings) for student, start in zip(made_students(), STARTS, strict=False)
    ][:3]
    with pytest.warns(ConvergenceWarning, match="2 of .* steps were skipped.*first in iteration 0"):
        train_stacked(nets, rows[:3])
    assert [m[1] for m in moved[:5]] == [False, True, False, True, True]
    assert all(m[0] and m[2] for m in moved)
    assert [sum(net.history[:, "skipped_steps"]) for net in nets] == [0, 2, 0]
    assert all(torch.isfinite(w).all() for net in nets for w in net.module_.parameters())
