"""Teachers told by what they can do, without a class of scikit-learn's or torch's."""

import pickle
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import cross_val_score
from torch import nn
from torch.utils.data import TensorDataset

from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.teachers import FunctionTeacher
from sklearn_kd.teachers import _registry as registry
from sklearn_kd.teachers._registry import make_teacher

NAMES = np.array([f"digit {i}" for i in range(10)])
FOLLOWS = {"meta": "fixed", "lambda1": 0.0, "max_epochs": 15, "optimizer__momentum": 0.9}


@pytest.fixture(scope="module")
def fitted(digits):
    return LogisticRegression(max_iter=200).fit(digits[0], NAMES[digits[1]])


def logits_of(teacher, X, classes, stated=None):
    wrapped = make_teacher(teacher, stated)
    data = DistillationData(torch.zeros(len(X), 1) if X.dtype == object else torch.as_tensor(X))
    return torch.cat([*wrapped.iter_logits(X, data, classes, 64)]).numpy()


class Trained:
    """predict_proba and classes_, and nothing else."""

    def __init__(self, model, form=np.asarray):
        self.model, self.form, self.classes_ = model, form, model.classes_

    def predict_proba(self, X):
        return self.form(self.model.predict_proba(X))


def test_probabilities_and_classes_are_enough(make, digits, fitted):
    X, y = digits
    teacher = Trained(fitted)
    clf = make(teacher, keep_teacher=True, **FOLLOWS).fit(X, NAMES[y])
    expected = make(FrozenEstimator(fitted), **FOLLOWS).fit(X, NAMES[y])
    np.testing.assert_array_equal(clf.predict_proba(X), expected.predict_proba(X))
    assert clf.teacher_ is teacher and clone(clf).teacher is teacher
    assert registry.comes_trained(teacher) and registry.without_training(teacher) is None


def test_columns_are_aligned_by_classes_and_names(digits, fitted):
    X, _ = digits
    some = NAMES[[7, 2]]
    expected = fitted.predict_log_proba(X)[:, [7, 2]]
    for form in (np.asarray, torch.as_tensor, lambda p: pd.DataFrame(p, columns=NAMES).iloc[:, ::-1]):
        np.testing.assert_allclose(logits_of(Trained(fitted, form), X, some), expected, atol=1e-2)
    bare = SimpleNamespace(predict_proba=fitted.predict_proba)
    np.testing.assert_allclose(logits_of(bare, X, some, NAMES.tolist()), expected, atol=1e-2)
    with pytest.raises(ValueError, match="which column is which class is not known"):
        logits_of(bare, X, some)
    for names in ({"labels": NAMES.tolist()}, {"id2label": {str(i): n for i, n in enumerate(NAMES)}}):
        named = SimpleNamespace(predict_proba=lambda X: torch.as_tensor(fitted.predict_proba(X)), **names)
        np.testing.assert_allclose(logits_of(named, X, some), expected, atol=1e-2)


def test_placeholders_are_no_classes(digits, fitted):
    """LABEL_0 and so on say nothing: columns of the labels 0 … K−1 are in order."""
    X, y = digits
    teacher = SimpleNamespace(
        predict_proba=fitted.predict_proba,
        config=SimpleNamespace(id2label={i: f"LABEL_{i}" for i in range(10)}),
    )
    assert np.mean(logits_of(teacher, X, np.arange(10)).argmax(axis=1) == y) > 0.9


@pytest.mark.parametrize(
    ("form", "match"),
    [
        (lambda p: 100 * p, "teacher Trained: predict_proba must give probabilities.*percentages"),
        (lambda p: p[:-1], r"teacher Trained: predict_proba must return one row for each row of X"),
        (lambda p: p[:, 0], r"one label per row; it returned shape"),
    ],
)
def test_wrong_answers(form, match, make, digits, fitted):
    with pytest.raises(ValueError, match=match):
        make(Trained(fitted, form)).fit(digits[0], NAMES[digits[1]])


# --------------------------------------------------------------------------------------
# Trained here, or trained before


class Own:
    """A classifier without a base class, which can be cloned."""

    def __init__(self, C=1.0):
        self.C = C

    def get_params(self, deep=True):
        return {"C": self.C}

    def set_params(self, **params):
        self.__dict__.update(params)
        return self

    def fit(self, X, y):
        self.model = LogisticRegression(C=self.C, max_iter=200).fit(X, y)
        self.classes_ = self.model.classes_
        return self

    def predict_proba(self, X):
        return self.model.predict_proba(X)


class Uncloneable:
    """The same, which cannot be cloned."""

    def fit(self, X, y):
        self.model = LogisticRegression(max_iter=200).fit(X, y)
        self.classes_ = self.model.classes_
        return self

    def predict_proba(self, X):
        return self.model.predict_proba(X)


