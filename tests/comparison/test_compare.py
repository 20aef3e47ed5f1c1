"""Methods compared over the same folds, seeds and teachers."""

import os
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from joblib import parallel_config
from joblib.parallel import LokyBackend, ThreadingBackend
from scipy import stats
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import GradientNormClipping

from helpers.parameter_ids import in_words
from sklearn_kd import (
    MethodComparison,
    MLPStudent,
    compare_methods,
)
from sklearn_kd.comparison import _compare, _fits
from sklearn_kd.estimators import _classifier
from sklearn_kd.estimators._classifier_plan import plan_distillation
from sklearn_kd.runtime import _processes
from sklearn_kd.training import _net, _stackable, _stacked

matplotlib.use("Agg")
SIX = ("none", "naive", "random", "gradient", "linear", "hyperopt")
WHAT_COUNTS = ["accuracy", "log_loss", "lambda1", "temperature", "random_state"]


@pytest.fixture(scope="module")
def traceable():
    """200 rows, each known by its first feature, so that what a model saw can be traced."""
    rng = np.random.default_rng(0)
    X = np.column_stack([np.arange(200.0), rng.normal(size=(200, 3))])
    return X, (X[:, 1] > 0).astype(int)


class Recorder(LogisticRegression):
    """A teacher that notes the rows that it was fitted on."""

    seen = []

    def fit(self, X, y, sample_weight=None):
        Recorder.seen.append(np.asarray(X)[:, 0].astype(int).tolist())
        return super().fit(X, y, sample_weight)


def runs(comparison, method):
    return comparison.results_[comparison.results_["method"] == method]


@pytest.fixture
def students(monkeypatch):
    """(method's meta, D_train's rows, D_val's rows, teacher's logits) of every fit of a student."""
    fits, plan = [], plan_distillation

    def noted(clf, strategy, inputs):
        X, X_val = inputs.X_given, None if inputs.valid is None else inputs.valid.rows
        if np.shape(X)[1:] == (4,) and len(X) > 4:  # not the toys that warm torch up
            val = [] if X_val is None else np.asarray(X_val)[:, 0].astype(int).tolist()
            rows = np.asarray(X)[:, 0].astype(int).tolist()
            fits.append((clf.meta, rows, val, inputs.teacher_logits))
        return plan(clf, strategy, inputs)

    for module in (_classifier, _fits):
        monkeypatch.setattr(module, "plan_distillation", noted)
    monkeypatch.setattr(_compare, "check_fits", lambda fits: None)  # which plans, and trains nothing
    return fits


