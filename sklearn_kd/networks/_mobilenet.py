"""MobileNetV2 at the size of CIFAR."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from torch import Tensor, nn

from sklearn_kd.networks._convolutions import convolution, initialise_for_relu, initialise_small
from sklearn_kd.networks._pixels import CIFAR100_MEAN, CIFAR100_STD, PixelNormalization
from sklearn_kd.students._sizes import check_sizes

_FIRST, _LAST = 32, 1280  # channels of the first and the last convolution, at width 1
# Channels, number and first stride of the blocks of a stage. In the paper's Table 2, for ImageNet, the second
# stage has a stride of 2.
_STAGES = ((16, 1, 1), (24, 2, 1), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))


class MobileNetV2(nn.Module):
    """MobileNetV2, at the size of CIFAR.

    The network has a convolution, seven stages of inverted residuals, a 1×1 convolution to 1280 channels, and
    a linear layer after the mean over the image [1]_. An inverted residual is a 1×1 convolution to
    ``expansion`` times as many channels, a 3×3 convolution of each channel and a 1×1 convolution. An image of
    32×32 pixels shrinks to 16×16, 8×8, 4×4 and 2×2. As in RepDistiller, and unlike the paper, the second
    stage does not halve the image, the blocks of the first stage have their first convolution too, and ReLU
    has no upper limit.

    Inputs are pixels in [0, 1]. The network normalises them itself.

    Parameters
    ----------
    n_classes : int, default=100
        Width of the output; filled in by :class:`~sklearn_kd.DistilledClassifier`.
    width : float, default=0.5
        Factor of all channels except those of the last convolution, which has 1280 or more.
    expansion : int, default=6
        Factor of the channels inside the blocks, except in the first stage.
    mean, std : sequence of float, default=(0.5071, 0.4867, 0.4408) and (0.2675, 0.2565, 0.2761)
        Mean and standard deviation of each input channel in [0, 1], one number for each channel of the
        images. The defaults are CIFAR-100's.

    Attributes
    ----------
    conv1 : Sequential
        The layers before the stages; ``conv1.0`` is the convolution.
    blocks : ModuleList
        The stages. A new size begins with the first, the third, the fourth and the sixth. Blocks have one
        part, ``conv``: ``blocks.2.0.conv.3``.
    conv2 : Sequential
        The layers after the stages.
    classifier : Sequential
        ``classifier.0`` is the linear layer.
    normalize : PixelNormalization
        The normalisation of the inputs.

    Raises
    ------
    ValueError
        If ``width`` leaves a stage without channels, ``n_classes`` or ``expansion`` is below 1, or ``mean``
        and ``std`` differ in length.

    Notes
    -----
    Weights have the same names as in RepDistiller and mdistiller.

    References
    ----------
    .. [1] Sandler, Howard, Zhu, Zhmoginov, Chen. "MobileNetV2: Inverted residuals and linear bottlenecks",
       2018.

    Examples
    --------
    >>> import torch
    >>> from sklearn_kd.networks import MobileNetV2
    >>> network = MobileNetV2()
    >>> network(torch.rand(5, 3, 32, 32)).shape
    torch.Size([5, 100])
    >>> sum(w.numel() for w in network.parameters())
    812836
    """

    def __init__(
        self,
        n_classes: int = 100,
        width: float = 0.5,
        expansion: int = 6,
        mean: Sequence[float] = CIFAR100_MEAN,
        std: Sequence[float] = CIFAR100_STD,
    ):
        super().__init__()
        check_sizes(n_classes=n_classes, expansion=expansion)
        if not _is_factor(width) or width * _STAGES[0][0] < 1:
            raise ValueError(
                f"width={width!r} must be a number that leaves the first stage, with {_STAGES[0][0]} · width "
                "channels, at least one channel."
            )
        fan_in, last = int(_FIRST * width), int(_LAST * max(width, 1))
        self.normalize = PixelNormalization(mean, std)
        self.conv1 = _activated(len(mean), fan_in, size=3, stride=2)
        stages = []
        for k, (channels, n_blocks, stride) in enumerate(_STAGES):
            fan_out = int(channels * width)
            stages.append(_stage(fan_in, fan_out, n_blocks, stride, 1 if k == 0 else expansion))
            fan_in = fan_out
        self.blocks = nn.ModuleList(stages)
        self.conv2 = _activated(fan_in, last, size=1)
        linear = nn.Linear(last, n_classes)
        self.classifier = nn.Sequential(linear)
        initialise_for_relu(self)
        initialise_small(linear)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (B, n_classes) for pixels in [0, 1] of shape (B, n_channels, h, w)."""
        x = self.conv1(self.normalize.pixels(x))
        for stage in self.blocks:
            x = stage(x)
        return self.classifier(self.conv2(x).mean(dim=(2, 3)))


def _is_factor(width: Any) -> bool:
    return isinstance(width, Real) and not isinstance(width, bool) and math.isfinite(float(width))


def _activated(fan_in: int, fan_out: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(convolution(fan_in, fan_out, size, stride), nn.BatchNorm2d(fan_out), nn.ReLU())


def _stage(fan_in: int, fan_out: int, n_blocks: int, stride: int, expansion: int) -> nn.Sequential:
    rest = [_InvertedResidual(fan_out, fan_out, expansion) for _ in range(n_blocks - 1)]
    return nn.Sequential(_InvertedResidual(fan_in, fan_out, expansion, stride), *rest)


class _InvertedResidual(nn.Module):
    """Expand, convolve each channel, project; add the input if it has the same shape."""

    def __init__(self, fan_in: int, fan_out: int, expansion: int, stride: int = 1):
        super().__init__()
        inside = fan_in * expansion
        self.adds_input = stride == 1 and fan_in == fan_out
        each = convolution(inside, inside, stride=stride, groups=inside)
        self.conv = nn.Sequential(
            *_activated(fan_in, inside, size=1),
            each,
            nn.BatchNorm2d(inside),
            nn.ReLU(),
            convolution(inside, fan_out, size=1),
            nn.BatchNorm2d(fan_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the projected channels."""
        return x + self.conv(x) if self.adds_input else self.conv(x)
