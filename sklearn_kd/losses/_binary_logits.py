"""The training loss for several labels, and its closed-form derivatives.

Student logits z, teacher logits f, labels y of 0 and 1, all of shape (B, k); metaparameters lambda1 and T,
each one number or one for each label. With the sigmoid σ, p = σ(z), q = σ(z/T), t = σ(f/T):

    L_train = mean over rows and labels of  lambda1 · BCE(p, y) + (1 − lambda1) · s(T) · KL(t ‖ q)
    BCE(p, y) = −y log p − (1 − y) log(1 − p)
    KL(t ‖ q) = t log(t/q) + (1 − t) log((1 − t)/(1 − q))

    A = p − y        D = q − t        E = q (1 − q) z − t (1 − t) f

    r  = ∂L_train/∂z  = [lambda1 · A + (1 − lambda1) · s/T · D] / (B k)
    r1 = ∂r/∂lambda1  = [A − s/T · D] / (B k)
    r2 = ∂r/∂T        = (1 − lambda1) · [(s'/T − s/T²) · D − s/T³ · E] / (B k)

These are the equations of ``_logits`` with a sigmoid in place of the softmax. A metaparameter of one label
changes only the column of its label. Row weights multiply each row, and ``label_weight`` multiplies BCE and
A of each row.

A teacher's logit of −inf means a probability of 0: t and t (1 − t) f are 0 there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sklearn_kd.losses._logits import TEMPERATURE_SCALINGS
from sklearn_kd.tasks._binary_cross_entropy import label_losses
from sklearn_kd.tasks._targets import Targets, mean_rows, share_of_rows


def bernoulli_divergence(f: Tensor, z: Tensor) -> Tensor:
    """Return KL(σ(f) ‖ σ(z)) of each number; 0 · log 0 is 0."""
    t = f.sigmoid()
    f = finite(f)
    return t * (logsigmoid(f) - logsigmoid(z)) + (1 - t) * (logsigmoid(-f) - logsigmoid(-z))


def finite(f: Tensor) -> Tensor:
    """Replace infinite logits by finite numbers, whose products with 0 are 0."""
    largest = torch.finfo(f.dtype).max
    return f.clamp(min=-largest, max=largest)


class BinaryTrainingLoss:
    """L_train of one batch and its derivatives, without building a graph; an :class:`Evaluation`.

    For S stacked students at once, logits have shape (S, B, k), targets likewise, and metaparameters shape
    (S, 1, 1).

    Parameters
    ----------
    logits : Tensor of shape (B, k)
    targets : Targets
        Without a teacher's logits the loss is that of the labels alone.
    values : mapping of str to float or Tensor of shape () or (k,)
        lambda1 and temperature, in this order; anything for the loss of the labels alone.
    scaling : {"hinton", "none"}
        s(T).

    Attributes
    ----------
    value : Tensor of shape (), or (S,)
    gradients : list of one Tensor of shape (B, k), or (S, B, k)
        ∂L_train/∂z.
    """

    def __init__(
        self, logits: Tensor, targets: Targets, values: Mapping[str, Any], *, scaling: str = "none"
    ) -> None:
        z, (y, f, weight, label_weight) = logits.detach(), targets
        if label_weight is not None:
            y = y.clamp(min=0)  # any label will do, since the label term of an unlabeled row has weight 0
        self._z, self._f, self._weight, self._values = z, f, weight, values
        losses, self._A = label_losses(z, y)
        if label_weight is not None:
            losses, self._A = label_weight[..., None] * losses, label_weight[..., None] * self._A
        r = self._A
        if f is not None:
            lambda1, T = values["lambda1"], values["temperature"]
            self._scale, self._slope = (function(T) for function in TEMPERATURE_SCALINGS[scaling])
            self._q, self._t = (z / T).sigmoid(), (f / T).sigmoid()
            self._D = self._q - self._t
            soft = bernoulli_divergence(f / T, z / T)
            losses = lambda1 * losses + ((1 - lambda1) * self._scale) * soft
            r = lambda1 * self._A + ((1 - lambda1) * self._scale / T) * self._D
        self.value = mean_rows(losses.mean(dim=-1, keepdim=True), weight)
        self.gradients = [self._shared(r)]

    def _shared(self, rows: Tensor) -> Tensor:
        """Return ``rows`` times the derivative of the mean over rows and labels, in the shape of ``rows``."""
        return share_of_rows(rows / rows.shape[-1], self._weight)

    def _by_number(self) -> list[Tensor]:
        """Return ∂r/∂lambda1 and ∂r/∂T, each of r's shape, for the metaparameter of each column's label."""
        lambda1, T = self._values["lambda1"], self._values["temperature"]
        z, q, t, D, s = self._z, self._q, self._t, self._D, self._scale
        E = q * (1 - q) * z - t * (1 - t) * finite(self._f)  # type: ignore[arg-type]
        r1 = self._A - (s / T) * D
        r2 = ((1 - lambda1) * (self._slope / T - s / T**2)) * D - ((1 - lambda1) * s / T**3) * E
        return [self._shared(r1), self._shared(r2)]

    def contract(self, u: Tensor) -> Tensor:
        """Return ⟨∂r/∂a_j, u⟩ of each component, shape (m,), or (m, S) for S students at once."""
        if self._f is None:
            return u.new_zeros(self._n_components)
        parts = [
            _sums(of_one * u, value)
            for of_one, value in zip(self._by_number(), self._values.values(), strict=True)
        ]
        return torch.cat(parts)

    def derivatives(self) -> Tensor:
        """Return ∂r/∂a_j of each component, shape (m, B, k), or (m, S, B, k)."""
        if self._f is None:
            return self._z.new_zeros(self._n_components, *self._z.shape)
        parts = [
            _spread(of_one, value)
            for of_one, value in zip(self._by_number(), self._values.values(), strict=True)
        ]
        return torch.cat(parts)

    @property
    def _n_components(self) -> int:
        return sum(torch.as_tensor(value).numel() for value in self._values.values())


def _is_by_label(value: Any) -> bool:
    """Return True if a metaparameter has one number per label; those of stacked students have 3 axes."""
    return isinstance(value, Tensor) and value.ndim == 1


def _sums(products: Tensor, value: Any) -> Tensor:
    """Sum the products for each component of a metaparameter."""
    return products.sum(dim=-2) if _is_by_label(value) else products.sum(dim=(-2, -1))[None]


def _spread(of_one: Tensor, value: Any) -> Tensor:
    """Return a derivative for each component of a metaparameter, 0 in the columns of other labels."""
    if not _is_by_label(value):
        return of_one[None]
    n_labels = of_one.shape[-1]
    return of_one * torch.eye(n_labels, dtype=of_one.dtype, device=of_one.device)[:, None, :]
