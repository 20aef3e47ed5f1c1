"""Check that ``augment`` suits the student and the teacher."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from sklearn_kd.inputs._batches import augmented
from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.inputs._map_augmentation import MapAugmentation
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.students._checks import check_student_output
from sklearn_kd.tasks._task import MapTask, Task


def checked_augmentation(
    augment: Callable[..., Any] | None,
    teacher: Any,
    samples: Tensor,
    student: nn.Module,
    output_labels: np.ndarray,
    *,
    maps_of: tuple[DistillationData, Task] | None = None,
) -> tuple[Callable, Callable | None] | None:
    """Try ``augment`` on some samples; return it and the teacher to ask about its output, or None for None.

    Parameters
    ----------
    augment : callable or None
    teacher : TeacherAdapter or None
    samples : Tensor of shape (n, ...) or Parts
    student : nn.Module
    output_labels : ndarray of shape (n_outputs,)
    maps_of : tuple of (DistillationData, Task) or None, default=None
        D_train and the task. Where y has maps, ``augment`` changes these too.

    Raises
    ------
    ValueError
        If its output has another number of rows, or the student or the teacher cannot take it.
    """
    if augment is None:
        return None
    change: Any = augment
    if maps_of is not None and maps_of[1].map_shape:
        change, made, map_shape = _tried_on_maps(augment, *maps_of)
    else:
        with preserved_random_state(samples.device):
            made, map_shape = augmented(augment, samples), ()
    try:
        check_student_output(student, made, len(output_labels), map_shape=map_shape)
    except ValueError as error:
        raise ValueError(f"The output of augment does not suit the student: {error}") from error
    ask = None if teacher is None else teacher.on(samples.device, output_labels)
    if ask is not None:
        with preserved_random_state(samples.device):
            ask(made)
    return change, ask


def _tried_on_maps(
    augment: Callable[..., Any], train: DistillationData, task: Task
) -> tuple[MapAugmentation, Tensor, tuple[int, ...]]:
    """Return the augmentation of images with maps, some augmented images, and the size of their maps."""
    batch = train.sample_batch
    form = cast(MapTask, task).form(train.device)
    change = MapAugmentation(augment, form, train.shape[2:], task.map_shape)
    _check_takes_maps(augment)
    with preserved_random_state(train.device):
        images, maps = change.pair(batch[0], batch.targets)
    form.check(maps)
    return change, images, tuple(maps.shape[1:])


def _check_takes_maps(augment: Callable[..., Any]) -> None:
    """Raise TypeError if a function cannot be called with images and maps."""
    with suppress(ValueError):  # Python cannot read its signature
        try:
            inspect.signature(augment).bind(None, None)
        except TypeError as error:
            raise TypeError(
                f"augment cannot be called with images and their maps: {error}. Where y has maps, augment "
                "takes (X, y) and returns both."
            ) from error
