"""Load data for the benchmarks: scikit-learn's tables, generated ones, R's mlbench, texts, Fashion-MNIST."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine, make_classification
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from sklearn_kd.datasets import fetch_fashion_mnist

# Packages whose docstrings are told apart: those that the library needs.
PACKAGES = ("numpy", "scipy", "sklearn", "skorch")
MORE_PACKAGES = ("numpy", "scipy", "sklearn", "torch", "sympy", "networkx")
DOCSTRINGS = 400  # of each package at most
IMAGES, N_IMAGES = "Fashion-MNIST", 4000


class Task(NamedTuple):
    """A task: a source, whether its columns are scaled, and the share of training labels that is wrong."""

    source: str
    scaled: bool = True
    flipped: float = 0.0

    def __str__(self) -> str:
        further = ["" if self.scaled else "raw", f"{self.flipped:.0%} flipped" if self.flipped else ""]
        return ", ".join([self.source, *filter(None, further)])


class Folders(NamedTuple):
    """Folders of the data that come with no package; tasks whose folder is None are left out."""

    mlbench: str | None = None
    images: str | None = None

    def has(self, name: str) -> bool:
        """Return whether the rows of a source are available."""
        folder = self.mlbench if name in MLBENCH else self.images if name == IMAGES else ""
        return folder is not None


class Rows(NamedTuple):
    """Training rows and evaluation rows."""

    X: np.ndarray
    y: np.ndarray
    X_judge: np.ndarray
    y_judge: np.ndarray


def draw(task: Task, seed: int, judge: str, folders: Folders) -> Rows:
    """Split a task: 30 % of the rows are test rows, and the rest are training rows.

    Parameters
    ----------
    task : Task
    seed : int
        Seed of the split and of the flips.
    judge : {"valid", "test"}
        "valid": evaluate on a fifth of the training rows, and do not read the test rows.
    folders : Folders
    """
    X, y = source(task.source, folders)
    X, X_judge, y, y_judge = train_test_split(X, y, test_size=0.3, stratify=y, random_state=seed)
    if judge == "valid":
        X, X_judge, y, y_judge = train_test_split(X, y, test_size=0.2, random_state=seed)
    if task.scaled and task.source not in ("text", IMAGES):
        scaler = StandardScaler().fit(X)
        X, X_judge = scaler.transform(X), scaler.transform(X_judge)
    rng = np.random.default_rng(seed)
    n_classes = int(y.max()) + 1
    other = (y + rng.integers(1, n_classes, len(y))) % n_classes
    return Rows(X, np.where(rng.random(len(y)) < task.flipped, other, y), X_judge, y_judge)


@cache
def source(name: str, folders: Folders) -> tuple[np.ndarray, np.ndarray]:
    """Return all rows of a source, float64 except for images, and class codes."""
    if name in SOURCES:
        return SOURCES[name]()
    if name == IMAGES:
        X, y = fetch_fashion_mnist(data_home=folders.images, return_X_y=True, download_if_missing=False)
        return X[:N_IMAGES], y[:N_IMAGES].astype(int)
    return _mlbench(name, folders.mlbench)


def _made(n: int) -> tuple[np.ndarray, np.ndarray]:
    return make_classification(
        n, 30, n_informative=12, n_redundant=4, n_classes=3, n_clusters_per_class=3, flip_y=0.05,
        random_state=0,
    )  # fmt: skip


def _docstrings(package: str) -> Iterator[str]:
    """Yield docstrings of 200 characters or more of the functions and classes of an installed package."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    for path in sorted(Path(spec.origin).parent.rglob("*.py")):
        if "tests" in path.parts:
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                text = ast.get_docstring(node) or ""
                if len(text) >= 200:
                    yield text


def _text(packages: tuple[str, ...], most: int, n_words: int) -> tuple[np.ndarray, np.ndarray]:
    """Return tf-idf of docstrings, and the package that each is from."""
    rng = np.random.default_rng(0)
    texts: list[str] = []
    labels: list[int] = []
    for label, package in enumerate(packages):
        found = sorted(set(_docstrings(package)))
        chosen = rng.permutation(len(found))[:most]
        texts += [found[i] for i in chosen]
        labels += [label] * len(chosen)
    names = "|".join(packages)
    pattern = rf"\b(?!{names})[a-z]{{3,}}\b"  # words that do not begin with the name of a package
    words = TfidfVectorizer(max_features=n_words, sublinear_tf=True, token_pattern=pattern)
    return words.fit_transform(texts).toarray(), np.array(labels)


def _mlbench(name: str, folder: str | None) -> tuple[np.ndarray, np.ndarray]:
    import pyreadr

    file, label = MLBENCH[name]
    frame = next(iter(pyreadr.read_r(f"{folder}/{file}.rda").values())).dropna()
    y = frame.pop(label).astype("category").cat.codes.to_numpy()
    named = frame.select_dtypes(exclude="number").columns
    frame[named] = frame[named].apply(lambda column: column.astype("category").cat.codes)
    return frame.to_numpy(dtype=float), y.astype(int)


SOURCES = {
    "iris": lambda: load_iris(return_X_y=True),
    "wine": lambda: load_wine(return_X_y=True),
    "breast cancer": lambda: load_breast_cancer(return_X_y=True),
    "digits": lambda: load_digits(return_X_y=True),
    "made, 5,000": lambda: _made(5000),
    "made, 20,000": lambda: _made(20000),
    "text": lambda: _text(PACKAGES, DOCSTRINGS, 500),
    "docstrings": lambda: _text(MORE_PACKAGES, 700, 1000),
}
# File and column of the labels.
MLBENCH = {
    "diabetes": ("PimaIndiansDiabetes", "diabetes"),
    "vehicle": ("Vehicle", "Class"),
    "vowel": ("Vowel", "Class"),
    "DNA": ("DNA", "Class"),
    "satellite": ("Satellite", "classes"),
    "letter": ("LetterRecognition", "lettr"),
    "shuttle": ("Shuttle", "Class"),
}
