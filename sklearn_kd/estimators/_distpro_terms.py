"""The loss term of the teacher's outputs that accompanies the pathways: logits, or predicted numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import Tensor

from sklearn_kd.distpro._process import DistillationProcess, retraining_logit_term
from sklearn_kd.errors._context import error_context
from sklearn_kd.estimators._regression_warnings import warn_of_units_in_batches
from sklearn_kd.estimators._unused_parameters import beside_logit_term, beside_output_term
from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.inputs._validation import ValidatedInputs
from sklearn_kd.losses._distillation_loss import check_loss
from sklearn_kd.losses._logit_distillation import LogitDistillation
from sklearn_kd.losses._output_loss import LearnedOutputLoss, OutputLoss, WeightedOutputLoss
from sklearn_kd.losses._regression import RegressionLoss
from sklearn_kd.meta._process import MetaparameterProcess
from sklearn_kd.meta._space import Metaparameter
from sklearn_kd.tasks._regression import Regression
from sklearn_kd.tasks._task import Task
from sklearn_kd.teachers._features import FeatureTeacher

if TYPE_CHECKING:
    from sklearn_kd.training._net import TrainingNet

# Start value of a learned lambda1, and the bounds of T, as in DistilledClassifier.
INITIAL_LAMBDA1 = 0.5
TEMPERATURE_BOUNDS = (1.0, 10.0)

# Columns of a schedule by name, each with one row per step.
Columns = dict[str, np.ndarray]


class TeacherTerm(Protocol):
    """The term of the teacher's outputs beside the pathways, and the loss on y with it."""

    @property
    def name(self) -> str:
        """Name of the estimator's parameter."""

    @property
    def weight(self) -> float | str:
        """Value of that parameter: a number, or "learned"."""

    @property
    def words(self) -> str:
        """Name of the learned metaparameters in messages."""

    def check(self) -> None:
        """Raise ValueError or TypeError if the parameters cannot be used."""

    def check_start(self) -> None:
        """Raise ValueError if a search cannot start from the metaparameters' start values."""

    def check_task(self, task: Task, *, weighted: bool) -> None:
        """Try the loss on two rows; ``weighted``: whether the rows will have weights."""

    def unused(self, estimator: Any, process: DistillationProcess | None) -> list[str]:
        """List parameters of the estimator that the term leaves without effect."""

    def metaparameters(self, task: Task) -> dict[str, Metaparameter]:
        """Return the metaparameters of the loss."""

    def starts(self, task: Task) -> dict[str, Any]:
        """Return the start value of each metaparameter."""

    def output_loss(self, task: Task) -> OutputLoss:
        """Return the loss on the outputs."""

    def ask(self, teacher: FeatureTeacher, samples: Tensor, inputs: ValidatedInputs) -> None:
        """Make the teacher return, besides its feature maps, what the term compares the outputs with."""

    def warn_of_answers(self, net: TrainingNet, train: DistillationData, teacher: FeatureTeacher) -> None:
        """Warn if the teacher's outputs for rows of D_train look wrong; ``net`` is not trained yet."""

    def settings(self) -> dict[str, Any]:
        """Return the parameters that a process records."""

    def path_in(self, process: DistillationProcess) -> Any:
        """Return the path of the metaparameters in a process, or None."""

    def other_path_in(self, process: DistillationProcess) -> Any:
        """Return the path in a process that only another kind of estimator can follow, or None."""

    def check_path(self, process: DistillationProcess, task: Task) -> None:
        """Raise ValueError if the path in a process has other metaparameters."""

    def found(self, table: np.ndarray) -> Any:
        """Return the path of a search, from its table, as arrays that a checkpoint can hold."""

    def for_process(self, found: Any, task: Task) -> dict[str, Any]:
        """Return the arguments of :class:`DistillationProcess` for the path of a search."""

    def schedule(self, process: DistillationProcess, n_steps: int, weights: str) -> Columns:
        """Return the metaparameters at all steps of a retraining along a process."""


def is_learned(term: TeacherTerm) -> bool:
    """Return whether a term's metaparameters are learned together with the pathways."""
    return isinstance(term.weight, str)


def check_followed(term: TeacherTerm, process: DistillationProcess | None, weights: str) -> None:
    """Refuse a process that lacks the path asked for, or has a path that would be ignored.

    Parameters
    ----------
    term : TeacherTerm
    process : DistillationProcess or None
        The process given to the estimator.
    weights : str
        The estimator's parameter.
    """
    if weights != "equal" and process is not None:
        _check_same(term, process)
    elif is_learned(term) and weights == "equal":
        raise ValueError(
            f"{term.name}='learned' with weights='equal', which does not search, has no {term.words} "
            f"to follow. Give {term.name} as a number."
        )
    if is_learned(term) and process is None:
        term.check_start()


