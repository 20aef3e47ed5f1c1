"""A network teacher with an input of its own: ``teacher_transform``."""

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from torch import nn

from helpers.networks import ConvNet
from helpers.token_networks import SmallViT
from sklearn_kd import (
    CIFARResNet,
    DistilledClassifier,
    DistilledRegressor,
    DistProClassifier,
    DistProRegressor,
)
from sklearn_kd.networks import VGG
from sklearn_kd.teachers import ImageTransform
from sklearn_kd.teachers._features import FeatureTeacher
from sklearn_kd.teachers._transformed import TransformedTeacher, with_transform

SETTINGS = {"max_epochs": 1, "device": "cpu", "random_state": 0, "optimizer": "SGD", "lr": 0.1}
DISTPRO = {"search_epochs": 1, "transforms": ["conv1"], **SETTINGS}


def enlarged(x):
    return F.interpolate(x, (16, 16)).sub(0.5)


class Enlarged(nn.Module):
    """The teacher that ``teacher_transform=enlarged`` makes, as a module of its own."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(enlarged(x))


class Fixed(SmallViT):
    """Takes images of 16×16 only."""

    def __init__(self, n_classes=10):
        super().__init__(n_classes, channels=1, depth=2)


@pytest.fixture(scope="module")
def teacher():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Fixed().eval()


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.random((40, 1, 8, 8), dtype=np.float32), np.arange(40) % 10


@pytest.mark.parametrize("augment", [None, torch.neg])
def test_it_equals_a_module_that_does_the_same(augment, teacher, data, tmp_path):
    X, y = data
    own = DistilledClassifier(
        teacher,
        ConvNet,
        teacher_transform=enlarged,
        augment=augment,
        meta="fixed",
        keep_teacher=True,
        **SETTINGS,
    )
    with pytest.raises(ValueError, match="cannot take samples of shape"):
        clone(own).set_params(teacher_transform=None).fit(X, y)
    fitted = clone(own).fit(X, y)
    around = clone(own).set_params(teacher=Enlarged(teacher), teacher_transform=None).fit(X, y)
    np.testing.assert_array_equal(fitted.predict_proba(X), around.predict_proba(X))
    assert fitted.get_params()["teacher_transform"] is enlarged
    again = pickle.loads(pickle.dumps(fitted))
    torch.testing.assert_close(again.teacher_(torch.tensor(X)), teacher(enlarged(torch.tensor(X))))


def test_files(teacher, data, tmp_path):
    fitted = DistilledClassifier(teacher, ConvNet, teacher_transform=enlarged, meta="fixed", **SETTINGS).fit(
        *data
    )
    with pytest.warns(UserWarning, match="teacher_transform"):
        fitted.save(tmp_path / "model.safetensors")
    loaded = DistilledClassifier.load(tmp_path / "model.safetensors", student=ConvNet)
    np.testing.assert_array_equal(loaded.predict_proba(data[0]), fitted.predict_proba(data[0]))
    assert loaded.teacher_transform is None


@pytest.mark.parametrize("augment", [None, torch.neg])
def test_pathways_name_the_networks_own_layers(augment, teacher, data):
    distpro = DistProClassifier(
        teacher, ConvNet, teacher_transform=enlarged, augment=augment, logit_weight=1.0, **DISTPRO
    ).fit(*data)
    assert {p.teacher_layer for p in distpro.pathways_} == {"blocks.0:tokens", "blocks.1:tokens"}
    around = DistProClassifier(
        Enlarged(teacher),
        ConvNet,
        teacher_layers=["network.blocks.0", "network.blocks.1"],
        augment=augment,
        logit_weight=1.0,
        **DISTPRO,
    ).fit(*data)
    np.testing.assert_array_equal(distpro.predict_proba(data[0]), around.predict_proba(data[0]))


def doubled(x):
    return 2 * x


class HalfMean(ConvNet):
    """Half the mean of an image, and two stages of no use."""

    def __init__(self):
        super().__init__(1)

    def forward(self, x):
        return 0 * super().forward(x) + x.mean((1, 2, 3))[:, None] / 2


@pytest.mark.parametrize(
    ("estimator", "settings"),
    [
        (DistilledRegressor, {"meta": "fixed", **SETTINGS}),
        (DistProRegressor, {"output_weight": 1.0, **DISTPRO}),
    ],
)
def test_regressors(estimator, settings, data):
    X, y = data[0], data[0].mean((1, 2, 3))
    own = estimator(HalfMean(), ConvNet, teacher_transform=doubled, keep_teacher=True, **settings)
    fitted = own.fit(X, y)
    assert fitted.predict(X).shape == y.shape
    np.testing.assert_allclose(fitted.teacher_(torch.tensor(X))[:, 0].detach(), y, rtol=1e-4)


def darkened(x):
    return x.sub_(0.5)


@pytest.mark.filterwarnings("ignore:teacher ConvNet predicts y")  # it is untrained
@pytest.mark.parametrize("settings", [{"loss": ["kd", "similarity"]}, {"augment": torch.neg}])
@pytest.mark.parametrize("estimator", [DistilledClassifier, DistilledRegressor])
def test_a_transform_may_write_into_its_batch(estimator, settings, data):
    X, y = data
    if estimator is DistilledRegressor:
        y, settings = y / 10.0, {name: loss for name, loss in settings.items() if name != "loss"}
    given, network = X.copy(), ConvNet(10 if estimator is DistilledClassifier else 1)
    one = estimator(network, ConvNet, meta="fixed", **settings, **SETTINGS)
    writes = clone(one).set_params(teacher_transform=darkened).fit(X, y)
    np.testing.assert_array_equal(X, given)
    copies = clone(one).set_params(teacher_transform=lambda x: x - 0.5).fit(X, y)
    for weight, wanted in zip(writes.student_.parameters(), copies.student_.parameters(), strict=True):
        torch.testing.assert_close(weight, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("loss", ["kd", ["kd", "similarity"]])
def test_the_transform_is_given_float32_whatever_the_network_has(loss, kind, data):
    given = []

    def doubled(x):
        given.append(x.dtype)
        return 2 * x.double()

    network = ConvNet(10).to(kind)
    DistilledClassifier(network, ConvNet, teacher_transform=doubled, loss=loss, meta="fixed", **SETTINGS).fit(
        *data
    )
    assert set(given) == {torch.float32} and next(network.parameters()).dtype is kind


def test_a_module_runs_in_evaluation_mode(data):
    norm, samples = nn.BatchNorm2d(1), torch.from_numpy(data[0][:4])
    teacher = FeatureTeacher(TransformedTeacher(ConvNet(10), norm), torch.device("cpu"))
    teacher.forward(samples)
    assert norm.training and norm.num_batches_tracked == 0
    torch.testing.assert_close(teacher._input_of(samples), nn.BatchNorm2d(1).eval()(samples))


def test_the_features_are_those_of_the_network(teacher, data):
    x = torch.tensor(data[0][:4])
    plain = FeatureTeacher(teacher, torch.device("cpu"))
    behind = FeatureTeacher(with_transform(teacher, enlarged), torch.device("cpu"))
    layers = list(behind.layer_shapes("auto", x))
    expected, found = plain(enlarged(x), layers)[0], behind(x, layers)[0]
    assert layers == ["blocks.0:tokens", "blocks.1:tokens"]
    for layer in layers:
        torch.testing.assert_close(found[layer], expected[layer])


def test_attributes_of_the_network_are_there(teacher):
    behind = TransformedTeacher(teacher, enlarged)
    assert behind.keep == 1.0 and not hasattr(behind, "classes_")
    assert not hasattr(TransformedTeacher.__new__(TransformedTeacher), "network")


def fails(x):
    raise RuntimeError("no")


@pytest.mark.parametrize("estimator", [DistilledClassifier, DistProClassifier])
@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        (
            {"teacher_transform": fails},
            ValueError,
            r"fails on a batch of shape \(.*, 1, 8, 8\): RuntimeError: no",
        ),
        ({"teacher_transform": lambda x: x[:1]}, ValueError, "with the same number of rows"),
        ({"teacher_transform": lambda x: None}, ValueError, "gives NoneType for a batch"),
        ({"teacher": LogisticRegression()}, TypeError, "makes the input of a network"),
        ({"teacher": None}, ValueError, "teacher=None has no input"),
        ({"teacher_transform": "resize"}, ValueError, "teacher_transform"),
    ],
)
def test_what_cannot_be_is_refused(estimator, given, error, match, teacher, data):
    settings = {"teacher": teacher, "teacher_transform": enlarged, **SETTINGS, **given}
    with pytest.raises(error, match=match):
        estimator(student=ConvNet, **settings).fit(*data)


@pytest.mark.parametrize("size", [None, 4, (6, 5)])
def test_images_are_resized_and_normalised(size):
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mean, std = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.6, 0.7])
    made = ImageTransform(size, mean.tolist(), std.tolist())(x)
    if size is None:
        np.testing.assert_allclose(
            made, (x.numpy() - mean[:, None, None]) / std[:, None, None], rtol=1e-5, atol=1e-6
        )
    assert tuple(made.shape[2:]) == {None: (8, 8), 4: (4, 4), (6, 5): (6, 5)}[size]
    constant = ImageTransform(size, mean.tolist(), std.tolist())(torch.full((1, 3, 8, 8), 0.25))
    np.testing.assert_allclose(constant.amax((0, 2, 3)), (0.25 - mean) / std, rtol=1e-5)


@pytest.mark.parametrize("settings", [{"size": 0}, {"size": (8,)}, {"size": 8.0}, {"mean": 0.5, "std": 0.5}])
def test_other_settings_of_images_are_refused(settings):
    with pytest.raises(ValueError, match="must be"):
        ImageTransform(**settings)
    assert ImageTransform(np.int64(4), np.full(3, 0.5), np.full(3, 0.5))(torch.rand(1, 3, 8, 8)).shape[2] == 4


def test_images_that_do_not_suit():
    with pytest.raises(ValueError, match="3 channels of mean"):
        ImageTransform()(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match="std above 0"):
        ImageTransform(mean=[0.0], std=[0.0])
    with pytest.raises(ValueError, match=r"\(3, 0, 8\) have no pixels"):
        ImageTransform(8)(torch.zeros(2, 3, 0, 8))


@pytest.mark.parametrize(
    ("transform", "match"),
    [
        (None, r"at least 8×8 pixels; got 4×4\. .*or a teacher_transform that makes that shape"),
        (
            ImageTransform(6),
            r"shape \(3, 4, 4\) after teacher_transform=ImageTransform.*got 6×6\. .*that makes",
        ),
    ],
)
def test_images_too_small_for_the_teacher(transform, match):
    X, y = np.zeros((20, 3, 4, 4), np.float32), np.arange(20) % 2
    clf = DistilledClassifier(VGG(8, 2), CIFARResNet, student__depth=8, teacher_transform=transform)
    with pytest.raises(ValueError, match=match):
        clf.fit(X, y)
