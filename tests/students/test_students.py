"""Students: what they may return, what makes them, and how they are rehearsed before any training."""

import math
import pickle
from collections import namedtuple
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from torch import nn

from helpers.networks import ConvNet
from helpers.parameter_ids import in_words
from sklearn_kd import DistilledClassifier, DistProClassifier, MLPStudent, compare_methods
from sklearn_kd.estimators._preflight import initial_student
from sklearn_kd.students._factory import build_student
from sklearn_kd.tasks._stratified_split import split_rows

ModelOutput = namedtuple("ModelOutput", "loss logits")


class Heads(nn.Module):
    """Two linear heads, of which ``answer`` makes what is returned."""

    def __init__(self, in_features, n_classes, answer):
        super().__init__()
        self.a, self.b = nn.Linear(in_features, n_classes), nn.Linear(in_features, n_classes)
        self.answer = answer

    def forward(self, x):
        return self.answer(self.a(x), self.b(x), self.training)


# answer(first head, second head, training) -> what is returned; and what is said.
REFUSED = {
    "auxiliary output": (
        lambda a, b, training: (a, b) if training else a,
        r"in training mode it gave a tuple of \{0: shape \(2, 10\), 1: shape \(2, 10\)\}\. Auxiliary outputs "
        r"are not used in training\. Switch them off, for example with student__aux_logits=False",
    ),
    "auxiliary output in a named tuple": (
        lambda a, b, training: ModelOutput(a, b) if training else a,
        "in training mode it gave a ModelOutput .* Auxiliary outputs",
    ),
    "tuple": (lambda a, b, training: (b[:, :3], a), r"only the logits: return self\.student\(x\)\[1\]\."),
    "list": (lambda a, b, training: [a], r"gave a list .* return self\.student\(x\)\[0\]\."),
    "dict": (lambda a, b, training: {"out": a}, r"gave a dict .* return self\.student\(x\)\['out'\]\."),
    "model output": (lambda a, b, training: ModelOutput(None, a), r"return self\.student\(x\)\.logits\."),
    "nothing": (lambda a, b, training: None, "gave a NoneType"),
    "wide in training": (
        lambda a, b, training: torch.cat([a, b], 1) if training else a,
        r"in training mode it gave \(2, 20\)\. Return the same in both modes",
    ),
    "classes": (
        lambda a, b, training: a.argmax(1, keepdim=True).expand(-1, 10),
        "gave numbers of torch.int64",
    ),
    "three dimensions": (lambda a, b, training: a[:, :, None], r"gave \(2, 10, 1\)\. Flatten it"),
    "maps": (lambda a, b, training: a[:, :, None].expand(-1, -1, 4), r"\(2, 10, 4\)\. Pool its other"),
    "no gradient": (lambda a, b, training: a.detach(), "returns outputs without a gradient in training mode"),
    "raises in training": (
        lambda a, b, training: a.logits if training else a,
        r"cannot take samples of shape \(64,\) in training mode: AttributeError",
    ),
    "softmax": (
        lambda a, b, training: a.softmax(1),
        "probabilities in evaluation mode.*Remove the softmax",
    ),
    "softmax to predict": (
        lambda a, b, training: a if training else a.softmax(1),
        "returns probabilities in evaluation mode",
    ),
    "softmax to train": (
        lambda a, b, training: a.softmax(1) if training else a,
        "returns probabilities in training mode",
    ),
}


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("kind", REFUSED)
def test_outputs_that_are_no_logits(kind, make, digits):
    answer, match = REFUSED[kind]
    with pytest.raises(ValueError, match=match):
        make(LogisticRegression(), Heads, student__answer=answer).fit(*digits)


@pytest.mark.usefixtures("no_training")
def test_distpro_and_compare_methods_refuse_them_too(make, digits, images, conv_teacher):
    class Aux(ConvNet):
        def forward(self, x):
            return (super().forward(x), x) if self.training else super().forward(x)

    with pytest.raises(ValueError, match="Auxiliary outputs are not used in training"):
        DistProClassifier(conv_teacher, Aux, device="cpu").fit(*images)
    soft = nn.Sequential(nn.Linear(64, 10), nn.Softmax(dim=1))
    with pytest.raises(ValueError, match="Remove the softmax"):
        compare_methods(make(LogisticRegression(), soft), *digits, methods=("naive",), cv=2)


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("student", "match"),
    [
        (nn.Sequential(nn.Linear(64, 10)).requires_grad_(False), "only frozen weights"),
        (nn.AdaptiveAvgPool1d(10), "has no weights"),
        (nn.Linear(64, 10).requires_grad_(False), r"requires_grad_\(True\)"),
    ],
)
def test_students_that_cannot_learn(student, match, make, digits):
    with pytest.raises(ValueError, match=match):
        make(LogisticRegression(), student).fit(*digits)


