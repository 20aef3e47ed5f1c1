"""A search on D_train against D_val, and a retraining on all rows along what was found."""

import signal

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback, EarlyStopping, LRScheduler
from torch.optim.lr_scheduler import CosineAnnealingLR

from helpers.callbacks import Recorder, Watch
from helpers.own_losses import Classwise
from sklearn_kd import DistilledClassifier, MetaparameterProcess, MLPStudent, compare_methods
from sklearn_kd._sklearn_compat import CallbackSupportMixin
from sklearn_kd.estimators._search import count_epochs
from sklearn_kd.losses import LogitDistillation
from sklearn_kd.meta import Hyperopt, Linear


class Remembers(ClassifierMixin, BaseEstimator):
    """A teacher that remembers, for all of its clones, what it was fitted on and asked about."""

    fitted, asked = [], []

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        Remembers.fitted.append(X.copy())
        return self

    def predict_proba(self, X):
        Remembers.asked.append(X.copy())
        rng = np.random.default_rng(0)
        proba = rng.uniform(0.01, 1, size=(len(X), len(self.classes_)))
        return proba / proba.sum(axis=1, keepdims=True)


@pytest.fixture
def remembers():
    Remembers.fitted, Remembers.asked = [], []
    return Remembers


@pytest.fixture
def search(make):
    def search(*args, **params):
        known = {"meta": "linear", "e1": 3, "e2": 2, "max_epochs": 3, "search_epochs": 2, "retrain": "fresh"}
        return make(*args, **known | params)

    return search


def same_students(a, b):
    ours, theirs = a.student_.state_dict(), b.student_.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


# --------------------------------------------------------------------------------------
# Both stages


def test_the_search_is_a_single_run_on_d_train_from_other_seeds(search, make, digits, logits):
    """Same D_train, D_val and start: the path has as many iterations, and no more, as a run of 2 epochs."""
    clf = search().fit(*digits, teacher_logits=logits)
    single = make(meta="linear", e1=3, e2=2).fit(*digits, teacher_logits=logits)
    path = clf.metaparameter_path_
    assert path["search"].sum() == single.n_iter_ and not single.metaparameter_path_["search"].any()
    np.testing.assert_array_equal(path["predicted"][path["search"]], single.metaparameter_path_["predicted"])
    # 400 rows in the retraining, 360 in the search, in batches of 32.
    assert clf.n_iter_ == len(path) == 2 * 12 + 3 * 13
    np.testing.assert_array_equal(path["iteration"], np.arange(clf.n_iter_))
    assert (len(clf.search_history_), len(clf.history_)) == (2, 3)
    assert single.process_ is None and single.search_history_ is None


@pytest.mark.parametrize("weights", ["mean", "tail", "final"])
def test_a_constant_retraining_is_a_fixed_one(weights, search, make, digits, logits):
    clf = search(weights=weights).fit(*digits, teacher_logits=logits)
    found = clf.process_.schedule(1, weights)
    fixed = make(
        meta="fixed", max_epochs=3, lambda1=found["lambda1"][0], temperature=found["temperature"][0]
    ).fit(*digits, teacher_logits=logits)
    assert same_students(clf, fixed)
    searched = clf.metaparameter_path_[clf.metaparameter_path_["search"]]
    expected = {
        "mean": np.exp(np.log(searched["temperature"]).mean()),
        "tail": np.exp(np.log(searched["temperature"][12:]).mean()),
        "final": searched["temperature"][-1],
    }[weights]
    assert clf.temperature_ == pytest.approx(expected, rel=1e-12)
    assert clf.metaparameters_["temperature"] == clf.temperature_ == found["temperature"][0]


