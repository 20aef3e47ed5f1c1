"""Reports on regressors and on students of several labels; peers beside them."""

import json
import pickle

import matplotlib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_friedman1, make_multilabel_classification
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import f1_score, log_loss, root_mean_squared_error
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from torch import nn
from torch.utils.data import TensorDataset

from helpers.pages import messages
from helpers.settings import single_run
from sklearn_kd import DistilledRegressor, MLPStudent, distillation_report

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def numbers():
    """X_train, y_train, X_test, y_test."""
    X, y = make_friedman1(300, noise=0.5, random_state=0)
    y = 1000 + 50 * y
    return X[:200], y[:200], X[200:], y[200:]


@pytest.fixture(scope="module")
def tags():
    X, y = make_multilabel_classification(300, 10, n_classes=4, random_state=0)
    return X[:200], y[:200], X[200:], y[200:]


def regressor(teacher=None, **params):
    quick = {"student__hidden": 16, "max_epochs": 3, "batch_size": 32, "device": "cpu", "random_state": 0}
    return DistilledRegressor(
        teacher, MLPStudent, **(single_run(params) | {"meta": "fixed"} | quick | params)
    )


@pytest.fixture(scope="module")
def fitted(numbers):
    return regressor(meta="none", max_epochs=1).fit(*numbers[:2])


def quick(*args, **kwargs):
    return distillation_report(*args, timing=False, **kwargs)


def of(report, role):
    return report.to_dict()["models"][role]


def test_numbers_are_those_of_the_regressors(numbers, once):
    X, y, X_test, y_test = numbers
    reg = regressor(GradientBoostingRegressor(n_estimators=20), keep_teacher=True).fit(X, y)
    report = distillation_report(reg, X_test, y_test, student_alone="train", X_train=X, y_train=y)
    alone = clone(reg).set_params(meta="none", teacher=None).fit(X, y)
    for role, model in {"teacher": reg.teacher_, "student": reg, "student alone": alone}.items():
        found, said = of(report, role), model.predict(X_test)
        assert found["r2"] == pytest.approx(model.score(X_test, y_test))
        assert found["rmse"] == pytest.approx(root_mean_squared_error(y_test, said))
        near = root_mean_squared_error(reg.teacher_.predict(X_test), said)
        assert found["rmse_to_teacher"] == (None if role == "teacher" else pytest.approx(near, rel=1e-5))
        assert found["us_single_p99"] >= found["us_single"] > 0
    assert report.to_dict()["n_targets"] == 1 and "R² " in report.verdict
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()
    again = pickle.loads(pickle.dumps(report))
    assert str(again) == str(report) and "RMSE to teacher" in str(again)
    left, right = again.plot().axes
    assert left.get_ylabel().startswith("R²") and right.get_xlabel() == "absolute error of a row"
    assert "teacher (median" in right.get_legend_handles_labels()[1][0]


def test_loss_of_the_student_alone_is_that_of_the_regressor(numbers):
    """Of a quantile everything is about the quantile."""
    X, y, X_test, y_test = numbers
    reg = regressor(LinearRegression(), loss="quantile", loss__quantile=0.9, loss__teacher_bound=0.3)
    report = quick(reg.fit(X, y), X_test, y_test, student_alone="train", X_train=X, y_train=y)
    alone = regressor(loss="quantile", loss__quantile=0.9, meta="none").fit(X, y)
    expected = quick(reg, X_test, y_test, student_alone=alone)
    assert of(report, "student alone")["d2"] == of(expected, "student alone")["d2"]
    assert "pinball loss" in str(report) and "(D² " in report.verdict
    with pytest.raises(
        ValueError, match="MLPRegressor estimates the mean of y, but the estimator a quantile"
    ):
        quick(reg, X_test, y_test, peers="train", X_train=X, y_train=y)


TEACHERS = {
    "a network": lambda X, y: _network(X, y),
    "several": lambda X, y: [LinearRegression().fit(X, y), FrozenEstimator(LinearRegression().fit(X, 2 * y))],
    "a function": lambda X, y: LinearRegression().fit(X, y).predict,
}


def _network(X, y):
    net, fitted = nn.Linear(10, 1), LinearRegression().fit(X, y)
    with torch.no_grad():
        net.weight.copy_(torch.as_tensor(fitted.coef_)[None])
        net.bias.fill_(float(fitted.intercept_))
    return net


@pytest.mark.parametrize("what", TEACHERS)
def test_teachers_of_numbers(what, numbers):
    X, y, X_test, y_test = numbers
    teacher = TEACHERS[what](X, y)
    said = LinearRegression().fit(X, y).predict(X_test) * (1.5 if what == "several" else 1)
    reg = regressor(meta="none").fit(X, y)
    report = quick(reg, X_test, y_test, teacher=teacher)
    given = quick(reg, X_test, y_test, teacher_predictions=said)
    for found in (report, given):
        assert of(found, "teacher")["rmse"] == pytest.approx(root_mean_squared_error(y_test, said), rel=1e-4)
    assert of(given, "teacher")["n_bytes"] is None


