"""Steps that are not finite change nothing, and no estimator predicts NaN."""

import copy
import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback, GradientNormClipping
from torch import nn

from sklearn_kd.bilevel._hypergradient import HypergradientEstimator
from sklearn_kd.inputs._data import DistillationData, SplitData
from sklearn_kd.losses import LogitDistillation
from sklearn_kd.meta import PAPER_SETTINGS, _path
from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.runtime import _devices
from sklearn_kd.runtime._snapshots import undo_where
from sklearn_kd.training import _net
from sklearn_kd.training._divergence import OverflowCheck
from sklearn_kd.training._nonfinite import MOST_SKIPPED_IN_A_ROW, Skips, is_finite

OPTIMIZERS = {
    "SGD": {},
    "momentum": {"optimizer__momentum": 0.9, "optimizer__weight_decay": 0.01},
    "Adam": {"optimizer": torch.optim.Adam, "lr": 1e-2},
}


@pytest.fixture(params=["numbers can be read", "no number can be read"])
def reading(request, monkeypatch):
    """Both ways: with the optimizer not called, and with its step undone by the device."""
    if request.param == "no number can be read":
        for module in (_devices, _path, _net):
            monkeypatch.setattr(module, "reading_is_free", lambda tensor: False)
    return request.param


class Spoils(Callback):
    """Spoils the given batches of D_train; notes all that training may move, after each batch."""

    def __init__(self, spoilt, value=np.nan):
        self.spoilt, self.value = spoilt, value

    def initialize(self):
        self.n_, self.states_ = 0, []
        return self

    def on_batch_begin(self, net, batch=None, training=False, **kwargs):
        if training:
            if not self.states_:
                self.states_.append(everything(net))
            if self.n_ in self.spoilt:
                batch[0][:] = self.value  # a copy of the rows, made for the batch
            self.n_ += 1

    def on_batch_end(self, net, training=False, **kwargs):
        if training:
            self.states_.append(everything(net))


def everything(net):
    """Weights, buffers, states of both optimizers, and the metaparameters."""
    weights = copy.deepcopy(net.module_.state_dict())
    path = net.metaparameters
    (group,) = path._groups
    states = [copy.deepcopy(o.state_dict()["state"]) for o in (net.optimizer_, group._optimizer)]
    if group.theta.is_cuda:  # Adam's count is on the host, and put right when the epoch ends
        for state in (own for states_of in states for own in states_of.values()):
            if "step" in state and not state["step"].is_cuda:
                del state["step"]
    return weights, states[0], states[1], group.theta.detach().clone(), path._now.clone()


def unequal(a, b):
    """The names of what differs, where what is not there is as good as zero."""
    found = []
    for part, (one, other) in enumerate(zip(a, b, strict=True)):
        flat = [dict(flattened(part, values)) for values in (one, other)]
        for name in flat[0].keys() | flat[1].keys():
            values = [torch.as_tensor(f[name]) if name in f else None for f in flat]
            values = [torch.zeros_like(values[1 - k]) if v is None else v for k, v in enumerate(values)]
            if not torch.equal(*values):
                found.append(name)
    return found


def flattened(name, values):
    if isinstance(values, dict):
        for key, value in values.items():
            yield from flattened(f"{name}/{key}", value)
    elif values is not None:
        yield name, values


def student():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 10)
        )


