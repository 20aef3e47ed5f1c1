"""Several processes that train one student: what they end with is what one process ends with."""

import copy
import os
import signal
import warnings
from contextlib import ExitStack
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist
from skorch.callbacks import Callback, EarlyStopping, EpochScoring
from torch import nn
from torch.distributed.nn.functional import all_reduce

from sklearn_kd.inputs._data import DistillationData, SplitData
from sklearn_kd.losses._logit_distillation import LogitDistillation
from sklearn_kd.losses._objective import LogitObjective
from sklearn_kd.meta import Fixed, ForwardGradient, Gradient, ImplicitGradient, Linear, _path
from sklearn_kd.meta._path import MetaparameterPath
from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.runtime import _devices
from sklearn_kd.runtime._execution import Execution
from sklearn_kd.runtime._ranks import ALONE, LostRanks, Ranks
from sklearn_kd.tasks._targets import Targets
from sklearn_kd.training import _net, _shared
from sklearn_kd.training._alone import train_alone
from sklearn_kd.training._net import TrainingNet
from sklearn_kd.training._trainer_state import TrainerState


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
        name: [row.get(name) for row in net.history]  # None of an epoch that was ended
        for name in ("train_loss", "valid_loss", "valid_acc", "skipped_steps", "lambda1")
    }
    return SimpleNamespace(
        weights=[w.detach() for w in net.module_.state_dict().values()],
        path=np.stack([path.table()[name] for name in ("lambda1", "temperature")]),
        n=path.iteration,
        history=history,
        val_temperature=net.val_temperature_,
        interrupted=net.interrupted_,
        diverged=net.diverged_,
    )


def assert_equal(found, expected, atol):
    for a, b in zip(found.weights, expected.weights, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)
    assert found.n == expected.n and found.path.shape == (2, found.n)
    np.testing.assert_allclose(found.path, expected.path, rtol=0, atol=atol)
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
    "micro-batches": (
        Gradient(hypergradient="jvp", hypergradient_rows=9),
        SGD | {"execution": Execution(micro_batches=3)},
        1e-13,
    ),
    "T_val": (Gradient(hypergradient="exact"), SGD | {"val_temperature": "auto"}, 1e-7),
    "forward mode": (ForwardGradient(every=2), SGD, 1e-7),
    "forward mode, Hessian": (
        ForwardGradient(curvature="hessian", hypergradient="central_difference"),
        ADAM,
        1e-6,
    ),
    "implicit": (ImplicitGradient(every=2), SGD, 1e-6),
}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_where_one_does(case, two):
    strategy, params, atol = CASES[case]
    expected = fitted(ALONE, strategy, **copy.deepcopy(params))
    for found in two.run(_fitted_by, strategy, params):
        assert_equal(found, expected, atol)


def _fitted_by(ranks, strategy, params):
    return fitted(ranks, strategy, **params)


class Synchronised(nn.Module):
    """Batch normalisation by the statistics of all processes' rows."""

    def __init__(self, n):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(n))

    def forward(self, x):
        if dist.is_initialized():
            mean, square = (_mean_of_all(t.mean(0)) for t in (x, x * x))
        else:
            mean, square = x.mean(0), (x * x).mean(0)
        return self.scale * (x - mean) / (square - mean**2 + 1e-5).sqrt()


def _mean_of_all(t):
    return all_reduce(t) / dist.get_world_size()


class Chooses(nn.Module):
    """One weight is used where some row is large, one never."""

    def __init__(self):
        super().__init__()
        self.often, self.rarely = nn.Linear(20, 5), nn.Linear(20, 5)
        self.never = nn.Linear(20, 5)

    def forward(self, x):
        rows = x[:, 0] > 2.2
        logits = self.often(x)
        return logits + rows[:, None] * self.rarely(x) if bool(rows.any()) else logits


def made(kind):
    torch.manual_seed(3)
    if kind == "chooses":
        return Chooses().double()
    norm = {"synchronised": Synchronised, "local": nn.BatchNorm1d}[kind](16)
    return nn.Sequential(nn.Linear(20, 16), norm, nn.Tanh(), nn.Linear(16, 5)).double()


def _made_by(ranks, kind, strategy, params):
    return fitted(ranks, strategy, rows(96, 64), made(kind), **params)


EVEN = {"batch_size": 32, "max_epochs": 2} | SGD


