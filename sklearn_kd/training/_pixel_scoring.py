"""The score of pixels of D_val after each epoch, summed batch by batch without keeping outputs."""

from __future__ import annotations

from typing import Any

import torch
from skorch.callbacks import Callback
from torch import Tensor

from sklearn_kd.tasks._task import MapTask


class PixelScoring(Callback):
    """Record ``valid_acc`` of classes of pixels, or what else the task scores pixels by.

    Each known pixel counts once. Skorch's own scoring would keep the outputs of all pixels of an epoch.

    Parameters
    ----------
    task : MapTask
        Its ``pixel_sums`` of a batch are added up; its ``score_of_sums`` makes the score of them, which the
        history has under its ``history_score``.
    """

    reads_losses = False  # so that they are copied from the device once, when an epoch ends

    def __init__(self, task: MapTask):
        self.task = task

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Forget the last epoch."""
        self.sums_: Tensor | None = None

    def on_batch_end(self, net: Any, batch: Any = None, training: bool = False, **kwargs: Any) -> None:
        """Add the sums of a batch of D_val."""
        if training:
            return
        with torch.no_grad():
            sums = self.task.pixel_sums(kwargs["y_pred"], batch.targets)
        self.sums_ = sums if self.sums_ is None else self.sums_ + sums

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Record the score, if there is a D_val."""
        if self.sums_ is not None:
            net.history.record(self.task.history_score, self.task.score_of_sums(self.sums_.tolist()))
            self.sums_ = None
