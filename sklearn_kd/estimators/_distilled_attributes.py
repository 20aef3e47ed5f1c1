"""Fitted attributes that a classifier and a regressor share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sklearn_kd.estimators._classifier_search import path_and_process, tables_of
from sklearn_kd.training._net import TrainingNet

if TYPE_CHECKING:
    from sklearn_kd.estimators._classifier import DistilledClassifier
    from sklearn_kd.estimators._classifier_net import DistillationPlan


def distilled_attributes(
    estimator: DistilledClassifier, net: TrainingNet, plan: DistillationPlan
) -> dict[str, Any]:
    """Return the fitted attributes of a fit that ends with this net."""
    strategy, teacher = plan.strategy, plan.teacher
    path, process, search_history = path_and_process(estimator, net, plan)
    values, numbers = net.metaparameters.named(), net.metaparameters.space.numbers
    n_iter = len(path)
    if estimator._continues():
        n_iter += estimator.n_iter_  # a loaded estimator's path may have fewer rows
        path["iteration"] += estimator.n_iter_
        path = np.concatenate([estimator.metaparameter_path_, path])
    features = plan.net_settings.features
    if teacher is None and features is not None:
        teacher = features.teacher
    return {
        "net_": net,
        "strategy_": strategy,
        "teacher_": teacher.fitted if teacher is not None and estimator.keep_teacher else None,
        "terms_": {} if features is None else features.fitted(net.objective),
        "metaparameter_path_": path,
        "process_": process,
        "search_history_": search_history,
        "n_iter_": n_iter,
        "metaparameters_": {n: _on_host(value) for n, value in values.items()},
        "val_temperature_": float(net.val_temperature_),
        "n_unlabeled_": len(plan.data.train) - len(plan.data.train.labeled),
        **{f"{n}_": float(values[n]) for n in ("lambda1", "temperature") if n in numbers},
    } | tables_of(strategy)


def _on_host(value: Any) -> float | np.ndarray:
    """Return a metaparameter as a float, or as a copy of its array."""
    if isinstance(value, torch.Tensor):
        value = value.cpu().numpy().copy()
    return value if np.ndim(value) else float(value)
