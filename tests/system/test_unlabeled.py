"""``fit`` with rows that have no labels."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy import sparse
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier
from skorch.callbacks import EpochScoring
from torch.utils.data import TensorDataset

from helpers.callbacks import Watch
from helpers.own_losses import Decoupled
from helpers.pages import messages
from sklearn_kd import DistilledClassifier, MLPStudent, Munge, compare_methods
from sklearn_kd.losses import DistillationLoss, LogitDistillation, Metaparameter
from sklearn_kd.training._stackable import why_not_stackable

N = 150  # rows with labels; the other 250 have none


@pytest.fixture
def given(digits, logits):
    """All that ``fit`` takes, with the logits of a teacher."""
    return labeled(digits) | {
        "teacher_logits": logits[:N],
        "X_unlabeled": digits[0][N:],
        "teacher_logits_unlabeled": logits[N:],
    }


def labeled(digits):
    return {"X": digits[0][:N], "y": digits[1][:N]}


def same_path(a, b, **tolerance):
    for name in ("lambda1", "temperature", "val_loss"):
        np.testing.assert_allclose(a.metaparameter_path_[name], b.metaparameter_path_[name], **tolerance)


class Recorder(ClassifierMixin, BaseEstimator):
    """Writes down what it is fitted on and asked about."""

    fitted, asked = [], []

    def fit(self, X, y):
        self.fitted[:], self.asked[:] = [X], []
        self.model_ = LogisticRegression(C=0.01).fit(X, y)
        self.classes_ = self.model_.classes_
        return self

    def predict_proba(self, X):
        self.asked.append(X)
        return self.model_.predict_proba(X)


class OwnForm(DistillationLoss):
    """The loss "kd", written out for autograd."""

    accepts_unlabeled = True

    def metaparameters(self, n_classes):
        return {
            "lambda1": Metaparameter(0.5, bounds=(0.0, 1.0)),
            "temperature": Metaparameter(1.0, bounds=(1.0, 10.0), coordinate="log"),
        }

    def loss(self, logits, teacher_logits, labels, *, lambda1, temperature):
        known = labels >= 0
        hard = logits.new_zeros(len(labels)).masked_scatter(
            known, F.cross_entropy(logits[known], labels[known], reduction="none")
        )
        log_q = (logits / temperature).log_softmax(1)
        soft = -((teacher_logits / temperature).softmax(1) * log_q).sum(1)
        scale = len(labels) / known.sum()
        return lambda1 * scale * hard + (1 - lambda1) * temperature**2 * soft


# --------------------------------------------------------------------------------------
# What is learned from which rows


@pytest.mark.parametrize("weighted", [False, True])
def test_closed_forms_are_those_of_a_loss_by_autograd(weighted, make, given):
    if weighted:
        given = given | {"sample_weight": np.linspace(0, 2, N)}
    by_autograd = make(meta="gradient", meta__hypergradient="exact", loss=OwnForm()).fit(**given)
    closed = make(meta="gradient", meta__hypergradient="exact").fit(**given)
    same_path(closed, by_autograd, rtol=1e-3, atol=1e-4)
    assert np.ptp(closed.metaparameter_path_["lambda1"]) > 1e-3


def test_labels_alone_leave_the_other_rows_out(make, given):
    """With lambda1=1 the answers to unlabeled rows do not count."""
    clf = make(meta="fixed", lambda1=1.0, max_epochs=1, standardize=False)
    other = given | {"teacher_logits_unlabeled": np.roll(given["teacher_logits_unlabeled"], 1, axis=1)}
    losses = [clf.fit(**args).history_[-1]["train_loss"] for args in (given, other)]
    assert losses[0] == losses[1] > 0


def test_answers_to_rows_without_labels_are_learned(make, digits, logits):
    wrong = np.roll(4 * np.eye(10)[digits[1]], 1, axis=1)[N:]
    given = labeled(digits) | {"teacher_logits": logits[:N], "X_unlabeled": digits[0][N:]}
    clf = make(meta="fixed", lambda1=0.0, max_epochs=25, unlabeled_share=0.8)
    clf.fit(**given, teacher_logits_unlabeled=wrong)
    assert (clf.predict(digits[0][N:]) == wrong.argmax(1)).mean() > 0.6


@pytest.mark.parametrize("container", [np.asarray, pd.DataFrame])
def test_the_teacher_is_fitted_on_labels_and_asked_about_all(container, make, digits):
    X = container(digits[0])
    clf = make(Recorder(), meta="gradient").fit(X[:N], digits[1][:N], X_unlabeled=X[N:])
    ((fitted,), (first, second)) = Recorder.fitted, Recorder.asked
    assert type(fitted) is type(first) is type(second) is type(X)
    assert len(fitted) == len(first) == N - 15  # a tenth is D_val
    np.testing.assert_array_equal(second, X[N:])
    assert clf.n_unlabeled_ == 250


def test_given_logits_are_those_of_the_teacher(make, digits):
    teacher = LogisticRegression(C=0.01).fit(*labeled(digits).values())
    asked = make(FrozenEstimator(teacher)).fit(**labeled(digits), X_unlabeled=digits[0][N:])
    given = make().fit(
        **labeled(digits),
        X_unlabeled=digits[0][N:],
        teacher_logits=teacher.predict_log_proba(digits[0][:N]),
        teacher_logits_unlabeled=teacher.predict_log_proba(digits[0][N:]),
    )
    same_path(asked, given, rtol=1e-4)


def test_a_skorch_net_is_asked_about_all_rows(make, digits):
    net = NeuralNetClassifier(MLPStudent(64, 10), criterion=torch.nn.CrossEntropyLoss, train_split=None)
    net = net.set_params(max_epochs=5, lr=0.1, verbose=0).fit(digits[0], digits[1].astype(np.int64))
    rows = labeled(digits) | {"X_unlabeled": digits[0][N:]}
    same_path(make(net).fit(**rows), make(net.module_).fit(**rows), rtol=1e-4)


def test_logits_are_aligned_by_the_index_of_x_unlabeled(make, digits, given):
    frame = pd.DataFrame(digits[0][N:], index=np.arange(250) + 1000)
    given = given | {"X": pd.DataFrame(given["X"])}
    logits = pd.DataFrame(given["teacher_logits_unlabeled"], index=frame.index)
    plain = make().fit(**given | {"X_unlabeled": frame})
    by_index = make().fit(**given | {"X_unlabeled": frame, "teacher_logits_unlabeled": logits[::-1]})
    same_path(plain, by_index, rtol=0)


@pytest.mark.parametrize("meta", ["linear", "naive"])
def test_datasets_are_trained_on_as_arrays(meta, make, given):
    X, y, rest = (torch.as_tensor(given[name]) for name in ("X", "y", "X_unlabeled"))
    arrays = make(meta=meta, e1=3, e2=2).fit(**given)
    named = {name: value for name, value in given.items() if name not in ("X", "y")}
    for items in (TensorDataset(rest), TensorDataset(rest, rest[:, 0])):  # x, and (x, anything)
        loaded = make(meta=meta, e1=3, e2=2).fit(TensorDataset(X, y), **named | {"X_unlabeled": items})
        same_path(arrays, loaded, rtol=0)
        assert loaded.n_unlabeled_ == 250


def test_a_network_is_asked_about_augmented_batches_of_both_kinds(make, digits):
    network = torch.nn.Linear(64, 10)
    sizes = []
    network.register_forward_hook(lambda module, args, out: sizes.append(len(args[0])))
    make(network, augment=lambda x: 0.9 * x, max_epochs=1).fit(**labeled(digits), X_unlabeled=digits[0][N:])
    assert sizes.count(32) >= 12


# --------------------------------------------------------------------------------------
# Batches, D_val


@pytest.mark.parametrize(("share", "n_unlabeled"), [("auto", 21), (0.25, 8)])
def test_batches_mix_both_kinds(share, n_unlabeled, make, given):
    watch = Watch()
    make(unlabeled_share=share, callbacks=[watch], meta="naive", max_epochs=1).fit(**given)
    labels = torch.stack([batch.targets.labels for batch in watch.train_])
    # Of the 400 rows 250 have no label, 20 of 32.
    assert set((labels < 0).sum(dim=1).tolist()) == {n_unlabeled if share != "auto" else 20}
    X = torch.cat([batch[0] for batch in watch.train_])
    assert len(X.unique(dim=0)) == 400


def test_automatic_batch_size_counts_all_rows(make, given):
    watch = Watch()
    make(batch_size="auto", callbacks=[watch], meta="naive", max_epochs=1).fit(**given)
    assert {len(batch[0]) for batch in watch.train_} == {64}  # an eighth of 400, not of 150


def test_d_val_has_labels_and_its_rows_are_used_on_request(make, given):
    def run(**params):
        watch = Watch()
        clf = make(callbacks=[watch], max_epochs=1, **params).fit(**given)
        rows = torch.cat([batch[0] for batch in watch.train_])
        labels = torch.cat([batch.targets.labels for batch in watch.train_])
        held_out = torch.cat([batch[0] for batch in watch.valid_])
        assert all((batch.targets.labels >= 0).all() for batch in watch.valid_)
        known = (rows[:, None] == held_out[None]).all(dim=2).any(dim=1)
        return clf, labels[known]

    clf, labels = run()
    assert clf.n_unlabeled_ == 250 and len(labels) == 0
    clf, labels = run(soft_validation=True)
    assert clf.n_unlabeled_ == 265 and len(labels) >= 15 and (labels == -1).all()


def test_given_d_val_is_used_without_its_labels(make, digits):
    X, y = digits
    params = {"meta": "gradient", "soft_validation": True, "max_epochs": 1}
    clf = make(Recorder(), **params).fit(X[:N], y[:N], X_val=X[N:300], y_val=y[N:300])
    assert clf.n_unlabeled_ == 150 and np.array_equal(Recorder.asked[1], X[N:300])


# --------------------------------------------------------------------------------------
# What is said about the training rows


@pytest.mark.parametrize("use_caching", [True, False])
@pytest.mark.parametrize("form", ["arrays", "datasets"])
def test_scores_on_the_training_rows_are_of_those_with_labels(use_caching, form, make, given):
    scores = [
        EpochScoring(how, name=f"train_{name}", on_train=True, use_caching=use_caching)
        for name, how in (("accuracy", "accuracy"), ("f1", "f1_macro"))
    ]
    if form == "datasets":
        X, y, rest = (torch.as_tensor(given.pop(name)) for name in ("X", "y", "X_unlabeled"))
        given = given | {"X": TensorDataset(X, y), "X_unlabeled": TensorDataset(rest)}
    clf = make(callbacks=scores, meta="fixed", lambda1=1.0, max_epochs=25).fit(**given)
    last = clf.history_[-1]
    assert last["train_accuracy"] > 0.9 and last["train_f1"] > 0.9


def test_students_are_judged_by_rows_with_labels(make, digits, recwarn):
    """Constant answers to the other rows, that are the most, do not count as the student's failure."""
    given = {"teacher_logits": 4 * np.eye(10)[digits[1][:N]], "X_unlabeled": digits[0][N:]}
    clf = make(meta="fixed", lambda1=1.0, max_epochs=30).fit(
        **labeled(digits), **given, teacher_logits_unlabeled=np.tile(9 * np.eye(10)[3], (250, 1))
    )
    assert not clf.net_.collapsed_ and clf.score(*labeled(digits).values()) > 0.9


