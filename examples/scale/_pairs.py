"""Define pairs of networks for images in ImageNet's layout, and the settings of their trainings."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from sklearn_kd.networks import NETWORKS

EPOCHS, SEARCH_EPOCHS, BATCH = 100, 40, 512
# The rates are for batches of 512: 0.1 for 256 scaled linearly; and DeiT's.
SGD = {
    "optimizer": "SGD",
    "lr": 0.2,
    "optimizer__momentum": 0.9,
    "optimizer__nesterov": True,
    "optimizer__weight_decay": 1e-4,
}
ADAMW = {"optimizer": "AdamW", "lr": 5e-4, "optimizer__weight_decay": 0.05}


class Pair(NamedTuple):
    """Two networks by name, three stages of each, the student's training, and published accuracies.

    ``teacher`` also names trained weights if the network is timm's. ``published`` is the top-1 accuracy
    on ImageNet in percent, or None.
    """

    teacher: str
    student: str
    teacher_layers: tuple[str, ...]
    student_layers: tuple[str, ...]
    training: dict[str, Any]
    published: float | None = None


# 28×28, 14×14 and 7×7 pixels of an image of 224×224.
RESNET = ("layer2", "layer3", "layer4")
MOBILENET = ("blocks.2", "blocks.3", "blocks.4")
DEIT = ("blocks.3:tokens", "blocks.7:tokens", "blocks.11:tokens")  # 14×14 patches each

PAIRS = {
    "resnet": Pair("resnet34.tv_in1k", "resnet18", RESNET, RESNET, SGD),
    "mobilenet": Pair("resnet50.tv_in1k", "mobilenetv1_100", RESNET, MOBILENET, SGD, 73.26),
    "deit": Pair("deit_small_patch16_224.fb_in1k", "deit_tiny_patch16_224.fb_in1k", DEIT, DEIT, ADAMW, 73.51),
    # Of the library, for --quick: timm need not be installed.
    "small": Pair("resnet14", "resnet8", ("layer1", "layer2", "layer3"), ("layer1", "layer2", "layer3"), SGD),
}


def network(name: str, n_classes: int = 1000, pretrained: bool = False) -> nn.Module:
    """Return a network by its name in timm or in ``NETWORKS``; its inputs are normalised images.

    Parameters
    ----------
    name : str
        A name of timm may include trained weights, as "resnet34.tv_in1k" does.
    n_classes : int, default=1000
    pretrained : bool, default=False
        Load timm's trained weights, which are downloaded once. They are for 1000 classes.
    """
    if name in NETWORKS:
        return NETWORKS[name](n_classes=n_classes, mean=(0.0,) * 3, std=(1.0,) * 3)
    import timm

    return timm.create_model(name, pretrained=pretrained, num_classes=n_classes)
