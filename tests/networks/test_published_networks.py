"""The networks are those that are published: names, sizes, numbers, and both places in a distillation."""

import copy
import hashlib
import math
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch.utils.flop_counter import FlopCounterMode

from sklearn_kd import CIFARResNet, DistilledClassifier, DistProClassifier, layer_table
from sklearn_kd.layers._find import find_layers, layer_shapes
from sklearn_kd.networks import (
    NETWORKS,
    VGG,
    MobileNetV2,
    ResNet,
    ShuffleNetV1,
    ShuffleNetV2,
    WideResNet,
)

SMALL = ["wrn_16_1", "resnet8", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2"]


def without_memory(make, **params):
    with torch.device("meta"):
        return make(**params)


def n_parameters(network):
    return sum(w.numel() for w in network.parameters())


def mega_multiply_adds(network, size=32):
    """Of convolutions and linear layers, for an image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.empty(1, 3, size, size, device="meta"))
    return counter.get_total_flops() / 2 / 1e6


def published_state(network):
    """Weights and statistics, without the normalisation of pixels, which published networks have not inside."""
    return sorted((name, w) for name, w in network.state_dict().items() if not name.startswith("normalize."))


# --------------------------------------------------------------------------------------
# Against the code of RepDistiller (Tian, Krishnan, Isola 2020), at its last commit; mdistiller's networks have
# the same names and shapes. The networks there were built with 100 classes. A digest is of the lines
# "name shape" of the sorted state dict. The logits are of weights by a formula, in float64 (see filled): the
# first two classes of two images.

REPDISTILLER = {
    "resnet8": (83_892, "99cb0c0b2ea3c613", (-1.0974664839, -0.3575280796, -1.0885607527, -0.3749350692)),
    "resnet14": (181_108, "629933907d5744ff", None),
    "resnet20": (278_324, "0386434ca6f34c26", None),
    "resnet32": (472_756, "9e5592f61f0020a8", None),
    "resnet44": (667_188, "df3dce284c7a26b4", None),
    "resnet56": (861_620, "fa692cabb2e3a217", None),
    "resnet110": (1_736_564, "9ca5a9542fb3a343", None),
    "resnet8x4": (1_233_540, "b2ead61a142ef3af", (-1.3144240447, 2.9569144125, -1.3174211498, 2.9494307301)),
    "resnet32x4": (7_433_860, "99154b2aea1aeb59", None),
    "wrn_16_1": (180_916, "b4de1d786e12f08a", (0.0231692082, -1.0590028672, 0.033184657, -1.0450127594)),
    "wrn_16_2": (703_284, "2266f04469bf5dd9", (-0.0373451938, 0.9596964124, -0.0406974937, 0.9708079795)),
    "wrn_40_1": (569_780, "01abc5646d8c075c", None),
    "wrn_40_2": (2_255_156, "595ec0db20d1ca1c", None),
    "vgg8": (3_965_028, "7f85b8479109415f", (3.9181191386, -3.7414130581, 3.917278089, -3.7402960639)),
    "vgg11": (9_277_284, "6053995f63325762", None),
    "vgg13": (9_462_180, "5778ceb5832ef6a7", None),
    "vgg16": (14_774_436, "0729229b18559f53", None),
    "vgg19": (20_086_692, "e27ccb5da4f3ad9e", None),
    "MobileNetV2": (812_836, "54501c9a7e317631", (1.3707023799, -4.8068538943, 1.3707113869, -4.8068511402)),
    "ShuffleV1": (949_258, "1282e767b3e9c6cd", (-0.7400075969, 0.9365530208, -0.7495598744, 0.9442183853)),
    "ShuffleV2": (1_355_528, "9b7750ae03289b13", (-17.8940304014, -18.8402928806, -18.2857041056, -19.3004863773)),
}  # fmt: skip


def filled(network):
    """Give every weight a number by a formula of its name's place and its own."""
    tensors = ((name, w) for name, w in published_state(network) if w.is_floating_point())
    with torch.no_grad():
        for k, (name, tensor) in enumerate(tensors):
            wave = torch.sin(torch.arange(tensor.numel(), dtype=torch.float64) * 1.7 + k).reshape(
                tensor.shape
            )
            if tensor.ndim > 1:
                tensor.copy_(wave * math.sqrt(4 / tensor[0].numel()))
            elif name.endswith((".weight", "running_var")):
                tensor.copy_(1 + 0.2 * wave)
            else:
                tensor.copy_(0.2 * wave)
    return network


@pytest.mark.parametrize("name", REPDISTILLER)
def test_names_and_shapes_are_those_that_are_published(name):
    network = without_memory(NETWORKS[name])
    lines = "\n".join(f"{key} {tuple(w.shape)}" for key, w in published_state(network))
    found = n_parameters(network), hashlib.sha256(lines.encode()).hexdigest()[:16]
    assert found == REPDISTILLER[name][:2]


@pytest.mark.parametrize("name", [name for name, (_, _, logits) in REPDISTILLER.items() if logits])
def test_logits_are_those_of_the_published_code(name):
    network = filled(NETWORKS[name]().double()).eval()
    # The published networks are given normalised pixels.
    x = torch.sin(torch.arange(2 * 3 * 32 * 32, dtype=torch.float64) ** 2 * 0.37).reshape(2, 3, 32, 32)
    with torch.no_grad():
        logits = network(x * network.normalize.std + network.normalize.mean)
    np.testing.assert_allclose(logits[:, :2].flatten(), REPDISTILLER[name][2], rtol=0, atol=1e-9)


# --------------------------------------------------------------------------------------
# Against figures in papers and lists of models


@pytest.mark.parametrize(
    ("depth", "width", "millions"), [(28, 4, 5.87), (16, 4, 2.77), (28, 2, 1.47), (16, 2, 0.70)]
)
def test_parameters_of_wide_networks(depth, width, millions):
    """Heo et al., "A comprehensive overhaul of feature distillation", 2019: CIFAR-100, digits cut off."""
    assert int(n_parameters(without_memory(WideResNet, depth=depth, width=width)) / 1e4) / 100 == millions


# Parameters, and millions of multiply-adds with those of batch normalisation and ReLU, for CIFAR-100: Sémery's
# list of models (imgclsmob).
@pytest.mark.parametrize(
    ("make", "sizes", "parameters", "mega"),
    [
        (ResNet, {"depth": 20}, 278_324, 41.30),
        (ResNet, {"depth": 56}, 861_620, 127.06),
        (ResNet, {"depth": 110}, 1_736_564, 255.71),
        (WideResNet, {"depth": 16, "width": 10}, 17_174_324, 2414.09),
        (WideResNet, {"depth": 28, "width": 10}, 36_536_884, 5247.04),
        (WideResNet, {"depth": 40, "width": 8}, 35_794_484, 5176.95),
    ],
)
def test_sizes_are_those_of_a_list_of_models(make, sizes, parameters, mega):
    network = without_memory(make, **sizes)
    assert n_parameters(network) == parameters
    assert 0.985 * mega < mega_multiply_adds(network) < mega


# Millions of multiply-adds of convolutions and linear layers, for CIFAR-10: Dong's AutoDL-Projects.
@pytest.mark.parametrize(
    ("make", "sizes", "mega"),
    [
        (ResNet, {"depth": 8}, 12.50),
        (ResNet, {"depth": 20}, 40.81),
        (ResNet, {"depth": 32}, 69.12),
        (ResNet, {"depth": 56}, 125.75),
        (ResNet, {"depth": 110}, 253.15),
        (WideResNet, {"depth": 28, "width": 10}, 5243.33),
    ],
)
def test_multiply_adds(make, sizes, mega):
    assert mega_multiply_adds(without_memory(make, n_classes=10, **sizes)) == pytest.approx(mega, abs=0.006)


def test_parameters_of_vgg():
    """DA2Lite's list of models: VGG-16 for CIFAR-10 and VGG-19 for CIFAR-100, with batch normalisation."""
    sizes = [without_memory(VGG, depth=16, n_classes=10), without_memory(VGG, depth=19)]
    assert [round(n_parameters(network) / 1e6, 2) for network in sizes] == [14.73, 20.09]


def test_the_unit_of_shufflenet_v1_halves_the_image_in_all_stages():
    """Zhang et al. 2018, Table 1: 240, 480 and 960 channels for three groups."""
    found = find_layers(
        ShuffleNetV1(), ["layer1", "layer2", "layer3"], torch.rand(2, 3, 32, 32), name="layers"
    )
    assert list(layer_shapes(found).values()) == [(240, 16, 16), (480, 8, 8), (960, 4, 4)]


@pytest.mark.parametrize(("width", "channels"), [(0.5, 48), (1, 116), (1.5, 176), (2, 244)])
def test_widths_of_shufflenet_v2(width, channels):
    """Ma et al. 2018, Table 5."""
    network = without_memory(ShuffleNetV2, width=width)
    assert (
        network.layer1[0].conv5.out_channels * 2 == channels
        and network.layer3[0].conv5.out_channels * 2 == 4 * channels
    )


# --------------------------------------------------------------------------------------
# Pixels


def test_pixels_are_normalised_inside():
    network = ResNet(8, n_classes=4, mean=(0.1, 0.2, 0.3), std=(0.5, 1, 2)).eval()
    bare = ResNet(8, n_classes=4, mean=(0, 0, 0), std=(1, 1, 1)).eval()
    bare.load_state_dict(dict(published_state(network)))  # weights without mean and std load too
    assert bare.normalize.std.flatten().tolist() == [1, 1, 1]
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(bare((x - network.normalize.mean) / network.normalize.std), network(x))
    bare.load_state_dict(network.state_dict())
    torch.testing.assert_close(bare(x), network(x))


@pytest.mark.parametrize("name", SMALL)
def test_grey_images(name):
    network = NETWORKS[name](n_classes=4, mean=(0.286,), std=(0.353,))
    assert network(torch.rand(2, 1, 28, 28)).shape == (2, 4)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_copies_take_published_weights_too(again):
    network = NETWORKS["resnet8"](n_classes=4)
    twin = again(network)
    twin.load_state_dict(dict(published_state(network)))
    assert twin.normalize.mean is not network.normalize.mean


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_a_gradient(name):
    torch.manual_seed(0)
    network = NETWORKS[name](n_classes=4)
    network(torch.rand(4, 3, 32, 32)).square().sum().backward()
    # A bias before batch normalisation is without effect.
    idle = {n for n, w in network.named_parameters() if w.grad is None or not w.grad.abs().max() > 1e-12}
    assert all(name.endswith(".bias") for name in idle) and (not idle or name == "vgg8")


# --------------------------------------------------------------------------------------
# Wrong sizes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WideResNet(20, 2), r"depth=20 is not 6n \+ 4.* 16, 22, 28"),
        (lambda: WideResNet(16, 0), "width=0 must be a whole number"),
        (lambda: ResNet(18), r"depth=18 is not 6n \+ 2.* 20,"),
        (lambda: ResNet(8, (16, 32, 64)), r"channels=\(16, 32, 64\) must be four numbers"),
        (lambda: VGG(12), "depth=12 must be one of 8, 11, 13, 16, 19"),
        (lambda: ShuffleNetV2(width=3), "width=3 must be one of 0.5, 1, 1.5, 2"),
        (lambda: MobileNetV2(width=0.05), "width=0.05 must be a number that leaves the first stage"),
        (lambda: VGG(8, mean=(0.5,)), "one number for each channel"),
        (lambda: VGG(8)(torch.zeros(2, 1, 8, 8)), r"shape \(n, 3, height, width\)"),
    ],
)  # fmt: skip
def test_wrong_sizes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --------------------------------------------------------------------------------------
# In a distillation

