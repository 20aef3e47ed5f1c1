"""ReviewKD, the baseline: fusion blocks beside a student, with their loss in its training forward pass.

Chen, Liu, Zhao, Jia, "Distilling knowledge via knowledge review" (CVPR 2021), written from the paper's
section 3. The student's maps are reviewed from the deepest stage to the first. In each stage an
attention-based fusion block (its Fig. 3) joins the map with the output of the deeper stages, and the
hierarchical context loss compares the result with the teacher's map of that stage. The sum over the
stages, times a weight that is warmed up, is added to the loss of the labels.

The blocks are in the student's module, so that any training loop trains them. Its ``student`` is the
final student. Every stage has a block; the pooled features before the linear layer have none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from skorch.callbacks import Callback
from torch import nn

# The library's own distance, so that the arms differ only in the compared maps.
from sklearn_kd.distpro._distances import hcl
from sklearn_kd.layers._hooks import feature_hooks

WIDEST = 512


def convolution(c_in, c_out, kernel):
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(c_out)
    )


class Fusion(nn.Module):
    """Attention-based fusion of a stage's map with the output of the deeper stages.

    Both are mapped to ``c_mid`` channels and the stage's size. A 1×1 convolution of both makes two
    attention maps. Both are multiplied by them and added. A 3×3 convolution maps the sum to
    the teacher's channels.
    """

    def __init__(self, c_in, c_mid, c_out, deepest):
        super().__init__()
        self.narrow, self.match = convolution(c_in, c_mid, 1), convolution(c_mid, c_out, 3)
        self.attention = None if deepest else nn.Conv2d(2 * c_mid, 2, 1)

    def forward(self, own, deeper, size):
        """Return the input of the next block, and the map to compare, of the teacher's ``size``."""
        fused = self.narrow(own)
        if self.attention is not None:
            deeper = F.interpolate(deeper, size=own.shape[2:], mode="nearest")
            shares = torch.sigmoid(self.attention(torch.cat([fused, deeper], dim=1)))
            fused = fused * shares[:, :1] + deeper * shares[:, 1:]
        compared = self.match(fused)
        if compared.shape[2:] != size:
            compared = F.interpolate(compared, size=size, mode="nearest")
        return fused, compared


class ReviewedStudent(nn.Module):
    """A student whose training forward pass includes ReviewKD's loss.

    The student is built first, so it has the same initial weights as alone. The teacher, in evaluation
    mode, is not part of this module.

    Parameters
    ----------
    n_classes : int
    make : callable(n_classes) -> nn.Module
        Builds the student.
    teacher : nn.Module
    layers : sequence of str
        Modules of both whose outputs are compared, the first stage first.
    channels : tuple of (sequence of int, sequence of int)
        Channels of the student's and of the teacher's maps.
    weight : float, default=5.0
    """

    def __init__(
        self,
        n_classes: int,
        make: Callable[[int], nn.Module],
        teacher: nn.Module,
        layers: Sequence[str],
        channels: tuple[Sequence[int], Sequence[int]],
        weight: float = 5.0,
    ):
        super().__init__()
        self.student = make(n_classes)
        c_mid = min(WIDEST, channels[0][-1])
        self.blocks = nn.ModuleList(
            Fusion(c_in, c_mid, c_out, deepest=i == len(layers) - 1)
            for i, (c_in, c_out) in enumerate(zip(*channels, strict=True))
        )
        self.layers, self.weight, self.strength = list(layers), weight, 1.0
        self._teacher = (teacher.eval(),)  # in a tuple, which hides it from nn.Module

    def forward(self, x):
        """Return logits; in training their gradient includes that of the blocks' loss."""
        if not self.training:
            return self.student(x)
        with feature_hooks(self.student, self.layers) as ours:
            logits = self.student(x)
        (teacher,) = self._teacher
        with torch.no_grad(), feature_hooks(teacher.to(x.device), self.layers) as theirs:
            teacher(x)
        return _WithLoss.apply(logits, self.strength * self.weight * self.review(ours, theirs))

    def review(self, ours, theirs):
        """Return the sum over the stages of the hierarchical context loss."""
        total, fused = 0.0, None
        for layer, block in zip(self.layers[::-1], self.blocks[::-1], strict=True):
            fused, compared = block(ours[layer], fused, theirs[layer].shape[2:])
            total = total + hcl(compared, theirs[layer])
        return total


class _WithLoss(torch.autograd.Function):
    """Pass logits through; the backward pass differentiates a second loss too."""

    @staticmethod
    def forward(ctx, logits, loss):
        ctx.loss = loss.new_ones(())
        return logits.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, ctx.loss


class WarmUp(Callback):
    """Increase the weight linearly over the first epochs."""

    def __init__(self, epochs: int):
        self.epochs = epochs

    def on_epoch_begin(self, net, **kwargs):
        net.module_.strength = min(1.0, len(net.history) / self.epochs)
