"""Fits in several processes: they end as the same fit in one, and what ends one of them ends all."""

import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from skorch.callbacks import Callback
from torch import nn
from torch.utils.data import TensorDataset

from helpers.parameter_ids import in_words
from sklearn_kd import (
    DistilledClassifier,
    DistilledRegressor,
    DistProClassifier,
    DistProRegressor,
    MLPStudent,
    TablePreprocessing,
)
from sklearn_kd.losses import LogitDistillation

ROOT = Path(__file__).parents[2]


def table(n=150, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 6)).astype(np.float32)
    return X, (X[:, :n_classes] + 0.3 * rng.normal(size=(n, n_classes))).argmax(1)


def images(n=60):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 1, 8, 8)).astype(np.float32)
    return X, (X[:, 0, :, :4].mean((1, 2)) > X[:, 0, :, 4:].mean((1, 2))).astype(int)


class ConvNet(nn.Module):
    """Two stages without statistics of batches."""

    def __init__(self, n_classes=2, width=4):
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU())
        self.linear = nn.Linear(2 * width, n_classes)

    def forward(self, x):
        return self.linear(self.stage2(self.stage1(x)).mean(dim=(2, 3)))


class Plain(nn.Module):
    """A transform without batch normalisation, which the library's have."""

    def __init__(self, c_in, c_out):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x, size):
        return nn.functional.interpolate(self.conv(x), size)


def network(n_outputs=2):
    torch.manual_seed(1)
    return ConvNet(n_outputs, width=6)


SETTINGS = {"max_epochs": 3, "batch_size": 32, "random_state": 0, "device": "cpu", "parallel": "ddp"}
FOREST = ExtraTreesClassifier(10, max_depth=6)


def make(kind):
    """The estimator and the data of a kind of fit."""
    sgd = {"optimizer": "SGD", "lr": 0.1, "optimizer__momentum": 0.9}
    torch.manual_seed(0)
    if kind == "search and retrain":
        return DistilledClassifier(FOREST, MLPStudent, meta="linear", e1=2, e2=2, **sgd, **SETTINGS), table()
    if kind == "gradient, Adam":
        meta = {"meta": "gradient", "search_epochs": None, "optimizer": "Adam"}
        return DistilledClassifier(FOREST, MLPStudent, **meta, **SETTINGS), table()
    if kind == "shortlist":
        return DistilledClassifier(FOREST, MLPStudent, **sgd, **SETTINGS), table()
    if kind == "hyperopt":
        return DistilledClassifier(
            FOREST, MLPStudent, meta="hyperopt", meta__n_trials=2, **sgd, **SETTINGS
        ), table()
    if kind == "CNN":
        meta = {"meta": "linear", "e1": 2, "e2": 1, "search_epochs": None}
        return DistilledClassifier(network(), ConvNet, **meta, **sgd, **SETTINGS), images()
    if kind == "DistPro":
        layers = {"teacher_layers": ["stage1", "stage2"], "student_layers": ["stage1", "stage2"]}
        return DistProClassifier(
            network(),
            ConvNet,
            search_epochs=2,
            meta__hypergradient="exact",
            transforms=[Plain],
            **layers,
            **sgd,
            **SETTINGS,
        ), images()
    if kind == "DistPro of numbers":
        X, _ = images()
        layers = {"teacher_layers": ["stage1", "stage2"], "student_layers": ["stage1", "stage2"]}
        return DistProRegressor(
            network(1),
            ConvNet,
            search_epochs=2,
            meta__hypergradient="exact",
            transforms=[Plain],
            **layers,
            **sgd,
            **SETTINGS,
        ), (X, X.mean((1, 2, 3)))
    if kind == "regressor":
        X, _ = table()
        y = X[:, 0] - X[:, 1] ** 2
        forest = ExtraTreesRegressor(10, max_depth=6)
        return DistilledRegressor(forest, MLPStudent, meta="linear", **sgd | {"lr": 0.01}, **SETTINGS), (X, y)
    if kind == "preprocessing":
        table_student = {"student_preprocessing": TablePreprocessing()}
        return DistilledClassifier(
            FOREST, MLPStudent, meta="naive", **table_student, **sgd, **SETTINGS
        ), table()
    if kind == "Dataset":
        X, y = table()
        dataset = TensorDataset(torch.as_tensor(X), torch.as_tensor(y))
        return DistilledClassifier(mapping(X), MLPStudent, meta="gradient", **sgd, **SETTINGS), (dataset,)
    if kind == "augmented, asked again":
        X, y = table()
        meta = {"meta": "gradient", "augment": torch.neg}
        return DistilledClassifier(mapping(X), MLPStudent, **meta, **sgd, **SETTINGS), (X, y)
    if kind == "maps":
        X, _ = images()
        y = np.digitize(X[:, 0], [-0.5, 0.5])
        student = nn.Conv2d(1, 3, 3, 1, 1)
        teacher = nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 3, 1))
        return DistilledClassifier(teacher, student, meta="gradient", **sgd, **SETTINGS), (X, y)
    if kind == "twins":
        return DistilledClassifier(FOREST, MLPStudent, meta="twins", **sgd, **SETTINGS), table()
    raise ValueError(kind)