@pytest.mark.parametrize(
    ("method", "atol"), [("exact", 1e-12), ("finite_difference", 1e-7), ("central_difference", 1e-7)]
)
def test_synchronised_normalisation_is_that_of_one_process(method, atol, two):
    strategy = Gradient(hypergradient=method)
    expected = _made_by(ALONE, "synchronised", strategy, EVEN)
    for found in two.run(_made_by, "synchronised", strategy, EVEN):
        assert_equal(found, expected, atol)


def test_weights_that_some_batches_do_not_use(two):
    """Weight decay and momentum move a weight with a gradient of 0, and none without one."""
    params = EVEN | {"optimizer__weight_decay": 0.1, "batch_size": 8}
    strategy = Gradient(hypergradient="exact")
    expected = _made_by(ALONE, "chooses", strategy, params)
    start = made("chooses").state_dict().values()
    moved = [not torch.equal(a, b) for a, b in zip(start, expected.weights, strict=True)]
    assert moved == [True, True, True, True, False, False]
    for found in two.run(_made_by, "chooses", strategy, params):
        assert_equal(found, expected, 1e-12)


class Unfreezes(Callback):
    def on_epoch_begin(self, net, **kwargs):
        net.module_[0].weight.requires_grad_(len(net.history) > 1)


def _unfrozen_by(ranks):
    return fitted(ranks, Gradient(hypergradient="exact"), callbacks=[Unfreezes()], **EVEN)


def test_weights_that_a_callback_freezes_and_unfreezes(two):
    expected = _unfrozen_by(ALONE)
    assert not torch.equal(expected.weights[0], student()[0].weight)
    for found in two.run(_unfrozen_by):
        assert_equal(found, expected, 1e-12)


def assert_same(a, b):
    """To the bit."""
    assert all(torch.equal(x, y) for x, y in zip(a.weights, b.weights, strict=True))
    assert a.path.tobytes() == b.path.tobytes() and a.history == b.history and a.n == b.n


def test_local_normalisation_is_another_training_and_the_same_in_all_processes(two):
    strategy = Gradient()
    first, second = two.run(_made_by, "local", strategy, EVEN)
    assert_same(first, second)
    alone = _made_by(ALONE, "local", strategy, EVEN)
    assert first.history["train_loss"] == pytest.approx(alone.history["train_loss"], rel=0.1)
    assert not torch.equal(first.weights[0], alone.weights[0])


def _drawing(ranks):
    data = rows(96, 64)
    drawn = []

    def noisy(x):
        drawn.append(torch.randn(len(x), 1))
        return x + 0.1 * drawn[-1]

    data.train.augmentation = (noisy, None)
    found = fitted(ranks, Gradient(), data, student(dropout=0.5), **EVEN)
    return found, torch.cat(drawn)


def test_each_process_draws_its_own_dropout_and_augmentation(two):
    (first, drawn), (second, others) = two.run(_drawing)
    assert_same(first, second)
    assert drawn.shape == others.shape == (96, 1) and not (drawn == others).any()


class EndsIn(Callback):
    """Ends the fit in one process, by a method in the fourth call."""

    def __init__(self, rank, method, how):
        self.rank, self.how, self.n = rank, how, 0
        setattr(self, method, self.called)

    def called(self, net, **kwargs):
        self.n += 1
        if self.n == 4 and net.ranks.rank == self.rank:
            if self.how == "signal":
                os.kill(os.getpid(), signal.SIGINT)
            else:
                raise KeyboardInterrupt


def _ended(ranks, method, how):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    found = fitted(ranks, Gradient(), callbacks=[EndsIn(1, method, how)], max_epochs=6, batch_size=33)
    return found, signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("how", ["signal", "raise"])
@pytest.mark.parametrize(
    ("method", "n"),
    [("on_batch_end", 3), ("on_grad_computed", 4), ("on_epoch_end", 3 * 4), ("on_epoch_begin", 3 * 3)],
)
def test_what_ends_one_process_ends_all_after_the_same_iteration(how, method, n, two):
    """The fourth end of a batch is that of the first batch of D_val: the epoch ends."""
    for found, restored in two.run(_ended, method, how):
        assert found.n == n and found.interrupted == (how == "signal") and restored
    (first, _), (second, _) = two.run(_ended, method, how)
    assert_same(first, second)


class InterruptedTwice(Callback):
    def on_batch_end(self, net, **kwargs):
        if net.ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGINT)


