"""Make distillation tasks of many kinds, whose teachers know more than the labels, as much, or less.

The tasks differ in the data, in how many labels are wrong, and in the teacher. Splits, wrong labels and
teachers depend only on the seed. No test row is among the rows of the student, of the teacher, or of D_val.
Half of the tasks are ``kept_back``: methods are developed on the others.

Tables come from scikit-learn and from R's package mlbench (Debian's ``r-cran-mlbench``, unpacked by
``dpkg -x``; pyreadr reads it). The texts are docstrings of installed packages, as tf-idf of 500 words;
the class is the package. The images are Fashion-MNIST, and CIFAR-10 with each 2 × 2 pixels averaged for
the student, while a published ResNet-20 answers about the original images. That network was trained on the
whole training split, and so on the student's rows too. The test images are those of the test split.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.datasets import make_classification
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from torch import nn

from sklearn_kd import CIFARResNet, CNNStudent, MLPStudent
from sklearn_kd.datasets import fetch_cifar10, fetch_fashion_mnist

sys.path += [str(Path(__file__).parents[1] / "benchmarks"), str(Path(__file__).parents[1] / "paper")]
from _networks import answers
from _tasks import Folders, _text, source

FASHION, CIFAR, MADE, TEXT = "Fashion-MNIST", "CIFAR-10", "made", "docstrings"
# Packages that the library brings along, and whose files are read in seconds.
PACKAGES, N_TEXTS, N_WORDS = ("networkx", "numpy", "scipy", "sklearn"), 1100, 500
MOST_TEST_ROWS = 4000
TEACHERS: dict[str, Callable[[int], ClassifierMixin]] = {
    "forest": lambda seed: RandomForestClassifier(100, random_state=seed),
    "weak forest": lambda seed: RandomForestClassifier(20, max_depth=4, random_state=seed),
    "boosting": lambda seed: HistGradientBoostingClassifier(max_iter=50, random_state=seed),
    "naive Bayes": lambda seed: GaussianNB(),
    "linear": lambda seed: LogisticRegression(C=30, max_iter=1000),
}


class Places(NamedTuple):
    """Folders and files of the data that come with no package. None: their tasks cannot be loaded.

    Attributes
    ----------
    tables : str or None
        Folder of mlbench's .rda files.
    fashion_mnist : str or None
        Folder of Fashion-MNIST's four files.
    cifar : str or None
        Folder of ``cifar-10-batches-py``.
    resnet : str or None
        File of the state dict of a ResNet-20 trained on CIFAR-10.
    """

    tables: str | None = None
    fashion_mnist: str | None = None
    cifar: str | None = None
    resnet: str | None = None


@dataclass(frozen=True)
class Recipe:
    """Settings from which a task is made.

    Attributes
    ----------
    source : str
    n_rows : int
        Rows of the student, including D_val if it is held out of them.
    teacher : str
        One of ``TEACHERS``, or "network".
    n_others : int, default=0
        Rows on which only the teacher is fitted. 0: the teacher is unfitted, and learns from the student's
        rows.
    n_val : int, default=0
        Rows of a separate D_val with right labels. 0: D_val is held out of the student's rows, and its labels
        are as wrong as theirs.
    flipped : float, default=0.0
        Share of the student's rows whose label is another class.
    spoilt : {"permuted", "shuffled"} or None, default=None
        The teacher's answers have permuted classes, or belong to other rows.
    kept_back : bool, default=False
    params : dict
        Further parameters of ``DistilledClassifier``; the others have their defaults.
    is_dear : bool, default=False
        True if trainings are long, so that a script may leave some out.
    """

    source: str
    n_rows: int
    teacher: str = "forest"
    n_others: int = 0
    n_val: int = 0
    flipped: float = 0.0
    spoilt: Literal["permuted", "shuffled"] | None = None
    kept_back: bool = False
    params: dict[str, Any] = field(default_factory=dict)
    is_dear: bool = False


_CNN = {"max_epochs": 10, "batch_size": 64, "student__channels": (16, 32, 32), "student__hidden": 64}
TASKS = {
    "letter, 1,000 rows": Recipe("letter", 1000),
    "letter, teacher of 4,000 others": Recipe("letter", 1000, n_others=4000),
    "letter, 30 % flips": Recipe("letter", 2000, flipped=0.3),
    "satellite, 30 % flips": Recipe("satellite", 2000, flipped=0.3, kept_back=True),
    "satellite, boosting": Recipe("satellite", 2000, "boosting", kept_back=True),
    "vowel": Recipe("vowel", 690, kept_back=True),
    "vowel, 25 % flips": Recipe("vowel", 690, flipped=0.25),
    "vehicle": Recipe("vehicle", 590),
    "digits, teacher of 600 others": Recipe("digits", 300, n_others=600),
    "digits, 40 % flips, clean D_val": Recipe("digits", 800, flipped=0.4, n_val=140),
    "digits, permuted teacher": Recipe("digits", 300, n_others=600, spoilt="permuted"),
    "digits, shuffled teacher": Recipe("digits", 300, n_others=600, spoilt="shuffled", kept_back=True),
    "digits, 30 % flips": Recipe("digits", 900, flipped=0.3),
    "docstrings, teacher of 1,500 others": Recipe(TEXT, 500, "linear", 1500, kept_back=True),
    "Fashion-MNIST, teacher of 6,000 others": Recipe(
        FASHION, 2000, n_others=6000, kept_back=True, is_dear=True
    ),
    "CIFAR-10, ResNet-20": Recipe(CIFAR, 2000, "network", kept_back=True, params=_CNN, is_dear=True),
    "made, 3,000 rows": Recipe(MADE, 3000),
    "made, weak forest": Recipe(MADE, 5000, "weak forest", kept_back=True, params={"max_epochs": 20}),
    "made, naive Bayes": Recipe(MADE, 5000, "naive Bayes", params={"max_epochs": 20}),
}


@dataclass(frozen=True)
class Task:
    """Rows, labels and a teacher, for students to be trained and tested.

    Attributes
    ----------
    name : str
    X_train, y_train : ndarray
        The student's rows.
    X_test, y_test : ndarray
    teacher : classifier or None
        Unfitted. It learns from the student's rows of D_train.
    teacher_logits : ndarray of shape (n_rows, n_classes) or None
        Logits for the rows of X_train, from a teacher of other rows.
    X_val, y_val : ndarray or None
        D_val, if it is not to be held out of X_train.
    student : class of nn.Module
    params : dict
        Further parameters of ``DistilledClassifier``.
    kept_back : bool
        Methods may not be developed on it.
    places : dict of str to ndarray
        The rows of the source that the student ("own"), the teacher alone ("others"), D_val ("val") and the
        test ("test") have. Those of images' tests are counted in the test split.
    teacher_accuracy : float or None
        Accuracy on the test rows of a teacher of other rows that is asked about X as the student sees it.
    """

    name: str
    X_train: np.ndarray
    y_train: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    teacher: ClassifierMixin | None
    teacher_logits: np.ndarray | None
    X_val: np.ndarray | None = None
    y_val: np.ndarray | None = None
    student: type[nn.Module] = MLPStudent
    params: dict[str, Any] = field(default_factory=dict)
    kept_back: bool = False
    places: dict[str, np.ndarray] = field(default_factory=dict)
    teacher_accuracy: float | None = None

    @property
    def n_rows(self) -> int:
        """Rows of the student."""
        return len(self.X_train)


class _Source(NamedTuple):
    """All rows of a data set; ``X_test`` is None if the test rows are drawn from X."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray | None = None
    y_test: np.ndarray | None = None


