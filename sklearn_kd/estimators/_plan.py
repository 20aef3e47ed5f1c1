"""Run a fit: a plan of one or more stages, their training, and the fitted attributes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from sklearn.utils import check_random_state
from torch import Tensor, nn

from sklearn_kd.checkpointing._checkpointer import Checkpointer, teacher_signature
from sklearn_kd.checkpointing._checkpoints import Checkpoints, released_on_failure
from sklearn_kd.checkpointing._file import prepare_checkpoint_dir
from sklearn_kd.checkpointing._fingerprint import fingerprint, relevant_parameters, sample_rows
from sklearn_kd.checkpointing._rank_checkpoints import FitCheckpoints, RankCheckpoints
from sklearn_kd.estimators._learned_nothing import convergence_message, warn_of_convergence
from sklearn_kd.estimators._preprocessing import described_preprocessing
from sklearn_kd.estimators._regression_warnings import regression_message
from sklearn_kd.estimators._routed_parameters import loader_settings
from sklearn_kd.estimators._several_labels import has_several_labels, message_of_labels
from sklearn_kd.inputs._batches import rows_per_batch
from sklearn_kd.inputs._data import SplitData
from sklearn_kd.inputs._raw_rows import RawRows
from sklearn_kd.inputs._sparse_rows import SparseRows
from sklearn_kd.inputs._splitting import HoldOut, split_data
from sklearn_kd.inputs._torch_datasets import DatasetRows
from sklearn_kd.inputs._validation import Rows, ValidatedInputs
from sklearn_kd.meta import Strategy
from sklearn_kd.runtime._global_lock import torch_state_lock
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.runtime._ranks import ALONE, Ranks
from sklearn_kd.tasks._regression import Regression
from sklearn_kd.tasks._task import Task
from sklearn_kd.training._alone import train_alone
from sklearn_kd.training._interrupts import end_interrupted
from sklearn_kd.training._sklearn_callbacks import FitReport
from sklearn_kd.training._trainer_state import TrainerState
from sklearn_kd.training._trials import TrialsInterrupted

if TYPE_CHECKING:
    from sklearn_kd.estimators._base import BaseDistiller
    from sklearn_kd.training._net import TrainingNet

Fit = TypeVar("Fit", bound=Callable[..., Any])

TRAINING = "training"  # the only stage of a single training


class Seeds(NamedTuple):
    """Seeds, one per use, so that methods compared with the same ``random_state`` are paired."""

    split: int
    teacher: int
    student: int
    training: int
    train_batches: int
    valid_batches: int
    strategy: int

    @classmethod
    def draw(cls, random_state: int | np.random.RandomState | None) -> Seeds:
        """Draw fresh seeds from an int, a RandomState or None."""
        with (
            torch_state_lock()
        ):  # another thread that holds the lock may have seeded NumPy's global generator
            rng = check_random_state(random_state)
            return cls(*(int(seed) for seed in rng.randint(np.iinfo(np.int32).max, size=len(cls._fields))))


# --------------------------------------------------------------------------------------
# The plan


@dataclass(frozen=True, eq=False)
class Stage:
    """One training of a fit.

    Attributes
    ----------
    name : str
        Name for its checkpoints: "training"; "search" and "retraining" if there are two stages.
    data : SplitData
    seeds : Seeds
    make_net : callable(plan) -> TrainingNet
        Makes the net to train: ``_classifier_net.net_to_train``, ``retraining_net`` of
        ``_classifier_search``, or ``_search_net`` and ``_retraining_net`` of ``_distpro_plan``.
    train : callable(plan, stage) -> (plan, net)
        Trains the net: :func:`train_to_the_end`, ``search`` of ``_classifier_search``, or ``_search`` of
        ``_distpro_plan``. Returns the plan with what later stages need, and the net. Each
        iteration is ``TrainingNet.train_step``.
    monitor : str
        Column of the history with a loss that is comparable across epochs, if there is one.
    who : str
        What messages call the student.
    conclude : callable(plan, net) -> plan
        Returns the plan with the results of the trained net; the unchanged plan if there is only one stage.
        ``train`` calls it.
    train_net : callable(plan, stage, net)
        Trains a net that :func:`ready_net` has made: :func:`train_one`, or
        ``_classifier_population.train_population``.
    trains : bool
        False: making the net gives all results, such as the best of several trials; nothing is trained.
    """

    name: str
    data: SplitData
    seeds: Seeds
    make_net: Callable[[Any], TrainingNet]
    train: Callable[[Any, Stage], tuple[FitPlan, TrainingNet]]
    monitor: str = "train_loss"
    who: str = "The student"
    conclude: Callable[[Any, TrainingNet], Any] = lambda plan, net: plan
    trains: bool = True
    train_net: Callable[[Any, Stage, Any], None] = lambda plan, stage, net: train_one(plan, stage, net)


@dataclass(frozen=True, eq=False)
class FitPlan:
    """One fit, checked and ready for training.

    Attributes
    ----------
    task : Task
        The kind of target that y is.
    stages : tuple of Stage
        Stages in order of training; the last one trains the student to keep.
    student : nn.Module
        Copied by each net; never changed.
    strategy : Strategy
        How the metaparameters move.
    teacher : Teacher, FeatureTeacher or None
    report : FitReport
    checkpoints : Checkpoints or RankCheckpoints
    ranks : Ranks
        The processes that train together.
    """

    task: Task
    stages: tuple[Stage, ...]
    student: nn.Module
    strategy: Strategy
    teacher: Any
    report: FitReport
    checkpoints: FitCheckpoints
    ranks: Ranks

    @property
    def data(self) -> SplitData:
        """D_train and D_val of the student to keep."""
        return self.stages[-1].data

    @property
    def seeds(self) -> Seeds:
        """Seeds of the student to keep."""
        return self.stages[-1].seeds

    def teacher_signature(self) -> Tensor | None:
        """Return some of the teacher's logits, from which a checkpoint recognises the teacher."""
        train = self.data.train
        if train.augmentation is None:
            if not train.has_teacher_logits:
                return None
            return teacher_signature(map(_of_rows, train.iter_teacher_logits()), len(train))
        _, ask = train.augmentation
        if ask is None:
            return None
        with preserved_random_state(train.device, self.seeds.teacher):
            return teacher_signature([_of_rows(ask(train.samples))], len(train.samples))


