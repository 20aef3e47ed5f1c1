"""sample_weight reaches the parts of a scikit-learn teacher, or it is said that it does not."""

import warnings

import numpy as np
import pytest
import sklearn
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_selection import RFE, RFECV, SelectFromModel
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import (
    GridSearchCV,
    RandomizedSearchCV,
    cross_val_predict,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.fixes import parse_version

from sklearn_kd.teachers._weighted_fit import WeightedFit

BEFORE_1_8 = parse_version(sklearn.__version__) < parse_version("1.8")


class Spy(LogisticRegression):
    """Keeps the weights that its fits were given."""

    seen = []

    def fit(self, X, y, sample_weight=None):
        Spy.seen.append((len(X), sample_weight))
        return super().fit(X, y, sample_weight)


def spy(**params):
    return Spy(max_iter=15, **params)


@pytest.fixture
def rows(digits):
    """150 digits of three classes, one of which weighs a hundred times as much."""
    X, y = digits
    some = np.flatnonzero(y < 3)[:100]
    return X[some], y[some], np.where(y[some] == 2, 100.0, 1.0)


def fitted(teacher, X, y, weight):
    """A clone fitted as a teacher is, without a warning."""
    teacher = clone(teacher)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="sample_weight does not reach")
        WeightedFit(teacher, weight).fit(teacher, X, y)
    return teacher


