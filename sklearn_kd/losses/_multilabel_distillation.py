"""The loss "kd" for several labels: binary cross-entropy, and divergence from the teacher's probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from sklearn_kd.losses._binary_logits import BinaryTrainingLoss, bernoulli_divergence
from sklearn_kd.losses._distillation_loss import DistillationLoss, Evaluation
from sklearn_kd.losses._logit_distillation import LAMBDA1_BOUNDS, check_temperature
from sklearn_kd.losses._logits import TEMPERATURE_SCALINGS
from sklearn_kd.meta._space import Metaparameter
from sklearn_kd.tasks._targets import Targets, label_weights

PER_LABEL = (False, True, "lambda1", "temperature")


class MultilabelDistillation(DistillationLoss):
    """lambda1 · BCE(labels) + (1 − lambda1) · s(T) · KL(teacher at T, student at T), averaged over labels.

    ``loss="kd"`` means this loss if y has several labels. Each label of a row is present with the
    probability σ(z) of its logit z. BCE is the binary cross-entropy, and KL the divergence of the student's
    σ(z/T) from the teacher's σ(f/T). The metaparameters are lambda1, in [0, 1], and the temperature T,
    learned in its logarithm. Their initial values are those of ``DistilledClassifier(lambda1=...,
    temperature=...)``, and their derivatives are closed forms.

    Parameters
    ----------
    temperature_bounds : tuple of (float, float), default=(1.0, 10.0)
        Bounds of T.
    temperature_scaling : {"hinton", "none"}, default="hinton"
        s(T): T², which keeps the size of the soft gradients as T grows [1]_, or 1.
    per_label : bool, "lambda1" or "temperature", default=False
        Which metaparameters are arrays with one number for each label, shape (k,): both (True), none
        (False), or the named one. This helps if the teacher knows some labels better than others.

    See Also
    --------
    LogitDistillation : The same for one label per row.

    References
    ----------
    .. [1] Hinton, Vinyals, Dean. "Distilling the knowledge in a neural network", 2015.

    Examples
    --------
    >>> from sklearn.datasets import make_multilabel_classification
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> from sklearn_kd.losses import MultilabelDistillation
    >>> X, y = make_multilabel_classification(n_samples=300, n_classes=4, random_state=0)
    >>> clf = DistilledClassifier(
    ...     RandomForestClassifier(random_state=0), MLPStudent, meta="gradient", max_epochs=15,
    ...     loss=MultilabelDistillation(per_label="lambda1"), random_state=0)
    >>> clf = clf.fit(X, y)
    >>> clf.metaparameters_["lambda1"].shape
    (4,)
    """

    accepts_unlabeled = True

    def __init__(
        self,
        temperature_bounds: tuple[float, float] = (1.0, 10.0),
        temperature_scaling: Literal["hinton", "none"] = "hinton",
        per_label: bool | Literal["lambda1", "temperature"] = False,
    ):
        self.temperature_bounds = temperature_bounds
        self.temperature_scaling = temperature_scaling
        self.per_label = per_label

    def check(self) -> None:
        """Raise ValueError unless the bounds are an interval above 0 and the other parameters are known."""
        check_temperature(self.temperature_bounds, self.temperature_scaling)
        if self.per_label not in PER_LABEL:
            raise ValueError(f"per_label={self.per_label!r} is not one of {list(PER_LABEL)}.")

    def metaparameters(self, n_classes: int) -> dict[str, Metaparameter]:
        """Return lambda1 and temperature, each one number or an array with one for each label."""

        def shape(name: str) -> tuple[int, ...]:
            return (n_classes,) if self.per_label in (True, name) else ()

        bounds = self.temperature_bounds
        return {
            "lambda1": Metaparameter(shape=shape("lambda1"), bounds=LAMBDA1_BOUNDS),
            "temperature": Metaparameter(shape=shape("temperature"), bounds=bounds, coordinate="log"),
        }

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
        known = label_weights(labels).to(logits)[:, None]
        hard = known * binary_cross_entropy_with_logits(
            logits, labels.clamp(min=0).to(logits), reduction="none"
        )
        soft = bernoulli_divergence(teacher_logits / temperature, logits / temperature)
        return (lambda1 * hard + (1 - lambda1) * scale * soft).mean(dim=1)

    def evaluate(
        self, logits: Tensor, targets: Targets, values: Mapping[str, Any], *, differentiable: bool = True
    ) -> Evaluation:
        """Return the loss of a batch with closed-form derivatives; a subclass's other loss uses autograd."""
        own, kind = MultilabelDistillation, type(self)
        if kind.loss is not own.loss or kind.metaparameters is not own.metaparameters:
            return super().evaluate(logits, targets, values, differentiable=differentiable)
        ordered = {name: values[name] for name in ("lambda1", "temperature")}
        return BinaryTrainingLoss(logits, targets, ordered, scaling=self.temperature_scaling)