def _left(ranks):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    own = Ranks.joined(timeout=5.0)
    try:
        fitted(own, Gradient(), callbacks=[InterruptedTwice(), InterruptedTwice()])
    except LostRanks as error:
        return str(error)
    finally:
        ranks.barrier()
        own.close()


def test_a_second_interrupt_ends_all_by_an_error(two):
    first, second = two.run(_left)
    assert (
        first.startswith("Process 0 of 2 lost the others") and second == "Process 1 of 2 has left the others."
    )


def _stopped_early(ranks):
    stopping = EarlyStopping(monitor="valid_loss", patience=2, threshold=0.5)
    on_train = EpochScoring("accuracy", on_train=True, name="train_acc", lower_is_better=False)
    net_history = {}

    class Keep(Callback):
        def on_epoch_end(self, net, **kwargs):
            net_history["train_acc"] = net.history[:, "train_acc"]

    found = fitted(ranks, Fixed(), callbacks=[on_train, stopping, Keep()], max_epochs=9)
    return found, net_history["train_acc"]


def test_callbacks_see_all_rows(two):
    expected, accuracy = _stopped_early(ALONE)
    assert len(expected.history["lambda1"]) < 9
    for found, of_train in two.run(_stopped_early):
        assert_equal(found, expected, 1e-12)
        assert of_train == pytest.approx(accuracy)


def _faulty(ranks, lr):
    data = rows(weighted=False)
    if not lr:
        data.train._targets.teacher_logits[7] = torch.nan
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = fitted(ranks, Gradient(), data, nn.Linear(20, 5).double() if lr else None, lr=lr or 0.1)
    return found, [str(w.message) for w in caught]


@pytest.mark.parametrize("lr", [0, 1e200])
def test_steps_that_are_not_finite_are_skipped_in_all_processes(lr, two):
    """A row of one process alone; or a learning rate that ends the training."""
    expected, warned = _faulty(ALONE, lr)
    assert warned and expected.diverged == bool(lr)
    assert expected.history["skipped_steps"] == ([0] if lr else [1, 1, 1])
    for found, messages in two.run(_faulty, lr):
        assert_equal(found, expected, 1e300 if lr else 1e-7)
        assert messages == warned


def _as_on_a_device(ranks, spoils, ends):
    data = rows(96, 64, weighted=False)
    if spoils:
        data.train._targets.teacher_logits[7] = torch.nan
    callbacks = [EndsIn(1, "on_grad_computed", "raise")] if ends else []
    with ExitStack() as stack:
        for module in (_devices, _net, _path, _shared):
            stack.enter_context(patch.object(module, "reading_is_free", lambda tensor: False))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        return fitted(
            ranks,
            Gradient(),
            data,
            callbacks=callbacks,
            **EVEN | {"batch_size": 4 if ends else 16, "max_epochs": 3},
        )


@pytest.mark.parametrize("spoils", [False, True])
def test_on_a_device_where_no_number_is_free_to_read(spoils, two):
    expected = _as_on_a_device(ALONE, spoils, False)
    assert expected.history["skipped_steps"] == [int(spoils)] * 3
    for found in two.run(_as_on_a_device, spoils, False):
        assert_equal(found, expected, 1e-7)


def test_on_a_device_a_request_to_end_is_read_later(two):
    """Sent in iteration 4, and read eight iterations later, of which none waits for it."""
    first, second = two.run(_as_on_a_device, False, True)
    assert_same(first, second)
    assert first.n == 4 + _shared._LATE


@pytest.mark.gpu
@pytest.mark.parametrize("norm", [None, nn.BatchNorm1d, nn.SyncBatchNorm])
@pytest.mark.parametrize("method", ["exact", "finite_difference"])
def test_two_processes_on_one_gpu(norm, method, two):
    """Their messages go over gloo: NCCL wants a GPU for each."""
    expected = _on_gpu(ALONE, nn.BatchNorm1d if norm is nn.SyncBatchNorm else norm, method)
    first, second = two.run(_on_gpu, norm, method)
    assert_same(first, second)
    if norm is not nn.BatchNorm1d:
        assert_equal(first, expected, 1e-9 if method == "exact" else 1e-5)


