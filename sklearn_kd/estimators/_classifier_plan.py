"""Plan a DistilledClassifier's fit: one training, or a search and a retraining."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import nn

from sklearn_kd.checkpointing._rank_checkpoints import FitCheckpoints
from sklearn_kd.errors._context import error_context
from sklearn_kd.estimators._augmentation import checked_augmentation
from sklearn_kd.estimators._classifier_net import (
    DistillationPlan,
    NetSettings,
    changes_for,
    loss_space,
    losses_of,
    make_net,
    net_to_train,
    own_callbacks,
    search_epochs_of,
    start_of,
)
from sklearn_kd.estimators._classifier_population import train_population
from sklearn_kd.estimators._classifier_search import (
    checked_process,
    conclude_search,
    retraining_net,
    search,
)
from sklearn_kd.estimators._codes import known_codes
from sklearn_kd.estimators._feature_terms import (
    FeatureTerms,
    as_trained,
    bound_features,
    check_suits_terms,
    check_terms,
    gives_outputs_with_features,
    without_candidates,
)
from sklearn_kd.estimators._learned_nothing import warn_of_scales
from sklearn_kd.estimators._parallel import check_networks, check_same_inputs, ranks_of
from sklearn_kd.estimators._plan import (
    TRAINING,
    Seeds,
    Stage,
    open_checkpoints,
    stage_data,
    train_one,
    train_to_the_end,
)
from sklearn_kd.estimators._preflight import (
    MakeTeacher,
    check_rows_alone,
    check_single_rows,
    checked_teacher,
    dry_run,
    initial_student,
    make_class_teacher,
    named_execution,
    named_strategy,
)
from sklearn_kd.estimators._preprocessing import (
    check_preprocessing,
    names_of_columns,
    with_preprocessing,
)
from sklearn_kd.estimators._routed_parameters import loader_settings
from sklearn_kd.estimators._search import RETRAINING, SEARCH, check_search_epochs, drawn_seeds
from sklearn_kd.estimators._several_labels import check_gives_logits, has_several_labels, loss_of_task
from sklearn_kd.estimators._standardization import scaling_for
from sklearn_kd.estimators._stream_inputs import asked_by_batch, check_has_val
from sklearn_kd.estimators._teacher_answers import StageRows, answer_rows, give_logits, warn_of_order
from sklearn_kd.estimators._unlabeled import (
    add_unlabeled,
    has_unlabeled,
    munge_of,
    usable_unlabeled,
    warn_of_another_scale,
)
from sklearn_kd.estimators._unused_parameters import (
    beside_search,
    beside_split,
    beside_strategy,
    warn_without_effect,
)
from sklearn_kd.inputs._batches import rows_per_batch
from sklearn_kd.inputs._data import DistillationData, SplitData
from sklearn_kd.inputs._parts import Parts
from sklearn_kd.inputs._splitting import HoldOut
from sklearn_kd.inputs._unlabeled import with_unlabeled
from sklearn_kd.inputs._validation import ValidatedInputs, check_same_form
from sklearn_kd.losses._distillation_loss import DistillationLoss, check_loss
from sklearn_kd.losses._labels_alone import LabelLoss
from sklearn_kd.losses._loss_list import ListedLosses
from sklearn_kd.meta import Fixed, Strategy
from sklearn_kd.meta._process import MetaparameterProcess
from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.meta._strategy import (
    check_has_metaparameters,
    check_has_validation,
    updates_metaparameters,
)
from sklearn_kd.persistence._save_load import warn_not_in_file
from sklearn_kd.runtime._execution import Execution
from sklearn_kd.runtime._ranks import Ranks
from sklearn_kd.students._checks import check_codes
from sklearn_kd.students._standardize import StandardizedStudent
from sklearn_kd.teachers._logit_checks import naming_rows
from sklearn_kd.teachers._logit_store import LogitStorage
from sklearn_kd.training._divergence import check_scale
from sklearn_kd.training._sklearn_callbacks import FitReport

if TYPE_CHECKING:
    from sklearn_kd.estimators._classifier import DistilledClassifier

NEEDS_NO_VALIDATION = "a meta that does not learn from D_val, such as 'naive'"


class Settings(NamedTuple):
    """Checked parameters of a DistilledClassifier, as objects."""

    strategy: Strategy
    losses: ListedLosses
    execution: Execution
    storage: LogitStorage
    process: MetaparameterProcess | None
    ranks: Ranks


def checked_parameters(
    estimator: DistilledClassifier,
    X: Any = None,
    X_val: Any = None,
    X_unlabeled: Any = None,
    storage: LogitStorage | None = None,
) -> Settings:
    """Check the parameters and turn them into objects.

    ``X``, ``X_val`` and ``X_unlabeled`` are those of ``fit``; only their form counts here. ``storage``
    is that of the teacher's answers; None: the one that the estimator's parameters ask for.
    """
    loaded = check_same_form(X, X_val, X_unlabeled)
    estimator._validate_params()
    check_search_epochs(estimator.search_epochs)
    estimator._check_routed(loaded)
    check_preprocessing(estimator.student_preprocessing)
    warn_not_in_file(estimator)
    losses = losses_of(estimator)
    with error_context("loss"):
        losses.of_outputs.check()
    check_terms(losses.terms)
    munge_of(estimator)
    if storage is None:
        storage = LogitStorage(estimator.teacher_logits_dtype, estimator.teacher_logits_dir)
    storage.check()
    strategy, execution = named_strategy(estimator), named_execution(estimator)
    if losses.terms:
        strategy = without_candidates(strategy, losses)
        check_suits_terms(strategy, execution)
    process = checked_process(estimator.process)
    if process is not None:  # it moves the metaparameters; the strategy only moves T_val
        strategy = Fixed(val_temperature=strategy.val_temperature)
    return Settings(strategy, losses, execution, storage, process, ranks_of(estimator))


def plan_distillation(
    estimator: DistilledClassifier,
    settings: Settings,
    inputs: ValidatedInputs,
    *,
    make: MakeTeacher = make_class_teacher,
    warn_of_answers: Callable[[Any, ValidatedInputs, DistillationData], None] = warn_of_order,
) -> DistillationPlan:
    """Check and prepare everything that the trainings need, and ask the teacher.

    Parameters
    ----------
    estimator : DistilledClassifier or DistilledRegressor
    settings : Settings
    inputs : ValidatedInputs
    make : callable
        Wraps the teacher, as for :func:`checked_teacher`.
    warn_of_answers : callable(estimator, inputs, train)
        Warns where the teacher's answers to D_train look wrong.
    """
    strategy, process, ranks = settings.strategy, settings.process, settings.ranks
    searches = searches_first(estimator, strategy)
    loss, space, features = _checked_loss(estimator, settings, inputs, searches=searches)
    inputs = _used_inputs(estimator, settings, inputs, loss, space, searches=searches)
    batch_size = rows_per_batch(estimator.batch_size, inputs.n_rows)
    net_settings = NetSettings(inputs.task, loss, space, settings.execution, batch_size, features, ranks)
    start = _checked_start(estimator, strategy, net_settings, inputs)
    teacher = _checked_teacher(estimator, strategy, net_settings, inputs, make)
    checkpoints = _opened_checkpoints(estimator, inputs, process, ranks, searches=searches)
    seeds = [Seeds(*own) for own in checkpoints.seeds]
    hold_out = None
    if strategy.learns_from_validation:
        hold_out = HoldOut(estimator.validation_fraction, seeds[0].split, NEEDS_NO_VALIDATION)
    inputs = with_preprocessing(estimator, inputs, hold_out, ranks)
    rows = _rows_of_stages(estimator, strategy, inputs, hold_out, seeds)
    stages = _stages(estimator, strategy, process, [own.data for own in rows], seeds)
    students = [_checked_student(estimator, inputs, stage, strategy.hypergradient_rows) for stage in stages]
    _set_augmentation(estimator, features, teacher, inputs, rows, students)
    # Checks that need skorch and torch fail here, before the teacher is trained.
    n_steps = _dry_run(estimator, net_settings, stages, students, strategy, start)
    report = _answered_rows(estimator, settings, teacher, inputs, rows, seeds[0].teacher, searches=searches)
    warn_of_answers(estimator, inputs, rows[0].train)
    return DistillationPlan(
        inputs.task,
        stages,
        students[-1],
        strategy,
        teacher,
        report,
        checkpoints,
        ranks,
        net_settings,
        search_student=students[0] if searches else None,
        process=process,
        n_steps=n_steps,
    )


def _checked_loss(
    estimator: DistilledClassifier, settings: Settings, inputs: ValidatedInputs, *, searches: bool
) -> tuple[DistillationLoss, MetaparameterSpace, FeatureTerms | None]:
    """Return the loss of the outputs, the metaparameters, and the feature terms bound to layers."""
    strategy, losses, process = settings.strategy, settings.losses, settings.process
    loss = loss_of_task(losses.of_outputs, inputs.task, losses.given)
    features = bound_features(estimator, strategy, losses.terms, inputs)
    space = loss_space(loss, inputs.task.n_outputs, features)
    if process is not None:
        process.check_fits(space)
    if searches:
        with error_context("meta"):
            check_has_metaparameters(strategy, space)
    return loss, space, features


def _used_inputs(
    estimator: DistilledClassifier,
    settings: Settings,
    inputs: ValidatedInputs,
    loss: DistillationLoss,
    space: MetaparameterSpace,
    *,
    searches: bool,
) -> ValidatedInputs:
    """Return the inputs that the strategy uses; warn of inputs without effect and of suspicious ones."""
    strategy = settings.strategy
    inputs, reasons = usable_unlabeled(estimator, strategy, inputs)
    warn_of_another_scale(inputs)
    reasons += beside_strategy(estimator, strategy, loss, space)
    who = f"meta={estimator.meta!r}" if settings.process is None else "a given process"
    reasons += beside_split(inputs, who, holds_out=strategy.learns_from_validation)
    reasons += beside_search(estimator, searches=searches)
    warn_without_effect(reasons)
    check_has_val(estimator, strategy, inputs)
    check_networks(estimator, settings.ranks)
    check_same_inputs(estimator, inputs, settings.ranks)
    return inputs


def _checked_teacher(
    estimator: DistilledClassifier,
    strategy: Strategy,
    settings: NetSettings,
    inputs: ValidatedInputs,
    make: MakeTeacher,
) -> Any:
    """Return the wrapped teacher, or None if nothing asks for its outputs."""
    if isinstance(settings.loss, LabelLoss):
        return None
    asked = estimator._asked_teacher()
    return checked_teacher(
        asked if settings.features is None else as_trained(asked),
        inputs,
        strategy,
        settings.loss,
        estimator.augment,
        estimator._routed("teacher__fit"),
        answers=estimator._answers,
        make=make,
        asks_for_features=settings.features is not None,
    )


def _set_augmentation(
    estimator: DistilledClassifier,
    features: FeatureTerms | None,
    teacher: Any,
    inputs: ValidatedInputs,
    rows: Sequence[StageRows],
    students: Sequence[nn.Module],
) -> None:
    """Check ``augment`` and set it for the rows of each stage."""
    # Otherwise one pass returns both the outputs for an augmented batch and the features.
    apart = None if gives_outputs_with_features(estimator, features, teacher, inputs) else teacher
    augment = asked_by_batch(estimator.augment, apart, inputs)
    for own, student in zip(rows, students, strict=True):
        with naming_rows(own.places):
            own.train.augmentation = checked_augmentation(
                augment,
                apart,
                own.train.samples,
                student,
                inputs.task.output_labels,
                maps_of=(own.train, inputs.task),
            )


def _answered_rows(
    estimator: DistilledClassifier,
    settings: Settings,
    teacher: Any,
    inputs: ValidatedInputs,
    rows: Sequence[StageRows],
    seed: int,
    *,
    searches: bool,
) -> FitReport:
    """Give the rows the teacher's answers, asked or given; return the report, with that as a task."""
    # Otherwise the teacher is asked while the student trains, or not at all.
    asked = teacher if rows[0].train.augmentation is None else None
    n_tasks = (asked is not None) + estimator.max_epochs + (search_epochs_of(estimator) if searches else 0)
    report = FitReport(estimator, inputs.X_given, inputs.targets(), inputs.sample_weight, n_tasks)
    if asked is not None:
        with report.teacher():
            answer_rows(estimator, asked, inputs, rows, seed, settings.storage, settings.ranks)
    elif inputs.teacher_logits is not None and settings.strategy.needs_teacher:
        give_logits(inputs.teacher_logits, rows)
    return report