def test_a_process_is_followed_step_by_step(search, digits, logits):
    clf = search(weights="process", meta__lr=20.0).fit(*digits, teacher_logits=logits)
    path = clf.metaparameter_path_
    rows = path[~path["search"]]
    expected = clf.process_.schedule(len(rows), "process")["lambda1"]
    assert np.ptp(expected) > 0.01
    # A row of the path is the value after the iteration: the next one's.
    np.testing.assert_allclose(rows["lambda1"][:-1], expected[1:], rtol=1e-12)
    assert rows["lambda1"][-1] == pytest.approx(expected[-1]) and not rows["predicted"].any()
    assert clf.lambda1_ == rows["lambda1"][-1]
    assert len(clf.net_.strategy.rows) == 1  # a pickle would hold them all


def test_a_process_transfers(search, make, digits, logits, tmp_path):
    """To other data, another student, another number of epochs, from a file or as an object."""
    process = search().fit(*digits, teacher_logits=logits).process_
    process.save(tmp_path / "process.npz")
    X, y = digits[0][:200], digits[1][:200]
    fits = [
        make(process=given, weights="process", student__hidden=8).fit(X, y, teacher_logits=logits[:200])
        for given in (process, tmp_path / "process.npz")
    ]
    assert same_students(*fits)
    assert fits[0].n_iter_ == 2 * 7 and not fits[0].metaparameter_path_["search"].any()
    assert fits[0].process_ is process and fits[0].search_history_ is None


@pytest.mark.parametrize("weights", ["mean", "process"])
def test_arrays_of_a_loss_of_ones_own(weights, search, digits, logits):
    clf = search(loss=Classwise(), weights=weights, meta__lr=5.0).fit(*digits, teacher_logits=logits)
    rows = clf.metaparameter_path_[~clf.metaparameter_path_["search"]]
    expected = clf.process_.schedule(len(rows), weights)["trust"]
    assert np.ptp(expected[0]) > 0 and expected.shape == (39, 10)
    np.testing.assert_allclose(rows["trust"][:-1], expected[1:])
    np.testing.assert_array_equal(clf.metaparameters_["trust"], rows["trust"][-1])


@pytest.mark.parametrize(
    ("given", "max_epochs", "n_epochs"),
    [(0.5, 3, 2), (0.01, 3, 1), (1.0, 3, 3), (1, 3, 1), (7, 3, 7), (0.07, 100, 7), (np.float64(2 / 3), 3, 2)],
)
def test_a_share_of_the_epochs_is_rounded_up(given, max_epochs, n_epochs):
    assert count_epochs(given, max_epochs) == n_epochs


def test_trials_are_the_search(make, digits, logits):
    """They last search_epochs; the best is retrained on all rows, and nothing else is trained."""
    clf = make(meta=Hyperopt(n_trials=3), max_epochs=3, search_epochs=1)
    clf.fit(*digits, teacher_logits=logits)
    best = clf.trials_[np.argmin(clf.trials_["val_loss"])]
    assert len(clf.process_) == 1 and clf.search_history_ is None
    assert (clf.lambda1_, clf.temperature_) == (best["lambda1"], best["temperature"])
    assert clf.n_iter_ == 3 * 13 and not clf.metaparameter_path_["search"].any()
    short = make(meta=Hyperopt(n_trials=3), max_epochs=1).fit(*digits, teacher_logits=logits)
    assert len(short.trials_) == 3


# --------------------------------------------------------------------------------------
# The rows of each stage


def rows_of(watch):
    return {tuple(row) for batch in watch.train_ for row in batch[0].flatten(1).tolist()}


def test_d_val_is_trained_on_in_the_retraining_alone(search, digits, logits):
    watches = Watch(), Watch()
    search(search_callbacks=[watches[0]], callbacks=[watches[1]], standardize=False).fit(
        *digits, teacher_logits=logits
    )
    searched, retrained = map(rows_of, watches)
    held_out = {tuple(row) for batch in watches[0].valid_ for row in batch[0].tolist()}
    assert len(held_out) == 40 and not held_out & searched
    assert retrained == searched | held_out and not watches[1].valid_


