"""Small networks that several test files train."""

import numpy as np
import torch
from torch import nn

from sklearn_kd import MLPStudent


class ConvNet(nn.Module):
    """Two stages, the second of half the size, and one linear layer."""

    def __init__(self, n_classes: int = 10, width: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.stage1, self.stage2 = stage(1, width, 1), stage(width, 2 * width, 2)
        self.drop, self.linear = nn.Dropout(dropout), nn.Linear(2 * width, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.drop(self.stage2(self.stage1(x)).mean(dim=(2, 3))))


def stage(fan_in: int, fan_out: int, stride: int) -> nn.Sequential:
    """Convolution, batch normalisation and an in-place ReLU."""
    return nn.Sequential(
        nn.Conv2d(fan_in, fan_out, 3, stride, 1), nn.BatchNorm2d(fan_out), nn.ReLU(inplace=True)
    )


def lucky_student(X: np.ndarray, y: np.ndarray) -> MLPStudent:
    """An untrained student whose accuracy on ten classes is above 15 %."""
    for seed in range(100):
        torch.manual_seed(seed)
        student = MLPStudent(X.shape[1], 10)
        if float((student(torch.tensor(X).float()).argmax(1) == torch.tensor(y)).float().mean()) > 0.15:
            return student
    raise AssertionError("no seed gives one")
