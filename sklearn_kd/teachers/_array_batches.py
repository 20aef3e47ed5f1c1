"""Ask trained teachers that take arrays about batches of tensors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.inputs._parts import Parts
from sklearn_kd.teachers._adapter import BatchTeacherAdapter, TeacherAdapter
from sklearn_kd.teachers._conversion import BatchLogits, LogitConversion
from sklearn_kd.teachers._networks import as_arrays


class ArrayBatches(BatchTeacherAdapter):
    """Asks a trained teacher that takes arrays about each batch.

    A probability of 0 is replaced by a number that depends on its row alone, so that a row has the same
    answer in every batch.

    Parameters
    ----------
    inner : TeacherAdapter
        Adapter of a teacher that comes trained.
    """

    def __init__(self, inner: TeacherAdapter) -> None:
        self._inner = inner
        inner.ask_about_some_rows()
        super().__init__(inner.fitted, inner.teacher_classes)

    def on(self, device: torch.device, classes: np.ndarray) -> Callable[[Tensor], Tensor]:
        def ask(x: Tensor | Parts) -> Tensor:
            data = DistillationData(x)
            return torch.cat([*self._inner.iter_logits(as_arrays(x), data, classes, len(x))]).to(device)

        return BatchLogits(ask, lambda values: LogitConversion(None, probabilities=False), self.name)


def array_teacher_by_batch(teacher: TeacherAdapter) -> ArrayBatches:
    """Return an adapter that asks a trained teacher of arrays about batches.

    Raises
    ------
    ValueError
        If the teacher has to be trained: a stream never has all rows at once.
    """
    if teacher.trains(teacher.fitted):
        raise ValueError(
            f"{teacher.name} has to be trained on D_train, and X is a stream, whose rows are never all in "
            "memory. Train it on as many rows as fit, and give sklearn.frozen.FrozenEstimator(teacher)."
        )
    return ArrayBatches(teacher)
