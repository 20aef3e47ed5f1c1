"""The function ``distillation_report``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from sklearn_kd.errors._context import error_context
from sklearn_kd.estimators._routed_parameters import loader_settings
from sklearn_kd.inputs._arrays import from_torch
from sklearn_kd.inputs._torch_datasets import is_dataset
from sklearn_kd.report._alone import epochs_of, note_on_alone
from sklearn_kd.report._alone import student_alone as train_alone
from sklearn_kd.report._forms import Form, form_of
from sklearn_kd.report._models import Distilled, Model, fitted_model, student_model, taken_apart_fitted
from sklearn_kd.report._peers import check_peers, given_peers, trained_peers
from sklearn_kd.report._result import DistillationReport, notes_on, numbers_of
from sklearn_kd.report._rows import count_rows, indexable, read_dataset, rows_at
from sklearn_kd.report._scores import difference_between, error_of_mean
from sklearn_kd.report._teacher import answers_model, learns_from_maps_alone, teacher_model, teacher_of
from sklearn_kd.report._timing import Latency, latencies
from sklearn_kd.runtime._torch_modes import ordinary_torch

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch.utils.data import Dataset

_NO_TEACHER = (
    "No row for the teacher: the estimator has not kept it. Fit with keep_teacher=True, or give the report "
    "teacher= (fitted), or its answers to the test rows as teacher_logits= or teacher_predictions=."
)


@ordinary_torch()
def distillation_report(
    estimator: Any,
    X_test: ArrayLike | Dataset,
    y_test: ArrayLike | None = None,
    *,
    teacher: Any = None,
    teacher_logits: ArrayLike | None = None,
    teacher_predictions: ArrayLike | None = None,
    student_alone: Literal["train"] | Any = None,
    X_train: ArrayLike | Dataset | None = None,
    y_train: ArrayLike | None = None,
    fit_params: Mapping[str, Any] | None = None,
    peers: Literal["train"] | Mapping[str, Any] | None = None,
    timing: bool = True,
) -> DistillationReport:
    """Compare a distilled student with its teacher, and with the same student trained without a teacher.

    Parameters
    ----------
    estimator : DistilledClassifier, DistilledRegressor, DistProClassifier, DistProRegressor, Pipeline, search
        Fitted estimator. A Pipeline must end in one of the first four. For a search, its ``best_estimator_``
        is used.
    X_test : array-like of shape (n_samples, n_features) or (n_samples, ...), or Dataset
        Rows on which neither the student nor the teacher was trained, in the form that ``estimator.predict``
        takes. A Dataset is read once, into memory.
    y_test : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
        Labels or numbers, in the form given to ``fit``. None: those in the items of a Dataset.
    teacher : object, default=None
        The trained teacher, of a kind that ``estimator`` takes. None: the teacher that ``estimator`` has kept
        (``keep_teacher=True``) or was given trained. In a Pipeline, the teacher gets the transformed rows, as
        the last step does.
    teacher_logits : array-like of shape (n_samples, n_classes), default=None
        The teacher's logits for the test rows, instead of ``teacher``. Its speed and size are then unknown.
    teacher_predictions : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
        The teacher's predictions for the test rows, in the units of y, instead of ``teacher``; for a
        DistilledRegressor.
    student_alone : "train", fitted estimator or None, default=None
        The same student trained without a teacher. "train": train it on ``X_train`` and ``y_train`` with the
        parameters and the ``random_state`` of ``estimator``, ``meta="none"``, and as many epochs as the
        distilled student. These include the epochs of a search if the student continued after it
        (``retrain``); for a DistProClassifier they are the epochs of the retraining. A fitted estimator: use
        it as the student alone. None: leave the student alone out. The verdict then does not say whether
        distillation helped.
    X_train, y_train : array-like, default=None
        For ``student_alone="train"`` and ``peers="train"``: all labeled rows on which ``estimator`` was
        fitted.
    fit_params : mapping or None, default=None
        For ``student_alone="train"``: further arguments of ``fit``, such as ``{"sample_weight": weight}``.
        In a Pipeline, put the step's name in front.
    peers : "train", dict of fitted estimators or None, default=None
        Further models to compare. "train": train scikit-learn's MLPClassifier or MLPRegressor on standardised
        rows, with the student's hidden units, epochs, batches and, if the student is trained with Adam,
        learning rate. The "peer" learns y; the "taught peer" learns the teacher's labels or predictions
        instead. For tables only. A dict maps names of your choice to fitted estimators.
    timing : bool, default=True
        Whether to time predictions, which takes about a second.

    Returns
    -------
    DistillationReport
        The numbers, a verdict and a picture.

    Raises
    ------
    NotFittedError
        If ``estimator``, ``teacher`` or ``student_alone`` has not been fitted.
    TypeError
        If one of these is of another kind.
    ValueError
        If rows and labels do not match each other or the student, a label is unknown, the training data are
        missing, or ``estimator`` predicts maps.

    See Also
    --------
    ReportDisplay : Draw the report.
    compare_methods : Compare methods over folds and seeds, for differences that hold beyond one fit.

    Notes
    -----
    ``agreement`` is the share of rows for which a model predicts the teacher's label. ``ece`` is the expected
    calibration error of the top label in 15 bins of equal width [1]_; with few rows it is biased upwards. The
    log loss raises probabilities to at least 1.2e-7, the resolution of float32, for all models.

    For several labels, the table has the subset accuracy (all labels of the row are right), macro F1 and the
    mean log loss of the labels. For numbers it has R², the root mean square error, the mean absolute error,
    and the root mean square of the differences to the teacher. For a regressor with ``loss="quantile"`` it
    has the pinball loss and D², which is 1 minus the ratio of this loss to that of ``y_test``'s quantile.

    Calls of the public ``predict_proba`` or ``predict``, or of those of the whole Pipeline, are timed by the
    clock. The models take turns on one machine, which may run other programs too. The size of a model is the
    bytes of its parameters and buffers if it is a network, of its file if it is an ONNX teacher, and
    otherwise of its pickle. ``train_seconds`` of the student do not include the teacher's training. For the
    teacher they are known if it was trained in the same ``fit`` or has a record of them.

    The verdict says that accuracies differ if McNemar's exact test on the test rows has p < .05, and that log
    losses differ if the difference exceeds two paired standard errors. Numbers are compared by a paired
    t-test of the squared errors. All of this is about this one fit of each model: another seed may give
    another verdict.

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
    form = form_of(distilled.task)
    answers = _given_answers(distilled, teacher_logits, teacher_predictions)
    _check_arguments(distilled, teacher, answers, student_alone, X_train, y_train, fit_params, peers)
    X, targets = _checked_rows(distilled, X_test, y_test)
    form.check(targets)
    rows = _TestRows(X, targets)
    models: dict[str, Model] = {}
    taught, notes = _teacher(distilled, form, teacher, answers, rows)
    if taught is not None:
        models["teacher"] = taught
    models["student"] = student_model(distilled)
    # Predict before training other models, so that unusable rows are refused first.
    asked = {role: _asked(model, rows) for role, model in models.items()}
    if student_alone is not None:
        alone = student_alone
        if isinstance(student_alone, str):
            alone = train_alone(distilled, X_train, y_train, fit_params or {})
            notes.append(note_on_alone(distilled.estimator))
        models["student alone"] = fitted_model(alone, distilled, form, "student_alone")
    if isinstance(peers, str):
        n_epochs = epochs_of(distilled.estimator)
        trained, note = trained_peers(distilled, form, X_train, y_train, taught, n_epochs)
        models |= trained
        notes.append(note)
    elif peers is not None:
        models |= given_peers(peers, distilled, form)
    asked |= {role: _asked(model, rows) for role, model in models.items() if role not in asked}
    return _report(models, asked, distilled, form, rows, notes, timing)


