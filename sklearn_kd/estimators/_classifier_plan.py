"""The plan of a DistilledClassifier's fit: one stage."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from sklearn_kd.errors._context import error_context
from sklearn_kd.estimators._augmentation import checked_augmentation
from sklearn_kd.estimators._callback_checks import listed_callbacks
from sklearn_kd.estimators._classifier_net import (
    DistillationPlan,
    NetSettings,
    loss_of,
    loss_space,
    make_net,
    net_to_train,
    start_of,
)
from sklearn_kd.estimators._classifier_population import train_population
from sklearn_kd.estimators._codes import known_codes
from sklearn_kd.estimators._learned_nothing import warn_of_scales
from sklearn_kd.estimators._plan import (
    Seeds,
    Stage,
    open_checkpoints,
    stage_data,
    train_to_the_end,
)
from sklearn_kd.estimators._preflight import (
    check_rows_alone,
    check_single_rows,
    checked_teacher,
    dry_run,
    initial_student,
    named_execution,
    named_strategy,
)
from sklearn_kd.estimators._preprocessing import (
    check_preprocessing,
    names_of_columns,
    with_preprocessing,
)
from sklearn_kd.estimators._routed_parameters import loader_settings
from sklearn_kd.estimators._standardization import scaling_for
from sklearn_kd.estimators._unlabeled import (
    add_unlabeled,
    has_unlabeled,
    munge_of,
    usable_unlabeled,
    warn_of_another_scale,
)
from sklearn_kd.estimators._unused_parameters import beside_split, beside_strategy, warn_without_effect
from sklearn_kd.inputs._batches import rows_per_batch
from sklearn_kd.inputs._data import DistillationData, SplitData, describe_allocations
from sklearn_kd.inputs._large_arrays import shared_tensor
from sklearn_kd.inputs._parts import Parts
from sklearn_kd.inputs._splitting import HoldOut, at
from sklearn_kd.inputs._unlabeled import UnlabeledRows, given_logits
from sklearn_kd.inputs._validation import ValidatedInputs, check_same_form
from sklearn_kd.losses._distillation_loss import DistillationLoss, check_loss
from sklearn_kd.meta import Strategy
from sklearn_kd.meta._strategy import check_has_validation, updates_metaparameters
from sklearn_kd.persistence._save_load import warn_not_in_file
from sklearn_kd.runtime._execution import Execution
from sklearn_kd.runtime._memory import explain_out_of_memory, memory_advice
from sklearn_kd.runtime._processes import warn_if_distributed
from sklearn_kd.students._checks import check_codes
from sklearn_kd.students._standardize import StandardizedStudent
from sklearn_kd.teachers._adapter import TeacherAdapter
from sklearn_kd.teachers._cached import fit_and_ask
from sklearn_kd.teachers._class_alignment import warn_if_out_of_order
from sklearn_kd.teachers._logit_checks import name_of, naming_rows
from sklearn_kd.teachers._logit_store import LogitStorage
from sklearn_kd.training._divergence import check_scale
from sklearn_kd.training._sklearn_callbacks import FitReport

if TYPE_CHECKING:
    from sklearn_kd.estimators._classifier import DistilledClassifier

NEEDS_NO_VALIDATION = "a meta that does not learn from D_val, such as 'naive'"


class Settings(NamedTuple):
    """Parameters of a DistilledClassifier, checked and made objects."""

    strategy: Strategy
    loss: DistillationLoss
    execution: Execution
    storage: LogitStorage


def checked_parameters(
    estimator: DistilledClassifier, X: Any = None, X_val: Any = None, X_unlabeled: Any = None
) -> Settings:
    """Check the parameters, and make objects of them.

    ``X``, ``X_val`` and ``X_unlabeled`` are those of ``fit``, of which only the form counts here.
    """
    loaded = check_same_form(X, X_val, X_unlabeled)
    estimator._validate_params()
    estimator._check_routed(loaded)
    check_preprocessing(estimator.student_preprocessing)
    warn_not_in_file(estimator)
    loss = loss_of(estimator)
    with error_context("loss"):
        loss.check()
    munge_of(estimator)
    storage = LogitStorage(estimator.teacher_logits_dtype, estimator.teacher_logits_dir)
    storage.check()
    return Settings(named_strategy(estimator), loss, named_execution(estimator), storage)


def plan_distillation(
    estimator: DistilledClassifier, settings: Settings, inputs: ValidatedInputs
) -> DistillationPlan:
    """Check and prepare everything that a training needs; ask the teacher."""
    strategy, loss, execution, storage = settings
    space = loss_space(loss, inputs.task.n_outputs)
    inputs, reasons = usable_unlabeled(estimator, strategy, inputs)
    warn_of_another_scale(inputs)
    holds_out = strategy.learns_from_validation
    reasons += beside_strategy(estimator, strategy, loss, space)
    reasons += beside_split(inputs, f"meta={estimator.meta!r}", holds_out=holds_out)
    warn_without_effect(reasons)
    warn_if_distributed()
    batch_size = rows_per_batch(estimator.batch_size, inputs.n_rows)
    net_settings = NetSettings(inputs.task, loss, space, execution, batch_size)
    start = _checked_start(estimator, strategy, net_settings, inputs)
    fit_parameters = estimator._routed("teacher__fit")
    teacher = checked_teacher(estimator.teacher, inputs, strategy, loss, estimator.augment, fit_parameters)
    before = [estimator.student_, estimator.n_iter_] if estimator._continues() else None
    checkpoints = open_checkpoints(estimator, inputs, [Seeds.draw(estimator.random_state)], before)
    seeds = Seeds(*checkpoints.seeds[0])
    hold_out = None
    if holds_out:
        hold_out = HoldOut(estimator.validation_fraction, seeds.split, NEEDS_NO_VALIDATION)
    inputs = with_preprocessing(estimator, inputs, hold_out)
    data, places = stage_data(estimator, inputs, hold_out, seeds)
    data, further = add_unlabeled(estimator, strategy, inputs, data, places, seeds.teacher)

    student = _checked_student(estimator, inputs, data, seeds.student, strategy.hypergradient_rows)
    with naming_rows(places):
        data.train.augmentation = checked_augmentation(
            estimator.augment, teacher, data.train.samples, student, inputs.task.output_labels
        )
    # What only skorch and torch can judge fails here, before the teacher is trained.
    net = make_net(estimator, net_settings, student, strategy, start, listed_callbacks(estimator.callbacks))
    dry_run(net, data, f"meta={estimator.meta!r}", estimator._routed("callbacks"))

    # Else the teacher is asked while the student trains, or not at all.
    asked = teacher if estimator.augment is None else None
    n_tasks = (asked is not None) + estimator.max_epochs
    report = FitReport(estimator, inputs.X_given, inputs.targets(), inputs.sample_weight, n_tasks)
    if asked is not None:
        with report.teacher():
            logits = _ask_once(estimator, asked, data.train, inputs, places, further, seeds.teacher, storage)
        data.train.set_teacher_logits(logits)
    elif inputs.teacher_logits is not None and strategy.needs_teacher:
        if further:
            logits = given_logits(inputs.teacher_logits, places, further, data.train.device)
            data.train.set_teacher_logits(logits)
        else:
            data.train.set_given_logits(shared_tensor(inputs.teacher_logits), places)
    if data.train.has_teacher_logits:
        who = name_of(estimator.teacher) if inputs.teacher_logits is None else "teacher_logits"
        warn_if_out_of_order(data.train.labelled, inputs.task.output_labels, who)
    monitor = "valid_loss" if updates_metaparameters(strategy) else "train_loss"  # it depends on lambda1, T
    net_maker = partial(net_to_train, estimator)
    train = partial(train_population, estimator) if strategy.trains_population else train_to_the_end
    stage = Stage("training", data, seeds, net_maker, train, monitor)
    return DistillationPlan(
        inputs.task, (stage,), student, strategy, teacher, report, checkpoints, net_settings
    )


def _checked_start(
    estimator: DistilledClassifier, strategy: Strategy, settings: NetSettings, inputs: ValidatedInputs
) -> dict[str, Any]:
    """Check the strategy and the loss with the metaparameters; return where these start."""
    with error_context("meta"):
        strategy.check(settings.space)
    if not strategy.learns_from_validation and strategy.takes_hypergradient(0):
        check_has_validation(strategy, inputs.valid is not None)
    start = start_of(estimator, settings.space, strategy, np.random.default_rng(0))
    has_teacher = strategy.needs_teacher and (
        estimator.teacher is not None or inputs.teacher_logits is not None
    )
    check_loss(
        settings.loss,
        start,
        settings.task.n_outputs,
        weighted=inputs.weight is not None,
        has_teacher=has_teacher,
        unlabeled=has_unlabeled(estimator, strategy, inputs),
    )
    return start


def _checked_student(
    estimator: DistilledClassifier, inputs: ValidatedInputs, data: SplitData, seed: int, n_rows: int | None
) -> nn.Module:
    """Return the student before training: a new one, or that of the last fit where this one goes on."""
    samples = data.train.samples
    estimator._codes = known_codes(estimator)
    student = initial_student(
        estimator.student,
        estimator._student_params(),
        samples,
        inputs.task.n_outputs,
        seed=seed,
        make_scaling=scaling_for(estimator, data.train),
        trained=estimator.student_ if estimator._continues() else None,
    )
    _check_codes(student, inputs)
    batch_size = loader_settings(estimator, "iterator_train", inputs.n_rows)["batch_size"]
    check_single_rows(student, samples, data.valid, batch_size)
    check_scale(student, data, standardized=isinstance(student, StandardizedStudent))
    names = names_of_columns(estimator)
    asked_for, continued = estimator.standardize, estimator._continues()
    warn_of_scales(data.train, student, names, asked_for=asked_for, continued=continued)
    check_rows_alone(student, samples, n_rows, batch_size)
    return student


def _check_codes(student: nn.Module, inputs: ValidatedInputs) -> None:
    """Refuse codes of any rows of the fit that have no place in the student's embedding."""
    counting = slice(None) if inputs.weight is None else np.flatnonzero(inputs.weight)
    of_valid = None if inputs.valid is None else inputs.valid.rows
    of_unlabeled = None if inputs.unlabeled is None else inputs.unlabeled.rows
    for name, rows in (("X_val", of_valid), ("X_unlabeled", of_unlabeled)):
        if isinstance(rows, Parts):
            check_codes(student, rows, name)
    if isinstance(inputs.rows, Parts):
        check_codes(student, inputs.rows[counting], "X")


def _ask_once(
    estimator: DistilledClassifier,
    teacher: TeacherAdapter,
    train: DistillationData,
    inputs: ValidatedInputs,
    places: np.ndarray,
    further: list[UnlabeledRows],
    seed: int,
    storage: LogitStorage,
) -> Tensor:
    """Return the teacher's logits of D_train; it is fitted first, on the rows that have labels.

    These are at ``places`` in X; ``further`` are the others.
    """
    ways = "teacher_logits_dir or teacher_logits_dtype='float16'", "a smaller batch_size with X as a Dataset"

    loader = loader_settings(estimator, "iterator_train", inputs.n_rows)

    def situation() -> str:
        return f"batch_size={loader['batch_size']} and {describe_allocations([train])}"

    advice = memory_advice(estimator._device(), *ways)
    X = None if teacher.takes_batches() else inputs.given_rows(places)  # a copy, which the teacher needs
    with explain_out_of_memory("asking the teacher", situation, advice):
        return fit_and_ask(
            teacher,
            train,
            X,
            inputs.targets(places),
            at(inputs.sample_weight, places),
            output_labels=inputs.task.output_labels,
            seed=seed,
            loader=loader,
            who=name_of(estimator.teacher),
            places=places,
            storage=storage,
            further=further,
        )
