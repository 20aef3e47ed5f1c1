"""Methods compared on numbers and on several labels."""

import matplotlib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_friedman1, make_multilabel_classification
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import f1_score, root_mean_squared_error
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from helpers.pages import messages
from helpers.settings import single_run
from sklearn_kd import DistilledRegressor, MLPStudent, compare_methods

matplotlib.use("Agg")
FOLDS = KFold(2)


@pytest.fixture(scope="module")
def numbers():
    X, y = make_friedman1(160, noise=0.5, random_state=0)
    return X, 1000 + 50 * y


@pytest.fixture(scope="module")
def tags():
    return make_multilabel_classification(160, 10, n_classes=4, random_state=0)


def regressor(teacher=None, **params):
    quick = {"student__hidden": 16, "max_epochs": 2, "batch_size": 32, "device": "cpu"}
    return DistilledRegressor(teacher, MLPStudent, **(single_run(params) | quick | params))


def runs(comparison, method):
    return comparison.results_[comparison.results_["method"] == method]


@pytest.mark.parametrize("searches", [False, True])
def test_a_run_of_a_regressor_is_what_fit_does_alone(searches, numbers):
    X, y = numbers
    forest = RandomForestRegressor(5, random_state=0)
    # One that comes trained: a search has its teacher fitted twice, and a comparison fits it once.
    reg = (
        regressor(FrozenEstimator(forest.fit(X, y)), search_epochs=2, max_epochs=2, optimizer="SGD")
        if searches
        else regressor(forest)
    )
    methods = ("naive", "linear")
    comparison = compare_methods(reg, X, y, methods=methods, cv=FOLDS, random_state=0)
    assert comparison.metrics_ == ["r2", "rmse", "mae"]
    for row, (train, test) in zip(runs(comparison, "linear"), FOLDS.split(X), strict=True):
        alone = clone(reg).set_params(meta="linear", random_state=int(row["random_state"]))
        alone.fit(X[train], y[train])
        assert row["r2"] == pytest.approx(alone.score(X[test], y[test]), abs=1e-6)
        said = alone.predict(X[test])
        assert row["rmse"] == pytest.approx(root_mean_squared_error(y[test], said), rel=1e-5)
        assert row["lambda1"] == pytest.approx(alone.lambda1_) and np.isnan(row["temperature"])


def test_given_predictions_are_those_of_the_teacher(numbers):
    X, y = numbers
    model = make_pipeline(StandardScaler(), LinearRegression()).fit(X, y)
    given = {"methods": ("naive", "shortlist"), "cv": 2, "random_state": 0}
    asked = compare_methods(regressor(FrozenEstimator(model)), X, y, **given)
    told = compare_methods(regressor(), X, y, teacher_predictions=model.predict(X), **given)
    np.testing.assert_allclose(told.results_["r2"], asked.results_["r2"], rtol=1e-4)


def test_several_teachers_are_asked_in_the_units_of_each_fold(numbers):
    X, y = numbers
    teachers = [LinearRegression().fit(X, y), RandomForestRegressor(3, random_state=0).fit(X, y)]
    reg = regressor([FrozenEstimator(teacher) for teacher in teachers], meta="naive")
    comparison = compare_methods(reg, X, y, methods=("naive",), cv=FOLDS, random_state=0)
    for row, (train, test) in zip(comparison.results_, FOLDS.split(X), strict=True):
        alone = clone(reg).set_params(random_state=int(row["random_state"])).fit(X[train], y[train])
        assert row["r2"] == pytest.approx(alone.score(X[test], y[test]), abs=1e-6)


def test_several_targets_and_a_quantile(numbers):
    X, y = numbers
    reg = regressor(LinearRegression(), loss="quantile", loss__quantile=0.8, loss__per_output=True)
    comparison = compare_methods(reg, X, np.c_[y, -y], methods=("naive", "linear"), cv=2, random_state=0)
    assert (
        comparison.metrics_ == ["d2", "pinball_loss"] and not np.isnan(comparison.results_["lambda1"]).any()
    )
    text = str(comparison)
    assert "Difference in D²" in text and "pinball loss" in text
    assert "difference in D² to naive" in comparison.plot().get_xlabel()


def test_methods_with_losses_of_their_own_are_scored_alike(numbers):
    X, y = numbers
    quantile = {"loss": "quantile", "loss__quantile": 0.9}
    methods = {"huber": {"loss": "huber"}, "high": quantile}
    reg = regressor(meta="none", max_epochs=1)
    given = {"methods": methods, "cv": FOLDS, "random_state": 0, "n_jobs": 1}
    of_mean = compare_methods(reg, X, y, baseline="huber", **given)
    of_high = compare_methods(reg.set_params(**quantile), X, y, baseline="high", **given)
    assert (of_mean.metrics_, of_high.metrics_) == (["r2", "rmse", "mae"], ["d2", "pinball_loss"])
    row, (train, test) = runs(of_high, "huber")[0], next(FOLDS.split(X))
    alone = clone(reg).set_params(**methods["huber"], random_state=int(row["random_state"]))
    below = y[test] - alone.fit(X[train], y[train]).predict(X[test])
    assert row["pinball_loss"] == pytest.approx(np.maximum(0.9 * below, -0.1 * below).mean())


def test_several_labels(make, tags):
    X, y = tags
    clf = make(RandomForestClassifier(5))
    comparison = compare_methods(clf, X, y, methods=("naive", "gradient"), cv=FOLDS, random_state=0)
    assert comparison.metrics_ == ["subset_accuracy", "macro_f1", "log_loss"]
    for row, (train, test) in zip(runs(comparison, "gradient"), FOLDS.split(X), strict=True):
        alone = clone(clf).set_params(meta="gradient", random_state=int(row["random_state"]))
        alone.fit(X[train], y[train])
        assert row["subset_accuracy"] == alone.score(X[test], y[test])
        macro = f1_score(y[test], alone.predict(X[test]), average="macro", zero_division=0)
        assert row["macro_f1"] == macro


def test_logits_of_several_labels(make, tags):
    X, y = tags
    logits = 4.0 * y - 2
    comparison = compare_methods(
        make(), X, y, methods=("naive",), cv=2, random_state=0, teacher_logits=logits
    )
    assert comparison.results_["subset_accuracy"].shape == (2,)


def test_refused_before_any_training(make, numbers, tags, no_training):
    X, y = numbers
    with pytest.raises(ValueError, match="give its teacher's answers as teacher_predictions"):
        compare_methods(regressor(), X, y, teacher_logits=y)
    with pytest.raises(ValueError, match=r"nothing to distil by .* give teacher_predictions"):
        compare_methods(regressor(), X, y)
    with pytest.raises(ValueError, match=messages()["folds of one row"]):
        compare_methods(regressor(LinearRegression()), X[:5], y[:5], cv=5)
    with pytest.raises(TypeError, match="is a classifier"):
        compare_methods(regressor(LogisticRegression()), X, y)
    with pytest.raises(ValueError, match="teacher_classes"):
        compare_methods(make(RandomForestClassifier(), teacher_classes=[0, 1, 2, 3]), *tags)
