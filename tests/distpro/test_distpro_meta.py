"""A search that predicts some of its steps, and lambda1 and T learned with the pathways."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from torch.func import functional_call

from helpers.callbacks import CountsPasses, PassesPerStep
from helpers.hypergradients import ready_net, relative_error, search_net
from sklearn_kd import DistillationProcess, DistilledClassifier
from sklearn_kd.bilevel._hypergradient import METHODS, HypergradientEstimator
from sklearn_kd.distpro._importance import (
    IMPORTANCE,
    RAW_BOUNDS,
    importance_factors,
    importance_steps,
)
from sklearn_kd.distpro._process import retraining_logit_term
from sklearn_kd.layers._hooks import feature_hooks
from sklearn_kd.losses import LogitDistillation
from sklearn_kd.meta import Gradient, Linear
from sklearn_kd.meta._path import MetaOptimizer, MetaparameterPath
from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.runtime import _backward
from sklearn_kd.training._alone import train_alone

# --------------------------------------------------------------------------------------
# Predicted steps


@pytest.mark.parametrize(
    ("meta", "forward", "backward"),
    [({"meta": "linear", "e1": 3, "e2": 2}, [3, 3, 3, 1, 1], 8), ({"meta": "gradient", "e1": 3, "e2": 2}, [3] * 5, 10),
     ({"meta": Linear(e1=2, e2=4)}, [3, 3, 1, 1, 1], 7)], ids=["linear", "gradient", "an object"],
)  # fmt: skip
@pytest.mark.parametrize("logit_weight", [0.0, "learned"])
def test_passes_of_five_steps(meta, forward, backward, logit_weight, make_distpro, images, monkeypatch):
    """A predicted step has those of plain training, and lambda1 and T cost no pass."""
    calls = []
    monkeypatch.setattr(_backward, "_engine", lambda: None)  # so that all passes are called by name
    for name in ("backward", "grad"):
        function = getattr(torch.autograd, name)
        monkeypatch.setattr(
            torch.autograd, name, lambda *a, f=function, **k: (calls.append(1), f(*a, **k))[1]
        )
    search = PassesPerStep()
    clf = make_distpro(
        None, CountsPasses, max_epochs=1, logit_weight=logit_weight, search_callbacks=[search], **meta
    )
    clf.set_params(batch_size=26).fit(*images)
    assert search.passes_ == forward
    assert len(calls) == backward + 7


def test_a_line_is_followed(make_distpro, images):
    clf = make_distpro(meta="linear", e1=3, e2=5, search_epochs=4).fit(*images)
    steps = np.diff(clf.process_.raw, axis=0)
    np.testing.assert_allclose(steps[3:8], np.tile(steps[3], (5, 1)), atol=1e-5)
    assert np.abs(steps[3]).max() > 0.01 and np.abs(steps[8] - steps[7]).max() > 1e-3
    assert clf.process_.settings["meta"] == "Linear(e1=3, e2=5)"


def test_the_cycle_of_a_search_starts_after_the_steps_that_adam_needs(make_distpro, images):
    """With ``logit_weight="learned"`` lambda1 and T wait with the factors."""
    adam = {"optimizer": torch.optim.Adam, "lr": 0.01, "search_epochs": 5, "batch_size": 16}
    clf = make_distpro(meta="linear", e1=3, e2=100, logit_weight="learned", meta__lr=10.0, **adam)
    process = clf.fit(*images).process_
    for values in (process.raw, process.logit_term):  # row k: before step k
        steps = np.diff(values, axis=0).astype(float)
        assert not steps[:10].any() and np.abs(steps[10:13]).max(axis=1).min() > 1e-6
    steps = np.diff(process.raw, axis=0)
    slope = np.polyfit(np.arange(3), process.raw[11:14], 1)[0]
    np.testing.assert_allclose(steps[13:], np.tile(slope, (len(steps) - 13, 1)), atol=2e-6)


def test_linear_without_predictions_is_gradient(make_distpro, images):
    found = [make_distpro(meta=meta, e2=0).fit(*images).process_.raw for meta in ("gradient", "linear")]
    np.testing.assert_array_equal(*found)


class Wild(Gradient):
    """Predicts far out, and what is no number."""

    def takes_hypergradient(self, iteration):
        return iteration % 2 == 0

    def predict(self, metaparameters):
        now = metaparameters.trajectory(metaparameters.iteration, metaparameters.iteration)[0]
        wild = torch.tensor([1e9, -1e9, torch.nan, torch.inf], dtype=now.dtype)
        return torch.cat([wild, now[4:]])


def test_predictions_stay_finite_and_within_bounds(make_distpro, images):
    clf = make_distpro(meta=Wild(lr=0.0), search_epochs=2, logit_weight="learned").fit(*images)
    raw = clf.process_.raw
    np.testing.assert_array_equal(raw[2, :2], RAW_BOUNDS[::-1])
    np.testing.assert_array_equal(raw[2, 2:4], raw[1, 2:4])  # stayed
    assert np.abs(raw[1, 2:4] - 1).min() > 0.01 and np.isfinite(clf.predict_proba(images[0])).all()


def test_a_factor_beyond_the_bounds_is_not_pulled_back():
    """Hypergradients may lead there; a prediction does not jump, and leads no further."""
    space = MetaparameterSpace(importance_factors(3, start=12.0))
    factors = MetaparameterPath(space, space.starts, {IMPORTANCE: importance_steps(0.05)})
    factors.schedule(torch.tensor([[11.0, 13.0, 0.0]]))
    factors.apply_scheduled()
    np.testing.assert_array_equal(factors.trajectory(1, 1)[0], [11.0, 12.0, 0.0])


def test_predicted_steps_may_be_of_bfloat16(make_distpro, images):
    """Those with a hypergradient are not."""
    params = {"meta": "linear", "e1": 2, "e2": 2}
    plain, half = (
        make_distpro(**params).fit(*images),
        make_distpro(execution="bfloat16", **params).fit(*images),
    )
    np.testing.assert_array_equal(plain.process_.raw, half.process_.raw)  # one cycle: the line came before
    plain, half = (clf.set_params(search_epochs=2).fit(*images) for clf in (plain, half))
    assert (plain.process_.raw[5:] != half.process_.raw[5:]).any()


# --------------------------------------------------------------------------------------
# lambda1 and T: the hypergradient


def exact_hypergradient(net, batch, val_batch):
    """dL_val(w')/d(α̃, lambda1, T) through a step of SGD, differentiated twice in float64."""
    parts = [dict(module.named_parameters()) for module in (net.module_, net.transforms_)]
    weights = [w for part in parts for w in part.values()]
    (group,), state = net.optimizer_.param_groups, net.optimizer_.state
    theirs, f = net.objective.teacher(batch[0], ["stage1", "stage2"])
    knobs = net.metaparameters._now.clone().requires_grad_(True)
    raw, lambda1, T = knobs[:-2], *knobs[-2:]
    buffers = [{name: b.clone() for name, b in m.named_buffers()} for m in (net.module_, net.transforms_)]
    with feature_hooks(net.module_, ["stage1", "stage2"]) as ours:
        z = functional_call(net.module_, parts[0] | buffers[0], (batch[0],))
    losses = []
    for k, (pathway, transform) in enumerate(
        zip(net.objective.terms[0].pathways, net.transforms_, strict=True)
    ):
        own = {
            name.partition(".")[2]: value
            for name, value in (parts[1] | buffers[1]).items()
            if name.startswith(f"{k}.")
        }
        target = theirs[pathway.teacher_layer]
        made = functional_call(transform, own, (ours[pathway.student_layer], target.shape[2:]))
        losses.append(net.objective.terms[0].pathway_losses.distance(made, target))
    weight = batch.targets.weight
    hard = F.cross_entropy(z, batch.targets.labels, reduction="none")
    soft = -(F.softmax(f.double() / T, dim=1) * F.log_softmax(z / T, dim=1)).sum(dim=1)
    alpha = raw.exp() / (raw.exp().sum() + np.e)
    loss = (weight * (lambda1 * hard + (1 - lambda1) * T**2 * soft)).mean()
    loss = loss + net.objective.terms[0].weights.factor * (alpha * torch.stack(losses)).sum()
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    moved = []
    for w, g in zip(weights, gradients, strict=True):
        step = g + group["weight_decay"] * w.detach() + group["momentum"] * state[w]["momentum_buffer"]
        moved.append(w.detach() - group["lr"] * step)
    moved = dict(zip(parts[0], moved, strict=False))
    for part in net.module_.modules():
        part.train(isinstance(part, torch.nn.BatchNorm2d))
    z_val = functional_call(net.module_, moved | buffers[0], (val_batch[0],))
    net.module_.train()
    rows = F.cross_entropy(z_val, val_batch.targets.labels, reduction="none")
    return torch.autograd.grad((val_batch.targets.weight * rows).mean(), knobs)[0]


@pytest.mark.parametrize("method", METHODS)
def test_of_the_joint_loss_against_double_backward(method, make_distpro, images, conv_teacher, monkeypatch):
    """What the net hands to pathways, lambda1 and T, with row weights, momentum and weight decay."""
    clf = make_distpro(copy.deepcopy(conv_teacher), meta__hypergradient=method, distill_weight=5.0,
                       logit_weight="learned", temperature=2.5, optimizer__momentum=0.9,
                       optimizer__weight_decay=0.01)  # fmt: skip
    with torch.random.fork_rng():
        net, batch, val_batch = ready_net(clf, images, callbacks=[])
        net.metaparameters._now[-2:] = torch.tensor([0.3, 2.2])
        expected = exact_hypergradient(net, batch, val_batch)
        found = []
        monkeypatch.setattr(
            net.metaparameters, "descend", lambda h: (found.append(h), net.metaparameters._now.clone())[1]
        )
        net.train_step(batch)
    assert found[0].shape == (8 + 2,) and expected.abs().min() > 1e-9
    tolerance = 1e-4 if "difference" in method else 1e-6  # the teacher's logits are float32
    assert relative_error(found[0][:-2], expected[:-2]) < tolerance
    for h, by_hand in zip(found[0][-2:], expected[-2:], strict=True):
        assert relative_error(h, by_hand) < tolerance


def hypergradients(clf, images, method):
    """Of a whole search in float32 whose metaparameters stay, shape (steps, 4 + 2)."""
    clf = clone(clf).set_params(meta__hypergradient=method)
    (net, search), found = search_net(clf, images), []
    path = net.metaparameters
    path.descend = lambda h: (found.append(h.double()), path._now.clone())[1]
    train_alone(net, search.data, search.seeds.training)
    return torch.stack(found)


def test_in_float32(make_distpro, images):
    """One size of step serves the logits and the losses of the pathways."""
    errors = []
    for seed in range(4):
        clf = make_distpro(
            transforms=["conv1"], logit_weight="learned", distill_weight=5.0, optimizer__momentum=0.9,
            random_state=seed,
        )  # fmt: skip
        exact, found = (hypergradients(clf, images, method) for method in ("exact", "finite_difference"))
        parts = zip(found.split([4, 1, 1], dim=1), exact.split([4, 1, 1], dim=1), strict=True)
        errors += [[relative_error(*rows) for rows in zip(f, e, strict=True)] for f, e in parts]
    assert np.median(errors) < 0.01 and np.quantile(errors, 0.9) < 0.05


# --------------------------------------------------------------------------------------
# lambda1 and T: search, process, retraining


@pytest.fixture
def joint(make_distpro, images, once):
    """A process with lambda1 and T, over 8 steps."""
    settings = {"logit_weight": "learned", "search_epochs": 2, "importance_lr": 0.3}
    return once("joint", lambda: make_distpro(**settings).fit(*images).process_)


def test_the_process_has_them(joint):
    assert joint.raw.shape == (8, 8) and joint.logit_term.shape == (8, 2)
    np.testing.assert_allclose(joint.logit_term[0], [0.5, 4.0])
    assert (np.diff(joint.logit_term, axis=0) != 0).all() and (np.diff(joint.raw, axis=0) != 0).any()
    assert repr(joint) == (
        "DistillationProcess(8 steps, 8 pathways, lambda1 and T, normalization='biased_softmax')"
    )


def test_saved_loaded_and_followed(joint, make_distpro, images, tmp_path):
    joint.save(tmp_path / "p.npz")
    again = DistillationProcess.load(tmp_path / "p.npz")
    np.testing.assert_array_equal(again.logit_term, joint.logit_term)
    both = make_distpro(logit_weight="learned", search_epochs=2, importance_lr=0.3).fit(*images)
    alone = make_distpro(process=tmp_path / "p.npz", logit_weight="learned", temperature=99.0).fit(*images)
    np.testing.assert_array_equal(alone.predict_proba(images[0]), both.predict_proba(images[0]))
    ends = joint.logit_term_at(np.arange(10), 10)[[4, 9]]  # of the steps of the two epochs
    found = [[row["lambda1"], row["temperature"]] for row in alone.history_]
    assert found[1] == pytest.approx(ends[1], rel=1e-6)
    wider = make_distpro(process=again, logit_weight="learned", student__width=7).fit(*images)
    np.testing.assert_array_equal(wider.process_.logit_term, joint.logit_term)


def test_between_rows_T_is_interpolated_in_its_logarithm(joint):
    two = DistillationProcess(joint.raw[:2], joint.pathways, logit_term=[[0.2, 1.0], [0.6, 9.0]])
    np.testing.assert_allclose(two.logit_term_at(np.arange(3), 3), [[0.2, 1], [0.4, 3], [0.6, 9]], rtol=1e-6)
    for weights, expected in (
        ("process", [[0.2, 1], [0.4, 3], [0.6, 9]]),
        ("reversed", [[0.6, 9], [0.4, 3], [0.2, 1]]),
        ("final", [[0.6, 9]] * 3),
        ("mean", [[0.4, 3]] * 3),
    ):
        np.testing.assert_allclose(retraining_logit_term(two, 3, weights), expected, rtol=1e-6)


def test_a_constant_path_is_the_loss_of_the_first_system(joint, make_distpro, images, conv_teacher):
    process = DistillationProcess(joint.raw, joint.pathways, logit_term=np.tile([0.25, 4.0], (8, 1)))
    clf = make_distpro(process=process, logit_weight="learned", distill_weight=0.0, lr=0.08).fit(*images)
    first = DistilledClassifier(
        conv_teacher, type(clf.student_), meta="fixed", lambda1=0.25, temperature=4.0, optimizer="SGD", lr=0.08,
        max_epochs=2, batch_size=32, random_state=0, device="cpu",
    ).fit(*images)  # fmt: skip
    np.testing.assert_allclose(clf.predict_proba(images[0]), first.predict_proba(images[0]), atol=1e-5)


def test_they_are_followed_where_no_pathway_runs(joint, make_distpro, images, conv_teacher):
    clf = make_distpro(process=joint, logit_weight="learned", pathway_threshold=100.0)
    with_term = clf.fit(*images).predict_proba(images[0])
    plain = DistilledClassifier(
        None, type(clf.student_), meta="none", optimizer="SGD", lr=0.1, max_epochs=2, batch_size=32,
        random_state=0, device="cpu",
    )  # fmt: skip
    assert clf.history_[-1, "pathways"] == 0
    assert np.abs(with_term - plain.fit(*images).predict_proba(images[0])).max() > 1e-4


def test_predicted_with_the_pathways(make_distpro, images):
    clf = make_distpro(logit_weight="learned", meta="linear", e1=3, e2=5, search_epochs=4).fit(*images)
    lambda1, log_t = clf.process_.logit_term[:, 0], np.log(clf.process_.logit_term[:, 1])
    for path in (lambda1, log_t):
        np.testing.assert_allclose(np.diff(path)[3:8], np.diff(path)[3], rtol=1e-2, atol=1e-6)


def test_no_direction_moves_neither(make_distpro, images, monkeypatch):
    take = HypergradientEstimator.hypergradient

    def partly(record, *args, **kwargs):
        h, loss = take(record, *args, **kwargs)
        h[0] = torch.nan
        return h, loss

    monkeypatch.setattr(HypergradientEstimator, "hypergradient", partly)
    with pytest.warns(ConvergenceWarning, match="4 hypergradients that were not finite"):
        clf = make_distpro(logit_weight="learned").fit(*images)
    assert sum(clf.search_history_[:, "skipped_hypergradients"]) == 4
    np.testing.assert_array_equal(clf.process_.raw, 1)
    np.testing.assert_allclose(clf.process_.logit_term, np.tile([0.5, 4.0], (4, 1)), rtol=1e-6)


def test_groups_and_whole_are_one():
    """After a schedule the optimizers of both groups go on from where it led."""
    entries = importance_factors(2) | LogitDistillation().metaparameters(n_classes=10)
    space = MetaparameterSpace(entries)
    steps = {IMPORTANCE: importance_steps(0.1), "loss": MetaOptimizer(params={"lr": 0.1})}
    start = {IMPORTANCE: 1.0, "lambda1": 0.5, "temperature": 4.0}
    joint = MetaparameterPath(space, start, steps)
    joint.schedule(torch.tensor([[3.0, -3.0, 2.0, 99.0]]))  # θ: raw, lambda1, log T
    joint.apply_scheduled()
    np.testing.assert_allclose(joint.trajectory(1, 1)[0], [3.0, -3.0, 1.0, np.log(10)])
    values = joint.named()
    assert (values["lambda1"], values["temperature"]) == pytest.approx((1.0, 10.0))
    value = copy.deepcopy(joint).descend(torch.tensor([1.0, -1.0, 1.0, 0.1], dtype=torch.float64))
    np.testing.assert_allclose(value[:3], [2.9, -2.9, 0.9])
    assert float(value[3]) == pytest.approx(10 * np.exp(-0.1))  # dL/d log T = T dL/dT
