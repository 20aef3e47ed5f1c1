"""Fits of several labels: scikit-learn's conventions, and everything that a fit of classes can do."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import make_multilabel_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks, get_tags
from skorch.callbacks import EpochScoring
from torch.utils.data import TensorDataset

import sklearn_kd
from helpers.parameter_ids import in_words
from sklearn_kd import DistilledClassifier
from sklearn_kd.losses import DistillationLoss, Metaparameter, MultilabelDistillation

X, Y = make_multilabel_classification(200, 8, n_classes=3, random_state=0)
X = X.astype(np.float32)
Z = np.where(Y == 1, 2.0, -2.0) + np.random.default_rng(0).normal(size=Y.shape)  # a teacher's logits
FIXED = {"meta": "fixed", "lambda1": 0.3, "temperature": 2.0}


KINDS = {
    "sparse": (sparse.csr_matrix(Y), Y.dtype),
    "frame": (pd.DataFrame(Y, columns=list("abc")).astype(np.int8), np.int8),
    "lists": (Y.tolist(), np.int64),
    "tensor": (torch.tensor(Y), np.int64),
    "booleans": (Y == 1, bool),
    "floats": (Y.astype(float), float),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_form_of_y_changes_nothing_but_the_type_of_predictions(kind, make, once):
    y, dtype = KINDS[kind]
    plain = once("plain", lambda: make(**FIXED).fit(X, Y, teacher_logits=Z))
    clf = make(**FIXED).fit(X, y, teacher_logits=Z)
    assert (clf.predict_proba(X) == plain.predict_proba(X)).all()
    assert (clf.predict(X) == plain.predict(X)).all()
    assert clf.predict(X).dtype == clf.label_dtype_ == dtype


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_shapes_are_those_of_scikit_learns_own_network(k, make):
    y = Y[:, :k]
    clf = make(**FIXED, max_epochs=15).fit(X, y, teacher_logits=Z[:, :k])
    own = MLPClassifier(max_iter=1).fit(X, y)
    p = clf.predict_proba(X)
    assert p.shape == own.predict_proba(X).shape
    assert clf.predict(X).shape == own.predict(X).shape
    assert clf.predict(X).dtype == own.predict(X).dtype
    assert clf.classes_.tolist() == own.classes_.tolist()
    assert (clf.predict(X) == (p > 0.5)).all()
    np.testing.assert_allclose(clf.decision_function(X), np.log(p / (1 - p)), atol=1e-4)
    np.testing.assert_allclose(clf.predict_log_proba(X), np.log(p), atol=1e-5)
    assert clf.score(X, y) == accuracy_score(y, clf.predict(X)) == clf.score(X, sparse.csr_matrix(y))
    assert clf.score(X, y) > 0.5
    for wrong in (2 * y, np.c_[y, y], y[:, 0], np.where(y == 1, np.nan, 0.0)):
        with pytest.raises(ValueError, match="score's y"):
            clf.score(X, wrong)


CHECKS = [
    "check_classifiers_multilabel_representation_invariance",
    "check_classifiers_multilabel_output_format_predict",
    "check_classifiers_multilabel_output_format_predict_proba",
    "check_classifiers_multilabel_output_format_decision_function",
]


@pytest.mark.parametrize("check", CHECKS)
def test_scikit_learns_checks(check, make):
    getattr(estimator_checks, check)("DistilledClassifier", make(KNeighborsClassifier(), meta="shortlist"))


def test_tags_say_what_the_teacher_can_learn(make):
    teachers = {None: True, RandomForestClassifier(): True, LogisticRegression(): False,
                MultiOutputClassifier(LogisticRegression()): True, torch.nn.Linear(2, 2): True}  # fmt: skip
    for teacher, expected in teachers.items():
        assert get_tags(make(teacher)).classifier_tags.multi_label == expected


STRATEGIES = ["shortlist", "linear", "gradient", "random", "none", "implicit", "hyperopt", "twins", "halving"]
BY_STRATEGY = [(name, True) for name in STRATEGIES] + [("shortlist", False), ("gradient", False)]


@pytest.mark.parametrize(("strategy", "per_label"), BY_STRATEGY)
def test_every_strategy_learns(strategy, per_label, make):
    search_epochs = None if strategy in ("random", "none") else 2
    loss = MultilabelDistillation(per_label=per_label)
    clf = make(meta=strategy, loss=loss, search_epochs=search_epochs, max_epochs=6, retrain="fresh")
    clf = clf.fit(X, Y, teacher_logits=Z)
    for name in ("lambda1", "temperature"):
        assert np.shape(clf.metaparameters_[name]) == ((3,) if per_label else ())
        assert clf.metaparameter_path_[name].shape[1:] == ((3,) if per_label else ())
    assert clf.score(X, Y) > 0.4


def test_numbers_by_label_go_where_each_label_is_taught_well(make):
    """The teacher knows labels 0 and 2, and is wrong about label 1."""
    logits = Z * [3, -3, 3]
    loss = MultilabelDistillation(per_label="lambda1")
    clf = make(meta="gradient", meta__lr=3.0, loss=loss, max_epochs=10).fit(X, Y, teacher_logits=logits)
    lambda1 = clf.metaparameters_["lambda1"]
    assert lambda1[1] > lambda1[[0, 2]].max() + 0.1


def test_trials_in_one_run_are_those_alone(make, monkeypatch):
    def fit():
        return make(meta="shortlist", search_epochs=2).fit(X, Y, teacher_logits=Z)

    together = fit()
    monkeypatch.setattr("sklearn_kd.losses._objective.LogitObjective.batch_key", lambda self: None)
    alone = fit()
    np.testing.assert_allclose(together.trials_["val_loss"], alone.trials_["val_loss"], rtol=1e-5)


def test_saved_pickled_and_exported(make, tmp_path):
    loss = MultilabelDistillation(per_label="temperature")
    params = {"meta": "linear", "loss": loss, "max_epochs": 2}
    clf = make(**params).fit(X, Y.astype(np.int16), teacher_logits=Z)
    clf.save(tmp_path / "labels.safetensors")
    for again in (DistilledClassifier.load(tmp_path / "labels.safetensors"), pickle.loads(pickle.dumps(clf))):
        assert (again.predict_proba(X) == clf.predict_proba(X)).all()
        assert again.predict(X).dtype == np.int16
        assert (again.net_.predict(X) == clf.predict(X)).all()
        assert again.metaparameter_path_.dtype == clf.metaparameter_path_.dtype
    onnxruntime = pytest.importorskip("onnxruntime")
    pipe = make_pipeline(StandardScaler(), make(**params)).fit(X, Y, distilledclassifier__teacher_logits=Z)
    sklearn_kd.export_student(pipe, tmp_path / "pipe.onnx", X)
    session = onnxruntime.InferenceSession(tmp_path / "pipe.onnx")
    label, probabilities = session.run(["label", "probabilities"], {"X": X})
    assert (label == pipe.predict(X)).all()
    np.testing.assert_allclose(probabilities, pipe.predict_proba(X), atol=1e-5)


def test_grid_search_by_a_score_of_labels(make):
    pipe = make_pipeline(StandardScaler(), make(KNeighborsClassifier(), meta="fixed", max_epochs=1))
    grid = {"distilledclassifier__lr": [1e-6, 0.5]}
    search = GridSearchCV(pipe, grid, scoring=["f1_samples", "roc_auc"], refit="f1_samples", cv=2).fit(X, Y)
    assert search.best_params_ == {"distilledclassifier__lr": 0.5}
    assert clone(search.best_estimator_).fit(X, Y).score(X, Y) == search.best_estimator_.score(X, Y)


def test_weights_are_repetitions_in_one_batch(make):
    weight = np.random.default_rng(1).integers(0, 4, len(X))
    params = FIXED | {"iterator_train__batch_size": -1, "standardize": False, "lr": 0.3}
    rows = np.arange(len(X)).repeat(weight)
    weighted = make(**params).fit(X, Y, teacher_logits=Z, sample_weight=weight).predict_proba(X)
    repeated = make(**params).fit(X[rows], Y[rows], teacher_logits=Z[rows]).predict_proba(X)
    np.testing.assert_allclose(weighted, repeated, atol=1e-5)


def test_rows_without_labels_teach_what_the_teacher_says(make):
    """With lambda1=0 a row without labels is as good as one with."""
    params = {"meta": "fixed", "lambda1": 0.0, "max_epochs": 15, "lr": 0.5}
    given = {"X_unlabeled": X[60:], "teacher_logits_unlabeled": Z[60:]}
    clf = make(**params).fit(X[:60], Y[:60], teacher_logits=Z[:60], **given)
    alone = make(**params).fit(X[:60], Y[:60], teacher_logits=Z[:60])
    assert clf.n_unlabeled_ == 140
    loss = [np.mean((m.predict_proba(X[60:]) - 1 / (1 + np.exp(-Z[60:]))) ** 2) for m in (clf, alone)]
    assert loss[0] < loss[1]


@pytest.mark.parametrize("params", [{"soft_validation": True}, {"synthesize": 0.5}], ids=in_words)
def test_further_rows_without_labels(params, make):
    clf = make(RandomForestClassifier(5, random_state=0), max_epochs=1, **params).fit(X, Y)
    assert clf.n_unlabeled_ > 0


def test_a_dataset_is_as_good_as_arrays(make):
    rows = TensorDataset(torch.tensor(X), torch.tensor(Y))
    params = FIXED | {"standardize": False}
    clf = make(**params).fit(rows, teacher_logits=Z)
    np.testing.assert_allclose(
        clf.predict_proba(X), make(**params).fit(X, Y, teacher_logits=Z).predict_proba(X), atol=1e-6
    )
    assert clf.score(rows) == clf.score(X, Y)


def test_callbacks_score_labels(make):
    heard = ["accuracy", "f1_micro"]
    scores = [EpochScoring(name, name=f"own_{name}", lower_is_better=False) for name in heard]
    clf = make(**FIXED, callbacks=scores, standardize=False)
    clf.fit(X, Y, teacher_logits=Z, X_val=X, y_val=Y)
    assert clf.validation_scores_[-1] == pytest.approx(clf.score(X, Y))
    assert clf.history_[-1, "own_f1_micro"] > 0.3


def test_a_constant_label_is_learned(make):
    y = np.c_[Y, np.zeros(len(Y), int), np.ones(len(Y), int)]
    clf = make(RandomForestClassifier(5, random_state=0), max_epochs=5).fit(X, y)
    assert not clf.predict(X)[:, 3].any()
    assert clf.predict(X)[:, 4].all()


def test_one_estimator_for_both_kinds(make):
    clf = make(KNeighborsClassifier(), meta="fixed", max_epochs=1).fit(X, Y)
    assert clf.fit(X, Y[:, 0]).predict(X).shape == (len(X),)
    assert not hasattr(clf, "label_dtype_")
    clf.set_params(warm_start=True)
    with pytest.raises(
        ValueError, match=r"continues with a student for classes \[0 1\] .* got labels \[0 1\] and"
    ):
        clf.fit(X, Y[:, :2])


def test_warm_start_goes_on(make):
    clf = make(**FIXED, warm_start=True).fit(X, Y, teacher_logits=Z)
    before = clf.n_iter_
    assert clf.fit(X, Y, teacher_logits=Z).n_iter_ == 2 * before


class Focal(DistillationLoss):
    """A loss of a user's own, of labels alone."""

    needs_teacher = False

    def metaparameters(self, n_classes):
        return {"gamma": Metaparameter(1.0, bounds=(0.0, 4.0))}

    def loss(self, logits, teacher_logits, labels, *, gamma):
        right = torch.where(labels == 1, logits, -logits)
        return (-torch.nn.functional.logsigmoid(right) * right.neg().sigmoid() ** gamma).mean(dim=1)


def test_a_loss_of_ones_own_is_given_the_matrix(make):
    clf = make(loss=Focal(), max_epochs=20).fit(X, Y)
    assert clf.score(X, Y) > 0.4
    assert clf.metaparameters_["gamma"] != 1.0


def test_a_student_that_does_not_learn_is_warned_of(make):
    with pytest.warns(UserWarning, match="hardly learned: in 25 epochs its loss went from"):
        make(**FIXED, max_epochs=25, lr=1e-9).fit(X, Y, teacher_logits=Z)
