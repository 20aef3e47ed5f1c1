"""Draw small problems with wrong labels or a wrong teacher."""

from __future__ import annotations

from functools import cache, partial
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from sklearn_kd import CNNStudent, MLPStudent

# Rows of the teacher, of the student, of D_val, and for choices; the rest are the test.
ROWS = {
    "digits": (600, 300, 150, 373),
    "tabular": (2000, 600, 300, 1000),
    "breast cancer": (200, 100, 50, 110),
    "Fashion-MNIST": (0, 2000, 500, 3000),  # its teacher is trained already
}
# The training of the students, whatever the library's defaults are.
TRAINING = {"optimizer": "SGD", "lr": 0.1, "batch_size": 128}
WIDTH = {"student__hidden": 32}  # of MLPStudent
STUDENTS = dict.fromkeys(ROWS, MLPStudent) | {"Fashion-MNIST": CNNStudent}


class Problem(NamedTuple):
    """Rows of one draw, each (X, y), with the teacher's logits of ``train`` and of ``valid``."""

    train: tuple
    valid: tuple
    judge: tuple
    test: tuple
    logits: np.ndarray
    valid_logits: np.ndarray


def draw(name: str, seed: int, flipped: float = 0.0, wrong: float = 0.0, **where) -> Problem:
    """Draw a problem.

    Parameters
    ----------
    name : str
        One of ``ROWS``.
    seed : int
        Seed of the split, of the teacher and of the errors.
    flipped : float, default=0.0
        Share of the student's labels that become another class, at random. D_val keeps its labels.
    wrong : float, default=0.0
        Share of the teacher's predictions, on the student's rows and on D_val, in which the first class
        changes places with another one, at random.
    **where
        For Fashion-MNIST, as in ``_images``.
    """
    clean = _clean(name, seed, tuple(where.items()))
    rng = np.random.default_rng(seed + 1)
    (X, y), n_classes = clean.train, clean.logits.shape[1]
    y = np.where(rng.random(len(y)) < flipped, _another(y, n_classes, rng), y)
    return clean._replace(
        train=(X, y),
        logits=_misled(clean.logits, wrong, rng),
        valid_logits=_misled(clean.valid_logits, wrong, rng),
    )


def _another(y, n_classes, rng):
    return (y + rng.integers(1, n_classes, len(y))) % n_classes


def _misled(logits, share, rng):
    """Exchange the first class for another one in a share of the rows of the logits."""
    logits, rows = logits.copy(), np.flatnonzero(rng.random(len(logits)) < share)
    first = logits[rows].argmax(axis=1)
    other = _another(first, logits.shape[1], rng)
    logits[rows, first], logits[rows, other] = logits[rows, other], logits[rows, first]
    return logits


@cache
def _clean(name, seed, where):
    rng = np.random.default_rng(seed)
    if name == "Fashion-MNIST":
        return _fashion(rng, dict(where))
    X, y = SOURCES[name](seed)
    X = X.astype(np.float32)
    for_teacher, *parts = np.split(rng.permutation(len(X)), np.cumsum(ROWS[name]))
    teacher = TEACHERS[name](random_state=seed).fit(X[for_teacher], y[for_teacher])
    scaler = StandardScaler().fit(X[for_teacher])
    logits = [np.log(np.clip(teacher.predict_proba(X[part]), 1e-7, 1)) for part in parts[:2]]
    return Problem(*((scaler.transform(X[part]), y[part]) for part in parts), *logits)


def _fashion(rng, where):
    from _images import images_of

    X, y, logits, X_test, y_test = images_of("Fashion-MNIST", where)
    _, *parts = np.split(
        rng.permutation(len(X))[: sum(ROWS["Fashion-MNIST"])], np.cumsum(ROWS["Fashion-MNIST"])[:-1]
    )
    rows = [(X[part], y[part]) for part in parts]
    return Problem(*rows, (X_test, y_test), *(logits[part] for part in parts[:2]))


SOURCES = {
    "digits": lambda seed: load_digits(return_X_y=True),
    "breast cancer": lambda seed: load_breast_cancer(return_X_y=True),
    "tabular": lambda seed: make_classification(
        6000, 20, n_informative=10, n_classes=5, n_clusters_per_class=3, class_sep=1.5, random_state=seed
    ),
}
TEACHERS = {
    "digits": partial(MLPClassifier, (128,), max_iter=1000),
    "breast cancer": partial(RandomForestClassifier, 300),
    "tabular": partial(RandomForestClassifier, 300, min_samples_leaf=2),
}
