"""Check parameters, teacher, student and callbacks before any training."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from sklearn.frozen import FrozenEstimator
from torch import Tensor, nn

from sklearn_kd.errors._context import error_context
from sklearn_kd.estimators._callback_checks import (
    check_callback_names,
    check_clipping,
    check_monitors,
    check_pixel_scorers,
    check_schedules,
    check_scorers,
)
from sklearn_kd.estimators._class_weight import with_class_weight
from sklearn_kd.estimators._images import (
    check_images,
    check_validation_maps,
    network_of,
    refuse_class_weight,
)
from sklearn_kd.estimators._named_objects import named_object
from sklearn_kd.estimators._preprocessing import takes_raw_rows
from sklearn_kd.estimators._routed_parameters import loader_settings
from sklearn_kd.estimators._several_labels import has_several_labels, refuse_classes
from sklearn_kd.estimators._unlabeled import check_given_together, check_one_size
from sklearn_kd.inputs._data import DistillationData, SplitData
from sklearn_kd.inputs._integers import KeepsIntegers
from sklearn_kd.inputs._parts import varied_rows
from sklearn_kd.inputs._raw_rows import RawRows
from sklearn_kd.inputs._stream_data import StreamData
from sklearn_kd.inputs._streams import Stream
from sklearn_kd.inputs._structures import is_structure
from sklearn_kd.inputs._validation import Continued, Loading, ValidatedInputs, validate_fit_inputs
from sklearn_kd.losses import DistillationLoss
from sklearn_kd.meta import STRATEGIES, Linear, Strategy
from sklearn_kd.runtime._devices import full_precision
from sklearn_kd.runtime._execution import Execution
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.runtime._recurrent import copied_module
from sklearn_kd.students._checks import check_student
from sklearn_kd.students._factory import build_student, in_float32
from sklearn_kd.students._resized import ResizedStudent, with_map_size
from sklearn_kd.students._standardize import (
    Standardization,
    StandardizedStudent,
    behind_scaling,
    code_columns,
    own_student,
    takes_codes,
)
from sklearn_kd.students._structured import for_rows, needs_integers
from sklearn_kd.tasks._task import Task, TaskMaker
from sklearn_kd.teachers._adapter import TeacherAdapter
from sklearn_kd.teachers._array_batches import array_teacher_by_batch
from sklearn_kd.teachers._class_alignment import checked_teacher_classes
from sklearn_kd.teachers._given_logits import checked_logits
from sklearn_kd.teachers._label_logits import checked_label_logits
from sklearn_kd.teachers._label_teachers import make_label_teacher
from sklearn_kd.teachers._logit_checks import name_of
from sklearn_kd.teachers._registry import advice_for, make_teacher
from sklearn_kd.training._far import far_iterations

if TYPE_CHECKING:
    from sklearn_kd.estimators._base import BaseDistiller
    from sklearn_kd.training._net import TrainingNet

# --------------------------------------------------------------------------------------
# Parameters and data


# Fitted attributes of some kinds of targets.
_NOT_OF_EVERY_TASK = "label_dtype_", "map_shape_"


def named_strategy(estimator: BaseDistiller) -> Strategy:
    """Return the strategy that ``meta`` names, with ``meta__*`` set, or a copy of the given strategy.

    Raises
    ------
    ValueError
        If the name is unknown.
    TypeError
        If a ``meta__*`` is unknown, or is given with an object.
    """
    makers: dict[str, Callable[[], Strategy]] = {name: STRATEGIES[name] for name in estimator._strategies}
    makers["linear"] = partial(Linear, e1=estimator.e1, e2=estimator.e2)
    given = estimator._routed("meta")
    for name in ("e1", "e2"):
        if name in given and isinstance(estimator.meta, str):
            raise TypeError(
                f"meta__{name} with meta={estimator.meta!r}. Give {name}={given[name]!r} instead."
            )
    return named_object("meta", estimator.meta, makers, given, "a Strategy from sklearn_kd.meta")


def named_execution(estimator: BaseDistiller) -> Execution:
    """Return the execution that ``execution`` names, or a copy of the given execution.

    Raises
    ------
    ValueError, TypeError
        As :func:`named_strategy`, and if one of its parameters is neither True nor False.
    """
    makers = {name: partial(Execution.named, name) for name in estimator._executions}
    given = estimator._routed("execution")
    execution = named_object("execution", estimator.execution, makers, given, "a sklearn_kd.Execution")
    with error_context("execution"):
        execution.check()
    return execution


def refuse_hidden_layers(execution: Execution, beside: str = "") -> None:
    """Raise ValueError for an execution whose passes hide the layers' features.

    ``beside`` tells the message what compares them.
    """
    if execution.compile or execution.cuda_graph:
        raise ValueError(
            f"execution={execution!r}{beside}: compiled or captured passes hide the layers. "
            "Set execution='eager' or 'bfloat16'."
        )


def validate(
    estimator: BaseDistiller,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    X_val: Any = None,
    y_val: Any = None,
    teacher_logits: Any = None,
    X_unlabeled: Any = None,
    teacher_logits_unlabeled: Any = None,
    *,
    sample_weight_val: Any = None,
    groups: Any = None,
    continued: Continued | None = None,
    task_type: TaskMaker | None = None,
) -> ValidatedInputs:
    """Check everything that ``fit`` was given; set the fitted attributes that describe it.

    Parameters
    ----------
    estimator : BaseDistiller
    X, y, sample_weight, X_val, y_val, teacher_logits, X_unlabeled, teacher_logits_unlabeled, \
            sample_weight_val, groups
        The arguments of ``fit``.
    continued : Continued or None, default=None
        The fit that this one continues.
    task_type : TaskMaker or None, default=None
        Makes the task from y. None: the estimator's own.
    """
    check_given_together(teacher_logits, X_unlabeled, teacher_logits_unlabeled)
    given = X, y, sample_weight, X_val, y_val, X_unlabeled
    inputs = validate_data(
        estimator,
        *given,
        sample_weight_val=sample_weight_val,
        groups=groups,
        continued=continued,
        task_type=task_type or estimator._task_type,
    )
    if has_several_labels(inputs.task):
        refuse_classes(estimator.class_weight, estimator.teacher_classes)
    if inputs.task.map_shape:
        refuse_class_weight(estimator.class_weight)
    inputs = with_class_weight(inputs, estimator.class_weight)
    keep_described(estimator, inputs)
    named_rows = X if hasattr(X, "index") else y
    inputs = with_teacher(inputs, teacher_logits, estimator.teacher_classes, named_rows)
    return _with_unlabeled_logits(inputs, teacher_logits_unlabeled, X_unlabeled)


def validate_data(
    estimator: BaseDistiller,
    X: Any,
    y: Any,
    sample_weight: Any,
    X_val: Any,
    y_val: Any,
    X_unlabeled: Any,
    *,
    sample_weight_val: Any,
    groups: Any,
    continued: Continued | None,
    task_type: TaskMaker,
) -> ValidatedInputs:
    """Check what ``fit`` was given, except the teacher's answers, as :func:`validate` does.

    ``task_type`` makes the task from y.
    """
    if is_structure(X) and not estimator._takes_parts:
        raise TypeError(
            f"X is a {type(X).__name__} of several parts, and {type(estimator).__name__} compares layers of "
            "networks that take one tensor. Give one array, or use DistilledClassifier."
        )
    if isinstance(X, Stream):
        raise TypeError(
            f"X is a Stream, which {type(estimator).__name__} does not take. Give X as arrays or as a "
            "map-style Dataset."
        )
    loading = Loading(
        estimator._device(),
        loader_settings(estimator, "iterator_train"),
        loader_settings(estimator, "iterator_valid"),
    )
    inputs = validate_fit_inputs(
        estimator,
        X,
        y,
        sample_weight,
        X_val,
        y_val,
        X_unlabeled,
        sample_weight_val=sample_weight_val,
        groups=groups,
        task_type=task_type,
        loading=loading,
        continued=continued,
        raw=takes_raw_rows(estimator),
        keeps_integers=_keeps_integers_of(estimator) if estimator._takes_parts else None,
    )
    if inputs.task.map_shape:
        check_images(inputs.sample_shape, inputs.task.map_shape)
        check_validation_maps(inputs.valid)
    return inputs


def keep_described(estimator: BaseDistiller, inputs: ValidatedInputs) -> None:
    """Set the fitted attributes of the task, and the shape of a sample."""
    for name in _NOT_OF_EVERY_TASK:
        estimator.__dict__.pop(name, None)  # of an earlier fit
    estimator.__dict__.update(inputs.task.fitted_attributes())
    if not isinstance(inputs.rows, RawRows):  # raw rows have no sample shape yet
        estimator._sample_shape = inputs.sample_shape


def _with_unlabeled_logits(
    inputs: ValidatedInputs, teacher_logits_unlabeled: Any, X_unlabeled: Any
) -> ValidatedInputs:
    """Add the checked ``teacher_logits_unlabeled``; align by the index of ``X_unlabeled``."""
    if inputs.unlabeled is None or teacher_logits_unlabeled is None:
        return inputs
    logits = _check_of_logits(inputs.task)(
        teacher_logits_unlabeled,
        len(inputs.unlabeled),
        inputs.task.output_labels,
        stated=inputs.teacher_columns,
        names=X_unlabeled,
        name="teacher_logits_unlabeled",
        of="X_unlabeled",
    )
    check_one_size(inputs.teacher_logits, logits)
    return dataclasses.replace(inputs, unlabeled=dataclasses.replace(inputs.unlabeled, teacher_logits=logits))


def _check_of_logits(task: Task) -> Callable[..., Any]:
    """Return the check of given logits for this kind of y."""
    if has_several_labels(task):
        return checked_label_logits
    return partial(checked_logits, maps=bool(task.map_shape))


def _keeps_integers_of(estimator: BaseDistiller) -> KeepsIntegers:
    return partial(needs_integers, estimator.student, estimator._routed("student"))


def with_teacher(
    inputs: ValidatedInputs, teacher_logits: Any, teacher_classes: Any, named_rows: Any
) -> ValidatedInputs:
    """Add the checked ``teacher_logits`` and ``teacher_classes``; align by the index of ``named_rows``."""
    labels = inputs.task.output_labels
    columns = checked_teacher_classes(teacher_classes, labels)
    check = _check_of_logits(inputs.task)
    logits = check(teacher_logits, len(inputs.rows), labels, stated=columns, names=named_rows)
    return dataclasses.replace(inputs, teacher_columns=columns, teacher_logits=logits)


# --------------------------------------------------------------------------------------
# Teacher


# Wraps a teacher: callable(teacher, inputs, parameters of the teacher's own fit).
MakeTeacher = Callable[[Any, ValidatedInputs, Mapping[str, Any]], TeacherAdapter]


def make_class_teacher(
    teacher: Any, inputs: ValidatedInputs, fit_parameters: Mapping[str, Any]
) -> TeacherAdapter:
    """Wrap the teacher of a classifier."""
    columns = inputs.teacher_columns
    if has_several_labels(inputs.task):
        return make_label_teacher(teacher, columns, fit_parameters)
    if inputs.task.map_shape:
        teacher, columns = network_of(teacher, columns)
    return make_teacher(teacher, columns, fit_parameters)


def checked_teacher(
    teacher: Any,
    inputs: ValidatedInputs,
    strategy: Strategy,
    loss: DistillationLoss,
    augment: Callable[[Tensor], Tensor] | None,
    fit_parameters: Mapping[str, Any],
    answers: str = "teacher_logits",
    make: MakeTeacher = make_class_teacher,
    asks_for_features: bool = False,
) -> TeacherAdapter | None:
    """Wrap the teacher, with the parameters of its own fit; return None if none is needed.

    ``answers`` is the argument of ``fit`` that replaces the teacher; ``make`` wraps a teacher.
    ``asks_for_features``: the teacher is used even if such answers are given.

    Raises
    ------
    ValueError
        If a teacher is needed but missing, or has to be asked batch by batch but cannot be.
    """
    if not strategy.needs_teacher:
        return None
    given = inputs.teacher_logits is not None
    if given and augment is not None:
        raise ValueError(
            f"{answers} are answers to the rows as given, not to rows that augment has changed. Give a "
            "network as teacher (nn.Module, skorch), which is asked about each augmented batch, "
            "or set augment=None."
        )
    if given:
        if teacher is not None and not asks_for_features:
            warnings.warn(
                f"{answers} are used in place of {name_of(teacher)}, which is not asked. Set "
                f"teacher=None, or leave {answers} out to have it asked.",
                UserWarning,
                stacklevel=2,
            )
        return None
    if teacher is None and not loss.needs_teacher:
        return None
    if teacher is None:
        raise ValueError(
            f"teacher=None leaves nothing to distil. Give a teacher, give {answers} to "
            f"fit, or set meta='none' to train on y alone.{advice_for(teacher)}"
        )
    wrapped = make(teacher, inputs, fit_parameters)
    if inputs.task.map_shape:
        wrapped.ask_for_maps()
    if isinstance(inputs.rows, RawRows) and augment is None:
        wrapped.ask_about_given_rows()
    # If features are asked for, the same pass returns the outputs for an augmented batch.
    in_passing = asks_for_features and augment is not None and not has_several_labels(inputs.task)
    if in_passing or wrapped.takes_batches():
        return wrapped
    own = teacher.estimator if isinstance(teacher, FrozenEstimator) else teacher
    if inputs.stream is not None and augment is None:
        return array_teacher_by_batch(wrapped)
    if inputs.is_loaded or augment is not None:
        mend = f"give fit arrays, or {answers}." if augment is None else "set augment=None."
        raise ValueError(
            f"teacher {type(own).__name__} takes arrays, and cannot be asked batch by batch, "
            f"as {'X is a Dataset' if augment is None else 'augment'} requires. Give a network as "
            f"teacher (nn.Module, skorch), FunctionTeacher(function of tensors, takes='tensor'), or {mend}"
        )
    return wrapped


# --------------------------------------------------------------------------------------
# Student


def initial_student(
    student: Any,
    params: Mapping[str, Any],
    samples: Tensor,
    n_outputs: int,
    *,
    seed: int,
    make_scaling: Callable[[], Standardization | None] | None = None,
    trained: nn.Module | None = None,
    numeric: bool = False,
    map_shape: tuple[int, ...] = (),
) -> nn.Module:
    """Build the student, check it on two samples, and put the layer of ``standardize=True`` in front of it.

    A student that turns its inputs into whole numbers gets no layer. A student that has such a layer keeps
    it; the layer is fitted if it is in its initial state.

    Parameters
    ----------
    student : nn.Module class, instance or function
    params : mapping
        The ``student__*`` parameters by their short names.
    samples : Tensor of shape (n, ...) or Parts
        On the device of the fit; the first two are tried.
    n_outputs : int
        Width of the student's output.
    seed : int
        Seed of the initial weights.
    make_scaling : callable() -> Standardization or None, default=None
        Fits the layer to D_train. None: no layer.
    trained : nn.Module or None, default=None
        The student of the last fit, to continue with instead of a new one.
    numeric : bool, default=False
        Whether the outputs are predicted numbers, not logits.
    map_shape : tuple of int, default=()
        (H, W) of the maps in y, to which the student's maps are resized; () if y has none.
    """
    # All in one context, so that weights made in the first forward pass are drawn from the seed too.
    with preserved_random_state(samples.device, seed):
        if trained is None:
            built = build_student(student, dict(params), tuple(samples.shape[1:]), n_outputs)
        else:
            built = trained
        built, rows = for_rows(built.to(samples.device), samples), samples[:2]
        scaling = built.scaling if isinstance(built, StandardizedStudent) else None
        own = in_float32(own_student(built), rows)
        if scaling is not None:
            _check_columns(scaling, rows)
        is_open = trained is None and (scaling is None or not scaling.is_filled)
        codes = code_columns(own)  # known, unless there are none or the whole table is codes
        if is_open and make_scaling is not None and (codes or not takes_codes(own, rows)):
            scaling = _fitted(scaling, make_scaling(), codes)
        made_by = None if isinstance(student, nn.Module) else student
        own = built if isinstance(built, ResizedStudent) else with_map_size(own, rows, map_shape)
        _check_behind(scaling, own, rows, n_outputs, made_by, numeric, map_shape)
    return built if own_student(built) is not built else behind_scaling(own, scaling)


def _check_columns(scaling: Standardization, rows: Tensor) -> None:
    """Refuse a student whose layer is for another number of columns."""
    n_features = len(scaling.center)
    if rows.shape[-1] != n_features:
        raise ValueError(
            f"student StandardizedStudent cannot take samples of shape {tuple(rows.shape[1:])}: its layer "
            f"has n_features={n_features}. Make it with n_features={rows.shape[-1]}, or give the module "
            "inside it."
        )


def _check_behind(
    scaling: Standardization | None,
    student: nn.Module,
    rows: Tensor,
    n_outputs: int,
    made_by: Any,
    numeric: bool,
    map_shape: tuple[int, ...],
) -> None:
    """Check a student that may be behind a layer; say so if it could be trained without the layer."""
    if scaling is None:
        check_student(student, rows, n_outputs, made_by, numeric=numeric, map_shape=map_shape)
        return
    try:
        check_student(student, scaling(rows), n_outputs, made_by, numeric=numeric)
    except ValueError as error:
        try:
            check_student(student, rows, n_outputs, made_by, numeric=numeric)
        except ValueError:
            raise error from error.__cause__
        raise ValueError(
            f"{str(error).rstrip('.')}. It was given standardised rows, but it takes those of X as they are: "
            "set standardize=False."
        ) from error


def _fitted(
    own: Standardization | None, made: Standardization | None, codes: Sequence[int]
) -> Standardization | None:
    """Return the layer to use: the student's own, filled with the fitted values, or the fitted one."""
    if made is not None:
        made.leave_as_they_are(codes)
    if own is None or made is None:
        return made if own is None else own
    own.fill(made)
    return own


