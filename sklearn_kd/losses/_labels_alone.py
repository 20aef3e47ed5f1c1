"""The loss of the labels alone, beside feature terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from sklearn_kd.losses._binary_logits import BinaryTrainingLoss
from sklearn_kd.losses._distillation_loss import DistillationLoss, Evaluation
from sklearn_kd.losses._logit_distillation import LabelEvaluation
from sklearn_kd.losses._logit_terms import label_rows
from sklearn_kd.meta._space import Metaparameter
from sklearn_kd.tasks._targets import Targets, label_weights


class LabelLoss(DistillationLoss):
    """The cross-entropy of the labels, one or several per row, without metaparameters.

    A list of losses uses it if it has feature terms but no loss of logits.
    """

    needs_teacher = False
    accepts_unlabeled = True

    def metaparameters(self, n_classes: int) -> dict[str, Metaparameter]:
        """Return none."""
        return {}

    def loss(self, logits: Tensor, teacher_logits: Any, labels: Tensor) -> Tensor:
        """Return the cross-entropy of each row: 0 for unlabeled rows, and more weight for the others."""
        if labels.ndim == 1:
            return label_rows(logits, labels)
        rows = F.binary_cross_entropy_with_logits(logits, labels.clamp(min=0).to(logits), reduction="none")
        return label_weights(labels).to(logits) * rows.mean(dim=1)

    def evaluate(
        self, logits: Tensor, targets: Targets, values: Mapping[str, Any], *, differentiable: bool = True
    ) -> Evaluation:
        """Return the loss in closed form."""
        several = targets.labels.ndim == logits.ndim
        of_labels = targets._replace(teacher_logits=None)
        return (BinaryTrainingLoss if several else LabelEvaluation)(logits, of_labels, {})
