"""Losses as a user would write them, with named metaparameters of several shapes and coordinates."""

import torch
import torch.nn.functional as F

from sklearn_kd.losses import DistillationLoss, Metaparameter


class Decoupled(DistillationLoss):
    """Decoupled distillation (Zhao et al., 2022): CE + T² (alpha · target part + beta · other classes)."""

    def __init__(self, alpha=1.0, beta=2.0):
        self.alpha = alpha
        self.beta = beta

    def metaparameters(self, n_classes):
        return {
            "alpha": Metaparameter(self.alpha, bounds=(0.0, 10.0)),
            "beta": Metaparameter(self.beta, bounds=(0.0, 10.0)),
            "T": Metaparameter(2.0, bounds=(1.0, 10.0), coordinate="log"),
        }

    def loss(self, logits, teacher_logits, labels, *, alpha, beta, T):
        chosen = F.one_hot(labels, logits.shape[1]).bool()
        p, t = (logits / T).softmax(1), (teacher_logits / T).softmax(1)
        target = F.binary_cross_entropy(p[chosen], t[chosen], reduction="none")
        others = [z[~chosen].reshape(len(z), -1) / T for z in (logits, teacher_logits)]
        rest = F.kl_div(others[0].log_softmax(1), others[1].softmax(1), reduction="none").sum(1)
        hard = F.cross_entropy(logits, labels, reduction="none")
        return hard + T**2 * (alpha * target + beta * rest)


class Smoothed(DistillationLoss):
    """(1 − s) · CE + s · CE against the uniform distribution: label smoothing, without a teacher."""

    needs_teacher = False

    def metaparameters(self, n_classes):
        return {"smoothing": Metaparameter(0.1, bounds=(0.0, 0.9), coordinate="logit")}

    def loss(self, logits, teacher_logits, labels, *, smoothing):
        log_p = logits.log_softmax(1)
        hard = F.nll_loss(log_p, labels, reduction="none")
        return (1 - smoothing) * hard - smoothing * log_p.mean(dim=1)


class Classwise(DistillationLoss):
    """lambda1 of each class apart, and one T: how far to trust the labels of each class."""

    def metaparameters(self, n_classes):
        return {
            "trust": Metaparameter(0.5, shape=(n_classes,), bounds=(0.0, 1.0)),
            "T": Metaparameter(2.0, bounds=(1.0, 10.0), coordinate="log"),
        }

    def loss(self, logits, teacher_logits, labels, *, trust, T):
        hard = F.cross_entropy(logits, labels, reduction="none")
        soft = -((teacher_logits / T).softmax(1) * (logits / T).log_softmax(1)).sum(1)
        return trust[labels] * hard + (1 - trust[labels]) * T**2 * soft


LOSSES = {"decoupled": Decoupled, "smoothed": Smoothed, "classwise": Classwise}


def start_of(loss, n_classes):
    """The start of each metaparameter, as float64 tensors that require gradients."""
    return {
        name: torch.full(entry.shape, entry.start, dtype=torch.float64, requires_grad=True)
        for name, entry in loss.metaparameters(n_classes).items()
    }
