"""Memory: what is said where it runs out, and that fits leave nothing behind."""

import contextlib
import gc
import importlib
import json
import os
import sys
import time
import traceback
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from joblib import parallel_config
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from skorch.callbacks import Callback, EarlyStopping, GradientNormClipping, LRScheduler
from torch import nn

from helpers.networks import ConvNet
from helpers.parameter_ids import in_words
from sklearn_kd import DistilledClassifier, MLPStudent, compare_methods
from sklearn_kd.bilevel._hypergradient import HypergradientEstimator
from sklearn_kd.inputs import _splitting
from sklearn_kd.meta import Hyperopt, Random
from sklearn_kd.runtime._memory import is_out_of_memory
from sklearn_kd.students._standardize import own_student
from sklearn_kd.training._net import TrainingNet
from sklearn_kd.training._stacked import BatchedRun


def numpys_error():
    with pytest.raises(MemoryError) as caught:
        np.empty(2**59, dtype=np.int8)
    return caught.value


# What is raised, as what it arrives.
ERRORS = {
    "cuda": (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried"), torch.cuda.OutOfMemoryError),
    "cublas": (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), torch.cuda.OutOfMemoryError),
    "mps": (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), RuntimeError),
    "cpu": (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), MemoryError),
    "windows": (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"), MemoryError),
    "numpy": (numpys_error(), MemoryError),
    "python": (MemoryError(), MemoryError),
}


class Hungry(nn.Linear):
    """Has no memory for more than two rows, once it is told so."""

    error: Exception | None = None

    def forward(self, x):
        if self.error is not None and len(x) > 2:
            raise self.error
        return super().forward(x)

    def told(self, error):
        self.error = error
        return self

    def __deepcopy__(self, memo):  # errors with arguments of their own cannot be copied
        new = Hungry(self.in_features, self.out_features)
        new.load_state_dict(self.state_dict())
        return new.told(self.error).train(self.training)


def copying(make, digits, error, monkeypatch):
    def raising(*args):
        raise error

    monkeypatch.setattr(_splitting, "make_data", raising)
    make(meta="none").fit(*digits)


def asking(make, digits, error, monkeypatch):
    make(Hungry(64, 10).told(error), meta="naive").fit(*digits)


def training(make, digits, error, monkeypatch):
    def forward(self, x):
        if self.training and len(x) > 2:
            raise error
        return nn.Linear.forward(self, x)

    monkeypatch.setattr(Hungry, "forward", forward)
    make(meta="none", student=Hungry(64, 10)).fit(*digits)


def hypergradient(make, digits, error, monkeypatch):
    def raising(*args, **kwargs):
        raise error

    monkeypatch.setattr(HypergradientEstimator, "hypergradient", raising)
    make(LogisticRegression(), meta="gradient").fit(*digits)


def together(make, digits, error, monkeypatch):
    def raising(*args):
        raise error

    monkeypatch.setattr(BatchedRun, "step", raising)
    make(LogisticRegression(), meta=Random(n_trials=4)).fit(*digits)


def predicting(make, digits, error, monkeypatch):
    clf = make(meta="none", student=Hungry(64, 10), standardize=False).fit(*digits)
    clf.student_.told(error)
    clf.predict(digits[0])


PLACES = {
    "copying the data": (copying, "data of 0.1 MiB to be copied"),
    "asking the teacher": (asking, "data of 0.1 MiB and cached teacher logits of 0.0 MiB on cpu"),
    "training the student": (training, "data of 0.1 MiB and cached teacher logits of 0.0 MiB on cpu"),
    "training the student, with batch_size=32, data of 0.1 MiB": (
        hypergradient,
        "hypergradients by 'finite_difference'",
    ),
    "training 4 students in one batched run": (together, "data of 0.1 MiB"),
    "predicting in batches of 1024 rows": (predicting, "no teacher logits are cached"),
}


