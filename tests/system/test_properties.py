"""Whatever is given, fit either ends in finite predictions or refuses before any training, saying what is wrong."""

import re
import tempfile
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold
from sklearn.naive_bayes import GaussianNB
from torch import nn

from helpers.settings import SINGLE_RUN
from sklearn_kd import CNNStudent, DistilledClassifier, DistProClassifier, MLPStudent
from sklearn_kd.training._net import TrainingNet

METHODS = ("none", "naive", "fixed", "random", "gradient", "linear")
# What a refusal must name: an argument, or what scikit-learn calls X or y.
NAMED = re.compile(
    r"\b(X|y|X_val|y_val|sample_weight|teacher_logits|teacher|student|batch_size|validation_fraction|e1|e2|"
    r"array|samples?|features?|[Ss]parse|labels?|D_val|classes)\b"
)


def many(n):
    """Draw so many cases, the same ones every time."""
    return settings(
        max_examples=n,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(autouse=True)
def steps(monkeypatch):
    """Counts the steps of the optimizer, to tell a refusal from a failure."""
    taken = []
    train_step = TrainingNet.train_step

    def counted(self, *args, **kwargs):
        taken.append(1)
        return train_step(self, *args, **kwargs)

    monkeypatch.setattr(TrainingNet, "train_step", counted)
    return taken


def fits_or_refuses(steps, X, y, *, X_test=None, **params):
    """The fitted classifier, or None where the input was refused as it should be."""
    given = {k: params.pop(k) for k in ("sample_weight", "teacher_logits", "X_val", "y_val") if k in params}
    quick = {"max_epochs": 1, "batch_size": 16, "random_state": 0, "device": "cpu", "student": MLPStudent}
    clf = DistilledClassifier(**({"teacher": None} | SINGLE_RUN | quick | params))
    if not is_fitted_or_refuses(steps, clf, X, y, X if X_test is None else X_test, **given):
        return None
    bounds = clf.get_params().get("loss__temperature_bounds", (1.0, 10.0))
    path, (low, high) = clf.metaparameter_path_, bounds
    assert ((path["lambda1"] >= 0) & (path["lambda1"] <= 1)).all()
    if clf.meta != "random":  # which has a range of its own
        assert ((path["temperature"] >= low) & (path["temperature"] <= high)).all()
    return clf


def is_fitted_or_refuses(steps, clf, X, y, X_test, **given):
    """Whether it was fitted, to finite predictions; it may instead refuse what is given, as it should."""
    steps.clear()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            clf.fit(X, y, **given)
        except (ValueError, TypeError) as error:
            assert not steps, f"refused after {len(steps)} steps: {error}"
            assert NAMED.search(str(error)), f"names no argument: {error}"
            event("refused: " + str(error)[:40])
            return False
        proba = clf.predict_proba(X_test)
        predicted = clf.predict(X_test)
    event("fitted")
    assert np.isfinite(proba).all()
    if np.ndim(y) == 2 and np.shape(y)[1] > 1:  # several labels
        assert predicted.shape == proba.shape == np.shape(X_test)[:1] + np.shape(y)[1:]
        assert ((predicted == 1) == (proba > 0.5)).all() and ((proba >= 0) & (proba <= 1)).all()
    else:
        np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-4)
        assert set(predicted.tolist()) <= set(clf.classes_.tolist())
    assert all(torch.isfinite(w).all() for w in clf.student_.state_dict().values())
    reported = sum(issubclass(w.category, ConvergenceWarning) for w in said)
    wrong = [history for history in trainings(clf) if any(history[:, "skipped_steps"])]
    assert max(len(wrong), clf.net_.diverged_) <= reported <= len(trainings(clf))
    return True


def trainings(clf):
    """The histories of a fit, one for each training."""
    return [h for h in (clf.history_, getattr(clf, "search_history_", None)) if h is not None]


# --------------------------------------------------------------------------------------
# Values, containers, labels