@pytest.mark.parametrize(
    "last",
    [nn.Identity(), nn.LogSoftmax(dim=1), nn.Sigmoid(), nn.ReLU()],
    ids=lambda last: type(last).__name__,
)
def test_no_false_alarm(last, make, digits):
    clf = make(None, nn.Sequential(nn.Linear(64, 10), last), meta="none").fit(*digits)
    assert clf.predict_proba(digits[0]).shape == (400, 10)


def test_two_rows_that_look_like_probabilities_by_accident(make, digits):
    """Rows that are not negative and sum to 1 are logits where others do not."""
    X, y = np.zeros((60, 2), dtype=np.float32), np.arange(60) % 2
    X[:] = np.linspace(0, 1, 60, dtype=np.float32)[:, None] * (-1) ** y[:, None]
    X[:2] = [1, 0]  # the two rows that a student is tried on, which it returns as they are
    student = nn.Linear(2, 2)
    with torch.no_grad():
        student.weight.copy_(torch.eye(2))
        student.bias.zero_()
    clf = make(None, student, meta="none", max_epochs=1).fit(X, y)
    assert clf.score(X, y) > 0.9


def test_rehearsal_leaves_no_trace(make, digits):
    """Statistics of batch normalisation begin as they were given, and random states stay."""
    student = nn.Sequential(nn.Linear(64, 10), nn.BatchNorm1d(10), nn.Dropout(0.5))
    state = torch.get_rng_state()
    built = initial_student(student, {}, torch.as_tensor(digits[0]), 10, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert built.training and int(built[1].num_batches_tracked) == 0


# --------------------------------------------------------------------------------------
# Factories


def narrow(num_classes, d_in, width=8):
    return nn.Sequential(nn.Linear(d_in, width), nn.ReLU(), nn.Linear(width, num_classes))


def hidden_names(**sizes):
    return narrow(sizes.get("num_classes", 1000), 64)


@pytest.mark.parametrize(
    ("factory", "shape", "built"),
    [
        (narrow, (64,), [(8, 64), (10, 8)]),
        (partial(narrow, width=3), (64,), [(3, 64), (10, 3)]),
        (partial(MLPStudent, hidden=5), (64,), [(5, 64), (10, 5)]),
        (lambda d_in, d_out: nn.Linear(d_in, d_out), (4, 4), [(10, 16)]),
        (lambda input_dim, num_labels: nn.Linear(input_dim, num_labels), (64,), [(10, 64)]),
        (nn.Linear, (64,), [(10, 64)]),
        (lambda in_chans=3, num_classes=1000: ConvStem(in_chans, num_classes), (1, 8, 8), [(10, 1)]),
        # What is bound, and rarer names beside usual ones, are left as they are.
        (partial(narrow, num_classes=7), (64,), [(8, 64), (7, 8)]),
        (lambda n_classes, in_features, d_in=5, d_out=6: narrow(n_classes, in_features, d_in + d_out), (64,),
         [(11, 64), (10, 11)]),
        (lambda in_channels, n_classes, out_features=6: narrow(n_classes, in_channels, out_features), (3,),
         [(6, 3), (10, 6)]),
    ],
)  # fmt: skip
def test_sizes_are_filled_in(factory, shape, built):
    student = build_student(factory, {}, shape, 10)
    assert [tuple(w.shape) for w in student.parameters() if w.ndim == 2] == built


class ConvStem(nn.Module):
    def __init__(self, in_chans, num_classes):
        super().__init__()
        self.linear = nn.Linear(in_chans, num_classes)

    def forward(self, x):
        return self.linear(x.mean(dim=(2, 3)))


def ten():
    return 10


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("factory", "params", "error", "match"),
    [
        (hidden_names, {}, ValueError, r"hidden_names has \*\*kwargs.*student__num_classes=10"),
        (hidden_names, {"student__width": 3}, ValueError, "student__num_classes=10"),
        (narrow, {"student__wdth": 3}, TypeError, "wdth"),
        (ten, {}, TypeError, r"student ten must return a torch\.nn\.Module; it returned 10"),
        (lambda: nn.Linear, {}, TypeError, "Return an instance of it"),
        (lambda size: nn.Linear(size, 10), {}, TypeError, "give the rest as student__NAME"),
        (LogisticRegression, {}, TypeError, "or a function that returns one"),
        (partial(nn.Linear, 64, 10, bad=1), {}, TypeError, "bad"),
    ],
)
def test_factories_that_make_no_student(factory, params, error, match, make, digits):
    with pytest.raises(error, match=match):
        make(LogisticRegression(), factory, **params).fit(*digits)


def test_names_behind_kwargs_can_be_given(make, digits):
    clf = make(None, hidden_names, student__num_classes=10, meta="none").fit(*digits)
    assert clf.predict_proba(digits[0]).shape == (400, 10)


