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
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# s(T) and its derivative, by name.
TEMPERATURE_SCALINGS = {
    "none": (lambda T: 1.0, lambda T: 0.0),  # the paper
    "hinton": (lambda T: T * T, lambda T: 2 * T),  # Hinton et al. 2015
}


class Targets(NamedTuple):
    """What one batch of student logits is held against.

    Attributes
    ----------
    labels : Tensor of shape (B,), int64
        Class codes.
    teacher_logits : Tensor of shape (B, K) or None
        None: there is no teacher, and the labels are all there is.
    weight : Tensor of shape (B,) or None
        Row weights with mean 1 over the training set. None: all ones.
    """

    labels: Tensor
    teacher_logits: Tensor | None = None
    weight: Tensor | None = None


def _mean_rows(rows: Tensor, weight: Tensor | None) -> Tensor:
    return rows.mean(dim=-1) if weight is None else (weight * rows).mean(dim=-1)


def _share_of_rows(rows: Tensor, weight: Tensor | None) -> Tensor:
    """The derivative of ``_mean_rows`` times ``rows``, along the first axis but one."""
    return rows / rows.shape[-2] if weight is None else rows * (weight[..., None] / rows.shape[-2])


def _minus_onehot(p: Tensor, y: Tensor) -> Tensor:
    return p.scatter_add(-1, y[..., None], p.new_full((*y.shape, 1), -1.0))


def training_loss(
    logits: Tensor, targets: Targets, lambda1, temperature, *, scaling: str
) -> tuple[Tensor, Tensor]:
    """L_train and r = ∂L_train/∂z, shape (B, K), without building a graph.

    Of S students at once where all are stacked: logits of shape (S, B, K), targets likewise,
    metaparameters of shape (S, 1, 1); L_train is then of shape (S,).
    """
    with torch.no_grad():
        z, (y, f, weight) = logits.detach(), targets
        log_p = F.log_softmax(z, dim=-1)
        labels_loss = -log_p.gather(-1, y[..., None])
        A = _minus_onehot(log_p.exp(), y)
        if f is None:
            return _mean_rows(labels_loss[..., 0], weight), _share_of_rows(A, weight)
        T, s = temperature, TEMPERATURE_SCALINGS[scaling][0](temperature)
        log_q, t = F.log_softmax(z / T, dim=-1), F.softmax(f / T, dim=-1)
        teacher_loss = -s * (t * log_q).sum(dim=-1, keepdim=True)
        D = log_q.exp() - t
        loss = lambda1 * labels_loss + (1 - lambda1) * teacher_loss
        r = lambda1 * A + ((1 - lambda1) * s / T) * D
        return _mean_rows(loss[..., 0], weight), _share_of_rows(r, weight)


def metaparameter_derivatives(
    logits: Tensor, targets: Targets, lambda1, temperature, *, scaling: str
) -> Tensor:
    """(∂r/∂lambda1, ∂r/∂T), shape (2, B, K): how the metaparameters bend ∂L_train/∂z."""
    with torch.no_grad():
        z, (y, f, weight) = logits.detach(), targets
        if f is None:  # the loss of the labels alone knows no metaparameters
            return z.new_zeros(2, *z.shape)
        T, (s, ds) = temperature, TEMPERATURE_SCALINGS[scaling]
        s, ds = s(T), ds(T)
        A = _minus_onehot(F.softmax(z, dim=1), y)
        q, t = F.softmax(z / T, dim=1), F.softmax(f / T, dim=1)
        D = q - t
        E = q * (z - (q * z).sum(dim=1, keepdim=True)) - t * (f - (t * f).sum(dim=1, keepdim=True))
        r1 = A - (s / T) * D
        r2 = (1 - lambda1) * ((ds / T - s / T**2) * D - (s / T**3) * E)
        return _share_of_rows(torch.stack([r1, r2]), weight)


def validation_loss(logits: Tensor, targets: Targets, val_temperature=1.0) -> Tensor:
    """L_val = CE(σ(z/T_val), y), differentiable in the logits; the teacher plays no part."""
    rows = F.cross_entropy(logits / val_temperature, targets.labels, reduction="none")
    return _mean_rows(rows, targets.weight)
