"""Losses that treat a row's target class and its other classes separately: "dkd" and "nkd"."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sklearn_kd.losses._distillation_loss import DistillationLoss
from sklearn_kd.losses._logit_distillation import check_temperature, lambda1_and_temperature
from sklearn_kd.losses._logit_terms import (
    divergence_rows,
    finite_logits,
    label_rows,
    positive_number,
    split_off_target,
    target_classes,
)
from sklearn_kd.meta._space import Metaparameter

WEIGHT_BOUNDS = (0.1, 20.0)


class DecoupledDistillation(DistillationLoss):
    """lambda1 · CE(labels) + (1 − lambda1) · T² · (alpha · TCKD + beta · NCKD): ``loss="dkd"``.

    The divergence of the softened probabilities is KD = TCKD + (1 − t) · NCKD (Eq. 6 of [1]_), where t is
    the teacher's probability of the row's label. TCKD is the divergence of (t, 1 − t), and NCKD that of the
    softmax over the other classes. In KD, a teacher that is sure of the label says little about the other
    classes; here NCKD has a weight of its own (Eq. 7).

    The metaparameters are lambda1 and the temperature T, as in :class:`LogitDistillation`, and the weights
    alpha and beta, learned in their logarithms, from 0.1 to 20. The paper's loss is CE + T² · (alpha · TCKD
    + beta · NCKD), which is twice this one at lambda1 = 0.5. A weight w of the paper's second term
    corresponds to lambda1 = 1 / (1 + w) here, and this loss is then 1 / (1 + w) of the paper's. The paper's
    T is 4 on CIFAR-100 and 1 on ImageNet.

    Parameters
    ----------
    alpha : float, default=1.0
        Initial weight of the target class.
    beta : float, default=8.0
        Initial weight of the other classes. The paper chooses it by task, from 0.5 to 10.
    temperature_bounds : tuple of (float, float), default=(1.0, 10.0)
        Bounds of T.

    Notes
    -----
    The target of an unlabeled row is the teacher's most likely class. A class of probability 0 adds
    nothing. If all classes except the target have probability 0, NCKD is 0, as always with two classes. The
    authors' code raises the weight of their term over the first epochs; here the metaparameters determine
    it. lambda1, alpha and beta are three numbers for two ratios of weights. The third degree of freedom is
    the size of the loss, which acts like a learning rate, except with Adam and similar optimizers.

    Time and memory: four passes of logsumexp or softmax over (B, K) more than "kd", and derivatives by
    autograd.

    References
    ----------
    .. [1] Zhao, Cui, Song, Qiu, Liang. "Decoupled knowledge distillation", CVPR 2022.

    Examples
    --------
    The teacher is sure of the label, and so are two students. Only one of them ranks the other classes as
    the teacher does. "kd" hardly distinguishes them:

    >>> import torch
    >>> from sklearn_kd.losses import DecoupledDistillation, LogitDistillation
    >>> teacher = torch.tensor([[9.0, 2.0, 0.0], [9.0, 2.0, 0.0]])
    >>> students = torch.tensor([[9.0, 2.0, 0.0], [9.0, 0.0, 2.0]])
    >>> labels, at = torch.tensor([0, 0]), {"lambda1": 0.0, "temperature": 1.0}
    >>> kd = LogitDistillation().loss(students, teacher, labels, **at)
    >>> dkd = DecoupledDistillation().loss(students, teacher, labels, alpha=1.0, beta=8.0, **at)
    >>> bool(kd[1] - kd[0] < 0.01), bool(dkd[1] - dkd[0] > 10)
    (True, True)
    """

    accepts_unlabeled = True
    stackable = True

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature_bounds: tuple[float, float] = (1.0, 10.0),
    ):
        self.alpha = alpha
        self.beta = beta
        self.temperature_bounds = temperature_bounds

    def check(self) -> None:
        """Raise ValueError unless the bounds of T are an interval above 0."""
        check_temperature(self.temperature_bounds, "hinton")

    def metaparameters(self, n_classes: int) -> dict[str, Metaparameter]:
        """Return lambda1 and temperature, whose initial values the estimator sets, alpha and beta."""
        return lambda1_and_temperature(self.temperature_bounds) | {
            "alpha": positive_number("alpha", self.alpha, WEIGHT_BOUNDS),
            "beta": positive_number("beta", self.beta, WEIGHT_BOUNDS),
        }

    def loss(
        self,
        logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor,
        *,
        lambda1: Any,
        temperature: Any,
        alpha: Any,
        beta: Any,
    ) -> Tensor:
        """Return the losses of the rows."""
        f, target = finite_logits(teacher_logits), target_classes(labels, teacher_logits)
        t, q = (split_off_target(own / temperature, target) for own in (f, logits))
        of_target = divergence_rows(
            torch.stack([t.target, t.others], dim=1), torch.stack([q.target, q.others], dim=1)
        )
        of_others = divergence_rows(t.among_others, q.among_others)
        soft = temperature**2 * (alpha * of_target + beta * of_others)
        return lambda1 * label_rows(logits, labels) + (1 - lambda1) * soft


class NormalizedDistillation(DistillationLoss):
    """lambda1 · CE(labels) + (1 − lambda1) · (t · CE + gamma · T² · CE(others, normalised)): ``loss="nkd"``.

    The student's −log p of the row's label is weighted by t, the probability that the teacher gives the
    label, at temperature 1. The other classes are distilled at T after their probabilities have been divided
    by their sum, in teacher and student [1]_. Otherwise these sums would differ, and no student could match
    all probabilities.

    The metaparameters are lambda1 and the temperature T, as in :class:`LogitDistillation`, and the weight
    gamma, learned in its logarithm, from 0.1 to 20. The paper's loss is that of the labels plus that of the
    teacher, twice this one at lambda1 = 0.5. The authors' code uses gamma = 1.5 and T = 1 for ImageNet, and
    3.5 and 3 for CIFAR-100.

    Parameters
    ----------
    gamma : float, default=1.5
        Initial weight of the other classes.
    temperature_bounds : tuple of (float, float), default=(1.0, 10.0)
        Bounds of T.

    Notes
    -----
    Unlabeled rows, classes of probability 0 and two classes are treated as in
    :class:`DecoupledDistillation`. Time and memory are the same.

    References
    ----------
    .. [1] Yang et al. "From knowledge distillation to self-knowledge distillation: a unified approach with
       normalized loss and customized soft labels", ICCV 2023.

    Examples
    --------
    The teacher doubts the label of the second row, so that this row counts less:

    >>> import torch
    >>> from sklearn_kd.losses import NormalizedDistillation
    >>> teacher = torch.tensor([[4.0, 0.0, 0.0], [-4.0, 0.0, 0.0]])
    >>> student, labels = torch.zeros(2, 3), torch.tensor([0, 0])
    >>> rows = NormalizedDistillation().loss(
    ...     student, teacher, labels, lambda1=0.0, temperature=1.0, gamma=1.5)
    >>> bool(rows[0] > rows[1])
    True
    """

    accepts_unlabeled = True
    stackable = True

    def __init__(self, gamma: float = 1.5, temperature_bounds: tuple[float, float] = (1.0, 10.0)):
        self.gamma = gamma
        self.temperature_bounds = temperature_bounds

    def check(self) -> None:
        """Raise ValueError unless the bounds of T are an interval above 0."""
        check_temperature(self.temperature_bounds, "hinton")

    def metaparameters(self, n_classes: int) -> dict[str, Metaparameter]:
        """Return lambda1 and temperature, whose initial values the estimator sets, and gamma."""
        gamma = positive_number("gamma", self.gamma, WEIGHT_BOUNDS)
        return lambda1_and_temperature(self.temperature_bounds) | {"gamma": gamma}

    def loss(
        self,
        logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor,
        *,
        lambda1: Any,
        temperature: Any,
        gamma: Any,
    ) -> Tensor:
        """Return the losses of the rows."""
        f, target = finite_logits(teacher_logits), target_classes(labels, teacher_logits)
        of_target = -split_off_target(f, target).target.exp() * split_off_target(logits, target).target
        t, q = (split_off_target(own / temperature, target).among_others for own in (f, logits))
        # log q̂ is finite but huge at the target, where t̂ is 0.
        of_others = -(t.exp() * q).sum(dim=1)
        soft = of_target + gamma * temperature**2 * of_others
        return lambda1 * label_rows(logits, labels) + (1 - lambda1) * soft
