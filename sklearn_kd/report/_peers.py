"""Peers of a student: scikit-learn's networks of its size, trained on y and on the teacher's answers."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sklearn_kd.errors._context import error_context
from sklearn_kd.inputs._arrays import from_torch
from sklearn_kd.inputs._batches import rows_per_batch
from sklearn_kd.inputs._structures import is_structure
from sklearn_kd.inputs._torch_datasets import is_dataset
from sklearn_kd.report._forms import Form
from sklearn_kd.report._models import Distilled, Model, fitted_model
from sklearn_kd.report._rows import count_rows
from sklearn_kd.report._sizes import size_of
from sklearn_kd.runtime._optimizers import optimizer_class
from sklearn_kd.students._architectures import MLPStudent
from sklearn_kd.students._standardize import own_student

_SAME = (
    " In all of X_train, the teacher's answers equal y_train, as they often do if it was fitted on these "
    "rows: both peers learned the same, and have the same scores if the estimator's random_state is a number."
)
# Roles of the report's own models, which peers may not use.
_ROLES = ("teacher", "student", "student alone")


def given_peers(peers: Mapping[str, Any], distilled: Distilled, form: Form) -> dict[str, Model]:
    """Return the user's fitted estimators as rows of the report, by name.

    Raises
    ------
    ValueError
        If a name is that of another row.
    """
    taken = [name for name in peers if name in _ROLES]
    if taken:
        raise ValueError(f"peers has {taken[0]!r}, which is the name of another row. Give it another name.")
    return {name: fitted_model(model, distilled, form, f"peers[{name!r}]") for name, model in peers.items()}


def trained_peers(
    distilled: Distilled, form: Form, X: Any, y: Any, teacher: Model | None, n_epochs: int
) -> tuple[dict[str, Model], str]:
    """Train the peers on all rows. Return them by role, and a note on them.

    Parameters
    ----------
    distilled : Distilled
    form : Form
    X, y
        The training data that the distilled estimator was given.
    teacher : Model or None
        Without a teacher, or if only its answers were given, there is no "taught peer".
    n_epochs : int
    """
    same = False
    with error_context("peers"):
        X = from_torch(X, "X_train")
        targets = distilled.task.check_targets(from_torch(y, "y_train"), count_rows(X), "y_train", "X_train")
        distilled.task.encode(targets, "y_train")  # refuses labels unknown to the student
        rows = _matrix(distilled, X)
        settings = _settings(distilled.estimator, rows, n_epochs)
        models = {"peer": _trained(distilled, form, rows, targets, settings)}
        if teacher is not None and teacher.call is not None:
            taught = form.taught(teacher.answers(X))
            if len(np.unique(taught, axis=0)) > 1:
                models["taught peer"] = _trained(distilled, form, rows, taught, settings)
                same = np.array_equal(taught, targets)
    hidden = ", ".join(map(str, settings["hidden_layer_sizes"]))
    taught_by = '; the "taught peer" learned the teacher\'s answers to X_train' * ("taught peer" in models)
    return models, (
        f"Peers: scikit-learn's networks of {hidden} hidden units, on standardised rows, {n_epochs} epochs "
        f'of all of X_train without weights. The "peer" learned {form.words.y}{taught_by}.' + _SAME * same
    )


def _matrix(distilled: Distilled, X: Any) -> Any:
    """Return the rows as the table of numbers that the student gets."""
    rows = distilled.transformed(X)
    own = getattr(distilled.estimator, "student_preprocessing_", None)
    rows = rows if own is None else own.transform(rows)
    rows = rows if hasattr(rows, "shape") else np.asarray(rows)
    if len(rows.shape) != 2:
        raise ValueError(
            f"peers='train' trains scikit-learn's networks, which take a table; X_train has shape "
            f"{tuple(rows.shape)}. Give fitted peers={{name: estimator}}, or peers=None."
        )
    return rows


def check_peers(peers: Any, X: Any) -> None:
    """Refuse peers of another kind, and rows on which peers cannot be trained.

    Raises
    ------
    TypeError
        If ``peers`` is neither None, "train" nor a dict, or X_train is not an array.
    """
    if peers is not None and not isinstance(peers, (str, Mapping)):
        raise TypeError(f'peers={peers!r} must be None, "train", or a dict of names and fitted estimators.')
    if isinstance(peers, str) and (is_dataset(X) or is_structure(X)):
        raise TypeError(
            f"peers='train' trains scikit-learn's networks, which take a table; X_train is a "
            f"{type(X).__name__}. Give fitted peers={{name: estimator}}, or peers=None."
        )


def _settings(estimator: Any, rows: Any, n_epochs: int) -> dict[str, Any]:
    """Return the parameters of a peer: those of the student that scikit-learn's networks have too."""
    n_rows = rows.shape[0]
    seed = estimator.random_state
    settings = {
        "hidden_layer_sizes": _hidden_sizes(own_student(estimator.student_), rows.shape[1]),
        "batch_size": min(rows_per_batch(estimator.batch_size, n_rows), n_rows),
        "max_iter": n_epochs,
        "alpha": 0.0,
        "n_iter_no_change": n_epochs + 1,
        "random_state": seed if isinstance(seed, (int, np.integer)) else None,
    }
    if optimizer_class(estimator.optimizer).__name__ in ("Adam", "AdamW"):
        settings["learning_rate_init"] = estimator.lr
    return settings


def _hidden_sizes(student: nn.Module, n_inputs: int) -> tuple[int, ...]:
    """Return the widths of an MLPStudent, or of one layer with about as many weights as another student."""
    if isinstance(student, MLPStudent):
        linear = [layer for layer in student.modules() if isinstance(layer, nn.Linear)]
        return tuple(layer.out_features for layer in linear[:-1])
    n_weights = sum(weight.numel() for weight in student.parameters())
    return (max(1, round(n_weights / (n_inputs + 2))),)


def _trained(distilled: Distilled, form: Form, rows: Any, targets: np.ndarray, settings: Any) -> Model:
    scaler = StandardScaler(with_mean=not sparse.issparse(rows))
    peer = make_pipeline(scaler, form.peer(**settings))
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it has as many epochs as the student
        peer.fit(rows, targets)
    seconds = time.perf_counter() - began
    answers, call = form.answers_of_peer(peer)
    return Model(
        form.network.__name__,
        lambda X: answers(_matrix(distilled, X)),
        lambda X: call(_matrix(distilled, X)),
        size_of([*distilled.before_the_student(), peer]),
        seconds,
    )