# --------------------------------------------------------------------------------------
# Refusals and warnings


def with_nan(X):
    X = X.copy()
    X[3, 4] = np.nan
    return X


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (with_nan, "X_unlabeled.* contains NaN"),
        (lambda X: X[:, :-1], "X_unlabeled.* 63 features"),
        (lambda X: X[:0], "X_unlabeled has 0 rows"),
        (lambda X: [], "X_unlabeled has 0 rows"),
        (lambda X: X[:, 0], "X_unlabeled.* 1D array"),
        (lambda X: pd.DataFrame(X).add_prefix("x"), "X_unlabeled.* feature names"),
        (lambda X: X.reshape(-1, 8, 8), "X_unlabeled.*(8|features)"),
    ],
    ids=["nan", "columns", "no rows", "an empty list", "one dimension", "names", "images"],
)
def test_wrong_rows_are_refused_by_name(rows, match, make, digits):
    X = pd.DataFrame(digits[0][:N]).add_prefix("p") if "names" in match else digits[0][:N]
    with pytest.raises((ValueError, TypeError), match=match):
        make(Recorder()).fit(X, digits[1][:N], X_unlabeled=rows(digits[0][N:]))


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("further", [np.asarray, sparse.csr_matrix])
def test_sparse_rows_beside_dense_ones(form, further, make, digits):
    """X_val may be sparse where X is dense, and the other way round, as in predict."""
    (X, y), rows = digits, slice(N, N + 60)
    clf = make(LogisticRegression(C=0.01), standardize=False, soft_validation=True, max_epochs=1)
    expected = clone(clf).fit(X[:N], y[:N], X_val=X[rows], y_val=y[rows])
    clf.fit(form(X[:N]), y[:N], X_val=further(X[rows]), y_val=y[rows])
    assert clf.n_unlabeled_ == 60
    np.testing.assert_allclose(clf.predict_proba(X[:N]), expected.predict_proba(X[:N]), atol=1e-3)


