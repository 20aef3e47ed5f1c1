"""Pathways as one term of a training loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from sklearn_kd.distpro._distances import Distance
from sklearn_kd.distpro._pathways import Pathway, PathwayPass, build_transforms
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
    name : str, default="pathways"
    module_name : str, default="transforms"
    """

    def __init__(
        self,
        pathways: Sequence[Pathway],
        transforms: Sequence[str | TransformFactory],
        distance: Distance,
        weights: TermWeights,
        name: str = "pathways",
        module_name: str = "transforms",
    ):
        self.pathways, self.transforms, self.weights = list(pathways), transforms, weights
        self.name = self.recorded = name
        self.module_name = module_name
        self.pathway_pass = PathwayPass(pathways, distance)

    @property
    def n_losses(self) -> int:
        """L."""
        return len(self.pathways)

    @property
    def components(self) -> tuple[str, ...]:
        """Words for each pathway, by which a process of others is told."""
        return tuple(
            f"student stage {p.student_stage} to teacher stage {p.teacher_stage} by {p.transform}"
            for p in self.pathways
        )

    def student_layers(self, active: Sequence[int]) -> list[str]:
        """Return the student's layers in these pathways, each once."""
        return self.pathway_pass.student_layers(active)

    def teacher_layers(self, active: Sequence[int]) -> list[str]:
        """Return the teacher's layers in these pathways, each once."""
        return self.pathway_pass.teacher_layers(active)

    def make_module(self) -> nn.ModuleList:
        """Return fresh transforms."""
        return build_transforms(self.pathways, self.transforms)

    def losses(
        self, module: Any, student: Features, teacher: Features, active: Sequence[int]
    ) -> list[Tensor]:
        """Return the losses of these pathways."""
        with own_code(f"transforms or distance of {self.name}"):
            return self.pathway_pass.losses(module, student, teacher, active)

    def entry(self, active: Sequence[int], losses: Sequence[Tensor]) -> float:
        """Return how many pathways run."""
        return float(len(active))
