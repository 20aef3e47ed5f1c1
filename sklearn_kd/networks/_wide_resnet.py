"""Wide residual networks for small images."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from sklearn_kd.networks._convolutions import convolution, initialise_for_relu
from sklearn_kd.networks._pixels import CIFAR100_MEAN, CIFAR100_STD, PixelNormalization
from sklearn_kd.students._resnet import check_depth, check_width
from sklearn_kd.students._sizes import check_sizes


class WideResNet(nn.Module):
    """Wide residual network for small images: WRN-40-2, WRN-16-2, WRN-28-4, ...

    The network has 6n + 4 layers [1]_: a convolution, three stages of n residual blocks with 16, 32 and 64
    times ``width`` channels, batch normalisation, and a linear layer after the mean over the image. The
    second and the third stage halve the image. In a block, batch normalisation and ReLU precede the
    convolutions. There is no dropout.

    Inputs are pixels in [0, 1]. The network normalises them itself.

    Parameters
    ----------
    depth : int
        Number of layers, 6n + 4: 10, 16, 22, 28, 34, 40, ...
    width : int
        Factor of the stages' channels.
    n_classes : int, default=100
        Width of the output; filled in by :class:`~sklearn_kd.DistilledClassifier`.
    mean, std : sequence of float, default=(0.5071, 0.4867, 0.4408) and (0.2675, 0.2565, 0.2761)
        Mean and standard deviation of each input channel in [0, 1], one number for each channel of the
        images. The defaults are CIFAR-100's.

    Attributes
    ----------
    conv1 : Conv2d
        The layer before the stages.
    block1, block2, block3 : Sequential
        The stages. Blocks have ``bn1``, ``conv1``, ``bn2``, ``conv2``, and ``convShortcut`` if the number
        of channels changes: ``block2.layer.0.conv1``.
    bn1, fc : BatchNorm2d, Linear
        The layers after the stages.
    normalize : PixelNormalization
        The normalisation of the inputs.

    Raises
    ------
    ValueError
        If ``depth`` is not 6n + 4, ``width`` or ``n_classes`` is below 1, or ``mean`` and ``std`` differ in
        length.

    Notes
    -----
    Weights have the same names as in RepDistiller and mdistiller. The maps before ReLU that DistPro's paper
    compares are ``["block2.layer.0.bn1", "block3.layer.0.bn1", "bn1"]``.

    References
    ----------
    .. [1] Zagoruyko, Komodakis. "Wide residual networks", 2016.

    Examples
    --------
    >>> import torch
    >>> from sklearn_kd.networks import WideResNet
    >>> network = WideResNet(16, 2)
    >>> network(torch.rand(5, 3, 32, 32)).shape
    torch.Size([5, 100])
    >>> sum(w.numel() for w in network.parameters())
    703284
    """

    def __init__(
        self,
        depth: int,
        width: int,
        n_classes: int = 100,
        mean: Sequence[float] = CIFAR100_MEAN,
        std: Sequence[float] = CIFAR100_STD,
    ):
        super().__init__()
        check_depth(depth, 4)
        check_width(width)
        check_sizes(n_classes=n_classes)
        n_blocks = (depth - 4) // 6
        self.normalize = PixelNormalization(mean, std)
        self.conv1 = convolution(len(mean), 16)
        self.block1 = _stage(16, 16 * width, n_blocks, stride=1)
        self.block2 = _stage(16 * width, 32 * width, n_blocks, stride=2)
        self.block3 = _stage(32 * width, 64 * width, n_blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, n_classes)
        initialise_for_relu(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (B, n_classes) for pixels in [0, 1] of shape (B, n_channels, h, w)."""
        x = self.conv1(self.normalize.pixels(x))
        x = self.block3(self.block2(self.block1(x)))
        return self.fc(F.relu(self.bn1(x)).mean(dim=(2, 3)))


def _stage(fan_in: int, fan_out: int, n_blocks: int, stride: int) -> nn.Sequential:
    """Make a stage. Published weights name its blocks ``layer.0``, ``layer.1``, ..."""
    rest = [_PreActivationBlock(fan_out, fan_out) for _ in range(n_blocks - 1)]
    blocks = nn.Sequential(_PreActivationBlock(fan_in, fan_out, stride), *rest)
    return nn.Sequential(OrderedDict(layer=blocks))


class _PreActivationBlock(nn.Module):
    """Batch normalisation, ReLU and a convolution, twice, and a shortcut.

    If the number of channels changes, the shortcut is a 1×1 convolution of the activated input.
    """

    def __init__(self, fan_in: int, fan_out: int, stride: int = 1):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(fan_in)
        self.conv1 = convolution(fan_in, fan_out, stride=stride)
        self.bn2 = nn.BatchNorm2d(fan_out)
        self.conv2 = convolution(fan_out, fan_out)
        self.convShortcut = None if fan_in == fan_out else convolution(fan_in, fan_out, size=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the block's output and its shortcut."""
        active = F.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(active)
        return shortcut + self.conv2(F.relu(self.bn2(self.conv1(active))))