# Teachers, and how they are fitted with weights by hand; None where that takes metadata routing.
BY_HAND = {
    "alone": (spy(), ["sample_weight"]),
    "pipeline": (make_pipeline(StandardScaler(), spy()), ["spy__sample_weight"]),
    "pipeline in a pipeline": (
        Pipeline([("a", StandardScaler()), ("b", make_pipeline(StandardScaler(), spy()))]),
        ["b__spy__sample_weight"],
    ),
    "search": (GridSearchCV(spy(), {"C": [0.1, 1.0]}, cv=2), ["sample_weight"]),
    "search of a pipeline": (
        RandomizedSearchCV(
            make_pipeline(StandardScaler(), spy()), {"spy__C": [0.1, 1.0]}, n_iter=2, cv=2, random_state=0
        ),
        ["spy__sample_weight"],
    ),
    "search in a pipeline": (
        Pipeline([("a", StandardScaler()), ("b", GridSearchCV(spy(), {"C": [0.1, 1.0]}, cv=2))]),
        ["b__sample_weight"],
    ),
    "search by a named score": (
        GridSearchCV(spy(), {"C": [0.1, 1.0]}, cv=2, scoring="f1_macro"),
        ["sample_weight"],
    ),
    "voting": (VotingClassifier([("a", spy()), ("b", GaussianNB())], voting="soft"), ["sample_weight"]),
    "stacking": (StackingClassifier([("a", spy())], spy(), cv=2), ["sample_weight"]),
    "stacking of search": (
        StackingClassifier([("a", GridSearchCV(spy(), {"C": [1.0]}, cv=2)), ("b", "drop")], cv=2),
        None,
    ),
    "bagging": (BaggingClassifier(spy(), n_estimators=2, random_state=0), ["sample_weight"]),
    "calibrated": (CalibratedClassifierCV(spy(), cv=2), ["sample_weight"]),
    "elimination": (RFE(spy(), n_features_to_select=60), ["sample_weight"]),
    "one against the rest": (OneVsRestClassifier(spy()), None),
    "one against one in a pipeline": (
        make_pipeline(StandardScaler(), CalibratedClassifierCV(OneVsOneClassifier(spy()), cv=2)),
        None,
    ),
    "voting of pipelines": (
        VotingClassifier([("a", make_pipeline(StandardScaler(), spy())), ("b", spy())], voting="soft"),
        None,
    ),
    "stacking of pipelines": (
        StackingClassifier([("a", make_pipeline(StandardScaler(), spy()))], cv=2),
        None,
    ),
    "calibrated pipeline": (CalibratedClassifierCV(make_pipeline(StandardScaler(), spy()), cv=2), None),
    "search that routes": (
        GridSearchCV(OneVsRestClassifier(spy()), {"estimator__C": [0.1, 1.0]}, cv=2, scoring="accuracy"),
        None,
    ),
    "search by two scores": (
        GridSearchCV(
            OneVsRestClassifier(spy()),
            {"estimator__C": [0.1, 1.0]},
            cv=2,
            scoring=["accuracy", "roc_auc_ovr"],
            refit="accuracy",
        ),
        None,
    ),
    "bagging in a voting that routes": (
        VotingClassifier(
            [("a", BaggingClassifier(n_estimators=2)), ("b", make_pipeline(spy()))], voting="soft"
        ),
        None,
    ),
    "elimination by folds": (RFECV(spy(), min_features_to_select=62, cv=2), None),
    "self-training": (SelfTrainingClassifier(spy()), None),
    "selected features": (make_pipeline(SelectFromModel(spy()), spy()), ["spy__sample_weight"]),
    "search among classifiers": (
        GridSearchCV(
            Pipeline([("a", StandardScaler()), ("b", spy())]),
            {"b": [make_pipeline(StandardScaler(), spy()), spy(C=0.1)]},
            cv=2,
        ),
        None,
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_every_part_is_weighted(name, rows):
    """Whether the user has metadata routing on or off, by turns."""
    if BEFORE_1_8 and name == "bagging in a voting that routes":
        pytest.skip("this scikit-learn's Bagging does not set its default tree to request weights")
    X, y, weight = rows
    routing = list(BY_HAND).index(name) % 2 == 0
    teacher, arguments = BY_HAND[name]
    Spy.seen.clear()
    with config_context(enable_metadata_routing=routing):
        found = fitted(teacher, X, y, weight)
    if name == "selected features":
        del Spy.seen[0]  # of a transformer
    assert Spy.seen and all(w is not None and len(w) == n for n, w in Spy.seen)
    # Both kinds of weights, so that they are those of the rows.
    assert all(set(np.unique(w)) <= {1.0, 100.0} for _, w in Spy.seen) or name == "bagging"
    if arguments is not None:
        expected = clone(teacher).fit(X, y, **dict.fromkeys(arguments, weight))
        np.testing.assert_allclose(found.predict_proba(X), expected.predict_proba(X), rtol=1e-6, atol=1e-9)
    plain = clone(teacher).fit(X, y)
    assert np.abs(found.predict_proba(X) - plain.predict_proba(X)).max() > 1e-4


def test_weights_are_those_of_the_rows(rows):
    """What cannot be given by hand without routing, part by part."""
    X, y, weight = rows
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=50))
    voting = VotingClassifier([("a", pipeline), ("b", GaussianNB())], voting="soft")
    parts = [
        clone(pipeline).fit(X, y, logisticregression__sample_weight=weight),
        GaussianNB().fit(X, y, sample_weight=weight),
    ]
    expected = np.mean([part.predict_proba(X) for part in parts], axis=0)
    np.testing.assert_allclose(fitted(voting, X, y, weight).predict_proba(X), expected, rtol=1e-6, atol=1e-9)
    rest = fitted(OneVsRestClassifier(LogisticRegression(max_iter=50)), X, y, weight)
    for k, part in enumerate(rest.estimators_):
        alone = LogisticRegression(max_iter=50).fit(X, y == k, sample_weight=weight)
        np.testing.assert_allclose(part.coef_, alone.coef_, rtol=1e-6, atol=1e-9)
    stacking = fitted(StackingClassifier([("a", pipeline)], cv=2), X, y, weight)
    np.testing.assert_allclose(stacking.estimators_[0][-1].coef_, parts[0][-1].coef_, rtol=1e-6, atol=1e-9)


