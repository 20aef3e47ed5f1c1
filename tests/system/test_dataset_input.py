"""``fit``, ``predict`` and ``score`` on a ``torch.utils.data.Dataset``."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from skorch import NeuralNetClassifier
from skorch.callbacks import EpochScoring
from torch import nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset, default_collate

from helpers.callbacks import Watch
from helpers.parameter_ids import in_words
from sklearn_kd import MLPStudent, compare_methods


class Items(Dataset):
    """What ``item`` makes of a row and its label; counts how often it is read."""

    def __init__(self, X, y, item=lambda x, label: (x, label)):
        self.X, self.y, self.item, self.n_read = X, y, item, 0

    def __len__(self):
        return len(self.X)

    def __getitem__(self, i):
        assert type(i) is int  # not every Dataset takes NumPy's integers
        self.n_read += 1
        return self.item(self.X[i], self.y[i])


def same_run(a, b, **tolerance):
    """Equal weights and paths; to the bit without a tolerance."""
    for w, v in zip(a.student_.parameters(), b.student_.parameters(), strict=True):
        torch.testing.assert_close(w, v, **({"rtol": 0, "atol": 0} | tolerance))
    for name in ("lambda1", "temperature", "val_loss"):
        np.testing.assert_allclose(
            a.metaparameter_path_[name], b.metaparameter_path_[name], **({"rtol": 0} | tolerance)
        )
    return True


# --------------------------------------------------------------------------------------
# The same training as on arrays


@pytest.mark.parametrize("meta", ["none", "naive", "linear"])
def test_run_is_that_on_arrays(meta, make, digits, logits):
    X, y = digits
    weight = np.random.default_rng(0).integers(0, 3, 400)  # rows of weight 0 are left out
    watch = Watch()
    clf = make(meta=meta, e1=3, e2=2, callbacks=[watch])
    arrays = clf.fit(X, y, sample_weight=weight, teacher_logits=logits)
    loaded = make(meta=meta, e1=3, e2=2).fit(Items(X, y), sample_weight=weight, teacher_logits=logits)
    given = make(meta=meta, e1=3, e2=2).fit(
        Items(X, y, lambda x, label: x), y, sample_weight=weight, teacher_logits=logits
    )
    assert same_run(arrays, loaded) and same_run(arrays, given)
    assert len({len(batch[0]) for batch in watch.train_}) > 1  # a last batch that is not full


def test_network_teachers_are_asked_as_on_arrays(make, digits, network):
    X, y = digits
    net = NeuralNetClassifier(
        MLPStudent(64, 10), criterion=nn.CrossEntropyLoss, max_epochs=1, verbose=0, train_split=None
    ).fit(X, y)
    for teacher in (network, net, FrozenEstimator(net)):
        arrays, loaded = make(teacher).fit(X, y), make(teacher, keep_teacher=True).fit(Items(X, y))
        # The teacher meets batches of 1024 rows there and of 32 here.
        assert same_run(arrays, loaded, rtol=1e-4, atol=1e-5)
        assert loaded.teacher_ is teacher


def test_teacher_is_asked_once_about_each_row(make, digits, network):
    X, y = digits
    asked = []
    network.register_forward_hook(lambda module, args, out: asked.extend(args[0].tolist()))
    data = Items(X, y)
    make(network, meta="naive", max_epochs=5).fit(data)
    assert sorted(asked) == sorted(X.tolist())
    # Two items to learn the shape, a pass for the labels, one for the layer that standardises, one for the
    # teacher, the epochs, and up to 512 rows to see what was learned.
    assert data.n_read == 2 + 400 * (1 + 1 + 1 + 5 + 1)


@pytest.mark.parametrize("settings", [{}, {"num_workers": 2}], ids=in_words)
def test_logits_labels_and_weights_stay_with_their_row(settings, make):
    """The row is written into x, and what is looked up for it says the same row."""
    n, rng = 100, np.random.default_rng(0)
    X = np.stack([np.arange(n), rng.normal(size=n)], axis=1).astype(np.float32)
    y, weight = np.arange(n) % 3, rng.uniform(1, 2, n)
    logits = np.stack([np.arange(n), np.zeros(n), np.zeros(n)], axis=1)
    watch = Watch()
    settings = {f"iterator_train__{k}": v for k, v in settings.items()}
    clf = make(batch_size=8, lr=1e-6, callbacks=[watch], **settings)
    clf.fit(TensorDataset(torch.tensor(X), torch.tensor(y)), sample_weight=weight, teacher_logits=logits)
    seen = []
    for x, _ in watch.train_:
        row = x[:, 0].long()
        seen += row.tolist()
    for batch in watch.train_:
        row = batch[0][:, 0].long().numpy()
        assert batch.targets.teacher_logits[:, 0].tolist() == row.tolist()
        assert batch[1].tolist() == y[row].tolist()
        ratio = batch.targets.weight.numpy() / weight[row]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)
    assert seen[:90] != sorted(seen[:90]) and seen[:90] != seen[90:]  # shuffled, anew in each epoch
    assert sorted(seen[:90]) == sorted(seen[90:]) == sorted(set(seen))
    held_out = {int(row) for batch in watch.valid_ for row in batch[0][:, 0]}
    assert held_out == set(range(n)) - set(seen)  # stratified: test_data covers the split itself


def test_workers_change_nothing(make, digits, logits):
    data = TensorDataset(*map(torch.as_tensor, digits))
    one, two = make(), make(iterator_train__num_workers=2, iterator_train__persistent_workers=True)
    assert same_run(one.fit(data, teacher_logits=logits), two.fit(data, teacher_logits=logits))


def test_own_collation(make, digits, logits):
    """Lists of rows of differing length, made one shape by ``collate_fn``."""

    def pad(items):
        x, labels = zip(*items, strict=True)
        return torch.stack([torch.nn.functional.pad(row, (0, 64 - len(row))) for row in x]), list(labels)

    X, y = digits
    ragged = Items(X, y, lambda x, label: (torch.tensor(x[: 60 + label % 3]), int(label)))
    clf = make(iterator_train__collate_fn=pad, iterator_valid__collate_fn=pad)
    clf.fit(ragged, teacher_logits=logits)
    padded = np.where(np.arange(64) < 60 + y[:, None] % 3, X, 0)
    assert same_run(clf, make().fit(padded, y, teacher_logits=logits))
    np.testing.assert_allclose(clf.predict_proba(ragged), clf.predict_proba(padded), atol=1e-6)


def test_given_validation_dataset(make, digits, logits):
    X, y = digits
    parts = slice(None, 300), slice(300, None)
    train, val = (Items(X[part], y[part]) for part in parts)
    arrays = make().fit(X[:300], y[:300], teacher_logits=logits[:300], X_val=X[300:], y_val=y[300:])
    assert same_run(arrays, make().fit(train, teacher_logits=logits[:300], X_val=val))
    val.item = lambda x, label: x
    assert same_run(arrays, make().fit(train, teacher_logits=logits[:300], X_val=val, y_val=y[300:]))


@pytest.mark.parametrize(
    "params", [{"meta": "hyperopt", "max_epochs": 1}, {"meta__val_temperature": "auto"}], ids=in_words
)
def test_what_passes_over_all_of_D_val(params, make, digits, logits):
    arrays, loaded = make(**params).fit(*digits, teacher_logits=logits), make(**params)
    loaded.fit(Items(*digits), teacher_logits=logits)
    assert same_run(arrays, loaded)
    assert arrays.val_temperature_ == loaded.val_temperature_


def test_scoring_callbacks_predict_for_a_dataset(make, digits):
    callbacks = [
        ("slow", EpochScoring("accuracy", use_caching=False, name="slow", lower_is_better=False)),
        ("train", EpochScoring("accuracy", on_train=True, use_caching=False, name="on_train")),
    ]
    clf = make(None, meta="none", callbacks=callbacks, max_epochs=5)
    clf.fit(Items(*digits), X_val=Items(*digits))
    assert clf.history_[-1, "slow"] == clf.history_[-1, "valid_acc"] == clf.history_[-1, "on_train"]
    assert clf.score(*digits) == clf.history_[-1, "slow"]


# --------------------------------------------------------------------------------------
# Labels and prediction


def test_labels_predictions_and_scores(make, digits):
    X, y = digits
    names = np.array([f"digit {label}" for label in y])
    bytes_ = (X * 16).astype(np.uint8)  # made float32 on the device
    data = Items(bytes_, names)
    clf = make(None, meta="none", max_epochs=10, lr=0.01).fit(data)
    assert clf.classes_.tolist() == sorted(set(names))
    np.testing.assert_allclose(clf.predict_proba(data), clf.predict_proba(bytes_), atol=1e-6)
    assert (clf.predict(data) == clf.predict(bytes_)).all()
    data.n_read = 0
    assert clf.score(data) == clf.score(data, names) == clf.score(bytes_, names) > 0.5
    assert data.n_read == 2 * (2 + 400)  # once for each score
    only_x = Items(bytes_, names, lambda x, label: x)
    with_more = Items(bytes_, names, lambda x, label: (x, None, label))
    for other in (only_x, with_more):
        assert (clf.predict(other) == clf.predict(bytes_)).all()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(clf)).predict(bytes_), clf.predict(data))


def test_attributes_of_the_features(make, digits):
    import pandas as pd

    X, y = digits
    clf = make(None, meta="none", max_epochs=1).fit(pd.DataFrame(X).add_prefix("pixel "), y)
    assert clf.feature_names_in_.shape == (64,)
    clf.fit(Items(X.reshape(-1, 1, 8, 8), y))
    assert clf.n_features_in_ == 1 and not hasattr(clf, "feature_names_in_")
    with pytest.raises(ValueError, match="64 features"):
        clf.predict(X)
    with pytest.raises(ValueError, match="fitted on samples of shape"):
        clf.predict(Items(X, y))


@pytest.mark.filterwarnings("ignore:You set iterator_valid__shuffle=True")
def test_prediction_leaves_nothing_out(make, digits):
    """Settings of D_val's batches that lose or reorder rows are for training."""
    X, y = digits
    clf = make(
        None, meta="none", iterator_valid__shuffle=True, iterator_valid__drop_last=True,
        iterator_valid__batch_size=150,
    )  # fmt: skip
    clf.fit(Items(X, y))
    np.testing.assert_allclose(clf.predict_proba(Items(X, y)), clf.predict_proba(X), atol=1e-6)