def _on_gpu(ranks, norm, method):
    torch.manual_seed(3)
    layers = [nn.Linear(20, 16), *([norm(16)] if norm else []), nn.Tanh(), nn.Linear(16, 5)]
    module, data = nn.Sequential(*layers).double().cuda(), rows(96, 64)
    on_gpu = [
        InFloat64(
            part._inputs.cuda(), Targets(*(None if t is None else t.cuda() for t in part._targets)), part.seed
        )
        for part in data
    ]
    found = fitted(ranks, Gradient(hypergradient=method), SplitData(*on_gpu), module, device="cuda", **EVEN)
    found.weights = [w.cpu() for w in found.weights]
    return found


def _differing(ranks, what):
    params = {"max_epochs": 3 + ranks.rank} if what == "max_epochs" else {}
    if what == "the student's weights":
        params = {"callbacks": [StepsApart()]}
    data = rows(100 + ranks.rank) if what == "D_train" else rows()
    module = student()
    if what == "the student's layers" and ranks.rank:
        module[3] = nn.Linear(16, 5, bias=False).double()
    try:
        fitted(ranks, Gradient(), data, module, **params)
    except RuntimeError as error:
        return str(error)


class StepsApart(Callback):
    """Sets another learning rate in each process, as a schedule may that monitors what differs."""

    def on_epoch_begin(self, net, **kwargs):
        net.optimizer_.param_groups[0]["lr"] *= 1 + 1e-6 * net.ranks.rank


@pytest.mark.parametrize("what", ["max_epochs", "D_train", "the student's layers", "the student's weights"])
def test_processes_that_do_different_things_are_refused(what, two):
    for message in two.run(_differing, what):
        assert f"differ in {what}. Call fit with the same arguments" in message


def _in_bfloat16(ranks):
    data = rows(96, 64)
    data = SplitData(*(DistillationData(part._inputs, part._targets, part.seed) for part in data))
    execution = Execution(autocast=True)
    return fitted(ranks, Linear(e1=2, e2=2), data, student().float(), execution=execution, **EVEN)


def test_autocast(two):
    """Passes of half as many rows round otherwise, in eight bits."""
    expected = _in_bfloat16(ALONE)
    first, second = two.run(_in_bfloat16)
    assert_same(first, second)
    assert_equal(first, expected, 0.02)


def _restored(ranks):
    found = []

    class Reload(Callback):
        def on_epoch_end(self, net, **kwargs):
            torch.manual_seed(100 + ranks.rank)
            before = torch.get_rng_state()
            state = ranks.broadcast(TrainerState(net).state_dict())
            torch.manual_seed(0)
            TrainerState(net).load_state_dict(state)
            found.append(torch.equal(torch.get_rng_state(), before))

    fitted(ranks, Gradient(), rows(96, 64), student(0.5), callbacks=[Reload()], **EVEN)
    return found


def test_each_process_goes_on_with_its_own_draws(two):
    assert two.run(_restored) == [[True, True]] * 2


class MovesApart(Callback):
    def on_epoch_end(self, net, **kwargs):
        with torch.no_grad():
            net.metaparameters._now += 1e-6 * net.ranks.rank
            net.metaparameters._numbers = None


def _come_apart(ranks):
    try:
        fitted(ranks, Gradient(), callbacks=[MovesApart()])
    except RuntimeError as error:
        return str(error)


def test_metaparameters_that_come_apart_are_noticed(two):
    assert all("differ in lambda1, temperature" in message for message in two.run(_come_apart))


def _refused(ranks, kind):
    module = nn.Sequential(nn.Linear(20, 5), nn.SyncBatchNorm(5)).double() if kind == "norm" else None
    if kind == "sparse":
        module = nn.EmbeddingBag(3, 5, sparse=True)
    execution = Execution(compile=True) if kind == "compiled" else None
    batch_size = 3 if kind == "batch_size" else 32
    try:
        data = rows(n_val=3) if kind == "D_val" else None
        fitted(ranks, Gradient(), data, module, execution=execution, batch_size=batch_size)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("norm", "SyncBatchNorm layers, which torch only supports on GPUs"),
        ("compiled", "execution=Execution(compile=True) fixes the operations"),
        ("batch_size", "there are batches of 3. Give a batch_size of at least 4"),
        (
            "D_val",
            "there are batches of 3. Give a batch_size of at least 4, and at least as many rows in D_train and in D_val",
        ),
        ("sparse", "layers with sparse=True"),
    ],
)
def test_what_cannot_be_shared_is_refused(kind, said, two):
    assert all(said in message for message in two.run(_refused, kind))
