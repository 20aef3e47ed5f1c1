"""Measures of test rows, against scikit-learn's functions."""

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    d2_pinball_score,
    f1_score,
    log_loss,
    mean_absolute_error,
    mean_pinball_loss,
    r2_score,
    root_mean_squared_error,
)

from sklearn_kd.tasks._classification import Classification
from sklearn_kd.tasks._criterion import Criterion
from sklearn_kd.tasks._multilabel import Multilabel
from sklearn_kd.tasks._regression import Regression

RNG = np.random.default_rng(0)


def regression(m, criterion="squared_error", parameter=None):
    return Regression(np.zeros(m), np.ones(m), m == 1, Criterion(criterion, parameter))


def test_classes():
    y = RNG.choice(list("abc"), 60)
    P = RNG.dirichlet(np.ones(3), 60)
    task = Classification(np.array(list("abc")))
    found = task.row_scores(y, P).values
    assert tuple(found) == task.measures
    assert found["accuracy"] == accuracy_score(y, task.classes[P.argmax(axis=1)])
    assert found["log_loss"] == pytest.approx(log_loss(y, P))


def test_a_class_without_a_column_is_wrong_and_has_the_smallest_probability():
    found = Classification(np.array(["a", "b"])).row_scores(np.array(["a", "c"]), np.array([[1.0, 0.0]] * 2))
    assert found.rows["accuracy"].tolist() == [True, False]
    assert found.rows["log_loss"].tolist() == [0, pytest.approx(-np.log(2**-23))]


def test_several_labels():
    y, P = RNG.integers(0, 2, (80, 3)), RNG.random((80, 3))
    y[:, 2] = 0  # which has an F1 of 0
    task = Multilabel(3, int)
    found = task.row_scores(y, P).values
    assert tuple(found) == task.measures
    assert found["subset_accuracy"] == accuracy_score(y, P > 0.5)
    assert found["macro_f1"] == f1_score(y, P > 0.5, average="macro", zero_division=0)
    by_label = [log_loss(y[:, j], P[:, j], labels=[0, 1]) for j in range(3)]
    assert found["log_loss"] == pytest.approx(np.mean(by_label))


@pytest.mark.parametrize("shape", [(50,), (50, 2)])
def test_numbers(shape):
    y = 10 + RNG.normal(size=shape)
    f = y + 0.5 * RNG.normal(size=shape)
    task = regression(1 if len(shape) == 1 else 2)
    found = task.row_scores(y, f).values
    assert tuple(found) == task.measures
    expected = {"r2": r2_score, "rmse": root_mean_squared_error, "mae": mean_absolute_error}
    assert found == pytest.approx({name: score(y, f) for name, score in expected.items()})


def test_a_quantile_is_judged_by_its_own_loss():
    y = RNG.normal(size=(50, 2))
    f = y + 0.5 * RNG.normal(size=(50, 2))
    task = regression(2, "quantile", 0.8)
    found = task.row_scores(y, f).values
    assert tuple(found) == task.measures
    assert found["d2"] == pytest.approx(d2_pinball_score(y, f, alpha=0.8))
    assert found["pinball_loss"] == pytest.approx(mean_pinball_loss(y, f, alpha=0.8))


def test_targets_that_are_the_same_in_all_rows_and_a_single_row():
    y = np.c_[np.ones(4), np.arange(4.0)]
    for off in (0.0, 0.5):
        f = y + np.array((off, 0.5))
        assert regression(2).row_scores(y, f).values["r2"] == pytest.approx(r2_score(y, f))
    assert np.isnan(regression(1).row_scores(y[:1, 1], y[:1, 1]).values["r2"])