def test_warm_start(make, digits, logits):
    X, y = digits
    arrays, loaded = make(warm_start=True), make(warm_start=True)
    for _ in range(2):
        arrays.fit(X, y, teacher_logits=logits)
        loaded.fit(Items(X, y), teacher_logits=logits)
    assert same_run(arrays, loaded)
    with pytest.raises(ValueError, match="warm_start"):
        loaded.fit(Items(X[:, :9], y), teacher_logits=logits)


# --------------------------------------------------------------------------------------
# Random numbers


def test_global_generators_are_left_alone(make, digits, network):
    """Also where the items are drawn with torch's, which then repeats."""
    X, y = digits
    data = Items(X, y, lambda x, label: (torch.tensor(x) + torch.rand(64), label))
    fitted = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)
        before = torch.get_rng_state(), np.random.get_state()[1]
        fitted.append(make(network).fit(data, X_val=Items(X, y)))
        fitted[-1].score(Items(X, y))  # a DataLoader left to itself draws a seed
        assert (torch.get_rng_state() == before[0]).all()
        assert (np.random.get_state()[1] == before[1]).all()
    assert same_run(*fitted)


# --------------------------------------------------------------------------------------
# Wrong input, before any training


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield np.zeros(64, np.float32), 0


class Uncounted(Dataset):
    def __getitem__(self, i):
        return np.zeros(64, np.float32), 0


