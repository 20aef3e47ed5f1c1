"""The layer that standardises columns, against float64 NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_kd.students._standardize import LIMIT, fit_scaling, stride_of, takes_codes


def fit(X, n_chunks=3):
    X = np.asarray(X, dtype=np.float32)
    return fit_scaling(map(torch.tensor, np.array_split(X, n_chunks)), stride_of(*X.shape), X.shape[1])


def applied(X, Z=None):
    return fit(X)(torch.tensor(np.asarray(X if Z is None else Z, dtype=np.float32))).numpy()


def test_mean_and_standard_deviation():
    X = np.random.default_rng(0).uniform(-1, 1, size=(501, 6)) * 10.0 ** np.arange(-3, 3) + 7
    X = X.astype(np.float32)
    expected = (X.astype(float) - X.mean(0, dtype=float)) / X.std(0, dtype=float)
    for n_chunks in (1, 2, 100):
        scaling = fit(X, n_chunks)
        np.testing.assert_allclose(scaling.center, X.mean(0, dtype=float), rtol=1e-6)
        np.testing.assert_allclose(scaling.factor, 1 / X.std(0, dtype=float), rtol=1e-5)
    np.testing.assert_allclose(applied(X), expected, atol=2e-3)
    assert torch.equal(fit(X, 1).factor, fit(X, 1).factor)


def test_constant_columns_are_left_out():
    X = np.random.default_rng(0).normal(size=(100, 4))
    X[:, 1], X[:, 2] = 0, 1e6
    X[:, 3] = np.float32(1e6) * (1 + 1e-7 * (np.arange(100) % 2))  # rounding
    found = applied(X)
    assert np.ptp(found[:, 0]) > 2 and not found[:, 1:].any()
    new = applied(X, X + np.array([0, 3, 1e6, 1e6]))
    assert not new[:, 1:].any()


def test_outliers_hide_nothing():
    """Values of 1e6 in a column of standard deviation 1 leave it near 1."""
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(2000, 2))
    X = clean.copy()
    X[::50] = rng.choice([-1e6, 1e6, np.float32(3e38)], size=(40, 2))
    found = applied(X)
    usual = np.delete(found, np.s_[::50], axis=0)
    assert np.isfinite(found).all() and np.abs(found).max() == LIMIT
    assert ((usual.std(axis=0) > 0.7) & (usual.std(axis=0) < 1.1)).all()


def test_outlying_columns_by_median_and_quartiles():
    X = np.exp(2 * np.random.default_rng(0).normal(size=(999, 2)))
    lower, median, upper = np.quantile(X, [0.25, 0.5, 0.75], axis=0)
    expected = ((X - median) * 1.349 / (upper - lower)).clip(-LIMIT, LIMIT)
    np.testing.assert_allclose(applied(X), expected, rtol=0.04, atol=0.02)  # quartiles are values of rows


def test_columns_of_mostly_one_value():
    """They are centred there and scaled by the median distance of the others; 0 and 1 stay."""
    rng = np.random.default_rng(0)
    X = (rng.random((5000, 3)) < [0.5, 0.1, 0.002]).astype(float)
    X = np.column_stack([X, 7 - 20 * X[:, 1], X[:, 1] * rng.choice([2, 40, 1000], 5000)])
    found = applied(X)
    np.testing.assert_allclose(found[:, 0], (X[:, 0] - X[:, 0].mean()) / X[:, 0].std(), atol=1e-4)
    np.testing.assert_array_equal(found[:, 1:3], X[:, 1:3])
    np.testing.assert_allclose(found[:, 3], -X[:, 1], atol=1e-6)
    np.testing.assert_allclose(found[:, 4], (X[:, 4] / 40).clip(0, LIMIT), atol=1e-6)


def test_values_that_the_chosen_rows_lack():
    """One row in 30,000 is not among the rows that quartiles are taken of: its distance is the scale."""
    X = np.zeros((30_000, 1))
    X[1] = 4.0
    assert applied(X)[1] == 1


def test_scaled_columns_stay():
    X = np.random.default_rng(0).normal(size=(5000, 3))
    X = (X - X.mean(0)) / X.std(0)
    np.testing.assert_allclose(applied(X), X, rtol=0.04, atol=0.04)


@pytest.mark.parametrize("offset, spread", [(1e8, 1000.0), (0, 1e30), (1e30, 1e29), (0, 1e-30), (0, 1e-40)])
def test_float32_range(offset, spread):
    """Nothing is lost but what float32 has lost of X before."""
    X = (offset + spread * np.random.default_rng(0).uniform(-1, 1, size=(1000, 1))).astype(np.float32)
    expected = (X - X.mean(dtype=float)) / X.std(dtype=float)
    if spread < 1e-37:  # no reciprocal in float32
        expected = np.zeros_like(expected)
    np.testing.assert_allclose(applied(X), expected, atol=0.01 if offset else 1e-4)


def test_rows_that_are_not_finite_do_not_count():
    X = np.random.default_rng(0).normal(size=(100, 3))
    broken = np.insert(X, [0, 50], [[np.nan, 0, 0], [0, np.inf, 0]], axis=0)
    np.testing.assert_allclose(fit(broken).center, fit(X).center, rtol=1e-5, atol=1e-7)
    assert torch.equal(fit(np.full((5, 2), np.nan)).factor, torch.ones(2))


def test_what_takes_codes():
    rows = torch.tensor([[1.0, 0.5], [3.0, 0.2]])

    class Lookup(nn.Module):
        def __init__(self, index):
            super().__init__()
            self.index, self.table = index, nn.Embedding(5, 2)

        def forward(self, x):
            return self.table(self.index(x))

    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("no")

    assert takes_codes(Lookup(lambda x: x[:, 0].long()), rows)
    assert takes_codes(Lookup(lambda x: torch.bucketize(x[:, 0].contiguous(), torch.arange(4.0))), rows)
    for cast in (
        lambda x: x.short().long(),
        lambda x: torch.as_tensor(x, dtype=torch.long),
        lambda x: torch.empty_like(x, dtype=torch.long).copy_(x),
    ):
        assert takes_codes(Lookup(lambda x, cast=cast: cast(x[:, 0])), rows)
    assert not takes_codes(Lookup(lambda x: (x[:, 0] > 2).long()), rows)
    assert takes_codes(torch.jit.script(nn.Sequential(nn.Identity(), nn.Embedding(5, 2))), rows)
    assert not takes_codes(Lookup(lambda x: torch.arange(len(x))), rows)  # positions, not codes
    assert not takes_codes(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), rows)
    assert not takes_codes(nn.Linear(2, 2).double(), rows)
    assert not takes_codes(Broken(), rows)
