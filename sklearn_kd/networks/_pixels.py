"""Normalisation of pixels inside a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sklearn_kd.students._resnet import check_normalisation

# Mean and standard deviation of the channels of CIFAR-100's training images in [0, 1], rounded as in
# RepDistiller and mdistiller, whose trained weights expect these numbers.
CIFAR100_MEAN = (0.5071, 0.4867, 0.4408)
CIFAR100_STD = (0.2675, 0.2565, 0.2761)


class PixelNormalization(nn.Module):
    """Normalise pixels in [0, 1] to (x - mean) / std, channel by channel.

    ``mean`` and ``std`` are buffers, which are saved with the weights. Weights without them, such as
    published ones, load too and leave them unchanged. The networks call the method :meth:`pixels`, not the
    module: "auto" could choose the output of a module as a layer, but normalised pixels are not one.

    Parameters
    ----------
    mean, std : sequence of float
        One number for each channel of the images.

    Raises
    ------
    ValueError
        If ``mean`` and ``std`` differ in length.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        check_normalisation(mean, std)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(-1, 1, 1))
        self.register_load_state_dict_pre_hook(_keep_own)

    def pixels(self, x: Tensor) -> Tensor:
        """Return the normalised images, with the shape of ``x``: (B, n_channels, h, w).

        Raises
        ------
        ValueError
            If the images have another number of channels.
        """
        # A single channel would be broadcast to all channels without an error.
        if x.ndim != 4 or x.shape[1] != len(self.mean):
            remedy = "mean and std for each channel" if x.ndim == 4 else "X as images: X.reshape(...)"
            raise ValueError(
                f"the network takes images of shape (n, {len(self.mean)}, height, width), one channel for "
                f"each number in mean; got {tuple(x.shape)}. Give {remedy}."
            )
        return (x - self.mean) / self.std


def _keep_own(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Add the layer's own numbers to a state dict that is being loaded without them."""
    for name, buffer in module.named_buffers():
        state_dict.setdefault(f"{prefix}{name}", buffer)
