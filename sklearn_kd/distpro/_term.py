"""Pathways as a feature term in a list of losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, Literal

from torch import Tensor, nn

from sklearn_kd.distpro._bound_pathways import BoundPathways
from sklearn_kd.distpro._distances import Distance, checked_distance
from sklearn_kd.distpro._importance import IMPORTANCE, LearnedWeights, SomeWeights, importance_factors
from sklearn_kd.distpro._normalization import NORMALIZATIONS, checked_threshold
from sklearn_kd.distpro._pathways import Pathway, find_pathways, named_transforms
from sklearn_kd.distpro._transforms import TransformFactory
from sklearn_kd.errors._context import error_context
from sklearn_kd.errors._did_you_mean import did_you_mean
from sklearn_kd.losses._feature_term import FeatureTerm
from sklearn_kd.losses._term_weights import LearnedScale, ScaledWeights, TermWeights
from sklearn_kd.meta._space import Metaparameter
from sklearn_kd.teachers._features import FeatureTeacher


class Pathways(FeatureTerm):
    """DistPro's pathways as a term in a list of losses: ``loss=["kd", Pathways(), ReviewKD(weight=5)]``.

    Each pathway, from a layer of the teacher through a transform to a layer of the student, has a raw
    importance factor. The factors are one metaparameter, ``pathways_importance`` of shape (L,), and are
    normalised to weights. :class:`DistProClassifier`, which has no other feature term, searches the factors
    and then trains again with their values over time. The parameters are those of that estimator.

    Parameters
    ----------
    weight : float, default=1.0
        Factor on the sum over the pathways, or its start if it is learned.
    weight_bounds : tuple of (float, float), "auto" or "fixed", default="fixed"
        As in :class:`~sklearn_kd.losses.FeatureTerm`. "fixed": only the importance factors are learned, as in
        :class:`DistProClassifier`. Otherwise the weight is a second metaparameter, ``pathways_weight``.
    teacher_layers, student_layers : "auto" or list of str, default="auto"
        Layers whose maps are compared. "auto": the stages of both networks.
    connections : "all", "lower" or list of (int, int), default="all"
        Pairs of stages (teacher, student). "lower": the teacher's stage is not above the student's.
    transforms : list of str or callable, default=("conv1", "conv2", "conv3")
        Transforms of the student's map to the shape of the teacher's, one pathway for each.
    distance : {"hcl", "mse", "l1"} or callable, default="hcl"
        Distance between the transformed map of the student and the teacher's map.
    normalization : {"biased_softmax", "softmax", "biased_l1", "l1", "sigmoid"}, default="biased_softmax"
        Function from raw factors to weights [1]_ (Table 7).
    softmax_bias : float, default=1.0
        g of the biased softmax.
    importance_lr : float, default=0.05
        Adam's learning rate for the factors and for the weights of all terms.
    importance_bounds : tuple of (float, float), default=(-3.0, 5.0)
        Bounds of the raw factors, which start at 1. Strategies that try values draw between the bounds.
        :class:`DistProClassifier` has no bounds.
    pathway_threshold : float, "auto" or None, default="auto"
        A retraining does not compute a pathway whose raw factor is at most this. "auto": 0.5 with the biased
        softmax, otherwise None. None: compute all pathways.

    Notes
    -----
    ``sample_weight`` has no effect on this term, because a distance compares two batches of maps.

    References
    ----------
    .. [1] Deng, Sun, Newsam, Wang. "DistPro: Searching a fast knowledge distillation process via meta
       optimization", ECCV 2022.

    Examples
    --------
    >>> from sklearn_kd import Pathways
    >>> Pathways(transforms=["conv1"]).name
    'pathways'
    """

    name = "pathways"

    def __init__(
        self,
        weight: float = 1.0,
        *,
        weight_bounds: tuple[float, float] | Literal["auto", "fixed"] = "fixed",
        teacher_layers: str | Sequence[str] = "auto",
        student_layers: str | Sequence[str] = "auto",
        connections: str | Sequence[tuple[int, int]] = "all",
        transforms: Sequence[str | TransformFactory] = ("conv1", "conv2", "conv3"),
        distance: str | Distance = "hcl",
        normalization: str = "biased_softmax",
        softmax_bias: float = 1.0,
        importance_lr: float = 0.05,
        importance_bounds: tuple[float, float] = (-3.0, 5.0),
        pathway_threshold: float | Literal["auto"] | None = "auto",
    ):
        self.weight = weight
        self.weight_bounds = weight_bounds
        self.teacher_layers = teacher_layers
        self.student_layers = student_layers
        self.connections = connections
        self.transforms = transforms
        self.distance = distance
        self.normalization = normalization
        self.softmax_bias = softmax_bias
        self.importance_lr = importance_lr
        self.importance_bounds = importance_bounds
        self.pathway_threshold = pathway_threshold

    def check(self) -> None:
        """Raise ValueError or TypeError if the parameters cannot be used."""
        self._check_numbers()
        self.importance(1)
        named_transforms(self.transforms)
        checked_distance(self.distance)
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(
                f"normalization={self.normalization!r} is not known."
                f"{did_you_mean(self.normalization, tuple(NORMALIZATIONS))} Give one of "
                f"{list(NORMALIZATIONS)}."
            )
        checked_threshold(self.pathway_threshold, self.normalization)

    def _check_numbers(self) -> None:
        numbers = {"softmax_bias": self.softmax_bias, "importance_lr": self.importance_lr}
        if self.pathway_threshold is not None and self.pathway_threshold != "auto":
            numbers["pathway_threshold"] = self.pathway_threshold
        for name, value in numbers.items():
            if not isinstance(value, Real) or isinstance(value, bool):
                raise TypeError(f"{name}={value!r} must be a number.")
            if not math.isfinite(float(value)):
                raise ValueError(f"{name}={value!r} must be finite.")
        if self.importance_lr < 0:
            raise ValueError(f"importance_lr={self.importance_lr!r} must be at least 0.")

    def loss(self, student: list[Tensor], teacher: list[Tensor], module: Any) -> Tensor:
        """Raise TypeError, because each pathway has its own loss."""
        raise TypeError("Pathways has no loss of paired layers.")

    def importance(self, n_pathways: int, components: tuple[str, ...] | None = None) -> Metaparameter:
        """Return the raw factors of ``n_pathways`` pathways, with a description of each.

        Raises
        ------
        ValueError
            If the start lies outside ``importance_bounds``, or these are not two numbers.
        """
        with error_context("importance_bounds"):
            factors = importance_factors(n_pathways)[IMPORTANCE]
            return replace(factors, bounds=self.importance_bounds, components=components)

    def bound(
        self, name: str, teacher: FeatureTeacher, student: nn.Module, samples: Tensor, *, of_maps: bool
    ) -> BoundPathways:
        """Find the pathways between two networks, as ``find_pathways`` does.

        Parameters
        ----------
        name : str
            Name of the term. Its metaparameter is ``NAME_importance``.
        teacher : FeatureTeacher
            The teacher's feature maps.
        student : nn.Module
            The student.
        samples : Tensor of shape (2, ...)
            Two rows on which both networks are tried.
        of_maps : bool
            Whether y has a map for each image.
        """
        pathways = find_pathways(
            teacher,
            student,
            samples,
            teacher_layers=self.teacher_layers,
            student_layers=self.student_layers,
            connections=self.connections,
            transforms=self.transforms,
            distance=checked_distance(self.distance),
            of_maps=of_maps,
        )
        normalization = NORMALIZATIONS[self.normalization](self.softmax_bias)
        return self._with_weights(name, pathways, LearnedWeights(normalization, f"{name}_{IMPORTANCE}"))

    def _with_weights(
        self, name: str, pathways: Sequence[Pathway], weights: LearnedWeights | SomeWeights
    ) -> BoundPathways:
        scaled: TermWeights = ScaledWeights(weights, float(self.weight))
        if self.metaparameters():
            scaled = LearnedScale(weights, f"{name}_weight")
        distance, module_name = checked_distance(self.distance), f"{name}_term"
        return BoundPathways(pathways, self.transforms, distance, scaled, weights, name, module_name)

    def pruned(self, bound: BoundPathways, raw: Any) -> BoundPathways | None:
        """Return the term without the pathways whose raw factors never exceed the threshold.

        Parameters
        ----------
        bound : BoundPathways
            The term after a search.
        raw : ndarray of shape (n_steps, L)
            Raw factors at all steps of a retraining.

        Returns
        -------
        BoundPathways or None
            None if no pathway is left.
        """
        threshold = checked_threshold(self.pathway_threshold, self.normalization)
        if threshold is None:
            return bound
        kept = [p for p, largest in enumerate(raw.max(axis=0)) if largest > threshold]
        if not kept:
            return None
        learned: Any = bound.weights
        return self._with_weights(bound.name, bound.pathways, SomeWeights(learned.weights, kept))
