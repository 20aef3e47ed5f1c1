"""Importance of each pathway: learned raw factors, or given weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.distpro._normalization import Normalization
from sklearn_kd.losses._feature_term import TERM_WEIGHTS
from sklearn_kd.meta._path import MetaOptimizer
from sklearn_kd.meta._space import Metaparameter

# Bounds of a predicted raw factor. With 26 others at their start, 1, the biased softmax gives a factor
# of 10 a weight of 0.997, and a factor of −10 less than 1e-6. A value beyond the bounds would not change
# the training loss, and the hypergradient, proportional to α (1 − α), would hardly bring it back.
RAW_BOUNDS = (-10.0, 10.0)
# Names of metaparameters: raw factors in a search, weights in a retraining.
IMPORTANCE, PATHWAY_WEIGHTS = "importance", "pathway_weights"


def importance_factors(n_pathways: int, start: float = 1.0) -> dict[str, Metaparameter]:
    """Return the raw factors of L pathways as one metaparameter of shape (L,).

    Steps along the hypergradient have no bounds. Predictions are projected onto ``RAW_BOUNDS``, widened
    if a factor already lies outside.
    """
    return {
        IMPORTANCE: Metaparameter(start, shape=(n_pathways,), predicted_bounds=RAW_BOUNDS, group=TERM_WEIGHTS)
    }


def importance_steps(lr: float) -> MetaOptimizer:
    """Return the optimizer of the raw factors: Adam with betas (0.5, 0.999)."""
    return MetaOptimizer(torch.optim.Adam, {"lr": lr, "betas": (0.5, 0.999)})


class LearnedWeights:
    """Normalised raw factors as weights; a :class:`~sklearn_kd.losses._term_weights.TermWeights`.

    Every pathway is active. One with a small weight is computed too: otherwise its weight could not grow.

    Parameters
    ----------
    normalization : Normalization
    name : str, default="importance"
        Name of the metaparameter.
    """

    def __init__(self, normalization: Normalization, name: str = IMPORTANCE):
        self.normalization, self.name = normalization, name

    def active(self, values: Mapping[str, Any]) -> list[int]:
        """Return all pathways."""
        return list(range(len(values[self.name])))

    def alpha(self, values: Mapping[str, Any], like: Tensor) -> Tensor:
        """Return the normalised factors."""
        return self.normalization(values[self.name]).to(like)

    def derivatives(self, values: Mapping[str, Any], like: Tensor) -> Tensor:
        """Return the transposed Jacobian of the normalisation."""
        return self.normalization.jacobian(values[self.name]).T.to(like)


class SomeWeights:
    """Weights of some pathways only. The others are not computed; the weights are not renormalised.

    Parameters
    ----------
    weights : LearnedWeights
    kept : sequence of int
        The pathways that are computed.
    """

    def __init__(self, weights: LearnedWeights, kept: Sequence[int]):
        self.weights, self.kept = weights, list(kept)

    def active(self, values: Mapping[str, Any]) -> list[int]:
        """Return the pathways that are computed."""
        return self.kept

    def alpha(self, values: Mapping[str, Any], like: Tensor) -> Tensor:
        """Return the weights of the computed pathways, not renormalised."""
        return self.weights.alpha(values, like)[self.kept]

    def derivatives(self, values: Mapping[str, Any], like: Tensor) -> Tensor:
        """Raise TypeError: these weights are not learned."""
        raise TypeError("weights of some pathways only have no derivatives")


class GivenWeights:
    """Weights from a schedule. Pathways with weight 0 are not computed."""

    def active(self, values: Mapping[str, Any]) -> list[int]:
        """Return the pathways whose weight is not 0."""
        return np.flatnonzero(values[PATHWAY_WEIGHTS]).tolist()

    def alpha(self, values: Mapping[str, Any], like: Tensor) -> Tensor:
        """Return the weights that are not 0."""
        row = values[PATHWAY_WEIGHTS]
        return torch.as_tensor(row[row != 0], device=like.device).to(like)

    def derivatives(self, values: Mapping[str, Any], like: Tensor) -> Tensor:
        """Raise TypeError: given weights are not learned."""
        raise TypeError("given weights have no derivatives")
