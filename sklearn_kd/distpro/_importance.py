"""The importance of each pathway: raw factors that are learned, or weights that are given."""

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

# Where predictions may lead a raw factor. At 10, beside 26 others at 1 as at the start, the biased
# softmax gives it 0.997 of the weight, and at −10 less than 1e-6: nothing beyond would change the
# training loss, and from there a hypergradient, which has the factor α (1 − α), hardly leads back.
RAW_BOUNDS = (-10.0, 10.0)
# Metaparameters' names: raw factors in a search, weights in a retraining.
IMPORTANCE, PATHWAY_WEIGHTS = "importance", "pathway_weights"


def importance_factors(n_pathways: int, start: float = 1.0) -> dict[str, Metaparameter]:
    """Return the raw factors of L pathways as one metaparameter of shape (L,).

    Steps by the hypergradient lead wherever the optimizer takes them; predictions are projected onto
    ``RAW_BOUNDS``, widened to where a factor is.
    """
    return {
        IMPORTANCE: Metaparameter(start, shape=(n_pathways,), predicted_bounds=RAW_BOUNDS, group=TERM_WEIGHTS)
    }


def importance_steps(lr: float) -> MetaOptimizer:
    """Return how the raw factors take their steps: by Adam with betas (0.5, 0.999)."""
    return MetaOptimizer(torch.optim.Adam, {"lr": lr, "betas": (0.5, 0.999)})


class LearnedWeights:
    """Weights that raw factors are normalised to; a :class:`~sklearn_kd.losses._term_weights.TermWeights`.

    Every pathway is active. One of little weight is computed all the same: it could not come back otherwise.

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
    """Weights of which some are left out, so that their pathways are not computed; the others stay.

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
        """Return their weights, not normalised anew."""
        return self.weights.alpha(values, like)[self.kept]

    def derivatives(self, values: Mapping[str, Any], like: Tensor) -> Tensor:
        """Raise TypeError: nothing is learned where pathways are left out."""
        raise TypeError("weights of which some are left out have no derivatives")


class GivenWeights:
    """Weights that a schedule gives; pathways of weight 0 are not computed."""

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