VALUES = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "constant": lambda rng, shape: np.full(shape, 3.0),
    "a constant feature": lambda rng, shape: rng.normal(size=shape) * (np.arange(shape[-1]) > 0),
    "equal columns": lambda rng, shape: np.repeat(rng.normal(size=(*shape[:-1], 1)), shape[-1], axis=-1),
    "equal rows": lambda rng, shape: np.repeat(rng.normal(size=(1, *shape[1:])), shape[0], axis=0),
    "huge": lambda rng, shape: rng.normal(size=shape) * 1e20,
    "as large as float32": lambda rng, shape: rng.normal(size=shape) * 1e37,
    "too large for float32": lambda rng, shape: rng.normal(size=shape) * 1e100,
    "one huge": lambda rng, shape: np.where(
        np.arange(shape[0] * int(np.prod(shape[1:]))).reshape(shape) == 0, 1e35, 1.0
    ),
    "tiny": lambda rng, shape: rng.normal(size=shape) * 1e-40,
    "of all sizes": lambda rng, shape: 10.0 ** rng.uniform(-30, 30, size=shape),
    "large": lambda rng, shape: rng.normal(size=shape) * 1e4,
    "integers": lambda rng, shape: rng.integers(-5, 6, size=shape),
    "NaN": lambda rng, shape: np.where(rng.random(shape) < 0.1, np.nan, 1.0),
    "infinite": lambda rng, shape: np.where(rng.random(shape) < 0.1, np.inf, 1.0),
}


def memmap(X):
    if X.size == 0:  # which older versions of NumPy cannot map
        return X
    with tempfile.TemporaryFile() as file:  # which stays mapped
        mapped = np.memmap(file, dtype=X.dtype, mode="w+", shape=X.shape)
    mapped[...] = X
    return mapped


def read_only(X):
    X = X.copy()
    X.setflags(write=False)
    return X


CONTAINERS = {
    "array": lambda X: X,
    "list": lambda X: X.tolist(),
    "Fortran order": np.asfortranarray,
    "every other row of twice as many": lambda X: np.repeat(X, 2, axis=0)[::2],
    "reversed": lambda X: X[::-1][::-1].copy()[::-1],
    "read-only": read_only,
    "memmap": memmap,
    "tensor": lambda X: torch.tensor(X),
    "tensor with gradient": lambda X: torch.tensor(X, dtype=torch.float64, requires_grad=True),
    "DataFrame": pd.DataFrame,
    "objects": lambda X: X.astype(object),
    "strings": lambda X: X.astype(str),
    "float16": lambda X: X.astype(np.float16),
    "float32": lambda X: X.astype(np.float32),
    "int8": lambda X: np.nan_to_num(X, posinf=100, neginf=-100).clip(-100, 100).astype(np.int8),
    "bool": lambda X: X > 0,
    "complex": lambda X: X + 1j,
    "sparse": lambda X: sparse.csr_matrix(np.nan_to_num(X)),
    "masked": lambda X: np.ma.masked_invalid(X),
}
LABELS = {
    "int": lambda codes: codes,
    "negative": lambda codes: codes - 5,
    "floats": lambda codes: codes.astype(float),
    "continuous": lambda codes: codes + 0.5,
    "strings": lambda codes: np.array([f"class {c}" for c in codes]),
    "bytes": lambda codes: np.array([f"class {c}" for c in codes]).astype("S"),
    "object strings": lambda codes: np.array([f"class {c}" for c in codes], dtype=object),
    "objects of two types": lambda codes: np.array(
        [c if c else "none" for c in codes.tolist()], dtype=object
    ),
    "bool": lambda codes: codes > 0,
    "list": lambda codes: codes.tolist(),
    "column": lambda codes: codes.reshape(-1, 1),
    "two columns": lambda codes: np.stack([codes, codes], axis=1),
    "tensor": lambda codes: torch.tensor(codes),
    "series": lambda codes: pd.Series(codes, index=np.arange(len(codes))[::-1]),
    "categorical": lambda codes: pd.Categorical([f"class {c}" for c in codes]),
    "uint8": lambda codes: codes.astype(np.uint8),
    "NaN": lambda codes: np.where(codes == 0, np.nan, codes),
    "None": lambda codes: np.array([None if c == 0 else "a" for c in codes], dtype=object),
    "one class": np.zeros_like,
    "all different": lambda codes: np.arange(len(codes)),
    "dates": lambda codes: np.datetime64("2020-01-01") + codes,
    "large": lambda codes: codes.astype(np.int64) * 2**40,
}


