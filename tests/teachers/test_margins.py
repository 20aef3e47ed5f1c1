"""Teachers with a decision_function and no probabilities."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.ensemble import StackingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Perceptron, RidgeClassifier, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.teachers import _margins
from sklearn_kd.teachers._registry import make_teacher

WARNING = "has no predict_proba: the margins of its decision_function are used as logits"


@pytest.fixture(autouse=True)
def unsaid(monkeypatch):
    monkeypatch.setattr(_margins, "_SAID", set())


@pytest.fixture
def rows(digits):
    """120 digits of three classes, as codes."""
    X, y = digits
    some = np.flatnonzero(y < 3)[:120]
    return X[some], y[some]


def logits_of(teacher, X, y, classes=None):
    wrapped = make_teacher(teacher)
    wrapped.fit(X, y, sample_weight=None, rng=np.random.RandomState(0))
    data = DistillationData(torch.as_tensor(X))
    classes = np.unique(y) if classes is None else classes
    with pytest.warns(UserWarning, match=WARNING):
        return torch.cat([*wrapped.iter_logits(X, data, classes, 64)]).numpy(), wrapped.fitted


USABLE = {
    "LinearSVC": LinearSVC(),
    "Ridge": RidgeClassifier(),
    "Perceptron": Perceptron(),
    "SVC": SVC(),
    "hinge": SGDClassifier(),
    "pipeline": make_pipeline(StandardScaler(), LinearSVC()),
    "search": GridSearchCV(LinearSVC(), {"C": [0.1, 1.0]}, cv=2),
    "stack": StackingClassifier([("a", GaussianNB())], LinearSVC(), cv=2),
    "one against the rest": OneVsRestClassifier(LinearSVC()),
    "one against one": OneVsOneClassifier(GaussianNB()),
}


@pytest.mark.parametrize("name", USABLE)
def test_margins_are_logits_of_the_labels(name, rows):
    X, y = rows
    names = np.array(["c", "a", "b"])[y]
    logits, fitted = logits_of(USABLE[name], X, names)
    np.testing.assert_allclose(logits, fitted.decision_function(X), rtol=1e-5)
    assert np.mean(np.array(["a", "b", "c"])[logits.argmax(axis=1)] == names) > 0.95


def test_two_classes_have_the_logits_0_and_the_margin(rows):
    X, y = rows[0], rows[1] > 0
    logits, fitted = logits_of(LinearSVC(), X, y)
    np.testing.assert_allclose(logits, np.c_[np.zeros(len(y)), fitted.decision_function(X)], rtol=1e-5)


def test_a_class_without_rows_has_probability_0(rows):
    X, y = rows
    logits, _ = logits_of(LinearSVC(), X[y != 1], y[y != 1], classes=np.arange(3))
    assert (logits[:, 1] == -np.inf).all() and np.isfinite(logits[:, [0, 2]]).all()


def test_in_a_fit_frozen_or_not_it_is_said_once(make, rows):
    X, y = rows
    settings = {"meta": "fixed", "lambda1": 0.0, "max_epochs": 15, "optimizer__momentum": 0.9}
    with pytest.warns(UserWarning, match=WARNING) as said:
        for teacher in (LinearSVC(), FrozenEstimator(LinearSVC().fit(X, y)), LinearSVC()):
            assert make(teacher, **settings).fit(X, y).score(X, y) > 0.9
    assert len(said) == 1


@pytest.mark.parametrize(
    "teacher", [SVC(decision_function_shape="ovo"), make_pipeline(SVC(decision_function_shape="ovo"))]
)
def test_margins_of_pairs_are_refused(teacher, make, rows, monkeypatch):
    """With three classes their shape is right, and their meaning is not."""
    X, y = rows
    fitted = teacher.fit(X, y)
    assert fitted.decision_function(X).shape == (len(y), 3)
    for given in (teacher, FrozenEstimator(fitted)):
        with (
            warnings.catch_warnings(),
            pytest.raises(ValueError, match=r"decision_function_shape='ovo'.*of pairs"),
        ):
            warnings.simplefilter("ignore")  # that it is fitted
            make(given).fit(X, y)
    search = GridSearchCV(SVC(), {"decision_function_shape": ["ovo"]}, cv=2)
    with pytest.raises(ValueError, match="of pairs"):
        make(search).fit(X, y)


class Scores:
    """Trained, with margins alone."""

    def __init__(self, margins):
        self.decision_function = margins


@pytest.mark.parametrize("margins", [lambda X: X[:5, :3], lambda X: np.zeros((len(X), 3, 2))])
def test_wrong_margins(margins, make, rows):
    with pytest.raises(
        ValueError, match=r"decision_function must return one margin for each class.*it returned shape \("
    ):
        make(Scores(margins)).fit(*rows)


class Framed:
    """A trained object whose margins are a data frame, in another order than its classes."""

    def __init__(self, classifier):
        self.classifier, self.known = classifier, classifier.classes_

    def decision_function(self, X):
        return pd.DataFrame(self.classifier.decision_function(X), columns=self.known).iloc[:, ::-1]


@pytest.mark.parametrize("says", ["classes_", "names alone"])
@pytest.mark.filterwarnings("ignore:.*has no predict_proba")
def test_columns_of_a_data_frame_are_named(says, rows):
    X, y = rows
    names = np.array(["zero", "one", "two"])[y]
    teacher = Framed(LinearSVC().fit(X, names))
    if says == "classes_":
        teacher.classes_ = teacher.known
    data = DistillationData(torch.as_tensor(X))
    found = torch.cat([*make_teacher(teacher).iter_logits(X, data, teacher.known, 64)])
    np.testing.assert_allclose(found, teacher.classifier.decision_function(X), rtol=1e-5)