def searches_first(estimator: DistilledClassifier, strategy: Strategy) -> bool:
    """Return whether the strategy learns in a search that precedes a retraining on all rows."""
    return estimator.search_epochs is not None and strategy.learns_from_validation


def _opened_checkpoints(
    estimator: DistilledClassifier,
    inputs: ValidatedInputs,
    process: MetaparameterProcess | None,
    ranks: Ranks,
    *,
    searches: bool,
) -> FitCheckpoints:
    """Open the checkpoints of the fit, with the seeds of the last stage and of the search."""
    before: list[Any] = [estimator.student_, estimator.n_iter_] if estimator._continues() else []
    if process is not None:  # it may be given as the path of a file
        before.append(process.values)
    drawn = drawn_seeds(estimator.random_state, searches=searches)
    return open_checkpoints(estimator, inputs, drawn, before or None, ranks)


def _rows_of_stages(
    estimator: DistilledClassifier,
    strategy: Strategy,
    inputs: ValidatedInputs,
    hold_out: HoldOut | None,
    seeds: Sequence[Seeds],
) -> list[StageRows]:
    """Return the rows of each stage: of a single training, or of the search and of the retraining.

    Both stages use the search's synthesised rows, so that the teacher is asked about one set. The
    retraining has D_val's rows with their labels, and does not need them among those without.
    """
    data, places = stage_data(estimator, inputs, hold_out, seeds[-1])
    data, further = add_unlabeled(estimator, strategy, inputs, data, places, seeds[0].teacher)
    first = StageRows(data, places, further)
    if len(seeds) == 1:
        return [first]
    data, places = stage_data(estimator, inputs, None, seeds[0])
    others = [rows for rows in further if rows.places is None]
    train = with_unlabeled(data.train, others, estimator.unlabeled_share)
    return [first, StageRows(data._replace(train=train), places, others)]