class CountsSteps(Callback):
    """Notes Adam's count of steps after each epoch."""

    def on_epoch_end(self, net, **kwargs):
        self.n_ = {int(state["step"]) for state in net.optimizer_.state.values()}


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:.*capturable=True:UserWarning")
@pytest.mark.parametrize("capturable", [False, True])
def test_skipped_steps_on_a_gpu_are_not_counted_by_adam(capturable, make, digits, logits):
    adam = {"optimizer": torch.optim.Adam, "optimizer__capturable": capturable, "lr": 1e-2}
    callbacks = [Spoils({0, 3, 4}), CountsSteps()]
    clf = make(student=student(), meta="gradient", callbacks=callbacks, device="cuda", max_epochs=1, **adam)
    with pytest.warns(ConvergenceWarning, match="3 of 12 steps were skipped"):
        clf.fit(*digits, teacher_logits=logits)
    assert callbacks[1].n_ == {9}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("meta_optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("clips", [False, True])
def test_a_skipped_step_moves_nothing(make, digits, logits, reading, optimizer, meta_optimizer, clips):
    watch = Spoils({0, 3, 4})
    callbacks = [watch, *([GradientNormClipping(1.0)] if clips else [])]
    settings = {
        "meta": "gradient",
        "meta__optimizer": meta_optimizer,
        "meta__lr": 0.1,
        "callbacks": callbacks,
    }
    clf = make(student=student(), max_epochs=2, **settings, **OPTIMIZERS[optimizer])
    with pytest.warns(
        ConvergenceWarning, match="3 of 2[0-9] steps were skipped.*first in iteration 0"
    ) as said:
        clf.fit(*digits, teacher_logits=logits)
    assert len(said) == 1
    assert clf.history_[:, "skipped_steps"] == [3, 0]
    # Adam's own hypergradients begin later, and there are as many that vanish with the first step.
    for n, (before, after) in enumerate(zip(watch.states_, watch.states_[1:], strict=False)):
        assert (unequal(before, after) == []) == (n in {0, 3, 4}), f"iteration {n}"
    assert np.isfinite(clf.predict_proba(digits[0])).all()
    path = clf.metaparameter_path_
    assert np.isfinite(path["lambda1"]).all() and path["lambda1"][0] == 0.5


def test_both_ways_are_one(make, digits, logits, monkeypatch):
    """What the device undoes is what the host does not do."""

    def fit():
        clf = make(
            student=student(), meta="linear", e1=3, e2=4, optimizer__momentum=0.9, callbacks=[Spoils({2, 9})]
        )
        with pytest.warns(ConvergenceWarning):
            return clf.fit(*digits, teacher_logits=logits)

    read = fit()
    for module in (_devices, _path, _net):
        monkeypatch.setattr(module, "reading_is_free", lambda tensor: False)
    unread = fit()
    np.testing.assert_allclose(
        read.metaparameter_path_["lambda1"], unread.metaparameter_path_["lambda1"], atol=2e-4
    )
    for a, b in zip(read.student_.parameters(), unread.student_.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert read.history_[:, "skipped_steps"] == unread.history_[:, "skipped_steps"]


@pytest.mark.parametrize("meta", ["fixed", "linear", "gradient"])
def test_too_many_in_a_row_end_the_fit(make, digits, logits, reading, meta):
    """With what there was before the first of them, and a word on where that was."""
    watch = Spoils(range(3, 1000), value=np.inf)
    clf = make(meta=meta, max_epochs=9, lambda1=0.25, temperature=2.0, e1=2, e2=2, callbacks=[watch])
    with pytest.warns(ConvergenceWarning, match=r"iterations 3 to 12 .*\(lambda1=0\.\d+, temp") as said:
        clf.fit(*digits, teacher_logits=logits)
    assert len(said) == 1 and "The weights before iteration 3 are kept" in str(said[0].message)
    assert clf.net_.diverged_ and len(clf.history_) <= 2
    assert sum(clf.history_[:, "skipped_steps"]) >= MOST_SKIPPED_IN_A_ROW
    assert all(torch.equal(w, clf.student_.state_dict()[k]) for k, w in watch.states_[3][0].items())


def test_runs_are_counted_over_the_ends_of_epochs(make, digits, logits):
    """Eight of ten iterations, and two of the next epoch."""
    n = len(make(meta="naive", max_epochs=1).fit(*digits, teacher_logits=logits).metaparameter_path_)
    clf = make(meta="naive", max_epochs=3, callbacks=[Spoils(range(n - 8, n + 2))])
    with pytest.warns(ConvergenceWarning, match=f"iterations {n - 8} to {n + 1} "):
        clf.fit(*digits, teacher_logits=logits)
    assert clf.history_[:, "skipped_steps"] == [8, 2]


def test_infinite_hypergradients_are_not_followed(make, digits, logits, monkeypatch, reading):
    take = HypergradientEstimator.hypergradient

    def infinite(record, *args, **kwargs):
        h, loss = take(record, *args, **kwargs)
        return h * torch.inf, loss

    monkeypatch.setattr(HypergradientEstimator, "hypergradient", infinite)
    clf = make(meta="gradient", meta__clip=1.0, meta__lr=0.1, max_epochs=1)
    with pytest.warns(ConvergenceWarning, match="0 of .* hypergradients that were not finite"):
        clf.fit(*digits, teacher_logits=logits)
    assert set(clf.metaparameter_path_["lambda1"]) == {0.5}
    assert clf.history_[-1, "skipped_hypergradients"] == clf.n_iter_
    assert clf.history_[-1, "skipped_steps"] == 0


def test_weights_that_are_finite_but_too_large_are_given_up(make, digits, logits):
    class Inflates(Callback):
        def on_batch_end(self, net, training=False, **kwargs):
            if training and len(net.history) == 2:
                with torch.no_grad():
                    for w in net.module_.parameters():
                        w.fill_(1e30)

    with pytest.warns(ConvergenceWarning, match="The weights from the end of epoch 1 are kept"):
        clf = make(meta="none", max_epochs=4, callbacks=[Inflates()]).fit(*digits)
    assert len(clf.history_) == 2 and np.isfinite(clf.predict_proba(digits[0])).all()
    assert all(float(w.abs().max()) < 100 for w in clf.student_.parameters())


def test_healthy_fits_say_nothing_and_count_nothing(make, digits, logits):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf = make(meta="linear", max_epochs=3).fit(*digits, teacher_logits=logits)
    assert clf.history_[:, "skipped_steps"] == clf.history_[:, "skipped_hypergradients"] == [0] * 3
    assert clf.net_.guard_ is None


def test_metaparameters_stay_within_bounds_at_any_rate(make, digits, logits):
    for meta_optimizer in (torch.optim.SGD, torch.optim.Adam):
        clf = make(meta="gradient", meta__lr=1e300, meta__optimizer=meta_optimizer, meta__coordinates="raw")
        path = clf.fit(*digits, teacher_logits=logits).metaparameter_path_
        assert ((path["lambda1"] >= 0) & (path["lambda1"] <= 1)).all()
        assert ((path["temperature"] >= 1) & (path["temperature"] <= 10)).all()


def test_a_schedule_that_is_not_finite_leaves_them_where_they_are():
    space = MetaparameterSpace(LogitDistillation().metaparameters(n_classes=10))
    path = _path.MetaparameterPath(space, {"lambda1": 0.25, "temperature": 2.0})
    path.schedule(torch.tensor([[torch.nan, 0.0], [2.0, torch.inf]]))
    path.apply_scheduled()
    path.apply_scheduled()
    np.testing.assert_allclose(path.table()["lambda1"], [0.25, 1])
    np.testing.assert_allclose(path.table()["temperature"], [1, 2])


@pytest.mark.parametrize("meta", ["none", "naive", "random", "gradient", "linear"])
@pytest.mark.parametrize("lr", [1.0, 30.0, 1e3, 1e10, 1e30])
def test_the_papers_setting_and_far_beyond(make, digits, logits, meta, lr):
    """Every divergence is reported, and none leaves NaN behind."""
    for seed in range(2):
        clf = make(**(PAPER_SETTINGS | {"meta": meta, "lr": lr, "max_epochs": 3, "random_state": seed}))
        clf.set_params(batch_size=16)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            clf.fit(*digits, teacher_logits=10 * logits)
        said = [w for w in said if issubclass(w.category, ConvergenceWarning)]
        assert np.isfinite(clf.predict_proba(digits[0])).all()
        assert all(torch.isfinite(w).all() for w in clf.student_.state_dict().values())
        assert np.isfinite(clf.metaparameter_path_["lambda1"]).all()
        wrong = clf.net_.diverged_ or any(clf.history_[:, "skipped_steps"])
        # A student that learned nothing by finite steps is told of too, but not one that was given up.
        learned = [w for w in said if "learned nothing" in str(w.message)]
        assert len(learned) <= clf.net_.collapsed_ and not (learned and clf.net_.diverged_)
        assert len(said) - len(learned) == bool(wrong), [str(w.message) for w in said]


# --------------------------------------------------------------------------------------
# The parts


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
)
def test_undone_to_the_bit(dtype):
    rng = torch.Generator().manual_seed(0)
    now, before = ((100 * torch.randn(3, 4, generator=rng)).to(dtype) for _ in range(2))
    if dtype.is_floating_point:
        now[0, :3] = torch.tensor([torch.nan, torch.inf, -0.0])
    for bad in (torch.tensor(True), torch.tensor(False), torch.tensor([True, False, True])):
        t = now.clone()
        undo_where(bad, [t], [before])
        rows = bad.expand(3)
        assert torch.equal(t[rows], before[rows])
        torch.testing.assert_close(t[~rows], now[~rows], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_what_is_finite(wrong):
    gradients = [torch.full((3, 2), 1e37), torch.full((4,), -1e37)]
    loss = torch.tensor(1.0)
    assert is_finite(loss, gradients) and is_finite(loss, [])
    assert not is_finite(torch.tensor(wrong), gradients)
    gradients[1][2] = wrong
    assert not is_finite(loss, gradients)


def test_a_run_ends_with_a_good_step():
    skips = Skips()
    for outcome in [3] * 9 + [0] + [3] * 9:
        assert not skips.note(outcome)
    assert skips.note(3) and (skips.run, skips.in_a_row, skips.first) == (10, 10, 0)
    assert skips.end_epoch(torch.optim.SGD([torch.zeros(1)])) == (19, 0)


def test_all_rows_are_tried_where_some_are_near_overflow():
    """A row of small values may be the one that overflows."""
    X = torch.ones(100, 2)
    X[50] = torch.tensor([0.1, -0.9])
    check = OverflowCheck(SplitData(DistillationData(X), None))
    net = nn.Linear(2, 3)
    with torch.no_grad():
        net.weight.copy_(3e38 * torch.tensor([[1.0, -1.0]] * 3))
        net.bias.fill_(2e38)
    assert not check.passed_by(net)
    with torch.no_grad():
        net.weight /= 10
    assert check.passed_by(net)