@pytest.mark.parametrize(
    ("missing", "match"),
    [
        ("X_unlabeled", "given without X_unlabeled"),
        ("teacher_logits", "given without teacher_logits"),
        ("teacher_logits_unlabeled", "given without teacher_logits_unlabeled"),
    ],
)
@pytest.mark.parametrize("teacher", [None, Recorder()])
def test_logits_of_a_part_of_the_rows_are_refused(teacher, missing, match, make, given):
    with pytest.raises(ValueError, match=match):
        make(teacher).fit(**given | {missing: None})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda logits: logits[:-1],
            r"teacher_logits_unlabeled must have shape .* \(250, 10\), one row per row",
        ),
        (lambda logits: logits * np.nan, "teacher_logits_unlabeled: row 0 of X_unlabeled has NaN"),
    ],
)
def test_wrong_logits_are_refused_by_name(change, match, make, given):
    with pytest.raises(ValueError, match=match):
        make().fit(**given | {"teacher_logits_unlabeled": change(given["teacher_logits_unlabeled"])})


def test_wrong_answers_to_rows_without_labels_name_their_row(make, digits):
    class Odd(Recorder):
        def predict_proba(self, X):
            P = super().predict_proba(X)
            P[7 if len(X) == 250 else slice(0)] = np.nan
            return P

    with pytest.raises(ValueError, match="row 7 of X_unlabeled has NaN"):
        make(Odd()).fit(**labeled(digits), X_unlabeled=digits[0][N:])
    network = torch.nn.Linear(64, 10)
    network.register_forward_hook(lambda module, args, out: out / (args[0][:, :1] < 50))
    X = digits[0].copy()
    X[N + 9, 0] = 60
    with pytest.raises(ValueError, match=r"row 9 of X_unlabeled has (NaN|\+inf)"):
        make(network).fit(X[:N], digits[1][:N], X_unlabeled=X[N:])