def test_a_teacher_is_fitted_on_d_train_of_the_search_and_then_on_all_rows(search, digits, remembers):
    X, y = digits
    watch = Watch()
    search(Remembers(), search_callbacks=[watch], standardize=False).fit(X, y)
    (first, second), asked = remembers.fitted, remembers.asked
    assert {tuple(row) for row in first.tolist()} == rows_of(watch)
    np.testing.assert_array_equal(second, X)
    assert [len(rows) for rows in asked] == [len(first), len(X)]


def test_a_teacher_is_fitted_once_where_both_stages_have_the_same_rows(search, digits, remembers):
    X, y = digits
    clf = search(Remembers(), soft_validation=True).fit(X[:300], y[:300], X_val=X[300:], y_val=y[300:])
    assert [len(rows) for rows in remembers.fitted] == [300] and clf._teacher_seconds > 0
    assert [len(rows) for rows in remembers.asked] == [300, 100]


def test_a_trained_teacher_is_asked_once(search, digits, remembers):
    X, y = digits
    search(FrozenEstimator(Remembers().fit(X, y))).fit(X, y)
    (asked,) = remembers.asked
    np.testing.assert_array_equal(asked, X)


@pytest.mark.parametrize(
    ("form", "weighted"), [(np.asarray, False), (np.asarray, True), (sparse.csr_matrix, True)]
)
def test_both_stages_have_the_same_answers_to_each_row(form, weighted, search, digits, logits):
    """As the logits of each row say, in whatever order and place it comes."""
    X, y = digits
    X = X + 1e-3 * np.arange(len(X), dtype=np.float32)[:, None]  # all rows differ

    class Knows(Remembers):
        def predict_proba(self, asked):
            asked = asked.toarray() if sparse.issparse(asked) else asked
            assert len(asked) <= (300 if weighted else 400)
            row = np.argmin(np.abs(asked[:, :1] - X[:, 0]), axis=1)
            proba = np.exp(logits[row])
            return proba / proba.sum(axis=1, keepdims=True)

    watches = Watch(), Watch()
    weight = np.tile([1.0, 1.0, 0.0, 1.0], 100) if weighted else None
    clf = search(Knows(), search_callbacks=[watches[0]], callbacks=[watches[1]], standardize=False)
    clf.fit(form(X), y, **({} if weight is None else {"sample_weight": weight}))
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    for watch in watches:
        for x, targets in ((b[0], b.targets) for b in watch.train_):
            row = np.argmin(np.abs(x[:, :1].numpy() - X[:, 0]), axis=1)
            np.testing.assert_array_equal(targets.labels, y[row])
            got = torch.log_softmax(targets.teacher_logits.double(), dim=1)
            np.testing.assert_allclose(got, expected[row], atol=1e-4)


def test_rows_without_labels_are_in_both_stages(search, digits, remembers):
    X, y = digits
    watches = Watch(), Watch()
    clf = search(
        Remembers(), search_callbacks=[watches[0]], callbacks=[watches[1]], soft_validation=True,
        synthesize=0.5, standardize=False,
    )  # fmt: skip
    clf.fit(X[:200], y[:200], X_unlabeled=X[200:])
    # D_val's rows are without labels in the search, and with theirs in the retraining.
    n_made = clf.n_unlabeled_ - 200
    searched, retrained = map(rows_of, watches)
    assert n_made > 80 and searched == retrained
    # Once for each stage.
    assert sum(map(len, remembers.asked)) == 2 * (400 + n_made) and len(remembers.fitted) == 2


def test_a_given_x_val_is_d_val_of_the_search_and_watched_in_the_retraining(search, digits, logits):
    X, y = digits
    clf = search(callbacks=[EarlyStopping(monitor="valid_loss", sink=lambda _: None)])
    clf.fit(X[:300], y[:300], teacher_logits=logits[:300], X_val=X[300:], y_val=y[300:])
    assert clf.n_iter_ == 2 * 10 + 3 * 10 and len(clf.validation_scores_) == 3