@pytest.mark.parametrize("doing", PLACES)
@pytest.mark.parametrize("which", ERRORS)
def test_out_of_memory_is_named(which, doing, make, digits, monkeypatch):
    error, kind = ERRORS[which]
    place, held = PLACES[doing]
    with pytest.raises(kind) as caught:
        place(make, digits, error, monkeypatch)
    said = str(caught.value)
    assert said.startswith(f"Out of memory while {doing}") and held in said, said
    assert "batch_size=32" in said and "teacher logits" in said and "To use less memory" in said
    assert caught.value.__cause__ is error and is_out_of_memory(caught.value)


@pytest.mark.parametrize(("execution", "advised"), [("eager", True), ("bfloat16", False)])
def test_a_setting_in_use_is_not_advised(execution, advised, make, digits, logits, monkeypatch):
    def runs_out(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TrainingNet, "train_step", runs_out)
    with pytest.raises(torch.OutOfMemoryError) as error:
        make(execution=execution).fit(*digits, teacher_logits=logits)
    assert ("execution='bfloat16'" in str(error.value)) == advised


def test_another_error_is_left_alone(make, digits, monkeypatch):
    with pytest.raises(RuntimeError, match=r"^no memory of that$") as caught:
        training(make, digits, RuntimeError("no memory of that"), monkeypatch)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("meta", ["none", "linear"])
def test_too_little_memory_for_two_rows_is_no_wrong_student(meta, make, digits, logits):
    class Huge(nn.Linear):
        def forward(self, x):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        make(meta=meta, student=Huge(64, 10)).fit(*digits, teacher_logits=logits)


def test_running_out_leaves_the_estimator_as_it_was_and_no_network(make, digits, logits, alive, monkeypatch):
    class Late(Callback):
        def on_epoch_begin(self, net, **kwargs):
            if len(net.history) == 2:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    clf = make(meta="linear", student=Counted, callbacks=[Late()], max_epochs=3)
    with contextlib.suppress(torch.cuda.OutOfMemoryError):  # pytest.raises would keep the error
        clf.fit(*digits, teacher_logits=logits)
    assert not hasattr(clf, "net_") and not alive()
    clf.set_params(callbacks=None).fit(*digits, teacher_logits=logits)
    assert len(alive()) == 1


def fits_with_too_little():
    """What is said where 400 MiB more are allowed than a small fit took, and what a smaller batch gives."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20_000, 8)).astype(np.float32), np.arange(20_000) % 2
    clf = DistilledClassifier(None, MLPStudent, student__hidden=8192, meta="none", max_epochs=1, device="cpu")
    clf.fit(X[:200], y[:200])  # what is loaded by the first fit
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource = importlib.import_module("resource")  # which Windows has not
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 400 * 2**20,) * 2)
    said = "nothing"
    try:
        clf.set_params(batch_size=20_000).fit(X, y)  # activations of 625 MiB
    except MemoryError as error:
        said = str(error)
    return said, clf.set_params(batch_size=200).fit(X[:2000], y[:2000]).n_iter_


@pytest.mark.skipif(sys.platform != "linux", reason="the address space can be limited on Linux")
def test_a_process_that_has_too_little():
    """In a fork, whose limit ends with it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        warnings.simplefilter("ignore")
        try:
            answer = json.dumps(fits_with_too_little())
        except BaseException:
            answer = json.dumps([traceback.format_exc(), 0])
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        said, n_iter = json.loads(file.read())
    os.waitpid(child, 0)
    assert said.startswith(
        "Out of memory while training the student, with batch_size=20000, data of 0.6 MiB"
    ), said
    assert n_iter == 10


# --------------------------------------------------------------------------------------
# What fits leave behind


BORN = weakref.WeakSet()


class Counted(MLPStudent):
    """Remembers who of its kind lives, copies included."""

    def __init__(self, in_features, n_classes):
        super().__init__(in_features, n_classes, hidden=8)
        BORN.add(self)

    def __setstate__(self, state):  # of copies
        nn.Module.__setstate__(self, state)
        BORN.add(self)


