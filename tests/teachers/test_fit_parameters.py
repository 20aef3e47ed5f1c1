"""Parameters of the teacher's own fit: teacher__fit__NAME."""

import inspect
import pickle

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_kd import DistilledClassifier, DistProClassifier, MLPStudent, compare_methods
from sklearn_kd.teachers import TeacherEnsemble
from sklearn_kd.teachers._fit_parameters import FitParameters

NAMES = np.array([f"digit {i}" for i in range(10)])


class Booster(ClassifierMixin, BaseEstimator):
    """Takes an eval_set, and labels 0 … K−1 alone."""

    def __init__(self, rounds=1):
        self.rounds = rounds

    def fit(self, X, y, sample_weight=None, *, eval_set=None, verbose=True):
        for labels in [y, *(pair[1] for pair in eval_set or ())]:
            if np.asarray(labels).dtype.kind not in "iu":
                raise ValueError("labels must be 0 … K−1")
        self.model_ = GaussianNB(var_smoothing=0.1).fit(X, y, sample_weight)
        self.classes_, self.seen_, self.verbose_ = self.model_.classes_, eval_set, verbose
        return self

    def predict_proba(self, X):
        return self.model_.predict_proba(X)


class WeightedBooster(Booster):
    def __init__(self, rounds=1, class_weight=None):
        super().__init__(rounds)
        self.class_weight = class_weight


def test_they_reach_the_fit_of_the_teacher(make, digits):
    X, y = digits
    clf = make(Booster(), keep_teacher=True, teacher__fit__eval_set=[(X[:9], y[:9])], teacher__fit__verbose=0)
    clf.set_params(teacher__rounds=3)
    fitted = clone(clf).fit(X, y).teacher_
    assert fitted.verbose_ == 0 and fitted.rounds == 3
    np.testing.assert_array_equal(fitted.seen_[0][1], y[:9])
    assert clf.get_params()["teacher__fit__verbose"] == 0
    assert clf.set_params(teacher__fit__verbose=5, teacher=Booster()).fit(X, y).teacher_.verbose_ == 5
    assert pickle.loads(pickle.dumps(clf)).teacher__fit__verbose == 5


def test_labels_in_an_eval_set_become_the_codes_of_the_teachers(make, digits):
    X, y = digits
    some = y > 4
    clf = make(Booster(), keep_teacher=True, teacher__fit__eval_set=[(X[some][:9], NAMES[y[some]][:9])])
    fitted = clf.fit(X[some], NAMES[y[some]]).teacher_
    np.testing.assert_array_equal(fitted.seen_[0][1], y[some][:9] - 5)
    with pytest.raises(ValueError, match=r"eval_set has the label\(s\) \['digit 0', .*which D_train lacks"):
        clf.set_params(teacher__fit__eval_set=[(X[:9], NAMES[y[:9]])]).fit(X[some], NAMES[y[some]])


def test_inside_searches_pipelines_ensembles_and_comparisons(make, digits):
    X, y = digits
    given = {"teacher__fit__verbose": False}
    assert np.isfinite(cross_val_score(make(Booster(), **given), X, y, cv=2, error_score="raise")).all()
    search = GridSearchCV(make(Booster()), {"teacher__fit__verbose": [3]}, cv=2, error_score="raise")
    assert search.fit(X, y).best_params_ == {"teacher__fit__verbose": 3}
    piped = make_pipeline(StandardScaler(), Booster())
    clf = make(piped, keep_teacher=True, teacher__fit__booster__verbose=7).fit(X, y)
    assert clf.teacher_[-1].verbose_ == 7
    both = make([GaussianNB(), Booster()], keep_teacher=True, teacher__fit__1__verbose=8).fit(X, y)
    assert both.teacher_.teachers[1].verbose_ == 8
    compare_methods(make(Booster(), **given), X, y, methods=("none", "naive"), cv=2, random_state=0)
    with config_context(enable_metadata_routing=True):
        asking = make_pipeline(StandardScaler(), Booster().set_fit_request(verbose=True))
        assert make(asking, keep_teacher=True, teacher__fit__verbose=9).fit(X, y).teacher_[-1].verbose_ == 9


@pytest.mark.parametrize(
    ("teacher", "name", "match"),
    [
        (Booster(), "eval_sets", "fit of teacher Booster takes no 'eval_sets'. Did you mean 'eval_set'?"),
        (Booster(), "sample_weight", "the teacher is fitted on X, y and sample_weight of D_train"),
        (GaussianNB(), "eval_set", "takes no 'eval_set'.* It takes none beside X, y and sample_weight"),
        (make_pipeline(Booster()), "verbose", r"has the steps \['booster'\], and passes on STEP__NAME"),
        (make_pipeline(Booster()), "booster__verbos", "step 'booster' of teacher Pipeline takes no 'verbos'"),
        (
            TeacherEnsemble([Booster()]),
            "verbose",
            r"several teachers. Give teacher__fit__PLACE__NAME.*\['0'\]",
        ),
        (len, "verbose", "comes trained, and takes no parameters of fit. Leave it out"),
    ],
)
def test_unknown_ones_are_refused_before_any_training(teacher, name, match, make, digits, no_training):
    with pytest.raises(TypeError, match=f"teacher__fit__{name}: .*{match}"):
        make(teacher, **{f"teacher__fit__{name}": 1}).fit(*digits)


