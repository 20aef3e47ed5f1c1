"""Training losses with named metaparameters: the library's own, and the base of yours."""

from sklearn_kd.losses._distillation_loss import DistillationLoss
from sklearn_kd.losses._logit_distillation import LogitDistillation
from sklearn_kd.losses._multilabel_distillation import MultilabelDistillation
from sklearn_kd.losses._named import LOSSES
from sklearn_kd.losses._regression import (
    REGRESSION_LOSSES,
    AbsoluteError,
    BerHuLoss,
    GaussianNLL,
    HuberLoss,
    QuantileLoss,
    RegressionLoss,
    SquaredError,
)
from sklearn_kd.meta._space import Metaparameter

__all__ = [
    "LOSSES",
    "REGRESSION_LOSSES",
    "AbsoluteError",
    "BerHuLoss",
    "DistillationLoss",
    "GaussianNLL",
    "HuberLoss",
    "LogitDistillation",
    "Metaparameter",
    "MultilabelDistillation",
    "QuantileLoss",
    "RegressionLoss",
    "SquaredError",
]
