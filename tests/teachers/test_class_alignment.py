"""Which column of a network's answers is which class: stated, known, or exactly 0 … K−1."""

import pickle
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from skorch import NeuralNet, NeuralNetClassifier
from torch import nn
from torch.utils.data import TensorDataset

from helpers.networks import ConvNet
from helpers.parameter_ids import in_words
from sklearn_kd import DistilledClassifier, DistProClassifier, compare_methods
from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.tasks._targets import Targets
from sklearn_kd.teachers._class_alignment import warn_if_out_of_order
from sklearn_kd.teachers._features import FeatureTeacher

UNKNOWN = "which column is which class is not known.* by teacher_classes"
NAMES = np.array([f"digit {i}" for i in range(9, -1, -1)])  # of digit i; sorted, they stand the other way


@pytest.fixture
def taught(make):
    """A student that learns from the teacher alone."""

    def taught(teacher, **params):
        settings = {"meta": "fixed", "lambda1": 0.0, "max_epochs": 6, "optimizer__momentum": 0.9}
        return make(teacher, **(settings | params))

    return taught


def as_dataset(X, y):
    return TensorDataset(torch.as_tensor(X), torch.as_tensor(y))


def skorch_net(kind, module, X, y):
    net = kind(
        module, criterion=nn.CrossEntropyLoss, max_epochs=1, lr=1e-9, verbose=0, train_split=None
    )  # initialised from an instance: its weights stay
    return net.fit(X, y.astype(np.int64))


# Labels, whether each row is kept, and the classes of the ten columns.
LABELS = {
    "1..10": (np.arange(1, 11), np.arange(10) >= 0),
    "1..10 without the last": (np.arange(1, 11), np.arange(10) < 9),
    "0..9 without the last": (np.arange(10), np.arange(10) < 9),
    "0..9 without one": (np.arange(10), np.arange(10) != 3),
    "strings": (NAMES, np.arange(10) >= 0),
    "strings without one": (NAMES, np.arange(10) != 3),
    "0, 10, .., 90": (10 * np.arange(10), np.arange(10) >= 0),
}


@pytest.mark.parametrize("what", LABELS)
def test_stated_or_refused(what, taught, trained, digits):
    labels, kept = LABELS[what]
    rows = kept[digits[1]]
    X, y = digits[0][rows], labels[digits[1]][rows]
    with pytest.raises(ValueError, match=UNKNOWN):
        taught(trained).fit(X, y)
    assert taught(trained, teacher_classes=labels).fit(X, y).score(X, y) > 0.9


@pytest.mark.parametrize("meta", ["fixed", "linear"])
@pytest.mark.parametrize("how", ["dataset", "augment", "skorch", "classes_", "parallel"])
def test_every_way_to_ask(how, meta, taught, trained, digits):
    X, y = digits[0], digits[1] + 1
    kept, labels = y < 10, np.arange(1, 11)
    params = {"augment": lambda x: x} if how == "augment" else {}
    data = (as_dataset(X[kept], y[kept]), None) if how == "dataset" else (X[kept], y[kept])
    teacher = trained
    if how == "skorch":
        teacher = skorch_net(NeuralNet, trained, X, digits[1])
    if how == "parallel":
        teacher = nn.DataParallel(trained)
    params |= {"meta": meta, "max_epochs": 10}
    if how != "classes_":
        with pytest.raises(ValueError, match=UNKNOWN):
            taught(teacher, **params).fit(*data)
        params["teacher_classes"] = labels.tolist()
    else:
        teacher = nn.Sequential(trained)
        teacher.classes_ = labels
    assert taught(teacher, **params).fit(*data).score(X[kept], y[kept]) > 0.9


def test_labels_0_to_9_need_no_word(taught, trained, digits):
    assert taught(trained).fit(*digits).score(*digits) > 0.9
    assert cross_val_score(taught(trained), *digits, cv=3, error_score="raise").min() > 0.75
    search = GridSearchCV(taught(trained), {"lr": [0.1, 0.05]}, cv=3, error_score="raise")
    assert search.fit(*digits).best_score_ > 0.75


