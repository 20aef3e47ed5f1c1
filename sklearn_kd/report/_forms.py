"""The forms of y in a report, one for each kind of target. The rest of the report is independent of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from sklearn.base import BaseEstimator, is_classifier
from sklearn.compose import TransformedTargetRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler

from sklearn_kd.comparison._methods import refuse_maps
from sklearn_kd.report._fidelity import Fidelity, GroupFidelity, PredictionFidelity
from sklearn_kd.report._panels import N_BINS, Bins, ErrorCurve, Panel
from sklearn_kd.report._rows import count_rows
from sklearn_kd.report._words import Words
from sklearn_kd.tasks._classification import Classification
from sklearn_kd.tasks._multilabel import Multilabel
from sklearn_kd.tasks._regression import Regression
from sklearn_kd.teachers._label_teachers import check_predicts_labels, label_probabilities_of

Answers = Callable[[Any], np.ndarray]

_OVER_ROWS = (
    "its standard error over the test rows: of this one fit, not over seeds (compare_methods has these)."
)


class Form(Protocol):
    """Everything that a report needs for one kind of target."""

    task: Any
    words: Words
    network: type  # scikit-learn's class of a peer

    def check(self, targets: np.ndarray) -> None:
        """Raise ValueError if the measures are not defined for these targets of test rows."""

    def panel(self, targets: np.ndarray, answers: np.ndarray) -> Panel:
        """Return the right panel of the picture for one model."""

    def further(self, panel: Any) -> dict[str, float]:
        """Return the numbers of the table that are read from the panel."""

    def agreement(self, answers: np.ndarray, of_teacher: np.ndarray) -> float:
        """Return the fidelity of a model to the teacher, as one number."""

    def fidelity(self, targets: np.ndarray, answers: np.ndarray, of_teacher: np.ndarray) -> Fidelity:
        """Return the fidelity by class, by label or along the teacher's predictions."""

    def notes(self) -> list[str]:
        """Return the notes on the columns of the table."""

    # ----------------------------------------------------------------------------------
    # Other models

    def answers_of(self, model: Any, name: str) -> tuple[Answers, Callable[[Any], Any]]:
        """Return the answers of a fitted estimator of any library, and the call that is timed."""

    def from_outputs(self, outputs: Any) -> np.ndarray:
        """Return the answers of a teacher from its logits or standardised predictions."""

    def peer(self, **settings: Any) -> BaseEstimator:
        """Return an unfitted network of scikit-learn with these settings."""

    def answers_of_peer(self, peer: Any) -> tuple[Answers, Callable[[Any], Any]]:
        """Return the answers of a peer, which may have been trained on the teacher's answers."""

    def taught(self, answers: np.ndarray) -> np.ndarray:
        """Return the targets that a taught peer learns instead of y: the teacher's answers."""


def form_of(task: Any) -> Form:
    """Return the form of a task.

    Raises
    ------
    ValueError
        If the targets are maps.
    TypeError
        If the task is of another kind.
    """
    refuse_maps(task, "distillation_report")
    for kind in type(task).__mro__:  # users may subclass a task
        if kind in _FORMS:
            return _FORMS[kind](task)
    raise TypeError(f"distillation_report cannot score a {type(task).__name__}, only labels and numbers.")


