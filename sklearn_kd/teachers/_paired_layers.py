"""Find the layers of teacher and student whose features are compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from sklearn_kd.layers._find import find_layers, layer_shapes
from sklearn_kd.layers._hints import table_hint
from sklearn_kd.layers._hooks import feature_hooks
from sklearn_kd.layers._training_mode import check_training_mode
from sklearn_kd.runtime._eval_mode import eval_mode
from sklearn_kd.teachers._features import FeatureTeacher

Shapes = dict[str, tuple[int, ...]]


def find_layers_of_both(
    teacher: FeatureTeacher,
    student: nn.Module,
    samples: Tensor,
    *,
    teacher_layers: str | Sequence[str],
    student_layers: str | Sequence[str],
    kinds: Sequence[str] = ("maps",),
    auto: str = "stages",
    of_maps: bool = False,
) -> tuple[Shapes, Shapes]:
    """Find layers of both networks, by name or automatically, by running each on some samples.

    Neither network is changed.

    Parameters
    ----------
    teacher : FeatureTeacher
    student : nn.Module
    samples : Tensor of shape (2, ...)
    teacher_layers, student_layers : "auto" or sequence of str
    kinds, auto, of_maps
        As in :func:`sklearn_kd.layers._find.find_layers`.

    Returns
    -------
    of_teacher, of_student : dict of str to tuple of int
        Shape of one sample's features, by layer name, in order. :func:`feature_hooks` takes these names.

    Raises
    ------
    ValueError
        If a layer does not exist, if "auto" finds different numbers of stages, or if a layer of the student
        is a different one in training mode.
    TypeError
        If ``teacher_layers`` or ``student_layers`` is neither "auto" nor a sequence of names.
    """
    find_in_teacher = partial(
        teacher.layer_shapes, teacher_layers, samples, of_maps=of_maps, kinds=kinds, auto=auto
    )
    of_teacher = find_in_teacher()
    found = find_layers(
        student,
        student_layers,
        samples,
        name="student_layers",
        of_maps=of_maps,
        kinds=kinds,
        auto=auto,
        n_stages=len(of_teacher) if auto == "stages" else None,
    )
    of_student = layer_shapes(found)
    if teacher_layers == "auto" and len(of_teacher) != len(of_student):  # a teacher of one size follows
        of_teacher = find_in_teacher(n_stages=len(of_student))
    if teacher_layers == student_layers == "auto" and len(of_teacher) != len(of_student):
        raise ValueError(
            f"'auto' finds {len(of_teacher)} stages in the teacher, {of_teacher}, and {len(of_student)} in "
            f"the student, {of_student} (shapes of their maps). Name the layers that belong together: "
            f"teacher_layers=[...], student_layers=[...]; {table_hint('teacher_layers')}"
        )
    check_training_mode(student, of_student, samples, name="student_layers")
    return of_teacher, of_student


def features_of_both(
    teacher: FeatureTeacher,
    student: nn.Module,
    samples: Tensor,
    of_teacher: Iterable[str],
    of_student: Iterable[str],
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """Return both networks' features of some samples, by layer, in evaluation mode; the student's first."""
    theirs, _ = teacher(samples, list(of_teacher))
    with torch.no_grad(), eval_mode(student.modules()), feature_hooks(student, list(of_student)) as ours:
        student(samples)
    return ours, theirs
