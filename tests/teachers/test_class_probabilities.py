"""Which classifiers can be teachers, on which labels they are fitted, and what their answers mean."""

import re
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_selection import RFE
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Perceptron, SGDClassifier
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.multiclass import OneVsRestClassifier, OutputCodeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.metaestimators import available_if

from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.teachers._class_probabilities import fitted_classifier
from sklearn_kd.teachers._registry import make_teacher


@pytest.fixture
def rows(digits):
    """120 digits of three classes, as codes."""
    X, y = digits
    some = np.flatnonzero(y < 3)[:120]
    return X[some], y[some]


def logits_of(teacher, X, y, classes=None, weight=None):
    wrapped = make_teacher(teacher)
    wrapped.fit(X, y, sample_weight=weight, rng=np.random.RandomState(0))
    classes = np.unique(y) if classes is None else classes
    data = DistillationData(torch.as_tensor(np.asarray(X, np.float32)))
    return torch.cat([*wrapped.iter_logits(X, data, classes, 64)]).numpy()


def accuracy(teacher, X, y):
    """Of the teacher's largest logit, by label."""
    return np.mean(np.unique(y)[logits_of(teacher, X, y).argmax(axis=1)] == y)


# --------------------------------------------------------------------------------------
# Whether there are probabilities


class HasThemOnceFitted(ClassifierMixin, BaseEstimator):
    """Has predict_proba when it is fitted, as others have by their parts."""

    def __init__(self, has=True):
        self.has = has

    def fit(self, X, y):
        self.model_ = GaussianNB().fit(X, y)
        self.classes_ = self.model_.classes_
        return self

    @available_if(lambda self: self.has and hasattr(self, "model_"))
    def predict_proba(self, X):
        return self.model_.predict_proba(X)