def test_with_fit_and_parameters_a_clone_is_trained(make, digits):
    X, y = digits
    teacher = Own()
    clf = make(teacher, keep_teacher=True, **FOLLOWS).set_params(teacher__C=0.5).fit(X, NAMES[y])
    assert clf.score(X, NAMES[y]) > 0.9
    assert not hasattr(teacher, "model") and clf.teacher_.model.C == 0.5
    assert not registry.comes_trained(teacher) and clone(clf).teacher is not teacher
    make(FrozenEstimator(clf.teacher_)).fit(X, NAMES[y])


def test_with_fit_and_without_parameters_it_must_be_frozen(make, digits):
    X, y = digits
    trained = Uncloneable().fit(X, y)
    for teacher in (trained, Uncloneable()):
        with pytest.raises(
            TypeError, match=r"Uncloneable has a fit but no get_params.*FrozenEstimator\(it\)"
        ):
            make(teacher).fit(X, y)
    assert make(FrozenEstimator(trained), **FOLLOWS).fit(X, y).score(X, y) > 0.9


class Automatic:
    """Has a fit of its own, and names its classes by the columns of its answers, as AutoGluon does."""

    def __init__(self, model, **names):
        self.model = model
        self.__dict__.update(names)

    def fit(self, train_data, label): ...

    def predict_proba(self, X):
        found = self.model.predict_proba(X)
        return (
            found
            if hasattr(self, "labels")
            else pd.DataFrame(found, columns=self.model.classes_).iloc[:, ::-1]
        )


def test_a_frozen_object_names_its_classes_in_its_own_way(make, digits, fitted):
    X, y = digits
    some = NAMES[[7, 2]]
    expected = fitted.predict_log_proba(X)[:, [7, 2]]
    for teacher in (Automatic(fitted), Automatic(fitted, labels=NAMES.tolist())):
        np.testing.assert_allclose(logits_of(FrozenEstimator(teacher), X, some), expected, atol=1e-2)
    frozen = FrozenEstimator(Automatic(fitted))
    clf = make(frozen, **FOLLOWS).fit(X, NAMES[y])
    assert clf.score(X, NAMES[y]) > 0.9 and clone(clf).teacher is frozen
    pickle.loads(pickle.dumps(clone(clf)))


def test_what_is_no_classifier_is_none(make, digits):
    with pytest.raises(TypeError, match="is none of"):
        make(GaussianMixture()).fit(*digits)


# --------------------------------------------------------------------------------------
# Functions


def by_name(X):
    return -(np.abs(np.asarray(X)[:, None] - by_name.means).sum(axis=2))


@pytest.fixture
def means(digits):
    by_name.means = np.stack([digits[0][digits[1] == i].mean(axis=0) for i in range(10)])
    return by_name


def test_a_function_equals_its_logits(make, digits, means):
    X, y = digits
    expected = make(None, **FOLLOWS).fit(X, y, teacher_logits=means(X)).predict_proba(X)
    asked = []

    def recorded(X):
        asked.append(type(X))
        return means(X).tolist()

    for teacher in (recorded, FunctionTeacher(recorded), FrozenEstimator(FunctionTeacher(recorded))):
        np.testing.assert_allclose(make(teacher, **FOLLOWS).fit(X, y).predict_proba(X), expected, rtol=1e-4)
    assert asked == [np.ndarray] * 3
    assert clone(make(recorded)).teacher is recorded
    pickle.loads(pickle.dumps(make(means)))
    assert np.isfinite(cross_val_score(make(means), X, y, cv=2, error_score="raise")).all()


def test_a_function_gives_probabilities_without_a_warning(make, digits, fitted):
    X, y = digits
    fitted_proba = fitted.predict_proba
    clf = make(FunctionTeacher(fitted_proba, classes=NAMES), **FOLLOWS).fit(X, NAMES[y])
    assert clf.score(X, NAMES[y]) > 0.9
    make(fitted_proba, teacher_classes=NAMES).fit(X, NAMES[y])
    with pytest.raises(ValueError, match="which column is which class is not known"):
        make(fitted_proba).fit(X, NAMES[y])

    def with_classes(X):
        return fitted_proba(X)

    with_classes.classes = NAMES
    make(with_classes).fit(X[y != 3], NAMES[y[y != 3]])