def test_preprocessing_is_fitted_on_d_train_of_the_search(search, digits, logits):
    seen = []

    class Counts(BaseEstimator):
        def fit(self, X, y=None):
            seen.append(len(X))
            return self

        def transform(self, X):
            return X

        def __sklearn_is_fitted__(self):
            return True

    search(student_preprocessing=Counts()).fit(*digits, teacher_logits=logits)
    assert seen == [360]


def test_t_val_of_a_retraining_without_d_val_is_that_of_the_search(search, digits, logits):
    clf = search(meta__val_temperature="auto").fit(*digits, teacher_logits=logits)
    assert clf.val_temperature_ == clf.net_.val_temperature_ != 1.0


def test_warm_start_goes_on_with_the_student_and_searches_with_a_fresh_one(search, digits, logits):
    clf = search(warm_start=True).fit(*digits, teacher_logits=logits)
    n_iter, loss = clf.n_iter_, clf.loss_curve_[-1]
    searched = clf.search_history_[0]["train_loss"]
    clf.fit(*digits, teacher_logits=logits)
    path = clf.metaparameter_path_
    assert clf.n_iter_ == len(path) == 2 * n_iter
    np.testing.assert_array_equal(path["search"][:n_iter], path["search"][n_iter:])
    np.testing.assert_array_equal(path["iteration"], np.arange(2 * n_iter))
    assert clf.loss_curve_[0] < 1.2 * loss and clf.search_history_[0]["train_loss"] > 0.8 * searched


# --------------------------------------------------------------------------------------
# Callbacks, interrupts


class Rates(Callback):
    def on_train_end(self, net, **kwargs):
        self.rates_ = [row["lr"] for row in net.history]

    def on_epoch_begin(self, net, **kwargs):
        net.history.record("lr", net.optimizer_.param_groups[0]["lr"])


def test_each_stage_has_its_own_callbacks(search, digits, logits):
    rates = Rates(), Rates()
    clf = search(
        search_callbacks=[LRScheduler(CosineAnnealingLR, T_max=2), rates[0]], callbacks=[("rates", rates[1])]
    ).fit(*digits, teacher_logits=logits)
    assert rates[0].rates_ == pytest.approx([0.1, 0.05]) and rates[1].rates_ == [0.1] * 3
    assert len(clf.search_history_) == 2


@pytest.mark.usefixtures("no_training")
def test_what_the_retraining_cannot_watch_is_refused(search, digits, logits):
    with pytest.raises(ValueError, match="'valid_loss', but the retraining"):
        search(callbacks=[EarlyStopping()]).fit(*digits, teacher_logits=logits)
    with pytest.raises(TypeError, match="search_callbacks has 3, which is not a callback"):
        search(search_callbacks=[3]).fit(*digits, teacher_logits=logits)


class InterruptsAt(Callback):
    def __init__(self, at):
        self.at = at

    def on_batch_begin(self, net, training=False, **kwargs):
        if training and net.metaparameters.iteration == self.at:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_in_the_search_keeps_its_student(search, digits, logits, sigint_heard):
    with pytest.warns(UserWarning, match="Interrupted in epoch 2 of 2, after 17 iterations"):
        clf = search(search_callbacks=[InterruptsAt(17)]).fit(*digits, teacher_logits=logits)
    assert clf.n_iter_ == 17 and clf.metaparameter_path_["search"].all()
    assert len(clf.process_) == 17 and len(clf.search_history_) == len(clf.history_) == 2
    assert clf.predict(digits[0]).shape == (400,)


def test_ctrl_c_in_the_retraining_keeps_the_process(search, digits, logits, sigint_heard):
    with pytest.warns(UserWarning, match="Interrupted in epoch 1 of 3, after 29 iterations"):
        clf = search(callbacks=[InterruptsAt(5)]).fit(*digits, teacher_logits=logits)
    assert clf.n_iter_ == 24 + 5 and len(clf.process_) == 24


