"""Transforms of a student's feature map to the shape of a teacher's (Deng et al., Fig. 4).

A transform is called with the student's map and the teacher's size (H, W). It is trained together
with the student and is not part of it.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from sklearn_kd.losses._map_parts import normalised_convolution, resized

# Largest number of channels between the convolutions.
_WIDEST = 512

# Makes a transform from the numbers of channels of the student's and the teacher's map.
TransformFactory = Callable[[int, int], nn.Module]


class Gate(nn.Module):
    """Multiply each pixel by a 1×1 convolution of it: x · conv1×1(x), without sigmoid (Fig. 4b)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map with the shape of x."""
        return x * self.conv(x)


class Conv1(nn.Module):
    """1×1 convolution, batch normalisation, resize.

    Parameters
    ----------
    c_in, c_out : int
        Numbers of channels of the student's and the teacher's map.
    """

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.match = normalised_convolution(c_in, c_out, 1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Return a map of shape (B, c_out, *size)."""
        return resized(self.match(x), size)


class Conv2(nn.Module):
    """1×1 convolution, batch normalisation, gate, resize, 3×3 convolution, batch normalisation.

    Parameters
    ----------
    c_in, c_out : int
        Numbers of channels of the student's and the teacher's map.
    """

    middle = 0  # number of 3×3 convolutions before the last one

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        mid = min(_WIDEST, c_in, c_out)
        self.narrow, self.gate = normalised_convolution(c_in, mid, 1), Gate(mid)
        between = [normalised_convolution(mid, mid, 3) for _ in range(self.middle)]
        self.match = nn.Sequential(*between, normalised_convolution(mid, c_out, 3))

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Return a map of shape (B, c_out, *size)."""
        return self.match(resized(self.gate(self.narrow(x)), size))


class Conv3(Conv2):
    """As :class:`Conv2`, with one more 3×3 convolution."""

    middle = 1


# The names that ``DistProClassifier(transforms=...)`` takes.
TRANSFORMS: dict[str, TransformFactory] = {"conv1": Conv1, "conv2": Conv2, "conv3": Conv3}
