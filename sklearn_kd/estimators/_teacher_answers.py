"""Fit the teacher and ask for its logits: on which rows, and how the stages share the answers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.estimators._routed_parameters import loader_settings
from sklearn_kd.estimators._several_labels import has_several_labels
from sklearn_kd.inputs._data import DistillationData, SplitData, describe_allocations, take
from sklearn_kd.inputs._large_arrays import shared_tensor
from sklearn_kd.inputs._splitting import at
from sklearn_kd.inputs._unlabeled import UnlabeledRows, given_logits
from sklearn_kd.inputs._validation import ValidatedInputs
from sklearn_kd.runtime._memory import explain_out_of_memory, memory_advice
from sklearn_kd.runtime._process_group import by_first
from sklearn_kd.runtime._ranks import ALONE, Ranks
from sklearn_kd.teachers._adapter import TeacherAdapter
from sklearn_kd.teachers._cached import TeacherRows, fit_and_ask
from sklearn_kd.teachers._class_alignment import warn_if_out_of_order
from sklearn_kd.teachers._label_order import warn_if_labels_out_of_order
from sklearn_kd.teachers._logit_checks import name_of
from sklearn_kd.teachers._logit_store import LogitStorage
from sklearn_kd.teachers._shared_answers import send_answers

if TYPE_CHECKING:
    from sklearn_kd.estimators._classifier import DistilledClassifier


class StageRows(NamedTuple):
    """The rows of one stage of a fit.

    Attributes
    ----------
    data : SplitData
    places : ndarray of shape (n,)
        Indices in X of D_train's rows with labels, in ascending order.
    further : list of UnlabeledRows
        Rows of D_train without labels, by source, after the others.
    """

    data: SplitData
    places: np.ndarray
    further: list[UnlabeledRows]

    @property
    def train(self) -> DistillationData:
        """D_train."""
        return self.data.train


def answer_rows(
    estimator: DistilledClassifier,
    teacher: TeacherAdapter,
    inputs: ValidatedInputs,
    stages: Sequence[StageRows],
    seed: int,
    storage: LogitStorage,
    ranks: Ranks,
) -> None:
    """Give each stage a teacher's answers to its D_train.

    A teacher that is fitted here is fitted anew on D_train of each stage that holds rows out. Fitted on
    D_val's rows too, it would pass on what it has seen of D_val, and would seem to be right there.
    Otherwise a teacher is asked once, about D_train of the last stage, which includes the rows of the other
    stages.
    """
    whole = stages[-1]
    seconds = 0.0
    shared = []
    for part in stages[:-1]:
        if not teacher.trains(teacher.fitted) or len(part.places) == len(whole.places):
            shared.append(part)
            continue
        own = copy.copy(teacher)  # the other stays untrained
        part.train.set_teacher_logits(_ask(estimator, own, part, inputs, seed, storage, ranks))
        seconds += own.seconds or 0.0
    logits = _ask(estimator, teacher, whole, inputs, seed, storage, ranks)
    whole.train.set_teacher_logits(logits)
    if teacher.seconds is not None:
        teacher.seconds += seconds
    for part in shared:
        _share_logits(logits, whole, part, len(inputs.rows))


def give_logits(logits: np.ndarray, stages: Sequence[StageRows]) -> None:
    """Give each stage its part of ``teacher_logits``, which cover all rows of X."""
    for own in stages:
        if own.further:
            found = given_logits(logits, own.places, own.further, own.train.device)
            own.train.set_teacher_logits(found)
        else:
            own.train.set_given_logits(shared_tensor(logits), own.places)


def warn_of_order(estimator: DistilledClassifier, inputs: ValidatedInputs, train: DistillationData) -> None:
    """Warn if the columns of the logits seem to be in another order than the labels."""
    if not train.has_teacher_logits:
        return
    who = name_of(estimator.teacher) if inputs.teacher_logits is None else "teacher_logits"
    if has_several_labels(inputs.task):
        warn_if_labels_out_of_order(train.labeled, who)
    else:
        warn_if_out_of_order(train.labeled, inputs.task.output_labels, who)


def _share_logits(logits: Tensor, whole: StageRows, part: StageRows, n_rows: int) -> None:
    """Give a stage its part of the last stage's logits, copying only if its rows are copies too."""
    if part.train.places is not None and len(whole.places) == n_rows:
        part.train.set_given_logits(logits, part.places)
        return
    index = _rows_among(whole, part)
    if len(index) == len(logits) and (np.diff(index) == 1).all():
        part.train.set_teacher_logits(logits)
        return
    part.train.set_teacher_logits(take(logits, torch.from_numpy(index).to(logits.device)))


def _rows_among(whole: StageRows, part: StageRows) -> np.ndarray:
    """Return the positions of a stage's D_train rows among those of the last stage."""
    starts = np.cumsum([len(whole.places), *map(len, whole.further)])
    start_of = {id(rows): start for rows, start in zip(whole.further, starts, strict=False)}
    found = [np.searchsorted(whole.places, part.places)]
    for rows in part.further:
        if id(rows) in start_of:
            found.append(start_of[id(rows)] + np.arange(len(rows)))
        else:  # rows of D_val without their labels; the last stage has them with labels
            assert rows.places is not None
            found.append(np.searchsorted(whole.places, rows.places))
    return np.concatenate(found)


def _ask(
    estimator: DistilledClassifier,
    teacher: TeacherAdapter,
    stage: StageRows,
    inputs: ValidatedInputs,
    seed: int,
    storage: LogitStorage,
    ranks: Ranks,
) -> Tensor:
    """Fit the teacher on the rows with labels if needed; return its logits for a stage's D_train.

    With several ranks, the first fits and asks the teacher, and sends the answers to the others. A trained
    teacher that takes batches is asked by each rank about its share of them.
    """
    given = estimator, teacher, stage, inputs, seed, storage
    if ranks.size == 1 or (not teacher.trains(teacher.fitted) and teacher.takes_batches()):
        return _asked_here(*given, ranks)
    found: Tensor | None = None

    def work() -> dict[str, Any]:
        nonlocal found
        found = _asked_here(*given, ALONE)
        left_out = set() if estimator.keep_teacher else {"fitted"}
        return {name: value for name, value in vars(teacher).items() if name not in left_out}

    learned = by_first(ranks, work)
    if not ranks.is_first:
        vars(teacher).update(learned)
    return send_answers(ranks, found, stage.train.device, storage, name_of(estimator.teacher))


def _asked_here(
    estimator: DistilledClassifier,
    teacher: TeacherAdapter,
    stage: StageRows,
    inputs: ValidatedInputs,
    seed: int,
    storage: LogitStorage,
    ranks: Ranks,
) -> Tensor:
    ways = "teacher_logits_dir or teacher_logits_dtype='float16'", "a smaller batch_size with X as a Dataset"
    loader = loader_settings(estimator, "iterator_train", inputs.n_rows)

    def situation() -> str:
        return f"batch_size={loader['batch_size']} and {describe_allocations([stage.train])}"

    places = stage.places
    X = None if teacher.takes_batches() else inputs.given_rows(places)  # a copy that the teacher needs
    rows = TeacherRows(X, inputs.targets(places), at(inputs.sample_weight, places), places)
    with explain_out_of_memory("asking the teacher", situation, memory_advice(estimator._device(), *ways)):
        return fit_and_ask(
            teacher,
            stage.train,
            rows,
            output_labels=inputs.task.output_labels,
            seed=seed,
            loader=loader,
            who=name_of(estimator.teacher),
            storage=storage,
            further=stage.further,
            ranks=ranks,
        )