def test_arrays_and_datasets_are_not_mixed(make, given):
    with pytest.raises(TypeError, match="X is no Dataset and X_unlabeled is a Dataset"):
        make().fit(**given | {"X_unlabeled": TensorDataset(torch.as_tensor(given["X_unlabeled"]))})


class Changed(LogitDistillation):
    """Changes the loss, and does not say whether rows may lack a label."""

    def loss(self, logits, teacher_logits, labels, *, lambda1, temperature):
        picked = logits.log_softmax(1)[torch.arange(len(labels)), labels]  # of -1 the last class
        return -lambda1 * picked + temperature * (logits - teacher_logits).pow(2).mean(1)


@pytest.mark.parametrize("loss", [Decoupled(), Changed()])
def test_losses_that_do_not_accept_rows_without_labels(loss, make, given):
    name = type(loss).__name__
    with pytest.raises(ValueError, match=f"loss={name} .*Set accepts_unlabeled = True in class {name}"):
        make(loss=loss).fit(**given)
    make(loss=loss, max_epochs=1).fit(given["X"], given["y"], teacher_logits=given["teacher_logits"])


@pytest.mark.parametrize(
    ("params", "names", "match"),
    [
        ({"meta": "none"}, ["X_unlabeled"], "X_unlabeled with meta='none'"),
        ({"meta": "naive", "soft_validation": True}, [], "soft_validation=True with meta='naive'"),
        ({"unlabeled_share": 0.5}, [], "unlabeled_share=0.5 without rows that have no labels"),
    ],
)
def test_what_is_without_effect_is_said(params, names, match, make, given):
    needed = ["X", "y", *names, *(["teacher_logits"] if params.get("meta") != "none" else [])]
    with pytest.warns(UserWarning, match=f"Without effect: {match}"):
        clf = make(**params, max_epochs=1).fit(**{name: given[name] for name in needed})
    assert clf.n_unlabeled_ == 0