class _TestRows(NamedTuple):
    """The test rows in the form that the models get, and their targets."""

    X: Any
    targets: np.ndarray


def _report(
    models: dict[str, Model],
    asked: dict[str, np.ndarray],
    distilled: Distilled,
    form: Form,
    rows: _TestRows,
    notes: list[str],
    timing: bool,
) -> DistillationReport:
    """Score the answers, time the models, and collect all numbers."""
    n_rows = len(rows.targets)
    calls = {role: model.call for role, model in models.items() if model.call is not None}
    times: dict[str, Latency] = latencies(calls, rows.X, n_rows) if timing else {}
    scores = {role: form.task.row_scores(rows.targets, answers) for role, answers in asked.items()}
    panels = {role: form.panel(rows.targets, answers) for role, answers in asked.items()}
    numbers, fidelity = {}, {}
    for role, model in models.items():
        near = None if role == "teacher" or "teacher" not in asked else asked["teacher"]
        values, first = scores[role].values, form.words.measures[0]
        measures = {
            **values,
            f"{first}_standard_error": error_of_mean(scores[role].rows[first]),
            **form.further(panels[role]),
            form.words.agreement[0]: None if near is None else form.agreement(asked[role], near),
        }
        if near is not None:
            fidelity[role] = form.fidelity(rows.targets, asked[role], near)
        numbers[role] = numbers_of(model.kind, measures, model.size, times.get(role), model.seconds)
    differences = {
        role: difference_between(scores["student"], scores[role]) for role in models if role != "student"
    }
    device = distilled.estimator._device()
    n_threads = torch.get_num_threads()
    threads = f"{n_threads} thread{'s' * (n_threads != 1)}"
    where = f"the CPU (torch: {threads})" if device.type == "cpu" else str(device)
    sizes = {role: model.size for role, model in models.items()}
    all_notes = [*form.notes(), *notes_on(times, sizes, where), *notes]
    return DistillationReport(numbers, differences, panels, n_rows, form.words, all_notes, fidelity)


