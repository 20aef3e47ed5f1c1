"""Weights of terms of features: metaparameters that are learned, or numbers that stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class TermWeights(Protocol):
    """The weights α of the losses of a term, by the metaparameters of an iteration."""

    def active(self, values: Mapping[str, Any]) -> list[int]:
        """Return the losses that are computed."""

    def alpha(self, values: Mapping[str, Any], like: Tensor) -> Tensor:
        """Return α of the active losses, of the type and on the device of ``like``."""

    def derivatives(self, values: Mapping[str, Any], like: Tensor) -> Tensor:
        """Return ∂α_k/∂a_j as [j, k] by the learned metaparameters, where all losses are active."""


class NamedWeights:
    """One weight for each loss of a term; :class:`TermWeights`.

    Parameters
    ----------
    weights : sequence of str or float
        Names of the metaparameters that are weights, and numbers in place of those that stay.
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
        """Return a row of the identity for each weight that is learned."""
        learned = [k for k, weight in enumerate(self.weights) if isinstance(weight, str)]
        return torch.eye(len(self.weights), dtype=like.dtype, device=like.device)[learned]


class LearnedScale:
    """Weights times a metaparameter, which is behind theirs; :class:`TermWeights`.

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
        """Return the scaled derivatives, and a row by the scale."""
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
