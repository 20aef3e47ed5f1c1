"""Pathways, each from a student's layer through a transform to a teacher's layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sklearn_kd.distpro._distances import Distance
from sklearn_kd.distpro._transforms import TRANSFORMS, TransformFactory
from sklearn_kd.errors._context import own_code
from sklearn_kd.errors._did_you_mean import did_you_mean
from sklearn_kd.layers._hooks import feature_hooks
from sklearn_kd.losses._bound_terms import as_float32
from sklearn_kd.runtime._eval_mode import eval_mode
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.teachers._features import FeatureTeacher
from sklearn_kd.teachers._paired_layers import find_layers_of_both


class Pathway(NamedTuple):
    """A pair of layers and a transform of the student's map, which is then compared with the teacher's.

    A pathway holds all that :func:`build_transforms` needs to rebuild the transform without data.

    Attributes
    ----------
    teacher_layer, student_layer : str
        Names of the layers.
    transform : str
        Name of the transform.
    teacher_stage, student_stage : int
        Positions in ``teacher_layers`` and ``student_layers``, from 0.
    teacher_channels, student_channels : int
        Numbers of channels of the two maps.

    Examples
    --------
    >>> from sklearn_kd import Pathway
    >>> pathway = Pathway("layer2", "layer1", "conv1", 1, 0, teacher_channels=32, student_channels=16)
    >>> pathway.key
    (1, 0, 'conv1')
    """

    teacher_layer: str
    student_layer: str
    transform: str
    teacher_stage: int
    student_stage: int
    teacher_channels: int
    student_channels: int

    @property
    def key(self) -> tuple[int, int, str]:
        """(teacher stage, student stage, transform), used to match the pathways of two tasks."""
        return self.teacher_stage, self.student_stage, self.transform


def named_transforms(transforms: Sequence[str | TransformFactory]) -> dict[str, TransformFactory]:
    """Return the factory of each transform by name.

    Raises
    ------
    ValueError
        If a name is unknown, the list is empty, or two transforms have the same name.
    TypeError
        If a transform is neither a name nor callable.
    """
    factories: dict[str, TransformFactory] = {}
    if isinstance(transforms, str) or not isinstance(transforms, Sequence) or len(transforms) == 0:
        raise ValueError(
            f"transforms={transforms!r} must be a list of at least one of {list(TRANSFORMS)} or callables "
            "(c_in, c_out) -> nn.Module."
        )
    for transform in transforms:
        if isinstance(transform, str):
            if transform not in TRANSFORMS:
                raise ValueError(
                    f"transforms: {transform!r} is not known.{did_you_mean(transform, TRANSFORMS)} Give one "
                    f"of {list(TRANSFORMS)}, or a callable (c_in, c_out) -> nn.Module."
                )
            name, factory = transform, TRANSFORMS[transform]
        elif callable(transform):
            name, factory = getattr(transform, "__name__", type(transform).__name__), transform
        else:
            raise TypeError(f"transforms: {transform!r} is neither a name nor a callable (c_in, c_out).")
        if name in factories:
            raise ValueError(
                f"transforms: two are named {name!r}. A process distinguishes them by name. Define each as a "
                "function or class with its own name."
            )
        factories[name] = factory
    return factories


def connect(
    teacher_layers: Mapping[str, tuple[int, ...]],
    student_layers: Mapping[str, tuple[int, ...]],
    connections: str | Sequence[tuple[int, int]],
    transforms: Sequence[str],
) -> list[Pathway]:
    """Return all pathways, ordered by teacher stage, student stage and transform.

    Parameters
    ----------
    teacher_layers, student_layers : dict of str to tuple of (int, int, int)
        (channels, height, width) by layer.
    connections : "all", "lower" or sequence of (int, int)
        Pairs (teacher stage, student stage). "lower": the pairs whose teacher stage is not above the
        student stage.
    transforms : sequence of str
        Names of the transforms.

    Raises
    ------
    ValueError
        If a pair is out of range, or ``connections="lower"`` and the numbers of layers differ.
    """
    of_teacher, of_student = list(teacher_layers.items()), list(student_layers.items())
    teachers, students = list(teacher_layers), list(student_layers)
    if isinstance(connections, str) and connections == "lower" and len(teachers) != len(students):
        raise ValueError(
            "connections='lower' needs the same number of stages in both networks. teacher_layers are "
            f"{teachers} ({len(teachers)}), student_layers {students} ({len(students)}). Give the same "
            "number of layers, or connections as a list of (teacher stage, student stage)."
        )
    return [
        Pathway(teachers[i], students[j], name, i, j, of_teacher[i][1][0], of_student[j][1][0])
        for i, j in _pairs(connections, len(teachers), len(students))
        for name in transforms
    ]  # fmt: skip


def _pairs(
    connections: str | Sequence[tuple[int, int]], n_teacher: int, n_student: int
) -> list[tuple[int, int]]:
    every = [(i, j) for i in range(n_teacher) for j in range(n_student)]
    if isinstance(connections, str):
        if connections not in ("all", "lower"):
            raise ValueError(
                f"connections={connections!r} must be 'all', 'lower' or a list of (teacher stage, student "
                "stage)."
            )
        return every if connections == "all" else [(i, j) for i, j in every if i <= j]
    try:
        pairs = [(i, j) for i, j in connections]
    except (TypeError, ValueError):
        raise ValueError(
            f"connections={connections!r} must be 'all', 'lower' or a list of pairs (teacher stage, student "
            "stage)."
        ) from None
    wrong = [pair for pair in pairs if pair not in every]
    if wrong or not pairs or len(set(pairs)) < len(pairs):
        said = (
            f"has {wrong}, which are out of range" if wrong else "must hold each pair once, and at least one"
        )
        raise ValueError(
            f"connections={connections!r} {said}: there are teacher stages 0 to {n_teacher - 1} and student "
            f"stages 0 to {n_student - 1}."
        )
    return pairs


def build_transforms(
    pathways: Sequence[Pathway], transforms: Sequence[str | TransformFactory] = tuple(TRANSFORMS)
) -> nn.ModuleList:
    """Build untrained transforms, one for each pathway in order, without data.

    Parameters
    ----------
    pathways : sequence of Pathway
        ``pathways_`` of a fitted :class:`DistProClassifier`.
    transforms : sequence of str or callable, default=("conv1", "conv2", "conv3")
        The estimator's ``transforms``, if they are not the default.

    Returns
    -------
    nn.ModuleList
        Its ``state_dict()`` has the same names as that of the estimator's ``transforms_``.

    Raises
    ------
    ValueError
        If the transform of a pathway is not in ``transforms``.

    Examples
    --------
    >>> from sklearn_kd import Pathway, build_transforms
    >>> pathway = Pathway("layer2", "layer1", "conv1", 1, 0, teacher_channels=32, student_channels=16)
    >>> build_transforms([pathway])[0].match[0]
    Conv2d(16, 32, kernel_size=(1, 1), stride=(1, 1), bias=False)
    """
    factories = named_transforms(transforms)
    missing = sorted({pathway.transform for pathway in pathways} - set(factories))
    if missing:
        raise ValueError(
            f"The pathways use the transforms {missing}, which are not in transforms={list(factories)}. "
            "Give the transforms that the pathways were made with."
        )
    return nn.ModuleList(
        factories[pathway.transform](pathway.student_channels, pathway.teacher_channels)
        for pathway in pathways
    )


def find_pathways(
    teacher: FeatureTeacher,
    student: nn.Module,
    samples: Tensor,
    *,
    teacher_layers: str | Sequence[str],
    student_layers: str | Sequence[str],
    connections: str | Sequence[tuple[int, int]],
    transforms: Sequence[str | TransformFactory],
    distance: Distance,
    of_maps: bool = False,
) -> list[Pathway]:
    """Return the pathways between two networks, after trying each on some samples.

    The trial changes neither network. The keyword parameters are those of :class:`DistProClassifier` and
    ``of_maps``: whether y has a map for each image. If so, the maps that the networks return are not stages.

    Raises
    ------
    ValueError
        If the parameters do not fit the networks.
    """
    of_teacher, of_student = find_layers_of_both(
        teacher,
        student,
        samples,
        teacher_layers=teacher_layers,
        student_layers=student_layers,
        of_maps=of_maps,
    )
    pathways = connect(of_teacher, of_student, connections, list(named_transforms(transforms)))
    with preserved_random_state(samples.device):
        modules = build_transforms(pathways, transforms).to(samples.device)
        maps, _ = teacher(samples, list(of_teacher))
        built = {id(w) for w in modules.parameters() if not is_lazy(w)}
        with eval_mode([*student.modules(), *modules.modules()]):
            PathwayLosses(pathways, distance).check(student, modules, samples, maps)
        _check_built(built, modules)
    return pathways


def _check_built(built: set[int], transforms: nn.ModuleList) -> None:
    """Raise ValueError if the first forward pass created weights, which the optimizer would not update."""
    names = [name for name, w in transforms.named_parameters() if id(w) not in built]
    if names:
        raise ValueError(
            f"transforms have weights that only the first forward pass creates, such as {names[0]!r}. Create "
            "them in the transform's constructor, which gets the numbers of channels (c_in, c_out)."
        )


class PathwayLosses:
    """Compute the losses of pathways from maps of both networks.

    The object holds no modules: they are arguments of each call.

    Parameters
    ----------
    pathways : sequence of L Pathway
    distance : callable(Tensor, Tensor) -> Tensor
        Distance of the transformed student map and the teacher map, a tensor of shape ().
    """

    def __init__(self, pathways: Sequence[Pathway], distance: Distance):
        self.pathways, self.distance = list(pathways), distance

    def student_layers(self, active: Sequence[int]) -> list[str]:
        """Return the student's layers in these pathways, each once."""
        return list(dict.fromkeys(self.pathways[p].student_layer for p in active))

    def teacher_layers(self, active: Sequence[int]) -> list[str]:
        """Return the teacher's layers in these pathways, each once."""
        return list(dict.fromkeys(self.pathways[p].teacher_layer for p in active))

    def losses(
        self,
        transforms: nn.ModuleList,
        maps: Mapping[str, Tensor],
        teacher_maps: Mapping[str, Tensor],
        active: Sequence[int],
    ) -> list[Tensor]:
        """Compute and return the losses of the ``active`` pathways only.

        Parameters
        ----------
        transforms : nn.ModuleList
            One for each pathway, active or not.
        maps, teacher_maps : mapping of str to Tensor
            Maps of the student and the teacher by layer, at least those of the active pathways.
        active : sequence of int
            Indices of pathways.

        Returns
        -------
        list of Tensor of shape ()
        """
        return [self._loss(p, transforms[p], maps, teacher_maps) for p in active]

    def _loss(
        self,
        p: int,
        transform: nn.Module,
        maps: Mapping[str, Tensor],
        teacher_maps: Mapping[str, Tensor],
    ) -> Tensor:
        pathway = self.pathways[p]
        theirs = as_float32(teacher_maps[pathway.teacher_layer])
        ours = transform(maps[pathway.student_layer], tuple(theirs.shape[2:]))
        return self.distance(as_float32(ours), theirs)

    @torch.no_grad()
    def check(
        self, student: nn.Module, transforms: nn.ModuleList, x: Tensor, teacher_maps: Mapping[str, Tensor]
    ) -> None:
        """Try every pathway on some samples.

        Raises
        ------
        ValueError
            If the output of a transform does not have the shape of the teacher's map, a distance is not
            a single number, or either of them writes into its input.
        """
        with feature_hooks(student, [pathway.student_layer for pathway in self.pathways]) as maps:
            student(x)
        for pathway, transform in zip(self.pathways, transforms, strict=True):
            given, theirs = maps[pathway.student_layer], teacher_maps[pathway.teacher_layer]
            versions = given._version, theirs._version
            with own_code(f"transforms: {pathway.transform!r}"):
                ours = transform(given, tuple(theirs.shape[2:]))
            _check_transformed(ours, theirs, pathway)
            with own_code("distance"):
                distance = self.distance(ours, theirs)
            _check_distance(distance)
            if versions != (given._version, theirs._version):
                raise ValueError(
                    f"transform {pathway.transform!r} or distance writes into a map that other pathways "
                    "share. Set inplace=False in its modules."
                )


def _check_transformed(ours: Any, theirs: Tensor, pathway: Pathway) -> None:
    if not isinstance(ours, Tensor) or ours.shape != theirs.shape:
        got = tuple(ours.shape) if isinstance(ours, Tensor) else type(ours).__name__
        raise ValueError(
            f"transforms: {pathway.transform!r} returns {got}, but the teacher's map at "
            f"{pathway.teacher_layer!r} has shape {tuple(theirs.shape)}. A transform is made with (c_in, "
            "c_out) and called with (x, size): resize to size and return c_out channels."
        )


def _check_distance(distance: Any) -> None:
    if not isinstance(distance, Tensor) or distance.ndim:
        got = tuple(distance.shape) if isinstance(distance, Tensor) else type(distance).__name__
        raise ValueError(
            f"distance must return one number, a tensor of shape (), for two maps; it returned {got}. Take "
            "the mean."
        )