def _stages(
    estimator: DistilledClassifier,
    strategy: Strategy,
    process: MetaparameterProcess | None,
    data: Sequence[SplitData],
    seeds: Sequence[Seeds],
) -> tuple[Stage, ...]:
    """Return the single training, the retraining along a given process, or the search and the retraining."""
    # The training loss depends on lambda1 and T.
    moves = updates_metaparameters(strategy)
    train_net = partial(train_population, estimator) if strategy.trains_population else train_one
    if process is None and len(seeds) == 1:
        monitor = "valid_loss" if moves else "train_loss"
        net_maker = partial(net_to_train, estimator)
        given = TRAINING, data[0], seeds[0], net_maker, train_to_the_end, monitor
        return (Stage(*given, train_net=train_net),)
    monitor = "valid_loss" if estimator.weights == "process" else "train_loss"
    net_maker = partial(retraining_net, estimator)
    retraining = Stage(RETRAINING, data[-1], seeds[0], net_maker, train_to_the_end, monitor)
    if len(seeds) == 1:
        return (retraining,)
    searching = Stage(
        SEARCH,
        data[0],
        seeds[1],
        partial(net_to_train, estimator),
        partial(search, estimator),
        monitor="valid_loss",
        who="The student of the search",
        conclude=partial(conclude_search, estimator),
        trains=moves,  # otherwise its trials are the search; one more student would show nothing
        train_net=train_net,
    )
    return searching, retraining