def mapping(X):
    torch.manual_seed(1)
    return nn.Linear(X.shape[1], 3)


KINDS = [
    "search and retrain", "gradient, Adam", "shortlist", "hyperopt", "CNN", "DistPro", "DistPro of numbers", "regressor", "preprocessing",
    "Dataset", "augmented, asked again", "maps", "twins",
]  # fmt: skip


def fit(ranks, kind, parallel="ddp"):
    clf, data = make(kind)
    clf.set_params(parallel=parallel)
    return result_of(clf.fit(*data), None if kind == "Dataset" else data[0])


def result_of(clf, X):
    path = (
        clf.process_.raw
        if isinstance(clf, (DistProClassifier, DistProRegressor))
        else clf.metaparameter_path_
    )
    names = path.dtype.names
    columns = [path] if names is None else [path[name] for name in names if name not in ("iteration",)]
    return {
        "weights": [w.detach().numpy() for w in clf.student_.parameters()],
        "path": [np.asarray(column, dtype=float) for column in columns],
        "losses": [row["train_loss"] for row in clf.history_],
        "terms": [row.get("pathways_loss", 0.0) for row in clf.history_],
        "scores": clf.validation_scores_ or [],
        "outputs": []
        if X is None
        else clf.predict_proba(X)
        if hasattr(clf, "predict_proba")
        else clf.predict(X),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_end_as_one(two, kind):
    found = two.run(fit, kind)
    alone = fit(None, kind, parallel=None)
    for name in alone:
        for of_rank in found:
            for ours, theirs in zip(alone[name], of_rank[name], strict=True):
                np.testing.assert_allclose(theirs, ours, rtol=2e-3, atol=2e-4, err_msg=name)
    for name in ("weights", "path"):  # of both processes to the bit
        for first, second in zip(found[0][name], found[1][name], strict=True):
            np.testing.assert_array_equal(first, second)


# --------------------------------------------------------------------------------------
# What all have in common


def fit_without_seed(ranks):
    """Of a fit without a ``random_state``: each process draws from another state of NumPy's generator."""
    np.random.seed(ranks.rank)
    clf, data = make("preprocessing")
    clf.set_params(random_state=None, keep_teacher=True).fit(*data)
    outputs = clf.predict_proba(data[0])
    again = clf.set_params(warm_start=True).fit(*data)  # goes on
    teacher = clf.teacher_.predict_proba(data[0])
    return outputs, teacher, again.predict_proba(data[0]), again.n_iter_


def test_the_seed_is_that_of_the_first_process(two):
    for first, second in zip(*two.run(fit_without_seed), strict=True):
        np.testing.assert_array_equal(first, second)


class CountingNetwork(ConvNet):
    """Counts the rows that it is asked about."""

    rows = 0

    def forward(self, x):
        type(self).rows += len(x)
        return super().forward(x)


def rows_asked(ranks, n):
    X, y = images(n)
    torch.manual_seed(1)
    clf = DistilledClassifier(CountingNetwork(width=6), ConvNet, meta="naive", **SETTINGS | {"max_epochs": 1})
    CountingNetwork.rows = 0
    return clf.fit(X, y).loss_curve_, CountingNetwork.rows


def test_a_network_is_asked_by_each_about_its_share(two):
    n = 3 * 1024 + 100  # of four batches each process asks two
    (losses, first), (same, second) = two.run(rows_asked, n)
    assert losses == same
    assert first < 2 * 1024 + 50 and second < 1024 + 150
    X, y = images(n)
    alone = DistilledClassifier(
        network(), ConvNet, meta="naive", **SETTINGS | {"max_epochs": 1, "parallel": None}
    )
    np.testing.assert_allclose(losses, alone.fit(X, y).loss_curve_, rtol=1e-5)


class FittedOnce(ExtraTreesClassifier):
    """Cannot be fitted but in the first process."""

    def fit(self, X, y, sample_weight=None):
        if torch.distributed.get_rank():
            raise AssertionError("fitted twice")
        return super().fit(X, y, sample_weight)


def fit_with(ranks, **params):
    clf, data = make("preprocessing")
    clf.set_params(**params).fit(*data)
    return clf.loss_curve_


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_teacher_is_fitted_once(two, tmp_path, dtype):
    for folder in (None, tmp_path):
        params = {"teacher": FittedOnce(5), "teacher_logits_dtype": dtype, "teacher_logits_dir": folder}
        first, second = two.run(fit_with_params, params)
        assert first == second


def fit_with_params(ranks, params):
    return fit_with(ranks, **params)


# --------------------------------------------------------------------------------------
# Errors, and interrupts


def fit_sharded(ranks, kind, params, checkpoints):
    """Fit under a teacher of which each process has a part; and under the same in one piece."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    sharded, mesh = network(), init_device_mesh("cpu", (2,))
    for part in sharded.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            fully_shard(part, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    fitted = []
    for teacher, folder in ((sharded, checkpoints), (network(), None)):
        clf, data = make(kind)
        clf.set_params(teacher=teacher, checkpoint_dir=folder, **params).fit(*data)
        fitted.append(clf.net_.module_.state_dict())
    part = next(w for w in sharded.parameters() if w.ndim > 1)
    return part.to_local().shape == part.shape, *fitted


@pytest.mark.parametrize(
    ("kind", "params"), [("CNN", {}), ("CNN", {"augment": torch.clone}), ("DistPro", {})], ids=in_words
)
def test_a_sharded_teacher_teaches_as_a_whole_one(two, kind, params, tmp_path):
    for is_whole, first, second in two.run(fit_sharded, kind, params, tmp_path):
        assert not is_whole
        torch.testing.assert_close(first, second, rtol=0, atol=0)


def outcome(function):
    """What a fit ends with: its result, or its error's kind and words. One that hangs is an error of ``run``."""
    try:
        return "no error", function()
    except BaseException as error:
        return type(error).__name__, str(error)


def callback(rank, what):
    class InOneProcess(Callback):
        def on_epoch_begin(self, net, **kwargs):
            if torch.distributed.get_rank() == rank and len(net.history) == 2:
                what()

    return InOneProcess()


def fail():
    raise ZeroDivisionError("of this process alone")


def interrupt():
    signal.raise_signal(signal.SIGINT)


def fit_with_callback(ranks, rank, what):
    clf, data = make("preprocessing")
    return outcome(lambda: len(clf.set_params(callbacks=[callback(rank, what)]).fit(*data).loss_curve_))


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_one_process_ends_all(two, rank):
    found = two.run(fit_with_callback, rank, fail)
    kind, text = found[rank]
    assert (kind, text) == ("ZeroDivisionError", "of this process alone")
    kind, text = found[1 - rank]
    assert kind == "RankError"
    assert text == f"Rank {rank} of 2 failed, so all ranks end: ZeroDivisionError: of this process alone"


@pytest.mark.parametrize("rank", [0, 1])
def test_an_interrupt_of_one_process_ends_all_with_a_student(two, rank):
    for found in two.run(fit_interrupted, rank):
        assert found[0] == "no error", found
        n_epochs, interrupted, messages = found[1]
        assert n_epochs == 2 and interrupted and any("Interrupted in epoch" in text for text in messages)


def fit_interrupted(ranks, rank):
    clf, data = make("preprocessing")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        def run():
            clf.set_params(callbacks=[callback(rank, interrupt)], max_epochs=5).fit(*data)
            clf.predict(data[0])
            return len(clf.history_), clf.net_.interrupted_, [str(w.message) for w in caught]

        return outcome(run)


def fit_other_data(ranks, change):
    clf, (X, y) = make("preprocessing")
    if ranks.rank:
        X, y, params = change(X, y)
        clf.set_params(**params)
    return outcome(lambda: clf.fit(X, y))


def own_share(X, y):
    return X[75:], y[75:], {}


def other_parameter(X, y):
    return X, y, {"lr": 0.2}


def other_loss(X, y):
    return X, y, {"loss": LogitDistillation(temperature_bounds=(1.0, 5.0))}


def not_finite(X, y):
    X = X.copy()
    X[3, 1] = np.inf
    return X, y, {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (own_share, "the number of rows, y, X"),
        (other_parameter, "parameter lr"),
        (other_loss, "parameter loss"),
    ],
)
def test_all_must_be_given_the_same(two, change, words):
    for kind, text in two.run(fit_other_data, change):
        assert kind == "RuntimeError" and f"differ in {words}" in text, (kind, text)


