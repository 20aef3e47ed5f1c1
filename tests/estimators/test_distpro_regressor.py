"""DistProRegressor on numbers for each row: the loss, its hypergradient, the process, files, refusals."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.base import clone, is_regressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from torch import nn
from torch.func import functional_call
from torch.utils.data import TensorDataset

from helpers.hypergradients import ready_net, relative_error
from helpers.networks import ConvNet
from helpers.parameter_ids import in_words
from helpers.processes import make_process
from helpers.saved_files import content_of, write
from sklearn_kd import (
    DistillationProcess,
    DistilledRegressor,
    DistProRegressor,
    MetaparameterProcess,
    ProcessDisplay,
)
from sklearn_kd.bilevel._hypergradient import METHODS
from sklearn_kd.layers._hooks import feature_hooks
from sklearn_kd.losses import HuberLoss, Metaparameter, RegressionLoss, SquaredError
from sklearn_kd.training._net import TrainingNet


@pytest.fixture(scope="module")
def rows(images):
    """Images, and how much ink each has, in percent, with noise."""
    X = images[0]
    ink = X.mean(axis=(1, 2, 3))
    return X, 100 * ink + np.random.default_rng(0).normal(size=len(X))


@pytest.fixture(scope="module")
def taught(rows):
    """A fitted regressor of this library, wider than the students."""
    settings = {"max_epochs": 10, "lr": 0.01, "batch_size": 32, "random_state": 0, "device": "cpu"}
    return DistilledRegressor(None, ConvNet, student__width=6, meta="none", **settings).fit(*rows)


@pytest.fixture
def make(taught):
    """A DistProRegressor that searches and retrains in a blink."""

    def make(teacher=None, student=ConvNet, **params):
        quick = {"transforms": ["conv1"], "search_epochs": 1, "max_epochs": 2, "batch_size": 32, "lr": 0.05,
                 "optimizer": torch.optim.SGD, "random_state": 0, "device": "cpu"}  # fmt: skip
        return DistProRegressor(taught if teacher is None else teacher, student, **(quick | params))

    return make


class InUnits(nn.Module):
    """What a fitted regressor predicts, with the same layers."""

    def __init__(self, regressor):
        super().__init__()
        self.student = regressor.student_
        self.mean, self.scale = float(regressor.target_mean_[0]), float(regressor.target_scale_[0])

    def forward(self, x):
        return self.student(x) * self.scale + self.mean


# --------------------------------------------------------------------------------------
# Search and retraining


def test_what_is_fitted(make, rows):
    X, y = rows
    reg = make(search_epochs=2, max_epochs=3, output_weight="learned").fit(X, y)
    assert reg.process_.raw.shape == (2 * 4, 4) and is_regressor(reg)
    assert repr(reg.process_).startswith("DistillationProcess(8 steps, 4 pathways, lambda1, ")
    assert reg.process_.settings["output_weight"] == "learned" and reg.n_iter_ == 15
    assert (np.diff(reg.process_.raw, axis=0) != 0).any(axis=1).all()
    assert "valid_r2" in reg.search_history_[-1] and "valid_r2" not in reg.history_[-1]
    assert "valid_acc" not in reg.search_history_[-1] and "lambda1" in reg.history_[-1]
    assert reg.predict(X).shape == (160,) and len(reg.transforms_) == 4
    assert len(ProcessDisplay.from_estimator(reg).axes_) == 3


def test_it_learns(make, rows):
    reg = make(max_epochs=20, output_weight=1.0, optimizer__momentum=0.9, student__width=8, lr=0.02)
    assert reg.fit(*rows).score(*rows) > 0.8
    assert abs(reg.predict(rows[0]).mean() - rows[1].mean()) < 2


def test_without_distillation_it_is_plain_training(make, rows):
    """Initial weights and batches are paired with those of DistilledRegressor."""
    reg = make(weights="equal", distill_weight=0.0, loss="huber", loss__width=0.5).fit(*rows)
    plain = DistilledRegressor(None, ConvNet, meta="none", loss="huber", loss__width=0.5, optimizer="SGD",
                               lr=0.05, max_epochs=2, batch_size=32, random_state=0, device="cpu")  # fmt: skip
    np.testing.assert_allclose(reg.predict(rows[0]), plain.fit(*rows).predict(rows[0]), rtol=1e-6)


@pytest.mark.parametrize("loss", ["squared_error", "gaussian_nll"])
def test_the_term_is_the_loss_of_the_first_system(loss, make, rows, taught):
    """L(y) + w · L(teacher) is (1 + w) times that of lambda1 = 1/(1 + w)."""
    reg = make(weights="equal", distill_weight=0.0, output_weight=3.0, lr=0.01, loss=loss).fit(*rows)
    first = DistilledRegressor(InUnits(taught), ConvNet, meta="fixed", lambda1=0.25, loss=loss, lr=0.04,
                               optimizer="SGD", max_epochs=2, batch_size=32, random_state=0, device="cpu")  # fmt: skip
    np.testing.assert_allclose(reg.predict(rows[0]), first.fit(*rows).predict(rows[0]), rtol=1e-4)
    assert reg.history_[-1, "train_loss"] == pytest.approx(4 * first.history_[-1, "train_loss"], rel=1e-4)


def test_a_regressor_of_this_library_teaches_in_its_units(make, rows, taught):
    """Its student predicts standardised numbers, the module around it those of y: the lesson is the same."""
    X, y = rows
    fits = [make(teacher, output_weight=1.0).fit(X[:100], y[:100]) for teacher in (taught, InUnits(taught))]
    np.testing.assert_allclose(fits[0].predict(X), fits[1].predict(X), rtol=1e-4)


def test_a_teacher_in_other_units_is_warned_of(make, rows, taught):
    reg = make(taught.student_, output_weight=1.0)
    with pytest.warns(
        UserWarning, match=r"ConvNet predicts y with a mean squared error .* in the units of y"
    ):
        reg.fit(*rows)


def test_a_teacher_of_other_targets_has_feature_maps(make, rows, conv_teacher):
    reg = make(conv_teacher).fit(*rows)
    assert len(reg.process_) == 4 and reg.predict(rows[0]).shape == (160,)
    with pytest.raises(ValueError, match=r"output_weight needs a teacher .* \(2, 1\); it returned a tensor"):
        reg.set_params(output_weight=1.0).fit(*rows)


def test_units_of_y_do_not_matter(make, rows):
    X, y = rows
    a, b = make().fit(X, y).predict(X), make().fit(X, 1e6 * y - 7).predict(X)
    np.testing.assert_allclose((b + 7) / 1e6, a, rtol=1e-4)


def test_several_targets(make, rows):
    X, y = rows
    Y = np.c_[y, X[:, 0, :4].mean(axis=(1, 2)) - 7]
    teacher = DistilledRegressor(None, ConvNet, meta="none", max_epochs=1, device="cpu").fit(X, Y)
    reg = make(teacher, output_weight="learned", loss__per_output=True, search_epochs=2).fit(X, Y)
    assert reg.predict(X).shape == Y.shape and reg.process_.output_term.values["lambda1"].shape == (8, 2)
    assert np.ptp(reg.process_.output_term.values["lambda1"], axis=0).min() > 0
    legend = ProcessDisplay.from_estimator(reg).axes_[-1].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["output 0", "output 1"]
    with pytest.raises(ValueError, match=r"was fitted on 2 target\(s\), and y has 1"):
        reg.fit(X, y)


def test_rows_of_weight_zero_are_left_out(make, rows):
    X, y = rows
    weight = np.r_[np.ones(128), np.zeros(32)]
    weighted, fewer = make().fit(X, y, sample_weight=weight), make().fit(X[:128], y[:128])
    np.testing.assert_allclose(weighted.process_.raw, fewer.process_.raw, atol=1e-3)
    np.testing.assert_allclose(weighted.predict(X), fewer.predict(X), rtol=1e-4)


def test_dataset_in_place_of_arrays(make, rows):
    X, y = rows
    data = TensorDataset(torch.tensor(X), torch.tensor(y))
    of_arrays, reg = make(output_weight=1.0).fit(X, y), make(output_weight=1.0).fit(data)
    np.testing.assert_allclose(reg.predict(data), of_arrays.predict(X), rtol=1e-4)
    assert reg.score(data) == pytest.approx(of_arrays.score(X, y), abs=1e-3)


# --------------------------------------------------------------------------------------
# The hypergradient

LOSSES = {
    "squared_error": (SquaredError(teacher_bound=0.4), {"lambda1": 0.3, "teacher_bound": 0.4}),
    "huber": (HuberLoss(width=0.6), {"lambda1": 0.3, "width": 0.6}),
}


def errors_by_hand(name, f, y, t, lambda1, other):
    if name == "huber":
        scaled = f / other
        of_y = F.huber_loss(scaled, y / other, reduction="none") * other**2
        of_t = F.huber_loss(scaled, t / other, reduction="none") * other**2
        return lambda1 * of_y + (1 - lambda1) * of_t
    excess = (f.detach() - y).abs() + other - (t - y).abs()
    return lambda1 * (f - y) ** 2 + (1 - lambda1) * torch.sigmoid(excess / 0.1) * (f - t) ** 2


def exact_hypergradient(net, name, batch, val_batch):
    """dL_val(w')/d(α̃, lambda1, the other) through a step of SGD, differentiated twice in float64."""
    parts = [dict(module.named_parameters()) for module in (net.module_, net.transforms_)]
    weights = [w for part in parts for w in part.values()]
    (group,), state = net.optimizer_.param_groups, net.optimizer_.state
    theirs, t = net.objective.teacher(batch[0], ["stage1", "stage2"])
    now = net.metaparameters._now.clone().requires_grad_(True)
    raw, lambda1, other = now[:-2], *now[-2:]
    buffers = [{name: b.clone() for name, b in m.named_buffers()} for m in (net.module_, net.transforms_)]
    with feature_hooks(net.module_, ["stage1", "stage2"]) as ours:
        f = functional_call(net.module_, parts[0] | buffers[0], (batch[0],))
    losses = []
    for k, (pathway, transform) in enumerate(
        zip(net.objective.terms[0].pathways, net.transforms_, strict=True)
    ):
        own = {n.partition(".")[2]: v for n, v in (parts[1] | buffers[1]).items() if n.startswith(f"{k}.")}
        target = theirs[pathway.teacher_layer]
        made = functional_call(transform, own, (ours[pathway.student_layer], target.shape[2:]))
        losses.append(net.objective.terms[0].pathway_losses.distance(made, target))
    weight, y = batch.targets.weight, batch.targets.labels
    alpha = raw.exp() / (raw.exp().sum() + np.e)
    loss = (weight * errors_by_hand(name, f, y, t.double(), lambda1, other).mean(dim=1)).mean()
    loss = loss + net.objective.terms[0].weights.factor * (alpha * torch.stack(losses)).sum()
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    moved = [
        w.detach() - group["lr"] * (g + group["momentum"] * state[w]["momentum_buffer"])
        for w, g in zip(weights, gradients, strict=True)
    ]
    moved = dict(zip(parts[0], moved, strict=False))
    for part in net.module_.modules():
        part.train(isinstance(part, nn.BatchNorm2d))
    f_val = functional_call(net.module_, moved | buffers[0], (val_batch[0],))
    net.module_.train()
    if name == "huber":
        per_row = F.huber_loss(f_val, val_batch.targets.labels, reduction="none", delta=0.6)
    else:
        per_row = (f_val - val_batch.targets.labels) ** 2
    return torch.autograd.grad((val_batch.targets.weight * per_row.mean(dim=1)).mean(), now)[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", LOSSES)
def test_of_the_joint_loss_against_double_backward(name, method, make, rows, taught, monkeypatch):
    """With row weights and momentum."""
    loss, at = LOSSES[name]
    reg = make(copy.deepcopy(taught), loss=loss, output_weight="learned", distill_weight=5.0,
               meta__hypergradient=method, optimizer__momentum=0.9)  # fmt: skip
    with torch.random.fork_rng():
        net, batch, val_batch = ready_net(reg, rows, callbacks=[])
        net.metaparameters._now[-2:] = torch.tensor(list(at.values()))
        expected = exact_hypergradient(net, name, batch, val_batch)
        found = []
        monkeypatch.setattr(
            net.metaparameters, "descend", lambda h: (found.append(h), net.metaparameters._now.clone())[1]
        )
        net.train_step(batch)
    assert found[0].shape == (4 + 2,) and expected.abs().min() > 1e-9
    tolerance = 2e-4 if "difference" in method else 1e-6  # the teacher's predictions are float32
    assert relative_error(found[0][:-2], expected[:-2]) < tolerance
    for h, by_hand in zip(found[0][-2:], expected[-2:], strict=True):
        assert relative_error(h, by_hand) < tolerance


# --------------------------------------------------------------------------------------
# The process


@pytest.fixture
def learned(make, rows, once):
    settings = {"output_weight": "learned", "loss": "huber", "search_epochs": 2, "importance_lr": 0.3}
    return once("learned", lambda: make(**settings).fit(*rows))


def test_the_process_is_saved_and_followed(learned, make, rows, tmp_path):
    process = learned.process_
    values = process.output_term.values
    assert values["lambda1"][0] == 0.5 and values["width"][0] == 1.35 and len(process.output_term) == 8
    assert all(np.diff(path).any() for path in values.values())
    process.save(tmp_path / "p.npz")
    alone = make(process=tmp_path / "p.npz", output_weight="learned", loss="huber").fit(*rows)
    np.testing.assert_array_equal(alone.predict(rows[0]), learned.predict(rows[0]))
    ends = process.output_term.schedule(10, "process")["width"][[4, 9]]  # of the steps of the two epochs
    assert alone.history_[-1, "width"] == pytest.approx(ends[1], rel=1e-6)
    wider = make(process=process, output_weight="learned", loss="huber", student__width=7).fit(*rows)
    np.testing.assert_array_equal(wider.process_.output_term.values["width"], values["width"])


@pytest.mark.parametrize("weights", ["final", "mean", "reversed"])
def test_what_the_retraining_follows(weights, learned, make, rows):
    reg = make(process=learned.process_, output_weight="learned", loss="huber", weights=weights, max_epochs=1)
    reg.fit(*rows)
    values = learned.process_.output_term.values["lambda1"]
    expected = {"final": values[-1], "mean": values.mean(), "reversed": values[0]}[weights]
    assert reg.history_[-1, "lambda1"] == pytest.approx(expected, rel=1e-6)


def test_a_process_of_a_classifier_is_followed(make, rows, images, make_distpro):
    process = make_distpro(transforms=["conv1"]).fit(*images).process_
    reg = make(process=process).fit(*rows)
    assert reg.search_history_ is None and reg.process_.pathways == reg.pathways_
    with_term = DistillationProcess(process.raw, process.pathways, logit_term=[[0.5, 4.0]] * 4)
    with pytest.raises(ValueError, match="learned for another kind of target"):
        make(process=with_term).fit(*rows)


def test_a_process_of_a_regressor_is_followed_by_a_classifier(learned, make, rows, images, make_distpro):
    with pytest.raises(ValueError, match="learned for another kind of target"):
        make_distpro(transforms=["conv1"], process=learned.process_).fit(*images)
    alone = DistillationProcess(learned.process_.raw, learned.process_.pathways)
    assert make_distpro(transforms=["conv1"], process=alone).fit(*images).process_ is not None


def test_a_process_of_another_loss(learned, make, rows):
    with pytest.raises(ValueError, match="process has other metaparameters"):
        make(process=learned.process_, output_weight="learned").fit(*rows)


@pytest.mark.parametrize(
    ("term", "error", "match"),
    [
        ({"lambda1": [0.5, 0.5]}, ValueError, "output_term has 2 steps, and raw 3"),
        (3, TypeError, "must be a MetaparameterProcess"),
    ],
)
def test_wrong_output_terms(term, error, match):
    if isinstance(term, dict):
        term = MetaparameterProcess(term, SquaredError().metaparameters(1))
    with pytest.raises(error, match=match):
        make_process(output_term=term)


# --------------------------------------------------------------------------------------
# scikit-learn and files


@pytest.mark.parametrize("history", [True, False])
def test_saved_and_loaded(history, learned, rows, tmp_path):
    learned.save(tmp_path / "r.safetensors", history=history)
    again = DistProRegressor.load(tmp_path / "r.safetensors", student=ConvNet, device="cpu")
    np.testing.assert_array_equal(again.predict(rows[0]), learned.predict(rows[0]))
    np.testing.assert_array_equal(again.process_.raw, learned.process_.raw)
    for name, values in learned.process_.output_term.values.items():
        np.testing.assert_array_equal(again.process_.output_term.values[name], values)
    assert again.pathways_ == learned.pathways_ and again.score(*rows) == learned.score(*rows)
    assert (again.search_history_ is None) == (not history)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda a, t: t.pop("process.output_term.values.width"), "no tensor 'process.output_term.values.width'"),
        (lambda a, t: a["process"].pop("output_term"), "that the estimator does not use"),
        (lambda a, t: t["process.output_term.values.width"].fill_(np.nan), "values of width must be finite"),
        (lambda a, t: a["process"]["output_term"].update(metaparameters=[["width"]]), "cannot be loaded"),
        (lambda a, t: a["targets"].update(scale=[0.0]), "targets of mean"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused(change, match, learned, tmp_path):
    path = tmp_path / "r.safetensors"
    about, tensors = content_of(learned, path)
    change(about, tensors)
    write(path, about, tensors)
    with pytest.raises(ValueError, match=match):
        DistProRegressor.load(path, student=ConvNet)


def test_pickled_and_cloned(learned, rows, taught):
    again = pickle.loads(pickle.dumps(learned))
    np.testing.assert_array_equal(again.predict(rows[0]), learned.predict(rows[0]))
    copied = clone(learned)
    assert copied.teacher is taught and copied.get_params()["loss"] == "huber"


def test_in_searches(make, rows):
    grid = {"output_weight": [0.0, 1.0], "loss": ["squared_error", "huber"]}
    search = GridSearchCV(make(weights="equal", max_epochs=1), grid, cv=2, error_score="raise").fit(*rows)
    assert len(search.cv_results_["params"]) == 4
    assert cross_val_score(make(max_epochs=1), *rows, cv=2, error_score="raise").shape == (2,)


def test_exported(learned, rows, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    learned.export_student(tmp_path / "s.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "s.onnx")
    (found,) = session.run(None, {"X": rows[0]})
    np.testing.assert_allclose(found[:, 0], learned.predict(rows[0]), rtol=1e-5)


# --------------------------------------------------------------------------------------
# Refused before training


class Drawn(RegressionLoss):
    def metaparameters(self, n_classes):
        return super().metaparameters(n_classes) | {"more": Metaparameter("random", bounds=(0, 1))}


@pytest.mark.parametrize(
    ("params", "error", "match"),
    [
        ({"teacher": Ridge()}, TypeError, "Ridge.* is not a network"),
        ({"output_weight": -1.0}, ValueError, "'output_weight' parameter"),
        ({"output_weight": "found"}, ValueError, "'output_weight' parameter"),
        ({"loss": "mse"}, ValueError, "loss='mse' is not known"),
        ({"loss": "huber", "loss__width": 100.0}, ValueError, r"^loss: width=100.0 must be a number"),
        ({"loss": Drawn()}, ValueError, "'more' of the loss starts at 'random'"),
        ({"logit_weight": 1.0}, TypeError, "unexpected parameter 'logit_weight'"),
        ({"temperature": 1.0}, TypeError, "unexpected parameter 'temperature'"),
        (
            {"output_weight": "learned", "weights": "equal"},
            ValueError,
            "has no lambda1 to follow. Give output_weight as a number",
        ),
        (
            {"output_weight": "learned", "process": make_process()},
            ValueError,
            "no path of lambda1. Give output_weight as a number",
        ),
        ({"meta__val_temperature": 0.5}, ValueError, "the loss on D_val at T_val = 1"),
        ({"student": lambda n_outputs: ConvNet(3)}, ValueError, "one output"),
        ({"process": make_process()}, ValueError, "process has other pathways"),
    ],
    ids=in_words,
)
def test_refused_before_training(params, error, match, make, rows, monkeypatch):
    def train_step(*args, **kwargs):
        raise AssertionError("trained before the input was refused")

    monkeypatch.setattr(TrainingNet, "train_step", train_step)
    with pytest.raises(error, match=match):
        make(**params).fit(*rows)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"loss__teacher_bound": 0.5}, "teacher_bound=0.5 with output_weight=0.0"),
        (
            {"output_weight": 1.0, "loss__per_output": True},
            "loss__per_output=True with output_weight=1.0.*learned",
        ),
        (
            {"meta__lr": 0.5},
            "meta__lr=0.5 with output_weight=0.0: nothing of the loss is learned",
        ),
        ({"loss__width": 0.5}, "loss__width=0.5 with loss='squared_error', which does not take it"),
    ],
    ids=in_words,
)
def test_without_effect(params, match, make, rows):
    with pytest.warns(UserWarning, match=match):
        make(max_epochs=1, **params).fit(*rows)