def _of_rows(logits: Tensor) -> Tensor:
    """Return the logits of rows; for maps, the mean over each."""
    return logits if logits.ndim == 2 else logits.mean(dim=(2, 3))


class TrainingResult(NamedTuple):
    """Result of a fit: the completed plan, the last net, a warning or None, and the seconds of training."""

    plan: FitPlan
    net: TrainingNet
    message: str | None
    seconds: float | None = None


# --------------------------------------------------------------------------------------
# Make the plan


def stage_data(
    estimator: BaseDistiller, inputs: ValidatedInputs, hold_out: HoldOut | None, seeds: Seeds
) -> tuple[SplitData, np.ndarray]:
    """Return D_train and D_val of a stage, and the indices in X of D_train's rows."""
    return split_data(
        inputs,
        hold_out,
        train_seed=seeds.train_batches,
        valid_seed=seeds.valid_batches,
        device=estimator._device(),
        batch_size=rows_per_batch(estimator.batch_size, inputs.n_rows),
    )


def open_checkpoints(
    estimator: BaseDistiller,
    inputs: ValidatedInputs,
    seeds: Sequence[Seeds],
    before: Any = None,
    ranks: Ranks = ALONE,
) -> FitCheckpoints:
    """Open the checkpoints of a fit; their seeds replace those drawn.

    With several ranks, the first has the files, and all use its seeds.

    Parameters
    ----------
    estimator : BaseDistiller
    inputs : ValidatedInputs
    seeds : sequence of Seeds
        The seeds drawn, one entry per stage.
    before : object, default=None
        What the fit continues from.
    ranks : Ranks, default=ALONE
    """
    if ranks.size == 1:
        return _own_checkpoints(estimator, inputs, seeds, before)
    if ranks.is_first:
        return RankCheckpoints(ranks, _own_checkpoints(estimator, inputs, seeds, before))
    return RankCheckpoints(ranks, Checkpoints(None, "", seeds, False))


def _own_checkpoints(
    estimator: BaseDistiller, inputs: ValidatedInputs, seeds: Sequence[Seeds], before: Any
) -> Checkpoints:
    folder = prepare_checkpoint_dir(estimator.checkpoint_dir)
    if folder is None:
        return Checkpoints(None, "", seeds, False)
    # With None, each process draws other seeds for the same fit; each state of a RandomState means
    # another fit.
    is_open = estimator.random_state is None
    valid = inputs.valid
    further: dict[str, Any] = {} if inputs.stream is None else {"stream": inputs.n_rows}
    further |= {} if inputs.unlabeled is None else {"unlabeled": _described_unlabeled(estimator, inputs)}
    digest = fingerprint(
        estimator=type(estimator),
        parameters=relevant_parameters(estimator),
        seeds=None if is_open else seeds,
        device=str(estimator._device()),
        rows=[
            _described_rows(estimator, inputs.rows, "iterator_train"),
            None if valid is None else _described_rows(estimator, valid.rows, "iterator_valid"),
        ],
        n_rows=len(inputs.rows),
        codes=[inputs.codes, None if valid is None else valid.codes],
        classes=inputs.task.output_labels,
        weight=[inputs.weight, None if valid is None else valid.weight],
        groups=inputs.groups,
        logits=inputs.teacher_logits,
        before=before,
        **further,
        preprocessing=described_preprocessing(estimator),
    )
    return Checkpoints(folder, digest, seeds, is_open)