def _dry_run(
    estimator: DistilledClassifier,
    settings: NetSettings,
    stages: Sequence[Stage],
    students: Sequence[nn.Module],
    strategy: Strategy,
    start: dict[str, Any],
) -> int:
    """Run the checks that need skorch and torch; return the number of iterations of the last stage."""
    n_batches = 0
    for stage, student in zip(stages, students, strict=True):
        callbacks, changes = own_callbacks(estimator, stage.name), changes_for(estimator, stage)
        net = make_net(estimator, settings, student, strategy, start, callbacks, **changes)
        who = f"meta={estimator.meta!r}" if stage.name == TRAINING else f"the {stage.name}"
        if stage.name == RETRAINING and len(stages) > 1:
            who += " (there is none with search_epochs=None)"
        params = None if stage.name == SEARCH else estimator._routed("callbacks")
        n_batches = dry_run(net, stage.data, who, params)
    return n_batches * estimator.max_epochs


def _checked_start(
    estimator: DistilledClassifier, strategy: Strategy, settings: NetSettings, inputs: ValidatedInputs
) -> dict[str, Any]:
    """Check the strategy and the loss with the metaparameters; return the start values."""
    with error_context("meta"):
        strategy.check(settings.space)
    if not strategy.learns_from_validation and strategy.takes_hypergradient(0):
        check_has_validation(strategy, inputs.valid is not None)
    start = start_of(estimator, settings.space, strategy, np.random.default_rng(0))
    has_teacher = strategy.needs_teacher and (
        estimator.teacher is not None or inputs.teacher_logits is not None
    )
    unlabeled = settings.task.has_unknown or has_unlabeled(estimator, strategy, inputs)
    own = settings.loss.metaparameters(settings.task.n_outputs)
    check_loss(
        settings.loss,
        {name: start[name] for name in own},
        settings.task.n_outputs,
        weighted=inputs.weight is not None,
        has_teacher=has_teacher,
        unlabeled=unlabeled,
        labels=settings.task.example_targets(unlabeled),
    )
    return start