def test_ctrl_c_in_a_trial_keeps_the_best_student_so_far(make, digits, logits, sigint_heard):
    clf = make(meta=Hyperopt(n_trials=2), search_epochs=2, search_callbacks=[InterruptsAt(15)])
    with pytest.warns(UserWarning, match="Interrupted in epoch 2 of 2, after 15 iterations"):
        clf.fit(*digits, teacher_logits=logits)
    assert clf.n_iter_ == 15 and clf.metaparameter_path_["search"].all()
    assert set(clf.process_.values["lambda1"]) == {clf.lambda1_} and len(clf.search_history_) == 2


def test_verbose_names_the_phases(search, digits, logits, capsys):
    search(verbose=1, search_epochs=1, max_epochs=1).fit(*digits, teacher_logits=logits)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["search", "retraining"]


@pytest.mark.skipif(not hasattr(CallbackSupportMixin, "set_callbacks"), reason="scikit-learn before 1.9")
def test_epochs_of_both_stages_are_told(search, digits, remembers):
    recorder = Recorder()
    clf = search(Remembers(), search_epochs=1, max_epochs=2).set_callbacks(recorder)
    clf.fit(*digits)
    begun = [call[1] for call in recorder.heard if call[0] == "begin"]
    assert begun[1:] == ["teacher", "search epoch", "epoch", "epoch"]
    assert recorder.students[0].process_ is not None


# --------------------------------------------------------------------------------------
# What is refused, and what is without effect


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    "params",
    [
        {"search_epochs": 0},
        {"search_epochs": 1.5},
        {"search_epochs": "half"},
        {"weights": "equal"},
        {"process": 3},
    ],
)
def test_parameters_of_no_use_are_refused(params, search, digits, logits):
    with pytest.raises(ValueError, match=f"The '{next(iter(params))}' parameter"):
        search(**params).fit(*digits, teacher_logits=logits)


@pytest.mark.usefixtures("no_training")
def test_a_process_of_other_metaparameters_is_refused(make, digits, logits):
    entries = {"temperature": LogitDistillation().metaparameters(10)["temperature"]}
    process = MetaparameterProcess({"temperature": [2.0]}, entries)
    with pytest.raises(ValueError, match="process has other metaparameters"):
        make(process=process).fit(*digits, teacher_logits=logits)


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    "params, kind, message",
    [
        ({"search_epochs": True}, ValueError, "search_epochs=True must be a number of epochs"),
        ({"process": "missing.npz"}, FileNotFoundError, "process='missing.npz': there is no such file"),
    ],
)
def test_what_names_no_search_or_process_is_refused(params, kind, message, make, digits, logits):
    with pytest.raises(kind, match=message):
        make(**params).fit(*digits, teacher_logits=logits)


@pytest.mark.parametrize(
    "params, message",
    [
        ({"meta": "fixed"}, r"search_epochs=2 with meta='fixed', which learns nothing from D_val\.$"),
        ({"search_epochs": None, "weights": "tail"}, "weights='tail' without a process to follow"),
        ({"meta": "fixed", "weights": "tail"}, "weights='tail' with meta='fixed', which learns nothing"),
        ({"search_epochs": None, "search_callbacks": [Watch()]}, "search_callbacks without a search"),
    ],
)
def test_what_is_without_effect_is_said(params, message, search, digits, logits):
    clf = search(max_epochs=1, **params)
    with pytest.warns(UserWarning, match=message):
        clf.fit(digits[0][:60], digits[1][:60], teacher_logits=logits[:60])
    assert clf.process_ is None


