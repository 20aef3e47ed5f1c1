"""The training and the validation loss, and their closed-form derivatives.

Student logits z, teacher logits f, labels y, metaparameters (lambda1, T):

    L_train = lambda1 · CE(σ(z), y) + (1 − lambda1) · s(T) · CE(σ(f/T), σ(z/T))
    L_val   = CE(σ(z/T_val), y)

With p = σ(z), q = σ(z/T), t = σ(f/T) and B rows in the batch:

    A = p − onehot(y)        D = q − t        E = q⊙(z − ⟨q, z⟩) − t⊙(f − ⟨t, f⟩)

    r  = ∂L_train/∂z    = [lambda1 · A + (1 − lambda1) · s/T · D] / B
    r1 = ∂r/∂lambda1    = [A − s/T · D] / B
    r2 = ∂r/∂T          = (1 − lambda1) · [(s'/T − s/T²) · D − s/T³ · E] / B

For s = 1 the last line is the paper's (lambda1 − 1)/(TB) · [D/T + E/T²], and for
s = T² it is (1 − lambda1) · [D − E/T] / B. Row weights multiply each row.

If some rows have no label, CE(σ(z), y) and A of each row are multiplied by its ``label_weight``: the label
term is then the mean over the labeled rows, and the soft term stays the mean over all rows.

A teacher's logit of −inf means a probability of 0, as for a masked class: t and t⊙f are 0 there, as in the
limit f → −inf.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sklearn_kd.tasks._cross_entropy import hard_rows, labels_rows
from sklearn_kd.tasks._targets import Targets, mean_rows, share_of_rows

# s(T) and its derivative, by name.
TEMPERATURE_SCALINGS = {
    "none": (lambda T: 1.0, lambda T: 0.0),  # the paper
    "hinton": (lambda T: T * T, lambda T: 2 * T),  # Hinton et al. 2015
}


class TrainingLoss:
    """L_train of one batch and its derivatives, without building a graph.

    For S stacked students at once, logits have shape (S, B, K), targets likewise, and metaparameters shape
    (S, 1, 1).

    Parameters
    ----------
    logits : Tensor of shape (B, K)
    targets : Targets
    lambda1, temperature : float or Tensor
    scaling : {"hinton", "none"}
        s(T).

    Attributes
    ----------
    value : Tensor of shape (), or (S,)
    r : Tensor of shape (B, K), or (S, B, K)
        ∂L_train/∂z.
    """

    def __init__(
        self, logits: Tensor, targets: Targets, lambda1: Any, temperature: Any, *, scaling: str
    ) -> None:
        # Nothing here has a gradient, so no_grad would only cost time.
        z, (y, f, weight, label_weight) = logits.detach(), targets
        if label_weight is not None:
            y = y.clamp(min=0)  # any class will do, since the label term of an unlabeled row has weight 0
        self._z, self._f, self._weight, self._scaling = z, f, weight, scaling
        self._metaparameters = lambda1, temperature
        if f is None:
            log_p_y, self._A = _weighted(labels_rows(z, y), label_weight)
            rows, r = -log_p_y, self._A
        else:
            T, s = temperature, TEMPERATURE_SCALINGS[scaling][0](temperature)
            at_one = isinstance(T, float) and T == 1.0  # no division, and one softmax less
            log_p = z.log_softmax(dim=-1)
            log_q = log_p if at_one else (z / T).log_softmax(dim=-1)
            self._q, self._t = log_q.exp(), (f if at_one else f / T).softmax(dim=-1)
            hard = hard_rows(log_p, self._q.clone() if at_one else log_p.exp(), y)
            log_p_y, self._A = _weighted(hard, label_weight)
            self._D = self._q - self._t
            soft = (self._t * log_q).sum(dim=-1, keepdim=True)
            rows = -lambda1 * log_p_y - ((1 - lambda1) * s) * soft
            r = lambda1 * self._A + ((1 - lambda1) * s / T) * self._D
        self.value, self.r = mean_rows(rows, weight), share_of_rows(r, weight)

    def metaparameter_derivatives(self) -> Tensor:
        """Return ∂r/∂lambda1 and ∂r/∂T, shape (2, B, K)."""
        z, f = self._z, self._f
        if f is None:  # the loss of the labels alone has no metaparameters
            return z.new_zeros(2, *z.shape)
        (lambda1, T), (s, ds) = self._metaparameters, TEMPERATURE_SCALINGS[self._scaling]
        s, ds = s(T), ds(T)
        q, t, D = self._q, self._t, self._D
        f = f.clamp(min=torch.finfo(f.dtype).min)  # t is 0 where f is −inf, and 0 · −inf is NaN
        E = q * (z - (q * z).sum(dim=-1, keepdim=True)) - t * (f - (t * f).sum(dim=-1, keepdim=True))
        r1 = self._A - (s / T) * D
        r2 = ((1 - lambda1) * (ds / T - s / T**2)) * D - ((1 - lambda1) * s / T**3) * E
        return share_of_rows(torch.stack([r1, r2]), self._weight)


def _weighted(hard: tuple[Tensor, Tensor], label_weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return each row's label term and its gradient, multiplied by the weights if there are any."""
    if label_weight is None:
        return hard
    log_p_y, A = hard
    return label_weight[..., None] * log_p_y, label_weight[..., None] * A
