"""Several teachers as one."""

import pickle

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier
from torch import nn

from sklearn_kd import compare_methods
from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.teachers import FunctionTeacher, TeacherAdapter, TeacherEnsemble, register_teacher
from sklearn_kd.teachers import _registry as registry
from sklearn_kd.teachers._registry import make_teacher

NAMES = np.array([f"digit {i}" for i in range(10)])


def logits_of(teacher, X, y, stated=None):
    wrapped = make_teacher(teacher, stated)
    data, device = DistillationData(torch.as_tensor(X)), torch.device("cpu")
    with wrapped.drawing_from(0, device):
        if wrapped.trains(wrapped.fitted):
            wrapped.fit(X, y, sample_weight=None, rng=np.random.RandomState(0))
        return torch.cat([*wrapped.iter_logits(X, data, np.unique(y), 64)]).numpy()


@pytest.mark.parametrize("weights", [None, [1, 3]])
def test_the_mean_of_log_probabilities(weights, digits, trained):
    """Of a network and of a classifier that knows the classes in another order."""
    X, y = digits
    fitted = LogisticRegression(max_iter=200).fit(X, NAMES[9 - y])
    with torch.no_grad():
        own = log_softmax(trained(torch.tensor(X)).numpy(), axis=1)
    other = fitted.predict_log_proba(X)
    a, b = (0.5, 0.5) if weights is None else (0.25, 0.75)
    names = NAMES[9 - np.arange(10)]  # of the network's columns
    found = logits_of(
        TeacherEnsemble([trained, FrozenEstimator(fitted)], weights), X, NAMES[9 - y], names.tolist()
    )
    np.testing.assert_allclose(found, a * own[:, ::-1] + b * other, rtol=1e-3, atol=1e-3)


def test_a_list_of_one_is_that_teacher(make, digits, trained):
    X, y = digits
    for params in ({}, {"augment": lambda x: x + 0.01}):
        alone, listed = (make(teacher, meta="linear", **params).fit(X, y) for teacher in (trained, [trained]))
        np.testing.assert_allclose(alone.predict_proba(X), listed.predict_proba(X), atol=1e-4)


def test_members_are_trained_on_d_train_or_asked(make, digits, trained):
    X, y = digits
    forest, frozen = RandomForestClassifier(5), FrozenEstimator(GaussianNB(var_smoothing=0.1).fit(X, y))
    clf = make([forest, trained, frozen], meta="linear", keep_teacher=True).fit(X, y)
    first, second, third = clf.teacher_.teachers
    assert second is trained and third is frozen and not hasattr(forest, "estimators_")
    assert first.random_state is not None and len(first.estimators_) == 5
    again = make([forest, trained, frozen], meta="linear").fit(X, y)
    np.testing.assert_array_equal(clf.predict_proba(X), again.predict_proba(X))
    with pytest.raises(ValueError, match="teacher list takes arrays, and cannot be asked batch by batch"):
        make([forest, trained], augment=lambda x: x).fit(X, y)


def test_weights_of_rows_reach_the_members(make, digits):
    X, y = digits
    weight = (y != 3).astype(float)
    clf = make([GaussianNB(), GaussianNB()], keep_teacher=True).fit(X, y, sample_weight=weight)
    assert [member.classes_.tolist() for member in clf.teacher_.teachers] == [[0, 1, 2, 4, 5, 6, 7, 8, 9]] * 2


@pytest.mark.parametrize("kind", [list, tuple, TeacherEnsemble])
def test_copies_share_what_comes_trained(kind, make, digits, trained):
    X, y = digits
    tree, other = (
        DecisionTreeClassifier(max_depth=5),
        FrozenEstimator(GaussianNB(var_smoothing=0.1).fit(X, y)),
    )

    def members(teacher):
        return teacher.teachers if kind is TeacherEnsemble else teacher

    copied = members(clone(make(kind([tree, trained]))).teacher)
    assert copied[1] is trained and copied[0] is not tree and copied[0].max_depth == 5
    assert np.isfinite(cross_val_score(make(kind([tree, trained])), X, y, cv=2, error_score="raise")).all()
    for teachers, trains, kept in (
        ([tree, trained], True, False),
        ([tree], True, True),
        ([trained, other], False, False),
    ):
        assert registry.comes_trained(kind(teachers)) is not trains
        assert (registry.without_training(kind(teachers)) is not None) is kept
    found = pickle.loads(pickle.dumps(make(kind([tree, tree])).fit(X, y)))
    assert [type(member) for member in members(found.teacher)] == [DecisionTreeClassifier] * 2
    assert not hasattr(members(found.teacher)[0], "tree_") and found.fit(X, y).score(X, y) > 0.1
    assert pickle.loads(pickle.dumps(make(kind([tree, trained])).fit(X, y))).teacher is None
    make(kind([tree]))._repr_html_()