def test_an_error_before_training_ends_all(two):
    (kind, text), (own, _) = two.run(fit_other_data, not_finite)
    assert kind == "RankError" and own == "ValueError"
    assert text.startswith("Rank 1 of 2 failed, so all ranks end: ValueError: student_preprocessing: column")


class Unable(ExtraTreesClassifier):
    """Cannot be fitted."""

    def fit(self, X, y, sample_weight=None):
        raise ValueError("no trees here")


def fit_unable(ranks):
    return outcome(lambda: fit_with(ranks, teacher=Unable()))


def test_an_error_of_the_teacher_ends_all(two):
    (own, text), (kind, told) = two.run(fit_unable)
    assert own == "ValueError" and "no trees here" in text
    assert kind == "RankError" and "no trees here" in told


# --------------------------------------------------------------------------------------
# New processes on this machine


class AtIteration(Callback):
    """In the iteration and the process that a file names, which it removes, calls what the file names."""

    def __init__(self, path):
        self.path = path

    def initialize(self):
        self.n_ = 0
        return self

    def on_batch_begin(self, net, training=False, **kwargs):
        self.n_ += 1
        if not os.path.exists(self.path):
            return
        with open(self.path) as file:
            rank, iteration, what = file.read().split()
        if torch.distributed.get_rank() == int(rank) and self.n_ == int(iteration):
            os.remove(self.path)
            {"fail": fail, "kill": killed, "interrupt": interrupt_parent}[what]()


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt_parent():
    """Press Ctrl-C in the parent, and wait until it has been handed on: the fit could end before."""
    before, end = signal.getsignal(signal.SIGINT), time.monotonic() + 20
    os.kill(os.getppid(), signal.SIGINT)
    while signal.getsignal(signal.SIGINT) is before and time.monotonic() < end:
        time.sleep(0.02)


