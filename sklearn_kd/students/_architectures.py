"""Ready-made small students: a multilayer perceptron and a convolutional network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from sklearn_kd.students._sizes import check_several_sizes, check_sizes


class MLPStudent(nn.Module):
    """Multilayer perceptron with ReLU.

    Parameters
    ----------
    in_features : int
        Inputs per sample; filled in by :class:`DistilledClassifier`.
    n_classes : int
        Width of the output; filled in by :class:`DistilledClassifier`.
    hidden : int or sequence of int, default=256
        Width of the hidden layer, or the widths of several.

    Raises
    ------
    ValueError
        If a size is not a whole number, 1 or more.

    Examples
    --------
    >>> import torch
    >>> from sklearn_kd import MLPStudent
    >>> MLPStudent(in_features=64, n_classes=10)(torch.zeros(5, 64)).shape
    torch.Size([5, 10])
    """

    def __init__(self, in_features: int, n_classes: int, hidden: int | Sequence[int] = 256):
        super().__init__()
        check_sizes(in_features=in_features, n_classes=n_classes)
        if isinstance(hidden, Iterable):
            check_several_sizes(hidden=hidden)
        else:
            check_sizes(hidden=hidden)
        widths = [in_features, *(hidden if isinstance(hidden, Iterable) else [hidden])]
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], n_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (B, n_classes)."""
        return self.layers(x)


class CNNStudent(nn.Module):
    """Three convolutions and two fully connected layers: the paper's student for images.

    Each convolution (3×3) is followed by ReLU and a 2×2 max-pooling.

    Parameters
    ----------
    input_shape : tuple of (int, int, int)
        (channels, height, width), at least 8×8: each pooling halves the image. Filled in by
        :class:`DistilledClassifier`.
    n_classes : int
        Width of the output; filled in by :class:`DistilledClassifier`.
    channels : sequence of three int, default=(8, 16, 16)
        Channels of the convolutions.
    hidden : int, default=32
        Width of the first fully connected layer.

    Raises
    ------
    ValueError
        If the images are too small, or a size is not a whole number, 1 or more.

    Examples
    --------
    >>> import torch
    >>> from sklearn_kd import CNNStudent
    >>> CNNStudent(input_shape=(1, 28, 28), n_classes=10)(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        n_classes: int,
        channels: Sequence[int] = (8, 16, 16),
        hidden: int = 32,
    ):
        super().__init__()
        if len(input_shape) != 3 or min(input_shape[1:]) < 8:
            raise ValueError(
                f"CNNStudent takes images of shape (channels, height, width), at least 8×8; "
                f"got samples of shape {tuple(input_shape)}. Give grey images their channel, "
                "X[:, None], and move channels that come last, np.moveaxis(X, -1, 1)."
            )
        check_several_sizes(input_shape=input_shape, channels=channels)
        check_sizes(n_classes=n_classes, hidden=hidden)
        fan_in, height, width = input_shape
        if min(height, width) < 2 ** len(channels):
            raise ValueError(
                f"CNNStudent: channels={channels!r} halve the image {len(channels)} times, which leaves "
                f"nothing of {height}×{width} pixels. Give fewer channels, or images of at least "
                f"{2 ** len(channels)}×{2 ** len(channels)}."
            )
        layers: list[nn.Module] = []
        for fan_out in channels:
            layers += [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            fan_in, height, width = fan_out, height // 2, width // 2
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.classify = nn.Sequential(
            nn.Linear(fan_in * height * width, hidden), nn.ReLU(), nn.Linear(hidden, n_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (B, n_classes)."""
        return self.classify(self.features(x))