class CountedConv(ConvNet):
    def __init__(self, n_classes=10):
        super().__init__(n_classes)
        BORN.add(self)

    __setstate__ = Counted.__setstate__


@pytest.fixture
def alive(digits, logits, make):
    """The students there are; nothing is collected meanwhile, so that cycles show."""
    # What is imported meanwhile may be cyclic; torch's schedulers import its compiler.
    make(max_epochs=1, callbacks=[LRScheduler()]).fit(*digits, teacher_logits=logits)
    gc.collect()
    before = set(map(id, BORN))
    gc.disable()
    yield lambda: [student for student in BORN if id(student) not in before]
    gc.enable()


@pytest.mark.parametrize(
    "params",
    [
        *({"meta": name} for name in ("none", "naive", "random", "gradient", "linear", "hyperopt")),
        {"meta": Hyperopt(n_trials=6, n_startup_trials=3, n_guided_at_once=3)},
        *({"meta": "gradient", "meta__hypergradient": how} for how in ("central_difference", "jvp", "exact")),
        {"meta__val_temperature": "auto"},
        {"augment": torch.neg, "meta": "none"},
        {"callbacks": [EarlyStopping(), LRScheduler(), GradientNormClipping(1.0)]},
    ],
    ids=in_words,
)
def test_one_network_is_left(params, make, digits, logits, alive):
    given = {} if "augment" in params else {"teacher_logits": logits}
    clf = make(student=Counted, **params).fit(*digits, **given)
    assert [own_student(clf.student_)] == alive()
    clf.fit(*digits, **given)
    assert [own_student(clf.student_)] == alive()


def test_searches_free_their_networks(make, digits, alive):
    clf = make(LogisticRegression(), student=Counted, max_epochs=1)
    cross_val_score(clf, *digits, cv=3)
    assert not alive()
    search = GridSearchCV(clf, {"lr": [0.1, 0.2]}, cv=2).fit(*digits)
    assert [own_student(search.best_estimator_.student_)] == alive()
    del search
    with parallel_config("threading"):
        cross_val_score(clf, *digits, cv=3, n_jobs=2)
    for _ in range(100):  # a thread that ends holds its last result for a moment
        if alive():
            time.sleep(0.05)
    assert not alive()


def test_a_comparison_frees_its_networks(make, digits, alive):
    clf = make(LogisticRegression(), student=Counted, max_epochs=1)
    compare_methods(clf, *digits, methods=("none", "naive", "random", "linear", "hyperopt"), cv=2, n_jobs=1)
    assert not alive()


def test_distpro_frees_its_networks(make_distpro, images, alive):
    clf = make_distpro(student=CountedConv, max_epochs=1).fit(*images)
    assert [own_student(clf.student_)] == alive()


def live():
    """Tensors, modules, and bytes of the tensors' storages."""
    gc.collect()
    # type() first: isinstance would wake lazy proxies that are no tensors
    found = [o for o in gc.get_objects() if issubclass(type(o), (torch.Tensor, nn.Module))]
    # Not what torch.export, in another test, has left of tensors without memory.
    tensors = [o for o in found if type(o) in (torch.Tensor, nn.Parameter)]
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}
    return len(tensors), sum(isinstance(o, nn.Module) for o in found), sum(storages.values())


def after(n_fits, fit):
    """What lives after the second of ``n_fits`` fits; the first loads what is loaded once."""
    fit()
    fit()
    found = live()
    for _ in range(n_fits - 2):
        fit()
    return found


@pytest.mark.parametrize("meta", ["linear", "hyperopt"])
def test_ten_fits_leave_no_more_than_one(meta, make, digits, logits):
    clf = make(meta=meta, max_epochs=1)
    rows, of_rows = (digits[0][:100], digits[1][:100]), logits[:100]
    assert after(10, lambda: clf.fit(*rows, teacher_logits=of_rows)) == live()


def test_fits_of_distpro_leave_no_more_than_one(make_distpro, images):
    clf = make_distpro(max_epochs=1)
    assert after(6, lambda: clf.fit(images[0][:64], images[1][:64])) == live()
