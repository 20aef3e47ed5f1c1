"""VGG with batch normalisation, at the size of CIFAR."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from sklearn_kd.networks._convolutions import initialise_for_relu, initialise_small
from sklearn_kd.networks._pixels import CIFAR100_MEAN, CIFAR100_STD, PixelNormalization
from sklearn_kd.students._sizes import check_sizes

_SMALLEST = 8  # height and width of images that leave a pixel after three poolings
_CHANNELS = (64, 128, 256, 512, 512)
# Convolutions of each block, by the number of layers in the name. The names count the paper's three linear
# layers; the networks here have one.
_CONVOLUTIONS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


class VGG(nn.Module):
    """VGG-8, 11, 13, 16 or 19 with batch normalisation, at the size of CIFAR.

    The network has five blocks of 3×3 convolutions with 64, 128, 256, 512 and 512 channels, and one linear
    layer instead of three, after the mean over the image [1]_. As in RepDistiller, each of the first three
    blocks is followed by a 2×2 max-pooling, so that an image of 32×32 has 4×4 pixels in the last two blocks.

    Inputs are pixels in [0, 1], of at least 8×8. The network normalises them itself.

    Parameters
    ----------
    depth : {8, 11, 13, 16, 19}
        The number in the name of the network: its convolutions and the three linear layers of the paper.
    n_classes : int, default=100
        Width of the output; filled in by :class:`~sklearn_kd.DistilledClassifier`.
    mean, std : sequence of float, default=(0.5071, 0.4867, 0.4408) and (0.2675, 0.2565, 0.2761)
        Mean and standard deviation of each input channel in [0, 1], one number for each channel of the
        images. The defaults are CIFAR-100's.

    Attributes
    ----------
    block0, block1, block2, block3, block4 : Sequential
        Convolutions with batch normalisation and ReLU, without the last ReLU. ``block0.0`` is a convolution.
    classifier : Linear
        The last layer.
    normalize : PixelNormalization
        The normalisation of the inputs.

    Raises
    ------
    ValueError
        If ``depth`` is not one of the five, ``n_classes`` is below 1, or ``mean`` and ``std`` differ in
        length. In a forward pass, if images are smaller than 8×8.

    Notes
    -----
    Weights have the same names as in RepDistiller's and mdistiller's networks that end in ``_bn``.

    References
    ----------
    .. [1] Simonyan, Zisserman. "Very deep convolutional networks for large-scale image recognition", 2015,
       Table 1.

    Examples
    --------
    >>> import torch
    >>> from sklearn_kd.networks import VGG
    >>> network = VGG(8)
    >>> network(torch.rand(5, 3, 32, 32)).shape
    torch.Size([5, 100])
    >>> sum(w.numel() for w in network.parameters())
    3965028
    """

    def __init__(
        self,
        depth: int,
        n_classes: int = 100,
        mean: Sequence[float] = CIFAR100_MEAN,
        std: Sequence[float] = CIFAR100_STD,
    ):
        super().__init__()
        if depth not in _CONVOLUTIONS:
            raise ValueError(f"depth={depth!r} must be one of {', '.join(map(str, _CONVOLUTIONS))}.")
        check_sizes(n_classes=n_classes)
        self.normalize = PixelNormalization(mean, std)
        fan_ins = (len(mean), *_CHANNELS[:-1])
        blocks = [_block(*sizes) for sizes in zip(fan_ins, _CHANNELS, _CONVOLUTIONS[depth], strict=True)]
        self.block0, self.block1, self.block2, self.block3, self.block4 = blocks
        self.classifier = nn.Linear(_CHANNELS[-1], n_classes)
        initialise_for_relu(self)
        initialise_small(self.classifier)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (B, n_classes) for pixels in [0, 1] of shape (B, n_channels, h, w)."""
        x = self.normalize.pixels(x)
        if min(x.shape[2:]) < _SMALLEST:
            raise ValueError(
                f"VGG halves images three times, so they must have at least {_SMALLEST}×{_SMALLEST} pixels; "
                f"got {x.shape[2]}×{x.shape[3]}. Give larger images, or a network without pooling, such as "
                "WideResNet."
            )
        for block in (self.block0, self.block1, self.block2):
            x = F.max_pool2d(F.relu(block(x)), 2)
        x = F.relu(self.block4(F.relu(self.block3(x))))
        return self.classifier(x.mean(dim=(2, 3)))


def _block(fan_in: int, fan_out: int, n_convolutions: int) -> nn.Sequential:
    """Make convolutions with bias, as in published weights, each with its batch normalisation and ReLU.

    The last ReLU is left out.
    """
    layers: list[nn.Module] = []
    for k in range(n_convolutions):
        convolution = nn.Conv2d(fan_in if k == 0 else fan_out, fan_out, 3, padding=1)
        layers += [convolution, nn.BatchNorm2d(fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
