"""The loss "dist": correlation of the student's probabilities with the teacher's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sklearn_kd.losses._decoupled import WEIGHT_BOUNDS
from sklearn_kd.losses._distillation_loss import DistillationLoss
from sklearn_kd.losses._logit_distillation import check_temperature, lambda1_and_temperature
from sklearn_kd.losses._logit_terms import finite_logits, label_rows, positive_number
from sklearn_kd.meta._space import Metaparameter

# Added to sums of squares, so that equal probabilities have correlation 0 and finite derivatives.
_SMALLEST_SUM = 1e-10


class CorrelationDistillation(DistillationLoss):
    """lambda1 · CE(labels) + (1 − lambda1) · T² · (beta · inter + gamma · intra): ``loss="dist"``.

    The student learns the relations of a strong teacher's probabilities rather than their values [1]_. The
    probabilities are those at temperature T, and ρ is Pearson's correlation. inter is 1 − ρ over the classes
    of a row. intra is the mean over the classes of 1 − ρ over the rows of a batch: it compares which rows
    belong more to a class than others.

    The metaparameters are lambda1 and the temperature T, as in :class:`LogitDistillation`, and the weights
    beta and gamma, learned in their logarithms, from 0.1 to 20. The paper's loss is CE + 2 · inter + 2 ·
    intra, twice this one at lambda1 = 0.5. The factor T² is that of the authors' code, whose T is 4 on
    CIFAR-100 and 1 on ImageNet.

    Parameters
    ----------
    beta : float, default=2.0
        Initial weight of the correlation over classes.
    gamma : float, default=2.0
        Initial weight of the correlation over rows.
    temperature_bounds : tuple of (float, float), default=(1.0, 10.0)
        Bounds of T.

    Notes
    -----
    The intra-class term is computed over the whole batch:

    - It depends on ``batch_size``, and a batch of one row has none. Use far more than 2 rows.
    - ``sample_weight`` and ``class_weight`` weight the means, variances and covariances: a row of
      weight 2 counts like two rows.
    - Students trained in one batched run each have their own term; no correlation is across students.
    - Unlabeled rows take part in both terms.

    A correlation with equal numbers, as for a class to which the teacher gives the same probability in all
    rows, is 0 with derivatives of 0. With two classes the probabilities of a row have correlation −1 or 1,
    and inter teaches next to nothing. A student whose logits are all equal, as with a head initialised to
    zeros, has large gradients: clip them (``max_grad_norm``).

    Time and memory: two softmaxes and about ten elementwise passes over (B, K), and derivatives by autograd.

    References
    ----------
    .. [1] Huang, You, Wang, Qian, Xu. "Knowledge distillation from a stronger teacher", NeurIPS 2022.

    Examples
    --------
    A student that is less confident than its teacher, but ranks the classes alike, has little to learn:

    >>> import torch
    >>> from sklearn_kd.losses import CorrelationDistillation
    >>> teacher = torch.tensor([[6.0, 1.0, 0.0], [0.0, 6.0, 1.0], [1.0, 0.0, 6.0]])
    >>> at = {"lambda1": 0.0, "temperature": 1.0, "beta": 1.0, "gamma": 1.0}
    >>> loss, labels = CorrelationDistillation().loss, torch.arange(3)
    >>> bool(loss(teacher / 3, teacher, labels, **at).max() < 0.03)
    True
    >>> bool(loss(-teacher, teacher, labels, **at).min() > 2)
    True
    """

    accepts_unlabeled = True
    stackable = True
    takes_row_weight = True

    def __init__(
        self,
        beta: float = 2.0,
        gamma: float = 2.0,
        temperature_bounds: tuple[float, float] = (1.0, 10.0),
    ):
        self.beta = beta
        self.gamma = gamma
        self.temperature_bounds = temperature_bounds

    def check(self) -> None:
        """Raise ValueError unless the bounds of T are an interval above 0."""
        check_temperature(self.temperature_bounds, "hinton")

    def metaparameters(self, n_classes: int) -> dict[str, Metaparameter]:
        """Return lambda1 and temperature, whose initial values the estimator sets, beta and gamma."""
        return lambda1_and_temperature(self.temperature_bounds) | {
            "beta": positive_number("beta", self.beta, WEIGHT_BOUNDS),
            "gamma": positive_number("gamma", self.gamma, WEIGHT_BOUNDS),
        }

    def loss(
        self,
        logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor,
        *,
        lambda1: Any,
        temperature: Any,
        beta: Any,
        gamma: Any,
        row_weight: Tensor | None = None,
    ) -> Tensor:
        """Return the losses of the rows, each including the batch's intra-class term."""
        q = (logits / temperature).softmax(dim=1)
        t = (finite_logits(teacher_logits) / temperature).softmax(dim=1)
        weight = q.new_ones(len(q)) if row_weight is None else row_weight.to(q)
        inter = 1 - correlation(q, t, torch.ones_like(q[:1]), dim=1)
        intra = 1 - correlation(q, t, weight[:, None], dim=0).mean()
        soft = temperature**2 * (beta * inter + gamma * intra)
        return lambda1 * label_rows(logits, labels) + (1 - lambda1) * soft


def correlation(a: Tensor, b: Tensor, weight: Tensor, dim: int) -> Tensor:
    """Return Pearson's correlation along an axis; 0 if a or b does not vary.

    Parameters
    ----------
    a, b : Tensor of shape (B, K)
    weight : Tensor of shape (B, 1) or (1, K)
        Weights of the numbers along the axis.
    dim : int
    """
    total = weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)
    a, b = (own - (weight * own).sum(dim=dim, keepdim=True) / total for own in (a, b))
    norms = ((weight * own.square()).sum(dim=dim) + _SMALLEST_SUM for own in (a, b))
    return (weight * a * b).sum(dim=dim) * torch.rsqrt(torch.stack([*norms]).prod(dim=0))
