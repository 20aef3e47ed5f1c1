"""Labels, weights and rows that cannot be used: the argument that is wrong is named, with the mend."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from sklearn_kd import compare_methods

pytestmark = pytest.mark.usefixtures("no_training")

N = 30
X = np.random.default_rng(0).random((N, 4)).astype(np.float32)
Y = np.arange(N) % 3
WORDS = np.array(["a", "b", "c"] * 10, dtype=object)


def with_missing(labels, missing):
    labels = np.array(labels, dtype=object if missing is None else None)
    labels[4] = missing
    return labels


# name of the argument -> (its value, the kind of error, what is said).
SEVERAL = r"y should be a 1d array, got an array of shape \(30, 3\) instead\."
LABELS = {
    "NaN": (with_missing(Y.astype(float), np.nan), "Input y contains NaN or None: 1 of 30 .* row 4"),
    "None among words": (with_missing(WORDS, None), "Input y contains NaN or None: 1 of 30 .* row 4"),
    "NaN among words": (with_missing(WORDS, np.nan), "Input y contains NaN or None"),
    "pandas' NA": (pd.array([1, None] + [2] * 28, dtype="Int64"), "Input y contains NaN or None.* row 1"),
    "a category less": (
        pd.Series(with_missing(WORDS, None), dtype="category"),
        "Input y contains NaN or None",
    ),
    "infinity": (with_missing(Y.astype(float), np.inf), "Input y contains infinity"),
    "one-hot": (np.eye(3)[Y], SEVERAL + r" It is one-hot: give y\.argmax\(axis=1\)"),
    "one-hot tensor": (torch.eye(3)[Y], SEVERAL + r" It is one-hot: give y\.argmax\(axis=1\)"),
    "one-hot frame": (pd.get_dummies(Y), SEVERAL + r".*y\.idxmax\(axis=1\)"),
    "one-hot lists": (np.eye(3)[Y].tolist(), SEVERAL + r".*np\.argmax\(y, axis=1\)"),
    "probabilities": (
        np.full((N, 3), 1 / 3),
        SEVERAL + r" Its rows are probabilities: .*teacher_logits=np\.log",
    ),
    "several outputs": (np.c_[Y, Y, Y], SEVERAL + " Give one label per row of X"),
    "too few": (Y[:-1], r"inconsistent numbers of samples: \[30, 29\]\. X has 30 rows and y 29 labels"),
    "ragged": ([[1], [1, 2]] + [[1]] * 28, "y has rows of differing lengths"),
    "a number": (3, r"y should be a 1d array, got an array of shape \(\) instead"),
    "nothing": (None, "requires y to be passed, but the target y is None. Give one target per row"),
    "on a scale": (
        Y + 0.5,
        r"y does not hold classes \(0\.5, 1\.5.*Unknown label type: continuous.*Bin numbers",
    ),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_are_named(kind, make, make_distpro):
    y, match = LABELS[kind]
    for fit in (
        lambda: make(LogisticRegression()).fit(X, y),
        lambda: make_distpro().fit(X.reshape(-1, 1, 2, 2), y),
    ):
        with pytest.raises(ValueError, match=match) as said:
            fit()
        assert not str(said.value).startswith("X:")


@pytest.mark.parametrize("kind", sorted(LABELS.keys() - {"nothing", "on a scale"}))
def test_labels_of_the_validation_rows_are_named(kind, make):
    y, match = LABELS[kind]
    match = (
        match.replace("y should", "y_val should")
        .replace("X has", "X_val has")
        .replace("give y", "give y_val")
    )
    match = match.replace("Input y", "Input y_val").replace("y has", "y_val has").replace("y 29", "y_val 29")
    match = match.replace(r"y\.idx", r"y_val\.idx").replace("(y,", "(y_val,").replace("of X", "of X_val")
    with pytest.raises(ValueError, match=match):
        make(LogisticRegression()).fit(X, Y, X_val=X, y_val=y)


@pytest.mark.parametrize("kind", sorted(LABELS.keys() - {"nothing"}))
def test_compare_methods_names_them(kind, make):
    y, match = LABELS[kind]
    with pytest.raises(ValueError, match=match):
        compare_methods(make(LogisticRegression()), X, y)


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"y_val": Y + 5}, ValueError, r"y_val has labels that y lacks: \[5, 6, 7\]"),
        ({"X_val": np.where(X > 0.5, np.nan, X)}, ValueError, "^X_val: Input X contains NaN"),
        ({"X_val": X[:, 0]}, ValueError, "^X_val: Expected 2D array, got 1D array"),
        ({"sample_weight": with_missing(np.ones(N), np.nan)}, ValueError, "sample_weight contains NaN. Give 0"),
        ({"sample_weight": np.ones(N - 1)}, ValueError, r"sample_weight.shape == \(29,\).*one weight per row"),
        ({"sample_weight": np.ones((N, 2))}, ValueError, "^sample_weight: Sample weights must be 1D"),
        ({"teacher_logits": np.full((N, 3), np.nan)}, ValueError, "teacher_logits: row 0 of X has NaN"),
        ({"X": pd.DataFrame(X, columns=list("abcd")).assign(e="no")}, ValueError,
         "^X: (could not convert string to float: 'no'|Cannot cast (str|object) dtype).*student_preprocessing='auto'"),
        ({"X": X[:, 0]}, ValueError, "^X: Expected 2D array, got 1D array"),
        ({"X": X[:0], "y": Y[:0]}, ValueError, r"^X: Found array with 0 sample\(s\)"),
        ({"X": [[1], [1, 2]] * 15}, ValueError, "^X: setting an array element with a sequence"),
    ],
)  # fmt: skip
def test_rows_and_weights_are_named(given, error, match, make):
    data = {"X": X, "y": Y, "X_val": X, "y_val": Y} | given
    with pytest.raises(error, match=match):
        make(LogisticRegression()).fit(**data)


def test_items_of_a_dataset_are_named(make):
    rows, hot = torch.as_tensor(X), torch.eye(3)[Y]
    network = torch.nn.Linear(4, 3)
    with pytest.raises(ValueError, match=r"the label in the items of X should be a 1d array.*one-hot"):
        make(network).fit(torch.utils.data.TensorDataset(rows, hot))
    with pytest.raises(ValueError, match=r"X has 30 rows and y 29 labels"):
        make(network).fit(torch.utils.data.TensorDataset(rows), Y[:-1])


@pytest.mark.parametrize(
    "y", [pd.Series(Y), Y.tolist(), torch.tensor(Y), WORDS, pd.Series(WORDS, dtype="category"), Y.astype(float), Y == 1],
    ids=lambda y: type(y).__name__,
)  # fmt: skip
def test_labels_that_are_well(y, make, monkeypatch):
    monkeypatch.undo()
    clf = make(None, meta="none", max_epochs=1).fit(X, y)
    assert set(clf.predict(X)) <= set(np.asarray(y).tolist())
