"""Write and read a DistilledClassifier's state: the path, the trials and the final metaparameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from sklearn_kd.estimators._classifier_net import loss_of, loss_space
from sklearn_kd.estimators._feature_terms import FittedTerm
from sklearn_kd.estimators._named_terms import has_terms
from sklearn_kd.estimators._prediction_net import prediction_params
from sklearn_kd.estimators._preflight import named_strategy
from sklearn_kd.estimators._preprocessing import preprocessing_content, preprocessing_of_content
from sklearn_kd.files._values import ContentError
from sklearn_kd.losses._distillation_loss import DistillationLoss
from sklearn_kd.losses._logit_distillation import LAMBDA1_BOUNDS, LogitDistillation
from sklearn_kd.losses._objective import LogitObjective
from sklearn_kd.meta._path import MetaparameterPath, path_dtype
from sklearn_kd.meta._process import MetaparameterProcess, process_content, process_of_content
from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.meta._trials import trials_dtype
from sklearn_kd.meta._twins import moves_dtype
from sklearn_kd.persistence._codecs import (
    finite_number,
    history_tensors,
    table_content,
    take_array,
    take_history,
    take_table,
    tensor_of,
)
from sklearn_kd.persistence._container import Content
from sklearn_kd.persistence._save_load import StateFunctions
from sklearn_kd.training._net import TrainingNet

if TYPE_CHECKING:
    from sklearn_kd.estimators._classifier import DistilledClassifier


def to_content(estimator: DistilledClassifier, lost: set[str], history: bool = True) -> Content:
    """Return what the file of a fitted estimator holds besides the student.

    Parameters
    ----------
    estimator : DistilledClassifier
    lost : set of str
        Collects the columns of the search's history that cannot be saved.
    history : bool, default=True
        Whether to store the path, the process and the history of the search.

    Returns
    -------
    Content
    """
    about: dict[str, Any] = {
        "val_temperature": float(getattr(estimator, "val_temperature_", 1.0)),
        "n_unlabeled": int(estimator.n_unlabeled_),
    }
    about["loss_is_known"] = _has_path_of_loss(estimator)
    about["terms"] = {
        name: [list(term.teacher_layers), list(term.student_layers), term.is_trained]
        for name, term in estimator.terms_.items()
    }
    about["metaparameters"] = {
        name: np.asarray(value).tolist() for name, value in estimator.metaparameters_.items()
    }
    path = estimator.metaparameter_path_ if history else estimator.metaparameter_path_[:0]
    about["path_is_whole"] = len(path) == estimator.n_iter_
    tables = [table_content(path, "metaparameter_path")]
    tables += [
        table_content(getattr(estimator, f"{name}_"), name)
        for name in ("trials", "moves")
        if hasattr(estimator, f"{name}_")
    ]
    content = Content(about, history_tensors(estimator.search_history_ if history else None, _HISTORY, lost))
    content.about.update(preprocessing_content(estimator))
    if history and estimator.process_ is not None:
        about["process"], arrays = process_content(estimator.process_)
        content.tensors.update({f"process.{name}": tensor_of(array) for name, array in arrays.items()})
    for table in tables:
        content.about.update(table.about)
        content.tensors.update(table.tensors)
    return content


def from_content(
    estimator: DistilledClassifier, content: Content, student: nn.Module, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the fitted attributes, and remove the tensors they use from the content.

    Parameters
    ----------
    estimator : DistilledClassifier
        With its parameters, ``classes_`` and ``n_iter_`` set.
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
    about = content.about
    fitted: dict[str, Any] = {
        "student_preprocessing_": preprocessing_of_content(estimator, about, given),
    }
    is_in_file = "loss" not in about["left_out"] and about.get("loss_is_known", True)
    loss_is_known = (is_in_file or "loss" in given) and not has_terms(estimator.loss)
    loss = loss_of(estimator) if loss_is_known else LogitDistillation()
    space = loss_space(loss, estimator._task.n_outputs) if loss_is_known else None
    values = _values(about["metaparameters"], space)
    val_temperature = _above_0(about["val_temperature"])
    fitted |= {
        "metaparameters_": values,
        "val_temperature_": val_temperature,
        "n_unlabeled_": _count(about.get("n_unlabeled", 0)),
        "terms_": {name: _fitted_term(form) for name, form in about.get("terms", {}).items()},
    }
    numbers = {name: value for name, value in values.items() if np.ndim(value) == 0}
    fitted |= {f"{name}_": numbers[name] for name in ("lambda1", "temperature") if name in numbers}
    path = fitted["metaparameter_path_"] = _path(content, space)
    if about.get("path_is_whole", True) and len(path) != estimator.n_iter_:
        raise ContentError(f"a path of {len(path)} iterations of {estimator.n_iter_}")
    if "meta" not in about["left_out"] or "meta" in given:  # otherwise the strategy is unknown
        fitted["strategy_"] = named_strategy(estimator)
    if "trials_columns" in about:
        trials = fitted["trials_"] = _table(content, "trials", space)
        if "strategy_" in fitted:
            fitted["strategy_"].trials_ = trials
    if "moves_columns" in about:
        moves = fitted["moves_"] = take_table(content, "moves", None if space is None else moves_dtype(space))
        if "strategy_" in fitted:
            fitted["strategy_"].moves_ = moves
    fitted["process_"] = _process(content)
    # Files of a version without searches do not have it.
    fitted["search_history_"] = (
        take_history(content.tensors, _HISTORY) if _HISTORY in content.tensors else None
    )
    fitted["net_"] = _prediction_net(estimator, student, loss, val_temperature)
    return fitted


def _has_path_of_loss(estimator: DistilledClassifier) -> bool:
    """Return whether the path has the metaparameters of the loss, as far as the loss determines them.

    It does not after set_params(loss=...). The number of pathways is unknown without the networks.
    """
    if has_terms(estimator.loss):
        return False
    space = loss_space(loss_of(estimator), estimator._task.n_outputs)
    return path_dtype(space) == estimator.metaparameter_path_.dtype


def _fitted_term(form: Any) -> FittedTerm:
    """Decode a feature term."""
    teacher, student, is_trained = form
    named = all(isinstance(layer, str) for layer in (*teacher, *student))
    if not named or not isinstance(teacher, list) or type(is_trained) is not bool:
        raise ContentError(f"a term of features {str(form)[:100]}")
    return FittedTerm(tuple(teacher), tuple(student), is_trained)


# Prefix of the tensors of the search's history.
_HISTORY = "search_history"

CLASSIFIER_STATE = StateFunctions(to_content, from_content)


def _values(about: Any, space: MetaparameterSpace | None) -> dict[str, Any]:
    """Return the final metaparameters by name; without a space, as they are in the file."""
    if not isinstance(about, dict):
        raise ContentError("metaparameters that are no mapping of names")
    values = {
        name: np.asarray(value, np.float64) if isinstance(value, list) else finite_number(value)
        for name, value in about.items()
    }
    if space is not None:
        _check_values(values, space, "metaparameters")
        for name, entry in space.items():
            if np.shape(values[name]) != tuple(entry.shape):
                raise ContentError(f"{name} of shape {np.shape(values[name])} in its metaparameters")
    return values


def _process(content: Content) -> MetaparameterProcess | None:
    """Decode the process, if there is one, and remove its tensors from the content."""
    about = content.about.get("process")
    if about is None:
        return None
    names = [f"values.{name}" for name, *_ in about["metaparameters"]]
    arrays = {name: take_array(content.tensors, f"process.{name}", np.float64) for name in names}
    process: MetaparameterProcess = process_of_content(about, arrays)
    return process


def _path(content: Content, space: MetaparameterSpace | None) -> np.ndarray:
    """Return the path; add the column ``search`` to that of a version without searches."""
    names = content.about.get("metaparameter_path_columns")
    if isinstance(names, list) and "search" not in names:
        names.append("search")
        n_rows = len(content.tensors.get("metaparameter_path.iteration", ()))
        content.tensors["metaparameter_path.search"] = torch.zeros(n_rows, dtype=torch.bool)
    return _table(content, "metaparameter_path", space)


def _table(content: Content, name: str, space: MetaparameterSpace | None) -> np.ndarray:
    """Return a path or a table of trials, with values checked to be possible ones."""
    table = take_table(content, name, None if space is None else _columns(name, space))
    if space is not None:
        _check_values({column: table[column] for column in space}, space, name)
    return table


def _columns(name: str, space: MetaparameterSpace) -> np.dtype:
    return trials_dtype(space) if name == "trials" else path_dtype(space)


def _check_values(values: Mapping[str, Any], space: MetaparameterSpace, where: str) -> None:
    """Refuse values of metaparameters that no fit can have found."""
    if values.keys() != set(space):
        raise ContentError(f"the metaparameters {sorted(values)} in its {where}, not {sorted(space)}")
    for name, entry in space.items():
        found = np.asarray(values[name])
        # A strategy may start outside the bounds, but not where the coordinate is undefined.
        low, high = (0.0 if entry.coordinate == "log" else -math.inf), math.inf
        if entry.bounds == LAMBDA1_BOUNDS and name == "lambda1":
            low, high = LAMBDA1_BOUNDS
        wrong = found[~(np.isfinite(found) & (found >= low) & (found <= high))]
        if entry.coordinate == "log":
            wrong = np.append(wrong, found[found == 0])
        if wrong.size:
            raise ContentError(f"{name}={wrong.flat[0]} in its {where}, which no training can have found")


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ContentError(f"{str(value)[:100]!r} as a number of unlabeled rows")
    return value


def _above_0(value: Any) -> float:
    found = finite_number(value)
    if found <= 0:
        raise ContentError(f"T_val={found}, which must be above 0")
    return found


def _prediction_net(
    estimator: DistilledClassifier, student: nn.Module, loss: DistillationLoss, val_temperature: float
) -> TrainingNet:
    """Make the net that an estimator predicts with."""
    device: torch.device = estimator._device()
    return TrainingNet(
        student,
        objective=LogitObjective(loss),
        metaparameters=MetaparameterPath(MetaparameterSpace({}), {}, device=device),
        val_temperature=val_temperature,
        **prediction_params(estimator),
    ).initialize()
