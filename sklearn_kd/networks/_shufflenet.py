"""ShuffleNet V1 and V2 at the size of CIFAR."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sklearn_kd.networks._convolutions import convolution
from sklearn_kd.networks._pixels import CIFAR100_MEAN, CIFAR100_STD, PixelNormalization
from sklearn_kd.students._sizes import check_sizes

_FIRST = 24  # channels of the first convolution, in both papers
_UNITS = (4, 8, 4)  # of the stages, in both papers
_V1_GROUPS = 3
_V1_CHANNELS = (240, 480, 960)  # of V1's stages with three groups (its Table 1)
# Channels of V2's stages and of its last convolution, by width (its Table 5).
_V2_CHANNELS = {
    0.5: (48, 96, 192, 1024),
    1: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2: (244, 488, 976, 2048),
}


class ShuffleNetV1(nn.Module):
    """ShuffleNet V1 with three groups, at the size of CIFAR.

    The network has a 1×1 convolution to 24 channels and three stages of 4, 8 and 4 units with 240, 480 and
    960 channels [1]_. Each stage halves the image. A unit has 1×1 convolutions in groups, a shuffle of their
    channels and a 3×3 convolution of each channel. As in RepDistiller, and unlike the paper's network for
    ImageNet, the first convolution is 1×1, does not halve the image, and is not followed by pooling.

    Inputs are pixels in [0, 1]. The network normalises them itself.

    Parameters
    ----------
    n_classes : int, default=100
        Width of the output; filled in by :class:`~sklearn_kd.DistilledClassifier`.
    mean, std : sequence of float, default=(0.5071, 0.4867, 0.4408) and (0.2675, 0.2565, 0.2761)
        Mean and standard deviation of each input channel in [0, 1], one number for each channel of the
        images. The defaults are CIFAR-100's.

    Attributes
    ----------
    conv1, bn1 : Conv2d, BatchNorm2d
        The layers before the stages.
    layer1, layer2, layer3 : Sequential
        The stages, at 1/2, 1/4 and 1/8 of the image's size. Units have ``conv1``, ``bn1``, ``conv2``,
        ``bn2``, ``conv3``, ``bn3`` and ``relu``: ``layer2.0.conv1``.
    linear : Linear
        The last layer.
    normalize : PixelNormalization
        The normalisation of the inputs.

    Raises
    ------
    ValueError
        If ``n_classes`` is below 1, or ``mean`` and ``std`` differ in length.

    Notes
    -----
    Weights have the same names as in RepDistiller and mdistiller.

    References
    ----------
    .. [1] Zhang, Zhou, Lin, Sun. "ShuffleNet: An extremely efficient convolutional neural network for mobile
       devices", 2018.

    Examples
    --------
    >>> import torch
    >>> from sklearn_kd.networks import ShuffleNetV1
    >>> network = ShuffleNetV1()
    >>> network(torch.rand(5, 3, 32, 32)).shape
    torch.Size([5, 100])
    >>> sum(w.numel() for w in network.parameters())
    949258
    """

    def __init__(
        self,
        n_classes: int = 100,
        mean: Sequence[float] = CIFAR100_MEAN,
        std: Sequence[float] = CIFAR100_STD,
    ):
        super().__init__()
        check_sizes(n_classes=n_classes)
        small, middle, large = _V1_CHANNELS
        self.normalize = PixelNormalization(mean, std)
        self.conv1 = convolution(len(mean), _FIRST, size=1)
        self.bn1 = nn.BatchNorm2d(_FIRST)
        # The input of the first unit has too few channels for groups.
        self.layer1 = _v1_stage(_FIRST, small, _UNITS[0], first_groups=1)
        self.layer2 = _v1_stage(small, middle, _UNITS[1])
        self.layer3 = _v1_stage(middle, large, _UNITS[2])
        self.linear = nn.Linear(large, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (B, n_classes) for pixels in [0, 1] of shape (B, n_channels, h, w)."""
        x = F.relu(self.bn1(self.conv1(self.normalize.pixels(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


class ShuffleNetV2(nn.Module):
    """ShuffleNet V2, at the size of CIFAR.

    The network has a 1×1 convolution to 24 channels, three stages of 4, 8 and 4 units, and a 1×1 convolution
    [1]_. Each stage halves the image. A unit works on half of the channels and shuffles them with the others.
    As in RepDistiller, and unlike the paper's network for ImageNet, the first convolution is 1×1, does not
    halve the image, and is not followed by pooling.

    Inputs are pixels in [0, 1]. The network normalises them itself.

    Parameters
    ----------
    n_classes : int, default=100
        Width of the output; filled in by :class:`~sklearn_kd.DistilledClassifier`.
    width : {0.5, 1, 1.5, 2}, default=1
        The paper's names for the sizes: the first stage has 48, 116, 176 or 244 channels.
    mean, std : sequence of float, default=(0.5071, 0.4867, 0.4408) and (0.2675, 0.2565, 0.2761)
        Mean and standard deviation of each input channel in [0, 1], one number for each channel of the
        images. The defaults are CIFAR-100's.

    Attributes
    ----------
    conv1, bn1 : Conv2d, BatchNorm2d
        The layers before the stages.
    layer1, layer2, layer3 : Sequential
        The stages, at 1/2, 1/4 and 1/8 of the image's size. The first unit has ``conv1`` to ``conv5``, the
        others ``conv1`` to ``conv3``: ``layer2.0.conv5``.
    conv2, bn2 : Conv2d, BatchNorm2d
        The layers after the stages.
    linear : Linear
        The last layer.
    normalize : PixelNormalization
        The normalisation of the inputs.

    Raises
    ------
    ValueError
        If ``width`` is not one of the paper's, ``n_classes`` is below 1, or ``mean`` and ``std`` differ in
        length.

    Notes
    -----
    Weights have the same names as in RepDistiller and mdistiller. At width 2, their first stage has 224
    channels; the paper's has 244.

    References
    ----------
    .. [1] Ma, Zhang, Zheng, Sun. "ShuffleNet V2: Practical guidelines for efficient CNN architecture design",
       2018.

    Examples
    --------
    >>> import torch
    >>> from sklearn_kd.networks import ShuffleNetV2
    >>> network = ShuffleNetV2()
    >>> network(torch.rand(5, 3, 32, 32)).shape
    torch.Size([5, 100])
    >>> sum(w.numel() for w in network.parameters())
    1355528
    """

    def __init__(
        self,
        n_classes: int = 100,
        width: float = 1,
        mean: Sequence[float] = CIFAR100_MEAN,
        std: Sequence[float] = CIFAR100_STD,
    ):
        super().__init__()
        check_sizes(n_classes=n_classes)
        if isinstance(width, bool) or width not in _V2_CHANNELS:
            raise ValueError(f"width={width!r} must be one of {', '.join(map(str, _V2_CHANNELS))}.")
        small, middle, large, last = _V2_CHANNELS[width]
        self.normalize = PixelNormalization(mean, std)
        self.conv1 = convolution(len(mean), _FIRST, size=1)
        self.bn1 = nn.BatchNorm2d(_FIRST)
        self.layer1 = _v2_stage(_FIRST, small, _UNITS[0])
        self.layer2 = _v2_stage(small, middle, _UNITS[1])
        self.layer3 = _v2_stage(middle, large, _UNITS[2])
        self.conv2 = convolution(large, last, size=1)
        self.bn2 = nn.BatchNorm2d(last)
        self.linear = nn.Linear(last, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (B, n_classes) for pixels in [0, 1] of shape (B, n_channels, h, w)."""
        x = F.relu(self.bn1(self.conv1(self.normalize.pixels(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.linear(x.mean(dim=(2, 3)))


def _shuffle(x: Tensor, groups: int) -> Tensor:
    """Reorder the channels, shape (B, C, h, w), so that each new group has channels of all old groups."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def _v1_stage(fan_in: int, fan_out: int, n_units: int, first_groups: int = _V1_GROUPS) -> nn.Sequential:
    rest = [_V1Unit(fan_out, fan_out) for _ in range(n_units - 1)]
    return nn.Sequential(_V1Unit(fan_in, fan_out, first_groups, stride=2), *rest)


class _V1Unit(nn.Module):
    """1×1 convolution in groups, shuffle, 3×3 of each channel, 1×1 in groups, and a shortcut.

    With a stride of 2, the shortcut is the pooled input, and its channels follow those of the unit.
    """

    def __init__(self, fan_in: int, fan_out: int, first_groups: int = _V1_GROUPS, stride: int = 1):
        super().__init__()
        own = fan_out - fan_in if stride == 2 else fan_out
        middle = own // 4
        self.stride, self.groups = stride, first_groups
        self.conv1 = convolution(fan_in, middle, size=1, groups=first_groups)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = convolution(middle, middle, stride=stride, groups=middle)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = convolution(middle, own, size=1, groups=_V1_GROUPS)
        self.bn3 = nn.BatchNorm2d(own)
        self.relu = nn.ReLU()  # a separate module, so that its input has a name

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated output of the unit, with its shortcut."""
        out = _shuffle(F.relu(self.bn1(self.conv1(x))), self.groups)
        out = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(out)))))
        if self.stride == 1:
            return self.relu(out + x)
        return self.relu(torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1))


def _v2_stage(fan_in: int, fan_out: int, n_units: int) -> nn.Sequential:
    return nn.Sequential(_V2DownUnit(fan_in, fan_out), *(_V2Unit(fan_out) for _ in range(n_units - 1)))


class _V2Unit(nn.Module):
    """Convolve the second half of the channels, keep the first, and shuffle both."""

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.conv1 = convolution(half, half, size=1)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = convolution(half, half, groups=half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = convolution(half, half, size=1)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        """Return as many channels as ``x`` has, shuffled."""
        kept, out = x.chunk(2, dim=1)
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(out)))))
        out = F.relu(self.bn3(self.conv3(out)))
        return _shuffle(torch.cat([kept, out], dim=1), groups=2)


class _V2DownUnit(nn.Module):
    """Halve the image in two branches, and shuffle their channels."""

    def __init__(self, fan_in: int, fan_out: int):
        super().__init__()
        half = fan_out // 2
        # The left branch.
        self.conv1 = convolution(fan_in, fan_in, stride=2, groups=fan_in)
        self.bn1 = nn.BatchNorm2d(fan_in)
        self.conv2 = convolution(fan_in, half, size=1)
        self.bn2 = nn.BatchNorm2d(half)
        # The right branch.
        self.conv3 = convolution(fan_in, half, size=1)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = convolution(half, half, stride=2, groups=half)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = convolution(half, half, size=1)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``fan_out`` channels of half the size, shuffled."""
        left = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = self.bn4(self.conv4(F.relu(self.bn3(self.conv3(x)))))
        right = F.relu(self.bn5(self.conv5(right)))
        return _shuffle(torch.cat([left, right], dim=1), groups=2)