def test_a_fold_without_a_class(taught, trained, digits):
    """Sorted by label, so that each fold lacks some."""
    order = np.argsort(digits[1], kind="stable")
    X, y = digits[0][order], digits[1][order]
    with pytest.raises(ValueError, match=r"teacher_classes=np.arange\(10\) where column j is label j"):
        cross_val_score(taught(trained), X, y, cv=KFold(8), error_score="raise")
    stated = taught(trained, teacher_classes=np.arange(10))
    for train, _ in list(KFold(8).split(X))[::7]:  # without the lowest class, and the highest
        assert len(np.unique(y[train])) == 9
        assert clone(stated).fit(X[train], y[train]).score(X[train], y[train]) > 0.9


@pytest.mark.parametrize("learned", [1.0, "learned"])
def test_logits_of_a_map_teacher(learned, make_distpro, images):
    X, y = images
    teacher = ConvNet()
    kept = y < 9
    with pytest.raises(ValueError, match=UNKNOWN):
        make_distpro(teacher, logit_weight=learned).fit(X[kept], y[kept] + 1)
    clf = make_distpro(teacher, logit_weight=learned, teacher_classes=np.arange(1, 11))
    assert clf.fit(X[kept], y[kept] + 1).classes_.tolist() == list(range(1, 10))
    asked, x = FeatureTeacher(teacher, torch.device("cpu")), torch.tensor(X[:4])
    asked.align_logits(x, np.array([2, 5]), list(range(1, 11)))
    with torch.no_grad():
        torch.testing.assert_close(asked(x, ["stage1"])[1], teacher.eval()(x)[:, [1, 4]])


def test_stated_classes_of_a_map_teacher_need_logits(make_distpro, images):
    """Without logits it need not know the classes, which are not guessed either."""
    clf = make_distpro(ConvNet(3), max_epochs=1).fit(images[0], images[1] + 1)
    assert clf.classes_.tolist() == sorted({*(images[1] + 1).tolist()})


def test_skorch_columns(taught, trained, digits):
    """skorch's classes_ are what it saw in y: codes, and maybe not all that it has columns for."""
    X, codes = digits
    net = skorch_net(NeuralNetClassifier, trained, X, codes)
    assert taught(net, teacher_classes=NAMES).fit(X, NAMES[codes]).score(X, NAMES[codes]) > 0.9
    with pytest.raises(ValueError, match=r"does not know the class.*by teacher_classes"):
        taught(net).fit(X, NAMES[codes])
    kept = codes != 3
    assert taught(net).fit(X[kept], codes[kept]).score(X[kept], codes[kept]) > 0.9
    of_fewer = skorch_net(NeuralNetClassifier, trained, X[kept], codes[kept])
    assert len(of_fewer.classes_) == 9
    with pytest.raises(ValueError, match=UNKNOWN):  # not its nine classes for the first nine columns
        taught(of_fewer).fit(X[kept], codes[kept])
    assert taught(of_fewer, teacher_classes=range(10)).fit(X[kept], codes[kept]).score(X, codes) > 0.8


def test_skorch_told_its_codes(taught, trained, digits):
    """``classes=range(10)`` of a net are numbers of its columns: the stated labels are those of these."""
    X, codes = digits
    net = skorch_net(partial(NeuralNetClassifier, classes=list(range(10))), trained, X, codes)
    assert taught(net, teacher_classes=NAMES).fit(X, NAMES[codes]).score(X, NAMES[codes]) > 0.9
    assert taught(net).fit(X, codes).score(X, codes) > 0.9


def test_own_net_as_teacher(taught, trained, digits):
    """``net_`` of a fitted estimator, trained on codes, knows the labels of its columns."""
    X, codes = digits
    first = taught(trained, teacher_classes=NAMES).fit(X, NAMES[codes])
    assert taught(first.net_).fit(X, NAMES[codes]).score(X, NAMES[codes]) > 0.9
    assert (
        taught(first.net_, teacher_classes=first.classes_).fit(X, NAMES[codes]).score(X, NAMES[codes]) > 0.9
    )
    with pytest.raises(ValueError, match="contradicts"):
        taught(first.net_, teacher_classes=first.classes_[::-1]).fit(X, NAMES[codes])


