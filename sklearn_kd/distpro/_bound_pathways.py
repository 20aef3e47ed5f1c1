"""Pathways as one term of a training loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sklearn_kd.distpro._distances import Distance
from sklearn_kd.distpro._pathways import Pathway, PathwayLosses, build_transforms
from sklearn_kd.distpro._transforms import TransformFactory
from sklearn_kd.errors._context import own_code
from sklearn_kd.losses._bound_terms import Features
from sklearn_kd.losses._term_weights import TermWeights


class BoundPathways:
    """Pathways with their weights; a :class:`~sklearn_kd.losses._bound_terms.BoundTerm`.

    Parameters
    ----------
    pathways : sequence of L Pathway
    transforms : sequence of str or callable
        As in :class:`DistProClassifier`.
    distance : callable(Tensor, Tensor) -> Tensor
    weights : TermWeights
    importance : TermWeights
        The same weights before the factor that scales all of them.
    name : str, default="pathways"
    module_name : str, default="transforms"
    """

    def __init__(
        self,
        pathways: Sequence[Pathway],
        transforms: Sequence[str | TransformFactory],
        distance: Distance,
        weights: TermWeights,
        importance: TermWeights,
        name: str = "pathways",
        module_name: str = "transforms",
    ):
        self.pathways, self.transforms = list(pathways), transforms
        self.weights, self.importance = weights, importance
        self.name, self.module_name = name, module_name
        self.recorded = (name, f"{name}_loss")
        self.pathway_losses = PathwayLosses(pathways, distance)

    @property
    def n_losses(self) -> int:
        """Number of pathways, L."""
        return len(self.pathways)

    @property
    def components(self) -> tuple[str, ...]:
        """Description of each pathway, used to recognise a process of other pathways."""
        return tuple(
            f"student stage {p.student_stage} to teacher stage {p.teacher_stage} by {p.transform}"
            for p in self.pathways
        )

    def student_layers(self, active: Sequence[int]) -> list[str]:
        """Return the student's layers in these pathways, each once."""
        return self.pathway_losses.student_layers(active)

    def teacher_layers(self, active: Sequence[int]) -> list[str]:
        """Return the teacher's layers in these pathways, each once."""
        return self.pathway_losses.teacher_layers(active)

    def make_module(self) -> nn.ModuleList:
        """Return new, untrained transforms."""
        return build_transforms(self.pathways, self.transforms)

    def losses(
        self,
        module: Any,
        student: Features,
        teacher: Features,
        active: Sequence[int],
        row_weight: Tensor | None = None,
    ) -> list[Tensor]:
        """Return the losses of the active pathways. ``row_weight`` is ignored: all rows count the same."""
        with own_code(f"transforms or distance of {self.name}"):
            return self.pathway_losses.losses(module, student, teacher, active)

    def entries(
        self, active: Sequence[int], losses: Sequence[Tensor], values: Mapping[str, Any]
    ) -> tuple[float, Tensor | float]:
        """Return the number of active pathways, and the sum of their losses weighted by importance."""
        if not active:
            return 0.0, 0.0
        found = torch.stack([loss.detach() for loss in losses])
        return float(len(active)), (self.importance.alpha(values, found) * found).sum()