def test_a_teacher_that_comes_trained_is_not_fitted(make, digits):
    frozen = FrozenEstimator(Booster().fit(*digits))
    with pytest.raises(TypeError, match="teacher Booster comes trained"):
        make(frozen, teacher__fit__verbose=1).fit(*digits)
    with pytest.raises(TypeError, match="unexpected parameter 'teacher__max_depth'"):
        DistilledClassifier(None, MLPStudent, teacher__max_depth=3).fit(*digits)
    distpro = DistProClassifier(None, MLPStudent, teacher__fit__verbose=1)
    with pytest.raises(TypeError, match="unexpected parameter 'teacher__fit__verbose'"):
        distpro._check_routed(loaded=False)


def test_files_do_not_hold_them(make, digits, tmp_path):
    pytest.importorskip("safetensors")
    X, y = digits
    clf = make(Booster(), teacher__fit__eval_set=[(X, y)]).fit(X, y)
    clf.save(tmp_path / "saved.safetensors")
    again = DistilledClassifier.load(
        tmp_path / "saved.safetensors", teacher=Booster(), teacher__fit__verbose=2
    )
    assert again.teacher__fit__verbose == 2 and not hasattr(again, "teacher__fit__eval_set")
    again.fit(X, y)


@pytest.mark.parametrize(("package", "kind"), [("xgboost", "XGBClassifier"), ("lightgbm", "LGBMClassifier")])
@pytest.mark.filterwarnings("ignore:The argument 'eval_set' is deprecated")
def test_early_stopping_needs_rows_to_stop_by(package, kind, make, digits, no_training):
    booster = getattr(pytest.importorskip(package), kind)
    X, y = digits
    name = "early_stopping_rounds" if package == "xgboost" else "early_stopping_round"
    quiet = {"n_jobs": 1, "n_estimators": 8, "max_depth": 2} | (
        {"verbose": -1} if package == "lightgbm" else {}
    )
    teacher = booster(**quiet, **{name: 2})
    for given in (teacher, make_pipeline(teacher)):
        with pytest.raises(
            ValueError, match=rf"has {name}=2, but no rows to stop by.*teacher__fit__eval_set=\["
        ):
            make(given).fit(X, y)


@pytest.mark.parametrize("form", ["pairs", "lists", "column", "alone", "rows as lists"])
def test_all_forms_of_an_eval_set_become_codes(form, digits):
    X, y = digits
    named, rows = NAMES[y[:9]], X[:9]
    pair = {"column": (rows, named[:, None]), "rows as lists": (rows.tolist(), named.tolist())}.get(
        form, (rows, named)
    )
    given = {"pairs": [pair, pair], "lists": [list(pair)], "alone": pair}.get(form, [pair])
    coded = FitParameters({"step__eval_set": given}).for_labels(NAMES)["step__eval_set"]
    for own in [coded] if form == "alone" else coded:
        np.testing.assert_array_equal(own[1], y[:9])
        assert own[0] is pair[0]


@pytest.mark.parametrize("labels", [np.arange(10) + 1, NAMES])
def test_lightgbm_stops_by_the_codes_of_eval_y(labels, make, digits):
    """By itself LightGBM takes labels in eval_y for codes, and stops after one round."""
    LGBMClassifier = pytest.importorskip("lightgbm").LGBMClassifier
    if "eval_y" not in inspect.signature(LGBMClassifier.fit).parameters:
        pytest.skip("this version has no eval_y")
    X, y = digits
    teacher = LGBMClassifier(
        n_estimators=9, early_stopping_round=2, min_child_samples=2, num_leaves=4, n_jobs=1, verbose=-1
    )
    X_stop, stop = X[::3], labels[y[::3]]
    clf = make(teacher, keep_teacher=True, teacher__fit__eval_X=X_stop, teacher__fit__eval_y=stop)
    fitted = clf.fit(X, labels[y]).teacher_
    assert fitted.best_iteration_ > 5 and fitted.score(X, y) > 0.8


def test_a_class_weight_follows_the_labels_to_their_codes(make, digits):
    X, y = digits
    weight = {label: 1.0 + k for k, label in enumerate(NAMES[::-1])}
    teacher = make_pipeline(StandardScaler(), WeightedBooster(class_weight=weight))
    fitted = make(teacher, keep_teacher=True).fit(X, NAMES[y]).teacher_
    assert fitted[-1].class_weight == {k: 10.0 - k for k in range(10)}
