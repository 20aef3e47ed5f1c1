"""DistProClassifier and DistProRegressor with a map for each image."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skorch.callbacks import Callback
from torch import nn
from torch.func import functional_call
from torch.utils.data import Dataset

from helpers.hypergradients import ready_net, relative_error
from helpers.networks import ConvNet, stage
from helpers.pixels import IGNORED, images_with_maps
from sklearn_kd import (
    DistilledClassifier,
    DistilledRegressor,
    DistProClassifier,
    DistProRegressor,
    ResizedStudent,
)
from sklearn_kd.layers._hooks import feature_hooks
from sklearn_kd.training._net import TrainingNet

X, LABELS = images_with_maps()
X = X[:, 1:2] + 2 * X[:, 2:]  # one channel, from which both squares can be told
DEPTHS = np.where(LABELS == IGNORED, np.nan, 5 + 3 * X[:, 0])
TARGETS = {"classes": LABELS, "numbers": DEPTHS}
SETTINGS = {
    "transforms": ["conv1"], "search_epochs": 1, "max_epochs": 2, "batch_size": 8, "optimizer": "SGD", "lr": 0.05,
    "random_state": 0, "device": "cpu",
}  # fmt: skip
PLAIN = {
    "meta": "none", "max_epochs": 2, "batch_size": 8, "optimizer": "SGD", "lr": 0.05, "random_state": 0, "device": "cpu",
}  # fmt: skip


class MapNet(nn.Module):
    """Two stages, and a map at half of the images' size."""

    def __init__(self, n_classes=3, width=4, channels=1):
        super().__init__()
        self.stage1, self.stage2 = stage(channels, width, 1), stage(width, 2 * width, 2)
        self.head = nn.Conv2d(2 * width, n_classes, 1)

    def forward(self, x):
        return self.head(self.stage2(self.stage1(x)))


class InUnits(nn.Module):
    """What a fitted regressor of maps predicts, with the same layers."""

    def __init__(self, regressor):
        super().__init__()
        self.student = regressor.student_
        self.mean, self.scale = float(regressor.target_mean_[0]), float(regressor.target_scale_[0])

    def forward(self, x):
        return self.student(x) * self.scale + self.mean


def plain(kind, **params):
    """The estimator of the first system for this kind of maps."""
    ignored = {"ignore_index": IGNORED} if kind == "classes" else {}
    make = DistilledClassifier if kind == "classes" else DistilledRegressor
    return make(params.pop("teacher", None), MapNet, **(PLAIN | ignored | params))


@pytest.fixture(scope="module")
def teachers():
    return {
        kind: plain(kind, student__width=6, max_epochs=10, optimizer="Adam", lr=0.01).fit(X, y)
        for kind, y in TARGETS.items()
    }


@pytest.fixture
def make(teachers):
    """Make an estimator with pathways for maps of a kind; ``weight`` is that of the teacher's outputs."""

    def make(kind, teacher=None, student=MapNet, weight=0.0, **params):
        teacher = teachers[kind] if teacher is None else teacher
        if kind == "classes":
            given = {"ignore_index": IGNORED, "logit_weight": weight}
            return DistProClassifier(teacher, student, **(SETTINGS | given | params))
        return DistProRegressor(teacher, student, **(SETTINGS | {"output_weight": weight} | params))

    return make


class Maps(Dataset):
    """Images with their maps."""

    def __init__(self, X, y):
        self.X, self.y = X, y

    def __len__(self):
        return len(self.X)

    def __getitem__(self, place):
        return torch.as_tensor(self.X[place]), torch.as_tensor(self.y[place])


both = pytest.mark.parametrize("kind", TARGETS)


@both
def test_what_is_fitted(kind, make):
    y = TARGETS[kind]
    est = make(kind, weight="learned", search_epochs=3).fit(X, y)
    assert est.process_.raw.shape == (3 * 3, 4) and "lambda1" in repr(est.process_)
    assert (np.diff(est.process_.raw, axis=0) != 0).any(axis=1).all()
    assert isinstance(est.student_, ResizedStudent) and est.map_shape_ == y.shape[1:]
    assert [p.student_layer for p in est.pathways_] == ["stage1", "stage2"] * 2
    score = {"classes": "valid_acc", "numbers": "valid_r2"}[kind]
    assert score in est.search_history_[-1] and score not in est.history_[-1]
    assert est.predict(X).shape == y.shape
    assert est.predict(np.zeros((1, 1, 24, 18), np.float32)).shape == (1, 24, 18)
    assert est.predict(X[:2], tile=8).shape == (2, 12, 12)


