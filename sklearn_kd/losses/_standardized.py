"""The loss "standardized_kd": softmax of z-scores of logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sklearn_kd.losses._distillation_loss import DistillationLoss
from sklearn_kd.losses._logit_distillation import check_temperature, lambda1_and_temperature
from sklearn_kd.losses._logit_terms import divergence_rows, finite_logits, is_possible, label_rows
from sklearn_kd.meta._space import Metaparameter

# Added to variances, so that equal logits have z-scores of 0 and finite derivatives.
_SMALLEST_VARIANCE = 1e-8


class StandardizedDistillation(DistillationLoss):
    """lambda1 · CE(labels) + (1 − lambda1) · T² · KL of z-scores: ``loss="standardized_kd"``.

    The teacher's and the student's logits of each row are standardised over the classes to mean 0 and
    standard deviation 1, before they are divided by T and softened [1]_. The temperature of a row is
    therefore T times the standard deviation of its logits, and the student's logits need not be as large as
    its teacher's.

    The metaparameters are lambda1 and the temperature T, as in :class:`LogitDistillation`. The authors' loss
    on CIFAR-100 is 0.1 · CE + 9 · T² · KL with T = 2: 9.1 times this one at lambda1 = 0.1 / 9.1 = 0.011.

    Parameters
    ----------
    temperature_bounds : tuple of (float, float), default=(1.0, 10.0)
        Bounds of T. T divides z-scores, so that even T = 1 is soft: no z-score of K classes exceeds √(K −
        1).

    Notes
    -----
    The standard deviation is the paper's, with 1/K. The authors' code uses 1/(K − 1); T here is theirs times
    √(K / (K − 1)). Classes of probability 0 are left out of the teacher's and the student's mean and
    standard deviation. Unlabeled rows are distilled like the others. A student whose logits are all equal,
    as with a head initialised to zeros, has large gradients: clip them (``max_grad_norm``).

    Two classes are refused, because the z-scores of two logits are always −1 and 1.

    Time and memory: two means and two variances over (B, K) more than "kd", and derivatives by autograd.

    References
    ----------
    .. [1] Sun, Ren, Li, Wang, Cao. "Logit standardization in knowledge distillation", CVPR 2024.

    Examples
    --------
    Scaling logits or adding a constant to them does not change the loss:

    >>> import torch
    >>> from sklearn_kd.losses import StandardizedDistillation
    >>> teacher = torch.tensor([[6.0, 1.0, -1.0]])
    >>> at = {"lambda1": 0.0, "temperature": 1.0}
    >>> loss = StandardizedDistillation().loss(teacher / 5 + 3, teacher, torch.tensor([0]), **at)
    >>> bool(loss.abs() < 1e-6)
    True
    """

    accepts_unlabeled = True
    stackable = True

    def __init__(self, temperature_bounds: tuple[float, float] = (1.0, 10.0)):
        self.temperature_bounds = temperature_bounds

    def check(self) -> None:
        """Raise ValueError unless the bounds of T are an interval above 0."""
        check_temperature(self.temperature_bounds, "hinton")

    def metaparameters(self, n_classes: int) -> dict[str, Metaparameter]:
        """Return lambda1 and temperature, whose initial values the estimator sets.

        Raises
        ------
        ValueError
            If there are two classes.
        """
        if n_classes < 3:
            raise ValueError(
                f"loss={type(self).__name__} standardises the logits of each row, and those of {n_classes} "
                "classes are then −1 and 1, whatever the teacher says. Give loss='kd'."
            )
        return lambda1_and_temperature(self.temperature_bounds)

    def loss(
        self, logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, lambda1: Any, temperature: Any
    ) -> Tensor:
        """Return the losses of the rows."""
        f, possible = finite_logits(teacher_logits), is_possible(teacher_logits)
        # A single logit has no standard deviation; use that of all the student's logits.
        counted = possible | (possible.sum(dim=1, keepdim=True) < 2)
        log_t = (_z_scores(f, possible) / temperature).log_softmax(dim=1)
        log_q = (_z_scores(logits, counted) / temperature).log_softmax(dim=1)
        soft = temperature**2 * divergence_rows(log_t, log_q)
        return lambda1 * label_rows(logits, labels) + (1 - lambda1) * soft


def _z_scores(logits: Tensor, counted: Tensor) -> Tensor:
    """Standardise each row by the mean and standard deviation of its counted logits.

    Parameters
    ----------
    logits, counted : Tensor of shape (B, K)
    """
    n_counted = counted.sum(dim=1, keepdim=True)
    mean = torch.where(counted, logits, 0.0).sum(dim=1, keepdim=True) / n_counted
    centred = torch.where(counted, logits - mean, 0.0)
    variance = centred.square().sum(dim=1, keepdim=True) / n_counted
    return (logits - mean) * torch.rsqrt(variance + _SMALLEST_VARIANCE)
