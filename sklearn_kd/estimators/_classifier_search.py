"""Search a DistilledClassifier's metaparameters, and retrain along the process that was found or given."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from skorch.history import History
from torch import Tensor, nn

from sklearn_kd.estimators._classifier_net import (
    DistillationPlan,
    changes_for,
    make_net,
    own_callbacks,
)
from sklearn_kd.estimators._plan import Stage
from sklearn_kd.estimators._search import RETRAINING, progress_callbacks, run_search
from sklearn_kd.losses._loss_list import is_listed
from sklearn_kd.meta import Fixed, MetaparameterSpace, Strategy
from sklearn_kd.meta._process import Following, MetaparameterProcess
from sklearn_kd.runtime._optimizers import optimizer_class
from sklearn_kd.students._standardize import own_student
from sklearn_kd.students._structured import without_structure
from sklearn_kd.training._ending import Ending, ending_of
from sklearn_kd.training._trials import TrialsInterrupted
from sklearn_kd.training._weight_average import LONG, SHORT, Averaging, load_modules, load_weights

if TYPE_CHECKING:
    from sklearn_kd.estimators._classifier import DistilledClassifier
    from sklearn_kd.training._net import TrainingNet

# Attributes of strategies with the tables of their searches.
STRATEGY_TABLES = ("trials_", "moves_")
# Averaging at the end of a retraining. For a student that still learns it covers few epochs, and only
# smooths the last steps.
_AVERAGING = {
    "fresh": None,
    "continue": Averaging(SHORT, is_result=True),
    "average": Averaging(LONG, is_result=True),
}
WAYS_TO_RETRAIN = ("auto", *_AVERAGING)
# Parameters that a process records.
_RECORDED = ("search_epochs", "max_epochs", "validation_fraction", "e1", "e2", "lr", "batch_size")


class SearchRecord(NamedTuple):
    """Result of a search.

    Attributes
    ----------
    path : dict of str to ndarray
        The columns of the path.
    start : dict of str to ndarray
        The metaparameters before the first iteration.
    val_temperature : float
        T_val at the end.
    history : History
    tables : dict of str to dict of str to ndarray
        The columns of each of the strategy's tables.
    weights : dict of str to Tensor or None
        Weights of the final student. None: no student was trained at the values that were found.
    averaged, beside : bool or None, dict of str to Tensor or None
        As in :class:`Ending`.
    """

    path: dict[str, np.ndarray]
    start: dict[str, np.ndarray]
    val_temperature: float
    history: History
    tables: dict[str, dict[str, np.ndarray]]
    weights: dict[str, Tensor] | None = None
    averaged: bool | None = None
    beside: dict[str, Tensor] | None = None

    @classmethod
    def of(cls, net: TrainingNet, strategy: Strategy) -> SearchRecord:
        """Read the result from the present state of a net, and from the strategy."""
        path = _columns(net.metaparameters.table())
        path["search"] = np.ones(len(path["search"]), bool)
        start = {name: np.array(value) for name, value in net.metaparameters.values_after(0).items()}
        tables = {name: _columns(table) for name, table in tables_of(strategy).items()}
        record = cls(path, start, float(net.val_temperature_), net.history, tables)
        if net.ending_ is None:
            return record
        ending: Ending = net.ending_
        return record._replace(weights=ending.weights, averaged=ending.averaged, beside=ending.beside)

    @property
    def values(self) -> dict[str, np.ndarray]:
        """Metaparameters after each iteration; if there was none, the start as the only row."""
        if len(self.path["iteration"]):
            return {name: self.path[name] for name in self.start}
        return {name: value[None] for name, value in self.start.items()}


def tables_of(strategy: Strategy) -> dict[str, np.ndarray]:
    """Return the tables of a strategy, by attribute name."""
    return {name: getattr(strategy, name) for name in STRATEGY_TABLES if hasattr(strategy, name)}


def _columns(table: np.ndarray) -> dict[str, np.ndarray]:
    return {name: table[name].copy() for name in table.dtype.names or ()}


def _table(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Return the columns, at least one, as a structured array."""
    of_each = [(name, column.dtype, column.shape[1:]) for name, column in columns.items()]
    table = np.empty(len(next(iter(columns.values()))), np.dtype(of_each))
    for name, column in columns.items():
        table[name] = column
    return table


def checked_process(process: Any) -> MetaparameterProcess | None:
    """Return the process to follow; load it if it is given as the path of a file."""
    if process is None or isinstance(process, MetaparameterProcess):
        return process
    try:
        return MetaparameterProcess.load(process)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"process={process!r}: there is no such file. Give a file that MetaparameterProcess.save has "
            "written."
        ) from error


# --------------------------------------------------------------------------------------
# The search


def search(
    estimator: DistilledClassifier, plan: DistillationPlan, stage: Stage
) -> tuple[DistillationPlan, TrainingNet]:
    """Search a process, or take it from a checkpoint; return the plan with it, and the net."""
    try:
        if stage.trains:
            check = partial(make_process, estimator, plan)
            read = partial(_judged, estimator, plan)
            found, net = run_search(plan, stage, SearchRecord, read, check)
            for name, columns in found.tables.items():  # left by a killed fit
                setattr(plan.strategy, name, _table(columns))
            return _with_found(estimator, plan, net, found), net
        net = stage.make_net(plan)
    except TrialsInterrupted as interrupted:
        net = interrupted.net
        net.interrupted_ = True
    return conclude_search(estimator, plan, net), net


def conclude_search(
    estimator: DistilledClassifier, plan: DistillationPlan, net: TrainingNet
) -> DistillationPlan:
    """Return the plan with the result of the search that trained the net."""
    return _with_found(estimator, plan, net, _judged(estimator, plan, net))


