"""DistilledClassifier as scikit-learn's users meet it."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer, log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from skorch.callbacks import Callback
from torch import nn
from torch.utils.data import TensorDataset

from sklearn_kd import CNNStudent, MLPStudent
from sklearn_kd.inputs import _splitting
from sklearn_kd.meta import Linear
from sklearn_kd.tasks._stratified_split import split_rows


def assert_same_path(one, two):
    for field in one.dtype.names:
        np.testing.assert_array_equal(one[field], two[field])  # NaN equals NaN


METHODS = ("none", "naive", "random", "fixed", "gradient", "linear", "hyperopt")


@pytest.mark.parametrize("meta", METHODS)
def test_methods_learn_the_digits(meta, make, digits, logits):
    X, y = digits
    clf = make(meta=meta, max_epochs=8, optimizer__momentum=0.9).fit(
        X[:300], y[:300], teacher_logits=logits[:300]
    )
    assert clf.score(X[300:], y[300:]) > 0.8
    proba = clf.predict_proba(X)
    assert proba.shape == (400, 10) and proba.dtype == np.float32
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(clf.classes_[proba.argmax(axis=1)], clf.predict(X))


def test_log_probabilities_are_finite_where_probabilities_are_zero(make, digits, logits):
    clf = make(max_epochs=3, standardize=False).fit(*digits, teacher_logits=logits)
    X = np.concatenate([digits[0], digits[0] * 1e4])
    with np.errstate(divide="ignore"):
        by_probabilities = np.log(clf.predict_proba(X))
    found = clf.predict_log_proba(X)
    assert np.isinf(by_probabilities).any() and np.isfinite(found).all()
    np.testing.assert_allclose(found[: len(X) // 2], by_probabilities[: len(X) // 2], rtol=1e-4, atol=1e-6)
    dataset = TensorDataset(torch.tensor(X, dtype=torch.float32))
    np.testing.assert_allclose(clf.predict_log_proba(dataset), found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("meta", METHODS)
def test_same_seed_same_result_and_global_generators_untouched(meta, make, digits, logits):
    student = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 10))
    teacher = RandomForestClassifier(n_estimators=5)
    results = []
    for _ in range(2):
        np.random.rand(3), torch.rand(3)  # the result must not depend on these
        before_numpy, before_torch = np.random.get_state(), torch.get_rng_state()
        clf = make(teacher, student, meta=meta, lambda1="random", random_state=7).fit(*digits)
        clf.predict(digits[0])
        after_numpy = np.random.get_state()
        assert torch.equal(before_torch, torch.get_rng_state())
        assert all(np.array_equal(a, b) for a, b in zip(before_numpy, after_numpy, strict=True))
        results.append((clf.predict_proba(digits[0]), clf.metaparameter_path_))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    assert_same_path(results[0][1], results[1][1])
    other = make(teacher, student, meta=meta, random_state=8).fit(*digits)
    assert (other.predict_proba(digits[0]) != results[0][0]).any()


def test_methods_share_initial_weights_and_batches(make, digits, logits):
    """Under one random_state the comparison is paired: only the metaparameters differ."""
    naive = make(meta="naive").fit(*digits, teacher_logits=logits)
    fixed = make(meta="fixed").fit(*digits, teacher_logits=logits)
    np.testing.assert_array_equal(naive.predict_proba(digits[0]), fixed.predict_proba(digits[0]))


class Recorder(LogisticRegression):
    """A teacher that notes what it was fitted on."""

    seen = []

    def fit(self, X, y, sample_weight=None):
        Recorder.seen.append((np.asarray(X), np.asarray(y), sample_weight))
        return super().fit(X, y, sample_weight)


@pytest.mark.parametrize("meta", ["naive", "gradient", "linear"])
def test_unfitted_teacher_sees_neither_d_val_nor_the_test_fold(meta, make, monkeypatch):
    # Row i is known by its first feature, so that what the teacher saw can be traced.
    rng = np.random.default_rng(0)
    X = np.column_stack([np.arange(200.0), rng.normal(size=(200, 3))])
    y = (X[:, 1] > 0).astype(int)
    Recorder.seen.clear()
    held_out = []

    split = _splitting.split_places

    def noted(*args):
        rows, val = split(*args)
        held_out.append(val)
        return rows, val

    monkeypatch.setattr(_splitting, "split_places", noted)
    clf = make(Recorder(), meta=meta, max_epochs=1, lr=1e-6, validation_fraction=0.2)
    folds = [(np.arange(0, 150), np.arange(150, 200)), (np.arange(50, 200), np.arange(0, 50))]
    cross_val_score(clf, X, y, cv=folds)
    assert len(Recorder.seen) == 2
    for (seen, seen_y, _), (train, test), val in zip(Recorder.seen, folds, held_out, strict=True):
        rows = seen[:, 0].astype(int)
        np.testing.assert_array_equal(y[rows], seen_y)
        assert not np.isin(rows, test).any()
        if meta == "naive":
            assert val is None and set(rows) == set(train)
        else:
            assert not np.isin(rows, train[val]).any() and len(rows) == 120
            assert set(rows) | set(train[val]) == set(train)


def test_split_is_disjoint_stratified_and_keeps_every_class():
    rng = np.random.RandomState(0)
    codes = np.repeat([0, 1, 2], [100, 60, 40])
    train, val = split_rows(codes, 0.1, rng)
    assert sorted([*train, *val]) == list(range(200))
    np.testing.assert_array_equal(np.bincount(codes[val]), [10, 6, 4])
    codes = np.array([0] * 8 + [1, 2])  # two classes of one row each
    for _ in range(20):
        train, val = split_rows(codes, 0.2, rng)
        assert len(val) == 2 and set(codes[train]) == {0, 1, 2}


def test_given_validation_set_is_used_and_not_trained_on(make, digits, logits):
    X, y = digits
    kept = make(meta="gradient").fit(
        X[:300], y[:300], teacher_logits=logits[:300], X_val=X[300:], y_val=y[300:]
    )
    assert kept.n_iter_ == 2 * 10  # all 300 rows trained on, 32 a batch, the last 12
    other = make(meta="gradient").fit(
        X[:300], y[:300], teacher_logits=logits[:300], X_val=X[300:], y_val=y[300:][::-1]
    )
    assert (kept.metaparameter_path_["lambda1"] != other.metaparameter_path_["lambda1"]).any()
    naive = make(meta="naive").fit(X, y, teacher_logits=logits, X_val=X[:50], y_val=y[:50])
    alone = make(meta="naive").fit(X, y, teacher_logits=logits)
    np.testing.assert_array_equal(naive.predict_proba(X), alone.predict_proba(X))
    assert "valid_acc" in naive.history_[-1] and "valid_acc" not in alone.history_[-1]


def test_string_labels_pandas_and_feature_names(make, digits):
    X = pd.DataFrame(digits[0], columns=[f"pixel {i}" for i in range(64)])
    y = pd.Series(digits[1]).map(lambda digit: f"digit {digit}")
    clf = make(DecisionTreeClassifier(), max_epochs=10, optimizer__momentum=0.9, keep_teacher=True).fit(X, y)
    assert clf.classes_[3] == "digit 3" and clf.score(X, y) > 0.8
    np.testing.assert_array_equal(clf.feature_names_in_, X.columns)
    np.testing.assert_array_equal(clf.teacher_.feature_names_in_, X.columns)
    assert pd.DataFrame(clf.metaparameter_path_).shape == (clf.n_iter_, 6)
    with pytest.raises(ValueError, match="feature names"):
        clf.predict(X.rename(columns={"pixel 0": "other"}))


def test_torch_tensors(make, digits, logits):
    X, y = (torch.as_tensor(values) for values in digits)
    clf = make().fit(X, y, teacher_logits=torch.as_tensor(logits))
    same = make().fit(*digits, teacher_logits=logits)
    np.testing.assert_array_equal(clf.predict_proba(X), same.predict_proba(digits[0]))


@pytest.mark.filterwarnings("ignore:The student was still learning fast")
def test_images(make, digits, logits):
    X = digits[0].reshape(-1, 1, 8, 8)
    clf = make(student=CNNStudent, max_epochs=12, meta="gradient", optimizer=torch.optim.Adam, lr=0.01)
    clf.fit(X, digits[1], teacher_logits=logits)
    assert clf.score(X, digits[1]) > 0.9
    with pytest.raises(ValueError, match=r"fitted on samples of shape \(1, 8, 8\)"):
        clf.predict(X.reshape(-1, 1, 4, 16))


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.array(3.0), "X: Expected 2D array, got scalar array"),
        (np.zeros(64), "X: Expected 2D array, got 1D array"),
        (np.zeros((2, 63)), "X has 63 features, but DistilledClassifier is expecting 64"),
        (np.full((2, 64), [[np.inf] * 63 + [-np.inf]]), "Input X contains infinity"),
        (np.full((2, 64), 1e300), "too large for dtype"),
        (np.full((2, 64), np.nan), "Input X contains NaN"),
        (np.zeros((0, 64)), "0 sample"),
    ],
    ids=["scalar", "1-D", "narrow", "infinities", "large", "NaN", "no rows"],
)
def test_arrays_that_predict_refuses(once, make, digits, X, message):
    clf = once("linear", lambda: make(LogisticRegression(max_iter=5), max_epochs=1, meta="none").fit(*digits))
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=message):
        clf.predict(X)


def test_sample_weight(make, digits, logits):
    """Rows of weight 0 are as good as absent; the scale does not matter; weights act."""
    X, y = digits
    weight = np.where(np.arange(400) < 250, 2.0, 0.0)
    kept = make(meta="linear").fit(X[:250], y[:250], teacher_logits=logits[:250])
    weighted = make(meta="linear").fit(X, y, teacher_logits=logits, sample_weight=weight)
    np.testing.assert_allclose(weighted.predict_proba(X), kept.predict_proba(X), rtol=1e-4, atol=1e-6)
    favoured = np.where(y == 3, 10.0, 1.0)
    favouring = make(max_epochs=3).fit(X, y, teacher_logits=logits, sample_weight=favoured)
    plain = make(max_epochs=3).fit(X, y, teacher_logits=logits)
    assert favouring.predict_proba(X)[:, 3].mean() > plain.predict_proba(X)[:, 3].mean() + 0.05


def test_sample_weight_reaches_the_teacher(make, digits):
    Recorder.seen.clear()
    weight = np.arange(400.0)
    make(Recorder(max_iter=50), meta="naive").fit(*digits, sample_weight=weight)
    np.testing.assert_array_equal(Recorder.seen[0][2], weight[1:])  # row 0 weighs nothing


def test_sample_weight_counts_in_the_validation_loss(make, digits, logits):
    weight = np.linspace(0.1, 3, 400)
    one = make(meta="gradient").fit(*digits, teacher_logits=logits, sample_weight=weight)
    two = make(meta="gradient").fit(*digits, teacher_logits=logits)
    assert one.metaparameter_path_["val_loss"][0] != two.metaparameter_path_["val_loss"][0]


def test_params_round_trip_through_every_prefix(make):
    clf = make(
        RandomForestClassifier(max_depth=3),
        meta=Linear(),
        student__hidden=8,
        optimizer__momentum=0.9,
        meta__optimizer_params={"momentum": 0.5},
        iterator_train__drop_last=True,
        iterator_valid__batch_size=16,
        callbacks__print_log=None,
    )
    new = {
        "teacher__max_depth": 5,
        "meta__e1": 7,
        "student__hidden": 16,
        "optimizer__nesterov": True,
        "meta__clip": 0.1,
        "iterator_train__batch_size": 50,
        "lr": 0.01,
    }
    clf.set_params(**new)
    for copy in (clf, clone(clf), pickle.loads(pickle.dumps(clf))):
        params = copy.get_params()
        assert {name: params[name] for name in new} == new
        assert params["optimizer__momentum"] == 0.9 and params["callbacks__print_log"] is None
    with pytest.raises(ValueError, match=r"Invalid parameter 'learning_rate' .* Did you mean 'lr'"):
        clf.set_params(learning_rate=1)


def test_routed_parameters_arrive(make, digits, logits):
    clf = make(
        student__hidden=(8, 4),
        optimizer__momentum=0.9,
        iterator_train__batch_size=100,
        iterator_train__drop_last=True,
        meta__optimizer_params={"momentum": 0.7},
    ).fit(*digits, teacher_logits=logits)
    assert [w.shape[0] for w in clf.student_.parameters()][::2] == [8, 4, 10]
    assert clf.net_.optimizer_.param_groups[0]["momentum"] == 0.9
    assert clf.n_iter_ == 2 * 3  # 360 rows, 100 a batch, the last left out


def test_grid_search_over_every_kind_of_parameter(make, digits):
    X, y = digits
    pipeline = make_pipeline(StandardScaler(), make(RandomForestClassifier(n_estimators=5)))
    name = "distilledclassifier__"
    grid = [
        {name + "meta": ["naive", "gradient", Linear(3, 3)], name + "lr": [0.01, 0.1]},
        {name + "e1": [2, 5], name + "student__hidden": [4, 16], name + "teacher__max_depth": [1]},
    ]
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(X, y)
    assert len(search.cv_results_["params"]) == 10
    assert search.best_estimator_.score(X, y) > 0.3
    assert len(np.unique(search.cv_results_["mean_test_score"])) > 4


@pytest.mark.filterwarnings("ignore:The student was still learning fast")
def test_teacher_logits_follow_the_folds(make, digits, logits):
    """Sliced with X, by plain fit parameters and by metadata routing."""
    X, y = digits
    order = np.random.default_rng(0).permutation(400)
    grid = {"lr": [0.1]}
    aligned = GridSearchCV(make(meta="fixed", lambda1=0.0, max_epochs=20), grid, cv=2)
    plain = aligned.fit(X, y, teacher_logits=logits).best_score_
    misaligned = clone(aligned).fit(X, y, teacher_logits=logits[order]).best_score_
    assert plain > 0.6 > 0.3 > misaligned
    with config_context(enable_metadata_routing=True):
        clf = make(meta="fixed", lambda1=0.0, max_epochs=20)
        clf.set_fit_request(teacher_logits=True, sample_weight=True)
        # A scorer of its own: in scikit-learn 1.6 a pipeline's score is passed no weights.
        scoring = get_scorer("accuracy").set_score_request(sample_weight=True)
        pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), clf)
        search = GridSearchCV(pipeline, {"distilledclassifier__lr": [0.1]}, cv=2, scoring=scoring)
        search.fit(X, y, teacher_logits=logits, sample_weight=np.ones(400))
        assert search.best_score_ > 0.6


def test_pickle_predicts_the_same(make, digits):
    clf = make(RandomForestClassifier(n_estimators=5)).fit(*digits)
    again = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(again.predict_proba(digits[0]), clf.predict_proba(digits[0]))
    assert_same_path(again.metaparameter_path_, clf.metaparameter_path_)


def test_pickle_does_not_grow_with_the_data(make, digits, logits):
    sizes = []
    for n in (100, 400):
        clf = make(meta="naive", iterator_train__batch_size=-1)
        clf.fit(digits[0][:n], digits[1][:n], teacher_logits=logits[:n])
        sizes.append(len(pickle.dumps(clf)))
    assert abs(sizes[1] - sizes[0]) < 1000


def test_student_instance_is_copied_not_trained(make, digits, logits):
    student = MLPStudent(64, 10, hidden=5)
    before = [w.clone() for w in student.parameters()]
    clf = make(student=student).fit(*digits, teacher_logits=logits)
    assert clf.student_ is not student
    assert all(torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))
    assert any((a != b).any() for a, b in zip(before, clf.student_.parameters(), strict=True))


def test_warm_start_goes_on(make, digits, logits):
    clf = make(meta="gradient", warm_start=True).fit(*digits, teacher_logits=logits)
    first, loss = clf.metaparameter_path_, clf.history_[0, "train_loss"]
    clf.fit(*digits, teacher_logits=logits)
    path = clf.metaparameter_path_
    np.testing.assert_array_equal(path[: len(first)], first)
    np.testing.assert_array_equal(path["iteration"], np.arange(2 * len(first)))
    assert abs(path["lambda1"][len(first)] - first["lambda1"][-1]) < 0.05
    assert clf.history_[0, "train_loss"] < loss
    with pytest.raises(ValueError, match="warm_start"):
        clf.fit(digits[0][digits[1] < 5], digits[1][digits[1] < 5], teacher_logits=logits[digits[1] < 5, :5])


@pytest.mark.parametrize("hypergradient", ["finite_difference", "exact"])
def test_compile_computes_the_same(make, digits, logits, hypergradient):
    plain = make(max_epochs=1, meta__hypergradient=hypergradient).fit(*digits, teacher_logits=logits)
    compiled = clone(plain).set_params(execution="compiled").fit(*digits, teacher_logits=logits)
    np.testing.assert_allclose(plain.predict_proba(digits[0]), compiled.predict_proba(digits[0]), atol=1e-4)
    assert list(compiled.student_.state_dict()) == list(plain.student_.state_dict())
    pickle.loads(pickle.dumps(compiled)).predict(digits[0])


def test_hypergradient_methods_agree_in_a_fit(make, digits, logits):
    paths = [
        make(meta="gradient", meta__hypergradient=method)
        .fit(*digits, teacher_logits=logits)
        .metaparameter_path_
        for method in ("exact", "jvp", "finite_difference")
    ]
    for path in paths[1:]:
        np.testing.assert_allclose(path["lambda1"], paths[0]["lambda1"], atol=2e-3)
        np.testing.assert_allclose(path["temperature"], paths[0]["temperature"], atol=5e-3)


def test_calibration_by_an_outer_estimator(make, digits):
    X, y = digits
    inner = make(LogisticRegression(max_iter=300), meta="naive", max_epochs=5)
    calibrated = CalibratedClassifierCV(inner, cv=2).fit(X[:300], y[:300])
    assert log_loss(y[300:], calibrated.predict_proba(X[300:])) < np.log(10)


def test_batches_of_one_row_are_merged(make, digits, logits):
    """65 rows by 32: batch normalisation would refuse the last row on its own."""
    student = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    clf = make(student=student, meta="naive").fit(digits[0][:65], digits[1][:65], teacher_logits=logits[:65])
    assert clf.n_iter_ == 2 * 2


def test_divergence_is_reported_and_leaves_a_usable_estimator(make, digits, logits):
    clf = make(meta="linear", lr=1e30, max_epochs=5)
    with pytest.warns(ConvergenceWarning, match="diverged"):
        clf.fit(*digits, teacher_logits=logits)
    assert np.isfinite(clf.predict_proba(digits[0])).all()
    assert np.isfinite(clf.metaparameter_path_["lambda1"]).all()
    assert len(clf.history_) < 5


@pytest.mark.gpu
def test_on_a_gpu(make, digits, logits):
    """The same path as on the CPU, and a pickle that predicts."""
    paths = []
    for device in ("cpu", "auto"):
        clf = make(meta="linear", device=device).fit(*digits, teacher_logits=logits)
        paths.append(clf.metaparameter_path_)
    assert next(clf.student_.parameters()).is_cuda
    np.testing.assert_allclose(paths[0]["lambda1"], paths[1]["lambda1"], atol=5e-3)
    again = pickle.loads(pickle.dumps(clf))
    np.testing.assert_allclose(again.predict_proba(digits[0]), clf.predict_proba(digits[0]), atol=1e-6)


def test_hypergradient_rows_refused_where_rows_are_not_alone(make, digits, logits):
    student = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))
    clf = make(student=student, meta__hypergradient_rows=16)
    with pytest.raises(ValueError, match="Set meta__hypergradient_rows=None"):
        clf.fit(*digits, teacher_logits=logits)


def test_hypergradient_rows_refused_where_there_is_no_extra_pass(make, digits, logits):
    with pytest.raises(ValueError, match="hypergradient='exact' has none"):
        make(meta__hypergradient_rows=16, meta__hypergradient="exact").fit(*digits, teacher_logits=logits)


def test_whether_rows_are_alone_is_seen_in_full_precision(make, digits, logits):
    """TF32, or bfloat16 in products, would make rows look as if they depended on each other."""
    seen = []

    class Watched(nn.Linear):
        def forward(self, x):
            seen.append((self.training, torch.is_grad_enabled(), torch.get_float32_matmul_precision()))
            return super().forward(x)

    clf = make(student=Watched(64, 10), meta__hypergradient_rows=8, max_epochs=1)
    torch.set_float32_matmul_precision("medium")
    try:
        clf.fit(*digits, teacher_logits=logits)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert {precision for training, grad, precision in seen if training and not grad} == {"highest"}


def test_hypergradient_rows(make, digits, logits):
    """Fewer rows give another path; as many as the batch has give the same."""
    paths = [
        make(meta__hypergradient_rows=rows, max_epochs=5)
        .fit(*digits, teacher_logits=logits)
        .metaparameter_path_
        for rows in (None, 32, 8)
    ]
    np.testing.assert_array_equal(paths[0]["lambda1"], paths[1]["lambda1"])
    assert not np.array_equal(paths[0]["lambda1"], paths[2]["lambda1"])
    np.testing.assert_allclose(paths[2]["lambda1"], paths[0]["lambda1"], atol=0.1)


def test_autocast_leaves_the_meta_passes_alone(make, digits, logits):
    """bfloat16 in plain iterations and in validation, float32 with a hypergradient and to predict."""

    class Watched(nn.Linear):
        seen: list = []

        def forward(self, x):
            z = super().forward(x)
            self.seen.append((self.training, z.dtype))
            return z

    clf = make(student=Watched(64, 10), execution="bfloat16", e1=3, e2=3, max_epochs=1, batch_size=60)
    Watched.seen.clear()
    clf.fit(*digits, teacher_logits=logits)
    at_first = Watched.seen[6:]  # the first are checks of the student
    # The last are checks of the trained one: whether it overflows, its operations, and what it has learned.
    at_first, checks = at_first[: -2 - 6], at_first[-2 - 6 :]
    assert set(checks) == {(False, torch.float32)}
    half, full = torch.bfloat16, torch.float32
    # Three gradient iterations of three passes each, D_val's in the middle; then three plain ones.
    assert [dtype for _, dtype in at_first[:12]] == [full] * 9 + [half] * 3
    assert at_first[-1] == (False, half)
    Watched.seen.clear()
    assert clf.predict_proba(digits[0]).dtype == np.float32
    assert {dtype for _, dtype in Watched.seen} == {full}


def test_losses_are_recorded_when_fit_is_interrupted(make, digits, logits):
    """The losses of an epoch are copied at its end, and at an early one too."""

    class Interrupt(Callback):
        def on_batch_begin(self, net, batch=None, training=False, **kwargs):
            if training and len(net.history[-1]["batches"]) == 4:
                raise KeyboardInterrupt

    clf = make(callbacks=[Interrupt()]).fit(*digits, teacher_logits=logits)
    batches = clf.history_[-1]["batches"]
    assert [np.isfinite(b.get("train_loss", np.nan)) for b in batches] == [True] * 3 + [False]


def test_losses_are_there_for_callbacks_that_listen_to_batches(make, digits, logits):
    seen = []

    class Listener(Callback):
        def on_batch_end(self, net, **kwargs):
            row = net.history[-1]["batches"][-1]
            seen.append(row.get("train_loss", row.get("valid_loss")))

    make(callbacks=[Listener()]).fit(*digits, teacher_logits=logits)
    assert seen and all(isinstance(loss, float) for loss in seen)