@pytest.mark.parametrize("stated", [None, NAMES])
def test_the_columns_of_a_function_that_returns_a_frame_are_named(stated, make, digits, fitted):
    X, y = digits
    order = np.arange(10)[::-1]

    def frame(X):
        return pd.DataFrame(fitted.decision_function(np.asarray(X))[:, order], columns=NAMES[order])

    settings = {"meta": "fixed", "lambda1": 0.0, "teacher_classes": stated}
    expected = make(None, **{**settings, "teacher_classes": None}).fit(
        X, NAMES[y], teacher_logits=fitted.decision_function(X)
    )
    for teacher in (frame, FunctionTeacher(frame, takes="tensor")):
        clf = make(teacher, **settings).fit(X, NAMES[y])
        np.testing.assert_allclose(clf.predict_proba(X), expected.predict_proba(X), atol=1e-4)
    with pytest.raises(ValueError, match="the function returned columns named"):
        make(FunctionTeacher(lambda X: frame(X).add_suffix("?"), classes=NAMES)).fit(X, NAMES[y])


def test_a_function_of_tensors_is_asked_about_batches(make, digits, trained):
    X, y = digits
    teacher = FunctionTeacher(lambda x: trained(x).softmax(dim=1), takes="tensor")
    make(teacher, augment=lambda x: x + 0.01).fit(X, y)
    make(teacher).fit(TensorDataset(torch.tensor(X), torch.tensor(y)), None)
    with pytest.raises(ValueError, match=r"FunctionTeacher\(function of tensors, takes='tensor'"):
        make(FunctionTeacher(trained), augment=lambda x: x).fit(X, y)


@pytest.mark.parametrize(
    ("teacher", "error", "match"),
    [
        (FunctionTeacher(3), TypeError, "function=3 must be a function of X"),
        (
            FunctionTeacher(len, takes="list"),
            ValueError,
            r"takes='list' must be one of \['array', 'tensor'\]",
        ),
        (
            len,
            ValueError,
            r"the function must return one row of logits for each row of X.*it returned shape \(\)",
        ),
        (
            lambda X: X[:, 0],
            ValueError,
            r"Turn one margin z for two classes into np.column_stack\(\[0 \* z, z",
        ),
        (FunctionTeacher(len, classes={0, 1}), TypeError, "FunctionTeacher: classes is a set, which has no"),
        (FunctionTeacher(len, classes=10), TypeError, "FunctionTeacher: classes=10 must be a list"),
        (FunctionTeacher(len, classes=[0, 0]), ValueError, r"classes has the class\(es\) 0 more than once"),
    ],
)
def test_wrong_functions(teacher, error, match, make, digits):
    with pytest.raises(error, match=match):
        make(teacher).fit(*digits)


# --------------------------------------------------------------------------------------
# transformers


def tiny_bert(n_labels=10, **names):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=32, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        num_labels=n_labels, **names,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.BertForSequenceClassification(config).eval()


class OfTokens(nn.Module):
    """Returns the ModelOutput of a network of tokens."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.config = network.config

    def forward(self, x):
        return self.network(input_ids=x[:, ::8].mul(16).long())


@pytest.mark.filterwarnings("ignore:The student learned nothing")
def test_a_network_of_transformers_teaches_by_its_logits(make, digits):
    X, y = digits
    network = OfTokens(tiny_bert())
    with torch.no_grad():
        logits = network(torch.tensor(X)).logits.numpy()
    clf = make(network, meta="fixed").fit(X, y)
    given = make(None, meta="fixed").fit(X, y, teacher_logits=logits)
    np.testing.assert_allclose(clf.predict_proba(X), given.predict_proba(X), atol=1e-4)
    named = OfTokens(tiny_bert(id2label=dict(enumerate(NAMES[::-1].tolist()))))
    np.testing.assert_allclose(logits_of(named, X, NAMES), logits[:, ::-1], atol=1e-4)


class Pipe:
    """Answers as a text-classification pipeline does: names and scores, the largest first."""

    task = "text-classification"
    model = SimpleNamespace(config=SimpleNamespace(id2label={0: "no", 1: "yes"}))

    def __call__(self, texts, top_k=1):
        assert top_k is None and type(texts) is list
        scores = [{"no": 0.9, "yes": 0.1} if "not" in text else {"yes": 0.8, "no": 0.2} for text in texts]
        return [
            [{"label": n, "score": p} for n, p in sorted(found.items(), key=lambda item: -item[1])]
            for found in scores
        ]


def test_a_pipeline_of_texts():
    texts = np.array(["this is not", "this is"], dtype=object)
    expected = np.log([[0.1, 0.9], [0.8, 0.2]])
    np.testing.assert_allclose(logits_of(Pipe(), texts, np.array(["yes", "no"])), expected, rtol=1e-6)
    np.testing.assert_allclose(logits_of(Pipe(), texts, np.arange(2)), expected[:, ::-1], rtol=1e-6)
    with pytest.raises(ValueError, match="teacher Pipe reads texts, but X does not have one text per row"):
        logits_of(Pipe(), np.zeros((2, 3), np.float32), np.arange(2))
    other = Pipe()
    other.task = "fill-mask"
    with pytest.raises(ValueError, match="pipeline for the task 'fill-mask'"):
        make_teacher(other)
