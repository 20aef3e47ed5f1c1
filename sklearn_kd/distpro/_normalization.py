"""Normalisations of raw importance factors to the weights of pathways.

The weights α are a function of the raw factors α̃ (Deng et al., Table 7):

    biased_softmax    exp(α̃_p) / (Σ exp(α̃) + exp(g))
    softmax           exp(α̃_p) / Σ exp(α̃)
    biased_l1         α̃_p / (|α̃|₁ + 1)
    l1                α̃_p / |α̃|₁
    sigmoid           1 / (1 + exp(−α̃_p))
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Normalization:
    """Function from raw factors to weights.

    Attributes
    ----------
    has_scale : bool
        Whether a raw factor has a meaning without the others, so that it can be compared with a
        threshold.
    """

    has_scale = True

    def __init__(self, g: float = 1.0):
        self.g = g

    def __call__(self, raw: Tensor) -> Tensor:
        """Return α for raw factors of shape (..., L)."""
        raise NotImplementedError

    def jacobian(self, raw: Tensor) -> Tensor:
        """Return J with J[p, j] = ∂α_p/∂α̃_j, shape (L, L), for raw factors of shape (L,)."""
        raise NotImplementedError


class BiasedSoftmax(Normalization):
    """exp(α̃_p) / (Σ exp(α̃) + exp(g))."""

    def __call__(self, raw: Tensor) -> Any:
        bias = torch.full_like(raw[..., :1], self.g)
        return torch.softmax(torch.cat([raw, bias], dim=-1), dim=-1)[..., :-1]

    def jacobian(self, raw: Tensor) -> Tensor:
        alpha = self(raw)
        return torch.diag(alpha) - torch.outer(alpha, alpha)


class Softmax(BiasedSoftmax):
    """exp(α̃_p) / Σ exp(α̃)."""

    has_scale = False

    def __call__(self, raw: Tensor) -> Any:
        return torch.softmax(raw, dim=-1)


class BiasedL1(Normalization):
    """α̃_p / (|α̃|₁ + 1)."""

    bias = 1.0

    def __call__(self, raw: Tensor) -> Any:
        return raw / (raw.abs().sum(dim=-1, keepdim=True) + self.bias)

    def jacobian(self, raw: Tensor) -> Tensor:
        total = raw.abs().sum() + self.bias
        return torch.eye(len(raw), dtype=raw.dtype, device=raw.device) / total - (
            torch.outer(raw, raw.sign()) / total**2
        )


class L1(BiasedL1):
    """α̃_p / |α̃|₁."""

    has_scale = False
    bias = 0.0


class Sigmoid(Normalization):
    """1 / (1 + exp(−α̃_p))."""

    def __call__(self, raw: Tensor) -> Any:
        return torch.sigmoid(raw)

    def jacobian(self, raw: Tensor) -> Tensor:
        alpha = self(raw)
        return torch.diag(alpha * (1 - alpha))


NORMALIZATIONS: dict[str, type[Normalization]] = {
    "biased_softmax": BiasedSoftmax,
    "softmax": Softmax,
    "biased_l1": BiasedL1,
    "l1": L1,
    "sigmoid": Sigmoid,
}


def checked_threshold(threshold: float | str | None, normalization: str) -> float | None:
    """Return the threshold for raw factors; "auto" is 0.5 with "biased_softmax", else None.

    Raises
    ------
    ValueError
        If the threshold is a number and the raw factors have no scale.
    """
    if threshold == "auto":
        return 0.5 if normalization == "biased_softmax" else None
    if threshold is not None and not NORMALIZATIONS[normalization].has_scale:
        scaled = [name for name, kind in NORMALIZATIONS.items() if kind.has_scale]
        raise ValueError(
            f"pathway_threshold={threshold!r} cannot be used with normalization={normalization!r}, whose raw "
            "factors have no scale: shifting or multiplying all of them does not change the weights. "
            f"Set pathway_threshold=None, or a normalization of {scaled}."
        )
    return None if threshold is None else float(threshold)