class BrokenCollation:
    def __call__(self, items):
        return default_collate(items)[0][:-1]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda X, y: {"X": Endless()}, TypeError, "map-style"),
        (lambda X, y: {"X": Uncounted()}, TypeError, "map-style"),
        (lambda X, y: {"X": Items(X[:0], y)}, ValueError, "X is empty"),
        (lambda X, y: {"X": Items(X, y, lambda x, label: (x[: 60 + label], label))}, ValueError, "shape"),
        (lambda X, y: {"X": Items(X, y, lambda x, label: x)}, ValueError, "pairs.*Give y"),
        (lambda X, y: {"X": Items(X, y, lambda x, label: (x, label, 3))}, ValueError, "3 part"),
        (lambda X, y: {"X": Items(X, y, lambda x, label: {"x": x})}, ValueError, "1 part.*Give y"),
        (lambda X, y: {"X": Items(X, y, lambda x, label: (x[0], label))}, ValueError, "two dimensions"),
        (lambda X, y: {"X": Items(X, y, lambda x, label: (None, label))}, ValueError, "NoneType"),
        (
            lambda X, y: {"X": Items(X, y, lambda x, label: (x, [label, label]))},
            ValueError,
            "a number or a string",
        ),
        (lambda X, y: {"X": Items(X, y + 0.5)}, ValueError, "continuous"),
        (lambda X, y: {"X": Items(X, 0 * y)}, ValueError, "1 class"),
        (lambda X, y: {"y": y[:-1]}, ValueError, "X has 400 rows and y 399 labels"),
        (lambda X, y: {"sample_weight": np.ones(399)}, ValueError, "sample_weight"),
        (lambda X, y: {"teacher_logits": np.zeros((399, 10))}, ValueError, r"got \(399, 10\)"),
        (lambda X, y: {"X_val": X, "y_val": y}, TypeError, "TensorDataset"),
        (lambda X, y: {"X": X, "y": y, "X_val": Items(X, y)}, TypeError, "give both in one form"),
        (lambda X, y: {"X_val": Items(X[:, :9], y)}, ValueError, "fitted on samples of shape"),
        (lambda X, y: {"X_val": Items(X, y + 20)}, ValueError, "labels that y lacks"),
        (lambda X, y: {"X_val": Items(X[:0], y)}, ValueError, "X_val is empty"),
        (lambda X, y: {"y_val": y}, ValueError, "X_val is missing"),
    ],
)
def test_data(change, error, match, make, digits, network, no_training):
    with pytest.raises(error, match=match):
        make(network).fit(**({"X": Items(*digits)} | change(*digits)))


