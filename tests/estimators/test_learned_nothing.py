"""A fit that learned nothing says so, once, with the figure, the likely cause and the remedy."""

import re
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine, make_classification
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from skorch.callbacks import Callback, EarlyStopping, LRScheduler
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR
from torch.utils.data import TensorDataset

from helpers.networks import ConvNet, lucky_student
from helpers.settings import SINGLE_RUN
from sklearn_kd import DistilledClassifier, MLPStudent, compare_methods
from sklearn_kd.estimators._learned_nothing import (
    Predictions,
    learned_nothing,
    remedies_for,
    scales_of,
    unfinished_message,
)
from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.meta import Random

adam = {"optimizer": torch.optim.Adam, "lr": 1e-3}


def made(teacher=None, student=MLPStudent, **params):
    """A student that learns by plain SGD on columns as they come, which may fail."""
    sgd = {"optimizer": torch.optim.SGD, "lr": 0.1, "max_epochs": 40, "batch_size": 128}
    width = {"student__hidden": 32} if student is MLPStudent else {}
    return DistilledClassifier(
        teacher,
        student,
        **{"random_state": 0, "device": "cpu", "standardize": False} | SINGLE_RUN | sgd | width | params,
    )


def warnings_of(fit):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        fit()
    return [w for w in found if "sklearn_kd" in w.filename]


def messages_of(fit, category=ConvergenceWarning):
    return [str(w.message) for w in warnings_of(fit) if w.category is category]


@pytest.fixture(scope="module")
def tables():
    """Tables as they come, by name, and scaled, by name with " scaled"."""
    raw = {
        "breast cancer": load_breast_cancer(return_X_y=True),
        "wine": load_wine(return_X_y=True),
        "iris": load_iris(return_X_y=True),
        "digits": load_digits(return_X_y=True),
        "made": make_classification(1000, 20, n_informative=8, n_classes=3, random_state=0),
    }
    return raw | {f"{name} scaled": (StandardScaler().fit_transform(X), y) for name, (X, y) in raw.items()}


# --------------------------------------------------------------------------------------
# Scales, before training


@pytest.mark.parametrize("name, factor", [("breast cancer", "1.4e+05"), ("wine", "2.6e+03")])
def test_unscaled_tables_are_told_before_training_and_after_it(name, factor, tables):
    """By SGD, without ``standardize``, the student predicts one class; a warning tells why, one what came."""
    X, y = tables[name]
    clf = made(meta="none")
    found = warnings_of(lambda: clf.fit(X, y))
    assert [w.category for w in found] == [UserWarning, ConvergenceWarning]
    before, after = (str(w.message) for w in found)
    assert f"scales differ by a factor of {factor}" in before and "Set standardize=True" in before
    share = np.bincount(y).max() / len(y)
    assert clf.net_.collapsed_ and clf.score(X, y) <= share + 1e-9
    told = re.match(
        r"The student learned nothing: it predicts class (\d) for 100 % of D_train, (.*) %", after
    )
    assert float(told[2]) == pytest.approx(100 * np.mean(y == int(told[1])), abs=0.1)
    advice = "Set standardize=True, or put a StandardScaler before the classifier in a pipeline."
    assert after.endswith(f"{factor}. {advice}")
    standardized = made(meta="none", standardize=True)
    assert warnings_of(lambda: standardized.fit(X, y)) == [] and standardized.score(X, y) > 0.95
    assert messages_of(lambda: made(meta="none").fit(*tables[f"{name} scaled"])) == []


def test_columns_are_named(tables):
    frame = load_wine(as_frame=True)
    (message,) = messages_of(
        lambda: made(meta="none", max_epochs=1).fit(frame.data, frame.target), UserWarning
    )
    assert "'proline' has a range of 1.4e+03, 'nonflavanoid_phenols' one of 0.53" in message


@pytest.mark.parametrize(
    "change",
    {
        "constant columns": lambda X: np.hstack([X, np.full((len(X), 2), [0.0, 1e6])]),
        "columns that are constant but for rounding": lambda X: PCA(20).fit_transform(
            np.hstack([X[:, :10], X[:, :10]])
        ),
        "a pixel that is hardly ever set": lambda X: (
            MinMaxScaler().fit_transform(X) * (np.arange(20) != 3)
            + (np.arange(20) == 3) * (np.arange(len(X)) == 7)[:, None] / 255
        ),
        "one-hot columns, standardized": lambda X: StandardScaler().fit_transform(
            np.hstack([X, (np.arange(len(X)) == 5)[:, None]])
        ),
        "a large offset": lambda X: X + 1e4,
        "one column": lambda X: X[:, :1],
        "images": lambda X: np.concatenate([X, 1e6 * X], axis=1).reshape(-1, 2, 4, 5),
        "a Dataset": None,
    }.items(),
    ids=lambda item: item[0],
)
def test_scales_that_do_no_harm_are_not_told(change, tables):
    X, y = tables["made"]
    given = (TensorDataset(torch.tensor(X), torch.tensor(y)),) if change[1] is None else (change[1](X), y)
    assert messages_of(lambda: made(meta="none", max_epochs=1).fit(*given), UserWarning) == []