@both
def test_it_learns(kind, make):
    settings = {"max_epochs": 25, "optimizer": "Adam", "lr": 0.02, "weight": 1.0, "search_epochs": 2}
    with pytest.warns(match="no hypergradient was taken"):  # Adam's first ten steps
        est = make(kind, **settings).fit(X, TARGETS[kind])
    assert est.score(X, TARGETS[kind]) > {"classes": 0.4, "numbers": 0.5}[kind]


@both
def test_without_distillation_it_is_plain_training(kind, make):
    y, weight = TARGETS[kind], np.linspace(0.5, 2, len(X))
    est = make(kind, weights="equal", distill_weight=0.0).fit(X, y, sample_weight=weight)
    first = plain(kind).fit(X, y, sample_weight=weight)
    for one, other in zip(est.student_.parameters(), first.student_.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@both
def test_the_term_is_the_loss_of_the_first_system(kind, make, teachers):
    """By pixel, unknown ones included: the teacher is followed there too."""
    y, teacher = TARGETS[kind], teachers[kind]
    est = make(kind, weights="equal", distill_weight=0.0, weight=3.0, lr=0.01).fit(X, y)
    given = {"temperature": 4.0, "teacher": teacher.student_}
    if kind == "numbers":
        given = {"teacher": InUnits(teacher)}
    first = plain(kind, lambda1=0.25, **given | {"lr": 0.04, "meta": "fixed"}).fit(X, y)
    for one, other in zip(est.student_.parameters(), first.student_.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert est.history_[-1, "train_loss"] == pytest.approx(4 * first.history_[-1, "train_loss"], rel=1e-4)


@both
def test_feature_maps_of_a_teacher_of_another_task(kind, make):
    """A classifier of images has no maps of outputs, and its feature maps are enough."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = ConvNet(width=6)
    y = TARGETS[kind]
    assert len(make(kind, teacher).fit(X, y).process_) == 3
    match = {"classes": "height, width", "numbers": "a map for each image"}[kind]
    with pytest.raises(ValueError, match=match):
        make(kind, teacher, weight=1.0).fit(X, y)


@both
def test_a_teacher_of_maps_of_another_size(kind, make, teachers):
    """They are resized to those of y, as the student's own are."""

    class Quarter(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            return F.avg_pool2d(self.network(x), 2)

    network = teachers["classes"].student_.student if kind == "classes" else InUnits(teachers[kind])
    layers = (
        ["stage1", "stage2"] if kind == "classes" else ["student.student.stage1", "student.student.stage2"]
    )
    given = {
        "teacher_layers": [f"network.{layer}" for layer in layers],
        "student_layers": ["stage1", "stage2"],
    }
    est = make(kind, Quarter(network), weight=1.0, **given).fit(X, TARGETS[kind])
    assert np.isfinite(est.history_[-1, "train_loss"])


@both
def test_a_process_is_followed_by_the_other_kind_too(kind, make, tmp_path):
    process = make(kind).fit(X, TARGETS[kind]).process_
    process.save(tmp_path / "p.npz")
    for other, y in TARGETS.items():
        est = make(other, process=tmp_path / "p.npz", student__width=5).fit(X, y)
        np.testing.assert_array_equal(est.process_.raw, process.raw)


@both
def test_a_process_with_a_term_is_followed_as_it_was_searched(kind, make):
    params = {"weight": "learned", "search_epochs": 2, "importance_lr": 0.3}
    searched = make(kind, **params).fit(X, TARGETS[kind])
    alone = make(kind, process=searched.process_, weight="learned").fit(X, TARGETS[kind])
    np.testing.assert_array_equal(alone.predict(X), searched.predict(X))


@both
def test_datasets_and_given_validation_images(kind, make):
    y = TARGETS[kind]
    of_arrays = make(kind).fit(X[:16], y[:16], X_val=X[16:], y_val=y[16:])
    given = {"X_val": Maps(X[16:], y[16:])}
    of_data = make(kind).fit(Maps(X[:16], y[:16]), **given)
    np.testing.assert_allclose(of_data.process_.raw, of_arrays.process_.raw, atol=1e-3)
    assert of_data.score(Maps(X, y)) == pytest.approx(of_arrays.score(X, y), abs=0.02)
    score = {"classes": "valid_acc", "numbers": "valid_r2"}[kind]
    assert score in of_data.history_[-1] and of_data.validation_scores_ == of_data.history_[:, score]


@both
def test_images_and_maps_are_augmented_together(kind, make, teachers):
    """The teacher sees what the student does, crops too."""
    seen = []

    def crop(images, maps):
        seen.append(images.shape)
        return images[:, :, 2:10, :6], maps[:, 2:10, :6]

    sizes = []
    network = teachers[kind].student_.student
    handle = network.stage1.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[2:]))
    est = make(kind, weight=1.0, augment=crop).fit(X, TARGETS[kind])
    handle.remove()
    assert len(seen) >= 8 and sizes.count((8, 6)) >= 8 and np.isfinite(est.history_[-1, "train_loss"])
    with pytest.raises(TypeError, match="augment cannot be called with images and their maps"):
        make(kind, augment=lambda images: images).fit(X, TARGETS[kind])


@both
def test_files(kind, make, tmp_path):
    est = make(kind, weight="learned").fit(X, TARGETS[kind])
    est.save(tmp_path / "e.safetensors")
    again = type(est).load(tmp_path / "e.safetensors", student=MapNet, device="cpu")
    np.testing.assert_array_equal(again.predict(X), est.predict(X))
    assert again.pathways_ == est.pathways_ and again.map_shape_ == est.map_shape_


class Killed(Exception):
    pass


class Kill(Callback):
    def __init__(self, at=None):
        self.at = at

    def on_batch_end(self, net, training=False, **kwargs):
        if training and net.metaparameters.iteration == self.at:
            raise Killed


@both
@pytest.mark.parametrize("phase", ["search_callbacks", "callbacks"])
def test_a_killed_fit_goes_on_to_the_bit(kind, phase, make, tmp_path):
    settings = {"weight": "learned", "search_epochs": 2, "checkpoint_dir": tmp_path}
    calm = {"search_callbacks": [Kill()], "callbacks": [Kill()]}
    expected = make(kind, **settings, **calm).fit(X, TARGETS[kind])
    with pytest.raises(Killed):
        make(kind, **settings, **(calm | {phase: [Kill(4)]})).fit(X, TARGETS[kind])
    assert list(tmp_path.rglob("*.checkpoint"))
    resumed = make(kind, **settings, **calm).fit(X, TARGETS[kind])
    assert resumed.process_.raw.tobytes() == expected.process_.raw.tobytes()
    np.testing.assert_array_equal(resumed.predict(X), expected.predict(X))


# --------------------------------------------------------------------------------------
# The hypergradient


def row_losses(kind, outputs, targets, theirs, lambda1, T):
    """Training losses of pixels, by hand."""
    if kind == "numbers":
        known = ~targets.isnan()
        of_y = (outputs - targets.nan_to_num()) ** 2 * known * (known.numel() / known.sum())
        return (lambda1 * of_y + (1 - lambda1) * (outputs - theirs) ** 2)[:, 0]
    known = targets >= 0
    hard = (
        F.cross_entropy(outputs, targets.clamp(min=0), reduction="none") * known * (len(known) / known.sum())
    )
    soft = -(F.softmax(theirs / T, dim=1) * F.log_softmax(outputs / T, dim=1)).sum(dim=1)
    return lambda1 * hard + (1 - lambda1) * T**2 * soft


def rows_of(maps):
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def exact_hypergradient(net, kind, batch, val_batch):
    """dL_val(w')/d(α̃, lambda1, T) through a step of SGD, differentiated twice in float64."""
    parts = [dict(module.named_parameters()) for module in (net.module_, net.transforms_)]
    weights = [w for part in parts for w in part.values()]
    (group,), state = net.optimizer_.param_groups, net.optimizer_.state
    theirs, t = net.objective.teacher(batch[0], ["stage1", "stage2"])
    now = net.metaparameters._now.clone().requires_grad_(True)
    raw, lambda1, T = now[:4], now[4], now[-1]
    buffers = [{name: b.clone() for name, b in m.named_buffers()} for m in (net.module_, net.transforms_)]
    with feature_hooks(net.module_, ["stage1", "stage2"]) as ours:
        outputs = rows_of(functional_call(net.module_, parts[0] | buffers[0], (batch[0],)))
    losses = []
    for k, (pathway, transform) in enumerate(
        zip(net.objective.terms[0].pathways, net.transforms_, strict=True)
    ):
        own = {n.partition(".")[2]: v for n, v in (parts[1] | buffers[1]).items() if n.startswith(f"{k}.")}
        target = theirs[pathway.teacher_layer]
        made = functional_call(transform, own, (ours[pathway.student_layer], target.shape[2:]))
        losses.append(net.objective.terms[0].pathway_losses.distance(made, target))
    targets, alpha = batch.targets, raw.exp() / (raw.exp().sum() + np.e)
    per_pixel = row_losses(kind, outputs, targets.labels, t.double(), lambda1, T)
    loss = (targets.weight * per_pixel).mean() + net.objective.terms[0].weights.factor * (
        alpha * torch.stack(losses)
    ).sum()
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    moved = [
        w.detach() - group["lr"] * (g + group["momentum"] * state[w]["momentum_buffer"])
        for w, g in zip(weights, gradients, strict=True)
    ]
    moved = dict(zip(parts[0], moved, strict=False))
    for part in net.module_.modules():
        part.train(isinstance(part, nn.BatchNorm2d))
    outputs = rows_of(functional_call(net.module_, moved | buffers[0], (val_batch[0],)))
    net.module_.train()
    of_val = row_losses(kind, outputs, val_batch.targets.labels, torch.zeros_like(outputs), 1.0, T)
    return torch.autograd.grad((val_batch.targets.weight * of_val).mean(), now)[0]


@both
@pytest.mark.parametrize("method", ["finite_difference", "jvp", "exact"])
def test_against_double_backward(kind, method, make, teachers, monkeypatch):
    """With unknown pixels, weights of images, and maps of the student that are resized."""
    teacher = copy.deepcopy(teachers[kind])
    est = make(kind, teacher, weight="learned", distill_weight=5.0, meta__hypergradient=method,
               optimizer__momentum=0.9, batch_size=4)  # fmt: skip
    with torch.random.fork_rng():
        net, batch, val_batch = ready_net(est, (X, TARGETS[kind]), callbacks=[])
        at = [0.3, 2.2] if kind == "classes" else [0.3]
        net.metaparameters._now[-len(at) :] = torch.tensor(at)
        expected = exact_hypergradient(net, kind, batch, val_batch)
        found = []
        monkeypatch.setattr(
            net.metaparameters, "descend", lambda h: (found.append(h), net.metaparameters._now.clone())[1]
        )
        net.train_step(batch)
    assert found[0].shape == (4 + len(at),) and expected.abs().min() > 1e-9
    tolerance = 2e-4 if "difference" in method else 1e-6  # the teacher's outputs are float32
    assert relative_error(found[0][:4], expected[:4]) < tolerance
    for h, by_hand in zip(found[0][4:], expected[4:], strict=True):
        assert relative_error(h, by_hand) < tolerance


# --------------------------------------------------------------------------------------
# Refused before training


@pytest.mark.parametrize(
    ("kind", "params", "given", "match"),
    [
        ("classes", {"class_weight": "balanced"}, {}, "class_weight='balanced' weights rows by their class"),
        ("classes", {"student": ConvNet}, {}, r"must give maps of shape \(2, 3, 12, 12\)"),
        ("numbers", {"student": ConvNet}, {}, r"must give maps of shape \(2, 1, 12, 12\)"),
        ("classes", {}, {"y": np.full_like(LABELS, IGNORED)}, "there is nothing to learn"),
        ("numbers", {}, {"y": np.full_like(DEPTHS, np.nan)}, "none has a target"),
        ("numbers", {}, {"y": np.ones_like(DEPTHS)}, "is one number"),
        ("classes", {}, {"y": LABELS[:5]}, "24"),
        ("numbers", {}, {"X": X.reshape(24, -1)}, "Give X as images"),
        ("classes", {}, {"y": LABELS[:, 0, 0] % 2}, "ignore_index=255 is the label of unknown pixels"),
    ],
)  # fmt: skip
def test_refused_before_training(kind, params, given, match, make, monkeypatch):
    def train_step(*args, **kwargs):
        raise AssertionError("trained before the input was refused")

    monkeypatch.setattr(TrainingNet, "train_step", train_step)
    given = {"X": X, "y": TARGETS[kind]} | given
    with pytest.raises(ValueError, match=match):
        make(kind, **params).fit(given["X"], given["y"])


def test_a_teacher_of_maps_in_other_units_is_warned_of(make, teachers):
    with pytest.warns(UserWarning, match="in the units of y"):
        make("numbers", teachers["numbers"].student_, weight=1.0).fit(X, DEPTHS)