def test_logits_of_a_given_d_val_are_missing(make, given):
    with pytest.raises(
        ValueError, match="soft_validation=True needs the teacher's logits for the rows of X_val"
    ):
        make(soft_validation=True).fit(**given, X_val=given["X"][:30], y_val=given["y"][:30])


# --------------------------------------------------------------------------------------
# Through scikit-learn, trials, files


def test_rows_without_labels_are_whole_in_every_fold(make, digits):
    seen = []

    class Seen(Recorder):
        def predict_proba(self, X):
            seen.append(len(X))
            return super().predict_proba(X)

    clf = make(Seen(), meta="naive", max_epochs=1)
    with config_context(enable_metadata_routing=True):
        clf.set_fit_request(X_unlabeled=True)
        given = labeled(digits)
        scores = cross_val_score(
            clf, given["X"], given["y"], cv=3, params={"X_unlabeled": digits[0][N:]}, error_score="raise"
        )
    assert len(scores) == 3 and seen == [100, 250] * 3


def test_rows_without_labels_that_are_split_by_chance_are_reported(make, digits):
    given, clf = labeled(digits), make(Recorder(), meta="naive", max_epochs=1)
    with config_context(enable_metadata_routing=True):
        clf.set_fit_request(X_unlabeled=True)
        for n, warned in ((N, True), (N - 1, False)):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                cross_val_score(clf, *given.values(), cv=2, params={"X_unlabeled": digits[0][-n:]})
            assert any("as many rows as X, 75" in str(one.message) for one in caught) == warned


def test_a_pipeline_transforms_rows_without_labels(make, digits):
    given = labeled(digits)
    clf = make(Recorder(), meta="naive", max_epochs=1)
    with config_context(enable_metadata_routing=True):
        clf.set_fit_request(X_unlabeled=True)
        pipeline = make_pipeline(StandardScaler(), clf, transform_input=["X_unlabeled"])
        search = GridSearchCV(pipeline, {}, cv=2, error_score="raise")
        search.fit(**given, X_unlabeled=digits[0][N:])
    expected = StandardScaler().fit(given["X"]).transform(digits[0][N:])
    np.testing.assert_allclose(Recorder.asked[1], expected, rtol=1e-5, atol=1e-6)


def test_trials_are_trained_one_by_one_on_all_rows(make, given):
    clf = make(meta="hyperopt", meta__n_trials=3, meta__n_startup_trials=3, max_epochs=1).fit(**given)
    assert np.isfinite(clf.trials_["val_loss"]).all() and clf.n_unlabeled_ == 250


def test_students_are_not_stacked(make, given):
    from sklearn_kd.estimators._classifier_plan import checked_parameters, plan_distillation
    from sklearn_kd.estimators._plan import ready_net
    from sklearn_kd.estimators._preflight import validate

    clf = make(meta="naive")
    plans = [plan_distillation(clf, checked_parameters(clf), validate(clf, **given)) for _ in range(2)]
    nets = [ready_net(plan, plan.stages[0]) for plan in plans]
    assert "rows without" in why_not_stackable(nets, [plan.data for plan in plans])


def test_fits_repeat_go_on_and_are_saved(make, given, tmp_path):
    clf, again = make(warm_start=True).fit(**given), make().fit(**given)
    same_path(clf, again, rtol=0)
    clf.save(tmp_path / "it.safetensors")
    loaded = DistilledClassifier.load(tmp_path / "it.safetensors")
    assert loaded.n_unlabeled_ == 250
    np.testing.assert_array_equal(loaded.predict_proba(given["X"]), clf.predict_proba(given["X"]))
    n_iter = clf.n_iter_
    assert clf.fit(**given).n_iter_ == 2 * n_iter


# --------------------------------------------------------------------------------------
# Rows that are made up


@pytest.mark.parametrize("container", [np.asarray, pd.DataFrame])
def test_the_teacher_is_asked_once_about_made_up_rows(container, make, digits):
    X = container(digits[0])
    given = {"X": X[:N], "y": digits[1][:N], "X_unlabeled": X[N:]}
    clf = make(Recorder(), synthesize=0.5).fit(**given)
    (_, _, made) = Recorder.asked
    assert type(made) is type(X) and made.shape == (round(0.5 * (135 + 250)), 64)
    assert clf.n_unlabeled_ == 250 + len(made)
    rows = np.asarray(made).copy()
    make(Recorder(), synthesize=Munge(0.5)).fit(**given)
    np.testing.assert_array_equal(Recorder.asked[2], rows)  # by the same random_state


