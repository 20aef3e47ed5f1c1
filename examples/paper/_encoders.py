"""Use torchvision's trained networks as encoders for maps."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from sklearn_kd import FCNStudent
from sklearn_kd.students._resnet import MEAN, STD

CHANNELS = {
    "resnet18": (64, 128, 256, 512),
    "resnet34": (64, 128, 256, 512),
    "resnet50": (256, 512, 1024, 2048),
    "resnet101": (256, 512, 1024, 2048),
    "mobilenet_v2": (24, 32, 96, 320),
}
# Of MobileNetV2's features: the first block of each stage, and the end.
MOBILENET_STAGES = (1, 4, 7, 14, 18)


class EncoderMaps(FCNStudent):
    """The library's sum of stages on a ResNet or a MobileNetV2 of torchvision, trained on ImageNet.

    Parameters
    ----------
    in_channels : int
        Must be three: the encoder was trained on colour images.
    n_classes : int
    encoder : str, default="resnet18"
        Name in torchvision.
    head_channels : int, default=128
    pretrained : bool, default=True
        Start from weights trained on ImageNet, which torchvision downloads.
    """

    def __init__(
        self,
        in_channels: int,
        n_classes: int,
        encoder: str = "resnet18",
        head_channels: int = 128,
        pretrained: bool = True,
    ):
        from torchvision.models import get_model

        # A ResNet pools before its first stage; MobileNetV2's first stage has a stride of its own.
        stride = 4 if encoder.startswith("resnet") else 2
        super().__init__(
            in_channels, n_classes, CHANNELS[encoder], head_channels=head_channels, output_stride=stride
        )
        trained = get_model(encoder, weights="DEFAULT" if pretrained else None)
        for name, part in parts_of(trained).items():
            setattr(self, name, part)
        self.register_buffer("mean", torch.tensor(MEAN).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(STD).reshape(-1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return maps of a quarter of the images' size; pixels are in [0, 1]."""
        return super().forward((x - self.mean) / self.std)


def parts_of(trained: nn.Module) -> dict[str, nn.Module]:
    """Return the parts of a network under the names that :class:`FCNStudent` has for them."""
    stages = [f"layer{i}" for i in range(1, 5)]
    if hasattr(trained, "layer1"):
        return {name: getattr(trained, name) for name in ("conv1", "bn1", *stages)}
    features = trained.features
    parts = {"conv1": features[0][0], "bn1": features[0][1]}
    return parts | {
        name: features[first:last]
        for name, (first, last) in zip(stages, pairwise(MOBILENET_STAGES), strict=True)
    }
