"""Residual networks for small images, as students and as teachers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from os import PathLike
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sklearn_kd.files._state_dict import check_finite, read_state_dict
from sklearn_kd.students._sizes import check_sizes, is_size

if TYPE_CHECKING:
    from typing_extensions import Self

# Mean and standard deviation of ImageNet's channels in [0, 1]; most trained weights for CIFAR expect them.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class CIFARResNet(nn.Module):
    """Residual network for small images: ResNet-8, 20, 32, 44, 56, 110.

    The network has 6n + 2 layers, for CIFAR's 32×32 pixels [1]_: a convolution, three stages of n
    residual blocks with 16, 32 and 64 channels, and a linear layer after the mean over the image. The
    second and the third stage halve the image. Shortcuts have no parameters: if a block halves the
    image, its shortcut takes every other pixel and pads the channels with zeros, half of them on
    either side ("option A").

    Inputs are pixels in [0, 1]. The network normalises them itself, so that a teacher and a
    student with different normalisations can take the same X.

    Parameters
    ----------
    depth : int
        Number of layers, 6n + 2: 8, 14, 20, 26, 32, ...
    n_classes : int, default=10
        Width of the output; filled in by :class:`DistilledClassifier`.
    width : int, default=1
        Factor of all channels: 16, 32 and 64 times ``width``.
    mean, std : sequence of float, default=(0.485, 0.456, 0.406) and (0.229, 0.224, 0.225)
        Mean and standard deviation of each input channel in [0, 1], one number for each channel of
        the images. The defaults are ImageNet's.

    Attributes
    ----------
    conv1, bn1 : Conv2d, BatchNorm2d
        The layers before the stages.
    layer1, layer2, layer3 : Sequential
        The stages. Blocks have ``conv1``, ``bn1``, ``conv2``, ``bn2``: ``layer2.0.conv1``.
    linear : Linear
        The last layer.
    mean, std : Tensor of shape (n_channels, 1, 1)
        Buffers. They are in ``state_dict()``, but ``load_state_dict`` also accepts one without them.

    Raises
    ------
    ValueError
        If ``depth`` is not 6n + 2, ``width`` or ``n_classes`` is below 1, or ``mean`` and ``std`` differ
        in length.

    See Also
    --------
    CNNStudent : The smaller network of the paper.

    References
    ----------
    .. [1] He, Zhang, Ren, Sun. "Deep residual learning for image recognition", 2015, 4.2.

    Examples
    --------
    >>> import torch
    >>> from sklearn_kd import CIFARResNet
    >>> network = CIFARResNet(20)
    >>> network(torch.rand(5, 3, 32, 32)).shape
    torch.Size([5, 10])
    >>> sum(w.numel() for w in network.parameters())
    269722
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        depth: int,
        n_classes: int = 10,
        width: int = 1,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ):
        super().__init__()
        check_depth(depth, 2)
        check_width(width)
        check_sizes(n_classes=n_classes)
        check_normalisation(mean, std)
        blocks = (depth - 2) // 6
        narrow, middle, wide = 16 * width, 32 * width, 64 * width
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(-1, 1, 1))
        self.conv1 = _convolution(len(mean), narrow)
        self.bn1 = nn.BatchNorm2d(narrow)
        self.layer1 = _stage(narrow, narrow, blocks)
        self.layer2 = _stage(narrow, middle, blocks)
        self.layer3 = _stage(middle, wide, blocks)
        self.linear = nn.Linear(wide, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (B, n_classes) for pixels in [0, 1] of shape (B, n_channels, h, w)."""
        # A single channel would be broadcast to all channels without an error.
        n_channels = self.conv1.in_channels
        if x.ndim != 4 or x.shape[1] != n_channels:
            raise ValueError(
                f"CIFARResNet takes images of shape (n, {n_channels}, height, width), one channel for each "
                f"number in mean; got {tuple(x.shape)}. Give mean and std for each channel of the images."
            )
        x = (x - self.mean) / self.std
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load the weights of another network of this size. Keep ``mean`` and ``std`` if it has none.

        Parameters and result are those of :meth:`torch.nn.Module.load_state_dict`.
        """
        return super().load_state_dict({"mean": self.mean, "std": self.std, **state_dict}, strict, assign)

    @classmethod
    def from_file(
        cls, path: str | PathLike[str], *, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
    ) -> Self:
        """Load a trained network from a state dict written by :func:`torch.save`.

        Depth, width and number of classes are inferred from the weights. No code in the file is
        run. Checkpoints with the state dict under "model" or "state_dict" load too, as do names that
        begin with "module.".

        Parameters
        ----------
        path : str or path-like
            The file: ``torch.save(network.state_dict(), path)``.
        mean, std : sequence of float, default=(0.485, 0.456, 0.406) and (0.229, 0.224, 0.225)
            Normalisation that the network was trained with. Used if the file has no ``mean`` and ``std``.

        Returns
        -------
        CIFARResNet
            In evaluation mode, on the CPU.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file holds something else, or weights that are NaN or infinite.

        Examples
        --------
        >>> import tempfile, torch
        >>> from sklearn_kd import CIFARResNet
        >>> trained = CIFARResNet(8, n_classes=100, width=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(trained.state_dict(), f"{folder}/resnet8.pt")
        ...     teacher = CIFARResNet.from_file(f"{folder}/resnet8.pt")
        >>> teacher.linear
        Linear(in_features=128, out_features=100, bias=True)
        """
        weights = read_state_dict(path)
        blocks = {name.split(".")[1] for name in weights if name.startswith("layer1.")}
        normalisation = {"mean": mean, "std": std} | {
            name: weights[name].flatten().tolist() for name in ("mean", "std") if name in weights
        }
        try:
            sizes: dict[str, Any] = {
                "depth": 6 * len(blocks) + 2,
                "n_classes": len(weights["linear.weight"]),
                "width": len(weights["conv1.weight"]) // 16,
            }
            # Check the shapes without memory first: a small file may name large layers.
            with torch.device("meta"):
                _check_shapes(cls(**sizes, **normalisation), weights)
            network = cls(**sizes, **normalisation)
            network.load_state_dict(weights)
        except (KeyError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{path} does not hold the weights of a CIFARResNet, which are named conv1, bn1, "
                "layer{1,2,3}.{i}.{conv1,bn1,conv2,bn2} and linear, with shortcuts that have no weights; "
                f"it holds {', '.join(list(weights)[:4]) or 'nothing'}, ... "
                f"({shorten(str(error), 200)}). Rename them, or build the network to which they belong and "
                "give it as the teacher."
            ) from error
        check_finite(network, weights, path)
        return network.eval()


def check_depth(depth: Any, rest: int) -> None:
    """Raise ValueError unless depth is 6n + ``rest``: three stages of n blocks of two layers."""
    if not isinstance(depth, Integral) or depth < 6 + rest or depth % 6 != rest:
        known = ", ".join(str(6 * n + rest) for n in range(1, 10))
        raise ValueError(
            f"depth={depth!r} is not 6n + {rest}, for three stages of n blocks of two layers, n ≥ 1. Give "
            f"one of {known}, ..."
        )


def check_width(width: Any) -> None:
    """Raise ValueError unless the factor of all channels is a whole number above 0."""
    if not is_size(width):
        raise ValueError(f"width={width!r} must be a whole number, 1 or more: the factor of all channels.")


def check_normalisation(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise ValueError unless there is a mean and a positive standard deviation for each channel."""
    try:
        means, stds = [float(value) for value in mean], [float(value) for value in std]
    except (TypeError, ValueError):  # one number, or no numbers
        means, stds = [], []
    finite = all(map(math.isfinite, means + stds))
    if len(means) != len(stds) or not finite or min(stds, default=0) <= 0:
        raise ValueError(
            f"mean={mean!r} and std={std!r} must have one number for each channel of the images, and the "
            "numbers in std must be above 0."
        )


def _check_shapes(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the weights have the shapes of this network's."""
    for name, own in network.state_dict().items():
        if name in weights and weights[name].shape != own.shape:
            raise ValueError(f"size mismatch: {name} is {tuple(weights[name].shape)}, not {tuple(own.shape)}")


def _convolution(fan_in: int, fan_out: int, stride: int = 1) -> nn.Conv2d:
    """Make a 3×3 convolution, initialised for ReLU and without bias because batch normalisation follows."""
    convolution = nn.Conv2d(fan_in, fan_out, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return convolution


def _stage(fan_in: int, fan_out: int, blocks: int) -> nn.Sequential:
    rest = [ResidualBlock(fan_out, fan_out) for _ in range(blocks - 1)]
    return nn.Sequential(ResidualBlock(fan_in, fan_out), *rest)


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut without parameters.

    By default, a block that adds channels halves the image.
    """

    def __init__(self, fan_in: int, fan_out: int, stride: int | None = None):
        super().__init__()
        self.stride = stride or (1 if fan_in == fan_out else 2)
        self.conv1 = _convolution(fan_in, fan_out, self.stride)
        self.bn1 = nn.BatchNorm2d(fan_out)
        self.conv2 = _convolution(fan_out, fan_out)
        self.bn2 = nn.BatchNorm2d(fan_out)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the block's output and its shortcut."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))

    def shortcut(self, x: Tensor) -> Tensor:
        """Return x in the shape of the block's output, without parameters."""
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        more = self.conv2.out_channels - self.conv1.in_channels
        if more == 0:
            return x
        # Published weights for CIFAR expect new channels on both sides of the old ones.
        return F.pad(x, (0, 0, 0, 0, more // 2, more - more // 2))