def test_several_targets_in_a_pipeline_from_a_dataset(numbers):
    X, y, X_test, y_test = numbers
    Y, Y_test = np.c_[y, -2 * y], np.c_[y_test, -2 * y_test]
    pipe = make_pipeline(MinMaxScaler(), regressor(RandomForestRegressor(5), keep_teacher=True))
    pipe.fit(X, Y)
    train = {"X_train": X, "y_train": Y}
    report = quick(pipe, X_test, Y_test, student_alone="train", peers="train", **train)
    said = pipe[-1].teacher_.predict(pipe[0].transform(X_test))
    assert of(report, "teacher")["rmse"] == pytest.approx(root_mean_squared_error(Y_test, said))
    assert of(report, "peer")["model"] == of(report, "taught peer")["model"] == "MLPRegressor"
    assert report.to_dict()["n_targets"] == 2 and "2 targets" in str(report)
    assert "standard deviations" in report.plot().axes[1].get_xlabel()
    reg = regressor(meta="none").fit(X, Y)
    dataset = TensorDataset(*(torch.as_tensor(part, dtype=torch.float32) for part in (X_test, Y_test)))
    assert of(quick(reg, dataset), "student")["r2"] == pytest.approx(reg.score(X_test, Y_test), rel=1e-4)


def test_peers_of_a_regressor_have_its_size_and_epochs(numbers):
    X, y, X_test, y_test = numbers
    teacher = RandomForestRegressor(5, random_state=0).fit(X, y)
    reg = regressor(FrozenEstimator(teacher), student__hidden=(8, 4)).fit(X, y)
    report = quick(reg, X_test, y_test, peers="train", X_train=X, y_train=y)
    settings = {"hidden_layer_sizes": (8, 4), "batch_size": 32, "max_iter": 3, "alpha": 0.0}
    net = MLPRegressor(learning_rate_init=0.003, n_iter_no_change=4, random_state=0, **settings)
    scale, units = StandardScaler().fit(X), StandardScaler()
    for role, targets in {"peer": y, "taught peer": teacher.predict(X)}.items():
        with pytest.warns(UserWarning, match="Maximum iterations"):
            fitted = clone(net).fit(scale.transform(X), units.fit_transform(targets[:, None])[:, 0])
        said = units.inverse_transform(fitted.predict(scale.transform(X_test))[:, None])[:, 0]
        assert of(report, role)["rmse"] == pytest.approx(root_mean_squared_error(y_test, said))
    assert "peer, MLPRegressor" in report.verdict and "8, 4 hidden units" in " ".join(str(report).split())


def test_several_labels(make, tags):
    X, y, X_test, y_test = tags
    clf = make(RandomForestClassifier(10, random_state=0), keep_teacher=True).fit(X, y)
    train = {"X_train": X, "y_train": y}
    report = quick(clf, X_test, y_test, student_alone="train", peers="train", **train)
    roles = ["teacher", "student", "student alone", "peer", "taught peer"]
    assert list(report.to_dict()["models"]) == roles
    alone = clone(clf).set_params(meta="none", teacher=None).fit(X, y)
    for role, model in {"teacher": clf.teacher_, "student": clf, "student alone": alone}.items():
        found, said = of(report, role), model.predict(X_test)
        assert found["subset_accuracy"] == model.score(X_test, y_test)
        assert found["macro_f1"] == f1_score(y_test, said, average="macro", zero_division=0)
        same = (said == clf.teacher_.predict(X_test)).all(axis=1).mean()
        assert found["agreement"] == (None if role == "teacher" else same)
    P = np.column_stack([p[:, 1] for p in clf.teacher_.predict_proba(X_test)])
    expected = np.mean([log_loss(y_test[:, j], P[:, j]) for j in range(4)])
    assert of(report, "teacher")["log_loss"] == pytest.approx(expected, rel=0.2)
    assert of(report, "peer")["model"] == "MLPClassifier" and report.to_dict()["n_labels"] == 4
    assert report.plot().axes[1].get_xlabel() == "probability of a label"
    logits = np.log(np.clip(P, 0.01, 0.99) / np.clip(1 - P, 0.01, 0.99))
    given = quick(clf, X_test, y_test, teacher_logits=logits)
    assert of(given, "teacher")["subset_accuracy"] == of(report, "teacher")["subset_accuracy"]


def test_peers_of_one_label_and_given_ones(make, digits):
    X, y = digits
    names = np.array(list("zyxwvutsrq"))[y]
    clf = make(GaussianNB(), keep_teacher=True).fit(X[:300], names[:300])
    train = {"X_train": X[:300], "y_train": names[:300]}
    report = quick(clf, X[300:], names[300:], peers="train", **train)
    assert list(report.to_dict()["models"]) == ["teacher", "student", "peer", "taught peer"]
    bayes = GaussianNB().fit(X[:300], names[:300])
    mine = quick(clf, X[300:], names[300:], peers={"naive Bayes": bayes})
    assert of(mine, "naive Bayes")["accuracy"] == bayes.score(X[300:], names[300:])
    mine.plot()