@st.composite
def draws(draw, low=1, high=40, few_features=1):
    """(a generator of numbers, n_samples, n_features, n_classes)."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng, draw(st.integers(low, high)), draw(st.integers(few_features, 6)), draw(st.integers(2, 6))


@many(500)
@given(
    draws(few_features=0),
    st.sampled_from(list(VALUES)),
    st.sampled_from(list(CONTAINERS)),
    st.sampled_from(METHODS),
)
def test_X(steps, drawn, values, container, meta):
    rng, n, n_features, n_classes = drawn
    with np.errstate(over="ignore"):
        X = CONTAINERS[container](np.asarray(VALUES[values](rng, (n, n_features)), dtype=np.float64))
    y, logits = np.arange(n) % n_classes, rng.normal(size=(n, min(n, n_classes)))
    fits_or_refuses(steps, X, y, meta=meta, teacher_logits=logits)


@many(250)
@given(draws(), st.sampled_from(list(LABELS)), st.sampled_from(METHODS), st.booleans())
def test_y(steps, drawn, kind, meta, given_logits):
    rng, n, n_features, n_classes = drawn
    codes = rng.integers(0, n_classes, n)
    y = LABELS[kind](codes)
    X = rng.normal(size=(n, n_features))
    if given_logits:
        k = len(np.unique(codes)) if kind != "all different" else n
        fits_or_refuses(steps, X, y, meta=meta, teacher_logits=rng.normal(size=(n, k)))
    else:
        fits_or_refuses(steps, X, y, meta=meta, teacher=GaussianNB())


@many(250)
@given(
    draws(),
    st.sampled_from(METHODS),
    st.fixed_dictionaries(
        {
            "batch_size": st.sampled_from([1, 2, 7, 1000]),
            "e1": st.sampled_from([2, 3, 1000]),
            "e2": st.sampled_from([0, 1, 1000]),
            "validation_fraction": st.sampled_from([1e-6, 0.1, 0.5, 0.999]),
            "meta__val_temperature": st.sampled_from([1.0, "auto"]),
            "meta__hypergradient": st.sampled_from(["finite_difference", "jvp", "exact"]),
            "iterator_train__drop_last": st.booleans(),
            "lr": st.sampled_from([0.0, 0.1, 1e6, 1e30]),
            "meta__lr": st.sampled_from([0.0, 1.0, 1e30]),
            "loss__temperature_bounds": st.sampled_from([(1.0, 10.0), (1.0, 1.0), (1e-6, 1e6)]),
        }
    ),
    st.booleans(),
)
def test_sizes_and_parameters(steps, drawn, meta, params, skewed):
    rng, n, n_features, n_classes = drawn
    y = np.minimum(rng.geometric(0.7, n) - 1, n_classes - 1) if skewed else np.arange(n) % n_classes
    X, logits = rng.normal(size=(n, n_features)), rng.normal(size=(n, len(np.unique(y)))) * 10
    fits_or_refuses(steps, X, y, meta=meta, teacher_logits=logits, **params)


@many(300)
@given(draws(low=4), st.sampled_from(METHODS), st.data())
def test_what_goes_with_X_and_y(steps, drawn, meta, data):
    """sample_weight, D_val and the teacher's logits, right and wrong in all ways."""
    rng, n, n_features, n_classes = drawn
    y = np.arange(n) % n_classes
    k = len(np.unique(y))
    weights = {
        "none": None,
        "ones": np.ones(n),
        "zeros": np.zeros(n),
        "some zero": (np.arange(n) % 2).astype(float),
        "one row": (np.arange(n) == 0).astype(float),
        "negative": -np.ones(n),
        "NaN": np.full(n, np.nan),
        "huge": 1e300 * rng.random(n),
        "tiny": 1e-300 * rng.random(n),
        "too few": np.ones(n - 1),
        "strings": np.array(["a"] * n),
        "list": [1] * n,
        "column": np.ones((n, 1)),
    }
    answers = {
        "normal": rng.normal(size=(n, k)),
        "huge": rng.normal(size=(n, k)) * 1e30,
        "certain": np.eye(k)[y] * 1e4,
        "equal": np.zeros((n, k)),
        "infinite": np.full((n, k), -np.inf),
        "NaN": np.full((n, k), np.nan),
        "too few rows": rng.normal(size=(n - 1, k)),
        "too many classes": rng.normal(size=(n, k + 1)),
        "one column": rng.normal(size=n),
        "tensor": torch.randn(n, k),
    }
    valid = {
        "none": {},
        "given": {"X_val": rng.normal(size=(3, n_features)), "y_val": np.arange(3) % k},
        "one row": {"X_val": rng.normal(size=(1, n_features)), "y_val": [0]},
        "one class": {"X_val": rng.normal(size=(3, n_features)), "y_val": [0, 0, 0]},
        "empty": {"X_val": np.empty((0, n_features)), "y_val": []},
        "unknown class": {"X_val": rng.normal(size=(3, n_features)), "y_val": [0, 1, 99]},
        "other features": {"X_val": rng.normal(size=(3, n_features + 1)), "y_val": [0, 1, 0]},
        "NaN": {"X_val": np.full((3, n_features), np.nan), "y_val": [0, 1, 0]},
        "no labels": {"X_val": rng.normal(size=(3, n_features))},
        "other lengths": {"X_val": rng.normal(size=(3, n_features)), "y_val": [0, 1]},
        "huge": {"X_val": np.full((3, n_features), 1e37), "y_val": [0, 1, 0]},
    }
    varied = data.draw(st.sampled_from([{0}, {1}, {2}, {0, 1, 2}]))
    chosen = [
        data.draw(st.sampled_from(sorted(kinds))) if i in varied else next(iter(kinds))
        for i, kinds in enumerate((weights, answers, valid))
    ]
    fits_or_refuses(
        steps,
        rng.normal(size=(n, n_features)),
        y,
        meta=meta,
        sample_weight=weights[chosen[0]],
        teacher_logits=answers[chosen[1]],
        **valid[chosen[2]],
    )


