"""Ways to follow a process, compared over the same folds and seeds."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from helpers.parameter_ids import in_words
from sklearn_kd import compare_methods
from sklearn_kd.comparison._methods import DistProMethods
from sklearn_kd.distpro import _process
from sklearn_kd.estimators import _distpro_plan

FOLDS = StratifiedKFold(2)


def runs(comparison, method):
    return comparison.results_[comparison.results_["method"] == method]


@pytest.fixture(scope="module")
def compared(digits):
    """(X, y) of 120 images."""
    return digits[0][:120].reshape(-1, 1, 8, 8), digits[1][:120]


@pytest.mark.parametrize("method", ["equal", "process", "linear", "weak"])
def test_a_run_is_what_fit_does_alone(method, compared, make_distpro):
    X, y = compared
    methods = {
        "equal": {"weights": "equal"},
        "process": {"weights": "process"},
        "linear": {"meta": "linear", "e1": 2, "e2": 1},
        "weak": {"distill_weight": 0.1, "student__width": 3},
    }
    wanted = {"equal": methods["equal"], method: methods[method]}
    clf = make_distpro(max_epochs=1)
    comparison = compare_methods(clf, X, y, methods=wanted, cv=FOLDS, random_state=3)
    for row, (train, test) in zip(runs(comparison, method), FOLDS.split(X, y), strict=True):
        alone = clone(clf).set_params(random_state=int(row["random_state"]), **methods[method])
        alone.fit(X[train], y[train])
        assert row["accuracy"] == alone.score(X[test], y[test])
        proba = alone.predict_proba(X[test])
        np.testing.assert_allclose(
            row["log_loss"], -np.log(proba[np.arange(len(test)), y[test]]).mean(), rtol=1e-6
        )
        assert row["models_in_batch"] == 1 and row["fit_seconds"] > 0


def test_methods_share_d_val_and_have_no_lambda1(compared, make_distpro, monkeypatch):
    X, y = compared
    seen, plan = [], _distpro_plan.plan_distpro

    def noted(estimator, settings, inputs):
        made = plan(estimator, settings, inputs)
        if made.search is not None:
            seen.append((estimator.meta, made.search.data.valid.X.flatten(1).sum(1).tolist()))
        return made

    monkeypatch.setattr(_distpro_plan, "plan_distpro", noted)  # by which the comparison tries the fits
    comparison = compare_methods(
        make_distpro(max_epochs=1),
        X,
        y,
        methods=("equal", "gradient", "linear"),
        baseline="gradient",
        cv=FOLDS,
    )
    held_out = [rows for _, rows in seen]
    assert [meta for meta, _ in seen] == ["gradient", "linear"] * 2  # planned before any is trained
    assert held_out[0] == held_out[1] != held_out[2] == held_out[3]
    assert np.isnan(comparison.results_["lambda1"]).all()
    text = str(comparison)
    assert "gradient" in text and "lambda1" not in text and "nan" not in text


def test_a_learned_logit_term_is_in_the_results(compared, make_distpro):
    methods = {"number": {"logit_weight": 0.5}, "learned": {"logit_weight": "learned"}}
    clf = make_distpro(max_epochs=1)
    comparison = compare_methods(clf, *compared, methods=methods, baseline="number", cv=FOLDS)
    assert np.isnan(runs(comparison, "number")["temperature"]).all()
    assert (runs(comparison, "learned")["lambda1"] > 0).all()
    assert np.isfinite(runs(comparison, "learned")["temperature"]).all()


def test_default_methods_and_a_pipeline(compared, make_distpro):
    X, y = compared
    pipeline = make_pipeline(FunctionTransformer(_as_images), make_distpro())
    flat = compare_methods(pipeline, X.reshape(len(X), -1), y, cv=FOLDS, random_state=0)
    images = compare_methods(pipeline[-1], X, y, cv=FOLDS, random_state=0)
    assert flat.methods_ == ["equal", "process"] and flat.baseline == "equal"
    for field in ("accuracy", "log_loss"):
        np.testing.assert_array_equal(flat.results_[field], images.results_[field])


def _as_images(X):
    return X.reshape(-1, 1, 8, 8)


def test_every_way_to_use_a_process_is_a_name():
    assert set(DistProMethods.named) == {*_process.WEIGHTS, "gradient", "linear"}


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"methods": ("equal", "process_")}, ValueError, "Did you mean 'process'"),
        ({"methods": ("equal", "naive")}, ValueError, "'naive', which is not known"),
        ({"methods": {"equal": {"lambda1": 0.3}}}, ValueError, "Invalid parameter 'lambda1'"),
        ({"methods": {"equal": {"weights": "equals"}}}, ValueError, "'weights' parameter"),
        ({"methods": {"equal": {"validation_fraction": 0.3}}}, ValueError, "which all methods share"),
        ({"methods": {"equal": {"teacher": None}}}, ValueError, "which all methods share"),
        ({"methods": {"equal": {"meta": "naive"}}}, ValueError, "meta='naive' is not known"),
        ({"methods": ("process",)}, ValueError, "'equal' is not among the methods"),
        ({"methods": {"equal": {}, "b": {"student_layers": ["no such"]}}}, ValueError, "no such"),
        ({"methods": "equal"}, TypeError, r"such as \('equal', 'process'\)"),
        ({"teacher_logits": np.zeros((120, 10))}, ValueError, "teacher_logits have no feature maps"),
        ({"teacher": LogisticRegression()}, TypeError, "is not a network"),
    ],
    ids=in_words,
)
def test_wrong_input_is_refused_before_any_training(
    change, error, match, compared, make_distpro, no_training
):
    clf = make_distpro(**({"teacher": change.pop("teacher")} if "teacher" in change else {}))
    with pytest.raises(error, match=match):
        compare_methods(clf, *compared, **{"cv": FOLDS} | change)


def test_warnings_of_a_method_are_given_once(compared, make_distpro):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        methods = {"equal": {"weights": "equal", "softmax_bias": 2.0, "normalization": "softmax"}}
        compare_methods(make_distpro(max_epochs=1), *compared, methods=methods, cv=FOLDS)
    assert sum("Without effect" in str(w.message) for w in caught) == 2  # folds