def test_final_estimator_of_stacking_is_weighted(rows):
    X, y, weight = rows
    teacher = StackingClassifier([("a", make_pipeline(StandardScaler(), GaussianNB()))], cv=2)
    found = fitted(teacher, X, y, weight)
    said = cross_val_predict(
        teacher.estimators[0][1],
        X,
        y,
        cv=2,
        method="predict_proba",
        params={"gaussiannb__sample_weight": weight},
    )
    expected = LogisticRegression().fit(said, y, sample_weight=weight)
    np.testing.assert_allclose(found.final_estimator_.coef_, expected.coef_, rtol=1e-4, atol=1e-6)
    assert np.abs(expected.coef_ - LogisticRegression().fit(said, y).coef_).max() > 1e-3


@pytest.mark.parametrize("routing", [False, True])
def test_requests_of_the_user_stand(routing, rows):
    X, y, weight = rows
    with config_context(enable_metadata_routing=True):
        quiet = spy().set_fit_request(sample_weight=False)
        aside = StandardScaler().set_fit_request(sample_weight=True)
    Spy.seen.clear()
    with config_context(enable_metadata_routing=routing):
        found = fitted(
            VotingClassifier([("a", quiet), ("b", make_pipeline(aside, spy()))], voting="soft"), X, y, weight
        )
    assert [w is None for _, w in Spy.seen] == [True, False]
    scaled = found.estimators_[1][0]
    np.testing.assert_allclose(scaled.mean_, np.average(X, axis=0, weights=weight), rtol=1e-5)
    fitted(quiet, X, y, weight)  # nothing is said of what was asked for


class Outer(ClassifierMixin, BaseEstimator):
    """A meta-estimator of one's own that passes nothing on."""

    def __init__(self, estimator):
        self.estimator = estimator

    def fit(self, X, y):
        self.estimator_ = clone(self.estimator).fit(X, y)
        self.classes_ = self.estimator_.classes_
        return self

    def predict_proba(self, X):
        return self.estimator_.predict_proba(X)


MISSED = {
    "neighbours": (KNeighborsClassifier(), "KNeighborsClassifier. It is"),
    "in a pipeline": (
        make_pipeline(StandardScaler(), KNeighborsClassifier()),
        "KNeighborsClassifier. Within Pipeline",
    ),
    "one of two": (
        VotingClassifier([("a", KNeighborsClassifier()), ("b", spy())], voting="soft"),
        "KNeighborsClassifier. Within VotingClassifier these are",
    ),
    "own": (Outer(spy()), "Outer. It is"),
    "own beside another": (
        VotingClassifier([("a", Outer(spy())), ("b", spy())], voting="soft"),
        "Outer. Within VotingClassifier",
    ),
    "bagging": (
        BaggingClassifier(KNeighborsClassifier(), n_estimators=2),
        "KNeighborsClassifier. Within Bagging",
    ),
    "a stack that cannot": (
        StackingClassifier([("a", make_pipeline(spy()))], KNeighborsClassifier(), cv=2),
        "StackingClassifier (",
    ),
    "search": (
        GridSearchCV(spy(), [{"C": [1.0]}], cv=2).set_params(estimator=KNeighborsClassifier(), param_grid={}),
        "KNeighborsClassifier. Within GridSearchCV",
    ),
}


@pytest.mark.parametrize("routing", [False, True])
@pytest.mark.parametrize("name", MISSED)
def test_what_the_weights_do_not_reach_is_said(name, routing, rows):
    X, y, weight = rows
    teacher, match = MISSED[name]
    with config_context(enable_metadata_routing=routing), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        teacher = clone(teacher)
        WeightedFit(teacher, weight).fit(teacher, X, y)
    ours = [str(w.message) for w in caught if "does not reach" in str(w.message)]
    assert "FrozenEstimator(fitted)" in ours[0]
    assert match in ours[-1]
    assert len(ours) == 1
    assert teacher.predict_proba(X).shape == (100, 3)
    if name == "one of two":
        np.testing.assert_allclose(
            teacher.estimators_[1].coef_, spy().fit(X, y, sample_weight=weight).coef_, rtol=1e-6
        )