@many(200)
@given(
    st.tuples(st.integers(1, 20), st.integers(0, 4), st.integers(0, 20), st.integers(0, 20)),
    st.sampled_from(METHODS),
    st.sampled_from(list(VALUES)),
    st.sampled_from([CNNStudent, MLPStudent]),
    st.sampled_from([np.float32, np.float64, np.uint8]),
)
def test_images(steps, shape, meta, values, student, dtype):
    rng = np.random.default_rng(0)
    if 0 in shape:
        X = np.empty(shape)
    else:
        with np.errstate(all="ignore"):
            X = np.asarray(VALUES[values](rng, shape)).astype(dtype)
    y = np.arange(len(X)) % 3
    fits_or_refuses(
        steps, X, y, meta=meta, student=student, teacher_logits=rng.normal(size=(len(X), min(len(X), 3)))
    )


@many(30)
@given(st.integers(2, 1000), st.sampled_from(METHODS))
def test_numbers_of_classes(steps, n_classes, meta):
    rng = np.random.default_rng(0)
    y = np.arange(2 * n_classes) % n_classes
    clf = fits_or_refuses(
        steps,
        rng.normal(size=(len(y), 3)),
        y,
        meta=meta,
        batch_size=512,
        teacher_logits=np.resize(rng.normal(size=9973), (len(y), n_classes)),
    )
    assert clf is None or len(clf.classes_) == n_classes


