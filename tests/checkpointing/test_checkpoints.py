"""A fit that ends before its time is gone on with, and ends as it would have."""

import hashlib
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from skorch.callbacks import (
    Callback,
    EarlyStopping,
    EpochScoring,
    Freezer,
    GradientNormClipping,
    LRScheduler,
)
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau
from torch.utils.data import TensorDataset

from helpers.networks import ConvNet
from helpers.parameter_ids import in_words
from helpers.settings import SINGLE_RUN
from sklearn_kd import DistilledClassifier, DistProRegressor, MetaparameterProcess, MLPStudent, meta
from sklearn_kd.checkpointing._file import Refused, read, write
from sklearn_kd.checkpointing._fingerprint import fingerprint
from sklearn_kd.checkpointing._fit_lock import FitLock
from sklearn_kd.losses import DistillationLoss, LogitDistillation, MultilabelDistillation

SCRIPT = Path(__file__).parents[2] / "examples" / "evidence" / "kill_and_resume.py"
linux = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


class Killed(Exception):
    pass


class Kill(Callback):
    """Ends everything in the ``last``-th training batch that all fits together make."""

    made, last = 0, None

    def __init__(self):
        pass

    def on_batch_end(self, net, training=False, **kwargs):
        if training:
            Kill.made += 1
            if Kill.made == Kill.last:
                raise Killed


@pytest.fixture(autouse=True)
def nobody_kills():
    Kill.made, Kill.last = 0, None


class Regularized(nn.Sequential):
    def __init__(self, in_features, n_classes):
        body = nn.Linear(in_features, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3)
        super().__init__(*body, nn.Linear(16, n_classes))


def without_durations(history):
    return [{k: v for k, v in row.items() if k != "dur"} for row in history.to_list()]


def assert_same_fit(a, b):
    state, other = a.student_.state_dict(), b.student_.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in state.items())
    assert repr(without_durations(a.history_)) == repr(without_durations(b.history_))
    if isinstance(a, DistilledClassifier):
        assert a.metaparameter_path_.tobytes() == b.metaparameter_path_.tobytes()
        assert a.val_temperature_ == b.val_temperature_
    else:
        assert a.process_.raw.tobytes() == b.process_.raw.tobytes()
        assert repr(without_durations(a.search_history_)) == repr(without_durations(b.search_history_))


def killed_after(n, clf, *given, **named):
    Kill.made, Kill.last = 0, n
    with pytest.raises(Killed):
        clf.fit(*given, **named)
    Kill.last = None


def resumed(make, n, tmp_path, *given, **named):
    """A fit killed in its n-th batch and made again by a new estimator; how many batches that took."""
    killed_after(n, make(checkpoint_dir=tmp_path), *given, **named)
    Kill.made = 0
    clf = make(checkpoint_dir=tmp_path).fit(*given, **named)
    assert os.listdir(tmp_path) == []
    return clf, Kill.made


def files(folder, stage="training"):
    return sorted(folder.glob(f"*/{stage}-*.checkpoint"))


# --------------------------------------------------------------------------------------
# The end is the same to the bit. An epoch has 12 batches.

adam = {"optimizer": torch.optim.Adam, "lr": 0.01}
stop = {"monitor": "valid_loss", "patience": 3, "threshold": 0.05, "sink": lambda _: None}
CONFIGURATIONS = {
    "gradient, clipped": lambda: {"meta": "gradient", "max_grad_norm": 0.5},
    # The second epoch ends in the prediction, the third in the hypergradients of a cycle.
    "linear": lambda: {"meta": "linear", "e1": 5, "e2": 11},
    "naive": lambda: {"meta": "naive"},
    "exact, momentum, one cycle": lambda: {
        "meta": "gradient", "meta__hypergradient": "exact", "optimizer__momentum": 0.9,
        "callbacks": [Kill(), LRScheduler(OneCycleLR, max_lr=0.1, total_steps=60, step_every="batch")],
    },
    "Adam, cosine, dropout, batch normalisation, early stopping": lambda: adam | {
        "meta": "linear", "e1": 3, "e2": 4, "student": Regularized, "max_epochs": 20,
        "callbacks": [Kill(), LRScheduler(CosineAnnealingLR, T_max=8), EarlyStopping(**stop, load_best=True)],
    },
    "metaparameters by Adam, T_val, plateau, clipping": lambda: {
        "meta": "gradient", "meta__optimizer": torch.optim.Adam, "meta__lr": 0.05, "meta__val_temperature": "auto",
        "callbacks": [Kill(), GradientNormClipping(0.5),
                      LRScheduler(ReduceLROnPlateau, monitor="train_loss", patience=0, threshold=0.5)],
    },
    "a frozen layer, a score of one's own": lambda: {
        "meta": "random", "callbacks": [Kill(), Freezer("layers.1.weight", at=2),
                      EpochScoring("accuracy", name="acc", on_train=True, use_caching=False)],
    },
    "shuffled validation": lambda: {"meta__val_temperature": "auto", "iterator_valid__shuffle": True},
}  # fmt: skip


def test_killed_while_a_strategy_waits_for_adam(make, digits, logits, tmp_path):
    """An epoch has 3 batches: it is gone on with from iteration 6 of the ten that are waited for."""

    def own(**params):
        settings = adam | {"meta": "linear", "e1": 4, "e2": 5, "batch_size": 128, "max_epochs": 8}
        return make(callbacks=[Kill()], **settings, **params)

    whole = own().fit(*digits, teacher_logits=logits)
    again, made = resumed(own, 8, tmp_path, *digits, teacher_logits=logits)
    assert_same_fit(whole, again)
    taken = np.flatnonzero(np.isfinite(again.metaparameter_path_["val_loss"]))
    assert made == 24 - 6 and taken.tolist() == [10, 11, 12, 13, 19, 20, 21, 22]