def check_single_rows(
    student: nn.Module, samples: Tensor, valid: DistillationData | None, batch_size: int
) -> None:
    """Refuse batches of one row where the student cannot train on them.

    ``batch_size`` is that of D_train.
    """
    if batch_size != 1 and (valid is None or len(valid) > 1):
        return
    try:
        with preserved_random_state(samples.device), torch.no_grad():
            copied_module(student).train()(samples[:1])
    except ValueError as error:
        raise ValueError(
            f"{'batch_size=1' if batch_size == 1 else 'D_val has 1 row'}, but the student needs at "
            f"least two rows in a batch, as batch normalisation does: {error}"
        ) from error


def check_rows_alone(
    student: nn.Module,
    samples: Tensor,
    hypergradient_rows: int | None,
    batch_size: int,
) -> None:
    """Refuse ``hypergradient_rows`` if a row's logits depend on the rest of its batch."""
    if hypergradient_rows is None:
        return
    # Make a batch of rows that all differ from a few rows.
    batch = varied_rows(samples, torch.linspace(0.5, 1.5, batch_size, device=samples.device))
    student, some = copied_module(student).train(), slice(hypergradient_rows)

    def logits(rows: Any) -> Tensor:
        # TF32 rounds more than the comparison allows, and cuDNN's rounding depends on the batch size.
        with preserved_random_state(batch.device, seed=0), full_precision(batch.device), torch.no_grad():
            return student(rows)[some]

    if not torch.allclose(logits(batch), logits(batch[some]), rtol=1e-3, atol=1e-5):
        raise ValueError(
            f"meta__hypergradient_rows={hypergradient_rows}, but in training the student's logits of "
            "a row depend on the rest of the batch, as with batch normalisation. Set "
            "meta__hypergradient_rows=None."
        )