def test_a_student_that_begins_with_a_batch_normalisation_scales_by_itself(tables):
    X, y = tables["breast cancer"]
    student = nn.Sequential(nn.BatchNorm1d(30), nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 2))
    clf = made(meta="none", student=student)
    assert warnings_of(lambda: clf.fit(X, y)) == [] and clf.score(X, y) > 0.95
    late = nn.Sequential(nn.Linear(30, 16), nn.BatchNorm1d(16), nn.Linear(16, 2))
    assert messages_of(lambda: made(meta="none", student=late, max_epochs=1).fit(X, y), UserWarning)


def test_scales_of():
    X = torch.tensor([[0.0, 5.0, 1.0], [3.0, 5.0, 1.001]])
    scales = scales_of(DistillationData(X))
    assert scales.columns == (0, 2) and scales.ratio == pytest.approx(3000, rel=1e-3)
    for constant in (torch.ones(4, 3), torch.rand(4, 1), torch.rand(4, 3, 2)):
        assert scales_of(DistillationData(constant)) is None


# --------------------------------------------------------------------------------------
# Learned nothing, after training


def test_a_rate_that_is_too_large(tables):
    X, y = tables["digits"]
    clf = made(meta="none", max_epochs=5, lr=10.0)
    (message,) = messages_of(lambda: clf.fit(X / 16, y))
    # Either is told: that the steps were not finite, or that nothing was learned by those that were.
    assert clf.net_.collapsed_ != clf.net_.diverged_ or clf.net_.collapsed_
    assert "Lower lr" in message or "lower lr" in message


def dead(in_features, n_classes):
    """A student whose hidden units never answer: it says the same of all rows, whatever its rate."""
    student = MLPStudent(in_features, n_classes)
    with torch.no_grad():
        student.layers[1].bias.fill_(-1e4)
    return student


def test_steps_that_were_too_large_or_nothing_to_learn_from(tables):
    X, y = tables["iris scaled"]
    clf = made(meta="none", student=dead(4, 3))
    (message,) = messages_of(lambda: clf.fit(X, y))
    assert re.search(r"for 100 % of D_train, 33.3 % of which are of that class", message)
    assert "max_grad_norm=1" in message and "optimizer=torch.optim.Adam" in message
    assert clf.net_.collapsed_ and not clf.net_.diverged_ and not clf.net_.interrupted_


def test_too_small_a_rate_is_another_cause(tables):
    X, y = tables["breast cancer scaled"]
    (message,) = messages_of(lambda: made(meta="none", lr=1e-4).fit(X, y))
    assert "It had only begun to learn: give it more epochs (max_epochs), a larger lr, or Adam" in message


@pytest.mark.parametrize(
    "optimizer", [torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adam, torch.optim.NAdam]
)
def test_adam_is_no_remedy_for_a_fit_by_adam(optimizer, tables):
    X, y = tables["iris scaled"]
    by_adam = optimizer in (torch.optim.Adam, torch.optim.NAdam)
    (message,) = messages_of(lambda: made(meta="none", student=dead(4, 3), optimizer=optimizer).fit(X, y))
    assert "max_grad_norm=1" in message and ("Adam" in message) != by_adam
    (message,) = messages_of(lambda: made(meta="none", lr=1e-6, optimizer=optimizer).fit(X, y))
    assert ("Adam" in message) != by_adam
    for remedy in remedies_for(optimizer([torch.zeros(1, requires_grad=True)])):
        assert "lr" in remedy and ("Adam" in remedy) != by_adam


def test_a_teacher_that_knows_one_class(tables):
    X, y = tables["wine scaled"]
    clf = made(FrozenEstimator(DummyClassifier().fit(X, y)), meta="fixed", lambda1=0.0)
    (message,) = messages_of(lambda: clf.fit(X, y))
    assert "learned nothing" in message and "Its teacher predicts one class too" in message