@pytest.mark.filterwarnings("ignore:You set iterator_valid__shuffle")
@pytest.mark.parametrize("n", [15, 41])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_to_the_bit(name, n, make, digits, logits, once, tmp_path):
    def made(**params):
        return make(**{"max_epochs": 4, "callbacks": [Kill()]} | CONFIGURATIONS[name]() | params)

    expected = once(name, lambda: made().fit(*digits, teacher_logits=logits))
    clf, n_batches = resumed(made, n, tmp_path, *digits, teacher_logits=logits)
    assert_same_fit(clf, expected)
    per_epoch = clf.n_iter_ // len(clf.history_)
    assert n_batches == clf.n_iter_ - n // per_epoch * per_epoch


def test_killed_before_the_first_epoch_ends(make, digits, logits, tmp_path):
    def made(**params):
        return make(callbacks=[Kill()], **params)

    clf, n_batches = resumed(made, 7, tmp_path, *digits, teacher_logits=logits)
    assert_same_fit(clf, made().fit(*digits, teacher_logits=logits))
    assert n_batches == clf.n_iter_


def test_an_error_that_is_kept_does_not_keep_the_checkpoints(make, digits, logits, tmp_path):
    """As in a notebook, which keeps the last error, and with it the frames of the fit."""
    Kill.last = 30
    with pytest.raises(Killed) as kept:
        make(callbacks=[Kill()], checkpoint_dir=tmp_path, max_epochs=3).fit(*digits, teacher_logits=logits)
    Kill.made, Kill.last = 0, None
    again = make(callbacks=[Kill()], checkpoint_dir=tmp_path, max_epochs=3)
    again.fit(*digits, teacher_logits=logits)
    assert kept.traceback and Kill.made == 36 - 24 and os.listdir(tmp_path) == []


def test_killed_more_than_once(make, digits, logits, tmp_path):
    def made(**params):
        return make(callbacks=[Kill()], max_epochs=6, **params)

    for n in (20, 17, 9):
        killed_after(n, made(checkpoint_dir=tmp_path), *digits, teacher_logits=logits)
    # 12 batches are behind the second, and 24 behind the third, which gets no further.
    assert [path.name[-13:-11] for path in files(tmp_path)] == ["01", "02"]
    clf = made(checkpoint_dir=tmp_path).fit(*digits, teacher_logits=logits)
    assert_same_fit(clf, made().fit(*digits, teacher_logits=logits))


def noisy(x):
    return x + 0.1 * torch.randn_like(x)


def test_augmented_batches(make, digits, network, tmp_path):
    def made(**params):
        known = {"augment": noisy, "callbacks": [Kill()], "max_epochs": 4, "meta": "gradient"}
        return make(network, **known | params)

    clf, _ = resumed(made, 29, tmp_path, *digits)
    assert_same_fit(clf, made().fit(*digits))


class Noisy(TensorDataset):
    """Draws from torch's global generator, as transforms do."""

    def __getitem__(self, row):
        x, label = super().__getitem__(row)
        return x + 0.1 * torch.rand(()), label


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=linux)])
def test_dataset(workers, make, digits, logits, tmp_path):
    X, y = map(torch.as_tensor, digits)

    def made(**params):
        loader = {f"iterator_{part}__num_workers": workers for part in ("train", "valid")}
        known = {"callbacks": [Kill()], "max_epochs": 2, "batch_size": 64, "meta": "linear", "e1": 2, "e2": 3}
        return make(**known | loader | params)

    clf, n_batches = resumed(made, 9, tmp_path, Noisy(X, y), teacher_logits=logits)
    assert_same_fit(clf, made().fit(Noisy(X, y), teacher_logits=logits))
    assert n_batches == 12 - 6


@pytest.mark.parametrize("loaded", [False, True])
def test_rows_without_labels(loaded, make, digits, logits, tmp_path):
    """The order of both kinds goes on where it was; of other unlabeled rows the fit begins anew."""
    X, y = digits[0][:150], digits[1][:150]
    given, rest = (
        (TensorDataset(*map(torch.as_tensor, (X, y))),),
        TensorDataset(torch.as_tensor(digits[0][150:])),
    )
    if not loaded:
        given, rest = (X, y), digits[0][150:]
    named = {"X_unlabeled": rest, "teacher_logits": logits[:150], "teacher_logits_unlabeled": logits[150:]}

    def made(**params):
        return make(**{"callbacks": [Kill()], "max_epochs": 3, "e1": 2, "e2": 3} | params)

    clf, n_batches = resumed(made, 30, tmp_path, *given, **named)
    assert_same_fit(clf, made().fit(*given, **named))
    per_epoch = clf.n_iter_ // 3
    assert n_batches < 3 * per_epoch
    killed_after(30, made(checkpoint_dir=tmp_path), *given, **named)
    Kill.made = 0
    made(checkpoint_dir=tmp_path).fit(*given, **named | {"teacher_logits_unlabeled": -logits[150:]})
    assert Kill.made > n_batches


def test_sample_weight_and_a_teacher_that_is_fitted(make, digits, tmp_path):
    def made(**params):
        return make(LogisticRegression(C=0.01), callbacks=[Kill()], max_epochs=3, keep_teacher=True, **params)

    weight = np.random.default_rng(0).random(400)
    clf, _ = resumed(made, 29, tmp_path, *digits, sample_weight=weight)
    assert_same_fit(clf, made().fit(*digits, sample_weight=weight))
    assert clf.teacher_.coef_.shape == (10, 64)


