"""Numbers as targets: units, validation loss and splits."""

import numpy as np
import pytest
import torch

from sklearn_kd.tasks._criterion import CRITERIA, Criterion
from sklearn_kd.tasks._regression import Regression, RegressionTargets
from sklearn_kd.tasks._targets import Targets
from sklearn_kd.tasks._task import Task

RNG = np.random.default_rng(0)
Y = RNG.normal(size=(50, 2)) * [3, 100] + [5, 1e6]
PARAMETERS = {"huber": 0.8, "berhu": 0.4, "quantile": 0.3}


def test_nothing_that_a_task_is_asked_is_missing():
    asked = {name for name in vars(Task) if not name.startswith("_")}
    assert asked <= set(dir(Regression))


def test_codes_have_mean_0_and_deviation_1_by_weight():
    weight = RNG.integers(0, 3, 50)
    task, codes = RegressionTargets(Criterion()).from_targets(Y, weight)
    np.testing.assert_allclose(np.average(codes, axis=0, weights=weight), 0, atol=1e-9)
    np.testing.assert_allclose(np.average(codes**2, axis=0, weights=weight), 1, rtol=1e-9)
    np.testing.assert_allclose(task.decode(codes), Y, rtol=1e-12)
    repeated, _ = RegressionTargets(Criterion()).from_targets(Y.repeat(weight, axis=0))
    np.testing.assert_allclose(task.mean, repeated.mean)
    np.testing.assert_allclose(task.scale, repeated.scale)


def test_units_beyond_the_range_of_squares():
    for factor in (2.0**-600, 2.0**600):  # whose squares vanish, and overflow
        task, codes = RegressionTargets(Criterion()).from_targets(factor * Y)
        np.testing.assert_array_equal(codes, RegressionTargets(Criterion()).from_targets(Y)[1])
        np.testing.assert_allclose(task.decode(codes), factor * Y)
    with_far = np.r_[Y, [[1e300, 1e300]]]
    task, _ = RegressionTargets(Criterion()).from_targets(with_far, np.r_[np.ones(50), 0])
    np.testing.assert_allclose(task.scale, Y.std(axis=0))


def test_a_continued_fit_notices_other_units():
    last, _ = RegressionTargets(Criterion()).from_targets(Y)
    for other in (1000 * Y, Y + 1e6, Y / 1e3 + Y.mean(axis=0)):
        with pytest.warns(UserWarning, match="the units of y have changed, set warm_start=False"):
            RegressionTargets(Criterion(), last).from_targets(other)
    with pytest.raises(ValueError, match=r"continues with a student for 2 target\(s\), but y has 1 number"):
        RegressionTargets(Criterion(), last).from_targets(Y[:, 0])


def test_a_continued_fit_keeps_its_units():
    last, _ = RegressionTargets(Criterion()).from_targets(Y)
    task, codes = RegressionTargets(Criterion(), last).from_targets(Y + np.array([6, 200]))
    np.testing.assert_array_equal(task.scale, last.scale)
    np.testing.assert_allclose(task.decode(codes), Y + np.array([6, 200]))


@pytest.mark.parametrize("name", CRITERIA)
def test_gradient_of_the_validation_loss_is_that_of_its_value(name):
    task = Regression(np.zeros(2), np.ones(2), False, Criterion(name, PARAMETERS.get(name)))
    outputs = torch.randn(6, task.n_outputs, dtype=torch.float64, requires_grad=True)
    targets = Targets(torch.randn(6, 2).double(), None, torch.linspace(0.5, 1.5, 6).double())
    value, gradient = task.validation_loss(outputs, targets)
    assert torch.autograd.gradcheck(lambda z: task._row_losses(z, targets).mean(), outputs)
    (wanted,) = torch.autograd.grad(task._row_losses(outputs, targets).mean(), outputs)
    torch.testing.assert_close(gradient, wanted)
    torch.testing.assert_close(value, task.validation_losses(outputs, targets).mean())


def test_gaussian_deviations_are_in_the_units_of_y():
    task = Regression(np.array([1.0]), np.array([10.0]), True, Criterion("gaussian_nll"))
    outputs = torch.tensor([[0.5, 0.0], [0.5, 50.0]])
    np.testing.assert_allclose(task.predictions(outputs), [6.0, 6.0])
    first, bounded = task.deviations(outputs)
    assert first == 10.0 and bounded < 10 * np.exp(5)


def test_split_is_a_shuffle_of_all_rows_and_keeps_groups_whole():
    task, codes = RegressionTargets(Criterion()).from_targets(Y)
    train, val = task.split(codes, 0.2, np.random.RandomState(0), "none")
    assert len(val) == 10 and sorted([*train, *val]) == list(range(50))
    groups = np.arange(50) // 5
    train, val = task.split(codes, 0.2, np.random.RandomState(0), "none", groups)
    assert len(val) == 10 and not set(groups[train]) & set(groups[val])
    with pytest.raises(ValueError, match=r"n_samples = 1 rows none can be held out.*or none"):
        task.split(codes[:1], 0.2, np.random.RandomState(0), "none")


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([1.0, np.nan, 2.0], "y contains NaN"),
        ([1.0, np.inf, 2.0], "y contains infinity"),
        ([1j, 2, 3], "y is complex"),
        (["a", "b", "c"], "y has words, such as 'a'"),
        (np.array(["1", 2, 3], dtype=object), "y has words"),
        (np.array(["2020-01-01"] * 3, dtype="datetime64[D]"), "y does not hold numbers: it is of dtype"),
        (np.array([None, 1, 2], dtype=object), "y contains NaN|y does not hold numbers"),
        (np.empty((3, 0)), r"y has shape \(3, 0\)"),
        (np.zeros((3, 2, 2)), r"y has shape \(3, 2, 2\)"),
        ([[1, 2], [3], [4]], "y has rows of differing lengths"),
        ([1.0, 2.0], r"inconsistent numbers of samples: \[3, 2\]"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused(y, message):
    with pytest.raises(ValueError, match=message):
        Regression.check_targets(y, 3)


def test_constant_targets_are_refused_by_their_column():
    task, codes = RegressionTargets(Criterion()).from_targets(np.c_[Y[:, 0], np.full(50, 0.1)])
    with pytest.raises(ValueError, match=r"column 1 of y is one number, 0.1, in all n_samples = 50 rows"):
        task.check_learnable(codes, None)
    task, codes = RegressionTargets(Criterion()).from_targets(np.r_[1.0, np.full(9, 7.0)])
    with pytest.raises(ValueError, match=r"y is one number, 7, in all n_samples = 9 rows of positive weight"):
        task.check_learnable(codes, np.r_[0, np.ones(9)])
    with pytest.raises(ValueError, match="differences overflow"):
        RegressionTargets(Criterion()).from_targets(np.array([1.7e308, 1.7e308, 0.0]))
    with pytest.raises(ValueError, match=r"y_val has 1 number\(s\) for each row, but y has 2"):
        task = RegressionTargets(Criterion()).from_targets(Y)[0]
        task.encode(np.zeros(3), "y_val")