# Layers before the ReLU that follows a stage, and those that "auto" finds in images of 32×32.
LAYERS = {
    "wrn_16_1": (["block2.layer.0.bn1", "block3.layer.0.bn1", "bn1"], ["block1", "block2", "bn1"]),
    "resnet8": ([f"layer{i}.0.relu:input" for i in (1, 2, 3)], ["layer1", "layer2", "layer3"]),
    "vgg8": (["block0", "block1", "block2", "block4"], ["block0", "block1", "block2", "block4"]),
    "MobileNetV2": (["blocks.1", "blocks.2", "blocks.4", "blocks.6"], ["blocks.1", "blocks.2", "blocks.4", "conv2"]),
    "ShuffleV1": (["layer1.3.relu:input", "layer2.7.relu:input", "layer3.3.relu:input"], ["bn1", "layer1", "layer2", "layer3"]),
    "ShuffleV2": (["layer1", "layer2", "layer3"], ["bn1", "layer1", "layer2", "bn2"]),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_stages_are_found_by_name_and_automatically(name):
    network, x = NETWORKS[name](n_classes=4), torch.rand(2, 3, 32, 32)
    named, auto = LAYERS[name]
    by_name = layer_shapes(find_layers(network, named, x, name="student_layers"))
    found = layer_shapes(find_layers(network, "auto", x, name="student_layers"))
    assert list(found) == auto
    sizes = [shape[1:] for shape in found.values()]
    assert [shape[1:] for shape in by_name.values()] == sizes[-len(named) :]


@pytest.fixture
def images():
    """(X, y) of 24 random colour images of 16×16 in two classes."""
    rng = np.random.default_rng(0)
    return rng.random((24, 3, 16, 16), dtype=np.float32), np.arange(24) % 2


SETTINGS = {"max_epochs": 1, "batch_size": 12, "lr": 0.01, "random_state": 0, "device": "cpu"}


def test_a_class_as_the_student(images, tmp_path):
    X, y = images
    clf = DistilledClassifier(
        None, WideResNet, meta="none", student__depth=10, student__width=1, search_epochs=None, **SETTINGS
    )
    clf.fit(X, y).save(tmp_path / "student.safetensors")
    assert clf.student_.fc.out_features == 2
    again = DistilledClassifier.load(
        tmp_path / "student.safetensors"
    )  # a class of the library needs no code in the file
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))


def test_a_name_as_the_student(images):
    X, y = images
    clf = clone(DistilledClassifier(None, NETWORKS["resnet8"], meta="none", search_epochs=None, **SETTINGS))
    clf = pickle.loads(pickle.dumps(clf.fit(X, y)))
    assert isinstance(clf.student_, ResNet) and clf.student_.fc.out_features == 2


def test_pathways_between_published_networks(images):
    X, y = images
    clf = DistProClassifier(
        NETWORKS["resnet8"](n_classes=2),
        NETWORKS["wrn_16_1"],
        search_epochs=1,
        transforms=["conv1"],
        **SETTINGS,
    ).fit(X, y)
    assert [p.student_layer for p in clf.pathways_[:3]] == ["block1", "block2", "bn1"]
    assert {row.split()[0] for row in str(layer_table(clf.student_, X[:2])).splitlines() if "block3" in row}


def test_cifar_resnet_is_another_family():
    """Its shortcuts have no weights, and its linear layer another name."""
    own = {name for name, _ in published_state(without_memory(CIFARResNet, depth=8))}
    assert {"fc.weight", "layer2.0.downsample.0.weight"} <= set(dict(published_state(ResNet(8)))) - own
