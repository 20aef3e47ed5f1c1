"""Training losses with named metaparameters: the library's own, and base classes for yours."""

from sklearn_kd.losses._attention_transfer import AttentionTransfer
from sklearn_kd.losses._correlation import CorrelationDistillation
from sklearn_kd.losses._decoupled import DecoupledDistillation, NormalizedDistillation
from sklearn_kd.losses._distillation_loss import DistillationLoss
from sklearn_kd.losses._feature_term import FeatureTerm
from sklearn_kd.losses._hint import Hint
from sklearn_kd.losses._logit_distillation import LogitDistillation
from sklearn_kd.losses._masked_generation import MaskedGeneration
from sklearn_kd.losses._multilabel_distillation import MultilabelDistillation
from sklearn_kd.losses._named import LOSSES
from sklearn_kd.losses._named_terms import TERMS
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
from sklearn_kd.losses._relations import CorrelationCongruence, RelationalKD, SimilarityPreserving
from sklearn_kd.losses._review import ReviewKD
from sklearn_kd.losses._smoothed import SmoothedDistillation
from sklearn_kd.losses._standardized import StandardizedDistillation
from sklearn_kd.losses._two_temperatures import TwoTemperatureDistillation
from sklearn_kd.meta._space import Metaparameter

__all__ = [
    "LOSSES",
    "REGRESSION_LOSSES",
    "TERMS",
    "AbsoluteError",
    "AttentionTransfer",
    "BerHuLoss",
    "CorrelationCongruence",
    "CorrelationDistillation",
    "DecoupledDistillation",
    "DistillationLoss",
    "FeatureTerm",
    "GaussianNLL",
    "Hint",
    "HuberLoss",
    "LogitDistillation",
    "MaskedGeneration",
    "Metaparameter",
    "MultilabelDistillation",
    "NormalizedDistillation",
    "QuantileLoss",
    "RegressionLoss",
    "RelationalKD",
    "ReviewKD",
    "SimilarityPreserving",
    "SmoothedDistillation",
    "SquaredError",
    "StandardizedDistillation",
    "TwoTemperatureDistillation",
]
