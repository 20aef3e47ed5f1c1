"""Write and read the state of an estimator with pathways: the pathways, the transforms and the process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from sklearn_kd.distpro._bound_pathways import BoundPathways
from sklearn_kd.distpro._distances import DISTANCES
from sklearn_kd.distpro._importance import GivenWeights
from sklearn_kd.distpro._pathways import Pathway, build_transforms
from sklearn_kd.distpro._process import (
    DistillationProcess,
    pathway_of_content,
    process_content,
    process_of_content,
)
from sklearn_kd.distpro._transforms import TRANSFORMS
from sklearn_kd.estimators._prediction_net import prediction_params
from sklearn_kd.files._values import ContentError
from sklearn_kd.losses import LogitDistillation
from sklearn_kd.losses._feature_objective import FeatureObjective
from sklearn_kd.losses._output_loss import WeightedOutputLoss
from sklearn_kd.meta._path import MetaparameterSchedule
from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.persistence._codecs import finite_number, history_tensors, take_array, take_history, tensor_of
from sklearn_kd.persistence._container import Content
from sklearn_kd.persistence._save_load import StateFunctions
from sklearn_kd.persistence._weights import (
    check_fits,
    check_sizes,
    load_weights,
    module_tensors,
    take_weights,
)
from sklearn_kd.training._net import TrainingNet

if TYPE_CHECKING:
    from sklearn_kd.estimators._distpro_plan import DistProEstimator

# Prefix of the names of the process's tensors.
_PROCESS = "process."


def to_content(estimator: DistProEstimator, lost: set[str], history: bool = True) -> Content:
    """Return what the file of a fitted estimator holds besides the student.

    Parameters
    ----------
    estimator : DistProClassifier or DistProRegressor
    lost : set of str
        Collects the columns of the search's history that cannot be saved.
    history : bool, default=True
        Whether to store the history of the search.

    Returns
    -------
    Content
    """
    process = estimator.process_
    about: dict[str, Any] = {
        "pathways": [pathway._asdict() for pathway in estimator.pathways_],
        "process": None,
    }
    tensors = module_tensors(estimator.transforms_, "transforms")
    tensors |= history_tensors(estimator.search_history_ if history else None, "search_history", lost)
    if process is not None:
        about["process"], arrays = process_content(process)
        del about["process"]["pathways"]  # stored with the estimator
        tensors |= {f"{_PROCESS}{name}": tensor_of(array) for name, array in arrays.items()}
    return Content(about, tensors)


def from_content(
    estimator: DistProEstimator, content: Content, student: nn.Module, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the fitted attributes, and remove the tensors they use from the content.

    Parameters
    ----------
    estimator : DistProClassifier or DistProRegressor
        With its parameters and the fitted attributes of its task set.
    content : Content
    student : nn.Module
        The student with the weights from the file.
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
    about, tensors = content
    if "transforms" in about["left_out"] and "transforms" not in given:
        raise ContentError(
            "transforms that were given as callables. Files name no code to call: give load the same, "
            "transforms=[...]"
        )
    pathways = [pathway_of_content(fields) for fields in about["pathways"]]
    weights = take_weights(tensors, "transforms")
    search_history = take_history(tensors, "search_history")
    process = None if about["process"] is None else _process(content)
    if all(name in TRANSFORMS for name in estimator.transforms):  # first without memory
        for pathway in pathways:
            check_sizes(pathway[3:], weights, "pathways")
        with torch.device("meta"):
            check_fits(build_transforms(pathways, estimator.transforms), weights, "transforms")
    net = _prediction_net(estimator, student, pathways)
    load_weights(net.transforms_, weights, "transforms")
    return {"net_": net, "pathways_": pathways, "process_": process, "search_history_": search_history}


DISTPRO_STATE = StateFunctions(to_content, from_content)


def _process(content: Content) -> DistillationProcess:
    """Decode the process, and remove its tensors from the content."""
    about, tensors = content
    names: dict[str, Any] = {"raw": np.float32}
    if f"{_PROCESS}logit_term" in tensors:
        names["logit_term"] = np.float32
    of_outputs = about["process"].get("output_term") or {"metaparameters": ()}
    names |= {f"output_term.values.{entry[0]}": np.float64 for entry in of_outputs["metaparameters"]}
    arrays = {name: take_array(tensors, f"{_PROCESS}{name}", dtype) for name, dtype in names.items()}
    fields = about["process"] | {
        "pathways": about["pathways"],
        "softmax_bias": finite_number(about["process"]["softmax_bias"]),
    }
    return process_of_content(fields, arrays, DistillationProcess)


def _prediction_net(estimator: DistProEstimator, student: nn.Module, pathways: list[Pathway]) -> TrainingNet:
    """Make the net that an estimator predicts with; its transforms have no weights from the file yet."""
    # Distance, weights and output_loss are only used in training.
    objective = FeatureObjective(
        terms=[
            BoundPathways(pathways, estimator.transforms, DISTANCES["mse"], GivenWeights(), GivenWeights())
        ],
        teacher=None,
        output_loss=WeightedOutputLoss(LogitDistillation(), 0.0, {}),
    )
    return TrainingNet(
        student,
        objective=objective,
        metaparameters=MetaparameterSchedule(MetaparameterSpace({}), {}),
        **prediction_params(estimator),
    ).initialize()
