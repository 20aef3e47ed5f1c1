"""Kinds of teachers that a user adds."""

import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from skorch import NeuralNet
from torch import nn
from torch.utils.data import TensorDataset

from sklearn_kd import compare_methods
from sklearn_kd.teachers import BatchTeacherAdapter, TeacherAdapter, register_teacher
from sklearn_kd.teachers import _registry as registry
from sklearn_kd.teachers._classifiers import ClassifierTeacher, FrozenTeacher
from sklearn_kd.teachers._networks import ModuleTeacher, SkorchTeacher


class Scores:
    """A trained model behind functions of its own; cannot be copied."""

    def __init__(self, X, y, labels=None):
        self.model = LogisticRegression(max_iter=200).fit(X, y)
        self.labels = labels
        self.n_calls = 0

    def __deepcopy__(self, memo):
        raise AssertionError("copied")

    def score(self, rows):
        self.n_calls += 1
        return self.model.decision_function(rows)


class Batches(Scores):
    """The same, to be asked batch by batch."""


class Means:
    """A model that is trained here."""

    labels = None

    def learn(self, X, y):
        self.labels = np.unique(y)
        self.means = np.stack([X[y == label].mean(axis=0) for label in self.labels])


class ScoresTeacher(TeacherAdapter):
    def column_classes(self):
        return self.teacher.labels

    def predict_logits(self, X):
        return self.teacher.score(np.asarray(X)).tolist()


class BatchesTeacher(BatchTeacherAdapter):
    def column_classes(self):
        return self.teacher.labels

    def predict_logits(self, X):
        assert isinstance(X, torch.Tensor) and X.dtype is torch.float32
        return torch.as_tensor(self.teacher.score(X.numpy(force=True)))


class MeansTeacher(TeacherAdapter):
    def check(self):
        if self.teacher.labels is not None:
            raise ValueError(f"{self.name} has been trained before")

    def fit(self, X, y, *, sample_weight, rng):
        self.teacher = copy.deepcopy(self.teacher)
        self.teacher.learn(X, y)

    def column_classes(self):
        return self.teacher.labels

    def predict_logits(self, X):
        return -((X[:, None] - self.teacher.means) ** 2).sum(axis=2)


@pytest.fixture(autouse=True)
def kinds(monkeypatch):
    """The kinds above, registered for one test."""
    monkeypatch.setattr(registry, "_ADAPTERS", registry._ADAPTERS.copy())
    register_teacher(Scores, ScoresTeacher)
    register_teacher(Batches, BatchesTeacher)
    register_teacher(Means, MeansTeacher)


@pytest.mark.parametrize("kind", [Scores, Batches])
def test_a_trained_kind_equals_its_logits(kind, make, digits):
    X, y = digits
    teacher = kind(X, y)
    clf = make(teacher, meta="linear", keep_teacher=True).fit(X, y)
    given = make(None, meta="linear").fit(X, y, teacher_logits=teacher.score(X))
    np.testing.assert_allclose(clf.predict_proba(X), given.predict_proba(X), rtol=1e-5)
    assert clf.teacher_ is teacher and clone(clf).teacher is teacher


def test_columns_are_aligned_by_the_classes_that_the_adapter_states(make, digits):
    X, y = digits
    names = np.array([f"digit {i}" for i in range(10)])
    some = y > 3
    teacher = Scores(X, y, labels=names.tolist())
    clf = make(teacher, meta="naive").fit(X[some], names[y[some]])
    expected = make(None, meta="naive").fit(
        X[some], names[y[some]], teacher_logits=teacher.score(X[some])[:, 4:]
    )
    np.testing.assert_allclose(clf.predict_proba(X), expected.predict_proba(X), rtol=1e-5)
    with pytest.raises(ValueError, match=r"teacher Scores gives 10 columns.*State the class of each column"):
        make(Scores(X, y)).fit(X[some], names[y[some]])
    make(Scores(X, y), teacher_classes=names).fit(X[some], names[y[some]])
    with pytest.raises(ValueError, match="contradicts teacher Scores, whose classes_"):
        make(teacher, teacher_classes=names[::-1]).fit(X, names[y])