def _check_same(term: TeacherTerm, process: DistillationProcess) -> None:
    learned, has = is_learned(term), f"{term.name}={term.weight!r}, but the given process has"
    if term.other_path_in(process) is not None:
        raise ValueError(
            f"{has} a path of metaparameters that was learned for another kind of target and cannot be "
            "followed here. Make a process of its raw and pathways alone."
        )
    if learned == (term.path_in(process) is not None):
        return
    if learned:
        raise ValueError(
            f"{has} no path of {term.words}. Give {term.name} as a number, or search a process with "
            f"{term.name}='learned'."
        )
    raise ValueError(
        f"{has} a path of {term.words}. Set {term.name}='learned' to follow them, or make a process of its "
        "raw and pathways alone."
    )


class LogitTerm:
    """The term of a classifier: logit_weight · T² · CE(teacher at T), a :class:`TeacherTerm`.

    Parameters
    ----------
    weight : float or "learned"
        ``logit_weight``.
    temperature : float
        T, or its start value.
    """

    name = "logit_weight"
    words = "lambda1 and T"

    def __init__(self, weight: float | str, temperature: float):
        self.weight, self.temperature = weight, temperature
        self._loss = LogitDistillation(TEMPERATURE_BOUNDS)

    def check(self) -> None:
        """Check nothing: the types of the parameters are checked already."""

    def check_start(self) -> None:
        """Refuse a T outside its bounds."""
        low, high = TEMPERATURE_BOUNDS
        if not low <= self.temperature <= high:
            raise ValueError(
                f"temperature={self.temperature!r}, the start value of a learned T, must be within its "
                f"bounds [{low:g}, {high:g}]."
            )

    def check_task(self, task: Task, *, weighted: bool) -> None:
        """Check nothing: the loss is the library's."""

    def unused(self, estimator: Any, process: DistillationProcess | None) -> list[str]:
        """List temperature and ``meta__lr`` where they have no effect."""
        return beside_logit_term(estimator, process)

    def metaparameters(self, task: Task) -> dict[str, Metaparameter]:
        """Return lambda1 and T."""
        return self._loss.metaparameters(task.n_outputs)

    def starts(self, task: Task) -> dict[str, Any]:
        """Return the start values of lambda1 and T."""
        return {"lambda1": INITIAL_LAMBDA1, "temperature": self.temperature}

    def output_loss(self, task: Task) -> OutputLoss:
        """Return the loss of labels and of the teacher's logits."""
        if isinstance(self.weight, str):
            return LearnedOutputLoss(self._loss, ("lambda1", "temperature"))
        return WeightedOutputLoss(self._loss, self.weight, {"temperature": self.temperature})

    def ask(self, teacher: FeatureTeacher, samples: Tensor, inputs: ValidatedInputs) -> None:
        """Make the teacher return logits of the classes of y."""
        task = inputs.task
        teacher.align_logits(samples, task.output_labels, inputs.teacher_columns, task.map_shape)

    def warn_of_answers(self, net: TrainingNet, train: DistillationData, teacher: FeatureTeacher) -> None:
        """Warn of nothing: logits have no units, and their columns are checked."""

    def settings(self) -> dict[str, Any]:
        """Return ``logit_weight`` and ``temperature``."""
        return {"logit_weight": self.weight, "temperature": self.temperature}

    def path_in(self, process: DistillationProcess) -> np.ndarray | None:
        """Return ``logit_term``."""
        return process.logit_term

    def other_path_in(self, process: DistillationProcess) -> Any:
        """Return ``output_term``, a regressor's."""
        return process.output_term

    def check_path(self, process: DistillationProcess, task: Task) -> None:
        """Check nothing: a process has both lambda1 and T, or neither."""

    def found(self, table: np.ndarray) -> np.ndarray | None:
        """Return (lambda1, T) by step, float32 of shape (n_steps, 2)."""
        if not isinstance(self.weight, str):
            return None
        return np.stack([table["lambda1"], table["temperature"]], axis=1).astype(np.float32)

    def for_process(self, found: Any, task: Task) -> dict[str, Any]:
        """Return the path as ``logit_term``."""
        return {"logit_term": found}

    def schedule(self, process: DistillationProcess, n_steps: int, weights: str) -> Columns:
        """Return lambda1 and T at all steps of a retraining."""
        if not isinstance(self.weight, str):
            return {}
        rows = retraining_logit_term(process, n_steps, weights).astype(np.float64)
        return dict(zip(("lambda1", "temperature"), rows.T, strict=True))


