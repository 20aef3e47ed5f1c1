"""Standardise, as y is, the numbers that a network predicts beside its feature maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.layers._outputs import tensors_in
from sklearn_kd.tasks._regression import Regression
from sklearn_kd.teachers._logit_checks import thawed


class NumberOutputs:
    """Reads predictions in the units of y from the output of a network, batch by batch.

    Nothing synchronises with the device; the teacher's watch detects numbers that are not finite.

    Parameters
    ----------
    teacher : object
        The teacher as given. The student of a fitted regressor of this library returns standardised numbers,
        whose units are known.
    task : Regression
    who : str
        Name of the network in messages.
    device : torch.device
    """

    def __init__(self, teacher: Any, task: Regression, who: str, device: torch.device):
        self.task, self.who = task, who
        fitted = thawed(teacher)
        mean: Any = getattr(fitted, "target_mean_", 0.0)
        scale: Any = getattr(fitted, "target_scale_", 1.0)
        self._is_own = hasattr(fitted, "target_mean_")  # with "gaussian_nll" the means come first
        if self._is_own and len(mean) != task.n_targets:
            raise ValueError(
                f"{who} was fitted on {len(mean)} target(s), and y has {task.n_targets}. Give a teacher of "
                "the same targets, or set output_weight=0 to use its feature maps alone."
            )
        # MPS has no float64.
        kind: Any = {"dtype": torch.float32 if device.type == "mps" else torch.float64, "device": device}
        # Convert in one step: a mean far from 0 would cost digits.
        self._factor = torch.as_tensor(np.broadcast_to(scale / task.scale, task.scale.shape).copy(), **kind)
        self._shift = torch.as_tensor((mean - task.mean) / task.scale, **kind)

    def read(self, output: Any, n_rows: int) -> Tensor:
        """Return the numbers in an output as the network returned them.

        The shape is (n_rows, m), or (n_rows, 1, h, w) with any h and w if y has maps.

        Raises
        ------
        ValueError
            If the output has no numbers of this shape.
        """
        n_targets, maps = self.task.n_targets, bool(self.task.map_shape)
        found = [tensor for _, tensor in tensors_in(output)][:1]
        for tensor in found:
            if n_targets == 1 and tensor.ndim == (3 if maps else 1):
                tensor = tensor[:, None]
            if self._is_own and tensor.ndim > 1 and tensor.shape[1] == 2 * n_targets:
                tensor = tensor[:, :n_targets]
            alike = tensor.ndim == (4 if maps else 2) and tuple(tensor.shape[:2]) == (n_rows, n_targets)
            if alike and not tensor.is_complex():
                return tensor
        got = f"a tensor of shape {tuple(found[0].shape)}" if found else type(output).__name__
        if maps:
            raise ValueError(
                f"{self.who} must predict a map for each image, shape ({n_rows}, 1, height, width), of any "
                f"height and width; it returned {got}."
            )
        raise ValueError(
            f"{self.who} must predict {n_targets} number(s) for each row, shape ({n_rows}, {n_targets}); it "
            f"returned {got}."
        )

    def convert(self, numbers: Tensor) -> Tensor:
        """Standardise the numbers as y is; return float32 of the same shape."""
        return (numbers.to(self._factor) * self._factor + self._shift).float()
