"""Fit a teacher on D_train and compute its logits of all rows, once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from sklearn_kd.errors._context import teacher_context
from sklearn_kd.inputs._data import DistillationData, LoadedData
from sklearn_kd.inputs._torch_datasets import make_ordered_loader
from sklearn_kd.inputs._unlabeled import UnlabeledRows
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.runtime._ranks import ALONE, Ranks
from sklearn_kd.tasks._pixels import images_at_a_time
from sklearn_kd.teachers._adapter import TeacherAdapter
from sklearn_kd.teachers._logit_checks import counting_rows_from, naming_rows
from sklearn_kd.teachers._logit_store import LogitStorage, LogitStore
from sklearn_kd.teachers._shared_answers import OwnBatches, gathered, own_batches

# Rows per forward pass when nothing is learned.
PREDICTION_BATCH = 1024


def prediction_batch(data: DistillationData) -> int:
    """Return the number of rows per forward pass when nothing is learned; fewer for large images."""
    return images_at_a_time(data.shape[1:], PREDICTION_BATCH) if data.map_shape else PREDICTION_BATCH


def fit_teacher(
    teacher: TeacherAdapter,
    X: Any,
    y: np.ndarray,
    weight: np.ndarray | None,
    *,
    seed: int,
    device: torch.device,
) -> None:
    """Train a teacher on D_train, with X and y as the user gave them; leave a trained one as it is."""
    with teacher.drawing_from(seed, device):
        began = time.perf_counter()
        with teacher_context(teacher.name, X):
            teacher.fit(X, y, sample_weight=weight, rng=check_random_state(seed))
        teacher.seconds = time.perf_counter() - began


def ask_teacher(
    teacher: TeacherAdapter,
    X: Any,
    data: DistillationData,
    output_labels: np.ndarray,
    *,
    seed: int,
    who: str,
    storage: LogitStorage | None = None,
    further: Sequence[UnlabeledRows] = (),
    ranks: Ranks = ALONE,
) -> Tensor:
    """Return a fitted teacher's logits for some rows, shape (n, n_outputs).

    Parameters
    ----------
    teacher : TeacherAdapter
    X : array-like
        The rows in the user's container; None for a teacher that takes batches.
    data : DistillationData
        The same rows.
    output_labels : ndarray of shape (n_outputs,)
        Labels of the student's outputs. The columns are in this order.
    seed : int
        Seed of the teacher's random numbers.
    who : str
        Name of the teacher in messages.
    storage : LogitStorage or None, default=None
        None: float32, on the device of ``data``.
    further : sequence of UnlabeledRows, default=()
        Rows of ``data`` that follow those of X.
    ranks : Ranks, default=ALONE
        If there are several, each asks a teacher that takes batches about a share of the rows.

    Raises
    ------
    WrongAnswerError
        If a row has NaN or +inf.
    """
    with teacher.drawing_from(seed, data.device), teacher_context(who, X):
        if further and not teacher.takes_batches():
            logits = _ask_in_parts(teacher, X, data, output_labels, further)
        else:
            shared: Any = data if ranks.size == 1 else OwnBatches(data, ranks)
            logits = teacher.iter_logits(X, shared, output_labels, prediction_batch(data))
            if ranks.size > 1:
                logits = gathered(logits, len(data), ranks)
        return _stored(logits, len(data), storage, who)


def _ask_in_parts(
    teacher: TeacherAdapter,
    X: Any,
    data: Any,  # MixedData or MixedSparseData
    output_labels: np.ndarray,
    further: Sequence[UnlabeledRows],
) -> Iterator[Tensor]:
    """Yield the logits of X and of each further source, asking about each in its own container."""
    n_before = 0
    containers = [X, *(rows.given for rows in further)]
    for given, part in zip(containers, data.parts([data.n_labeled, *map(len, further)]), strict=True):
        with counting_rows_from(n_before):
            answers = [*teacher.iter_logits(given, part, output_labels, prediction_batch(part))]
        yield from answers
        n_before += len(part)


def _ask_by_batch(
    teacher: Any, train: LoadedData, output_labels: np.ndarray, loader: Mapping[str, Any], ranks: Ranks
) -> Iterator[Tensor]:
    """Yield a network's logits for the rows of a Dataset."""
    ask = teacher.on(train.device, output_labels)
    batches: Iterable[Any] = make_ordered_loader(train.rows, **loader)
    if ranks.size == 1:
        return (ask(x.to(train.device).float()) for x, _, _ in batches)
    answers = (ask(x.to(train.device).float()) for x, _, _ in own_batches(batches, ranks))
    return gathered(answers, len(train), ranks)


def _stored(logits: Iterable[Tensor], n_rows: int, storage: LogitStorage | None, who: str) -> Tensor:
    store = LogitStore(n_rows, storage or LogitStorage(), who)
    for part in logits:
        store.append(part)
    return store.finish()


class TeacherRows(NamedTuple):
    """Labeled rows, as the user gave them.

    Attributes
    ----------
    X : array-like or None
        None for a teacher that takes batches.
    y : ndarray of shape (n,)
    weight : ndarray of shape (n,) or None
    places : ndarray of shape (n,)
        Positions of the rows in the whole X, for messages.
    """

    X: Any
    y: np.ndarray
    weight: np.ndarray | None
    places: np.ndarray


def fit_and_ask(
    teacher: TeacherAdapter,
    train: DistillationData,
    rows: TeacherRows,
    *,
    output_labels: np.ndarray,
    seed: int,
    loader: Mapping[str, Any],
    who: str,
    storage: LogitStorage | None = None,
    further: Sequence[UnlabeledRows] = (),
    ranks: Ranks = ALONE,
) -> Tensor:
    """Fit a teacher, and return its logits for all rows of D_train.

    Parameters
    ----------
    teacher : TeacherAdapter
    train : DistillationData
    rows : TeacherRows
        The labeled rows of D_train.
    output_labels, seed, who, storage, further, ranks
        As for :func:`ask_teacher`.
    loader : mapping
        Settings of the DataLoader that reads a Dataset.
    """
    names = [part.names for part in further]
    if isinstance(train, LoadedData):
        # A Dataset may draw from the global generators.
        with naming_rows(rows.places, names), preserved_random_state(train.device, seed):
            logits = _ask_by_batch(teacher, train, output_labels, loader, ranks)
            return _stored(logits, len(train), storage, who)
    if teacher.trains(teacher.fitted):
        with naming_rows(rows.places):
            fit_teacher(teacher, rows.X, rows.y, rows.weight, seed=seed, device=train.device)
    with naming_rows(rows.places, names):
        return ask_teacher(
            teacher,
            rows.X,
            train,
            output_labels,
            seed=seed,
            who=who,
            storage=storage,
            further=further,
            ranks=ranks,
        )
