"""Score the pixels of D_val after each epoch, batch by batch, without keeping outputs."""

from __future__ import annotations

from typing import Any

import torch
from skorch.callbacks import Callback
from torch import Tensor

from sklearn_kd.tasks._task import MapTask


class PixelScoring(Callback):
    """Record ``valid_acc`` for classes of pixels, or another task's score of pixels.

    Each known pixel counts once. skorch's own scoring would keep the outputs of all pixels of an epoch.

    Parameters
    ----------
    task : MapTask
        Its ``pixel_sums`` are added over batches; its ``score_of_sums`` turns them into the score, which the
        history has as ``history_score``.
    """

    reads_losses = False  # so that losses are copied from the device only once, when an epoch ends

    def __init__(self, task: MapTask):
        self.task = task

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Reset the sums."""
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