def test_a_given_process_takes_the_place_of_the_search(search, digits, logits):
    process = MetaparameterProcess(
        {"lambda1": [0.3], "temperature": [2.0]}, LogitDistillation().metaparameters(10)
    )
    clf = search(
        process=process,
        meta=Linear(e1=3, e2=2),
        e1=10,
        e2=10,
        lambda1=0.2,
        max_epochs=1,
        soft_validation=True,
    )
    said = "soft_validation=True with a given.*search_epochs=2 with a given process.*lambda1=0.2 with a given"
    with pytest.warns(UserWarning, match=said):
        clf.fit(digits[0][:60], digits[1][:60], teacher_logits=logits[:60])
    assert (clf.lambda1_, clf.temperature_) == (0.3, 2.0)


# --------------------------------------------------------------------------------------
# Beside other tools


def test_a_grid_over_searches(search, digits, logits):
    X, y = digits[0][:90], digits[1][:90]
    grid = GridSearchCV(
        search(max_epochs=2),
        {"search_epochs": [1], "weights": ["mean", "process"]},
        cv=2,
        error_score="raise",
    )
    grid.fit(X, y, teacher_logits=logits[:90])
    assert grid.best_estimator_.process_ is not None


def test_a_comparison_says_that_a_search_was_too_short(search, digits):
    X, y = digits[0][:60], digits[1][:60] % 2
    clf = search(RandomForestClassifier(2, random_state=0), optimizer="Adam", max_epochs=1, search_epochs=1)
    with pytest.warns(ConvergenceWarning, match="no hypergradient was taken in its 1 iterations") as said:
        compare_methods(clf, X, y, methods={"mean": {}}, baseline="mean", cv=2, n_jobs=1)
    assert len(said) == 2


def test_a_search_in_a_comparison_is_what_fit_does_alone(search, digits):
    """On the same D_train, D_val and teacher; searches are trained together, and so are retrainings."""
    X, y = digits[0][:160], digits[1][:160]
    folds = [(np.arange(100), np.arange(100, 160))]
    forest = RandomForestClassifier(3, random_state=0).fit(X[100:], y[100:])
    clf = search(FrozenEstimator(forest), max_epochs=2, search_epochs=1, retrain="auto")
    methods = {
        "none": {"meta": "none"},
        "mean": {},
        "tail": {"weights": "tail"},
        "final": {"weights": "final", "retrain": "fresh"},
    }
    found = compare_methods(clf, X, y, methods=methods, baseline="none", cv=folds, n_seeds=1).results_
    assert found["models_in_batch"].tolist() == [1, 3, 3, 3]
    row = found[1]
    alone = clone(clf).set_params(random_state=int(row["random_state"])).fit(X[:100], y[:100])
    assert row["accuracy"] == alone.score(X[100:], y[100:])
    assert (row["lambda1"], row["temperature"]) == pytest.approx(
        (alone.lambda1_, alone.temperature_), rel=1e-5
    )


def test_a_third_of_the_epochs_is_searched_by_default():
    clf = DistilledClassifier(None, MLPStudent)
    assert (clf.meta, clf.search_epochs, clf.weights, clf.process) == ("shortlist", 1 / 3, "mean", None)
    assert (clf.validation_fraction, clf.search_callbacks, clf.retrain) == (0.15, None, "auto")


def test_the_default_is_a_shortlist_and_a_training_on_all_rows(digits, logits):
    """To the last bit the fit at the setting that the trials of a third of the epochs prefer."""
    X, y = digits
    params = {"retrain": "fresh", "student__hidden": 16, "max_epochs": 6, "random_state": 0, "device": "cpu"}
    clf = DistilledClassifier(None, MLPStudent, **params).fit(X, y, teacher_logits=logits)
    assert len(clf.history_) == 6 and not clf.metaparameter_path_["search"].any()
    best = clf.trials_[clf.trials_["val_loss"].argmin()]
    values = {"lambda1": clf.lambda1_, "temperature": clf.temperature_}
    assert values == {name: best[name] for name in values}
    fixed = DistilledClassifier(None, MLPStudent, meta="fixed", **params, **values)
    np.testing.assert_array_equal(
        fixed.fit(X, y, teacher_logits=logits).predict_proba(X), clf.predict_proba(X)
    )
