"""Convert maps on the device between the user's labels and codes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class LabelMaps:
    """Convert between labels of pixels and their codes, as int64 tensors on a device.

    Parameters
    ----------
    classes : ndarray of shape (K,)
        The labels, sorted.
    ignore_index : int or None
        The label of unknown pixels. None: −1, or one less than the lowest class if −1 is a class.
    device : device
    """

    def __init__(self, classes: np.ndarray, ignore_index: int | None, device: torch.device):
        # Not a class, or images of X_unlabeled would come back from ``augment`` with labels.
        free = int(classes[0]) - 1 if -1 in classes else -1
        self.unknown = free if ignore_index is None else int(ignore_index)
        self.classes = torch.as_tensor(classes.astype(np.int64), device=device)
        self._labels = torch.cat([self.classes, self.classes.new_tensor([self.unknown])])

    def given(self, codes: Tensor) -> Tensor:
        """Return the labels of codes; −1, an unknown pixel, is the last entry."""
        return self._labels[codes.long()]

    def codes(self, maps: Tensor) -> Tensor:
        """Return the codes of labels; −1 for labels that are not classes."""
        maps = maps.long().contiguous()
        places = torch.searchsorted(self.classes, maps).clamp(max=len(self.classes) - 1)
        return torch.where(self.classes[places] == maps, places, -1)

    def check(self, maps: Tensor) -> None:
        """Raise ValueError if there are labels that y lacks."""
        maps = maps.long().contiguous()
        wrong = maps[(self.codes(maps) < 0) & (maps != self.unknown)].unique().tolist()
        if wrong:
            raise ValueError(
                f"augment returned maps with labels that y lacks: {wrong[:5]}. Fill pixels without a label "
                f"with {self.unknown}."
            )