def test_no_false_alarm(rows, make):
    """Without weights that differ nothing is missed; a row of weight 0 is left out, whoever the teacher is."""
    X, y, _ = rows
    fitted(KNeighborsClassifier(), X, y, None)
    fitted(KNeighborsClassifier(), X, y, np.full(len(y), 3.0))
    fitted(FrozenEstimator(KNeighborsClassifier().fit(X, y)), X, y, 1.0 + y)
    kept = y != 1
    clf = make(KNeighborsClassifier(), meta="naive", keep_teacher=True)
    clf.fit(X, y, sample_weight=kept.astype(float))
    assert clf.teacher_.classes_.tolist() == [0, 2] and clf.teacher_.n_samples_fit_ == kept.sum()


@pytest.mark.parametrize("meta", ["naive", "linear"])
def test_in_a_fit(meta, rows, make):
    """The teacher of a fit has the weights of D_train, without the rows of weight 0."""
    X, y, weight = rows
    weight = np.where(y == 1, 0.0, weight)
    pipeline = make_pipeline(StandardScaler(), spy())
    Spy.seen.clear()
    clf = make(pipeline, meta=meta, keep_teacher=True).fit(X, y, sample_weight=weight)
    ((_, seen),) = Spy.seen
    assert set(seen) == {1.0, 100.0} and clf.teacher_[-1].classes_.tolist() == [0, 2]
    if meta == "naive":
        expected = clone(pipeline).fit(X[weight > 0], y[weight > 0], spy__sample_weight=weight[weight > 0])
        np.testing.assert_allclose(clf.teacher_[-1].coef_, expected[-1].coef_, rtol=1e-6, atol=1e-9)


def test_warned_once_and_before_the_student(rows, make):
    X, y, weight = rows
    with pytest.warns(UserWarning, match="does not reach the teacher's KNeighborsClassifier") as caught:
        make(KNeighborsClassifier()).fit(X, y, sample_weight=weight)
    assert len([w for w in caught if "does not reach" in str(w.message)]) == 1


@pytest.mark.skipif(
    BEFORE_1_8, reason="this scikit-learn scores without weights where they are given by hand"
)
def test_choices_by_score_are_weighted(rows):
    """A search within a stack of pipelines scores as one that is given weights by hand."""
    X, y, weight = rows
    search = GridSearchCV(LogisticRegression(max_iter=20), {"C": [1e-4, 1.0]}, cv=2, scoring="accuracy")
    by_hand = clone(search).fit(X, y, sample_weight=weight)
    voting = VotingClassifier([("a", search), ("b", make_pipeline(GaussianNB()))], voting="soft")
    found = fitted(voting, X, y, weight).estimators_[0]
    for key in ("mean_test_score", "rank_test_score"):
        np.testing.assert_allclose(found.cv_results_[key], by_hand.cv_results_[key])
    cv = LogisticRegressionCV(Cs=[1e-4, 1.0], cv=2, max_iter=20, scoring="accuracy")
    voting = VotingClassifier([("a", cv), ("b", make_pipeline(GaussianNB()))], voting="soft")
    np.testing.assert_allclose(
        fitted(voting, X, y, weight).estimators_[0].coef_,
        clone(cv).fit(X, y, sample_weight=weight).coef_,
        rtol=1e-4,
        atol=1e-6,
    )
    assert fitted(clone(voting).set_params(a__scoring=None), X, y, weight) is not None  # nothing is missed


def test_forest_and_tree_are_as_they_were(rows):
    """What took weights before takes the same."""
    X, y, weight = rows
    for teacher in (
        RandomForestClassifier(5, random_state=0),
        DecisionTreeClassifier(random_state=0),
        CalibratedClassifierCV(LinearSVC(random_state=0), cv=2),
        AdaBoostClassifier(n_estimators=3, random_state=0),
        BaggingClassifier(n_estimators=3, random_state=0),
    ):
        expected = clone(teacher).fit(X, y, sample_weight=weight).predict_proba(X)
        np.testing.assert_array_equal(fitted(teacher, X, y, weight).predict_proba(X), expected)
