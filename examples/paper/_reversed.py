"""Train with the divergence of the paper's published code: KL(student ‖ teacher), the reverse of the text's.

    L_train = lambda1 · CE(σ(z), y) + (1 − lambda1) · KL(q ‖ t),   q = σ(z/T),   t = σ(f/T)

With a = log q − log t, ∂KL/∂z = R = q ⊙ (a − ⟨q, a⟩)/T. The library has only the text's loss. To
train with the code's loss, the class below replaces ``TrainingLoss``. (lambda1 weighs the
labels, as in the text; in the code it weighs the teacher.)
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from unittest import mock

import torch
import torch.nn.functional as F


class ReversedLoss:
    """Replacement of ``TrainingLoss`` with the reversed divergence, for s(T) = 1 and rows of equal weight."""

    @torch.no_grad()
    def __init__(self, logits, targets, lambda1, temperature, *, scaling):
        z, (y, f, *_) = logits.detach(), targets
        self._z, self._f, self._knobs = z, f, (lambda1, temperature)
        log_p = F.log_softmax(z, dim=1)
        self._A = log_p.exp() - F.one_hot(y, z.shape[1])
        KL, self._R = self._soft(torch.as_tensor(temperature))
        labels = F.nll_loss(log_p, y)
        self.value = lambda1 * labels + (1 - lambda1) * KL
        self.r = (lambda1 * self._A + (1 - lambda1) * self._R) / len(z)

    def _soft(self, T):
        """Return (KL(q ‖ t), R)."""
        log_q, log_t = F.log_softmax(self._z / T, dim=1), F.log_softmax(self._f / T, dim=1)
        q, a = log_q.exp(), log_q - log_t
        rows = (q * a).sum(dim=1, keepdim=True)
        return rows.mean(), q * (a - rows) / T

    @torch.no_grad()
    def metaparameter_derivatives(self):
        """Return (∂r/∂lambda1, ∂r/∂T), shape (2, B, K)."""
        lambda1, T = self._knobs
        T = torch.as_tensor(T, dtype=self._z.dtype)
        _, dR = torch.func.jvp(lambda T: self._soft(T)[1], (T,), (torch.ones_like(T),))
        return torch.stack([self._A - self._R, (1 - lambda1) * dR]) / len(self._z)


def reversed_divergence() -> AbstractContextManager:
    """Use the code's loss for trainings inside the context."""
    return mock.patch("sklearn_kd.losses._logit_distillation.TrainingLoss", ReversedLoss)