class ClassForm:
    """One label for each row."""

    network = MLPClassifier

    def __init__(self, task: Classification):
        self.task = task
        self.words = Words(
            counted="classes",
            n_counted=task.n_outputs,
            measures=task.measures,
            agreement=("agreement", "agreement"),
            y="the labels",
            better="the student is more accurate",
            worse="the student is less accurate",
            as_good="no less accurate than",
            panel=("confidence", "accuracy of the rows"),
            probabilities="log_loss",
        )

    def check(self, targets: np.ndarray) -> None:
        """Accept all labels."""

    def panel(self, targets: np.ndarray, answers: np.ndarray) -> Bins:
        right = self.task.row_scores(targets, answers).rows["accuracy"]
        return Bins.of(answers.max(axis=1), right)

    def further(self, panel: Any) -> dict[str, float]:
        return {"ece": panel.calibration_error}

    def agreement(self, answers: np.ndarray, of_teacher: np.ndarray) -> float:
        return float((answers.argmax(axis=1) == of_teacher.argmax(axis=1)).mean())

    def fidelity(self, targets: np.ndarray, answers: np.ndarray, of_teacher: np.ndarray) -> GroupFidelity:
        """Return the agreement with the teacher among the rows of each class of y."""
        codes, n = np.searchsorted(self.task.classes, targets), self.task.n_outputs
        same = codes[answers.argmax(axis=1) == of_teacher.argmax(axis=1)]
        n_same, n_rows = (np.bincount(rows, minlength=n) for rows in (same, codes))
        return GroupFidelity.of_shares(self.task.classes, n_same, n_rows, "class of the row")

    def notes(self) -> list[str]:
        return [
            f"Accuracy ± {_OVER_ROWS}",
            f"ECE: expected calibration error of the top label, {N_BINS} bins of equal width. Agreement: "
            "share of rows with the teacher's label.",
        ]

    def answers_of(self, model: Any, name: str) -> tuple[Answers, Callable[[Any], Any]]:
        """Return the model's probabilities, in the order of the classes.

        Raises
        ------
        ValueError
            If the model was trained on other classes.
        """
        check_classes(model.classes_, self.task.classes, name)
        return model.predict_proba, model.predict_proba

    def answers_of_peer(self, peer: Any) -> tuple[Answers, Callable[[Any], Any]]:
        """Return the peer's probabilities, 0 for classes that the teacher never predicts."""
        places = np.searchsorted(self.task.classes, peer.classes_)

        def ask(X: Any) -> np.ndarray:
            found = peer.predict_proba(X)
            spread = np.zeros((len(found), self.task.n_outputs), dtype=found.dtype)
            spread[:, places] = found
            return spread

        return ask, peer.predict_proba

    def from_outputs(self, outputs: Any) -> np.ndarray:
        return torch.softmax(torch.as_tensor(outputs), dim=1).numpy()

    def peer(self, **settings: Any) -> BaseEstimator:
        return MLPClassifier(**settings)

    def taught(self, answers: np.ndarray) -> np.ndarray:
        return self.task.classes[answers.argmax(axis=1)]


class LabelForm:
    """Several labels for each row."""

    network = MLPClassifier

    def __init__(self, task: Multilabel):
        self.task = task
        self.words = Words(
            counted="labels",
            n_counted=task.n_outputs,
            measures=task.measures,
            agreement=("agreement", "agreement"),
            y="the labels",
            better="the student is more accurate",
            worse="the student is less accurate",
            as_good="no less accurate than",
            panel=("probability of a label", "share of the rows that have it"),
            probabilities="log_loss",
        )

    def check(self, targets: np.ndarray) -> None:
        """Accept all labels."""

    def panel(self, targets: np.ndarray, answers: np.ndarray) -> Bins:
        return Bins.of(answers.ravel(), np.asarray(targets == 1).ravel())

    def further(self, panel: Any) -> dict[str, float]:
        return {"ece": panel.calibration_error}

    def agreement(self, answers: np.ndarray, of_teacher: np.ndarray) -> float:
        return float(((answers > 0.5) == (of_teacher > 0.5)).all(axis=1).mean())

    def fidelity(self, targets: np.ndarray, answers: np.ndarray, of_teacher: np.ndarray) -> GroupFidelity:
        """Return the agreement with the teacher on each label, among all rows."""
        same = ((answers > 0.5) == (of_teacher > 0.5)).sum(axis=0)
        return GroupFidelity.of_shares(range(self.task.n_outputs), same, len(answers), "label")

    def notes(self) -> list[str]:
        return [
            f"Subset accuracy: share of rows whose labels are all right, ± {_OVER_ROWS}",
            "Macro F1 and log loss: means over the labels. ECE: expected calibration error of the labels' "
            f"probabilities, {N_BINS} bins of equal width. Agreement: share of rows with all of the "
            "teacher's labels.",
        ]

    def answers_of(self, model: Any, name: str) -> tuple[Answers, Callable[[Any], Any]]:
        """Return the model's probabilities of the labels. The model must predict a matrix of labels."""
        n_labels = self.task.n_outputs

        def ask(X: Any) -> np.ndarray:
            check_predicts_labels(model, X, n_labels)
            return label_probabilities_of(model, X, count_rows(X), n_labels)

        return ask, model.predict_proba

    def answers_of_peer(self, peer: Any) -> tuple[Answers, Callable[[Any], Any]]:
        return self.answers_of(peer, "peers")

    def from_outputs(self, outputs: Any) -> np.ndarray:
        return torch.sigmoid(torch.as_tensor(outputs)).numpy()

    def peer(self, **settings: Any) -> BaseEstimator:
        return MLPClassifier(**settings)

    def taught(self, answers: np.ndarray) -> np.ndarray:
        return (answers > 0.5).astype(int)


