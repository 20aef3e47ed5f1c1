"""Check that ``augment`` suits the student and the teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn

from sklearn_kd.inputs._batches import augmented
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.students._checks import check_student_output


def checked_augmentation(
    augment: Callable[[Tensor], Tensor] | None,
    teacher: Any,
    samples: Tensor,
    student: nn.Module,
    output_labels: np.ndarray,
) -> tuple[Callable, Callable | None] | None:
    """Return ``augment`` and the teacher to ask about its output, tried on some samples; None for None.

    Raises
    ------
    ValueError
        If it makes no batch of as many rows, or one that student or teacher cannot take.
    """
    if augment is None:
        return None
    with preserved_random_state(samples.device):
        made = augmented(augment, samples)
    try:
        check_student_output(student, made, len(output_labels))
    except ValueError as error:
        raise ValueError(f"What augment makes does not suit the student: {error}") from error
    ask = None if teacher is None else teacher.on(samples.device, output_labels)
    if ask is not None:
        with preserved_random_state(samples.device):
            ask(made)
    return augment, ask