def test_random_labels_that_cannot_be_learned_by_heart():
    rng = np.random.default_rng(0)
    X, y = np.sign(rng.normal(size=(2000, 2))), rng.integers(0, 3, 2000)
    (message,) = messages_of(lambda: made(meta="none", max_epochs=10).fit(X, y))
    assert re.match(r"The student learned nothing: it is right about 3\S+ % of D_train \(2000 rows", message)


def test_sharp_answers_of_a_teacher_under_the_square_of_T(tables):
    """Steps larger by T²: some students become constant, and clipping cures it."""
    X, y = tables["made scaled"]
    logits = 60.0 * np.eye(3)[y]
    sharp = {"meta": "fixed", "lambda1": 0.1, "temperature": 8.0, "lr": 0.5, "optimizer__momentum": 0.9}
    for seed in range(20):  # which of them do depends on the rounding of the processor
        collapsed = made(**sharp, random_state=seed)
        found = messages_of(lambda clf=collapsed: clf.fit(X, y, teacher_logits=logits))
        if collapsed.net_.collapsed_:
            break
    (message,) = found
    assert "max_grad_norm=1" in message
    clipped = made(**sharp, random_state=seed, max_grad_norm=1)
    assert messages_of(lambda: clipped.fit(X, y, teacher_logits=logits)) == []
    assert not clipped.net_.collapsed_ and clipped.score(X, y) > 0.75


def test_weights_of_rows_count(tables):
    """By weight one class has all but a tenth: naming it always is chance."""
    X, y = tables["iris scaled"]
    weight = np.where(y == 2, 18.0, 1.0)
    clf = made(meta="none", student=dead(4, 3))
    (message,) = messages_of(lambda: clf.fit(X, y, sample_weight=weight))
    assert "predicts class 2 for 100 % of D_train, 90 % of which are of that class" in message


def test_labels_are_named_as_given(tables):
    X, y = tables["iris scaled"]
    names = load_iris().target_names
    (message,) = messages_of(lambda: made(meta="none", student=dead(4, 3)).fit(X, names[y]))
    assert re.search(r"class '(setosa|versicolor|virginica)'", message)


def test_a_dataset_that_is_sorted_by_class(tables):
    X, y = tables["digits"]
    order = np.argsort(y, kind="stable")
    data = TensorDataset(torch.tensor(X[order] / 16).float(), torch.tensor(y[order]))
    good = made(meta="none", max_epochs=8)
    assert messages_of(lambda: good.fit(data)) == [] and not good.net_.collapsed_
    assert len(messages_of(lambda: made(meta="none", student=dead(64, 10), max_epochs=5).fit(data))) == 1


def test_the_student_of_distpro_and_the_one_that_searched(make_distpro, images):
    class Dead(ConvNet):
        def forward(self, x):
            return 0 * super().forward(x)

    X, y = images
    quick = {"student": Dead, "lr": 0.0, "meta": "linear", "e1": 2, "e2": 100, "batch_size": 40}
    clf = make_distpro(search_epochs=1, max_epochs=5, **quick)
    (message,) = messages_of(lambda: clf.fit(X, y))
    assert message.startswith("The student learned nothing") and clf.net_.collapsed_
    clf = make_distpro(search_epochs=7, max_epochs=1, **quick)
    (message,) = messages_of(lambda: clf.fit(X, y))
    assert message.startswith("The student that searched the process learned nothing")


# --------------------------------------------------------------------------------------
# Where nothing is to be said


@pytest.mark.parametrize("meta", ["none", "fixed", "linear"])
@pytest.mark.parametrize(
    "name", ["digits scaled", "wine scaled", "breast cancer scaled", "iris scaled", "made scaled"]
)
def test_healthy_fits_say_nothing(name, meta, tables):
    X, y = tables[name]
    clf = made(meta=meta, max_epochs=16 if name.startswith(("digits", "made")) else 40)
    logits = 5.0 * np.eye(len(np.unique(y)))[y]
    assert warnings_of(lambda: clf.fit(X, y, teacher_logits=None if meta == "none" else logits)) == []
    assert not clf.net_.collapsed_ and clf.score(X, y) > 0.7