def _described_unlabeled(estimator: BaseDistiller, inputs: ValidatedInputs) -> list[Any]:
    """Return what represents the unlabeled rows, and their logits, in the digest of a fit."""
    unlabeled = inputs.unlabeled
    assert unlabeled is not None
    rows = _described_rows(estimator, unlabeled.rows, "iterator_train")
    return [rows, len(unlabeled), unlabeled.teacher_logits]


def _described_rows(estimator: BaseDistiller, rows: Rows, part: str) -> Any:
    """Return what represents rows in the digest of a fit."""
    if isinstance(rows, DatasetRows):
        return sample_rows(rows, loader_settings(estimator, part).get("collate_fn"))
    return rows.described() if isinstance(rows, (RawRows, SparseRows)) else rows


# --------------------------------------------------------------------------------------
# Run the plan


def run_plan(plan: FitPlan) -> TrainingResult:
    """Train the stages of a plan one after another; an interrupt ends the plan with the current stage."""
    message, began = None, time.perf_counter()
    for stage in plan.stages:
        plan, net = stage.train(plan, stage)
        message = stage_message(plan, stage, net) or message
        if net.interrupted_:
            break
    return TrainingResult(plan, net, message, time.perf_counter() - began)


def stage_message(plan: FitPlan, stage: Stage, net: TrainingNet) -> str | None:
    """Return a message about a trained net that learned nothing or was still learning."""
    if has_several_labels(plan.task):
        return message_of_labels(net, stage.data.train.labeled, stage.monitor, stage.who)
    if isinstance(plan.task, Regression):
        return regression_message(net, stage.data.train.labeled, plan.task, stage.monitor, stage.who)
    labels = plan.task.output_labels
    return convergence_message(net, stage.data.train.labeled, labels, stage.monitor, stage.who)


def train_to_the_end(plan: FitPlan, stage: Stage) -> tuple[FitPlan, TrainingNet]:
    """Train the net of a stage, or what a checkpoint leaves of its training."""
    try:
        net = ready_net(plan, stage)
    except TrialsInterrupted as interrupted:
        interrupted.net.interrupted_ = True
        return plan, interrupted.net
    stage.train_net(plan, stage, net)
    return plan, net


def train_one(plan: FitPlan, stage: Stage, net: TrainingNet) -> None:
    """Train a single net."""
    train_alone(net, stage.data, stage.seeds.training)


def ready_net(plan: FitPlan, stage: Stage) -> TrainingNet:
    """Make the net of a stage, which writes checkpoints if there is a folder for them."""
    net = stage.make_net(plan)
    if plan.checkpoints.active:
        signature = plan.teacher_signature()
        net.checkpointer_ = Checkpointer(plan.checkpoints, stage.name, TrainerState(net), signature)
    return net


# Fitted attributes that only some strategies and losses set.
_NOT_OF_EVERY_FIT = ("trials_", "moves_", "lambda1_", "temperature_")


def publish(estimator: BaseDistiller, result: TrainingResult) -> None:
    """Set the fitted attributes, warn if anything went wrong, and end the fit."""
    plan, net, message, seconds = result
    fitted = estimator._fitted_attributes(net, plan)
    fitted |= {"_student_seconds": seconds, "_teacher_seconds": getattr(plan.teacher, "seconds", None)}
    fitted["_teacher_columns"] = getattr(plan.teacher, "known_columns", None)
    for name in _NOT_OF_EVERY_FIT:
        estimator.__dict__.pop(name, None)  # of an earlier fit
    estimator.__dict__.update(fitted)
    net.metaparameters.forget_path()  # otherwise every pickle would hold it twice
    net.optimizer_.state.clear()  # a later fit starts anew; Adam's is twice the size of the student
    net.average_ = net.ending_ = None  # each as large as the student
    warn_of_convergence(message)
    plan.report.finish()
    plan.checkpoints.close(net.interrupted_)
    end_interrupted(net.interrupted_, len(net.history), net.max_epochs, estimator.n_iter_)


def restore_on_failure(fit: Fit) -> Fit:
    """Decorate ``fit`` to restore the estimator's attributes if it fails or ends before it has trained.

    The checkpoints are then free for the next fit.
    """

    @wraps(fit)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = self.__dict__.copy()
        try:
            with released_on_failure():
                return fit(self, *args, **kwargs)
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    return guarded  # type: ignore[return-value]
