"""Convolutions without bias, to be followed by batch normalisation, and initial weights."""

from __future__ import annotations

from torch import nn


def convolution(fan_in: int, fan_out: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Make a convolution that keeps height and width if the stride is 1.

    Parameters
    ----------
    fan_in, fan_out : int
        Channels.
    size : int, default=3
        Height and width of the kernel.
    stride, groups : int, default=1
    """
    return nn.Conv2d(fan_in, fan_out, size, stride, padding=size // 2, groups=groups, bias=False)


def initialise_for_relu(network: nn.Module) -> None:
    """Draw the weights of convolutions from N(0, 2 / (kernel size · output channels)), He et al. 2015."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def initialise_small(layer: nn.Linear) -> None:
    """Draw the weights of the last layer from N(0, 0.01²), without bias."""
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
