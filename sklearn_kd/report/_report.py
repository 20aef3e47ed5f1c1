"""The function that makes a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from sklearn_kd.errors._context import error_context
from sklearn_kd.estimators._routed_parameters import loader_settings
from sklearn_kd.inputs._arrays import from_torch
from sklearn_kd.inputs._torch_datasets import is_dataset
from sklearn_kd.report._alone import student_alone as train_alone
from sklearn_kd.report._models import (
    Distilled,
    Model,
    classifier_model,
    learns_from_maps_alone,
    logits_model,
    student_model,
    taken_apart_fitted,
    teacher_model,
    teacher_of,
)
from sklearn_kd.report._result import DistillationReport, difference_between, notes_on, numbers_of
from sklearn_kd.report._rows import count_rows, indexable, read_dataset, rows_at
from sklearn_kd.report._scores import Scores, scores_of
from sklearn_kd.report._timing import Latency, latencies
from sklearn_kd.runtime._torch_modes import ordinary_torch

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch.utils.data import Dataset

_NO_TEACHER = (
    "No row for the teacher: the estimator has not kept it. Fit with keep_teacher=True, or give the report "
    "teacher= (fitted) or teacher_logits= (of the test rows)."
)


@ordinary_torch()
def distillation_report(
    estimator: Any,
    X_test: ArrayLike | Dataset,
    y_test: ArrayLike | None = None,
    *,
    teacher: Any = None,
    teacher_logits: ArrayLike | None = None,
    student_alone: Literal["train"] | Any = None,
    X_train: ArrayLike | Dataset | None = None,
    y_train: ArrayLike | None = None,
    fit_params: Mapping[str, Any] | None = None,
    timing: bool = True,
) -> DistillationReport:
    """Compare a distilled student with its teacher, and with the same student trained without one.

    Parameters
    ----------
    estimator : DistilledClassifier, DistProClassifier, Pipeline that ends in one, or a search over these
        Fitted. A search gives its ``best_estimator_``.
    X_test : array-like of shape (n_samples, n_features) or (n_samples, ...), or Dataset
        Rows that neither the student nor the teacher was trained on, in the form that ``estimator``
        predicts for. A Dataset is read once, into memory.
    y_test : array-like of shape (n_samples,), default=None
        Labels. None: those in the items of a Dataset.
    teacher : object, default=None
        The trained teacher, of a kind that ``estimator`` takes. None: the one that ``estimator`` has kept
        (``keep_teacher=True``), or was given trained. It sees what the classifier sees: in a Pipeline
        the transformed rows.
    teacher_logits : array-like of shape (n_samples, n_classes), default=None
        The teacher's logits of the test rows, in place of ``teacher``; then its speed and size are unknown.
    student_alone : "train", fitted classifier or None, default=None
        "train": train the same student on the labels of ``X_train``, ``y_train`` alone: the parameters and
        the ``random_state`` of ``estimator``, with ``meta="none"``. Of a DistProClassifier it trains for
        the epochs of the retraining. Or the student alone, already fitted. None: it is left out, and
        nothing is said about whether distillation helped.
    X_train, y_train : array-like, default=None
        For ``student_alone="train"``: all the labeled rows that ``estimator`` was fitted on.
    fit_params : mapping or None, default=None
        For ``student_alone="train"``: further arguments of its ``fit``, such as
        ``{"sample_weight": weight}``, with the step's name in front in a Pipeline.
    timing : bool, default=True
        Whether to time predictions, which takes about a second.

    Returns
    -------
    DistillationReport

    Raises
    ------
    NotFittedError
        If ``estimator``, ``teacher`` or ``student_alone`` has not been fitted.
    TypeError
        If one of them is of another kind.
    ValueError
        If rows and labels do not fit together or the student, a label is unknown, or the training data are
        missing.

    See Also
    --------
    compare_methods : Fits over folds and seeds, for differences that hold beyond one fit.

    Notes
    -----
    ``agreement`` is the share of rows for which a model predicts the teacher's label. ``ece`` is the expected
    calibration error of the top label in 15 bins of equal width [1]_; with few rows it is biased upwards. The
    log loss raises probabilities to at least 1.2e-7, the resolution of float32, for all models alike.

    Predictions are timed by the clock, by the public ``predict_proba`` (of a whole Pipeline where there is
    one), the models in turn, on one machine with whatever else it does. Bytes are those of the parameters and
    buffers of networks, of the files of ONNX teachers, and of pickles of anything else. ``train_seconds`` are
    those of the student's training, without the teacher's, and of the teacher's where it was trained in the
    same ``fit`` or has a record of them.

    The verdict says that accuracies differ if McNemar's exact test on the test rows has p < .05, and that log
    losses differ beyond two paired standard errors. Both hold for this one fit of each model: another seed
    may give another verdict.

    References
    ----------
    .. [1] Guo, Pleiss, Sun, Weinberger. "On calibration of modern neural networks", ICML 2017.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sklearn.model_selection import train_test_split
    >>> from sklearn_kd import DistilledClassifier, MLPStudent, distillation_report
    >>> X, X_test, y, y_test = train_test_split(*load_digits(return_X_y=True), random_state=0)
    >>> clf = DistilledClassifier(
    ...     RandomForestClassifier(50), MLPStudent, max_epochs=10, keep_teacher=True, random_state=0)
    >>> report = distillation_report(
    ...     clf.fit(X, y), X_test, y_test, student_alone="train", X_train=X, y_train=y)
    >>> list(report.to_dict()["models"])
    ['teacher', 'student', 'student alone']
    >>> print(report)  # doctest: +SKIP
    """
    distilled = taken_apart_fitted(estimator)
    _check_arguments(teacher, teacher_logits, student_alone, X_train, y_train, fit_params)
    X, codes = _checked_rows(distilled, X_test, y_test)
    models: dict[str, Model] = {}
    taught, notes = _teacher(distilled, teacher, teacher_logits, X, len(codes))
    if taught is not None:
        models["teacher"] = taught
    models["student"] = student_model(distilled)
    # Asked before a student alone is trained, so that rows that cannot be used are refused first.
    scores = {role: _scores(model, X, codes) for role, model in models.items()}
    if student_alone is not None:
        alone = student_alone
        if isinstance(student_alone, str):
            alone = train_alone(distilled, X_train, y_train, fit_params or {})
        models["student alone"] = classifier_model(alone, distilled.classes, "student_alone")
        scores["student alone"] = _scores(models["student alone"], X, codes)
    return _report(models, scores, distilled, X, notes, timing)


def _report(
    models: dict[str, Model],
    scores: dict[str, Scores],
    distilled: Distilled,
    X: Any,
    notes: list[str],
    timing: bool,
) -> DistillationReport:
    """Time the models, and put all numbers together."""
    calls = {role: model.call for role, model in models.items() if model.call is not None}
    n_rows = len(scores["student"].right)
    times: dict[str, Latency] = latencies(calls, X, n_rows) if timing else {}
    numbers = {
        role: numbers_of(
            model.kind,
            scores[role],
            None if role == "teacher" else scores.get("teacher"),
            model.size,
            times.get(role),
            model.seconds,
        )
        for role, model in models.items()
    }
    differences = {
        role: difference_between(scores["student"], scores[role]) for role in models if role != "student"
    }
    device = distilled.classifier._device()
    n_threads = torch.get_num_threads()
    threads = f"{n_threads} thread{'s' * (n_threads != 1)}"
    where = f"the CPU (torch: {threads})" if device.type == "cpu" else str(device)
    sizes = {role: model.size for role, model in models.items()}
    return DistillationReport(
        numbers,
        differences,
        {role: found.bins for role, found in scores.items()},
        distilled.classes,
        [*notes_on(times, sizes, where), *notes],
    )


def _scores(model: Model, X: Any, codes: np.ndarray) -> Scores:
    with error_context("X_test"):
        return scores_of(np.asarray(model.probabilities(X)), codes)


def _teacher(
    distilled: Distilled, teacher: Any, logits: Any, X: Any, n_rows: int
) -> tuple[Model | None, list[str]]:
    """Return the teacher's row, or None and a note that says why there is none."""
    if logits is not None:
        return logits_model(logits, X, n_rows, distilled), []
    found = teacher_of(distilled.classifier, teacher)
    if found is None:
        return None, [_NO_TEACHER]
    if teacher is not None or not learns_from_maps_alone(distilled.classifier):
        return teacher_model(found, distilled), []
    try:
        model = teacher_model(found, distilled)
        model.probabilities(rows_at(X, np.array([0])))
    except ValueError as error:  # a network may have no answers, only feature maps
        return None, [f"No row for the teacher, of which only feature maps were used: {error}"]
    return model, []


