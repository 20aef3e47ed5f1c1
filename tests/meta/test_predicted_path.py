"""The path of the metaparameters, predicted by regressors of scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import HuberRegressor, LinearRegression, Ridge
from sklearn.neighbors import KNeighborsRegressor
from test_meta import SPACE, make_path

from helpers.parameter_ids import in_words
from sklearn_kd.meta import Linear, PredictedPath
from sklearn_kd.training._turns import Turn, follow, turn_of

PROCESS = GaussianProcessRegressor(optimizer=None, alpha=0.1)
SGD = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)


def walked(hypergradients, start=(0.5, 2.0), n_waited=0):
    """A path that has taken these hypergradients."""
    path = make_path(*start)
    for _ in range(n_waited):
        path.wait()
    for h in hypergradients:
        path.record(path.descend(torch.as_tensor(h)), torch.tensor(0.0))
    return path


def cycles(strategy, hypergradient, n_iterations, n_waited=0):
    """[(gradient iterations, predicted iterations), ...] of a path with h(iteration), made anew at each."""
    path = walked([], (0.5, 2.0), n_waited)
    for iteration in range(n_iterations):
        again = walked([], (0.5, 2.0))
        again.load_state_dict(path.state_dict())
        path = again
        if turn_of(path, strategy, SGD) is Turn.LEARN:
            temperature = path.named()["temperature"]  # constant by log T
            h = torch.tensor(hypergradient(iteration)) / torch.tensor([1.0, temperature])
            path.record(path.descend(h), torch.tensor(0.0))
        else:
            follow(path, strategy)
    flags = path.table()["predicted"][n_waited:]
    borders = np.flatnonzero(np.diff(flags, prepend=True, append=not flags[-1]))
    lengths = np.diff(borders).tolist()
    return list(zip(lengths[::2], lengths[1::2], strict=False))


def test_linear_regression_is_the_line_through_the_values():
    path = walked(np.random.default_rng(0).normal(size=(9, 2)) / 100)
    for e1, e2 in ((2, 1), (5, 7), (9, 20)):
        found = PredictedPath(LinearRegression(), e1, e2).predict(path)
        torch.testing.assert_close(found, Linear(e1, e2, "values").predict(path), rtol=1e-11, atol=1e-12)


def test_a_fit_with_it_is_that_with_the_line(make, digits, logits):
    line, predicted = (
        make(meta=strategy, temperature=3.0).fit(*digits, teacher_logits=logits).metaparameter_path_
        for strategy in (
            Linear(4, 3, "values", hypergradient="exact"),
            PredictedPath(LinearRegression(), 4, 3, hypergradient="exact"),
        )
    )
    assert predicted["predicted"].sum() > 8
    for name in line.dtype.names:
        np.testing.assert_allclose(predicted[name], line[name], rtol=1e-6)


def test_without_a_regressor_the_last_values_are_held(make, digits, logits):
    clf = make(meta=PredictedPath(e1=3, e2=4)).fit(*digits, teacher_logits=logits)
    path = clf.metaparameter_path_
    np.testing.assert_array_equal(path["predicted"], np.arange(clf.n_iter_) % 7 >= 3)
    held = np.arange(3, clf.n_iter_)[path["predicted"][3:]]
    for name in ("lambda1", "temperature"):
        np.testing.assert_array_equal(path[name][held], path[name][held // 7 * 7 + 2])
        assert np.ptp(path[name]) > 0


@pytest.mark.parametrize("regressor", [HuberRegressor(), Ridge(1e-3), PROCESS], ids=in_words)
def test_each_metaparameter_is_modelled_from_its_last_value(regressor):
    """With several targets at once, or apart; the feature goes from 0 to 1 in the e1 iterations."""
    path = walked(np.random.default_rng(1).normal(size=(6, 2)) / 100)
    found = PredictedPath(regressor, 6, 3).predict(path).numpy()
    theta = path.trajectory(1, 6).numpy()
    for j in range(2):
        model = clone(regressor).fit(np.arange(6)[:, None] / 5, theta[:, j] - theta[-1, j])
        expected = theta[-1, j] + model.predict(np.arange(6, 9)[:, None] / 5)
        np.testing.assert_allclose(found[:, j], expected, rtol=1e-6, atol=1e-9)


def test_far_from_its_data_a_gaussian_process_holds_the_last_values():
    path = walked(np.random.default_rng(1).normal(size=(6, 2)) / 100)
    found = PredictedPath(PROCESS, 6, 100).predict(path)
    torch.testing.assert_close(found[-1], path.trajectory(6, 6)[0])


@pytest.mark.parametrize("n_waited", [0, 3])
@pytest.mark.parametrize("regressor", [LinearRegression(), None], ids=in_words)
def test_e2_grows_along_a_straight_path(regressor, n_waited):
    """For the line, which is right; by hold-last's error as well, which is the same in every cycle."""
    strategy = PredictedPath(regressor, e1=4, e2=2, max_e2=10)
    found = cycles(strategy, lambda iteration: [0.001, -0.002], 44, n_waited)
    assert found == [(4, 2), (4, 4), (4, 8), (4, 10)]