# --------------------------------------------------------------------------------------
# Callbacks


def dry_run(net: TrainingNet, data: SplitData, who: str, callback_params: Iterable[str] | None) -> int:
    """Run the checks that need skorch and torch, on a net that will not be trained.

    Parameters
    ----------
    net : TrainingNet
        Initialised.
    data : SplitData
    who : str
        What messages call the training.
    callback_params : iterable of str or None
        The ``callbacks__*`` parameters by their short names; None if they are not for this net.

    Returns
    -------
    int
        Number of batches in an epoch.

    Raises
    ------
    ValueError
        If a callback monitors a name that is not recorded, scores classes in a regression or clips a second
        time, a schedule ends too early, or the strategy cannot be used with the net's optimizer, execution
        or objective.
    TypeError
        If ``callback_params`` names a callback that does not exist.
    """
    if callback_params is not None:
        check_callback_names(net, callback_params)
    if data.valid is not None:  # otherwise nothing is learned from it
        far_iterations(net, data)
        net.get_iterator(data.valid)
    n_batches = len(net.get_iterator(data.train, training=True))
    if isinstance(data.train, StreamData):
        data.train.check_divided(net.ranks, net.get_params_for("iterator_train"))
    check_clipping(net)
    if net.task.numeric:
        check_scorers(net)
    elif net.task.map_shape:
        check_pixel_scorers(net)
    check_monitors(net, net.recorded, data.valid is not None, who)
    check_schedules(net, n_batches)
    return n_batches
