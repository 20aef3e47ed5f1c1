"""The loss "mkd": one temperature for the teacher and another for the student."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sklearn_kd.losses._distillation_loss import DistillationLoss
from sklearn_kd.losses._logit_distillation import LAMBDA1_BOUNDS, check_temperature
from sklearn_kd.losses._logit_terms import finite_logits, label_rows, positive_number, soft_rows
from sklearn_kd.meta._space import Metaparameter


class TwoTemperatureDistillation(DistillationLoss):
    """lambda1 · CE(labels) + (1 − lambda1) · S · T · CE(teacher at T, student at S): ``loss="mkd"``.

    A teacher and a student of different sizes have logits of different sizes. Meta knowledge distillation
    [1]_ gives each its own temperature, and learns both from held-out data. With S = T it is "kd".

    The metaparameters are lambda1, in [0, 1], whose initial value is that of
    ``DistilledClassifier(lambda1=...)``, and ``student_temperature`` S and ``teacher_temperature`` T,
    learned in their logarithms.

    Parameters
    ----------
    student_temperature, teacher_temperature : float, default=1.0
        Initial values of S and T.
    temperature_bounds : tuple of (float, float), default=(1.0, 10.0)
        Bounds of S and T.

    Notes
    -----
    The factor S · T, which this library adds, keeps the size of the gradients as the temperatures grow, as
    T² does in "kd". The default ``meta="shortlist"`` tries values of lambda1 and leaves the temperatures at
    their initial values: give it candidates, or learn them with ``meta="linear"`` or ``"forward"``. If the
    student follows its teacher, a larger T makes it less confident, and a larger S more confident.

    A class to which the teacher gives probability 0 keeps it. Unlabeled rows are distilled like the others.
    Time and memory are those of "kd", but derivatives are computed by autograd.

    References
    ----------
    .. [1] Liu, Liu, Li, Liu. "Meta knowledge distillation", 2022.

    Examples
    --------
    A student whose logits are half as large as the teacher's matches it at half its temperature:

    >>> import torch
    >>> from sklearn_kd.losses import TwoTemperatureDistillation
    >>> teacher = torch.tensor([[4.0, 1.0, -1.0]])
    >>> student = (teacher / 2).requires_grad_()
    >>> at = {"lambda1": 0.0, "student_temperature": 2.0, "teacher_temperature": 4.0}
    >>> loss = TwoTemperatureDistillation().loss(student, teacher, torch.tensor([0]), **at)
    >>> loss.sum().backward()
    >>> bool(student.grad.abs().max() < 1e-6)
    True
    """

    accepts_unlabeled = True
    stackable = True

    def __init__(
        self,
        student_temperature: float = 1.0,
        teacher_temperature: float = 1.0,
        temperature_bounds: tuple[float, float] = (1.0, 10.0),
    ):
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature
        self.temperature_bounds = temperature_bounds

    def check(self) -> None:
        """Raise ValueError unless the bounds of the temperatures are an interval above 0."""
        check_temperature(self.temperature_bounds, "hinton")

    def metaparameters(self, n_classes: int) -> dict[str, Metaparameter]:
        """Return lambda1, whose initial value the estimator sets, and both temperatures."""
        names = ("student_temperature", "teacher_temperature")
        temperatures = {
            name: positive_number(name, getattr(self, name), self.temperature_bounds) for name in names
        }
        return {"lambda1": Metaparameter(bounds=LAMBDA1_BOUNDS)} | temperatures

    def loss(
        self,
        logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor,
        *,
        lambda1: Any,
        student_temperature: Any,
        teacher_temperature: Any,
    ) -> Tensor:
        """Return the losses of the rows."""
        t = (finite_logits(teacher_logits) / teacher_temperature).softmax(dim=1)
        soft = soft_rows(t, (logits / student_temperature).log_softmax(dim=1))
        scale = student_temperature * teacher_temperature
        return lambda1 * label_rows(logits, labels) + (1 - lambda1) * scale * soft