# --------------------------------------------------------------------------------------
# Checks


def _check_arguments(
    teacher: Any, teacher_logits: Any, student_alone: Any, X_train: Any, y_train: Any, fit_params: Any
) -> None:
    if teacher is not None and teacher_logits is not None:
        raise ValueError(
            "teacher and teacher_logits are both given, and each would make the teacher's row. Give one of "
            "them."
        )
    if isinstance(student_alone, str) and student_alone != "train":
        raise ValueError(
            f'student_alone={student_alone!r} must be "train", a fitted classifier, or None to leave it out.'
        )
    trains = isinstance(student_alone, str)
    if trains and (X_train is None or (y_train is None and not is_dataset(X_train))):
        missing = "X_train" if X_train is None else "y_train"
        raise ValueError(
            f'student_alone="train" trains the student on the labels alone, but {missing} is missing. Give '
            "X_train and y_train, the labeled rows that the estimator was fitted on, or give a fitted "
            "student_alone."
        )
    given = {"X_train": X_train, "y_train": y_train, "fit_params": fit_params}
    unused = [name for name, value in given.items() if value is not None]
    if unused and not trains:
        raise ValueError(
            f'{unused[0]} is given, but nothing is trained. Set student_alone="train" to train the student '
            f"without a teacher, or leave {' and '.join(unused)} out."
        )


def _checked_rows(distilled: Distilled, X: Any, y: Any) -> tuple[Any, np.ndarray]:
    """Return the test rows as an array or as given, and the column of each row's label."""
    task = distilled.classifier._task
    if is_dataset(X):
        settings = loader_settings(distilled.classifier, "iterator_valid")
        X, labels = read_dataset(X, settings, labelled=y is None)
        if y is None:
            y = np.concatenate([np.asarray(from_torch(part, "The labels in X_test")) for part in labels])
    elif y is None:
        raise ValueError(
            "y_test is missing: give one label per row of X_test, or a Dataset of pairs (x, label)."
        )
    X, y = from_torch(X, "X_test"), from_torch(y, "y_test")
    with error_context("X_test"):
        n_rows = count_rows(X)
    if n_rows == 0:
        raise ValueError("X_test has 0 rows: there is nothing to report on. Give at least one, better 1,000.")
    return indexable(X), task.encode(task.check_targets(y, n_rows, "y_test", "X_test"), "y_test")