class PredictionTerm:
    """The term of a regressor: output_weight · L(teacher's predictions), a :class:`TeacherTerm`.

    Parameters
    ----------
    weight : float or "learned"
        ``output_weight``.
    loss : RegressionLoss
        lambda1 · L(y) + (1 − lambda1) · L(teacher).
    """

    name = "output_weight"

    def __init__(self, weight: float | str, loss: RegressionLoss):
        self.weight, self.loss = weight, loss

    @property
    def words(self) -> str:
        """Names of the loss's metaparameters."""
        names = [*self.loss.metaparameters(self.loss.criterion().outputs_per_target)]
        return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)

    def check(self) -> None:
        """Check the loss and its parameters."""
        with error_context("loss"):
            self.loss.check()

    def check_start(self) -> None:
        """Check nothing: the loss checks each start value."""

    def check_task(self, task: Task, *, weighted: bool) -> None:
        """Try the loss on two rows, and refuse a metaparameter whose start value is not a number."""
        entries = self.metaparameters(task)
        for name, entry in entries.items():
            if name != "lambda1" and (entry.start is None or isinstance(entry.start, str)):
                raise ValueError(
                    f"Metaparameter {name!r} of the loss starts at {entry.start!r}. With pathways, each "
                    "except lambda1 must start at a number. Give it one: Metaparameter(start, ...)."
                )
        check_loss(
            self.loss,
            self.starts(task),
            task.n_outputs,
            weighted=weighted,
            has_teacher=self.weight != 0,
            unlabeled=task.has_unknown,
            labels=task.example_targets(task.has_unknown),
        )

    def unused(self, estimator: Any, process: DistillationProcess | None) -> list[str]:
        """List parameters of the loss, and ``meta__lr``, where they have no effect."""
        return beside_output_term(estimator, process, self.loss)

    def metaparameters(self, task: Task) -> dict[str, Metaparameter]:
        """Return lambda1 and the loss's other metaparameters."""
        with error_context("loss"):
            return self.loss.metaparameters(task.n_outputs)

    def starts(self, task: Task) -> dict[str, Any]:
        """Return the start value of each metaparameter."""
        own = {name: entry.start for name, entry in self.metaparameters(task).items()}
        return own | {"lambda1": INITIAL_LAMBDA1}

    def output_loss(self, task: Task) -> OutputLoss:
        """Return the loss of y and of the teacher's predictions."""
        starts = self.starts(task)
        if isinstance(self.weight, str):
            return LearnedOutputLoss(self.loss, tuple(starts))
        del starts["lambda1"]
        return WeightedOutputLoss(self.loss, self.weight, starts)

    def ask(self, teacher: FeatureTeacher, samples: Tensor, inputs: ValidatedInputs) -> None:
        """Make the teacher return its predictions, standardised like y."""
        assert isinstance(inputs.task, Regression)
        teacher.align_numbers(samples, inputs.task)

    def warn_of_answers(self, net: TrainingNet, train: DistillationData, teacher: FeatureTeacher) -> None:
        """Warn of predictions that are not in the units of y."""
        if self.weight:
            warn_of_units_in_batches(net, train, teacher)

    def settings(self) -> dict[str, Any]:
        """Return ``output_weight`` and ``loss``."""
        return {"output_weight": self.weight, "loss": repr(self.loss)}

    def path_in(self, process: DistillationProcess) -> MetaparameterProcess | None:
        """Return ``output_term``."""
        return process.output_term

    def other_path_in(self, process: DistillationProcess) -> Any:
        """Return ``logit_term``, a classifier's."""
        return process.logit_term

    def check_path(self, process: DistillationProcess, task: Task) -> None:
        """Refuse a path whose metaparameters are not those of the loss."""
        if process.output_term is not None:
            process.output_term.check_fits(self.metaparameters(task))

    def found(self, table: np.ndarray) -> dict[str, np.ndarray] | None:
        """Return the values of each metaparameter by step."""
        if not isinstance(self.weight, str):
            return None
        names: Sequence[str] = table.dtype.names or ()
        own = self.loss.metaparameters(self.loss.criterion().outputs_per_target)
        return {name: np.ascontiguousarray(table[name]) for name in names if name in own}

    def for_process(self, found: Mapping[str, np.ndarray] | None, task: Task) -> dict[str, Any]:
        """Return the path as ``output_term``."""
        if found is None:
            return {}
        return {"output_term": MetaparameterProcess(found, self.metaparameters(task))}

    def schedule(self, process: DistillationProcess, n_steps: int, weights: str) -> Columns:
        """Return each metaparameter at all steps of a retraining."""
        if not isinstance(self.weight, str):
            return {}
        assert process.output_term is not None  # checked in check_followed, or searched
        backwards = weights == "reversed"
        followed: Any = "process" if backwards else weights
        columns = process.output_term.schedule(n_steps, followed)
        return {name: rows[::-1].copy() if backwards else rows for name, rows in columns.items()}
