"""Strategies: how the metaparameters are chosen and how they move during training."""

from sklearn_kd.meta._fixed import Fixed, Naive, NoDistillation
from sklearn_kd.meta._gradient import Gradient, Linear
from sklearn_kd.meta._hyperopt import Hyperopt
from sklearn_kd.meta._random import Random
from sklearn_kd.meta._strategy import Setting, Strategy

# The names that ``DistilledClassifier(meta=...)`` takes for the strategies' defaults.
STRATEGIES: dict[str, type[Strategy]] = {
    "none": NoDistillation,
    "naive": Naive,
    "random": Random,
    "fixed": Fixed,
    "gradient": Gradient,
    "linear": Linear,
    "hyperopt": Hyperopt,
}

__all__ = [
    "STRATEGIES",
    "Fixed",
    "Gradient",
    "Hyperopt",
    "Linear",
    "Naive",
    "NoDistillation",
    "Random",
    "Setting",
    "Strategy",
]