def test_e2_shrinks_where_the_path_turns():
    """In the third prediction, which so was wrong; then it is straight again."""
    strategy = PredictedPath(LinearRegression(), e1=4, e2=2, max_e2=8)
    found = cycles(strategy, lambda k: [0.001, -0.002] if k < 18 else [-0.004, 0.004], 46)
    assert found == [(4, 2), (4, 4), (4, 8), (4, 4), (4, 8)]


def test_bounds_are_no_errors():
    """The line leads out of them, and the path stays at them."""
    strategy = PredictedPath(LinearRegression(), e1=4, e2=2, max_e2=8)
    assert cycles(strategy, lambda iteration: [-0.2, -0.9], 26) == [(4, 2), (4, 4), (4, 8)]


def test_open_seeds_are_fixed(make, digits, logits):
    state = np.random.get_state()[1].copy()
    strategy = PredictedPath(RandomForestRegressor(3), e1=4, e2=4, max_e2=8)
    one, other = (make(meta=strategy).fit(*digits, teacher_logits=logits) for _ in range(2))
    assert one.metaparameter_path_.tobytes() == other.metaparameter_path_.tobytes()
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    assert strategy.regressor.random_state is None


class NotConstant(LinearRegression):
    def fit(self, X, y):
        if not np.ptp(y):
            raise ValueError("y is constant")
        return super().fit(X, y)


class NotFinite(LinearRegression):
    def predict(self, X):
        return super().predict(X) * np.nan


@pytest.mark.parametrize(
    ("params", "error", "match"),
    [
        ({"regressor": Ridge}, TypeError, r"regressor=Ridge is a class\. Give an object"),
        ({"regressor": "linear"}, TypeError, "regressor='linear' has no fit"),
        ({"regressor": BaseEstimator()}, TypeError, "has no fit"),
        ({"regressor": KNeighborsRegressor(20)}, ValueError, "a path of 10 iterations of 2 metaparameters"),
        ({"regressor": KNeighborsRegressor(6), "max_e2": 20}, ValueError, "half of e1=10 iterations"),
        ({"regressor": NotFinite()}, ValueError, "predicts values that are not finite"),
        ({"regressor": NotConstant()}, ValueError, r"10 iterations of 2 metaparameters \(y is constant\)"),
        ({"e1": 0}, ValueError, "e1=0 must be an integer of at least 1"),
        ({"max_e2": 5}, ValueError, "max_e2=5 must be at least e2=10"),
        ({"max_e2": 2.5}, ValueError, "max_e2=2.5 must be an integer"),
        ({"e1": 3, "max_e2": 20}, ValueError, "Take e1 >= 4"),
    ],
    ids=in_words,
)
def test_refused_at_once(params, error, match):
    with pytest.raises(error, match=match):
        PredictedPath(**params).check(SPACE)


def test_parameters_of_the_regressor_are_reached(make):
    clf = clone(make(meta=PredictedPath(Ridge(1.0)))).set_params(meta__regressor__alpha=0.5, meta__e1=7)
    assert clf.meta.regressor.alpha == 0.5 and clf.meta.e1 == 7