def test_made_up_rows_are_not_of_d_val(make, digits, monkeypatch):
    """D_val's rows are far from the others, and so would be a mixture with one of them."""
    X = digits[0][:N].copy()
    clf = make(Recorder(), synthesize=3.0, standardize=False)
    made_of = []
    rows = Munge.rows
    monkeypatch.setattr(Munge, "rows", lambda munge, X, rng: made_of.append(X) or rows(munge, X, rng))
    clf.fit(X, digits[1][:N])
    np.testing.assert_array_equal(made_of[0], Recorder.fitted[0])
    assert len(made_of[0]) == 135


@pytest.mark.parametrize(
    ("params", "change", "match"),
    [
        ({"synthesize": 1.0}, {}, "synthesize makes up rows that teacher_logits have no answers to"),
        ({"synthesize": 0.0}, {}, "synthesize"),
        ({"synthesize": Munge(p=2)}, {}, "synthesize: p=2 must be a probability"),
        (
            {"synthesize": 1.0, "teacher": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))},
            {"X": lambda X: X.reshape(-1, 8, 8), "teacher_logits": lambda logits: None},
            r"synthesize makes up rows of tables, but X is of samples of shape \(8, 8\)",
        ),
    ],
    ids=["logits", "none", "probability", "images"],
)
def test_rows_cannot_be_made_up(params, change, match, make, digits, logits):
    given = labeled(digits) | {"teacher_logits": logits[:N]}
    given |= {name: how(given[name]) for name, how in change.items()}
    with pytest.raises(ValueError, match=match):
        make(**params).fit(**given)


def test_rows_are_not_made_up_of_datasets_or_without_teacher(make, digits, network):
    data = TensorDataset(*(torch.as_tensor(values) for values in labeled(digits).values()))
    with pytest.raises(ValueError, match="X is a Dataset"):
        make(network, synthesize=1.0).fit(data)
    with pytest.raises(ValueError, match="X is a dict of parts"):
        make(network, synthesize=1.0).fit({"input": labeled(digits)["X"]}, labeled(digits)["y"])
    with pytest.warns(UserWarning, match=r"synthesize=1.0 with meta='none'"):
        assert make(meta="none", synthesize=1.0, max_epochs=1).fit(**labeled(digits)).n_unlabeled_ == 0


@pytest.mark.parametrize("params", [{"synthesize": 1.0}, {"soft_validation": True}])
def test_a_comparison_asks_about_rows_with_labels_alone(params, make, digits):
    clf = make(Recorder(), **params)
    with pytest.raises(ValueError, match="method 'linear' has synthesize or soft_validation"):
        compare_methods(clf, *digits, methods=["none", "linear"], baseline="none", cv=2)


def test_parameters_of_munge_are_searched_and_saved(make, digits, tmp_path):
    clf = make(Recorder(), meta="naive", max_epochs=1, synthesize=Munge())
    search = GridSearchCV(clf, {"synthesize__p": [0.1, 0.9]}, cv=2, error_score="raise").fit(
        *labeled(digits).values()
    )
    assert search.best_params_["synthesize__p"] in (0.1, 0.9)
    clf = make(Recorder(), meta="naive", max_epochs=1, synthesize=0.5).fit(*labeled(digits).values())
    clf.save(tmp_path / "it.safetensors")
    assert DistilledClassifier.load(tmp_path / "it.safetensors").synthesize == 0.5


def test_rows_that_a_pipeline_did_not_scale_are_noticed(make, digits, recwarn):
    X, y = digits
    pipeline = make_pipeline(StandardScaler(), make(teacher=LogisticRegression(), meta="naive", max_epochs=1))
    with pytest.warns(UserWarning, match=messages()["unlabeled rows that were not scaled with X"]):
        pipeline.fit(X[:N], y[:N], distilledclassifier__X_unlabeled=100 + X[N:])
    recwarn.clear()
    scaled = StandardScaler().fit(X[:N]).transform(X[N:])
    pipeline.fit(X[:N], y[:N], distilledclassifier__X_unlabeled=scaled)
    assert not recwarn.list
    beside = {"distilledclassifier__X_val": 100 + X[N:], "distilledclassifier__y_val": y[N:]}
    with pytest.warns(UserWarning, match="X_val is on another scale than X"):
        pipeline.fit(X[:N], y[:N], **beside)
