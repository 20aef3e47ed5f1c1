"""A small fully convolutional network for maps: classes or numbers per pixel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral

from torch import Tensor, nn
from torch.nn import functional as F

from sklearn_kd.students._resnet import ResidualBlock
from sklearn_kd.students._sizes import check_several_sizes, check_sizes

_OUTPUT_STRIDES = (1, 2, 4)


class FCNStudent(nn.Module):
    """Fully convolutional network: a residual encoder whose stages are summed from the deepest up.

    The first convolution has the output's stride. Each stage has residual blocks; all stages but the first
    halve the image. A 1×1 convolution of each stage makes maps with ``head_channels`` channels. Starting at
    the deepest stage, these maps are enlarged (nearest) and added to those of the stage before [1]_. A 3×3
    convolution and a linear layer for each pixel follow. Use small sizes for a student and large ones for a
    teacher.

    Images may have any size. An output pixel covers ``output_stride`` × ``output_stride`` input
    pixels. The estimators enlarge the output to the size of y.

    Parameters
    ----------
    in_channels : int
        Channels of the images; filled in by the estimators.
    n_classes : int
        Channels of the output: classes, or numbers per pixel. Filled in by the estimators.
    channels : sequence of int, default=(16, 32, 64)
        Channels of the stages. No stage may have fewer than the one before.
    blocks : int, default=1
        Residual blocks in each stage.
    head_channels : int or None, default=None
        Channels of the summed maps. None: as many as the first stage has.
    output_stride : {1, 2, 4}, default=2
        Height of the images over the height of the output.

    Attributes
    ----------
    conv1, bn1 : Conv2d, BatchNorm2d
        The layers before the stages.
    layer1, layer2, ... : Sequential of residual blocks
        The stages. :class:`DistProClassifier` connects them by these names; "auto" finds them too.
    lateral1, lateral2, ... : Conv2d
        The 1×1 convolutions of the stages.
    conv2, bn2 : Conv2d, BatchNorm2d
        The layers after the sum.
    head : Conv2d
        The linear layer for each pixel.

    Raises
    ------
    ValueError
        If a size is not a whole number of 1 or more, if there is no stage, if a stage has fewer channels than
        the one before, or if ``output_stride`` is not 1, 2 or 4.

    See Also
    --------
    CIFARResNet : The residual network for one label per image.
    sklearn_kd.datasets.make_segmentation_scenes : Images with a class for each pixel.
    sklearn_kd.datasets.make_depth_scenes : Images with a distance for each pixel.

    References
    ----------
    .. [1] Lin, Dollár, Girshick, He, Hariharan, Belongie. "Feature pyramid networks for object
       detection", 2017.

    Examples
    --------
    >>> import torch
    >>> from sklearn_kd import FCNStudent
    >>> student = FCNStudent(in_channels=3, n_classes=11, channels=(8, 16, 32))
    >>> student(torch.rand(5, 3, 48, 64)).shape
    torch.Size([5, 11, 24, 32])
    >>> teacher = FCNStudent(3, 11, channels=(32, 64, 128, 256), blocks=2)
    >>> [sum(w.numel() for w in network.parameters()) for network in (student, teacher)]
    [20051, 2776267]
    """

    def __init__(
        self,
        in_channels: int,
        n_classes: int,
        channels: Sequence[int] = (16, 32, 64),
        blocks: int = 1,
        head_channels: int | None = None,
        output_stride: int = 2,
    ):
        super().__init__()
        wide = _checked_head(channels, head_channels)
        check_sizes(in_channels=in_channels, n_classes=n_classes, blocks=blocks, head_channels=wide)
        _check_stride(output_stride)
        self.output_stride, self.n_stages = int(output_stride), len(channels)
        self.conv1 = nn.Conv2d(in_channels, channels[0], 3, min(self.output_stride, 2), padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        for i, (fan_in, fan_out) in enumerate(pairwise((channels[0], *channels)), 1):
            self.add_module(f"layer{i}", _stage(fan_in, fan_out, blocks, stride=1 if i == 1 else 2))
        for i, fan_in in enumerate(channels, 1):
            self.add_module(f"lateral{i}", nn.Conv2d(fan_in, wide, 1))
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.head = nn.Conv2d(wide, n_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps of shape (B, n_classes, ceil(height / output_stride), ceil(width / output_stride))."""
        if x.ndim != 4:
            raise ValueError(
                f"FCNStudent takes images of shape (n, channels, height, width); got {tuple(x.shape)}. Add "
                "the channel of grey images, X[:, None]."
            )
        x = F.relu(self.bn1(self.conv1(x)))
        if self.output_stride == 4:
            x = F.max_pool2d(x, 2, ceil_mode=True)
        stages = []
        for i in range(1, self.n_stages + 1):
            x = self.get_submodule(f"layer{i}")(x)
            stages.append(x)
        # Run after all stages, so that "auto" of DistProClassifier finds the stages, not these convolutions.
        maps = [self.get_submodule(f"lateral{i}")(stage) for i, stage in enumerate(stages, 1)]
        total = maps.pop()
        while maps:
            before = maps.pop()
            total = before + F.interpolate(total, size=before.shape[2:], mode="nearest")
        return self.head(F.relu(self.bn2(self.conv2(total))))


def _stage(fan_in: int, fan_out: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [ResidualBlock(fan_out, fan_out) for _ in range(blocks - 1)]
    return nn.Sequential(ResidualBlock(fan_in, fan_out, stride), *rest)


def _checked_head(channels: Sequence[int], head_channels: int | None) -> int:
    """Return the channels of the summed maps; raise ValueError if the stages' channels are wrong."""
    check_several_sizes(channels=channels)
    if len(channels) == 0 or any(narrow > wide for narrow, wide in pairwise(channels)):
        raise ValueError(
            f"channels={channels!r} must have one number for each stage, none smaller than the one before, "
            "because shortcuts keep all channels. Example: (16, 32, 64)."
        )
    return channels[0] if head_channels is None else head_channels


def _check_stride(output_stride: int) -> None:
    if not isinstance(output_stride, Integral) or int(output_stride) not in _OUTPUT_STRIDES:
        raise ValueError(f"output_stride={output_stride!r} must be one of {_OUTPUT_STRIDES}.")
