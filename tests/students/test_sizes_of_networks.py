"""Sizes of students and networks: what none can be made of is refused by the argument's name."""

import pytest
import torch

from sklearn_kd import CIFARResNet, CNNStudent, FCNStudent, MLPStudent, TabularStudent
from sklearn_kd.networks import (
    NETWORKS,
    VGG,
    MobileNetV2,
    ResNet,
    ShuffleNetV1,
    ShuffleNetV2,
    WideResNet,
)

MAKERS = {
    WideResNet: {"depth": 10, "width": 1, "n_classes": 3},
    ResNet: {"depth": 8, "n_classes": 3},
    ShuffleNetV1: {"n_classes": 3},
    ShuffleNetV2: {"n_classes": 3, "width": 0.5},
    MobileNetV2: {"n_classes": 3, "width": 0.5, "expansion": 1},
    VGG: {"depth": 8, "n_classes": 3},
    CIFARResNet: {"depth": 8, "n_classes": 3, "width": 1},
    MLPStudent: {"in_features": 4, "n_classes": 3, "hidden": 8},
    CNNStudent: {"n_classes": 3, "hidden": 8},
    FCNStudent: {"in_channels": 3, "n_classes": 3, "blocks": 1, "head_channels": 4},
    TabularStudent: {"in_features": 4, "n_classes": 3, "embedding_dim": 2, "hidden": 8},
}


def given(make):
    return {"input_shape": (1, 8, 8)} if make is CNNStudent else {}


@pytest.mark.parametrize("bad", [0, -1, 2.7, "3", True])
@pytest.mark.parametrize(("make", "name"), [(make, name) for make, own in MAKERS.items() for name in own])
def test_sizes_that_are_none_are_refused(make, name, bad):
    if make is MobileNetV2 and name == "width" and bad == 2.7:
        bad = float("nan")
    with torch.device("meta"):
        make(**MAKERS[make], **given(make))
        with pytest.raises(ValueError, match=rf"^{name}={bad!r} "):
            make(**{**MAKERS[make], name: bad}, **given(make))


@pytest.mark.parametrize(
    ("make", "params", "message"),
    [
        (ResNet, {"channels": (16, 0, 32, 64)}, r"channels=\(16, 0, 32, 64\) must be a sequence of whole"),
        (ResNet, {"channels": 16}, "channels=16 must be a sequence"),
        (MLPStudent, {"hidden": [8, 0]}, r"hidden=\[8, 0\] must be a sequence"),
        (CNNStudent, {"channels": (4, -1)}, r"channels=\(4, -1\) must be a sequence"),
        (CNNStudent, {"channels": (4,) * 4}, "nothing of 8×8 pixels.*images of at least 16×16"),
        (FCNStudent, {"channels": "84"}, "channels='84' must be a sequence"),
    ],
)
def test_sizes_of_several_layers(make, params, message):
    with pytest.raises(ValueError, match=message):
        make(**{**MAKERS[make], **given(make), **params})


@pytest.mark.parametrize("name", ["wrn_16_1", "resnet8", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2"])
def test_small_images(name):
    network, x = NETWORKS[name](n_classes=3).eval(), torch.rand(1, 3, 7, 9)
    if name == "vgg8":
        with pytest.raises(ValueError, match=r"VGG .* at least 8×8 pixels; got 7×9"):
            network(x)
        x = torch.rand(1, 3, 8, 9)
    assert network(x).shape == (1, 3)
