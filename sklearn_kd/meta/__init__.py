"""Strategies: how metaparameters are chosen, and how they change during training."""

from typing import Any

import torch

from sklearn_kd.bilevel._optimizer_response import OptimizerResponse, register_response
from sklearn_kd.errors._did_you_mean import ByName
from sklearn_kd.meta._far import ForwardGradient, ImplicitGradient
from sklearn_kd.meta._fixed import Fixed, Naive, NoDistillation
from sklearn_kd.meta._gradient import Gradient, Linear
from sklearn_kd.meta._halving import SuccessiveHalving
from sklearn_kd.meta._hyperopt import Hyperopt
from sklearn_kd.meta._optuna import Optuna
from sklearn_kd.meta._path import MetaparameterPath
from sklearn_kd.meta._population import Population, PopulationStrategy
from sklearn_kd.meta._predicted import PredictedPath
from sklearn_kd.meta._random import Random
from sklearn_kd.meta._shortlist import Shortlist
from sklearn_kd.meta._space import Metaparameter, MetaparameterSpace
from sklearn_kd.meta._strategy import HypergradientStrategy, StartContext, Strategy
from sklearn_kd.meta._twins import Twins

# Names of strategies with default parameters in ``DistilledClassifier(meta=...)``.
STRATEGIES: dict[str, type[Strategy]] = ByName(
    {
        "none": NoDistillation,
        "naive": Naive,
        "random": Random,
        "fixed": Fixed,
        "gradient": Gradient,
        "linear": Linear,
        "forward": ForwardGradient,
        "implicit": ImplicitGradient,
        "hyperopt": Hyperopt,
        "optuna": Optuna,
        "shortlist": Shortlist,
        "twins": Twins,
        "halving": SuccessiveHalving,
    }
)

# Gorpinich, Bakhteev and Strijov's own settings, for ``DistilledClassifier(..., **PAPER_SETTINGS)``. Only
# meta__lr differs among their data: 1 (synthetic), 0.1 (Fashion-MNIST, CIFAR-10), 0.25 (reduced CIFAR-10).
# For the synthetic data they also use meta__val_temperature=0.1.
PAPER_SETTINGS: dict[str, Any] = {
    "lr": 1.0,
    "optimizer": torch.optim.SGD,
    "batch_size": 128,
    "meta__val_temperature": 1.0,
    "meta__coordinates": "raw",
    "meta__optimizer": torch.optim.SGD,
    "meta__lr": 0.1,
    "meta__clip": 0.01,
    "loss__temperature_bounds": (0.1, 10.0),
    "loss__temperature_scaling": "none",
    "lambda1": "random",
    "temperature": "random",
    "standardize": False,
    "search_epochs": None,
    "validation_fraction": 0.1,
}

__all__ = [
    "PAPER_SETTINGS",
    "STRATEGIES",
    "Fixed",
    "ForwardGradient",
    "Gradient",
    "HypergradientStrategy",
    "Hyperopt",
    "ImplicitGradient",
    "Linear",
    "Metaparameter",
    "MetaparameterPath",
    "MetaparameterSpace",
    "Naive",
    "NoDistillation",
    "OptimizerResponse",
    "Optuna",
    "Population",
    "PopulationStrategy",
    "PredictedPath",
    "Random",
    "Shortlist",
    "StartContext",
    "Strategy",
    "SuccessiveHalving",
    "Twins",
    "register_response",
]
