"""Weights of feature terms: learned metaparameters or fixed numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class TermWeights(Protocol):
    """The weights α of a term's losses, as functions of an iteration's metaparameters."""

    def active(self, values: Mapping[str, Any]) -> list[int]:
        """Return the losses that are computed."""

    def alpha(self, values: Mapping[str, Any], like: Tensor) -> Tensor:
        """Return α of the active losses, with the dtype and device of ``like``."""

    def derivatives(self, values: Mapping[str, Any], like: Tensor) -> Tensor:
        """Return ∂α_k/∂a_j at [j, k] for the learned metaparameters a_j, with all losses active."""


class NamedWeights:
    """One weight for each loss of a term; :class:`TermWeights`.

    Parameters
    ----------
    weights : sequence of str or float
        Name of the metaparameter for each learned weight, and a number for each fixed one.
    """

    def __init__(self, weights: Sequence[str | float]):
        self.weights = list(weights)

    def active(self, values: Mapping[str, Any]) -> list[int]:
        """Return all losses."""
        return list(range(len(self.weights)))

    def alpha(self, values: Mapping[str, Any], like: Tensor) -> Tensor:
        """Return the weights."""
        found = [values[weight] if isinstance(weight, str) else weight for weight in self.weights]
        return torch.stack([torch.as_tensor(weight, device=like.device).to(like) for weight in found])

    def derivatives(self, values: Mapping[str, Any], like: Tensor) -> Tensor:
        """Return a row of the identity for each learned weight."""
        learned = [k for k, weight in enumerate(self.weights) if isinstance(weight, str)]
        return torch.eye(len(self.weights), dtype=like.dtype, device=like.device)[learned]


class LearnedScale:
    """Weights times a metaparameter, which comes after those of the weights; :class:`TermWeights`.

    Parameters
    ----------
    weights : TermWeights
    name : str
        Name of the metaparameter.
    """

    def __init__(self, weights: TermWeights, name: str):
        self.weights, self.name = weights, name

    def active(self, values: Mapping[str, Any]) -> list[int]:
        """Return the losses that are computed."""
        return self.weights.active(values)

    def alpha(self, values: Mapping[str, Any], like: Tensor) -> Tensor:
        """Return the scaled weights."""
        return self._scale(values, like) * self.weights.alpha(values, like)

    def derivatives(self, values: Mapping[str, Any], like: Tensor) -> Tensor:
        """Return the scaled derivatives, and a row of derivatives with respect to the scale."""
        of_weights = self._scale(values, like) * self.weights.derivatives(values, like)
        return torch.cat([of_weights, self.weights.alpha(values, like)[None]])

    def _scale(self, values: Mapping[str, Any], like: Tensor) -> Tensor:
        return torch.as_tensor(values[self.name], device=like.device).to(like)


class ScaledWeights:
    """Weights times a constant; :class:`TermWeights`.

    Parameters
    ----------
    weights : TermWeights
    factor : float
    """

    def __init__(self, weights: TermWeights, factor: float):
        self.weights, self.factor = weights, factor

    def active(self, values: Mapping[str, Any]) -> list[int]:
        """Return the losses that are computed."""
        return self.weights.active(values)

    def alpha(self, values: Mapping[str, Any], like: Tensor) -> Tensor:
        """Return the scaled weights."""
        return self.factor * self.weights.alpha(values, like)

    def derivatives(self, values: Mapping[str, Any], like: Tensor) -> Tensor:
        """Return the scaled derivatives."""
        return self.factor * self.weights.derivatives(values, like)