def test_a_kind_that_is_trained_here_never_sees_other_rows(make, digits):
    X, y = digits
    teacher = Means()
    clf = make(teacher, meta="linear", validation_fraction=0.25, keep_teacher=True).fit(X, y)
    assert teacher.labels is None and clf.teacher_.means.shape == (10, 64)
    assert not np.allclose(clf.teacher_.means[0], X[y == 0].mean(axis=0))  # D_val is held out
    assert np.isfinite(cross_val_score(make(teacher), X, y, cv=2, error_score="raise")).all()
    kept = pickle.loads(pickle.dumps(make(teacher).fit(X, y)))
    assert kept.teacher_ is None and kept.teacher.labels is None
    with pytest.raises(ValueError, match="teacher Means has been trained before"):
        make(clf.teacher_).fit(X, y)


def test_only_batches_are_asked_about_datasets_and_augmented_rows(make, digits):
    X, y = digits
    rows, teacher = TensorDataset(torch.tensor(X), torch.tensor(y)), Batches(X, y)
    make(teacher, meta="naive").fit(rows, None)
    before = teacher.n_calls
    make(teacher, meta="naive", augment=lambda x: x + 0.01).fit(X, y)
    assert teacher.n_calls > before + 10
    for data, params in ((rows, None), {}), ((X, y), {"augment": lambda x: x}):
        with pytest.raises(ValueError, match="Scores takes arrays, and cannot be asked batch by batch"):
            make(Scores(X, y), **params).fit(*data)


@pytest.mark.parametrize(
    ("output", "match"),
    [
        (lambda logits: logits[:-1], r"teacher Scores: predict_logits of its adapter.*returned shape \("),
        (lambda logits: logits[:, 0], r"returned shape \(\d+,\)"),
        (lambda logits: [[1.0], [2.0, 3.0]], "a list that is not a table of numbers"),
        (lambda logits: None, "a NoneType that is not a table|returned shape"),
        (
            lambda logits: np.where(np.arange(10) == 3, np.nan, logits),
            r"teacher Scores: row \d+ of X has NaN",
        ),
        (lambda logits: logits[:, :5], "5 columns and does not know all of the 10 classes"),
    ],
)
def test_wrong_logits_are_refused(output, match, make, digits, no_training):
    class Wrong(ScoresTeacher):
        def predict_logits(self, X):
            return output(np.asarray(super().predict_logits(X)))

    X, y = digits
    teacher = object.__new__(Scores)
    teacher.__dict__ = {"labels": None, "score": lambda rows: np.zeros((len(rows), 10))}
    register_teacher(Scores, Wrong)
    with pytest.raises(ValueError, match=match):
        make(teacher).fit(X, y)


def test_probabilities_are_recognised(make, digits):
    class Probabilities(ScoresTeacher):
        def predict_logits(self, X):
            return self.teacher.model.predict_proba(X)

    register_teacher(Scores, Probabilities)
    with pytest.warns(
        UserWarning, match="teacher Scores gives probabilities.*Have predict_logits of its adapter"
    ):
        make(Scores(*digits)).fit(*digits)


def test_kinds_are_compared(make, digits):
    X, y = digits
    for teacher in (Means(), Batches(X, y)):
        found = compare_methods(make(teacher), X, y, methods=("none", "naive"), cv=2, random_state=0)
        assert found.results_.shape == (4,)


def test_a_search_varies_the_kind(make, digits):
    X, y = digits
    search = GridSearchCV(
        make(), {"teacher": [Means(), LogisticRegression(max_iter=50)]}, cv=2, error_score="raise"
    )
    assert np.isfinite(search.fit(X, y).cv_results_["mean_test_score"]).all()


# --------------------------------------------------------------------------------------
# The registry


def test_the_most_specific_class_wins():
    class Child(Scores): ...

    class Grandchild(Child): ...

    class GrandchildTeacher(ScoresTeacher): ...

    assert registry.adapter_class(object.__new__(Grandchild)) is ScoresTeacher
    assert register_teacher(Grandchild, GrandchildTeacher) is GrandchildTeacher
    assert registry.adapter_class(object.__new__(Grandchild)) is GrandchildTeacher
    assert registry.adapter_class(object.__new__(Child)) is ScoresTeacher


def test_a_module_of_ones_own_may_have_an_adapter_of_its_own(make, digits):
    class Shifted(nn.Linear): ...

    @register_teacher(Shifted)
    class ShiftedTeacher(BatchTeacherAdapter):
        def predict_logits(self, X):
            return self.teacher(X)[:, :10]

    clf = make(Shifted(64, 12), meta="naive", keep_teacher=True).fit(*digits)
    assert clf.teacher_.out_features == 12
    assert registry.adapter_class(nn.Linear(2, 2)) is ModuleTeacher