class NumberForm:
    """One or several numbers for each row."""

    network = MLPRegressor

    def __init__(self, task: Regression):
        self.task = task
        error = "absolute error of a row" if task.single else "error of a row, in standard deviations"
        self.words = Words(
            counted="targets",
            n_counted=task.n_targets,
            measures=task.measures,
            agreement=("rmse_to_teacher", "RMSE to teacher"),
            y="y",
            better="the student predicts better",
            worse="the student predicts worse",
            as_good="no worse than",
            panel=(error, "share of the rows within it"),
        )

    def check(self, targets: np.ndarray) -> None:
        """Refuse targets that are the same in all rows.

        Raises
        ------
        ValueError
            If all targets are the same. The message names y_test.
        """
        if (np.ptp(targets, axis=0) == 0).any():
            raise ValueError(
                f"y_test has the same number in all of its {len(targets)} rows, so R² is undefined. Give "
                "rows whose targets differ."
            )

    def panel(self, targets: np.ndarray, answers: np.ndarray) -> ErrorCurve:
        errors = np.abs(answers - targets)
        if self.task.single:
            return ErrorCurve.of(errors, "median of the absolute error")
        scaled = errors.reshape(len(errors), -1) / self.task.scale
        return ErrorCurve.of(np.sqrt((scaled**2).mean(axis=1)), "median of the error")

    def further(self, panel: Any) -> dict[str, float]:
        return {}

    def agreement(self, answers: np.ndarray, of_teacher: np.ndarray) -> float:
        apart = (answers - of_teacher).reshape(len(answers), -1)
        return float(np.sqrt((apart**2).mean(axis=0)).mean())

    def fidelity(self, targets: np.ndarray, answers: np.ndarray, of_teacher: np.ndarray) -> Fidelity:
        """Return the differences along the teacher's predictions, or the distance in each of many targets."""
        if self.task.single:
            return PredictionFidelity.of(np.ravel(answers), np.ravel(of_teacher))
        distance = np.sqrt(((answers - of_teacher) ** 2).mean(axis=0)) / self.task.scale
        names = tuple(map(str, range(len(distance))))
        label = "RMSE to teacher, in standard deviations of the target"
        return GroupFidelity(names, distance, np.full(len(distance), np.nan), label, "target")

    def notes(self) -> list[str]:
        if "d2" in self.words.measures:
            measure = (
                "D² (1 − pinball loss / pinball loss of the quantile of y_test)",
                "Pinball loss is",
            )
        else:
            measure = "R²", "RMSE (root mean square error) and MAE (mean absolute error) are"
        several = "" if self.task.single else ", means over the targets"
        return [
            f"{measure[0]} ± {_OVER_ROWS}",
            f"{measure[1]} in the units of y{several}. RMSE to teacher: RMSE of the differences to its "
            "predictions.",
        ]

    def answers_of(self, model: Any, name: str) -> tuple[Answers, Callable[[Any], Any]]:
        """Return the model's predictions. Each row must get as many finite numbers as y has.

        Raises
        ------
        TypeError
            If the model is a classifier.
        """
        if is_classifier(model):
            raise TypeError(f"{name} is a classifier, {type(model).__name__}. Give a fitted regressor.")

        def ask(X: Any) -> np.ndarray:
            found, n_targets = np.asarray(model.predict(X), dtype=np.float64), self.task.n_targets
            if found.size != len(found) * n_targets or not np.isfinite(found).all():
                raise ValueError(
                    f"{name} predicts numbers of shape {found.shape}, {np.isfinite(found).sum()} of them "
                    f"finite, but y has {n_targets} for each row. Give a regressor that was fitted on the "
                    "same y."
                )
            return found.reshape(len(found), *[] if self.task.single else [n_targets])

        return ask, model.predict

    def answers_of_peer(self, peer: Any) -> tuple[Answers, Callable[[Any], Any]]:
        return self.answers_of(peer, "peers")

    def from_outputs(self, outputs: Any) -> np.ndarray:
        return self.task.decode(np.asarray(outputs))

    def peer(self, **settings: Any) -> BaseEstimator:
        """Return the network, which learns standardised targets.

        Raises
        ------
        ValueError
            If the estimator estimates a quantile, which MLPRegressor cannot.
        """
        if "d2" in self.words.measures:
            raise ValueError(
                "peers='train': MLPRegressor estimates the mean of y, but the estimator a quantile. Give "
                "fitted peers={name: regressor}, or peers=None."
            )
        return TransformedTargetRegressor(MLPRegressor(**settings), transformer=StandardScaler())

    def taught(self, answers: np.ndarray) -> np.ndarray:
        return answers


_FORMS: dict[type, Callable[[Any], Form]] = {
    Classification: ClassForm,
    Multilabel: LabelForm,
    Regression: NumberForm,
}


def check_classes(own: Any, classes: np.ndarray, name: str) -> None:
    """Raise ValueError if a model was trained on other classes than the student."""
    if not np.array_equal(own, classes):
        raise ValueError(
            f"{name} was trained on the classes {np.asarray(own).tolist()[:10]}, but the distilled "
            f"student on {classes.tolist()[:10]}. Train both on rows of the same classes."
        )