@pytest.fixture(scope="module")
def imbalanced():
    """99 to 1, and what can be known of the one leaves it less likely than the other."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(5000, 5))
    return X, (rng.random(5000) < 0.03 / (1 + np.exp(-2 * X[:, 0]))).astype(int)


def test_a_student_may_predict_one_class_where_that_is_right(imbalanced):
    X, y = imbalanced
    clf = made(meta="none", max_epochs=10)
    assert warnings_of(lambda: clf.fit(X, y)) == []
    assert (clf.predict(X) == 0).mean() > 0.99 and not clf.net_.collapsed_
    p = clf.predict_proba(X)[:, 1]
    assert p[y == 1].mean() > 1.2 * p[y == 0].mean()
    # But not where it says the same of all rows.
    clf = made(meta="none", student=dead(5, 2), max_epochs=10)
    assert len(messages_of(lambda: clf.fit(X, y))) == 1 and clf.net_.collapsed_


def test_label_noise_and_weak_signals(tables):
    rng = np.random.default_rng(0)
    X, y = tables["made scaled"]
    noisy = np.where(rng.random(len(y)) < 0.5, rng.integers(0, 3, len(y)), y)
    assert warnings_of(lambda: made(meta="none", max_epochs=20).fit(X, noisy)) == []
    weak = (rng.random(len(y)) < 1 / (1 + np.exp(1.5 - 0.6 * X[:, 0]))).astype(int)  # 80 to 20
    assert warnings_of(lambda: made(meta="none", max_epochs=20).fit(X, weak)) == []


def test_a_student_that_follows_a_teacher_against_the_labels_has_learned(tables):
    """Labels that stand for nothing, as of rows that have none, beside answers that say something."""
    X, y = tables["wine scaled"]
    clf = made(meta="fixed", lambda1=0.0)
    logits = 5.0 * np.eye(3)[y]
    stand_in = np.random.default_rng(0).permutation(y)
    assert warnings_of(lambda: clf.fit(X, stand_in, teacher_logits=logits)) == []
    assert not clf.net_.collapsed_ and (clf.predict(X) == y).mean() > 0.95


def test_rehearsals_interrupted_fits_and_those_that_diverged_say_no_more(tables):
    X, y = tables["iris scaled"]

    class Break(Callback):
        def on_batch_begin(self, net, batch=None, training=False, **kwargs):
            if training and net.metaparameters.iteration > 20:
                batch[0].fill_(torch.nan)

    for params in ({"max_epochs": 4}, {"max_epochs": 19, "batch_size": 150}):
        clf = made(meta="none", student=dead(4, 3), **params)
        assert warnings_of(lambda clf=clf: clf.fit(X, y)) == [] and clf.net_.collapsed_
    clf = made(meta="none", student=dead(4, 3), callbacks=[Break()])
    (message,) = messages_of(lambda: clf.fit(X, y))
    assert message.startswith("Training diverged") and clf.net_.diverged_ and clf.net_.collapsed_


def test_a_loss_that_does_not_fall(tables):
    """The student is above chance by its initial weights alone; one that is good needs no fall."""
    X, y = tables["digits"]
    clf = made(student=lucky_student(X / 16, y), meta="none", lr=0.0, max_epochs=20)
    (message,) = messages_of(lambda: clf.fit(X / 16, y))
    assert re.match(r"The student hardly learned: in 20 epochs its loss went from (2\.\d+) to \1, ", message)
    assert f"right about {100 * clf.score(X / 16, y):.1f} %" in message and not clf.net_.collapsed_
    good = made(meta="none", max_epochs=60, warm_start=True).fit(X / 16, y)
    assert messages_of(lambda: good.set_params(lr=0.0).fit(X / 16, y)) == []


# --------------------------------------------------------------------------------------
# Ended while it learned fast


def test_a_training_that_is_ended_while_it_learns_fast(tables):
    X, y = tables["digits"]
    clf = made(meta="none", lr=1e-3, max_epochs=20)
    (message,) = messages_of(lambda: clf.fit(X / 16, y))
    assert re.match(
        r"The student was still learning fast when its 20 epochs were over: the last fifth", message
    )
    assert "max_epochs" in message and not clf.net_.collapsed_


def test_where_lambda1_and_T_move_the_loss_of_held_out_rows_is_looked_at(tables):
    X, y = tables["digits"]
    clf = made(meta="linear", lr=1e-3, max_epochs=20)
    (message,) = messages_of(lambda: clf.fit(X / 16, y, teacher_logits=4.0 * np.eye(10)[y]))
    first = clf.history_[0, "valid_loss"]
    assert f"from {first:.3g} to" in message


@pytest.mark.parametrize(
    "callback",
    [
        LRScheduler(CosineAnnealingLR, T_max=20),
        LRScheduler(OneCycleLR, max_lr=0.02, total_steps=20),
        EarlyStopping("train_loss", patience=1, threshold=0.5, sink=lambda _: None),
    ],
    ids=lambda callback: type(callback).__name__ + str(getattr(callback, "policy", "")),
)
def test_schedules_and_early_stops_are_ends(callback, tables):
    X, y = tables["digits"]
    clf = made(meta="none", lr=1e-3, max_epochs=20, callbacks=[callback])
    assert warnings_of(lambda: clf.fit(X / 16, y)) == []


@pytest.mark.parametrize(
    "told, losses",
    [
        (True, np.linspace(2, 1, 15)),
        (True, 2 - np.linspace(0, 1, 40) ** 2),
        (False, np.linspace(2, 1, 14)),
        (False, np.exp(-np.arange(20) / 5)),
        (False, np.exp(-np.arange(60) / 15) + 0.1),
        (False, 1 / np.sqrt(1 + np.arange(100))),
        (False, np.full(30, 0.7)),
        (False, np.linspace(1, 2, 30)),
        (False, [0.1, *np.linspace(2, 0.05, 29)]),  # the steps were too large at first
        (False, 1 + 0.3 * np.sin(np.arange(30))),
        (False, [2.0, *(0.5 - 0.001 * np.arange(29))]),
        (False, [np.nan] * 30),
    ],
)
def test_which_losses_still_fall_steeply(told, losses):
    assert (unfinished_message(list(losses), remedies_for()) is not None) == told


# --------------------------------------------------------------------------------------
# The judge itself


def answers(predicted, labels, n_classes=2, weight=None, teacher=None, sure=0.9):
    p = np.full((len(labels), n_classes), (1 - sure) / (n_classes - 1))
    p[np.arange(len(labels)), predicted] = sure
    weight = np.ones(len(labels)) if weight is None else weight
    tensors = map(torch.as_tensor, (p, labels, weight / np.sum(weight)))
    return Predictions(*tensors, None if teacher is None else torch.as_tensor(teacher))


def test_chance_is_the_share_of_the_most_frequent_class_and_a_standard_error():
    labels = np.repeat([0, 1], [60, 40])
    few = np.repeat([0, 1], [6, 4])
    assert not learned_nothing(answers(np.roll(few, 5), few))  # too few to say so
    assert learned_nothing(answers(0 * few, few))
    for right, learned in ((60, False), (64, False), (66, True)):
        predicted = np.where(np.arange(100) < right, labels, 1 - labels)
        assert learned_nothing(answers(predicted, labels)) != learned
    assert not learned_nothing(answers(np.zeros(5, int), np.zeros(5, int)))  # nothing else to learn


def test_a_permuted_student_has_not_learned_the_labels():
    labels = np.arange(90) % 3
    assert learned_nothing(answers((labels + 1) % 3, labels, 3))
    assert not learned_nothing(answers((labels + 1) % 3, labels, 3, teacher=(labels + 1) % 3))


# --------------------------------------------------------------------------------------
# In what a fit is a part of


def test_trials_are_silent_and_the_final_student_speaks(tables):
    X, y = tables["iris scaled"]
    clf = made(student=dead(4, 3), meta=Random(n_trials=3))
    assert len(messages_of(lambda: clf.fit(X, y, teacher_logits=4.0 * np.eye(3)[y]))) == 1


def test_searches_and_cross_validation_go_on(tables):
    X, y = tables["wine"]
    clf = made(meta="none", max_epochs=10)
    scores = []
    messages_of(lambda: scores.extend(cross_val_score(clf, X, y, cv=3)))
    assert len(scores) == 3 and max(scores) < 0.5
    scaled = make_pipeline(StandardScaler(), clf)
    search = GridSearchCV(scaled, {"distilledclassifier__lr": [0.1, 0.3]}, cv=2)
    assert warnings_of(lambda: search.fit(X, y)) == [] and search.best_score_ > 0.9


def test_a_comparison_shows_what_collapsed(tables):
    X, y = tables["iris scaled"]
    methods = {"none": {"meta": "none"}, "none, dead": {"meta": "none", "student": dead(4, 3)}}
    found, alive = [], made(student=lambda in_features, n_classes: MLPStudent(in_features, n_classes, 32))
    compare = lambda: found.append(  # noqa: E731
        compare_methods(alive, X, y, methods=methods, baseline="none", cv=2, n_jobs=1, random_state=0)
    )
    assert len(messages_of(compare)) == 2
    results = found[0].results_
    assert results["collapsed"].tolist() == (results["method"] == "none, dead").tolist()
    assert not results["diverged"].any()
    assert "Runs that learned nothing: 2 of none, dead." in " ".join(repr(found[0]).split())


def test_nothing_is_told_of_a_good_teacher_as_it_comes(tables):
    """A boosting teacher's sharp answers, at the defaults."""
    X, y = tables["made scaled"]
    clf = made(HistGradientBoostingClassifier(max_iter=30))
    assert warnings_of(lambda: clf.fit(X, y)) == [] and clf.score(X, y) > 0.8