def test_factory_is_an_ordinary_parameter(make, digits, tmp_path):
    """Cloned, searched over, pickled, saved and loaded as a class is."""
    X, y = digits
    clf = make(None, narrow, meta="none", student__width=16, max_epochs=20, lr=0.5)
    same = make(None, MLPStudent, meta="none", student__hidden=16, max_epochs=20, lr=0.5).fit(X, y)
    fitted = clone(clf).fit(X, y)
    assert abs(fitted.score(X, y) - same.score(X, y)) < 0.05 and fitted.score(X, y) > 0.85
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))

    search = GridSearchCV(clf, {"student__width": [1, 16]}, cv=2).fit(X, y)
    assert search.best_params_ == {"student__width": 16}

    path = tmp_path / "factory.safetensors"
    fitted.save(path)
    loaded = DistilledClassifier.load(path, student=narrow)
    np.testing.assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))
    with pytest.raises(ValueError, match="give load the class, the function or an instance"):
        DistilledClassifier.load(path)
    with pytest.raises(ValueError, match="cannot be loaded"):
        DistilledClassifier.load(path, student=partial(narrow, depth=3))


def test_factory_in_a_comparison_and_in_distpro(make, digits, images, conv_teacher, make_distpro):
    once = {"methods": ("none",), "baseline": "none", "cv": 2, "random_state": 0}
    found = compare_methods(make(student=partial(narrow, width=4)), *digits, **once)
    expected = compare_methods(make(student=narrow, student__width=4), *digits, **once)
    np.testing.assert_array_equal(found.results_["log_loss"], expected.results_["log_loss"])

    of_class = make_distpro(max_epochs=1).fit(*images)
    of_function = make_distpro(student=lambda n_classes: ConvNet(n_classes), max_epochs=1).fit(*images)
    np.testing.assert_array_equal(of_function.predict_proba(images[0]), of_class.predict_proba(images[0]))


def test_factory_that_keeps_its_module(make, digits):
    """What a function returns each time is not trained itself."""
    kept = nn.Linear(64, 10)
    before = kept.weight.clone()
    clf = make(None, lambda: kept, meta="none").fit(*digits)
    assert torch.equal(kept.weight, before) and not torch.equal(clf.student_.student.weight, before)


def test_checkpoints_know_factories_apart(make):
    from sklearn_kd.checkpointing._fingerprint import fingerprint, relevant_parameters

    digests = [
        fingerprint(parameters=relevant_parameters(make(None, student)))
        for student in (narrow, partial(narrow, width=3), partial(narrow, width=4), hidden_names, MLPStudent)
    ]
    assert len(set(digests)) == 5
    assert digests[1] == fingerprint(parameters=relevant_parameters(make(None, partial(narrow, width=3))))


def test_diagram_shows_a_function_by_its_name(make):
    html = make(None, partial(narrow, width=3), student__depth=2)._repr_html_()
    assert "student: narrow" in html and "narrow(width=3, depth=2)" in html


@pytest.mark.parametrize("hidden", [np.int64(16), [16], (16,), np.array([16])], ids=in_words)
def test_width_as_numpy_has_it(hidden):
    assert MLPStudent(4, 3, hidden=hidden)(torch.zeros(2, 4)).shape == (2, 3)


@pytest.mark.parametrize(
    ("counts", "fraction", "n_val"),
    [
        ([5, 5], 0.1, 2),
        ([2, 2], 0.1, 2),
        ([2, 1], 0.1, 1),  # a row of each class is left to train on
        ([3, 1], 0.1, 2),
        ([1, 1, 1, 1, 2, 2], 0.05, 2),
        ([50, 50], 0.01, 2),
        ([50, 50], 0.1, 10),
    ],
)
def test_two_rows_are_held_out_where_there_are_two(counts, fraction, n_val):
    codes = np.repeat(np.arange(len(counts)), counts)
    train, valid = split_rows(codes, fraction, np.random.RandomState(0))
    assert len(valid) == n_val and sorted([*train, *valid]) == list(range(len(codes)))
    assert set(codes[train]) == set(codes)


@pytest.mark.parametrize("fraction", [0.1, 0.37, 0.5])
def test_many_rows_are_split_by_class_too(fraction, monkeypatch):
    """Each class has its share of D_val, but for one row, and some rows are in it by chance."""
    monkeypatch.setattr("sklearn_kd.tasks._stratified_split._MANY", 100)
    codes = np.random.default_rng(0).permutation(np.repeat(np.arange(5), [600, 290, 90, 17, 3]))
    train, valid = split_rows(codes, fraction, np.random.RandomState(0))
    assert sorted([*train, *valid]) == list(range(1000)) and len(valid) == math.ceil(1000 * fraction)
    shares = fraction * np.bincount(codes)
    assert np.abs(np.bincount(codes[valid], minlength=5) - shares).max() < 1
    assert set(codes[train]) == set(codes)
    _, other = split_rows(codes, fraction, np.random.RandomState(1))
    assert len(np.intersect1d(valid, other)) < 0.7 * len(valid)