@pytest.mark.parametrize(
    ("params", "error", "match"),
    [
        ({"teacher": LogisticRegression()}, ValueError, "teacher LogisticRegression takes arrays.*give fit"),
        ({"teacher": None}, ValueError, "leaves nothing to distil"),
        ({"iterator_train__num_worker": 2}, TypeError, "Did you mean 'iterator_train__num_workers'"),
        ({"iterator_train__sampler": [1]}, TypeError, "takes no 'sampler'"),
        ({"iterator_valid__num_workers": -1}, ValueError, "num_workers"),
        ({"iterator_train__collate_fn": BrokenCollation()}, ValueError, r"shape \(1, 64\)"),
        ({"student": MLPStudent(63, 10)}, ValueError, "cannot take samples"),
    ],
)
def test_parameters(params, error, match, make, digits, network, no_training):
    with pytest.raises(error, match=match):
        make(**({"teacher": network} | params)).fit(Items(*digits))


def test_fitted_classifier_as_teacher(make, digits):
    teacher = FrozenEstimator(LogisticRegression(max_iter=200).fit(*digits))
    with pytest.raises(ValueError, match=r"takes arrays.*teacher_logits"):
        make(teacher).fit(Items(*digits))


def test_arrays_need_labels(make, digits):
    with pytest.raises(ValueError, match="requires y to be passed"):
        make(None, meta="none").fit(digits[0])


def test_row_of_another_shape_is_met_in_training(make, digits):
    """y is given and there is no teacher: nothing has read the row before."""
    X, y = digits
    odd = Items(np.arange(400), y, lambda i, label: X[i][: 64 - (i == 399)])
    with pytest.raises(ValueError, match="differing shape"):
        make(None, meta="none").fit(odd, y)


def test_comparison_refuses_a_dataset(make, digits, network):
    with pytest.raises(TypeError, match="cuts folds out of arrays"):
        compare_methods(make(network), Items(*digits), digits[1])
