"""``teacher_logits`` are aligned with classes and rows by the names that they carry."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn import config_context
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_kd import MLPStudent, compare_methods
from sklearn_kd.teachers._given_logits import checked_logits

LETTERS = list("abcdefghij")


@pytest.fixture(scope="module")
def frames(digits):
    """X and a good teacher's logits as DataFrames, and y."""
    X, y = digits
    said = LogisticRegression(max_iter=300).fit(X, y).predict_log_proba(X)
    return pd.DataFrame(X), pd.DataFrame(said), y


@pytest.fixture
def taught(make):
    settings = {"meta": "fixed", "lambda1": 0.0, "max_epochs": 6, "optimizer__momentum": 0.9}
    return make(**settings)


def renamed(frame, **parts):
    frame = frame.copy()
    for axis, names in parts.items():
        setattr(frame, axis, names)
    return frame


def backwards(frame):
    return frame.iloc[:, ::-1]


def shuffled(frame):
    return frame.sample(frac=1, random_state=0)


# f(X, logits) -> (X, logits) as they are given to ``fit``.
ALIGNED = {
    "as X": lambda X, L: (X, L),
    "columns backwards": lambda X, L: (X, backwards(L)),
    "columns in any order": lambda X, L: (X, L.sample(frac=1, axis=1, random_state=0)),
    "columns as text": lambda X, L: (X, backwards(renamed(L, columns=map(str, range(10))))),
    "more columns": lambda X, L: (X, backwards(L).assign(**{"other": 9.0})),
    "rows shuffled": lambda X, L: (X, shuffled(L)),
    "both shuffled": lambda X, L: (X, backwards(shuffled(L))),
    "an index of text": lambda X, L: (
        renamed(X, index=[f"r{i}" for i in X.index]),
        shuffled(renamed(L, index=[f"r{i}" for i in L.index])),
    ),
    "X with an index, logits without": lambda X, L: (renamed(X, index=X.index + 5000), L),
    "X with an index of text, logits without": lambda X, L: (
        renamed(X, index=[f"r{i}" for i in X.index]),
        L,
    ),
    "an array": lambda X, L: (X, L.to_numpy()),
    "X an array": lambda X, L: (X.to_numpy(), backwards(L)),
    "a tensor": lambda X, L: (X, torch.tensor(L.to_numpy())),
    "bfloat16": lambda X, L: (X, torch.tensor(L.to_numpy()).bfloat16()),
    "polars": lambda X, L: (X, pl.DataFrame(backwards(L).to_numpy(), schema=[str(c) for c in range(9, -1, -1)])),
    "polars without names": lambda X, L: (X, pl.DataFrame(L.to_numpy())),
    "an index that repeats": lambda X, L: (
        renamed(X, index=np.arange(len(X)) // 2), renamed(L, index=np.arange(len(X)) // 2)),
}  # fmt: skip


@pytest.mark.parametrize("what", ALIGNED)
def test_aligned(what, frames):
    X, L, y = frames
    X_given, given = ALIGNED[what](X, L)
    found = checked_logits(given, len(X), np.unique(y), names=X_given)
    np.testing.assert_allclose(found, L.to_numpy(), rtol=1e-2 if what == "bfloat16" else 1e-6)


REFUSED = {
    "columns of other names": (lambda X, L: (X, renamed(L, columns=LETTERS)), "columns .'a', 'b'.*to_numpy"),
    "a column of another name": (lambda X, L: (X, L.rename(columns={3: "three"})), "Name every column"),
    "a name twice": (lambda X, L: (X, renamed(L, columns=[0, *range(9)])), "unique column names|several columns of one name"),
    "fewer columns": (lambda X, L: (X, L[[0, 2, 4]]), "Name every column by its label"),
    "other rows": (lambda X, L: (X, renamed(L, index=L.index + 1)), "another index than X"),
    "other rows of text": (lambda X, L: (renamed(X, index=[f"r{i}" for i in X.index]),
                                         renamed(L, index=[f"s{i}" for i in L.index])), "another index"),
    "X shuffled, logits without index": (lambda X, L: (shuffled(X), L), "default index.*same numbers"),
    "rows that repeat": (lambda X, L: (X, renamed(L, index=L.index // 2)), "another index than X"),
    "more columns without names": (lambda X, L: (X, np.c_[L, L]), "accepted if all are named: by teacher_cl"),
    "of polars": (lambda X, L: (X, pl.DataFrame(L.to_numpy(), schema=LETTERS)), "Name every column"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what, frames, taught):
    X, L, y = frames
    change, match = REFUSED[what]
    X_given, given = change(X, L)
    with pytest.raises(ValueError, match=match):
        taught.fit(X_given, y, teacher_logits=given)


def test_the_right_accuracy(frames, taught):
    X, L, y = frames
    for given in (backwards(L), shuffled(L)):
        assert taught.fit(X, y, teacher_logits=given).score(X, y) > 0.9


def test_names_of_rows_may_come_from_y(frames, taught):
    """A pipeline gives the student an array, and y as it is."""
    X, L, y = frames
    y = pd.Series(y, index=X.index)
    pipeline = make_pipeline(StandardScaler(), taught.set_params(lr=0.01))
    assert pipeline.fit(X, y, distilledclassifier__teacher_logits=shuffled(L)).score(X, y) > 0.9


@pytest.mark.parametrize("labels", [np.arange(1, 11), np.array(LETTERS)[::-1]], ids=["ints", "strings"])
def test_columns_are_the_labels_whatever_these_are(labels, frames, taught):
    X, L, y = frames
    named = renamed(L, columns=labels)
    assert taught.fit(X, labels[y], teacher_logits=named).score(X, labels[y]) > 0.9
    kept = y != 9  # more columns than classes
    taught.fit(X[kept], labels[y[kept]], teacher_logits=named[kept])
    assert taught.score(X[kept], labels[y[kept]]) > 0.9


def test_stated_columns(frames, taught):
    X, L, y = frames
    kept = y < 9
    X, y, L = X[kept], y[kept] + 1, L[kept]
    for given in (L.to_numpy(), renamed(L, columns=LETTERS), renamed(L, columns=np.arange(1, 11))):
        taught.set_params(teacher_classes=np.arange(1, 11))
        assert taught.fit(X, y, teacher_logits=given).score(X, y) > 0.9
    with pytest.raises(ValueError, match="contradicts teacher_logits"):
        taught.fit(X, y, teacher_logits=renamed(L, columns=np.arange(10, 0, -1)))
    with pytest.raises(ValueError, match=r"teacher_classes has 10 classes.*9 columns"):
        taught.fit(X, y, teacher_logits=L.to_numpy()[:, :9])


def test_inside_cross_validation(frames, taught):
    X, L, y = frames
    order = np.argsort(y, kind="stable")
    with config_context(enable_metadata_routing=True):
        taught.set_fit_request(teacher_logits=True)
        params = {"teacher_logits": backwards(L)}
        assert cross_val_score(taught, X, y, cv=3, params=params, error_score="raise").min() > 0.75
        # Rows without an index of their own beside arrays, and beside an index of text.
        of_text = renamed(X, index=[f"r{i}" for i in X.index])
        for rows in (X.to_numpy(), of_text):
            scores = cross_val_score(
                taught, rows, y, cv=KFold(3, shuffle=True, random_state=0), params={"teacher_logits": L},
                error_score="raise",
            )  # fmt: skip
            assert scores.min() > 0.75
        # Folds that lack a class.
        named = renamed(L, columns=pd.Index(range(10), dtype=object))
        search = GridSearchCV(taught, {}, cv=KFold(8), error_score="raise")
        search.fit(X.iloc[order], y[order], teacher_logits=named.iloc[order])
        with pytest.raises(ValueError, match="accepted if all are named"):
            search.fit(X.iloc[order], y[order], teacher_logits=L.to_numpy()[order])
        search.estimator.set_params(teacher_classes=np.arange(10))
        search.fit(X.iloc[order], y[order], teacher_logits=L.to_numpy()[order])


def test_in_compare_methods(frames, taught):
    X, L, y = frames
    methods = {"taught": {"meta": "fixed"}, "none": {"meta": "none"}}
    found = compare_methods(
        taught, X, y, methods=methods, baseline="none", cv=2, n_jobs=1, teacher_logits=backwards(shuffled(L))
    ).results_
    assert found["accuracy"][found["method"] == "taught"].min() > 0.75


def test_minus_inf_is_a_class_that_is_switched_off(logits):
    masked = logits.copy()
    masked[:, 3] = -np.inf
    assert checked_logits(masked, len(masked), np.arange(10))[0, 3] == -np.inf


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize(
    ("value", "what"), [(np.nan, "NaN"), (np.inf, r"\+inf"), (1e300, r"\+inf"), (-np.inf, "nothing but −inf")]
)
def test_what_is_no_number_is_named_with_its_row(value, what, make, digits, logits):
    wrong = logits.astype(float)
    wrong[17] = value
    with pytest.raises(ValueError, match=f"teacher_logits: row 17 of X has {what}"):
        make().fit(*digits, teacher_logits=wrong)


def test_probabilities_as_logits(frames, taught):
    """Their logarithms are used, and that is said."""
    X, L, y = frames
    sure = [taught.fit(X, y, teacher_logits=L).predict_proba(X).max(axis=1).mean()]
    with pytest.warns(UserWarning, match="teacher_logits gives probabilities where logits are expected"):
        taught.fit(X, y, teacher_logits=np.exp(L))
    sure.append(taught.predict_proba(X).max(axis=1).mean())
    assert abs(sure[0] - sure[1]) < 0.01 and sure[0] > 0.6


def test_teacher_beside_teacher_logits(make, digits, logits):
    with pytest.warns(UserWarning, match="teacher_logits are used in place of teacher LogisticRegression"):
        clf = make(LogisticRegression()).fit(*digits, teacher_logits=logits)
    assert clf.teacher_ is None
    make(LogisticRegression(), meta="none").fit(*digits, teacher_logits=logits)  # asks nobody


def test_student_is_untouched_by_a_refusal(make, digits, logits):
    clf = make(student=MLPStudent)
    with pytest.raises(ValueError, match="teacher_logits"):
        clf.fit(*digits, teacher_logits=logits[:, :3])
    assert not hasattr(clf, "net_")


@pytest.mark.parametrize("form", [np.ravel, lambda z: z[:, None], lambda z: z.tolist()])
def test_one_number_for_two_classes(form, make, digits):
    """A decision function is no pair of logits; the message says how to make one of it."""
    X, y = digits[0], (digits[1] > 4).astype(int)
    z = X.sum(axis=1) - X.sum(axis=1).mean()
    with pytest.raises(ValueError, match=r"must have shape .* into np\.c_\[0 \* z, z\]"):
        make(None, meta="naive").fit(X, y, teacher_logits=form(z))
    make(None, meta="naive", max_epochs=1).fit(X, y, teacher_logits=np.c_[0 * z, z])
