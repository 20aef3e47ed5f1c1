"""The loss "smoothed_kd": smoothed labels beside a teacher."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sklearn_kd.losses._distillation_loss import DistillationLoss
from sklearn_kd.losses._logit_distillation import check_temperature, lambda1_and_temperature
from sklearn_kd.losses._logit_terms import finite_logits, label_rows, number, soft_rows
from sklearn_kd.meta._space import Metaparameter
from sklearn_kd.tasks._targets import label_weights

SMOOTHING_BOUNDS = (0.0, 0.9)


class SmoothedDistillation(DistillationLoss):
    """The loss "kd" with smoothed labels beside the teacher: ``loss="smoothed_kd"``.

    lambda1 · ((1 − s) · CE(labels) + s · CE(uniform)) + (1 − lambda1) · T² · CE(teacher at T, student at T)

    Label smoothing [1]_ takes a share s of each label and spreads it over all classes. A teacher does much
    the same row by row: label smoothing is distillation from a teacher that says nothing [2]_. This loss
    combines both, and learns s, which ends near 0 if the teacher regularises enough. Apart from T², the
    weights of the three terms sum to 1.

    The metaparameters are lambda1 and the temperature T, as in :class:`LogitDistillation`, and the share
    ``smoothing``, from 0 to 0.9. At 0 this is the loss "kd".

    Parameters
    ----------
    smoothing : float, default=0.1
        Initial value of the share; the default is that of [1]_.
    temperature_bounds : tuple of (float, float), default=(1.0, 10.0)
        Bounds of T.

    Notes
    -----
    Unlabeled rows have no smoothed labels either: they follow only the teacher. The teacher's probabilities
    are not smoothed; a teacher that was itself trained on smoothed labels teaches worse [3]_. For label
    smoothing without a teacher, see the guide's page on losses of your own.

    Time and memory: one more mean over (B, K) than "kd", and derivatives by autograd.

    References
    ----------
    .. [1] Szegedy et al. "Rethinking the Inception architecture for computer vision", CVPR 2016.
    .. [2] Yuan, Tay, Li, Wang, Feng. "Revisiting knowledge distillation via label smoothing regularization",
       CVPR 2020.
    .. [3] Müller, Kornblith, Hinton. "When does label smoothing help?", NeurIPS 2019.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = DistilledClassifier(
    ...     RandomForestClassifier(random_state=0), MLPStudent, loss="smoothed_kd", meta="linear",
    ...     max_epochs=15, random_state=0)
    >>> clf = clf.fit(X[:600] / 16, y[:600])
    >>> clf.metaparameters_["smoothing"] < 0.1  # the forest regularises enough
    True
    """

    accepts_unlabeled = True
    stackable = True

    def __init__(self, smoothing: float = 0.1, temperature_bounds: tuple[float, float] = (1.0, 10.0)):
        self.smoothing = smoothing
        self.temperature_bounds = temperature_bounds

    def check(self) -> None:
        """Raise ValueError unless the bounds of T are an interval above 0."""
        check_temperature(self.temperature_bounds, "hinton")

    def metaparameters(self, n_classes: int) -> dict[str, Metaparameter]:
        """Return lambda1 and temperature, whose initial values the estimator sets, and smoothing."""
        smoothing = number("smoothing", self.smoothing, SMOOTHING_BOUNDS)
        return lambda1_and_temperature(self.temperature_bounds) | {"smoothing": smoothing}

    def loss(
        self,
        logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor,
        *,
        lambda1: Any,
        temperature: Any,
        smoothing: Any,
    ) -> Tensor:
        """Return the losses of the rows."""
        uniform = -label_weights(labels).to(logits) * logits.log_softmax(dim=1).mean(dim=1)
        hard = (1 - smoothing) * label_rows(logits, labels) + smoothing * uniform
        t = (finite_logits(teacher_logits) / temperature).softmax(dim=1)
        soft = soft_rows(t, (logits / temperature).log_softmax(dim=1))
        return lambda1 * hard + (1 - lambda1) * temperature**2 * soft