@pytest.mark.parametrize("strategy", ["linear", "shortlist"])
def test_several_labels(strategy, make, digits, logits, tmp_path):
    """A fit of three questions about each digit, killed in its search and in its retraining."""
    X, y = digits
    labels = np.c_[y % 2, y > 4, y % 3 == 0].astype(int)
    loss = MultilabelDistillation(per_label=True)

    def made(**params):
        known = {"meta": strategy, "search_epochs": 2, "search_callbacks": [Kill()], "callbacks": [Kill()]}
        return make(loss=loss, **known | params)

    expected = made().fit(X, labels, teacher_logits=logits[:, :3])
    for n in (14, 40):
        clf, _ = resumed(made, n, tmp_path, X, labels, teacher_logits=logits[:, :3])
        assert_same_fit(clf, expected)


@pytest.mark.parametrize("n", [8, 60, 90, 110])
@pytest.mark.parametrize("strategy", [meta.Hyperopt(n_trials=4), meta.Random(n_trials=4)])
def test_trials_are_not_made_again(strategy, n, make, digits, logits, once, tmp_path):
    def made(**params):
        return make(callbacks=[Kill()], meta=strategy, **params)

    expected = once(type(strategy), lambda: made().fit(*digits, teacher_logits=logits))
    clf, n_batches = resumed(made, n, tmp_path, *digits, teacher_logits=logits)
    assert_same_fit(clf, expected)
    # Of 5 trainings of 24 batches; the last one has a checkpoint in its middle.
    assert n_batches == (120 - n // 24 * 24 if n < 96 else 12)
    for name in ("lambda1", "temperature", "val_loss"):
        assert clf.trials_[name].tobytes() == expected.trials_[name].tobytes()


class Fragile(MLPStudent):
    """Ends everything in the ``last``-th pass."""

    passes, last = 0, None

    def forward(self, x):
        Fragile.passes += 1
        if Fragile.passes == Fragile.last:
            raise Killed
        return super().forward(x)


@pytest.mark.parametrize("last", [40, 90, 120])
def test_trials_made_together(last, make, digits, logits, tmp_path):
    """Of 4 random trials in one run nothing is known before all are done; the guided one follows."""

    def fit(last, **params):
        Fragile.passes, Fragile.last = 0, last
        strategy = meta.Hyperopt(n_trials=5, n_startup_trials=4)
        return make(student=Fragile, meta=strategy, **params).fit(*digits, teacher_logits=logits)

    expected = fit(None)
    with pytest.raises(Killed):
        fit(last, checkpoint_dir=tmp_path)
    assert bool(files(tmp_path, "trials")) == (last > 40)
    assert_same_fit(fit(None, checkpoint_dir=tmp_path), expected)


# --------------------------------------------------------------------------------------
# DistPro


@pytest.mark.parametrize("n", [3, 10, 14, 19])
@pytest.mark.parametrize("learned", [False, True])
def test_distpro(learned, n, make_distpro, images, once, tmp_path):
    """A search of 3 epochs of 4 batches, and a retraining of 3 epochs of 5; 4 pathways."""

    def made(**params):
        known = {
            "transforms": ["conv1"],
            "search_epochs": 3,
            "max_epochs": 3,
            "search_callbacks": [Kill()],
            "callbacks": [Kill()],
        }
        if learned:
            known |= {"logit_weight": "learned", "meta": "linear", "e1": 3, "e2": 2}
        return make_distpro(student__dropout=0.2, optimizer__momentum=0.9, **known | params)

    expected = once(("DistPro", learned), lambda: made().fit(*images))
    clf, n_batches = resumed(made, n, tmp_path, *images)
    assert_same_fit(clf, expected)
    assert n_batches == 27 - (n // 4 * 4 if n < 12 else 12 + (n - 12) // 5 * 5)
    if learned:
        assert clf.process_.logit_term.tobytes() == expected.process_.logit_term.tobytes()


@pytest.mark.parametrize("n", [6, 14])
def test_distpro_of_numbers(n, images, tmp_path):
    """A search of 3 epochs of 4 batches, with lambda1 and Huber's width, and a retraining of 2 of 5."""
    X, ink = images[0], images[0].mean(axis=(1, 2, 3))
    y = (ink - ink.mean()) / ink.std()  # the units of an untrained network
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = ConvNet(1, width=6)

    def made(**params):
        known = {"transforms": ["conv1"], "search_epochs": 3, "max_epochs": 2, "batch_size": 32, "lr": 0.05}
        known |= {"loss": "huber", "output_weight": "learned", "optimizer": "sgd", "student__dropout": 0.2}
        known |= {"search_callbacks": [Kill()], "callbacks": [Kill()], "random_state": 0, "device": "cpu"}
        return DistProRegressor(teacher, ConvNet, **known | params)

    expected = made().fit(X, y)
    clf, n_batches = resumed(made, n, tmp_path, X, y)
    assert_same_fit(clf, expected)
    assert n_batches == (22 - 4 if n == 6 else 10)
    for name, values in expected.process_.output_term.values.items():
        np.testing.assert_array_equal(clf.process_.output_term.values[name], values)


@pytest.mark.parametrize("n", [3, 14, 25, 40])
@pytest.mark.parametrize(("weights", "retrain"), [("mean", "continue"), ("process", "average")])
def test_a_search_of_a_distilled_classifier(weights, retrain, n, make, digits, logits, once, tmp_path):
    """A search of 2 epochs of 12 batches, and a retraining of 2 of 13."""

    def made(**params):
        known = {"search_epochs": 2, "meta": "linear", "e1": 3, "e2": 7, "meta__lr": 20.0, "weights": weights}
        known["retrain"] = retrain
        known |= {"search_callbacks": [Kill()], "callbacks": [Kill()], "meta__val_temperature": "auto"}
        return make(**known | params)

    expected = once(("search", weights), lambda: made().fit(*digits, teacher_logits=logits))
    clf, n_batches = resumed(made, n, tmp_path, *digits, teacher_logits=logits)
    assert_same_fit(clf, expected)
    assert repr(without_durations(clf.search_history_)) == repr(without_durations(expected.search_history_))
    assert n_batches == 50 - (n // 12 * 12 if n < 24 else 24 + (n - 24) // 13 * 13)


def test_trials_that_are_the_search_are_not_tried_again(make, digits, logits, tmp_path):
    def made(**params):
        known = {"meta": meta.Random(n_trials=3), "search_epochs": 1, "search_callbacks": [Kill()]}
        return make(callbacks=[Kill()], retrain="continue", **known | params)  # the best student of a trial

    expected = made().fit(*digits, teacher_logits=logits)
    clf, n_batches = resumed(made, 3 * 12 + 14, tmp_path, *digits, teacher_logits=logits)
    assert_same_fit(clf, expected)
    assert n_batches == 13


def test_a_checkpoint_is_of_one_process(make, digits, logits, tmp_path):
    """Given as a file, which another one has replaced."""
    entries = LogitDistillation().metaparameters(10)

    def made():
        return make(process=tmp_path / "p.npz", callbacks=[Kill()], checkpoint_dir=tmp_path / "c")

    for temperature in (2.0, 3.0):
        process = MetaparameterProcess({"lambda1": [0.5, 0.5], "temperature": [1.0, temperature]}, entries)
        process.save(tmp_path / "p.npz")
        killed_after(15, made(), *digits, teacher_logits=logits)
    assert len(files(tmp_path / "c", "retraining")) == 2


def test_a_damaged_process_is_searched_from_the_epoch_before(make_distpro, images, tmp_path):
    def made(**params):
        known = {
            "transforms": ["conv1"],
            "search_epochs": 3,
            "search_callbacks": [Kill()],
            "callbacks": [Kill()],
        }
        return make_distpro(**known | params)

    killed_after(18, made(checkpoint_dir=tmp_path), *images)
    files(tmp_path, "search")[-1].write_bytes(b"")
    with pytest.warns(UserWarning, match="search-00000003.checkpoint is not used: it is empty"):
        clf = made(checkpoint_dir=tmp_path).fit(*images)
    assert_same_fit(clf, made().fit(*images))


# --------------------------------------------------------------------------------------
# By SIGKILL, from inside and outside, with a checkpoint half written


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("kill_and_resume", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["kill_and_resume"] = module
    spec.loader.exec_module(module)
    return module


@linux
@pytest.mark.parametrize("how", ["in a batch", "in a write", "before the rename", "from outside"])
@pytest.mark.parametrize("name", ["linear, e1=7, e2=9", "DistPro, linear, learned lambda1 and T"])
def test_killed(name, how, script, once, capfd):
    """In a process of its own, so that what it has loaded is as it would be."""
    rng = np.random.default_rng(1)
    reference = once(("by SIGKILL", name), lambda: script.reference_of(name))
    kill = script.one_kill(name, reference, how, rng)
    assert kill["identical"] and kill["files_left"] == 0
    assert how == "from outside" or kill["killed"]


class KillsProcess(Callback):
    """Ends the process in one batch."""

    at = None

    def __init__(self):
        pass

    def on_batch_end(self, net, training=False, **kwargs):
        if training and net.metaparameters.iteration == KillsProcess.at:
            os.kill(os.getpid(), signal.SIGKILL)


def fitted_to_digits(folder):
    X, y = load_digits(return_X_y=True)
    X, y = (X[:400] / 16).astype(np.float32), y[:400]
    quick = SINGLE_RUN | {"max_epochs": 3, "batch_size": 32, "random_state": 0, "device": "cpu"}
    clf = DistilledClassifier(None, MLPStudent, callbacks=[KillsProcess()], checkpoint_dir=folder, **quick)
    return clf.fit(X, y, teacher_logits=4 * np.eye(10)[y])


VALUES = {"a": [1, 2.5, "x", None, np.arange(3), torch.ones(2), {3, 1}], "b": noisy, "c": nn.Linear}
PROGRAM = """
import json, sys, torch
import test_checkpoints as tests
torch.set_num_threads(1)
clf = tests.fitted_to_digits(sys.argv[1])
path = clf.metaparameter_path_.tobytes().hex()
print(json.dumps({"dur": clf.history_[0, "dur"], "path": path, "digest": tests.fingerprint(**tests.VALUES)}))
"""


@pytest.fixture(scope="module")
def another_process(tmp_path_factory):
    """A fit is killed in a fork of this process and made again by a new interpreter.

    Returns (how the fork ended, duration of the first epoch by its checkpoint, findings of the interpreter).
    """
    folder, status, duration = tmp_path_factory.mktemp("fit"), None, None
    if hasattr(os, "fork"):
        child = os.fork()
        if child == 0:
            KillsProcess.at = 30
            fitted_to_digits(folder)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        duration = read(files(folder)[-1])["state"]["training"]["history"][0]["dur"]
    where = os.pathsep.join(map(str, (SCRIPT.parents[2], Path(__file__).parents[1], Path(__file__).parent)))
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True,
        env=os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": where},
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    return status, duration, json.loads(said.stdout)


@linux
def test_another_process_goes_on(another_process):
    status, duration, found = another_process
    assert os.WTERMSIG(status) == signal.SIGKILL
    whole = fitted_to_digits(None)
    # The first epoch is that of the process that was killed.
    assert found["dur"] == duration != whole.history_[0, "dur"]
    assert found["path"] == whole.metaparameter_path_.tobytes().hex()


# --------------------------------------------------------------------------------------
# What is refused


@pytest.fixture
def killed(make, digits, logits, tmp_path):
    """A fit killed in its fourth epoch: its two checkpoints, and f() that goes on with it."""

    def made(**params):
        return make(callbacks=[Kill()], max_epochs=5, checkpoint_dir=tmp_path, **params)

    killed_after(40, made(), *digits, teacher_logits=logits)

    def go_on(**params):
        Kill.made = 0
        return made(**params).fit(*digits, teacher_logits=logits)

    return files(tmp_path), go_on


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def exchange(**changes):
    return lambda path: write(path, read(path) | changes)


def future(path):
    path.write_bytes(path.read_bytes().replace(b"format 1,", b"format 2,", 1))


def pickled(path):
    """A whole file whose payload would run code."""
    buffer = io.BytesIO()
    torch.save({"state": np.polyfit}, buffer)
    payload = buffer.getvalue()
    digest = hashlib.sha256(payload).hexdigest()
    header = f"sklearn_kd checkpoint, format 1, sha256 {digest}, {len(payload)} bytes\n"
    path.write_bytes(header.encode() + payload)


DAMAGES = {
    "it is truncated: it has .* bytes": truncate,
    "it has been altered: its checksum": flip,
    "it is empty": lambda path: path.write_bytes(b""),
    "it does not begin like a checkpoint": lambda path: path.write_bytes(b"PK" * 100),
    "it has format 2, but this version of sklearn_kd reads format 1": future,
    "it cannot be read": pickled,
    "it belongs to another fit": exchange(fit="0" * 24),
    "it was written with torch 1.0, but": exchange(versions={"torch": "1.0"}),
    "it does not hold a checkpoint": lambda path: write(path, {"a": 1}),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_the_checkpoint_before_is_used(reason, killed, make, digits, logits, once):
    (_, newest), go_on = killed
    DAMAGES[reason](newest)
    with pytest.warns(UserWarning, match=f"{newest.name} is not used: {reason}") as said:
        clf = go_on()
    assert len(said) == 1
    assert Kill.made == 60 - 24
    whole = once("killed", lambda: make(callbacks=[Kill()], max_epochs=5).fit(*digits, teacher_logits=logits))
    assert_same_fit(clf, whole)


def test_none_can_be_used(killed):
    (older, newest), go_on = killed
    truncate(older)
    flip(newest)
    with pytest.raises(ValueError, match=r"checkpoint_dir: none .* altered.*; .* truncated.*Remove"):
        go_on()
    assert Kill.made == 0


def test_another_fits_files(killed, make, digits, logits, tmp_path):
    """With other parameters there is another folder; files moved into it are known as foreign."""
    (older, newest), go_on = killed
    Kill.last = 40
    with pytest.raises(Killed):
        go_on(lr=0.05)
    Kill.last = None
    [folder] = {path.parent for path in files(tmp_path)} - {newest.parent}
    for path in (older, newest):
        (folder / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"none of the checkpoints .* to another fit"):
        go_on(lr=0.05)


@pytest.mark.parametrize("n", [30, 40])
def test_another_teacher(n, make, digits, tmp_path):
    X, y = digits
    teachers = [FrozenEstimator(LogisticRegression(C=0.1).fit(X[:k], y[:k])) for k in (200, 300)]

    def made(teacher):
        return make(teacher, callbacks=[Kill()], max_epochs=5, checkpoint_dir=tmp_path)

    killed_after(n, made(teachers[0]), *digits)
    Kill.made = 0
    with pytest.raises(ValueError, match="the teacher's outputs differ"):
        made(teachers[1]).fit(*digits)
    assert Kill.made == 0
    made(teachers[0]).fit(*digits)
    assert Kill.made == 60 - n // 12 * 12


def test_another_map_teacher(make_distpro, images, conv_teacher, tmp_path):
    """Such as one whose passes depend on what is not in its weights."""

    class Scaled(ConvNet):
        factor = 1.0

        def forward(self, x):
            return super().forward(self.factor * x)

    teacher = Scaled()

    def made():
        callbacks = {"search_callbacks": [Kill()], "callbacks": [Kill()], "search_epochs": 3}
        return make_distpro(teacher, checkpoint_dir=tmp_path, **callbacks)

    killed_after(9, made(), *images)
    Scaled.factor = 2.0
    with pytest.raises(ValueError, match="the teacher's outputs differ"):
        made().fit(*images)


@pytest.mark.parametrize("given", ["a file", "below a file", 3])
def test_wrong_folder(given, make, make_distpro, digits, logits, images, tmp_path):
    (tmp_path / "a file").touch()
    folders = {"a file": tmp_path / "a file", "below a file": tmp_path / "a file" / "folder"}
    folder = folders.get(given, given)
    for clf, rows in ((make(meta="none"), digits), (make_distpro(), images)):
        with pytest.raises((ValueError, TypeError), match="checkpoint_dir"):
            clf.set_params(checkpoint_dir=folder).fit(*rows)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write to")
def test_folder_that_cannot_be_written_to(make, digits):
    with pytest.raises(ValueError, match=r"checkpoint_dir='/proc/self/kept' cannot be written to"):
        make(meta="none", checkpoint_dir="/proc/self/kept").fit(*digits)


def test_a_full_disk_does_not_end_the_fit(make, digits, logits, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sklearn_kd.files._atomic.os.fsync", full)
    with pytest.warns(UserWarning, match="could not be written: .*No space left") as said:
        clf = make(max_epochs=4, checkpoint_dir=tmp_path).fit(*digits, teacher_logits=logits)
    assert len(said) == 1 and len(clf.history_) == 4


# --------------------------------------------------------------------------------------
# One folder for many fits


def test_searches_share_a_folder(make, digits, tmp_path):
    teacher = LogisticRegression(C=0.01)
    grid = {"lr": [0.05, 0.1], "teacher__C": [0.1, 1.0]}
    scores = [
        GridSearchCV(make(teacher, checkpoint_dir=folder), grid, cv=2).fit(*digits).cv_results_
        for folder in (None, tmp_path)
    ]
    assert scores[0]["mean_test_score"].tolist() == scores[1]["mean_test_score"].tolist()
    assert os.listdir(tmp_path) == []


def test_a_killed_cross_validation_is_made_again(make, digits, tmp_path):
    def scores(folder):
        clf = make(callbacks=[Kill()], meta="none", max_epochs=4, checkpoint_dir=folder)
        return cross_val_score(clf, *digits, cv=3, error_score="raise").tolist()

    expected, n_batches = scores(None), Kill.made
    Kill.made, Kill.last = 0, n_batches // 2
    with pytest.raises(Killed):
        scores(tmp_path)
    Kill.made, Kill.last = 0, None
    assert scores(tmp_path) == expected
    # The first fold is made again: it had come to its end. The second is gone on with.
    assert n_batches * 2 // 3 < Kill.made < n_batches


@pytest.mark.parametrize(
    "change",
    [{"lr": 0.2}, {"student__hidden": 8}, {"random_state": 1}, {"meta": meta.Linear(e1=4)}, {"augment": noisy},
     {"callbacks": [Kill(), EarlyStopping(patience=9)]}, {"max_epochs": 6}],
    ids=in_words,
)  # fmt: skip
def test_other_parameters_begin_anew(change, make, digits, network, tmp_path):
    known = {"max_epochs": 5, "callbacks": [Kill()], "checkpoint_dir": tmp_path}
    killed_after(40, make(network, **known), *digits)
    Kill.made = 0
    clf = make(network, **known | change).fit(*digits)
    assert Kill.made == clf.n_iter_
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize("what", ["X", "y", "sample_weight", "X_val", "teacher_logits"])
def test_other_data_begin_anew(what, make, digits, logits, tmp_path):
    X, y = digits
    given = {"X": X[:300], "y": y[:300], "teacher_logits": logits[:300], "sample_weight": np.ones(300)}
    given |= {"X_val": X[300:], "y_val": y[300:]}
    clf = make(max_epochs=5, callbacks=[Kill()], checkpoint_dir=tmp_path)
    killed_after(40, clf, **given)
    changed = given[what].copy()
    changed[5] = changed[6] if changed.ndim > 1 or what == "y" else 2.0
    Kill.made = 0
    clf.fit(**given | {what: changed})
    assert Kill.made == clf.n_iter_


@pytest.mark.parametrize("change", [{"verbose": 1}, {"keep_teacher": True}], ids=in_words)
def test_what_does_not_matter(change, killed, capsys):
    go_on = killed[1]
    go_on(**change)
    assert Kill.made == 60 - 36


def test_open_random_state_keeps_what_was_drawn(make, digits, logits, tmp_path):
    """The split, the initial weights and all else are those of the fit that was killed."""
    clf = make(random_state=None, max_epochs=5, callbacks=[Kill()], checkpoint_dir=tmp_path)
    killed_after(40, clf, *digits, teacher_logits=logits)
    seeds = read(files(tmp_path)[-1])["seeds"]
    Kill.made = 0
    clf.fit(*digits, teacher_logits=logits)
    assert Kill.made == 60 - 36
    expected = make(random_state=_Draws(seeds[0]), max_epochs=5, callbacks=[Kill()])
    assert_same_fit(clf, expected.fit(*digits, teacher_logits=logits))


class _Draws(np.random.RandomState):
    """Gives seeds that are known."""

    def __init__(self, seeds):
        super().__init__(0)
        self.seeds = seeds

    def randint(self, *args, size=None, **kwargs):
        return np.array(self.seeds)


def test_a_random_state_means_a_fit_for_each_of_its_states(make, digits, logits, tmp_path):
    """A script of two fits, killed in the second, is run again."""

    def run(folder):
        rng, paths = np.random.RandomState(0), []
        for _ in range(2):
            clf = make(random_state=rng, max_epochs=4, callbacks=[Kill()], checkpoint_dir=folder)
            paths.append(clf.fit(*digits, teacher_logits=logits).metaparameter_path_.tobytes())
        return paths

    expected = run(None)
    Kill.made, Kill.last = 0, 48 + 30
    with pytest.raises(Killed):
        run(tmp_path)
    Kill.made, Kill.last = 0, None
    assert run(tmp_path) == expected and expected[0] != expected[1]
    assert Kill.made == 96 - 24


def test_warm_start(make, digits, logits, tmp_path):
    def warm(folder, n=None):
        clf = make(warm_start=True, max_epochs=4, callbacks=[Kill()]).fit(*digits, teacher_logits=logits)
        clf.set_params(checkpoint_dir=folder)
        if n is not None:
            killed_after(n, clf, *digits, teacher_logits=logits)
            Kill.made = 0
        return clf.fit(*digits, teacher_logits=logits)

    expected = warm(None)
    clf = warm(tmp_path, 30)
    assert Kill.made == 48 - 24
    assert_same_fit(clf, expected)


def test_a_student_given_as_a_module(make, digits, logits, tmp_path):
    students = [MLPStudent(64, 10) for _ in range(2)]
    clf = make(student=students[0], max_epochs=5, callbacks=[Kill()], checkpoint_dir=tmp_path)
    killed_after(40, clf, *digits, teacher_logits=logits)
    Kill.made = 0
    clf.set_params(student=students[1]).fit(*digits, teacher_logits=logits)
    assert Kill.made == 60
    Kill.made = 0
    clf.set_params(student=students[0]).fit(*digits, teacher_logits=logits)
    assert Kill.made == 60 - 36


@linux
def test_two_processes_at_one_fit(killed):
    (_, newest), go_on = killed
    before = newest.read_bytes()
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        lock = FitLock(newest.parent)
        os.write(ready[1], b"1")
        os.read(done[0], 1)
        os._exit(0 if lock.held else 1)
    os.read(ready[0], 1)
    with pytest.warns(UserWarning, match="another process, or another thread"):
        go_on()
    os.write(done[1], b"1")
    assert os.waitpid(child, 0)[1] == 0
    assert Kill.made == 60 and newest.read_bytes() == before


# --------------------------------------------------------------------------------------
# Ends that are none, and ends that are


class Interrupt(Callback):
    """As Ctrl-C does, in one batch."""

    at = None

    def __init__(self):
        pass

    def on_batch_end(self, net, training=False, **kwargs):
        if training and net.metaparameters.iteration == Interrupt.at:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def interrupt(sigint_heard):
    yield Interrupt
    Interrupt.at = None


def test_ctrl_c_leaves_the_checkpoints(make, digits, logits, interrupt, tmp_path):
    def made(**params):
        return make(max_epochs=4, callbacks=[Kill(), Interrupt()], **params)

    expected = made().fit(*digits, teacher_logits=logits)
    interrupt.at = 30
    with pytest.warns(UserWarning, match="Interrupted in epoch 3 of 4"):
        assert len(made(checkpoint_dir=tmp_path).fit(*digits, teacher_logits=logits).history_) == 3
    assert len(files(tmp_path)) == 2
    interrupt.at, Kill.made = None, 0
    assert_same_fit(made(checkpoint_dir=tmp_path).fit(*digits, teacher_logits=logits), expected)
    assert Kill.made == 24


def test_ctrl_c_in_a_trial(make, digits, logits, interrupt, tmp_path):
    """The loss of a trial that was cut short is not noted, nor what follows from it."""

    def made(**params):
        return make(meta=meta.Random(n_trials=3), callbacks=[Kill(), Interrupt()], **params)

    expected = made().fit(*digits, teacher_logits=logits)
    interrupt.at = 13
    with pytest.warns(UserWarning, match="Interrupted"):
        made(checkpoint_dir=tmp_path).fit(*digits, teacher_logits=logits)
    interrupt.at = None
    assert_same_fit(made(checkpoint_dir=tmp_path).fit(*digits, teacher_logits=logits), expected)


def test_ctrl_c_in_a_search(make_distpro, images, interrupt, tmp_path):
    def made(**params):
        known = {"transforms": ["conv1"], "search_epochs": 3}
        known |= {"search_callbacks": [Interrupt()], "callbacks": [Kill()]}
        return make_distpro(**known | params)

    expected = made().fit(*images)
    interrupt.at = 9
    with pytest.warns(UserWarning, match="Interrupted"):
        made(checkpoint_dir=tmp_path).fit(*images)
    assert files(tmp_path, "search") and not files(tmp_path, "retraining")
    interrupt.at = None
    assert_same_fit(made(checkpoint_dir=tmp_path).fit(*images), expected)


def test_a_callback_that_ends_the_fit_ends_it(make, digits, logits, tmp_path):
    stop = EarlyStopping(patience=2, threshold=10.0, sink=lambda _: None)
    clf = make(callbacks=[stop], max_epochs=50, checkpoint_dir=tmp_path)
    assert len(clf.fit(*digits, teacher_logits=logits).history_) == 3
    assert os.listdir(tmp_path) == []


# --------------------------------------------------------------------------------------
# What callbacks and strategies know


class Counts(Callback):
    def __init__(self):
        pass

    def on_train_begin(self, net, **kwargs):
        self.seen, self.best, self.file = 0, None, object()

    def on_batch_end(self, net, training=False, batch=None, **kwargs):
        self.seen += training
        self.best = [batch[0].sum(), {"epoch": len(net.history)}, (self.seen, np.float64(0.5))]


class Tells(Counts):
    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


@pytest.mark.parametrize("kind", [Counts, Tells])
def test_callbacks_know_what_they_knew(kind, make, digits, logits, tmp_path):
    found = []
    for n in (None, 30):
        callback = kind()
        clf = make(max_epochs=4, callbacks=[Kill(), ("mine", callback)], checkpoint_dir=tmp_path)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            if n is not None:
                killed_after(n, clf, *digits, teacher_logits=logits)
            clf.fit(*digits, teacher_logits=logits)
        found.append((callback.seen, callback.best[2]))
        lost = [str(w.message) for w in said if "checkpoint_dir" in str(w.message)]
        if kind is Tells:
            assert lost == []
        else:  # once by each fit
            assert len(lost) == (1 if n is None else 2)
            assert "attribute 'file' of callback 'mine' holds object" in lost[0]
    assert found[0] == found[1] == (48, (48, 0.5))


class Wanders(meta.Gradient):
    """Goes its own way, by what it has drawn."""

    def start(self, setting):
        self.rng, self.n_asked = setting.rng, 0
        return super().start(setting)

    def takes_hypergradient(self, iteration):
        return iteration % 2 == 0

    def predict(self, metaparameters):
        self.n_asked += 1
        return metaparameters.trajectory(0, 0)[0] + 0.1 * torch.as_tensor(self.rng.normal(size=2))


def test_strategies_know_what_they_knew(make, digits, logits, tmp_path):
    def made(**params):
        return make(meta=Wanders(), max_epochs=4, callbacks=[Kill()], **params)

    clf, _ = resumed(made, 30, tmp_path, *digits, teacher_logits=logits)
    expected = made().fit(*digits, teacher_logits=logits)
    assert_same_fit(clf, expected)
    assert clf.strategy_.n_asked == expected.strategy_.n_asked == 24


class Counting(nn.Module):
    """With buffers that no state_dict has, and one that is made on the way."""

    def __init__(self, in_features, n_classes):
        super().__init__()
        self.linear = nn.Linear(in_features, n_classes)
        self.register_buffer("n_passes", torch.zeros(()), persistent=False)
        self.register_buffer("mean", None)

    def forward(self, x):
        if self.training:
            self.n_passes += 1
            self.mean = x.mean(dim=0) if self.mean is None else 0.9 * self.mean + 0.1 * x.mean(dim=0)
        return self.linear(x if self.mean is None else x - self.mean) / (1 + 0.01 * self.n_passes)


def test_buffers(make, digits, logits, tmp_path):
    def made(**params):
        return make(student=Counting, meta="naive", max_epochs=4, callbacks=[Kill()], **params)

    clf, _ = resumed(made, 30, tmp_path, *digits, teacher_logits=logits)
    expected = made().fit(*digits, teacher_logits=logits)
    assert_same_fit(clf, expected)
    assert clf.student_.student.n_passes == expected.student_.student.n_passes


# --------------------------------------------------------------------------------------
# The parts


def test_digests_are_those_of_any_process(another_process):
    assert another_process[2]["digest"] == fingerprint(**VALUES)


@pytest.mark.parametrize(
    ("a", "b"),
    [(1, 1.0), ([1, 2], [12]), (lambda x: x + 1, lambda x: x + 2), (np.zeros(2), np.zeros((2, 1))),
     (nn.Linear(2, 2), nn.Linear(2, 2)), (nn.Dropout(0.1), nn.Dropout(0.2)), ({"a": 1}, {"a": 2}),
     (EarlyStopping(patience=1), EarlyStopping(patience=2)), (float("nan"), None)],
    ids=in_words,
)  # fmt: skip
def test_digests_differ(a, b):
    assert fingerprint(value=a) != fingerprint(value=b)
    assert fingerprint(value=a) == fingerprint(value=a)


@pytest.mark.parametrize("base", [meta.Strategy, DistillationLoss])
def test_the_code_of_a_users_subclass_identifies_a_fit(base):
    """As that of a function: a loss that has been changed goes on with no checkpoint of the old one."""

    def own(**attributes):
        return type("Own", (base,), attributes)()  # one class in several versions of a file

    versions = [own(check=lambda self: 1), own(check=lambda self: 2), own(needs_teacher=False)]
    assert len({fingerprint(value=value) for value in versions}) == 3
    assert fingerprint(value=own(check=lambda self: 1)) == fingerprint(value=own(check=lambda self: 1))


def test_files_hold_no_code(killed):
    """They are what ``torch.load(weights_only=True)`` reads behind one line of text."""
    (_, newest), _ = killed
    with open(newest, "rb") as file:
        assert file.readline().startswith(b"sklearn_kd checkpoint, format 1, sha256 ")
        content = torch.load(io.BytesIO(file.read()), weights_only=True)
    assert content["stage"] == "training" and len(content["state"]["training"]["history"]) == 3


def test_nothing_is_refused_silently(tmp_path):
    with pytest.raises(Refused, match="cannot be read"):
        read(tmp_path / "missing")


class Fills(Callback):
    """With NaN, three batches of the second epoch."""

    def __init__(self):
        pass

    def on_batch_begin(self, net, batch=None, training=False, **kwargs):
        if training and 14 <= net.metaparameters.iteration < 17:
            batch[0].fill_(torch.nan)


def test_skipped_steps_are_counted_through(make, digits, logits, tmp_path):
    """What is said at the end counts those of the fit that was killed."""

    def made(**params):
        return make(max_epochs=4, callbacks=[Kill(), Fills()], **params)

    with pytest.warns(UserWarning, match="3 of 48 steps were skipped.* the first in iteration 14"):
        expected = made().fit(*digits, teacher_logits=logits)
    with pytest.warns(UserWarning, match="3 of 48 steps were skipped.* the first in iteration 14"):
        clf, _ = resumed(made, 40, tmp_path, *digits, teacher_logits=logits)
    assert_same_fit(clf, expected)


def test_modes_of_modules(make, digits, logits, tmp_path):
    """Without D_val the mode is set once, so that it is what it was."""

    def made(**params):
        return make(student=Regularized, meta="fixed", max_epochs=4, callbacks=[Kill(), Settles()], **params)

    clf, _ = resumed(made, 45, tmp_path, *digits, teacher_logits=logits)
    assert_same_fit(clf, made().fit(*digits, teacher_logits=logits))
    assert clf.student_.student[1].num_batches_tracked == 26


class Settles(Callback):
    """From the third epoch on: the running statistics stay."""

    def __init__(self):
        pass

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) == 3:
            net.module_.student[1].eval()


def test_a_class_of_a_function_has_one_hash_in_all_processes():
    """Sent to another process, it has its plain name as ``__qualname__``."""

    class Student(nn.Linear):
        pass

    def hashes():
        network = Student(2, 2)
        for weight in network.parameters():
            nn.init.zeros_(weight)
        return fingerprint(kind=Student), fingerprint(network=network)

    here = hashes()
    Student.__qualname__ = "Student"
    assert hashes() == here
