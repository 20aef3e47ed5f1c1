"""Train the baseline ReviewKD: the library's term, computed in the student's training forward pass.

Chen, Liu, Zhao, Jia, "Distilling knowledge via knowledge review" (CVPR 2021). The fusion blocks and their
loss are :class:`sklearn_kd.losses.ReviewKD`. Here they are part of the student's module, so that any training
loop trains them. The weight is warmed up, as in the paper. The module's ``student`` is the final
student.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from skorch.callbacks import Callback
from torch import nn

from sklearn_kd.layers._hooks import feature_hooks
from sklearn_kd.losses import ReviewKD


class ReviewedStudent(nn.Module):
    """A student whose training forward pass includes ReviewKD's loss.

    The student is built first, so it has the same initial weights as a student alone. The teacher, in
    evaluation mode, is not part of this module.

    Parameters
    ----------
    n_classes : int
    make : callable(n_classes) -> nn.Module
        Builds the student.
    teacher : nn.Module
    layers : sequence of str
        Modules of both networks whose outputs are compared, the first stage first.
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
        self.blocks = ReviewKD().build(*([(c,) for c in side] for side in channels))
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
        maps = ([own[layer] for layer in self.layers] for own in (ours, theirs))
        return _WithLoss.apply(logits, self.strength * self.weight * ReviewKD().loss(*maps, self.blocks))


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