class DropoutStudent(nn.Sequential):
    """Draws in each process by itself."""

    def __init__(self, in_features, n_classes):
        super().__init__(nn.Linear(in_features, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, n_classes))


def undisturbed(ranks, path):
    clf, data = disturbed(path)
    return result_of(clf.set_params(parallel="ddp", checkpoint_dir=None).fit(*data), data[0])


def disturbed(path):
    clf, data = make("search and retrain")
    params = {"student": DropoutStudent, "max_epochs": 4, "retrain": "fresh", "keep_teacher": True}
    params |= {"callbacks": [AtIteration(f"{path}.file")], "random_state": np.random.RandomState(5)}
    return clf.set_params(parallel=2, checkpoint_dir=path, **params), data


@contextmanager
def hears_interrupts():
    """Take Ctrl-C as Python does, also where a shell has started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def test_new_processes_end_as_those_that_were_launched_whatever_ends_them(two, tmp_path, capsys):
    """An error, a kill and Ctrl-C; each fit goes on from the checkpoint of the one before."""
    path = tmp_path / "checkpoints"
    clf, (X, y) = disturbed(path)
    expected = two.run(undisturbed, path)[0]

    def in_iteration(number, what):  # of the 20 of the retraining
        Path(f"{path}.file").write_text(f"{number % 2} {number} {what}")

    in_iteration(7, "fail")
    with pytest.raises(ZeroDivisionError, match="of this process alone"):
        clf.fit(X, y)
    in_iteration(6, "kill")  # after 5 that are behind it
    with pytest.raises(RuntimeError, match="parallel=2: one of the processes was killed"):
        clf.fit(X, y)
    assert not hasattr(clf, "net_")
    with pytest.raises(ValueError, match="written by 2 processes training together, but now there is 1"):
        clone(clf).set_params(parallel=None, random_state=np.random.RandomState(5)).fit(X, y)
    assert clf.set_params(verbose=1).fit(X, y) is clf
    assert "retraining 4/4" in capsys.readouterr().out
    found = result_of(clf, X)
    for name, values in expected.items():
        for ours, theirs in zip(values, found[name], strict=True):
            np.testing.assert_array_equal(theirs, ours, err_msg=name)
    assert not list(path.glob("*/*.checkpoint"))

    alone, generator = clone(clf), np.random.RandomState(5)
    alone.set_params(parallel=None, random_state=generator).fit(X, y)
    assert vars(clf).keys() == vars(alone).keys() and clf.parallel == 2
    assert clf.random_state.randint(10**9) == generator.randint(10**9)
    assert clf.teacher is not clf.teacher_ and not hasattr(clf.teacher, "estimators_")
    again = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))

    in_iteration(8, "interrupt")
    with hears_interrupts(), pytest.warns(UserWarning, match="Interrupted in epoch"):
        clf.fit(X, y)
    assert clf.net_.interrupted_ and len(clf.history_) < 4 and len(clf.predict(X)) == len(X)


# --------------------------------------------------------------------------------------
# Started by torchrun


SCRIPT = """
import sys, warnings
sys.path[:0] = {paths}
warnings.simplefilter("error")
import numpy as np
from test_parallel import make
clf, data = make("CNN")
clf.set_params(verbose=1, callbacks__print_log__sink=print).fit(*data)
if clf.net_.ranks.is_first:
    np.save({out!r}, clf.predict_proba(data[0]))
"""


def test_torchrun(two, tmp_path):
    """Initialises the processes by the environment; the first one prints."""
    script, out = tmp_path / "train.py", tmp_path / "outputs.npy"
    paths = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]
    script.write_text(SCRIPT.format(paths=paths, out=str(out)))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--standalone",
        str(script),
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("train_loss") == 1
    np.testing.assert_array_equal(np.load(out), two.run(fit, "CNN")[0]["outputs"])
