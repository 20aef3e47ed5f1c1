"""Sparse X: the same fits as with its dense rows, and never all of them dense at once."""

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.feature_selection import SelectKBest, chi2
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from torch import nn

from helpers.settings import SINGLE_RUN
from sklearn_kd import DistilledClassifier, MLPStudent, compare_methods
from sklearn_kd.inputs._sparse_data import SparseData
from sklearn_kd.inputs._sparse_rows import SparseRows, sparse_rows
from sklearn_kd.students._standardize import fit_scaling, stride_of
from sklearn_kd.students._standardize_sparse import fit_sparse_scaling
from sklearn_kd.tasks._targets import Targets


def made(n=200, d=30, density=0.2, seed=0):
    rng = np.random.default_rng(seed)
    dense = np.where(rng.random((n, d)) < density, rng.random((n, d)), 0).astype(np.float32)
    return dense, (dense[:, : d // 2].sum(axis=1) > dense[:, d // 2 :].sum(axis=1)).astype(int)


def make(teacher=None, **params):
    settings = {"max_epochs": 3, "random_state": 0, "device": "cpu", "student__hidden": 8, "batch_size": 32}
    return DistilledClassifier(
        teacher or LogisticRegression(), MLPStudent, **(SINGLE_RUN | settings | params)
    )


FORMATS = [sparse.csr_matrix, sparse.csr_array, sparse.csc_array, sparse.coo_matrix, sparse.lil_matrix]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.__name__)
def test_as_with_dense_rows(form):
    X, y = made()
    expected = make().fit(X, y)
    found = make().fit(form(X), y)
    # The teacher's own numbers differ in the last digits.
    np.testing.assert_allclose(found.predict_proba(X), expected.predict_proba(X), atol=1e-5)
    np.testing.assert_array_equal(found.predict_proba(form(X)), found.predict_proba(X))
    assert found.n_features_in_ == 30


@pytest.mark.parametrize(
    "params",
    [
        {"meta": "gradient", "standardize": False},
        {"meta": "hyperopt"},
        {"teacher": nn.Linear(30, 2), "augment": lambda x: x + 0.1},
        {"teacher": nn.Linear(30, 2), "execution": "bfloat16", "meta": "naive"},
    ],
    ids=["gradient", "hyperopt", "augment", "bfloat16"],
)
def test_whatever_is_fitted(params):
    X, y = made()
    given = {"sample_weight": np.arange(200) % 3, "X_val": X[:40], "y_val": y[:40]}
    expected = make(**params).fit(X, y, **given).predict_proba(X)
    given["X_val"] = sparse.csc_array(X[:40])
    found = make(**params).fit(sparse.csr_array(X), y, **given).predict_proba(X)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_compared():
    X, y = made()
    settings = {"methods": ["naive", "linear"], "cv": 2, "random_state": 0}
    expected, found = (
        compare_methods(make(), rows, y, **settings).results_ for rows in (X, sparse.coo_array(X))
    )
    np.testing.assert_allclose(found["log_loss"], expected["log_loss"], atol=1e-5)


def test_the_teacher_gets_sparse_rows():
    X, y = made()

    class Watches(LogisticRegression):
        def fit(self, X, y, sample_weight=None):
            assert sparse.issparse(X) and X.shape == (180, 30)
            return super().fit(X, y, sample_weight)

    make(Watches()).fit(sparse.coo_array(X), y)


def test_not_all_rows_are_dense_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    n, d, per_row = 1200, 20_000, 20
    columns, ends = rng.integers(0, d, n * per_row), np.arange(0, n * per_row + 1, per_row)
    X = sparse.csr_array((np.ones(n * per_row), columns, ends), shape=(n, d))
    dense = []
    for form in (sparse.csr_array, sparse.csc_array):
        monkeypatch.setattr(form, "toarray", noting(form.toarray, dense))
    make(MultinomialNB(), max_epochs=1, batch_size=128).fit(X, rng.integers(0, 2, n)).predict(X)
    sizes = [rows.shape[0] * rows.shape[1] for rows in dense]
    assert len(sizes) > 10
    assert max(sizes) <= 2**23  # 32 MiB as float32; all of them take 92


def test_given_memory_is_shared_and_stays_as_it_is():
    X = sparse.csr_array(made()[0])
    assert sparse_rows(X).values is X.data or np.shares_memory(sparse_rows(X).values, X.data)
    doubled = sparse.csr_array((np.ones(3, np.float32), [1, 1, 0], [0, 2, 3]), shape=(2, 2))
    assert sparse_rows(doubled).dense().tolist() == [[0, 2], [1, 0]]
    assert doubled.nnz == 3


def test_wrong_rows_are_refused():
    X, y = made()
    clf = make().fit(sparse.csr_array(X), y)
    with pytest.raises(ValueError, match="29 features"):
        clf.predict(sparse.csr_array(X[:, 1:]))
    X[3, 4] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        make().fit(sparse.csr_array(X), y)
    X[3, 4] = np.inf
    with pytest.raises(ValueError, match="contains infinity"):
        clf.predict(sparse.csr_array(X))


def test_sparse_output_of_student_preprocessing_stays_sparse(monkeypatch):
    X, y = made()
    counts = sparse.csr_array(X > 0, dtype=float)
    kept = []
    monkeypatch.setattr(SparseData, "__init__", noting(SparseData.__init__, kept))
    clf = make(student_preprocessing=SelectKBest(chi2, k=10)).fit(counts, y)
    assert [data.shape for data in kept] == [(180, 10), (20, 10)]
    assert clf.predict(counts).shape == (200,)
    assert clf.n_features_in_ == 30


def noting(function, kept):
    def noted(self, *args, **kwargs):
        kept.append(self)
        return function(self, *args, **kwargs)

    return noted


def test_data_sets_of_sparse_rows():
    X, y = made(20)
    targets = Targets(torch.from_numpy(y))
    one, same = (SparseData(sparse_rows(sparse.csr_array(X)), targets) for _ in range(2))
    other = SparseData(SparseRows(one.rows.matrix * 2), targets)
    assert one.has_inputs_of(same)
    assert not one.has_inputs_of(other)
    assert not other.share_inputs_of(one)
    assert one.share_inputs_of(same)
    assert one.rows is same.rows
    rows = torch.tensor([3, 0])
    np.testing.assert_array_equal(one.batch(rows)[0], X[[3, 0]])
    np.testing.assert_array_equal(torch.cat([*one.iter_inputs()]), X)


@pytest.mark.parametrize(
    ("density", "values"),
    [(0.05, "positive"), (0.24, "signed"), (0.3, "codes"), (0.9, "signed")],
)
def test_scaling_is_that_of_the_dense_rows(density, values):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(301, 40))
    X = {"positive": np.abs(X), "codes": np.round(X), "signed": X}[values]
    X = np.where(rng.random(X.shape) < density, X, 0).astype(np.float32)
    X[:, 3], X[:, 4] = 0, 7  # constant
    X[0, 5:8] = 100
    found = fit_sparse_scaling(sparse.csr_array(X))
    expected = fit_scaling([torch.from_numpy(X)], stride_of(*X.shape), 40)
    torch.testing.assert_close(found.center, expected.center)
    torch.testing.assert_close(found.factor, expected.factor)
