"""Residual networks for small images whose shortcuts have weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from sklearn_kd.networks._convolutions import convolution, initialise_for_relu
from sklearn_kd.networks._pixels import CIFAR100_MEAN, CIFAR100_STD, PixelNormalization
from sklearn_kd.students._resnet import check_depth
from sklearn_kd.students._sizes import check_several_sizes, check_sizes


class ResNet(nn.Module):
    """Residual network with projections for small images: ResNet-8 to 110, ResNet-8x4, ResNet-32x4.

    The network has 6n + 2 layers [1]_: a convolution, three stages of n residual blocks, and a linear layer
    after the mean over the image. The second and the third stage halve the image. If a block changes the
    number of channels, its shortcut is a 1×1 convolution with batch normalisation ("option B").
    :class:`~sklearn_kd.CIFARResNet` is the family whose shortcuts have no weights ("option A"). Weights of
    one family do not fit the other.

    Inputs are pixels in [0, 1]. The network normalises them itself.

    Parameters
    ----------
    depth : int
        Number of layers, 6n + 2: 8, 14, 20, 26, 32, ...
    channels : sequence of four int, default=(16, 16, 32, 64)
        Channels of the first convolution and of the stages. ResNet-8x4 and ResNet-32x4 have
        (32, 64, 128, 256).
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
        The stages. Blocks have ``conv1``, ``bn1``, ``conv2``, ``bn2``, ``relu``, and ``downsample`` if the
        number of channels changes: ``layer2.0.downsample.0``.
    fc : Linear
        The last layer.
    normalize : PixelNormalization
        The normalisation of the inputs.

    Raises
    ------
    ValueError
        If ``depth`` is not 6n + 2, ``channels`` are not four whole numbers above 0, ``n_classes`` is below 1,
        or ``mean`` and ``std`` differ in length.

    See Also
    --------
    sklearn_kd.CIFARResNet : The family whose shortcuts have no weights.

    Notes
    -----
    Weights have the same names as in RepDistiller and mdistiller. The sum before the last ReLU of a block is
    the input of its ``relu``: ``"layer1.0.relu:input"``.

    References
    ----------
    .. [1] He, Zhang, Ren, Sun. "Deep residual learning for image recognition", 2015, 4.2.

    Examples
    --------
    >>> import torch
    >>> from sklearn_kd.networks import ResNet
    >>> network = ResNet(8, channels=(32, 64, 128, 256))
    >>> network(torch.rand(5, 3, 32, 32)).shape
    torch.Size([5, 100])
    >>> sum(w.numel() for w in network.parameters())
    1233540
    """

    def __init__(
        self,
        depth: int,
        channels: Sequence[int] = (16, 16, 32, 64),
        n_classes: int = 100,
        mean: Sequence[float] = CIFAR100_MEAN,
        std: Sequence[float] = CIFAR100_STD,
    ):
        super().__init__()
        check_depth(depth, 2)
        check_sizes(n_classes=n_classes)
        check_several_sizes(channels=channels)
        if len(channels) != 4:
            raise ValueError(
                f"channels={channels!r} must be four numbers, for the first convolution and three stages."
            )
        n_blocks = (depth - 2) // 6
        first, narrow, middle, wide = channels
        self.normalize = PixelNormalization(mean, std)
        self.conv1 = convolution(len(mean), first)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _stage(first, narrow, n_blocks, stride=1)
        self.layer2 = _stage(narrow, middle, n_blocks, stride=2)
        self.layer3 = _stage(middle, wide, n_blocks, stride=2)
        self.fc = nn.Linear(wide, n_classes)
        initialise_for_relu(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (B, n_classes) for pixels in [0, 1] of shape (B, n_channels, h, w)."""
        x = F.relu(self.bn1(self.conv1(self.normalize.pixels(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean(dim=(2, 3)))


def _stage(fan_in: int, fan_out: int, n_blocks: int, stride: int) -> nn.Sequential:
    rest = [_ProjectedBlock(fan_out, fan_out) for _ in range(n_blocks - 1)]
    return nn.Sequential(_ProjectedBlock(fan_in, fan_out, stride), *rest)


class _ProjectedBlock(nn.Module):
    """Two convolutions with batch normalisation, and a shortcut with weights if the shape changes."""

    def __init__(self, fan_in: int, fan_out: int, stride: int = 1):
        super().__init__()
        self.conv1 = convolution(fan_in, fan_out, stride=stride)
        self.bn1 = nn.BatchNorm2d(fan_out)
        self.conv2 = convolution(fan_out, fan_out)
        self.bn2 = nn.BatchNorm2d(fan_out)
        self.downsample: nn.Module | None = None
        if stride > 1 or fan_in != fan_out:
            projection = convolution(fan_in, fan_out, size=1, stride=stride)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(fan_out))
        self.relu = nn.ReLU()  # a separate module, so that its input has a name

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated sum of the block's output and its shortcut."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + shortcut)