def test_a_note_says_why_both_peers_have_the_same_scores(make, digits):
    X, y = digits
    train = {"X_train": X[:300], "y_train": y[:300]}
    by_heart = make(KNeighborsClassifier(1), keep_teacher=True, random_state=0).fit(X[:300], y[:300])
    report = quick(by_heart, X[300:], y[300:], peers="train", **train)
    assert of(report, "peer")["accuracy"] == of(report, "taught peer")["accuracy"]
    assert "both peers learned the same" in str(report).replace("\n", " ")
    other = make(GaussianNB(), keep_teacher=True, random_state=0).fit(X[:300], y[:300])
    assert "learned the same" not in str(quick(other, X[300:], y[300:], peers="train", **train))


def test_a_teacher_that_never_names_some_of_the_classes(make, digits):
    X, y = digits
    clf = make(meta="none").fit(X[:300], y[:300])
    weights = torch.zeros(10, 64)
    weights[:5] = torch.as_tensor(X[:5])
    teacher = nn.Linear(64, 10)
    with torch.no_grad():
        teacher.weight.copy_(weights)
        teacher.bias.copy_(torch.where(torch.arange(10) < 5, 0.0, -100.0))
    train = {"X_train": X[:300], "y_train": y[:300]}
    report = quick(clf, X[300:], y[300:], teacher=teacher, peers="train", **train)
    assert of(report, "taught peer")["accuracy"] < 0.6


# What is given, as f(X, y, X_test, y_test) -> arguments that are changed.
REFUSED = {
    "a student alone of another y": lambda X, y, *_: {
        "student_alone": regressor(meta="none", max_epochs=1).fit(X, np.c_[y, y])
    },
    "a regressor's student alone that is a classifier": lambda X, y, *_: {
        "student_alone": LogisticRegression(max_iter=10).fit(X, y > y.mean())
    },
    "a teacher's answers of the other kind": lambda X, y, X_test, y_test: {"teacher_logits": y_test},
    "a y_test of one number": lambda X, y, X_test, y_test: {"y_test": np.ones(len(y_test))},
    "a teacher that is not fitted": lambda *_: {"teacher": LinearRegression()},
    "peers of no known kind": lambda *_: {"peers": 3},
    "peers without training data": lambda *_: {"peers": "train"},
    "peers of rows that are no table": lambda X, y, *_: {
        "peers": "train",
        "X_train": TensorDataset(torch.as_tensor(X), torch.as_tensor(y)),
    },
    "weights for peers": lambda X, y, *_: {"peers": "train", "X_train": X, "y_train": y, "fit_params": {}},
    "a peer with the name of another row": lambda X, y, *_: {"peers": {"teacher": LinearRegression()}},
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("what", REFUSED)
def test_refused(what, numbers, fitted):
    given = {"X_test": numbers[2], "y_test": numbers[3]} | REFUSED[what](*numbers)
    with pytest.raises((ValueError, TypeError), match=messages()[what]):
        quick(fitted, **given)


def test_refused_with_the_argument_named(numbers, fitted, make, tags, make_distpro, images):
    X, y, X_test, y_test = numbers
    with pytest.raises(ValueError, match=r"y_test has 2 number\(s\) for each row, but y has 1"):
        quick(fitted, X_test, np.c_[y_test, y_test])
    with pytest.raises(TypeError, match="is a classifier"):
        quick(fitted, X_test, y_test, teacher=LogisticRegression().fit(X, y > y.mean()))
    with pytest.raises(ValueError, match="peers='trained' must be"):
        quick(fitted, X_test, y_test, peers="trained", X_train=X, y_train=y)
    clf = make(meta="none").fit(*tags[:2])
    with pytest.raises(ValueError, match="LogisticRegression predicts one label per row, and y has 4 labels"):
        quick(clf, *tags[2:], teacher=LogisticRegression().fit(X, np.arange(len(X)) % 4))
    X, y = images[0][:60], images[1][:60]
    of_images = make_distpro(weights="equal", max_epochs=1).fit(X, y)
    with pytest.raises(ValueError, match=messages()["peers of rows that are no table"]):
        quick(of_images, X, y, peers="train", X_train=X, y_train=y)


def test_peers_of_other_targets_and_not_finite_predictions_are_refused(numbers, fitted):
    X, y, X_test, y_test = numbers
    of_two = LinearRegression().fit(X, np.c_[y, y])
    lost = LinearRegression().fit(X, y)
    lost.intercept_ = np.nan
    for peer in (of_two, lost):
        with pytest.raises(ValueError, match=messages()["a peer of other targets"]):
            quick(fitted, X_test, y_test, peers={"other": peer})
