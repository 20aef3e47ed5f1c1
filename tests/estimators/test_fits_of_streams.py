"""Fits of streams: the students of the same rows in memory, and what cannot stand with a stream."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from skorch.callbacks import Callback
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset, get_worker_info

from helpers.networks import ConvNet
from helpers.streams import VAL, Counted, Digits, Endless, X, y
from sklearn_kd import (
    DistilledClassifier,
    DistilledRegressor,
    DistProClassifier,
    DistProRegressor,
    MLPStudent,
    Stream,
)
from sklearn_kd.losses import ReviewKD

SETTINGS = {"max_epochs": 3, "batch_size": 64, "random_state": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def linear():
    return LogisticRegression(max_iter=200).fit(X[:600], y[:600])


@pytest.fixture(scope="module")
def network(linear):
    layer = nn.Linear(64, 10)
    layer.weight.data = torch.tensor(linear.coef_, dtype=torch.float32)
    layer.bias.data = torch.tensor(linear.intercept_, dtype=torch.float32)
    return layer


def classifier(teacher, **params):
    return DistilledClassifier(teacher, MLPStudent, **SETTINGS | params)


def weights(estimator):
    return torch.cat([w.detach().flatten() for w in estimator.student_.parameters()])


@pytest.mark.parametrize("meta", ["naive", "linear", "forward", "twins"])
def test_a_stream_gives_the_student_of_the_same_rows_in_memory(network, meta):
    params = {"meta": meta, "search_epochs": None, "batch_size": 32}
    in_order = classifier(network, **params, iterator_train__shuffle=False).fit(X[:600], y[:600], **VAL)
    streamed = classifier(network, **params).fit(Stream(Counted()), **VAL)
    assert torch.equal(weights(streamed), weights(in_order))
    for name in ("train_loss", "valid_loss"):
        assert streamed.history_[:, name] == in_order.history_[:, name]
    moved = streamed.metaparameter_path_["lambda1"]
    np.testing.assert_array_equal(moved, in_order.metaparameter_path_["lambda1"])
    assert (len(set(moved)) > 1) == (meta != "naive")


def test_trials_and_a_search_read_the_stream_from_its_beginning(network):
    clf = classifier(network, search_epochs=1).fit(Stream(Counted()), **VAL)
    in_order = classifier(network, search_epochs=1, iterator_train__shuffle=False)
    in_order.fit(X[:600], y[:600], **VAL)  # which trains the three in one run, and rounds in another way
    np.testing.assert_allclose(clf.trials_["val_loss"], in_order.trials_["val_loss"], rtol=1e-4)


def test_workers_do_not_change_the_fit(network):
    alone = classifier(network, meta="naive").fit(Stream(Counted(), classes=range(10)))
    shared = classifier(network, meta="naive", iterator_train__num_workers=2)
    shared.fit(Stream(Counted(), classes=range(10), stride=True))
    assert torch.equal(weights(alone), weights(shared))


def test_a_trained_classifier_is_asked_batch_by_batch(linear):
    in_order = classifier(FrozenEstimator(linear), meta="naive", iterator_train__shuffle=False)
    in_order.fit(X[:600], y[:600])
    streamed = classifier(FrozenEstimator(linear), meta="naive").fit(Stream(Counted(), classes=range(10)))
    torch.testing.assert_close(weights(streamed), weights(in_order), rtol=1e-3, atol=1e-4)


def test_two_processes_share_a_stream_and_train_the_student_of_one(network):
    params = {"meta": "linear", "search_epochs": None, "batch_size": 32, "max_epochs": 2, "optimizer": "SGD"}
    alone = classifier(network, **params).fit(Stream(Counted()), **VAL)
    shared = classifier(network, **params, parallel=2).fit(Stream(Counted(), stride=True), **VAL)
    torch.testing.assert_close(weights(shared), weights(alone), rtol=1e-4, atol=1e-5)


def test_an_augmented_stream_and_terms_of_features(network):
    def noise(x):
        return x + 0.1 * torch.rand_like(x)

    augmented = classifier(network, meta="naive", augment=noise).fit(Stream(Counted(), classes=range(10)))
    assert augmented.score(X[1200:], y[1200:]) > 0.5

    class Images(Counted):
        def __iter__(self):
            return ((x.reshape(1, 8, 8), label) for x, label in super().__iter__())

    torch.manual_seed(0)
    teacher = ConvNet()
    with_terms = DistilledClassifier(
        teacher, ConvNet, meta="fixed", loss=["kd", ReviewKD(weight=1.0)], **SETTINGS | {"max_epochs": 1}
    )
    with_terms.fit(Stream(Images(), classes=range(10)))
    pathways = DistProClassifier(teacher, ConvNet, **SETTINGS | {"max_epochs": 2, "search_epochs": 1})
    pathways.fit(Stream(Images()), X_val=VAL["X_val"].reshape(-1, 1, 8, 8), y_val=VAL["y_val"])
    assert np.isfinite(pathways.loss_curve_).all()
    assert np.isfinite(with_terms.loss_curve_).all()


def test_labels_may_be_words_and_d_val_a_dataset():
    names = np.array(["even", "odd"])

    class Named(Digits):
        def __iter__(self):
            return ((x, str(names[label % 2])) for x, label in super().__iter__())

    clf = classifier(None, meta="none").fit(Stream(Named(), 600, names))
    assert set(clf.predict(X[:50])) == {"even", "odd"}
    assert clf.score(X[1200:], names[y[1200:] % 2]) > 0.8
    valid = TensorDataset(torch.from_numpy(VAL["X_val"]), torch.from_numpy(VAL["y_val"]))
    clf = classifier(None, meta="none").fit(Stream(Digits(), 600, range(10)), X_val=valid)
    assert clf.validation_scores_[-1] > 0.5


def test_parquet_and_hub_datasets_are_streams():
    table = pa.table({"x": X[:600].tolist(), "label": y[:600]})
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=100)

    class Parquet(IterableDataset):
        """The row groups of a file, divided among the workers."""

        def __len__(self):
            return 600

        def __iter__(self):
            info = get_worker_info()
            worker, n_workers = (0, 1) if info is None else (info.id, info.num_workers)
            groups = pq.ParquetFile(io.BytesIO(file.getvalue()))
            for group in range(worker, groups.num_row_groups, n_workers):
                for row in groups.read_row_group(group).to_pylist():
                    yield torch.tensor(row["x"]), row["label"]

    parquet = classifier(None, meta="none", iterator_train__num_workers=2)
    parquet.fit(Stream(Parquet(), classes=range(10)))
    assert parquet.score(X[1200:], y[1200:]) > 0.7

    def collate(items):
        return torch.stack([item["x"] for item in items]), torch.stack([item["label"] for item in items])

    datasets = pytest.importorskip("datasets.arrow_dataset")  # "datasets" is a folder of these tests, too
    rows = datasets.Dataset(table).to_iterable_dataset(num_shards=4).with_format("torch")
    hub = classifier(None, meta="none", iterator_train__num_workers=2, iterator_train__collate_fn=collate)
    hub.fit(Stream(rows.shuffle(seed=0, buffer_size=100), 600, range(10)))
    assert hub.score(X[1200:], y[1200:]) > 0.7


class Stop(Callback):
    def __init__(self, after):
        self.after = after

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == self.after:
            raise RuntimeError("the machine went away")


class Moving(Counted):
    """Another order in each pass."""

    def set_epoch(self, number):
        self.order = np.random.default_rng(number).permutation(self.n)

    def __iter__(self):
        return ((torch.from_numpy(X[i]), int(y[i])) for i in self.order)


def test_a_fit_that_was_ended_goes_on_with_the_next_pass(network, tmp_path):
    settings = {"meta": "naive", "max_epochs": 4}
    whole = classifier(network, **settings).fit(Stream(Moving(), classes=range(10)))
    broken = classifier(network, **settings, checkpoint_dir=tmp_path, callbacks=[Stop(3)])
    with pytest.raises(RuntimeError, match="went away"):
        broken.fit(Stream(Moving(), classes=range(10)))
    resumed = classifier(network, **settings, checkpoint_dir=tmp_path, callbacks=[Stop(9)])
    resumed.fit(Stream(Moving(), classes=range(10)))
    assert torch.equal(weights(resumed), weights(whole))
    assert resumed.history_[:, "epoch"] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("params", "given", "words"),
    [
        ({"meta": "linear"}, {}, "learns from D_val, which cannot be held out of a stream. Give X_val"),
        ({}, {"y": y[:600]}, "y with a stream"),
        ({}, {"sample_weight": np.ones(600)}, "sample_weight with a stream"),
        ({}, {"teacher_logits": np.ones((600, 10))}, "teacher_logits with a stream.*StoredAnswers"),
        ({}, {"X_unlabeled": X[:50]}, "X_unlabeled with a stream"),
        ({}, {"groups": y[:600]}, "groups with a stream"),
        ({"class_weight": "balanced"}, {}, "class_weight='balanced' with a stream"),
        ({"synthesize": 1.0}, {}, "synthesize=1.0 with a stream"),
        ({"student_preprocessing": "auto"}, {}, "student_preprocessing='auto' with a stream"),
        ({"teacher_logits_dir": "."}, {}, "teacher_logits_dir='.' with a stream.*StoredAnswers"),
        ({"soft_validation": True}, {}, "soft_validation=True with a stream.*Set soft_validation=False"),
        ({"iterator_train__shuffle": True}, {}, "iterator_train__shuffle with a stream"),
        ({"iterator_train__num_workers": 2}, {}, "worker 0 and worker 1 the same first rows"),
    ],
)
def test_what_needs_all_rows_is_refused(network, params, given, words):
    estimator = classifier(network, **{"meta": "naive"} | params)
    with pytest.raises(ValueError, match=words):
        estimator.fit(Stream(Counted(), classes=range(10)), **given)
    assert not hasattr(estimator, "net_")


def test_classes_are_stated_or_those_of_d_val():
    with pytest.raises(ValueError, match=r"Give Stream\(..., classes=...\), all of them\."):
        classifier(None, meta="none").fit(Stream(Counted()))
    with pytest.raises(ValueError, match=r"not among the classes of the Stream: \[9\]\. These are \[0, 1"):
        classifier(None, meta="none").fit(Stream(Counted(), classes=range(9)))

    class Late(Counted):  # behind the head
        def __iter__(self):
            return ((x, 9 if i == 1300 else label % 9) for i, (x, label) in enumerate(super().__iter__()))

    with pytest.raises(ValueError, match=r"not among the classes of the Stream: \[9\]\. These are \[0, 1"):
        classifier(None, meta="none").fit(Stream(Late(1400), classes=range(9)))


def test_a_teacher_that_is_to_be_trained_is_refused():
    with pytest.raises(ValueError, match=r"has to be trained on D_train, and X is a stream.*FrozenEstimator"):
        classifier(LogisticRegression(), meta="naive").fit(Stream(Counted(), classes=range(10)))


@pytest.mark.parametrize("kind", [DistilledRegressor, DistProRegressor])
def test_regressors_take_no_streams(kind, network):
    with pytest.raises(TypeError, match=f"X is a Stream, which {kind.__name__} does not take"):
        kind(network, MLPStudent, device="cpu").fit(Stream(Endless(), 300))


def test_an_iterable_dataset_alone_names_the_stream_and_a_stream_is_not_predicted():
    with pytest.raises(TypeError, match=r"sklearn_kd\.Stream\(dataset, n_rows"):
        classifier(None, meta="none").fit(Digits())
    clf = classifier(None, meta="none", max_epochs=1).fit(Stream(Counted(), classes=range(10)))
    with pytest.raises(TypeError, match="X is a Stream, which only fit takes"):
        clf.predict(Stream(Counted()))