class Delegates(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    """All of another classifier's methods, by __getattr__."""

    def __init__(self, estimator=None):
        self.estimator = estimator

    def fit(self, X, y):
        self.estimator_ = clone(self.estimator).fit(X, y)
        return self

    def __getattr__(self, name):
        if name.startswith("__") or "estimator_" not in vars(self):
            raise AttributeError(name)
        return getattr(self.estimator_, name)


USABLE = {
    "stacking": StackingClassifier([("a", GaussianNB())], cv=2),
    "stacking of what has none": StackingClassifier([("a", LinearSVC()), ("b", Perceptron())], cv=2),
    "stacking with a forest": StackingClassifier([("a", GaussianNB())], RandomForestClassifier(5), cv=2),
    "stacking in a pipeline": make_pipeline(
        StandardScaler(), StackingClassifier([("a", GaussianNB())], cv=2)
    ),
    "stacking in a search": GridSearchCV(
        StackingClassifier([("a", GaussianNB())], cv=2), {"passthrough": [True, False]}, cv=2
    ),
    "stacking in a vote": VotingClassifier(
        [("a", StackingClassifier([("a", GaussianNB())], cv=2)), ("b", "drop")], voting="soft"
    ),
    "stack of a stack": StackingClassifier(
        [("a", GaussianNB())], StackingClassifier([("a", GaussianNB())], cv=2), cv=2
    ),
    "soft vote": VotingClassifier([("a", GaussianNB())], voting="soft"),
    "self-training": SelfTrainingClassifier(GaussianNB()),
    "one against the rest": OneVsRestClassifier(GaussianNB()),
    "one against the rest of stacks": OneVsRestClassifier(StackingClassifier([("a", GaussianNB())], cv=2)),
    "elimination": RFE(LogisticRegression(max_iter=20), n_features_to_select=32),
    "a search finds it": GridSearchCV(
        SGDClassifier(loss="hinge", random_state=0), {"loss": ["log_loss", "modified_huber"]}, cv=2
    ),
    "a search exchanges it": RandomizedSearchCV(
        make_pipeline(StandardScaler(), LinearSVC()), {"linearsvc": [GaussianNB()]}, n_iter=1, cv=2
    ),
    "calibrated": CalibratedClassifierCV(LinearSVC(), cv=2),
    "bagging": BaggingClassifier(LinearSVC(), n_estimators=2),
    "once fitted": HasThemOnceFitted(),
    "by delegation": Delegates(GaussianNB()),
}


@pytest.mark.parametrize("name", USABLE)
def test_judged_by_what_it_will_be(name, rows):
    X, y = rows
    names = np.array(["c", "a", "b"])[y]
    assert accuracy(USABLE[name], X, names) > 0.9


NEVER = {
    "hard vote": (VotingClassifier([("a", GaussianNB())]), "Set voting='soft' in VotingClassifier"),
    "soft vote of what has none": (
        VotingClassifier([("a", GaussianNB()), ("b", LinearSVC())], voting="soft"),
        "because its LinearSVC has none. Wrap LinearSVC in",
    ),
    "hard vote in a pipeline": (
        make_pipeline(VotingClassifier([("a", GaussianNB())])),
        "Set voting='soft' in VotingClassifier",
    ),
    "search that fits no best": (
        GridSearchCV(GaussianNB(), {}, refit=False),
        "Set refit=True in GridSearchCV",
    ),
    "output code": (OutputCodeClassifier(GaussianNB()), "OutputCodeClassifier has no predict_proba. Wrap it"),
    "self-training": (SelfTrainingClassifier(LinearSVC()), "because its LinearSVC has none"),
}


@pytest.mark.parametrize("name", NEVER)
def test_refused_before_it_is_fitted(name, make, rows, monkeypatch):
    teacher, match = NEVER[name]

    def fit(*args, **kwargs):
        raise AssertionError("was fitted")

    for kind in (GaussianNB, LinearSVC):
        monkeypatch.setattr(kind, "fit", fit)
    with pytest.raises(ValueError, match=re.escape(match)) as refused:
        make(teacher).fit(*rows)
    assert "CalibratedClassifierCV" in str(refused.value) or "refit" in str(refused.value)


def test_refused_once_it_is_known(make, rows):
    """Nobody can tell before what only its own fit decides."""
    with pytest.raises(ValueError, match="HasThemOnceFitted has no predict_proba"):
        make(HasThemOnceFitted(has=False)).fit(*rows)
    with pytest.raises(ValueError, match="Delegates has no predict_proba"):
        make(Delegates(OutputCodeClassifier(GaussianNB()))).fit(*rows)


def test_stack_as_teacher_in_a_fit(make, rows):
    X, y = rows
    teacher = StackingClassifier([("a", DecisionTreeClassifier(max_depth=3)), ("b", LinearSVC())], cv=2)
    settings = {"meta": "fixed", "lambda1": 0.0, "max_epochs": 15, "optimizer__momentum": 0.9}
    clf = make(teacher, keep_teacher=True, **settings).fit(X, y)
    assert clf.score(X, y) > 0.9 and len(clf.teacher_.estimators_) == 2
    again = make(FrozenEstimator(clf.teacher_), **settings)
    np.testing.assert_array_equal(again.fit(X, y).predict_proba(X), clf.predict_proba(X))


# --------------------------------------------------------------------------------------
# Labels or codes


class WantsCodes(ClassifierMixin, BaseEstimator):
    """Refuses labels other than 0 … K−1, and calls its classes by these, as XGBClassifier does."""

    def fit(self, X, y, sample_weight=None):
        found = np.unique(y)
        if not np.array_equal(found, np.arange(len(found))):
            raise ValueError(f"Expected: {np.arange(len(found))}, got {found}")
        self.model_ = LogisticRegression(max_iter=100).fit(X, y, sample_weight)
        self.classes_ = np.arange(len(found))
        self.weighted_ = sample_weight is not None
        return self

    def predict_proba(self, X):
        return self.model_.predict_proba(X)

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


class HidesLabels(WantsCodes):
    """Takes labels, and calls its classes by codes: which column is which label it does not say."""

    def fit(self, X, y):
        return super().fit(X, np.unique(y, return_inverse=True)[1])


class Records(GaussianNB):
    seen = []

    def fit(self, X, y, sample_weight=None):
        Records.seen.append(np.asarray(y))
        return super().fit(X, y, sample_weight)


LABELS = {
    "codes": np.arange(3),
    "names": np.array(["zero", "one", "two"]),
    "from 1": np.arange(1, 4),
    "gap": np.array([0, 2, 5]),
    "objects": np.array(["b", "c", "a"], dtype=object),
    "floats": np.array([1.0, 3.0, 2.0]),
    "negative": np.array([-2, 3, -1]),
}
WANTING = {
    "alone": WantsCodes(),
    "pipeline": make_pipeline(StandardScaler(), WantsCodes()),
    "search": GridSearchCV(make_pipeline(StandardScaler(), WantsCodes()), {}, cv=2),
    "calibrated": CalibratedClassifierCV(WantsCodes(), cv=2),
    "vote": VotingClassifier([("a", WantsCodes()), ("b", GaussianNB())], voting="soft"),
    "stack": StackingClassifier([("a", WantsCodes())], cv=2),
    "hides labels": HidesLabels(),
}


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("name", WANTING)
def test_codes_where_a_fit_needs_them(name, labels, rows):
    """Each logit is that of its label, whatever the order of the labels."""
    X, y = rows
    teacher, truth = WANTING[name], LABELS[labels][y]
    codes = np.unique(truth, return_inverse=True)[1]
    expected = clone(teacher).fit(X, codes).predict_proba(X)
    found = logits_of(teacher, X, truth)
    np.testing.assert_allclose(np.exp(found), expected, atol=1.1e-2)  # the floor of zeros
    assert accuracy(teacher, X, truth) > 0.95


def test_in_a_fit_on_a_fold_with_a_gap(make, digits):
    """Digits without 1 and 3, and a class that has weight 0."""
    X, y = digits
    some = np.isin(y, [0, 2, 4, 5])
    X, y = X[some], y[some]
    settings = {"meta": "fixed", "lambda1": 0.0, "max_epochs": 15, "optimizer__momentum": 0.9}
    assert make(WantsCodes(), **settings).fit(X, y).score(X, y) > 0.9
    weight = (y != 2) * np.where(y == 5, 2.0, 1.0)
    clf = make(WantsCodes(), keep_teacher=True, **settings).fit(X, y, sample_weight=weight)
    assert clf.score(X[y != 2], y[y != 2]) > 0.9 and clf.classes_.tolist() == [0, 2, 4, 5]
    assert clf.teacher_.classes_.tolist() == [0, 1, 2] and clf.teacher_.weighted_


def test_what_takes_labels_sees_labels(rows, make):
    X, y = rows
    names = LABELS["names"][y]
    Records.seen.clear()
    clf = make(make_pipeline(StandardScaler(), Records()), meta="naive", keep_teacher=True).fit(X, names)
    (seen,) = Records.seen
    np.testing.assert_array_equal(seen, names)
    assert clf.teacher_.classes_.tolist() == ["one", "two", "zero"]


def test_errors_of_the_teacher_are_its_own(rows, make):
    """Where codes do not mend it either, what it said of the labels is raised."""

    class Fails(GaussianNB):
        def fit(self, X, y, sample_weight=None):
            raise RuntimeError(f"no {np.unique(y)[0]}")

    with pytest.raises(RuntimeError, match="no one"):
        make(Fails()).fit(rows[0], LABELS["names"][rows[1]])
    with pytest.raises(RuntimeError, match="no 0"):
        make(Fails()).fit(*rows)


@pytest.mark.parametrize("labels", ["names", "from 1", "gap"])
def test_xgboost(labels, rows, make):
    XGBClassifier = pytest.importorskip("xgboost").XGBClassifier
    X, y = rows
    truth = LABELS[labels][y]
    teacher = XGBClassifier(n_estimators=5, n_jobs=1)
    assert accuracy(teacher, X, truth) > 0.95
    clf = make(teacher, meta="fixed", lambda1=0.0, max_epochs=15, optimizer__momentum=0.9).fit(X, truth)
    assert clf.score(X, truth) > 0.9
    frozen = FrozenEstimator(XGBClassifier(n_estimators=5, n_jobs=1).fit(X, y))
    with pytest.raises(ValueError, match="does not know the class"):
        make(frozen).fit(X, truth)


def test_frozen_on_codes_is_not_guessed(rows, make):
    X, y = rows
    frozen = FrozenEstimator(WantsCodes().fit(X, y))
    for labels in ("names", "from 1", "gap"):
        with pytest.raises(ValueError, match="Train it on the classes of y, not on codes of them"):
            make(frozen).fit(X, LABELS[labels][y])
    clf = make(frozen, meta="fixed", lambda1=0.0, max_epochs=15, optimizer__momentum=0.9).fit(X, y)
    assert clf.score(X, y) > 0.9
    # How to state it.
    truth = LABELS["names"][y]
    said = np.log(frozen.predict_proba(X))
    clf = make(None, meta="fixed", lambda1=0.0, max_epochs=15, optimizer__momentum=0.9)
    clf.set_params(teacher_classes=["zero", "one", "two"]).fit(X, truth, teacher_logits=said)
    assert clf.score(X, truth) > 0.9


# --------------------------------------------------------------------------------------
# Answers


class Answers(ClassifierMixin, BaseEstimator):
    """Gives its answers another form."""

    def __init__(self, form=np.asarray, classes=None):
        self.form, self.classes = form, classes

    def fit(self, X, y, sample_weight=None):
        self.model_ = GaussianNB().fit(X, y)
        self.classes_ = self.model_.classes_ if self.classes is None else self.classes
        return self

    def predict_proba(self, X):
        return self.form(self.model_.predict_proba(X))

    def __sklearn_clone__(self):
        return Answers(self.form, self.classes)


def named(columns):
    return lambda P: pd.DataFrame(P, columns=["one", "two", "zero"])[columns]


FORMS = {
    "list": lambda P: P.tolist(),
    "tuple of rows": lambda P: tuple(P),
    "frame": pd.DataFrame,
    "frame by name": named(["one", "two", "zero"]),
    "frame in another order": named(["zero", "one", "two"]),
    "polars": pl.DataFrame,
    "polars by name": lambda P: pl.DataFrame(P, schema=["one", "two", "zero"])[:, ::-1],
    "two decimals": lambda P: np.round(P, 2),
    "tensor": torch.as_tensor,
    "float32": lambda P: P.astype(np.float32),
    "float16": lambda P: P.astype(np.float16),
    "sum of .9999": lambda P: (P * 0.9999).astype(np.float32),
    "fortran": np.asfortranarray,
}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_forms_of_answers(form, frozen, rows):
    X, y = rows[0], LABELS["names"][rows[1]]
    teacher = Answers(FORMS[form])
    found = logits_of(FrozenEstimator(teacher.fit(X, y)) if frozen else teacher, X, y)
    np.testing.assert_allclose(np.exp(found), GaussianNB().fit(X, y).predict_proba(X), atol=1.1e-2)
    assert found.dtype == np.float32


def test_a_teacher_of_fitted_parts(rows, make):
    """A clone forgets what its parts have learned; frozen parts keep it."""
    X, y = rows
    part = GaussianNB().fit(X, y)
    with pytest.raises(
        ValueError, match=r"teacher StackingClassifier has a part that must come fitted.*FrozenE"
    ):
        make(StackingClassifier([("a", part)], cv="prefit")).fit(X, y)
    assert accuracy(StackingClassifier([("a", FrozenEstimator(part))], cv="prefit"), X, y) > 0.9


WRONG = {
    "one array per output": (lambda P: [P, P], "a list of 2 arrays, as for several outputs"),
    "one class": (lambda P: P[:, 1], r"shape \(120,\)"),
    "one column": (lambda P: P[:, :1], r"shape \(120, 1\)"),
    "a row less": (lambda P: P[1:], r"shape \(119, 3\)"),
    "a class less": (lambda P: P[:, :2] / P[:, :2].sum(axis=1, keepdims=True), r"shape \(120, 2\)"),
    "nothing": (lambda P: None, r"shape \(\)"),
    "frame of other names": (lambda P: pd.DataFrame(P, columns=list("abc")), "columns named"),
    "percent": (lambda P: 100 * P, "percentages"),
}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("form", WRONG)
def test_answers_that_are_none(form, frozen, rows, make):
    X, y = rows[0], LABELS["names"][rows[1]]
    make_form, match = WRONG[form]
    teacher = Answers(make_form)
    with pytest.raises(ValueError, match=match) as refused:
        make(FrozenEstimator(teacher.fit(X, y)) if frozen else teacher, meta="naive").fit(X, y)
    assert "teacher Answers: predict_proba" in str(refused.value)


def test_classes_that_a_teacher_does_not_state(rows, make):
    X, y = rows
    truth = LABELS["names"][y]

    class Silent(Answers):
        def fit(self, X, y):
            super().fit(X, y)
            del self.classes_
            return self

        def __sklearn_clone__(self):
            return Silent()

    with pytest.raises(ValueError, match="teacher Silent is fitted but has no classes_"):
        make(Silent()).fit(X, truth)
    with pytest.raises(ValueError, match="teacher Silent is fitted but has no classes_"):
        make(FrozenEstimator(Silent().fit(X, truth))).fit(X, truth)
    with pytest.raises(ValueError, match=r"was fitted on the labels .*, but its classes_ are"):
        make(Answers(classes=np.array(["x", "y", "z"]))).fit(X, truth)


def test_classes_left_out_get_the_floor(rows):
    """A teacher that leaves a class out, of its own or for want of weight, says next to nothing of it."""
    X, y = rows
    truth = LABELS["names"][y]

    class Drops(Answers):
        def fit(self, X, y):
            return super().fit(X[y != "one"], y[y != "one"])

        def __sklearn_clone__(self):
            return Drops()

    found = logits_of(Drops(), X, truth)
    assert (found[:, 0] == found.min()).all() and (found[:, 1:].max(axis=1) > np.log(0.5)).all()
    kept = truth != "two"
    found = logits_of(
        AdaBoostClassifier(n_estimators=2), X[kept], truth[kept], np.array(["one", "two", "zero"])
    )
    assert (found[:, 1] == found.min()).all()


def test_labels_that_are_strings_are_not_compared_with_numbers():
    """Of which NumPy warned before version 1.25, in each fit."""
    X, y = np.eye(4), np.array(["a", "b", "a", "b"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, classes = fitted_classifier(GaussianNB(), lambda part, y, coded: part.fit(X, y), y)
    assert classes.tolist() == ["a", "b"]