def _asked(model: Model, rows: _TestRows) -> np.ndarray:
    with error_context("X_test"):
        return np.asarray(model.answers(rows.X))


def _teacher(
    distilled: Distilled, form: Form, teacher: Any, answers: Any, rows: _TestRows
) -> tuple[Model | None, list[str]]:
    """Return the teacher's row, or None and a note with the reason."""
    if answers is not None:
        return answers_model(answers, rows.X, len(rows.targets), distilled, form), []
    found = teacher_of(distilled.estimator, teacher)
    if found is None:
        return None, [_NO_TEACHER]
    if teacher is not None or not learns_from_maps_alone(distilled.estimator):
        return teacher_model(found, distilled, form), []
    try:
        model = teacher_model(found, distilled, form)
        model.answers(rows_at(rows.X, np.array([0])))
    except (ValueError, TypeError) as error:  # a network may have no answers, only feature maps
        return None, [f"No row for the teacher, whose feature maps alone were used: {error}"]
    return model, []


# --------------------------------------------------------------------------------------
# Checks


def _given_answers(distilled: Distilled, teacher_logits: Any, teacher_predictions: Any) -> Any:
    """Return the teacher's given answers; raise ValueError if their name is wrong for this estimator."""
    given = {"teacher_logits": teacher_logits, "teacher_predictions": teacher_predictions}
    own = given.pop(distilled.estimator._answers)
    for other, value in given.items():
        if value is not None:
            raise ValueError(
                f"{other} is given, but estimator is a {type(distilled.estimator).__name__}. Give its "
                f"teacher's answers as {distilled.estimator._answers}."
            )
    return own


def _check_arguments(
    distilled: Distilled,
    teacher: Any,
    answers: Any,
    student_alone: Any,
    X_train: Any,
    y_train: Any,
    fit_params: Any,
    peers: Any,
) -> None:
    kind = "regressor" if distilled.task.numeric else "classifier"
    if teacher is not None and answers is not None:
        raise ValueError(
            f"teacher and {distilled.estimator._answers} are both given, but the report has one row for "
            "the teacher. Give one of them."
        )
    check_peers(peers, X_train)
    if isinstance(student_alone, str) and student_alone != "train":
        raise ValueError(
            f'student_alone={student_alone!r} must be "train", a fitted {kind}, or None to leave it out.'
        )
    if isinstance(peers, str) and peers != "train":
        raise ValueError(f'peers={peers!r} must be "train", a dict of fitted estimators, or None.')
    alone_trains, peers_train = isinstance(student_alone, str), isinstance(peers, str)
    if (alone_trains or peers_train) and (X_train is None or (y_train is None and not is_dataset(X_train))):
        missing = "X_train" if X_train is None else "y_train"
        trained = (
            f'student_alone="train" trains the student on {_Y[kind]} alone'
            if alone_trains
            else 'peers="train" trains scikit-learn\'s networks'
        )
        fitted = "student_alone" if alone_trains else "peers"
        raise ValueError(
            f"{trained}, but {missing} is missing. Give X_train and y_train, the labeled rows on which the "
            f"estimator was fitted, or give fitted {fitted}."
        )
    given = {"X_train": X_train, "y_train": y_train, "fit_params": fit_params}
    unused = [name for name, value in given.items() if value is not None]
    if unused and not (alone_trains or peers_train):
        raise ValueError(
            f'{unused[0]} is given, but nothing is trained. Set student_alone="train" to train the student '
            f"without a teacher, or leave {' and '.join(unused)} out."
        )
    if fit_params is not None and not alone_trains:
        raise ValueError(
            'fit_params are given, but peers="train" does not use them: scikit-learn\'s networks are trained '
            'without weights. Set student_alone="train", or leave fit_params out.'
        )


_Y = {"classifier": "the labels", "regressor": "y"}


def _checked_rows(distilled: Distilled, X: Any, y: Any) -> tuple[Any, np.ndarray]:
    """Return the test rows as an array or as given, and their targets."""
    task = distilled.task
    if is_dataset(X):
        settings = loader_settings(distilled.estimator, "iterator_valid")
        X, labels = read_dataset(X, settings, labeled=y is None)
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
        raise ValueError("X_test has 0 rows. Give at least one row, preferably 1,000 or more.")
    targets = task.check_targets(y, n_rows, "y_test", "X_test")
    task.encode(targets, "y_test")  # refuses labels unknown to the student
    return indexable(X), targets