def test_one_teacher_per_fold_and_seed_that_sees_neither_d_val_nor_the_test_fold(make, traceable, students):
    X, y = traceable
    Recorder.seen.clear()
    folds = list(StratifiedKFold(4).split(X, y))
    clf = make(Recorder(), max_epochs=1, lr=1e-6, validation_fraction=0.2)
    comparison = compare_methods(
        clf, X, y, methods=("none", "naive", "gradient", "linear"), cv=folds, n_seeds=2
    )
    assert len(comparison.results_) == 4 * 4 * 2 and len(Recorder.seen) == 4 * 2
    for i, seen in enumerate(Recorder.seen):
        train, test = folds[i // 2]
        fits = {meta: rest for meta, *rest in students[4 * i : 4 * i + 4]}
        held_out = fits["gradient"][1]
        assert len(held_out) == 30 and set(seen) == set(train) - set(held_out)
        for meta in ("gradient", "linear"):
            assert fits[meta][:2] == [seen, held_out]
        for meta in ("none", "naive"):
            assert fits[meta][:2] == [train.tolist(), []] and not set(fits[meta][0]) & set(test)
        # The same teacher's logits, row by row; no teacher where none is needed.
        logits = dict(zip(fits["naive"][0], fits["naive"][2], strict=True))
        np.testing.assert_array_equal([logits[row] for row in seen], fits["linear"][2])
        assert fits["none"][2] is None
    assert Recorder.seen[0] != Recorder.seen[1]  # another seed, another D_val


def test_a_run_that_learns_from_d_val_is_what_fit_does_alone(make, digits):
    X, y = digits
    forest = RandomForestClassifier(5)
    clf = make(make_pipeline(StandardScaler(), forest))
    folds = list(StratifiedKFold(2).split(X, y))
    comparison = compare_methods(clf, X, y, methods=("naive", "linear"), cv=folds, random_state=3)
    for row, (train, test) in zip(runs(comparison, "linear"), folds, strict=True):
        alone = clone(clf).set_params(meta="linear", random_state=int(row["random_state"]))
        alone.fit(X[train], y[train])
        assert row["accuracy"] == alone.score(X[test], y[test])
        np.testing.assert_allclose(
            row["log_loss"], log_loss(y[test], alone.predict_proba(X[test])), rtol=1e-6
        )
        assert (row["lambda1"], row["temperature"]) == (alone.lambda1_, alone.temperature_)
        assert (row["n_train"], row["n_test"]) == (len(train), len(test))


def test_methods_are_paired_and_independent_of_each_other(make, digits):
    """Arms of equal settings agree, whatever else is compared; trained together or not."""
    same = {"meta": "fixed", "lambda1": 0.5, "temperature": 1.0}
    few = {"naive": {"meta": "naive"}, "same": same}
    many = {"random": {"meta": "random"}, "slow": {"meta": "gradient", "lr": 0.01}} | few
    clf = make(RandomForestClassifier(5))
    two, four = (
        compare_methods(clf, *digits, methods=m, cv=2, n_seeds=2, random_state=0) for m in (few, many)
    )
    for field in WHAT_COUNTS:
        np.testing.assert_array_equal(runs(two, "naive")[field], runs(two, "same")[field])
        np.testing.assert_allclose(runs(two, "naive")[field], runs(four, "naive")[field], rtol=1e-5)
    assert set(two.results_["models_in_batch"]) == {1} and set(runs(four, "naive")["models_in_batch"]) == {3}
    assert len(np.unique(two.results_["random_state"])) == 4
    other = compare_methods(clf, *digits, methods=few, cv=2, n_seeds=2, random_state=1)
    assert (other.results_["log_loss"] != two.results_["log_loss"]).all()


def test_arms_trained_together_score_as_one_by_one(make, digits, logits, monkeypatch):
    """Fixed arms on the same rows; another size of student, and a single learning arm, are apart."""
    methods = {name: {"meta": name} for name in ("none", "naive", "random", "linear", "hyperopt")} | {
        "wider": {"meta": "fixed", "student__hidden": 40},
        "adam": {"meta": "naive", "optimizer": torch.optim.Adam, "lr": 1e-3},
        "own T": {"meta": "fixed", "lambda1": 0.2, "temperature": 3.0},
        "watched": {"meta": "naive", "callbacks": [GradientNormClipping(0.5)]},
    }
    given = {"methods": methods, "cv": 2, "random_state": 0, "teacher_logits": logits}
    together = compare_methods(make(), *digits, **given)
    monkeypatch.setattr(_stackable, "FEWEST", np.inf)
    apart = compare_methods(make(), *digits, **given)
    for name, count in {"none": 4, "own T": 4, "linear": 1, "wider": 1, "adam": 1, "watched": 1}.items():
        assert set(runs(together, name)["models_in_batch"]) == {count}, name
    assert set(apart.results_["models_in_batch"]) == {1}
    for field in ("accuracy", "log_loss", "lambda1", "temperature"):
        np.testing.assert_allclose(together.results_[field], apart.results_[field], rtol=1e-4)
    assert together.results_["method"].tolist() == apart.results_["method"].tolist() == 2 * list(methods)


def test_learning_arms_trained_together_score_as_one_by_one(make, digits, logits, monkeypatch):
    exact = {"meta__hypergradient": "exact"}
    methods = {
        "gradient": {"meta": "gradient"} | exact,
        "slow": {"meta": "gradient", "meta__lr": 0.1} | exact,
        "linear": {"meta": "linear"} | exact,
        "fixed": {"meta": "fixed"},
    }
    given = {"methods": methods, "baseline": "fixed", "cv": 2, "random_state": 0, "teacher_logits": logits}
    together = compare_methods(make(), *digits, **given)
    monkeypatch.setattr(_stackable, "FEWEST", np.inf)
    apart = compare_methods(make(), *digits, **given)
    for name, count in {"gradient": 3, "slow": 3, "linear": 3, "fixed": 1}.items():
        assert set(runs(together, name)["models_in_batch"]) == {count}, name
    for field in ("accuracy", "log_loss", "lambda1", "temperature"):
        np.testing.assert_allclose(together.results_[field], apart.results_[field], rtol=1e-4)


def test_the_time_of_a_run_is_shared_equally(make, digits, logits, monkeypatch):
    """By a clock that moves only when students are trained, 6 s for each run of three."""
    now, train = [0.0], _stacked.train_stacked

    def timed(nets, data):
        now[0] += 6.0
        train(nets, data)

    monkeypatch.setattr(_fits, "train_stacked", timed)
    monkeypatch.setattr(_fits.time, "perf_counter", lambda: now[0])
    methods = ("none", "naive", "random", "linear")
    comparison = compare_methods(make(), *digits, methods=methods, cv=2, teacher_logits=logits)
    assert [runs(comparison, name)["fit_seconds"].tolist() for name in methods] == [[2.0, 2.0]] * 3 + [
        [0.0, 0.0]
    ]


@pytest.mark.parametrize(
    ("active", "device", "expected"),
    [
        ((LokyBackend(), None), "cpu", -1),
        ((LokyBackend(), None), "cuda", 1),
        ((LokyBackend(), 3), "cpu", None),
        ((ThreadingBackend(), None), "cpu", None),
    ],
)
def test_processes_over_cores_unless_joblib_was_told_otherwise(active, device, expected, monkeypatch):
    monkeypatch.setattr(_processes, "get_active_backend", lambda: active)
    assert _processes.default_n_jobs(device) == expected


def test_no_more_processes_than_tasks_and_never_threads():
    assert _processes.count_processes(4, 3) == 3 and _processes.count_processes(None, 3) == 1
    with parallel_config("threading", n_jobs=4):
        assert _processes.count_processes(None, 3) == _processes.count_processes(2, 3) == 1


def test_a_splitter_without_a_seed_splits_once(make, digits, logits, students):
    shuffled = StratifiedKFold(2, shuffle=True)
    X = np.column_stack([np.arange(400), np.zeros((400, 3))])
    methods = ("none", "naive")
    compare_methods(
        make(lr=1e-6), X, digits[1], methods=methods, cv=shuffled, n_seeds=2, teacher_logits=logits
    )
    trained_on = [rows for _, rows, *_ in students]
    assert trained_on == [trained_on[0]] * 4 + [trained_on[4]] * 4
    assert sorted(trained_on[0] + trained_on[4]) == list(range(400))


def test_n_jobs_changes_nothing(make, digits):
    # A transformer and a teacher whose seeds are open, which workers would draw differently.
    clf = make_pipeline(PCA(8, svd_solver="randomized"), make(RandomForestClassifier(5)))
    one, two = (compare_methods(clf, *digits, methods=SIX, cv=2, random_state=0, n_jobs=n) for n in (1, 2))
    assert one.methods_ == two.methods_ == list(SIX)
    for field in WHAT_COUNTS:
        np.testing.assert_array_equal(one.results_[field], two.results_[field])


def test_workers_have_one_thread_each(make, digits, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # what they would have otherwise

    class Threads(LogisticRegression):
        def fit(self, X, y, sample_weight=None):
            assert (os.environ["OMP_NUM_THREADS"], torch.get_num_threads()) == ("1", 1)
            return super().fit(X, y, sample_weight)

    compare_methods(make(Threads()), *digits, methods=("naive",), cv=2, n_jobs=2)


def test_pipeline_is_fitted_on_the_training_fold(make, traceable, students):
    X, y = traceable
    fitted_on = []

    class Scaler(StandardScaler):
        def fit(self, X, y=None, sample_weight=None):
            fitted_on.append(X[:, 0].astype(int).tolist())
            return super().fit(X, y, sample_weight)

        def transform(self, X):
            return np.column_stack([X[:, :1], super().transform(X)[:, 1:]])

    folds = list(StratifiedKFold(2).split(X, y))
    pipeline = make_pipeline(Scaler(), make(LogisticRegression(), max_epochs=1, lr=1e-6))
    compare_methods(pipeline, X, y, methods=("naive", "linear"), cv=folds)
    assert fitted_on == [train.tolist() for train, _ in folds]
    assert next(rows for meta, rows, *_ in students if meta == "naive") == folds[0][0].tolist()


def test_frames_string_labels_and_given_logits(make, digits, logits):
    X = pd.DataFrame(digits[0]).add_prefix("pixel ")
    y = pd.Series(digits[1]).map(lambda digit: f"digit {digit}")
    pipeline = make_pipeline(StandardScaler().set_output(transform="pandas"), make(LogisticRegression()))
    learned = compare_methods(pipeline, X, y, methods=("naive", "linear"), cv=2, random_state=0)
    assert (learned.results_["accuracy"] > 0.3).all()
    given = compare_methods(make(), X, y, methods=("naive",), cv=2, random_state=0, teacher_logits=logits)
    plain = compare_methods(make(), *digits, methods=("naive",), cv=2, random_state=0, teacher_logits=logits)
    np.testing.assert_array_equal(given.results_["log_loss"], plain.results_["log_loss"])


def test_prefitted_teacher(make, digits):
    X, y = digits
    frozen = FrozenEstimator(LogisticRegression().fit(X, y))
    clf = make(frozen)
    folds = StratifiedKFold(2)
    comparison = compare_methods(clf, X, y, methods=("naive",), cv=folds)
    row = comparison.results_[0]
    alone = clone(clf).set_params(meta="naive", random_state=int(row["random_state"]))
    assert row["accuracy"] == cross_val_score(alone, X, y, cv=folds)[0]


def test_a_class_that_the_training_fold_lacks(make, traceable):
    X, y = traceable[0], traceable[1].copy()
    y[:3] = 2
    folds = [(np.arange(3, 100), np.r_[0:3, 100:200])]
    comparison = compare_methods(make(LogisticRegression()), X, y, methods=("naive",), cv=folds)
    assert comparison.results_["log_loss"][0] > 3 / 103 * 15  # three rows at the smallest probability
    assert np.isnan(comparison.summary()["sd"]) and "baseline" in repr(comparison)


# --------------------------------------------------------------------------------------
# The summary


def table(**accuracies):
    """Runs of shape (n_folds, n_seeds) by method, 80 rows to train on and 20 to test on."""
    rows = [
        (method, fold, seed, 80, 20, value, 1 - value, 1.0)
        for method, values in accuracies.items()
        for fold, of_fold in enumerate(np.reshape(values, (len(values), -1)))
        for seed, value in enumerate(of_fold)
    ]
    names = ("fold", "seed", "n_train", "n_test", "accuracy", "log_loss", "fit_seconds")
    return np.array(
        rows, dtype=[("method", "U20"), *((n, float if i > 3 else int) for i, n in enumerate(names))]
    )


def test_corrected_resampled_t_test_by_hand():
    ours, base = [0.91, 0.93, 0.90, 0.95, 0.92], [0.90, 0.90, 0.91, 0.91, 0.90]
    row = MethodComparison(table(base=base, ours=ours), "base").summary()[1]
    d = np.subtract(ours, base)  # .01, .03, -.01, .04, .02
    assert row["n"] == 5
    np.testing.assert_allclose(row["mean"], 0.922)
    np.testing.assert_allclose(row["difference"], 0.018)
    # s² of d is 3.7e-4; (1/5 + 20/80) s² = 1.665e-4.
    np.testing.assert_allclose(row["standard_error"], np.sqrt(1.665e-4))
    uncorrected = stats.ttest_1samp(d, 0)
    t = uncorrected.statistic / np.sqrt((1 / 5 + 1 / 4) * 5)
    np.testing.assert_allclose(row["p_value"], 2 * stats.t.sf(t, 4))
    assert row["p_value"] > uncorrected.pvalue
    interval = stats.t.interval(0.95, 4, loc=0.018, scale=np.sqrt(1.665e-4))
    np.testing.assert_allclose((row["low"], row["high"]), interval)


def test_seeds_of_a_fold_count_once():
    base, ours = (
        np.array([[0.5, 0.7], [0.6, 0.6], [0.4, 0.6]]),
        np.array([[0.6, 0.8], [0.6, 0.7], [0.7, 0.4]]),
    )
    several = MethodComparison(table(base=base, ours=ours), "base").summary()
    averaged = MethodComparison(table(base=base.mean(axis=1), ours=ours.mean(axis=1)), "base").summary()
    assert several["n"].tolist() == [3, 3]
    for field in several.dtype.names[2:]:
        np.testing.assert_allclose(several[field], averaged[field])


def test_differences_without_spread():
    summary = MethodComparison(table(base=[0.5, 0.75], same=[0.5, 0.75], more=[0.75, 1.0]), "base").summary()
    assert np.isnan(summary["p_value"][0]) and summary["p_value"][1:].tolist() == [1.0, 0.0]


def test_other_metrics_and_baselines():
    comparison = MethodComparison(table(a=[0.5, 0.6], b=[0.7, 0.9]), "b")
    np.testing.assert_allclose(comparison.summary()["difference"], [-0.25, 0])
    np.testing.assert_allclose(comparison.summary("log_loss")["difference"], [0.25, 0])
    with pytest.raises(ValueError, match="Did you mean 'log_loss'"):
        comparison.summary("logloss")
    with pytest.raises(ValueError, match="Did you mean 'base'"):
        MethodComparison(table(base=[0.1], ours=[0.2]), "bas")
    with pytest.raises(ValueError, match="same folds and seeds"):
        MethodComparison(table(a=[0.5, 0.6], b=[0.7]), "a")


# --------------------------------------------------------------------------------------
# What is shown


@pytest.fixture(scope="module")
def shown():
    base = [0.90, 0.90, 0.91, 0.91, 0.90]
    runs = table(
        naive=base, **{"<better>": np.add(base, [0.05, 0.06, 0.05, 0.06, 0.05]), "like it": base[::-1]}
    )
    return MethodComparison(runs)


def test_text_and_html(shown):
    text = str(shown)
    assert text.startswith("3 methods × 5 folds × 1 seed; 80 rows to train on, 20 rows to test on")
    better, same = (
        next(line for line in text.splitlines() if name in line) for name in ("<better>", "like it")
    )
    assert "0.9580 ± 0.0084" in better and "+0.0540 [+0.0438, +0.0642]" in better and "<0.001" in better
    assert "+0.0000 [" in same and "1.000" in same
    html = shown._repr_html_()
    assert "&lt;better&gt;" in html and "<better>" not in html and html.count("<tr") == 4


def test_a_difference_of_the_last_digit_is_not_shown_as_minus_zero():
    comparison = MethodComparison(table(naive=[0.0, 0.0, 0.3], other=[0.1, 0.2, 0.0]), "other")
    assert -1e-15 < comparison.summary()["difference"][0] < 0
    assert "+0.0000 [" in str(comparison)


def test_to_frame(shown, monkeypatch):
    pd.testing.assert_frame_equal(shown.to_frame(), pd.DataFrame(shown.results_))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        shown.to_frame()


def test_plot(shown):
    ax = shown.plot()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["<better>  (0.9580)", "like it  (0.9040)"]
    zero, *drawn = ax.lines
    assert list(zero.get_xdata()) == [0, 0]
    np.testing.assert_allclose(drawn[0].get_xdata(), [shown.summary()[1]["low"], shown.summary()[1]["high"]])
    clear, unclear = drawn[:2], drawn[2:]
    assert clear[0].get_linewidth() > unclear[0].get_linewidth()
    assert clear[1].get_markerfacecolor() == clear[1].get_color() != unclear[1].get_markerfacecolor()
    np.testing.assert_allclose(ax.collections[0].get_offsets()[:, 0], [0.05, 0.06, 0.05, 0.06, 0.05])
    assert "naive (0.9040)" in ax.get_xlabel()
    assert shown.plot("log_loss", ax=ax) is ax and "log loss" in ax.get_xlabel()


def test_progress_only_on_request(make, digits, logits, capsys):
    for verbose in (0, 1):
        compare_methods(make(), *digits, methods=("naive",), cv=2, teacher_logits=logits, verbose=verbose)
        assert ("2/2" in capsys.readouterr().err) == bool(verbose)


# --------------------------------------------------------------------------------------
# Wrong input


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"estimator": LogisticRegression()}, TypeError, "must be a DistilledClassifier, a DistilledR"),
        ({"estimator": make_pipeline(LogisticRegression())}, TypeError, "Pipeline that ends in one"),
        ({"methods": ("naive", "gradeint")}, ValueError, "Did you mean 'gradient'"),
        ({"methods": "naive"}, TypeError, "sequence of names"),
        ({"methods": 3}, TypeError, "sequence of names"),
        ({"X": None}, ValueError, "X=None has no rows"),
        ({"methods": {"naive": {"meta__lr": -1.0, "meta": "linear"}}}, ValueError, "^meta: lr=-1.0 must be"),
        ({"methods": {"naive": {"loss__temperature_bounds": (3, 4)}}}, ValueError, "outside its bounds"),
        ({"methods": {"naive": {"callbacks__bogus__lr": 1}}}, TypeError, "callbacks__bogus__lr: there is no"),
        ({"methods": {"naive": {"student__bogus": 1}}}, TypeError, "bogus"),
        ({"methods": ("naive", "naive")}, ValueError, "names a method twice"),
        ({"methods": {"naive": "naive"}}, TypeError, "mapped to a dict of parameters"),
        ({"methods": {"naive": {"meta": "naife"}}}, ValueError, "Did you mean 'naive'"),
        ({"methods": {"naive": {"lamda1": 0.3}}}, ValueError, "Invalid parameter 'lamda1'"),
        ({"methods": {"naive": {"lambda1": 3}}}, ValueError, "'lambda1' parameter"),
        ({"methods": {"naive": {"teacher__C": 3}}}, ValueError, "which all methods share"),
        ({"methods": {"naive": {"random_state": 3}}}, ValueError, "which all methods share"),
        ({"methods": ("none", "linear")}, ValueError, "'naive' is not among the methods"),
        ({"baseline": "linea"}, ValueError, "Did you mean 'linear'"),
        ({"n_seeds": 0}, ValueError, "n_seeds=0 must be an integer"),
        ({"n_seeds": 1.5}, ValueError, "n_seeds=1.5 must be an integer"),
        ({"cv": 1}, ValueError, "n_splits"),
        ({"teacher_logits": np.zeros((400, 3))}, ValueError, r"= \(400, 10\)"),
    ],
    ids=in_words,
)
def test_wrong_input_is_refused_before_any_training(change, error, match, make, digits, monkeypatch):
    def train(*args, **kwargs):
        raise AssertionError("trained before the input was refused")

    monkeypatch.setattr(_net.TrainingNet, "train_step", train)
    monkeypatch.setattr(_stacked.BatchedRun, "step", train)
    monkeypatch.setattr(LogisticRegression, "fit", train)
    given = {"estimator": make(LogisticRegression()), "X": digits[0], "y": digits[1], "n_jobs": 1}
    with pytest.raises(error, match=match):
        compare_methods(**(given | change))


def test_class_in_place_of_an_instance_and_missing_teacher(make, digits):
    with pytest.raises(TypeError, match="Give an instance"):
        compare_methods(type(make()), *digits)
    with pytest.raises(ValueError, match=r"nothing to distil by \['naive', 'linear'\]"):
        compare_methods(make(student=MLPStudent), *digits, methods=("none", "naive", "linear"))
    compare_methods(make(), *digits, methods=("none",), baseline="none", cv=2)
