"""Small images with maps of classes, and networks that give maps."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

IGNORED = 255


def images_with_maps(n: int = 24, size: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Squares of two classes on a background; the first row of each map is unknown."""
    rng = np.random.default_rng(seed)
    X = rng.normal(scale=0.3, size=(n, 3, size, size)).astype(np.float32)
    y = np.zeros((n, size, size), np.uint8)
    for image, labels in zip(X, y, strict=True):
        for label in (1, 2):
            top, left = rng.integers(0, size - 4, 2)
            labels[top : top + 5, left : left + 5] = label
            image[label, top : top + 5, left : left + 5] += 1
    y[:, 0] = IGNORED
    return X, y


class PixelNet(nn.Module):
    """Two convolutions; its maps are of a part of the images' size."""

    def __init__(self, in_channels: int, n_classes: int, stride: int = 2):
        super().__init__()
        self.features = nn.Conv2d(in_channels, 6, 3, stride=stride, padding=1)
        self.head = nn.Conv2d(6, n_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).relu())


def pixel_teacher(n_classes: int = 3, stride: int = 1) -> nn.Module:
    """An untrained network, the same at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return PixelNet(3, n_classes, stride).eval()
