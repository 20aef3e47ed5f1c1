"""The state of a DistilledClassifier in its file: the path, the trials and the metaparameters at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from sklearn_kd.estimators._prediction_net import prediction_params
from sklearn_kd.estimators._preflight import named_strategy
from sklearn_kd.files._values import ContentError
from sklearn_kd.meta._path import PATH_DTYPE, Metaparameters
from sklearn_kd.meta._trials import TRIALS_DTYPE
from sklearn_kd.persistence._codecs import finite_number, table_content, take_table
from sklearn_kd.persistence._container import Content
from sklearn_kd.persistence._save_load import StateFunctions
from sklearn_kd.training._distillation_net import DistillationNet

if TYPE_CHECKING:
    from sklearn_kd.estimators._classifier import DistilledClassifier

_NUMBERS = ("lambda1_", "temperature_", "val_temperature_")


def to_content(estimator: DistilledClassifier, lost: set[str]) -> Content:
    """Return what the file of a fitted estimator has beside the student.

    Parameters
    ----------
    estimator : DistilledClassifier
    lost : set of str
        Stays as it is: all of this can be saved.

    Returns
    -------
    Content
    """
    about = {name: float(getattr(estimator, name)) for name in _NUMBERS}
    tables = [table_content(estimator.metaparameter_path_, "metaparameter_path")]
    if hasattr(estimator, "trials_"):
        tables.append(table_content(estimator.trials_, "trials"))
    content = Content(about, {})
    for table in tables:
        content.about.update(table.about)
        content.tensors.update(table.tensors)
    return content


def from_content(
    estimator: DistilledClassifier, content: Content, student: nn.Module, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the fitted attributes; remove the tensors that are used from the content.

    Parameters
    ----------
    estimator : DistilledClassifier
        Has its parameters, ``classes_`` and ``n_iter_``.
    content : Content
    student : nn.Module
        The student with the weights of the file.
    given : dict
        The parameters that the caller of ``load`` gave.

    Returns
    -------
    dict
        Attributes by name.

    Raises
    ------
    ContentError
        If the content is wrong.
    """
    about = content.about
    fitted: dict[str, Any] = {name: finite_number(about[name]) for name in _NUMBERS}
    temperatures = [fitted["temperature_"], fitted["val_temperature_"]]
    _check_metaparameters([fitted["lambda1_"]], temperatures, "numbers")
    path = fitted["metaparameter_path_"] = take_table(content, "metaparameter_path", PATH_DTYPE)
    _check_metaparameters(path["lambda1"], path["temperature"], "path")
    if len(path) != estimator.n_iter_:
        raise ContentError(f"a path of {len(path)} iterations of {estimator.n_iter_}")
    if "meta" not in about["left_out"] or "meta" in given:  # else the strategy is unknown
        fitted["strategy_"] = named_strategy(
            estimator.meta, estimator._strategies, estimator.e1, estimator.e2
        )
    if "trials_columns" in about:
        trials = fitted["trials_"] = take_table(content, "trials", TRIALS_DTYPE)
        _check_metaparameters(trials["lambda1"], trials["temperature"], "trials")
        if "strategy_" in fitted:
            fitted["strategy_"].trials_ = trials
    start = fitted["lambda1_"], fitted["temperature_"]
    fitted["net_"] = _prediction_net(estimator, student, *start, fitted["val_temperature_"])
    return fitted


CLASSIFIER_STATE = StateFunctions(to_content, from_content)


def _check_metaparameters(lambda1: Any, temperature: Any, where: str) -> None:
    """Refuse values of lambda1 and T that no fit can have found."""
    lambda1, temperature = np.asarray(lambda1), np.asarray(temperature)
    wrong = lambda1[~((lambda1 >= 0) & (lambda1 <= 1))]
    if len(wrong):
        raise ContentError(f"lambda1={wrong[0]} in its {where}, which must be between 0 and 1")
    wrong = temperature[~((temperature > 0) & np.isfinite(temperature))]
    if len(wrong):
        raise ContentError(f"temperature={wrong[0]} in its {where}, which must be above 0 and finite")


def _prediction_net(
    estimator: DistilledClassifier,
    student: nn.Module,
    lambda1: float,
    temperature: float,
    val_temperature: float,
) -> DistillationNet:
    """Make the net that an estimator predicts with."""
    device: torch.device = estimator._device()
    return DistillationNet(
        student,
        metaparameters=Metaparameters(lambda1, temperature, device=device),
        temperature_scaling=estimator.temperature_scaling,
        val_temperature=val_temperature,
        **prediction_params(estimator),
    ).initialize()