def available(places: Places) -> list[str]:
    """Return the names of the tasks whose data are available."""
    missing = {
        FASHION: places.fashion_mnist is None,
        CIFAR: places.cifar is None or places.resnet is None,
    } | dict.fromkeys(("letter", "satellite", "vowel", "vehicle"), places.tables is None)
    return [name for name, recipe in TASKS.items() if not missing.get(recipe.source, False)]


def load_task(
    name: str,
    seed: int,
    *,
    tables: str | None = None,
    fashion_mnist: str | None = None,
    cifar: str | None = None,
    resnet: str | None = None,
) -> Task:
    """Make a task.

    Parameters
    ----------
    name : str
        One of ``TASKS``.
    seed : int
        Seed of the split, the wrong labels and the teacher.
    tables, fashion_mnist, cifar, resnet : str or None
        As in :class:`Places`.
    """
    recipe, where = TASKS[name], Places(tables, fashion_mnist, cifar, resnet)
    rng = np.random.default_rng(seed)
    data = _source(recipe.source, where)
    rows = _divide(recipe, data, rng)
    X_test, y_test = (data.X, data.y) if data.X_test is None else (data.X_test, data.y_test)
    y_train = _with_flips(data.y[rows["own"]], recipe.flipped, int(data.y.max()) + 1, rng)
    X_train, X_test, y_test = data.X[rows["own"]], X_test[rows["test"]], y_test[rows["test"]]
    teacher, logits, accuracy = None, None, None
    if recipe.teacher == "network":
        logits = answers(CIFARResNet.from_file(where.resnet), X_train)
        X_train, X_test = _halved(X_train), _halved(X_test)
    else:
        teacher = TEACHERS[recipe.teacher](seed)
    if recipe.n_others:
        teacher.fit(data.X[rows["others"]], data.y[rows["others"]])
        logits = _spoilt(logits_of(teacher, X_train), recipe.spoilt, rng)
        accuracy, teacher = float(teacher.score(X_test, y_test)), None
    return Task(
        name,
        X_train,
        y_train,
        X_test,
        y_test,
        teacher,
        logits,
        *((data.X[rows["val"]], data.y[rows["val"]]) if recipe.n_val else (None, None)),
        student=CNNStudent if recipe.source == CIFAR else MLPStudent,
        params=recipe.params,
        kept_back=recipe.kept_back,
        places=rows,
        teacher_accuracy=accuracy,
    )


