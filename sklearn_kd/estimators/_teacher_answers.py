"""The teacher's logits of a fit: which rows it is fitted on, and how the stages share its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sklearn_kd.estimators._routed_parameters import loader_settings
from sklearn_kd.inputs._data import DistillationData, SplitData, describe_allocations, take
from sklearn_kd.inputs._large_arrays import shared_tensor
from sklearn_kd.inputs._splitting import at
from sklearn_kd.inputs._unlabeled import UnlabeledRows, given_logits
from sklearn_kd.inputs._validation import ValidatedInputs
from sklearn_kd.runtime._memory import explain_out_of_memory, memory_advice
from sklearn_kd.teachers._adapter import TeacherAdapter
from sklearn_kd.teachers._cached import TeacherRows, fit_and_ask
from sklearn_kd.teachers._class_alignment import warn_if_out_of_order
from sklearn_kd.teachers._logit_checks import name_of
from sklearn_kd.teachers._logit_store import LogitStorage

if TYPE_CHECKING:
    from sklearn_kd.estimators._classifier import DistilledClassifier


class StageRows(NamedTuple):
    """The rows of one stage of a fit.

    Attributes
    ----------
    data : SplitData
    places : ndarray of shape (n,)
        Places in X of D_train's rows that have labels, in rising order.
    further : list of UnlabeledRows
        Rows of D_train without labels, by source, behind the others.
    """

    data: SplitData
    places: np.ndarray
    further: list[UnlabeledRows]

    @property
    def train(self) -> DistillationData:
        """D_train."""
        return self.data.train


def places_for_teacher(stages: Sequence[StageRows]) -> np.ndarray:
    """Return the places in X of the rows that a teacher with ``fit`` is fitted on.

    Those of D_train of the first stage. A teacher that was fitted on D_val's rows would answer them in a
    search as it answers no row that it has not seen, and what is learned would be learned from these answers.

    Parameters
    ----------
    stages : sequence of StageRows
        In the order of training: the search, if there is one, comes first.
    """
    return stages[0].places


def answer_rows(
    estimator: DistilledClassifier,
    teacher: TeacherAdapter,
    inputs: ValidatedInputs,
    stages: Sequence[StageRows],
    seed: int,
    storage: LogitStorage,
) -> None:
    """Fit a teacher that has to be, ask it once, and give each stage its part of the answers.

    It is asked about D_train of the last stage, which has the rows of the others.
    """
    whole = stages[-1]
    logits = _ask_once(estimator, teacher, whole, inputs, places_for_teacher(stages), seed, storage)
    whole.train.set_teacher_logits(logits)
    for part in stages[:-1]:
        _share_logits(logits, whole, part, len(inputs.rows))


def give_logits(logits: np.ndarray, stages: Sequence[StageRows]) -> None:
    """Give each stage its part of ``teacher_logits``, which are of all rows of X."""
    for own in stages:
        if own.further:
            found = given_logits(logits, own.places, own.further, own.train.device)
            own.train.set_teacher_logits(found)
        else:
            own.train.set_given_logits(shared_tensor(logits), own.places)


def warn_of_order(estimator: DistilledClassifier, inputs: ValidatedInputs, train: DistillationData) -> None:
    """Warn where the columns of the logits seem to be in another order than the labels."""
    if train.has_teacher_logits:
        who = name_of(estimator.teacher) if inputs.teacher_logits is None else "teacher_logits"
        warn_if_out_of_order(train.labelled, inputs.task.output_labels, who)


def _share_logits(logits: Tensor, whole: StageRows, part: StageRows, n_rows: int) -> None:
    """Give a stage its part of the logits of the last one, without a copy where its rows have none."""
    if part.train.places is not None and len(whole.places) == n_rows:
        part.train.set_given_logits(logits, part.places)
        return
    index = _rows_among(whole, part)
    if len(index) == len(logits) and (np.diff(index) == 1).all():
        part.train.set_teacher_logits(logits)
        return
    part.train.set_teacher_logits(take(logits, torch.from_numpy(index).to(logits.device)))


def _rows_among(whole: StageRows, part: StageRows) -> np.ndarray:
    """Return where the rows of D_train of a stage are among those of the last stage."""
    starts = np.cumsum([len(whole.places), *map(len, whole.further)])
    start_of = {id(rows): start for rows, start in zip(whole.further, starts, strict=False)}
    found = [np.searchsorted(whole.places, part.places)]
    for rows in part.further:
        if id(rows) in start_of:
            found.append(start_of[id(rows)] + np.arange(len(rows)))
        else:  # rows of D_val without their labels, which the last stage has with them
            assert rows.places is not None
            found.append(np.searchsorted(whole.places, rows.places))
    return np.concatenate(found)


def _ask_once(
    estimator: DistilledClassifier,
    teacher: TeacherAdapter,
    whole: StageRows,
    inputs: ValidatedInputs,
    fitted_on: np.ndarray,
    seed: int,
    storage: LogitStorage,
) -> Tensor:
    """Return the teacher's logits of D_train; it is fitted first, on rows that have labels.

    These are at ``fitted_on`` in X.
    """
    ways = "teacher_logits_dir or teacher_logits_dtype='float16'", "a smaller batch_size with X as a Dataset"
    loader = loader_settings(estimator, "iterator_train", inputs.n_rows)

    def situation() -> str:
        return f"batch_size={loader['batch_size']} and {describe_allocations([whole.train])}"

    def rows_at(places: np.ndarray) -> TeacherRows:
        X = None if teacher.takes_batches() else inputs.given_rows(places)  # a copy, which the teacher needs
        return TeacherRows(X, inputs.targets(places), at(inputs.sample_weight, places), places)

    asked_about = rows_at(whole.places)
    own = None if np.array_equal(fitted_on, whole.places) else rows_at(fitted_on)
    with explain_out_of_memory("asking the teacher", situation, memory_advice(estimator._device(), *ways)):
        return fit_and_ask(
            teacher,
            whole.train,
            asked_about,
            output_labels=inputs.task.output_labels,
            seed=seed,
            loader=loader,
            who=name_of(estimator.teacher),
            fitted_on=own,
            storage=storage,
            further=whole.further,
        )