def _checked_student(
    estimator: DistilledClassifier, inputs: ValidatedInputs, stage: Stage, n_rows: int | None
) -> nn.Module:
    """Return the untrained student of a stage, or the last fit's student if this fit continues.

    A search always has a new one, since the last student may have trained on D_val.
    """
    data, samples = stage.data, stage.data.train.samples
    estimator._codes = known_codes(estimator)
    continues = estimator._continues() and stage.name != SEARCH
    student = initial_student(
        estimator.student,
        estimator._student_params(),
        samples,
        inputs.task.n_outputs,
        seed=stage.seeds.student,
        make_scaling=scaling_for(estimator, data.train),
        trained=estimator.student_ if continues else None,
        numeric=inputs.task.numeric,
        map_shape=inputs.task.map_shape,
    )
    _check_codes(student, inputs)
    if has_several_labels(inputs.task):
        check_gives_logits(student, samples)
    batch_size = loader_settings(estimator, "iterator_train", inputs.n_rows)["batch_size"]
    check_single_rows(student, samples, data.valid, batch_size)
    check_scale(student, data, standardized=isinstance(student, StandardizedStudent))
    if stage.name != SEARCH:  # the retraining has all rows of the search
        names = names_of_columns(estimator)
        warn_of_scales(data.train, student, names, asked_for=estimator.standardize, continued=continues)
    check_rows_alone(student, samples, n_rows, batch_size)
    return student


def _check_codes(student: nn.Module, inputs: ValidatedInputs) -> None:
    """Refuse codes in any rows of the fit that are outside the student's embedding."""
    counting = slice(None) if inputs.weight is None else np.flatnonzero(inputs.weight)
    of_valid = None if inputs.valid is None else inputs.valid.rows
    of_unlabeled = None if inputs.unlabeled is None else inputs.unlabeled.rows
    for name, rows in (("X_val", of_valid), ("X_unlabeled", of_unlabeled)):
        if isinstance(rows, Parts):
            check_codes(student, rows, name)
    if isinstance(inputs.rows, Parts):
        check_codes(student, inputs.rows[counting], "X")
