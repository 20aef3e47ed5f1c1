"""The loss "kd": cross-entropy of the labels and of the teacher's softened probabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor

from sklearn_kd.losses._distillation_loss import DistillationLoss, Evaluation
from sklearn_kd.losses._logit_terms import finite_logits, label_rows, soft_rows
from sklearn_kd.losses._logits import TEMPERATURE_SCALINGS, TrainingLoss
from sklearn_kd.meta._space import Metaparameter
from sklearn_kd.tasks._targets import Targets

LAMBDA1_BOUNDS = (0.0, 1.0)


def check_temperature(bounds: Any, scaling: Any) -> None:
    """Raise ValueError unless the bounds of T are an interval above 0 and the scaling s(T) is known."""
    valid = isinstance(bounds, tuple | list) and len(bounds) == 2
    valid = valid and all(isinstance(b, Real) for b in bounds)
    if not valid or not 0 < bounds[0] <= bounds[1] < math.inf:
        raise ValueError(f"temperature_bounds={bounds!r} must be two numbers, 0 < low <= high.")
    if scaling not in TEMPERATURE_SCALINGS:
        raise ValueError(f"temperature_scaling={scaling!r} is not one of {sorted(TEMPERATURE_SCALINGS)}.")


def lambda1_and_temperature(temperature_bounds: tuple[float, float]) -> dict[str, Metaparameter]:
    """Return both metaparameters; the estimator sets their initial values."""
    return {
        "lambda1": Metaparameter(bounds=LAMBDA1_BOUNDS),
        "temperature": Metaparameter(bounds=temperature_bounds, coordinate="log"),
    }


class LogitDistillation(DistillationLoss):
    """lambda1 · CE(labels) + (1 − lambda1) · s(T) · CE(teacher at T, student at T).

    The metaparameters are lambda1, in [0, 1], and the temperature T, learned in its logarithm. Their initial
    values are those of ``DistilledClassifier(lambda1=..., temperature=...)``, and their derivatives are
    closed forms.

    Parameters
    ----------
    temperature_bounds : tuple of (float, float), default=(1.0, 10.0)
        Bounds of T. The paper's are (0.1, 10), whose lower end is unstable without
        ``temperature_scaling="hinton"``.
    temperature_scaling : {"hinton", "none"}, default="hinton"
        s(T): T², which keeps the size of the soft gradients as T grows [1]_, or 1, as in [2]_.

    References
    ----------
    .. [1] Hinton, Vinyals, Dean. "Distilling the knowledge in a neural network", 2015.
    .. [2] Gorpinich, Bakhteev, Strijov. "Metaparameter optimization in knowledge distillation", Eq. 2.

    Examples
    --------
    >>> from sklearn_kd.losses import LogitDistillation
    >>> space = LogitDistillation(temperature_bounds=(1, 20)).metaparameters(n_classes=3)
    >>> space["temperature"].bounds, space["temperature"].coordinate
    ((1, 20), 'log')
    """

    accepts_unlabeled = True

    def __init__(
        self,
        temperature_bounds: tuple[float, float] = (1.0, 10.0),
        temperature_scaling: Literal["hinton", "none"] = "hinton",
    ):
        self.temperature_bounds = temperature_bounds
        self.temperature_scaling = temperature_scaling

    def check(self) -> None:
        """Raise ValueError unless the bounds are an interval above 0 and the scaling is known."""
        check_temperature(self.temperature_bounds, self.temperature_scaling)

    def metaparameters(self, n_classes: int) -> dict[str, Metaparameter]:
        """Return lambda1 and temperature; the estimator sets their initial values."""
        return lambda1_and_temperature(self.temperature_bounds)

    def loss(
        self,
        logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor,
        *,
        lambda1: Any,
        temperature: Any,
    ) -> Tensor:
        """Return the losses of the rows, whose derivatives :meth:`evaluate` has in closed form."""
        scale = TEMPERATURE_SCALINGS[self.temperature_scaling][0](temperature)
        log_q = torch.log_softmax(logits / temperature, dim=1)
        soft = soft_rows(torch.softmax(finite_logits(teacher_logits) / temperature, dim=1), log_q)
        return lambda1 * label_rows(logits, labels) + (1 - lambda1) * scale * soft

    def evaluate(
        self, logits: Tensor, targets: Targets, values: Mapping[str, Any], *, differentiable: bool = True
    ) -> Evaluation:
        """Return the loss of a batch with closed-form derivatives; a subclass's other loss uses autograd."""
        if _is_changed(type(self)):
            return super().evaluate(logits, targets, values, differentiable=differentiable)
        loss = TrainingLoss(
            logits, targets, values["lambda1"], values["temperature"], scaling=self.temperature_scaling
        )
        return ClosedFormEvaluation(loss)


def _is_changed(kind: type[LogitDistillation]) -> bool:
    """Return True if a subclass has another loss or other metaparameters than the closed form."""
    own = LogitDistillation
    return kind.loss is not own.loss or kind.metaparameters is not own.metaparameters


class ClosedFormEvaluation:
    """The :class:`Evaluation` of a :class:`TrainingLoss`; the metaparameters are (lambda1, T).

    Parameters
    ----------
    loss : TrainingLoss
    """

    def __init__(self, loss: TrainingLoss):
        self._loss = loss
        self.value, self.gradients = loss.value, [loss.r]

    def contract(self, u: Tensor) -> Tensor:
        """Return ⟨∂r/∂lambda1, u⟩ and ⟨∂r/∂T, u⟩, shape (2,), or (2, S) for S students at once."""
        return (self._loss.metaparameter_derivatives() * u).sum(dim=(-2, -1))

    def derivatives(self) -> Tensor:
        """Return ∂r/∂lambda1 and ∂r/∂T, shape (2, B, K), or (2, S, B, K)."""
        return self._loss.metaparameter_derivatives()


class LabelEvaluation:
    """The :class:`Evaluation` of the labels' cross-entropy alone, which depends on no metaparameter.

    Parameters
    ----------
    logits : Tensor of shape (B, K)
    targets : Targets
    values : mapping of str to float or Tensor
        The metaparameters, with m components.
    """

    def __init__(self, logits: Tensor, targets: Targets, values: Mapping[str, Any]):
        of_labels = targets._replace(teacher_logits=None)
        loss = TrainingLoss(logits, of_labels, 1.0, 1.0, scaling="none")
        self.value, self.gradients = loss.value, [loss.r]
        self._values = values

    def contract(self, u: Tensor) -> Tensor:
        """Return zeros, shape (m,)."""
        return u.new_zeros(sum(torch.as_tensor(value).numel() for value in self._values.values()))

    def derivatives(self) -> Tensor:
        """Return zeros, shape (m, B, K)."""
        (r,) = self.gradients
        return r.new_zeros(len(self.contract(r)), *r.shape)