@many(100)
@given(
    draws(low=6), st.sampled_from(METHODS), st.sampled_from(list(VALUES)), st.sampled_from(list(CONTAINERS))
)
def test_rows_to_predict(steps, drawn, meta, values, container):
    """What predict is given is checked as what fit was given."""
    rng, n, n_features, n_classes = drawn
    X, y = rng.normal(size=(n, n_features)), np.arange(n) % n_classes
    clf = fits_or_refuses(steps, X, y, meta=meta, teacher_logits=rng.normal(size=(n, min(n, n_classes))))
    assume(clf is not None)
    with np.errstate(over="ignore"):
        rows = CONTAINERS[container](np.asarray(VALUES[values](rng, (3, n_features)), dtype=np.float64))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            proba = clf.predict_proba(rows)
    except (ValueError, TypeError) as error:
        assert NAMED.search(str(error)), error
        return
    assert np.isfinite(proba).all()


@many(100)
@given(draws(low=6), st.sampled_from(METHODS), st.integers(2, 5), st.booleans())
def test_folds_without_some_classes(steps, drawn, meta, n_folds, ordered):
    """The classes of a fold are those that it has."""
    rng, n, n_features, n_classes = drawn
    X, y = rng.normal(size=(n, n_features)), np.arange(n) % n_classes
    y = np.sort(y) if ordered else rng.permutation(y)
    train, test = next(KFold(n_folds).split(X))
    clf = fits_or_refuses(steps, X[train], y[train], X_test=X[test], meta=meta, teacher=GaussianNB())
    assert clf is None or set(clf.classes_) == set(y[train])


@many(150)
@given(
    draws(),
    st.sampled_from(METHODS),
    st.sampled_from(list(VALUES)),
    st.sampled_from([1, 2, 16, 1000]),
    st.sampled_from([0.01, 10.0, 1e10]),
    st.sampled_from([torch.optim.SGD, torch.optim.Adam]),
)
def test_batch_normalisation(steps, drawn, meta, values, batch_size, lr, optimizer):
    """Whose running statistics overflow before the logits do, and which refuses single rows."""
    rng, n, n_features, n_classes = drawn
    with np.errstate(over="ignore"):
        X = np.asarray(VALUES[values](rng, (n, n_features)), dtype=np.float64)
    y = np.arange(n) % n_classes
    k = len(np.unique(y))
    student = nn.Sequential(
        nn.Linear(n_features, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.2), nn.Linear(4, k)
    )
    settings = {"batch_size": batch_size, "lr": lr, "optimizer": optimizer, "student": student}
    fits_or_refuses(steps, X, y, meta=meta, teacher_logits=rng.normal(size=(n, k)), **settings)


IMAGE_SHAPES = [(1, 8, 8), (3, 4, 6), (2, 4, 4), (1, 4, 8), (3, 8, 8), (2, 1, 1), (1, 0, 4), (5,)]


@many(60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 24),
    st.sampled_from(["shape", "values", "labels", "none"]),
    st.sampled_from(IMAGE_SHAPES),
    st.sampled_from(list(VALUES)),
    st.sampled_from(list(LABELS)),
    st.sampled_from([1, 5, 1000]),
    st.sampled_from([0.05, 1e10]),
    st.sampled_from(["process", "equal"]),
)
def test_feature_maps(steps, seed, n, trouble, shape, values, labels, batch_size, lr, weights):
    """The same of DistProClassifier, with one kind of trouble at a time in the data."""
    rng = np.random.default_rng(seed)
    shape = shape if trouble == "shape" else (1, 8, 8)
    values = values if trouble == "values" else "normal"
    labels = labels if trouble == "labels" else "int"
    with np.errstate(over="ignore", invalid="ignore"):
        X = np.asarray(
            VALUES[values](rng, (n, *shape)) if 0 not in shape else np.empty((n, *shape)), np.float64
        )
    y = LABELS[labels](np.arange(n) % 2)
    channels = shape[0] if len(shape) == 3 else 1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = CNNStudent((channels, 8, 8), n_classes=2, channels=(4, 4))
    clf = DistProClassifier(
        teacher,
        CNNStudent,
        student__channels=(2, 2),
        transforms=["conv1"],
        search_epochs=1,
        max_epochs=1,
        batch_size=batch_size,
        lr=lr,
        weights=weights,
        random_state=0,
        device="cpu",
    )
    is_fitted_or_refuses(steps, clf, X, y, X)
