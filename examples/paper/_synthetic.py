"""Draw the paper's synthetic data, train its teacher, and train one student."""

from __future__ import annotations

from functools import cache

import numpy as np

from sklearn_kd import DistilledClassifier, MLPStudent
from sklearn_kd.datasets import make_metaparameter_synthetic
from sklearn_kd.meta import PAPER_SETTINGS

# Third column of the student and of the teacher.
FEATURES = {
    "text": ("and", "or"),  # as the paper writes
    "sign(x1·x2)": ("product", "and"),  # the notebook: none, gradient, linear and hyperopt
    "AND": ("and", "and"),  # the notebook: naive and random
}
NOTEBOOK_SEED = 42
TEACHER = {"iterations": 20_000, "lr": 1e-2}
# Settings common to the paper's text and the code behind its synthetic column. lambda1 weighs the labels
# here, as in the text; in the code it weighs the teacher. Starts are uniform on [0, 1], and steps of SGD
# and clipping are symmetric, so the two are one method under another name.
PAPER = {
    name: value
    for name, value in PAPER_SETTINGS.items()
    if name not in ("optimizer", "meta__optimizer", "batch_size")  # the batch is the whole set
} | {"meta__val_temperature": 0.1, "meta__lr": 1.0}
METHODS = {
    "none": {"meta": "none"},
    "naive": {"meta": "naive"},
    "random": {"meta": "random"},
    "gradient": {"meta": "gradient"},
    "linear": {"meta": "linear", "meta__form": "values"},  # the code's line
    # hyperopt draws its first 20 trials at random
    "hyperopt": {"meta": "hyperopt", "meta__n_startup_trials": 5},
}


@cache
def draw(features: str, seed: int, n_valid: int = 15):
    """Draw the data set of this seed."""
    student, teacher = FEATURES[features]
    return make_metaparameter_synthetic(
        n_valid=n_valid, student_feature=student, teacher_feature=teacher, random_state=seed
    )


@cache
def paper_teacher(features: str, seed: int) -> np.ndarray:
    """Train the paper's teacher, a logistic regression, by 20,000 full-batch steps of SGD: (4, 2) weights.

    It starts from zero: the loss is convex, so the start has no lasting effect.
    """
    data = draw(features, seed)
    X, y = _with_constant(data.X_teacher), np.eye(2)[data.y_teacher]
    weights = np.zeros((X.shape[1], 2))
    for _ in range(TEACHER["iterations"]):
        answers = np.exp(X @ weights)
        answers /= answers.sum(axis=1, keepdims=True)
        weights -= TEACHER["lr"] * X.T @ (answers - y) / len(X)
    return weights


def logits(teacher: np.ndarray, X: np.ndarray) -> np.ndarray:
    """Return the logits of such a teacher."""
    return _with_constant(X) @ teacher


def _with_constant(X):
    return np.column_stack([X, np.ones(len(X))])


def train(
    train_rows: tuple, valid_rows: tuple, *, iterations: int, every: int, seed: int, **params
) -> DistilledClassifier:
    """Train a student for a number of full-batch iterations.

    All rows are repeated ``every`` times in their order, and the batch size is the number of rows. So
    an epoch has ``every`` full-batch iterations, and the net's ``valid_acc`` in
    ``history_`` is the accuracy on ``valid_rows`` after each of them.

    Parameters
    ----------
    train_rows : tuple of (X, y, teacher_logits)
    valid_rows : tuple of (X, y)
    iterations, every : int
    seed : int
    **params
        Parameters of :class:`DistilledClassifier`.
    """
    every = min(every, iterations)
    X, y, answers = (np.concatenate([part] * every) for part in train_rows)
    student = DistilledClassifier(
        None,
        MLPStudent,
        student__hidden=(),  # no hidden layer: a logistic regression
        max_epochs=iterations // every,
        batch_size=len(train_rows[0]),
        iterator_train__shuffle=False,
        iterator_valid__batch_size=len(valid_rows[0]),
        device="cpu",
        random_state=seed,
        **({"optimizer": "SGD"} | params),
    )
    return student.fit(X, y, teacher_logits=answers, X_val=valid_rows[0], y_val=valid_rows[1])


def train_as_the_paper(
    features: str, method: str, run: int, *, iterations: int, every: int = 200, **params
) -> DistilledClassifier:
    """Make one run of the paper's column: validation rows are the test rows; its own draw of the data."""
    data, teacher = draw(features, NOTEBOOK_SEED), paper_teacher(features, NOTEBOOK_SEED)
    settings = PAPER | METHODS.get(method, {}) | params
    if not isinstance(settings["meta"], str):  # an object, with parameters of its own
        settings = {name: value for name, value in settings.items() if not name.startswith("meta__")}
    return train(
        (data.X_train, data.y_train, logits(teacher, data.X_train_teacher)),
        (data.X_test, data.y_test),
        iterations=iterations,
        every=every,
        seed=run,
        **settings,
    )