def test_an_adapter_may_leave_an_object_to_a_base_class():
    class Picky(ScoresTeacher):
        @classmethod
        def accepts(cls, teacher):
            return teacher.labels is not None

    register_teacher(Batches, Picky)
    batches = object.__new__(Batches)
    for batches.labels, expected in ((None, ScoresTeacher), ([1, 2], Picky)):
        assert registry.adapter_class(batches) is expected


def test_kinds_of_the_library(digits):
    X, y = digits
    fitted = LogisticRegression(max_iter=10).fit(X, y)
    net = NeuralNet(nn.Linear, nn.MSELoss)
    for teacher, adapter in (
        (fitted, ClassifierTeacher),
        (FrozenEstimator(fitted), FrozenTeacher),
        (FrozenEstimator(FrozenEstimator(fitted)), FrozenTeacher),
        (nn.Linear(2, 2), ModuleTeacher),
        (FrozenEstimator(nn.Linear(2, 2)), ModuleTeacher),
        (net, SkorchTeacher),
        (FrozenEstimator(net), SkorchTeacher),
        (FrozenEstimator(object.__new__(Scores)), ScoresTeacher),
    ):
        assert registry.adapter_class(teacher) is adapter, teacher
        assert registry.comes_trained(teacher) is (adapter is not ClassifierTeacher)
    for other in (None, "forest.pt", BaseEstimator(), Scores, LogisticRegression):
        assert registry.adapter_class(other) is None
        assert not registry.comes_trained(other) and registry.without_training(other) is None


def test_a_frozen_module_teaches(make, digits, trained):
    X, y = digits
    clf, plain = (make(teacher, meta="naive").fit(X, y) for teacher in (FrozenEstimator(trained), trained))
    np.testing.assert_array_equal(clf.predict_proba(X), plain.predict_proba(X))


@pytest.mark.parametrize(
    ("kind", "adapter", "error", "match"),
    [
        ("Scores", ScoresTeacher, TypeError, "kind='Scores' must be a class"),
        (Scores, ScoresTeacher(None), TypeError, "must be a subclass of TeacherAdapter.*not as an instance"),
        (Scores, Scores, TypeError, "must be a subclass of TeacherAdapter or BatchTeacherAdapter"),
        (Scores, TeacherAdapter, TypeError, "TeacherAdapter has no predict_logits"),
        (Scores, BatchTeacherAdapter, TypeError, "BatchTeacherAdapter has no predict_logits"),
        (
            Scores,
            type("Both", (BatchesTeacher,), {"fit": MeansTeacher.fit}),
            TypeError,
            "Both has a fit, but a BatchTeacherAdapter is for teachers that come trained",
        ),
        (
            nn.Module,
            BatchesTeacher,
            ValueError,
            "Module already has an adapter in this library, ModuleTeacher",
        ),
        (object, ScoresTeacher, ValueError, "object already has an adapter in this library"),
    ],
)
def test_wrong_registrations(kind, adapter, error, match):
    with pytest.raises(error, match=match):
        register_teacher(kind, adapter)
    if isinstance(kind, type):
        with pytest.raises(error, match=match):
            register_teacher(kind)(adapter)


class Trainer:
    """Has a fit, and is no estimator of scikit-learn."""

    def fit(self, X, y): ...


@pytest.mark.parametrize("teacher", [object(), Trainer()])
def test_a_class_that_is_not_registered_is_refused_with_the_way_to_register_it(teacher, make, digits):
    with pytest.raises(TypeError, match="a class that was given to register_teacher in this process"):
        clone(make(teacher)).fit(*digits)


def test_an_unfitted_estimator_takes_the_adapter_to_other_processes(make, digits, monkeypatch):
    X, y = digits
    clf = make(Means())
    unfitted, fitted = pickle.dumps(clf), pickle.dumps(clone(clf).fit(X, y))
    assert b"MeansTeacher" in unfitted and b"MeansTeacher" not in fitted

    class Later(MeansTeacher): ...

    for register, expected in ((lambda: None, MeansTeacher), (lambda: register_teacher(Means, Later), Later)):
        monkeypatch.delitem(registry._ADAPTERS, Means)
        registry._CARRIED.clear()
        register()
        there = pickle.loads(unfitted)
        assert registry.adapter_class(there.teacher) is expected
        assert not hasattr(there, "_registrations")
    del registry._ADAPTERS[Means]
    for adapter in (MeansTeacher, Later):  # from a worker's point of view: another definition
        registry.carry_registration(Means, adapter)
        assert registry.adapter_class(Means()) is adapter
    registry._CARRIED.clear()