def _judged(estimator: DistilledClassifier, plan: DistillationPlan, net: TrainingNet) -> SearchRecord:
    """Read the result of a search, with its student's score on D_val if that decides anything."""
    valid = plan.stages[0].data.valid
    if plan.stages[0].trains and not net.interrupted_ and estimator.retrain != "fresh":
        assert valid is not None
        net.ending_ = ending_of(net, valid)
    return SearchRecord.of(net, plan.strategy)


def _with_found(
    estimator: DistilledClassifier, plan: DistillationPlan, net: TrainingNet, found: SearchRecord
) -> DistillationPlan:
    """Return the plan with the result of a search.

    If a user ends the search early, it is the last stage of the plan, and its student is kept.
    """
    process = make_process(estimator, plan, found)
    if net.interrupted_:
        return dataclasses.replace(plan, stages=plan.stages[:1], process=process)
    return dataclasses.replace(plan, process=process, searched=found)


def make_process(
    estimator: DistilledClassifier, plan: DistillationPlan, found: SearchRecord
) -> MetaparameterProcess:
    """Make a process from the result of a search."""
    settings = {name: getattr(estimator, name) for name in _RECORDED} | {
        "meta": repr(plan.strategy),
        "loss": repr(estimator.loss if is_listed(estimator.loss) else plan.net_settings.loss),
        "optimizer": optimizer_class(estimator.optimizer).__name__,
        "student": type(own_student(plan.student)).__name__,
        "retrain": way_to_retrain(estimator, found),
    }
    return MetaparameterProcess(found.values, plan.net_settings.space, settings=settings)


def path_and_process(
    estimator: DistilledClassifier, net: TrainingNet, plan: DistillationPlan
) -> tuple[np.ndarray, MetaparameterProcess | None, History | None]:
    """Return the path of both stages, the process and the history of the search, given the current net.

    The path of a retraining holds the values that it followed; none of them counts as predicted.
    """
    path: np.ndarray = net.metaparameters.table()
    if plan.search is not None and plan.searched is None:  # the net belongs to the search
        found = SearchRecord.of(net, plan.strategy)
        path["search"] = True
        return path, make_process(estimator, plan, found), found.history or None
    if plan.process is None:
        return path, None, None
    path["predicted"] = False
    if plan.searched is None:
        return path, plan.process, None
    before = _table(plan.searched.path)
    path["iteration"] += len(before)
    return np.concatenate([before, path]), plan.process, plan.searched.history or None


# --------------------------------------------------------------------------------------
# The retraining


def way_to_retrain(estimator: DistilledClassifier, found: SearchRecord | None) -> str:
    """Return how the student of the retraining begins and ends: a value of ``retrain`` other than "auto"."""
    if estimator.retrain == "continue" and (found is None or found.weights is None):
        return "fresh"  # there is no student to continue with
    if estimator.retrain != "auto":
        return estimator.retrain
    if found is None or found.averaged is None or estimator._continues():
        return "fresh"
    return "average" if found.averaged else "continue"


def _student_to_retrain(estimator: DistilledClassifier, plan: DistillationPlan, way: str) -> nn.Module:
    """Return a copy of the retraining's student or, if it continues, the search's student with its weights.

    The search's student is needed because of draws that no weight holds, such as the columns that it uses.
    """
    student, found = copy.deepcopy(plan.student), plan.searched
    if way != "continue" or found is None or found.weights is None or estimator._continues():
        return student
    assert plan.search_student is not None
    trained = copy.deepcopy(own_student(plan.search_student))
    load_weights(without_structure(trained), found.weights)
    if own_student(student) is student:
        return trained
    student.student = trained  # inside the layer that scales or resizes
    return student


def retraining_net(estimator: DistilledClassifier, plan: DistillationPlan) -> TrainingNet:
    """Make the net that follows a given or found process."""
    process, settings = plan.process, plan.net_settings
    assert process is not None
    # Followed values are not predictions along the path.
    space = MetaparameterSpace(
        {name: replace(entry, predicted_bounds=None) for name, entry in settings.space.items()}
    )
    schedule = process.schedule(plan.n_steps, estimator.weights)
    rows = np.concatenate([schedule[name].reshape(plan.n_steps, -1) for name in space], axis=1)
    given = process.values if plan.searched is None else None
    features = None if settings.features is None else settings.features.pruned(schedule, given)
    callbacks = [
        *own_callbacks(estimator, RETRAINING),
        *progress_callbacks(estimator.verbose, RETRAINING, estimator.max_epochs),
        *plan.report.epochs(lambda net: estimator._fitted_attributes(net, plan)),
    ]
    way = way_to_retrain(estimator, plan.searched)
    net = make_net(
        estimator,
        settings._replace(space=space, features=features),
        _student_to_retrain(estimator, plan, way),
        _following(rows, _val_temperature(plan)),
        space.shaped(space.split(rows[0])),
        callbacks,
        **(changes_for(estimator, plan.stages[-1]) | {"averaging": _AVERAGING[way]}),
    )
    if way == "continue" and plan.searched is not None and not estimator._continues():
        load_modules(net.others, plan.searched.beside)
    return net


def _following(rows: np.ndarray, val_temperature: Any) -> Strategy:
    """Return the strategy of a training with these rows of values; Fixed if all rows are the same."""
    if (rows == rows[0]).all():
        return Fixed(val_temperature=val_temperature)
    return Following(rows, val_temperature)


def _val_temperature(plan: DistillationPlan) -> Any:
    """Return T_val of the retraining; without a D_val to refit it on, that of the search."""
    if plan.data.valid is None and plan.searched is not None:
        return plan.searched.val_temperature
    return plan.strategy.val_temperature
