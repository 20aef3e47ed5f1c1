"""Inside scikit-learn's meta-estimators, searches and displays, on real small data."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.inspection import PartialDependenceDisplay, permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay, balanced_accuracy_score, log_loss
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    train_test_split,
    validation_curve,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.tree import DecisionTreeClassifier

from helpers.settings import SINGLE_RUN
from sklearn_kd import DistilledClassifier, MLPStudent


def split(load):
    X, y = load(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    return train_test_split(X, y, test_size=0.4, stratify=y, random_state=0)


@pytest.fixture(scope="module")
def iris():
    """(X_train, X_test, y_train, y_test), standardised; chance is 1/3."""
    return split(load_iris)


@pytest.fixture(scope="module")
def cancer():
    """(X_train, X_test, y_train, y_test), standardised; the larger class is 63 %."""
    return split(load_breast_cancer)


@pytest.fixture
def clf():
    """The default method, trained for about 0.05 s."""
    quick = {"max_epochs": 8, "optimizer": "SGD", "lr": 0.1, "optimizer__momentum": 0.9, "batch_size": 32}
    quick |= SINGLE_RUN | {"student__hidden": 32}
    return DistilledClassifier(LogisticRegression(), MLPStudent, random_state=0, device="cpu", **quick)


# --------------------------------------------------------------------------------------
# Model selection


@pytest.mark.parametrize(
    "search",
    [
        lambda clf: GridSearchCV(clf, {"lr": [1e-6, 0.1]}, cv=2),
        lambda clf: RandomizedSearchCV(clf, {"lr": [1e-6, 0.1]}, n_iter=2, cv=2),
        lambda clf: HalvingGridSearchCV(clf, {"lr": [1e-6, 0.1]}, cv=2, min_resources=40),
        lambda clf: HalvingGridSearchCV(
            clf, {"lr": [1e-6, 0.1]}, cv=2, resource="max_epochs", max_resources=8, min_resources=2
        ),
    ],
    ids=["grid", "randomized", "halving", "halving over epochs"],
)
def test_search_finds_the_rate_that_learns(search, clf, iris):
    X, X_test, y, y_test = iris
    found = search(clf).fit(X, y)
    assert found.best_params_["lr"] == 0.1 and found.score(X_test, y_test) > 0.8


def test_cross_validate_returns_estimators(clf, iris):
    X, _, y, _ = iris
    folds = [(np.arange(0, 60), np.arange(60, 90)), (np.arange(30, 90), np.arange(0, 30))]
    result = cross_validate(clf, X, y, cv=folds, return_estimator=True, return_indices=True)
    for fitted, score, (_, test) in zip(result["estimator"], result["test_score"], folds, strict=True):
        assert fitted.score(X[test], y[test]) == score > 0.7
        assert len(fitted.metaparameter_path_) == fitted.n_iter_
    one, two = result["estimator"]
    assert not np.array_equal(one.predict_proba(X), two.predict_proba(X))


def test_cross_val_predict_probabilities(clf, iris):
    X, _, y, _ = iris
    proba = cross_val_predict(clf, X, y, cv=3, method="predict_proba")
    assert proba.shape == (90, 3)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
    assert (proba.argmax(axis=1) == y).mean() > 0.8


def test_learning_curve_rises(clf, cancer):
    X, _, y, _ = cancer
    sizes, _, scores = learning_curve(clf, X, y, train_sizes=[10, 150], cv=2, shuffle=True, random_state=0)
    assert list(sizes) == [10, 150] and scores.shape == (2, 2)
    assert scores[1].mean() > max(0.9, scores[0].mean())


def test_validation_curve_over_a_routed_parameter(clf, iris):
    X, _, y, _ = iris
    train, test = validation_curve(clf, X, y, param_name="max_epochs", param_range=[1, 8], cv=2)
    assert train.shape == test.shape == (2, 2)
    assert test[1].mean() > max(0.8, test[0].mean())


@pytest.mark.parametrize("meta", ["naive", "linear", "hyperopt"])
def test_parallel_jobs_give_the_same_scores(meta, clf, iris):
    X, _, y, _ = iris
    clf.set_params(meta=meta, max_epochs=5)
    serial, parallel = (cross_val_score(clf, X, y, cv=3, n_jobs=n) for n in (1, 2))
    np.testing.assert_array_equal(serial, parallel)
    assert serial.mean() > 0.5


def test_parallel_search_gives_the_same_scores(clf, iris):
    X, _, y, _ = iris
    grid = {"meta": ["none", "gradient"], "lr": [0.01, 0.1]}
    serial, parallel = (GridSearchCV(clf, grid, cv=2, n_jobs=n).fit(X, y) for n in (1, 2))
    for column in ("mean_test_score", "std_test_score"):
        np.testing.assert_array_equal(serial.cv_results_[column], parallel.cv_results_[column])
    np.testing.assert_array_equal(serial.predict_proba(X), parallel.predict_proba(X))


# --------------------------------------------------------------------------------------
# Meta-estimators


@pytest.mark.parametrize(
    "wrap",
    [
        lambda clf: CalibratedClassifierCV(clf, cv=2),
        lambda clf: CalibratedClassifierCV(clf, cv=2, method="isotonic", ensemble=False),
        lambda clf: VotingClassifier([("kd", clf), ("tree", DecisionTreeClassifier())], voting="soft"),
        lambda clf: VotingClassifier([("one", clf), ("two", clone(clf))], voting="soft", n_jobs=2),
        lambda clf: StackingClassifier([("kd", clf), ("tree", DecisionTreeClassifier())], cv=2),
        lambda clf: BaggingClassifier(clf, n_estimators=3, max_features=0.8, random_state=0),
        lambda clf: BaggingClassifier(clf, n_estimators=3, random_state=0, n_jobs=2),
        lambda clf: AdaBoostClassifier(clf, n_estimators=3, random_state=0),
        lambda clf: OneVsRestClassifier(clf),
    ],
    ids=[
        "calibrated",
        "calibrated isotonic",
        "voting",
        "voting in parallel",
        "stacking",
        "bagging of features",
        "bagging in parallel",
        "adaboost",
        "one against the rest",
    ],
)
# Members answer in float32: their means in float64 sum to 1 within 1e-7, not within 1.5e-8.
@pytest.mark.filterwarnings("ignore:The y_.* values do not sum to one")
@pytest.mark.filterwarnings("ignore:The student was still learning fast")  # one of three against the rest
@pytest.mark.parametrize("labels", [int, str])
def test_meta_estimator_learns(wrap, labels, clf, iris):
    X, X_test, y, y_test = iris
    y, y_test = y.astype(labels), y_test.astype(labels)
    model = wrap(clf).fit(X, y)
    assert model.score(X_test, y_test) > 0.8
    proba = model.predict_proba(X_test)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
    assert log_loss(y_test, proba) < 0.8 * np.log(3)


def test_adaboost_weighs_the_rows_of_later_members(clf, cancer):
    """Its members differ by their weights alone, and the mistakes of one count in the next."""
    X, _, y, _ = cancer
    seen = []

    class Recording(DistilledClassifier):
        def fit(self, X, y, *, sample_weight=None, **params):
            seen.append(sample_weight)
            return super().fit(X, y, sample_weight=sample_weight, **params)

    recording = Recording(**clf.set_params(max_epochs=2).get_params(deep=False))
    model = AdaBoostClassifier(recording, n_estimators=2, random_state=0).fit(X, y)
    wrong = model.estimators_[0].predict(X) != y
    assert 0 < wrong.sum() < len(y) / 2
    assert np.ptp(seen[0]) == 0 and seen[1][wrong].min() > seen[1][~wrong].max()


@pytest.mark.parametrize("labels", [[0, 1], ["benign", "malignant"]], ids=["numbers", "words"])
def test_self_training_takes_up_unlabeled_rows(labels, clf, cancer):
    X, X_test, y, y_test = cancer
    y, y_test = (
        np.array(labels, dtype=object if "benign" in labels else int)[codes] for codes in (y, y_test)
    )
    y[40:] = -1
    model = SelfTrainingClassifier(clf, threshold=0.9).fit(X, y)
    assert (model.labeled_iter_ > 0).sum() > 100
    assert list(model.classes_) == labels and model.score(X_test, y_test) > 0.85


def test_tuned_threshold(clf, cancer):
    """Where one class is rare, a threshold chosen for balanced accuracy is no worse than 0.5."""
    X, X_test, y, y_test = cancer
    keep = np.flatnonzero((y == 1) | (np.cumsum(y == 0) <= 25))
    X, y = X[keep], y[keep]
    clf.set_params(max_epochs=5, optimizer__momentum=0.0, meta="naive")
    tuned = TunedThresholdClassifierCV(clf, scoring="balanced_accuracy", cv=2, random_state=0).fit(X, y)
    plain = clone(clf).fit(X, y)
    assert tuned.best_threshold_ != 0.5
    tuned_score, plain_score = (
        balanced_accuracy_score(y_test, model.predict(X_test)) for model in (tuned, plain)
    )
    assert tuned_score > max(0.8, plain_score - 0.02)


# --------------------------------------------------------------------------------------
# Inspection


def test_permutation_importance_finds_the_feature_that_matters(clf):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 4))
    y = (X[:, 2] > 0).astype(int)
    result = permutation_importance(clf.fit(X, y), X, y, n_repeats=3, random_state=0)
    assert result.importances.shape == (4, 3)
    assert result.importances_mean.argmax() == 2 and result.importances_mean[2] > 0.2


def test_partial_dependence_display_rises(clf):
    plt = pytest.importorskip("matplotlib.pyplot")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    y = (X[:, 1] > 0).astype(int)
    display = PartialDependenceDisplay.from_estimator(clf.fit(X, y), X, features=[1, 0])
    matters, other = (display.pd_results[i]["average"].ravel() for i in (0, 1))
    assert matters[-1] - matters[0] > 0.5 and np.ptp(other) < 0.3
    plt.close("all")


def test_confusion_matrix_display_counts_every_row(clf, iris):
    plt = pytest.importorskip("matplotlib.pyplot")
    X, X_test, y, y_test = iris
    display = ConfusionMatrixDisplay.from_estimator(clf.fit(X, y), X_test, y_test)
    matrix = display.confusion_matrix
    assert matrix.shape == (3, 3) and matrix.sum() == 60 and np.trace(matrix) > 48
    assert list(display.display_labels) == [0, 1, 2]
    plt.close("all")


# --------------------------------------------------------------------------------------
# Data frames


def frame_of(library):
    """150 flowers of iris, one column of it as words, and a y of words."""
    iris = load_iris()
    columns = dict(zip(("sepal", "sepal width", "petal", "petal width"), iris.data.T, strict=True))
    columns["petal"] = np.where(columns["petal"] < 2.5, "short", "long")
    y = iris.target_names[iris.target]
    if library == "pandas":
        return pd.DataFrame(columns), pd.Series(y)
    polars = pytest.importorskip("polars", reason="polars is not installed")
    return polars.DataFrame(columns), polars.Series(y)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_column_transformer_in_a_pipeline(library, clf):
    X, y = frame_of(library)
    columns = make_column_transformer(
        (OneHotEncoder(sparse_output=False), ["petal"]),
        (StandardScaler(), ["sepal", "sepal width", "petal width"]),
    )
    model = make_pipeline(columns, clf).fit(X, y)
    assert model.score(X, y) > 0.8 and list(model.classes_) == ["setosa", "versicolor", "virginica"]
    assert model[-1].n_features_in_ == 5
    np.testing.assert_array_equal(model[:-1].feature_names_in_, X.columns)
    assert cross_val_score(model, X, y, cv=2).mean() > 0.7


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frame_without_a_pipeline(library, clf):
    """Names reach the classifier and the teacher inside; another order of columns is refused."""
    X, y = frame_of(library)
    X = X[["sepal", "sepal width", "petal width"]]
    clf.set_params(max_epochs=20, optimizer__momentum=0.0, keep_teacher=True).fit(X, y)  # not standardised
    np.testing.assert_array_equal(clf.feature_names_in_, X.columns)
    np.testing.assert_array_equal(clf.teacher_.feature_names_in_, X.columns)
    assert clf.score(X, y) > 0.8
    assert cross_val_score(clf, X, y, cv=2, error_score="raise").mean() > 0.7
    with pytest.raises(ValueError, match="feature names"):
        clf.predict(X[["sepal width", "sepal", "petal width"]])


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_transformed_frames_keep_their_names(container, clf):
    """With set_output the classifier inside the pipeline sees frames."""
    X, y = frame_of(container)
    columns = make_column_transformer(
        (OneHotEncoder(sparse_output=False), ["petal"]), remainder=StandardScaler()
    )
    clf.set_params(keep_teacher=True)
    model = make_pipeline(columns, clf).set_output(transform=container).fit(X, y)
    assert model[-1].teacher_.feature_names_in_[0] == "onehotencoder__petal_long"
    assert model.score(X, y) > 0.8