def _divide(recipe: Recipe, data: _Source, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw the rows of student, teacher, D_val and test, none of them twice."""
    ends = np.cumsum([recipe.n_rows, recipe.n_others, recipe.n_val])
    own, others, val, rest = np.split(rng.permutation(len(data.X)), ends)
    test = rest if data.X_test is None else rng.permutation(len(data.X_test))
    return {"own": own, "others": others, "val": val, "test": test[:MOST_TEST_ROWS]}


def _with_flips(y: np.ndarray, share: float, n_classes: int, rng: np.random.Generator) -> np.ndarray:
    """Change a share of the labels to another class, each with the same probability."""
    other = (y + rng.integers(1, n_classes, len(y))) % n_classes
    return np.where(rng.random(len(y)) < share, other, y)


def logits_of(teacher: ClassifierMixin, X: np.ndarray) -> np.ndarray:
    """Return logarithms of probabilities, zeros replaced by half of the smallest, as the library does."""
    probabilities = teacher.predict_proba(X)
    floor = np.clip(probabilities[probabilities > 0].min() / 2, 1e-7, 1e-2)
    return np.log(np.maximum(probabilities, floor))


def _spoilt(logits: np.ndarray, how: str | None, rng: np.random.Generator) -> np.ndarray:
    if how == "permuted":
        return logits[:, _derangement(logits.shape[1], rng)]
    return rng.permutation(logits) if how == "shuffled" else logits


def _derangement(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return a permutation without fixed points."""
    while True:
        order = rng.permutation(n)
        if (order != np.arange(n)).all():
            return order


def _halved(images: np.ndarray) -> np.ndarray:
    """Average each 2 × 2 pixels."""
    n, channels, height, width = images.shape
    return images.reshape(n, channels, height // 2, 2, width // 2, 2).mean(axis=(3, 5), dtype=np.float32)


@cache
def _source(name: str, where: Places) -> _Source:
    if name == MADE:
        return _Source(
            *make_classification(
                12_000, 30, n_informative=12, n_redundant=4, n_classes=3, n_clusters_per_class=3,
                flip_y=0.05, random_state=0,
            )
        )  # fmt: skip
    if name == TEXT:
        return _Source(*_text(PACKAGES, N_TEXTS, N_WORDS))
    if name == FASHION:
        return _images(fetch_fashion_mnist, where.fashion_mnist, 20_000, flat=True)
    if name == CIFAR:
        return _images(fetch_cifar10, where.cifar, 20_000, flat=False)
    return _Source(*source(name, Folders(where.tables)))


def _images(fetch: Callable[..., Any], folder: str | None, n_rows: int, *, flat: bool) -> _Source:
    """Return the first images of the training split, and all images of the test split."""
    parts: list[np.ndarray] = []
    for subset, n in (("train", n_rows), ("test", None)):
        X, y = fetch(data_home=folder, subset=subset, return_X_y=True, download_if_missing=False)
        parts += [X[:n].reshape(len(X[:n]), -1) if flat else X[:n].copy(), y[:n].astype(int)]
    return _Source(*parts)