@pytest.mark.parametrize(
    ("stated", "error", "match"),
    [
        (np.arange(9), ValueError, r"teacher_classes lacks the class\(es\) \[9\] of y"),
        (np.arange(11), ValueError, "teacher_classes has 11 classes.* 10 columns in the answers of teacher Linear"),
        ([*range(9), 0, 9], ValueError, r"has the class\(es\) 0 more than once"),
        ([str(i) for i in range(10)], ValueError, "lacks.*of type str where y has int"),
        (set(range(10)), TypeError, "has no order"),
        (np.eye(10), ValueError, "one list of labels"),
        ("0123456789", ValueError, "'teacher_classes' parameter"),
    ],
    ids=in_words,
)  # fmt: skip
def test_wrong_statements(stated, error, match, taught, trained, digits, make_distpro, images):
    with pytest.raises(error, match=match):
        taught(trained, teacher_classes=stated).fit(*digits)
    if "teacher Linear" not in match:
        with pytest.raises(error, match=match):
            make_distpro(logit_weight=1.0, teacher_classes=stated).fit(images[0], images[1])


def test_contradictions(taught, trained, digits):
    teacher = nn.Sequential(trained)
    teacher.classes_ = np.arange(10)
    with pytest.raises(ValueError, match="contradicts teacher Sequential, whose classes_ are"):
        taught(teacher, teacher_classes=np.arange(10)[::-1]).fit(*digits)
    taught(teacher, teacher_classes=np.arange(10), max_epochs=1).fit(*digits)
    teacher.classes_ = np.arange(12)
    with pytest.raises(
        ValueError, match=r"classes_ of teacher Sequential has 12 classes.*there are 10 columns"
    ):
        taught(teacher).fit(*digits)
    forest = LogisticRegression(max_iter=200)
    with pytest.raises(ValueError, match=r"will know its own classes.*Leave teacher_classes=None"):
        taught(forest, teacher_classes=np.arange(10)).fit(*digits)
    frozen = FrozenEstimator(forest.fit(*digits))
    taught(frozen, teacher_classes=np.arange(10), max_epochs=1).fit(*digits)
    with pytest.raises(ValueError, match="contradicts teacher LogisticRegression"):
        taught(frozen, teacher_classes=np.arange(11)).fit(*digits)


def test_one_output_for_two_classes(taught, digits):
    X, y = digits[0], digits[1] % 2
    with pytest.raises(ValueError, match=r"1 column.*torch.cat\(\[torch.zeros_like\(z\), z\], dim=1\)"):
        taught(nn.Linear(64, 1)).fit(X, y)


def test_estimators_of_this_library_as_teachers(taught, make_distpro, make, digits, images):
    X, y = digits[0], digits[1] + 1
    inner = make(meta="none", max_epochs=30, optimizer__momentum=0.9).fit(X, y)
    kept = y != 4
    clf = taught(FrozenEstimator(inner)).fit(X[kept], y[kept])
    assert clf.score(X[kept], y[kept]) > 0.9
    conv = DistilledClassifier(None, ConvNet, meta="none", max_epochs=1, device="cpu").fit(*images)
    with pytest.raises(ValueError, match="contradicts"):
        make_distpro(conv, logit_weight=1.0, teacher_classes=np.arange(10)[::-1]).fit(*images)
    make_distpro(conv, logit_weight=1.0, teacher_classes=np.arange(10), max_epochs=1).fit(*images)


@pytest.mark.parametrize("form", [list, np.asarray, tuple, pd.Index, torch.tensor], ids=lambda f: f.__name__)
def test_statement_survives(form, make, trained, digits, tmp_path):
    pytest.importorskip("safetensors", reason="needs safetensors")
    X, y = digits
    clf = make(trained, teacher_classes=form(range(10)))
    for copy in (clone(clf), pickle.loads(pickle.dumps(clf)), clf.set_params(lr=0.05)):
        assert list(copy.get_params()["teacher_classes"]) == list(range(10))
        copy.fit(X[y < 9], y[y < 9])
    if form in (list, tuple, np.asarray):
        clf.save(tmp_path / "it.safetensors")  # without a warning
        again = DistilledClassifier.load(tmp_path / "it.safetensors", teacher=trained)
        assert type(again.teacher_classes) is type(clf.teacher_classes)
        assert list(again.teacher_classes) == list(range(10))
        again.fit(X[y < 9], y[y < 9])


