"""Trained ResNets of torchvision as encoders of maps."""

from __future__ import annotations

import torch

from sklearn_kd import FCNStudent
from sklearn_kd.students._resnet import MEAN, STD

CHANNELS = {
    "resnet18": (64, 128, 256, 512),
    "resnet34": (64, 128, 256, 512),
    "resnet50": (256, 512, 1024, 2048),
    "resnet101": (256, 512, 1024, 2048),
}


class EncoderMaps(FCNStudent):
    """The library's sum of stages on a ResNet of torchvision, which was trained on ImageNet.

    Parameters
    ----------
    in_channels : int
        Three: the encoder was trained on colour images.
    n_classes : int
    encoder : str, default="resnet18"
        Name in torchvision.
    head_channels : int, default=128
    pretrained : bool, default=True
        Start from ImageNet's weights, which torchvision downloads.
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

        channels = CHANNELS[encoder]
        super().__init__(in_channels, n_classes, channels, head_channels=head_channels, output_stride=4)
        trained = get_model(encoder, weights="DEFAULT" if pretrained else None)
        for name in ("conv1", "bn1", *(f"layer{i}" for i in range(1, 5))):
            setattr(self, name, getattr(trained, name))
        self.register_buffer("mean", torch.tensor(MEAN).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(STD).reshape(-1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return maps of a quarter of the images' size, of pixels in [0, 1]."""
        return super().forward((x - self.mean) / self.std)