def test_parameters_of_members(make, digits):
    clf = make(TeacherEnsemble([DecisionTreeClassifier(), GaussianNB()]))
    clf.set_params(
        teacher__0__max_depth=3, teacher__1=LogisticRegression(max_iter=50), teacher__weights=[1, 2]
    )
    assert clf.get_params()["teacher__1__max_iter"] == 50 and clone(clf).teacher.teachers[0].max_depth == 3
    search = GridSearchCV(clf, {"teacher__0__max_depth": [1, 2]}, cv=2, error_score="raise").fit(*digits)
    assert search.best_params_["teacher__0__max_depth"] in (1, 2)
    with pytest.raises(ValueError, match="no teacher at place 2: it has 2"):
        clf.teacher.set_params(**{"2": None})
    with pytest.raises(
        ValueError, match=r"has no parameters to set. Give teacher=sklearn_kd.teachers.TeacherEnsemble\("
    ):
        make([GaussianNB()]).set_params(teacher__0__var_smoothing=1.0)


@pytest.mark.parametrize(
    ("teacher", "error", "match"),
    [
        (TeacherEnsemble([]), ValueError, r"teachers=\[\] must be a list of one teacher or more"),
        (TeacherEnsemble(GaussianNB()), (TypeError, ValueError), "must be a list of one teacher or more"),
        (TeacherEnsemble([GaussianNB()], [1, 2]), ValueError, "must be one number above 0 for each of the 1"),
        (TeacherEnsemble([GaussianNB()], [0]), ValueError, "must be one number above 0"),
        (TeacherEnsemble([GaussianNB()], ["much"]), ValueError, "must be one number above 0"),
        ([GaussianNB(), 3], TypeError, r"teacher\[1\]=3 is none of"),
        ([nn.Linear(64, 3)], ValueError, "3 columns and does not know all of the 10 classes"),
    ],
)
def test_wrong_ensembles(teacher, error, match, make, digits, no_training):
    with pytest.raises(error, match=match):
        make(teacher).fit(*digits)


def test_members_are_compared_and_carried_to_other_processes(make, digits, monkeypatch):
    class Means:
        def __init__(self, means):
            self.means = means

    class MeansTeacher(TeacherAdapter):
        def predict_logits(self, X):
            return -((X[:, None] - self.teacher.means) ** 2).sum(axis=2)

    monkeypatch.setattr(registry, "_ADAPTERS", registry._ADAPTERS.copy())
    register_teacher(Means, MeansTeacher)
    X, y = digits
    clf = make([Means(np.stack([X[y == i].mean(axis=0) for i in range(10)])), DecisionTreeClassifier()])
    assert registry.registrations_of(clf.teacher) == [(Means, MeansTeacher)]
    found = compare_methods(clf, X, y, methods=("none", "naive"), cv=2, random_state=0)
    assert found.results_.shape == (4,)


def test_teachers_are_set_before_their_parameters():
    """As a search sets both at once; the parameters are those of the new teacher."""
    old, new = LogisticRegression(C=1.0), LogisticRegression(C=2.0)
    both = TeacherEnsemble([old, GaussianNB()]).set_params(**{"0__C": 7.0, "0": new, "1__priors": [1.0]})
    assert both.teachers[0] is new and new.C == 7.0 and old.C == 1.0
    both.set_params(**{"2__C": 3.0, "teachers": [old, old, new], "weights": [1, 1, 2]})
    assert new.C == 3.0 and both.weights == [1, 1, 2]


def test_classes_are_stated_for_those_alone_that_do_not_know_them(make, digits, trained):
    X, y = digits
    fitted = LogisticRegression(max_iter=200).fit(X, NAMES[y])
    knows = FunctionTeacher(fitted.decision_function, classes=NAMES)
    stated = NAMES.tolist()[::-1]
    both = logits_of([knows, trained], X, NAMES[y], stated)
    columns = trained(torch.as_tensor(X)).detach().numpy()[:, ::-1]
    expected = (log_softmax(fitted.decision_function(X), axis=1) + log_softmax(columns, axis=1)) / 2
    np.testing.assert_allclose(both, expected, atol=1e-4)


@pytest.mark.parametrize("members", [[("forest", GaussianNB())], [GaussianNB(), None]])
def test_what_is_no_teacher_is_named_by_its_place(members, make, digits):
    with pytest.raises(TypeError, match=r"teacher\[\d\]=.*A list of teachers holds only teachers"):
        make(members).fit(*digits)