def test_statement_of_strings_is_saved(make_distpro, images, tmp_path):
    pytest.importorskip("safetensors", reason="needs safetensors")
    X, y = images
    clf = make_distpro(ConvNet(), logit_weight=1.0, teacher_classes=NAMES, max_epochs=1).fit(X, NAMES[y])
    clf.save(tmp_path / "it.safetensors")
    again = DistProClassifier.load(tmp_path / "it.safetensors", student=ConvNet)
    assert again.teacher_classes.tolist() == NAMES.tolist() and again.teacher_classes.dtype.kind == "U"


def test_compare_methods_states_them_once(make, trained, digits):
    X, y = digits[0], NAMES[digits[1]]
    kept = y != NAMES[3]
    clf = make(trained, max_epochs=15, optimizer__momentum=0.9)
    with pytest.raises(ValueError, match=UNKNOWN):
        compare_methods(clf, X[kept], y[kept], methods=("naive", "none"), cv=2, n_jobs=1)
    clf.set_params(teacher_classes=NAMES, lambda1=0.0)
    methods = {"taught": {"meta": "fixed"}, "none": {"meta": "none"}}
    found = compare_methods(clf, X[kept], y[kept], methods=methods, baseline="none", cv=2, n_jobs=1)
    assert found.results_["accuracy"].min() > 0.75
    with pytest.raises(ValueError, match="which all methods share"):
        compare_methods(clf, X, y, methods={"a": {"teacher_classes": None}}, baseline="a")


# --------------------------------------------------------------------------------------
# Whether the labels bear it out


def agreement(said, y, weight=None):
    """The warning about a teacher that says ``said`` of rows of class y, or None."""
    n_classes = int(max(y)) + 1
    logits = torch.nn.functional.one_hot(torch.as_tensor(said), n_classes).float()
    targets = Targets(torch.as_tensor(y), logits, None if weight is None else torch.as_tensor(weight))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_if_out_of_order(
            DistillationData(torch.zeros(len(y), 1), targets), np.arange(n_classes), "teacher T"
        )
    return str(caught[0].message) if caught else None


def test_columns_in_another_order_are_told(taught, trained, digits):
    shifted = nn.Sequential(trained)
    shifted.classes_ = np.roll(np.arange(10), 1)
    with pytest.warns(UserWarning, match=r"shifted by 9.*seem to be \[1, 2, 3, 4, 5, 6, 7, 8, 9, 0\]"):
        taught(shifted, max_epochs=1).fit(*digits)


def test_a_wrong_order_is_told_and_how_to_mend_it():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 400)
    order = np.array([3, 1, 0, 2, 5, 4, 7, 6, 9, 8])
    said = agreement(order[y], y)  # column order[k] speaks of class k
    assert f"seem to be {np.argsort(order).tolist()}" in said and "in another order" in said
    assert "shifted by 1" in agreement((y + 1) % 10, y)
    noisy = np.where(rng.random(400) < 0.4, rng.integers(0, 10, 400), y)
    assert agreement(order[y], noisy) is not None
    assert agreement(1 - y % 2, y % 2) is not None


def test_no_false_alarms():
    rng = np.random.default_rng(0)
    for n_classes, n in ((2, 8), (2, 100), (3, 12), (3, 100), (10, 15), (10, 400), (50, 200)):
        for _ in range(30):
            y = np.r_[np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)]
            assert agreement(rng.integers(0, n_classes, n), y) is None  # it knows nothing
            noisy = np.where(rng.random(n) < 0.4, rng.integers(0, n_classes, n), y)
            assert n < 100 or agreement(noisy, y) is None
    y = rng.integers(0, 2, 300)
    assert agreement(np.where(rng.random(300) < 0.45, 1 - y, y), y) is None  # flipped labels
    assert agreement(np.zeros(300, dtype=int), (rng.random(300) < 0.95).astype(int)) is None  # one class


def test_weights_count_in_the_agreement():
    y = np.arange(400) % 10
    said = np.where(np.arange(400) < 40, y, (y + 1) % 10)
    assert agreement(said, y) is not None
    weight = np.where(np.arange(400) < 40, 1.0, 1e-6)
    assert agreement(said, y, weight) is None
