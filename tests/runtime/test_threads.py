import math
import os
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from skorch.callbacks import Callback
from torch import nn
from torch.overrides import TorchFunctionMode

from sklearn_kd import CIFARResNet
from sklearn_kd.runtime import _threads
from sklearn_kd.runtime._operations import largest_operation, operations_of
from sklearn_kd.runtime._threads import PER_ELEMENT, PER_THREAD, threads_for

MANY = 4  # more than the machine need have
LARGE = 1 + MANY * PER_THREAD // (32 * 64)  # a layer from 64 features that pays for them with batches of 32


@pytest.fixture(params=["direct", "by another thread"])
def setter(request, monkeypatch):
    """Both ways to set the number."""
    if request.param == "direct":
        assert _threads._direct_setter() is not None or not sys.platform.startswith("linux")
    else:
        monkeypatch.setattr(_threads, "_setter", _threads._set_beside_process)


@pytest.fixture
def many_threads():
    """A user's setting of four threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(MANY)
    yield
    torch.set_num_threads(before)


def seen_by_new_thread():
    """The number of threads that torch has in a thread that has not used it yet."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


class SeesOperations(TorchFunctionMode):
    """Notes the numbers of threads of the operations that torch may share among threads."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in ("linear", "softmax", "log_softmax", "cross_entropy"):
            self.seen.setdefault(name, set()).add(torch.get_num_threads())
        return function(*args, **(kwargs or {}))


class Sees(Callback):
    """Notes the number of threads in each iteration, and what a new thread sees."""

    def on_batch_end(self, net, **kwargs):
        self.seen = [*getattr(self, "seen", []), torch.get_num_threads()]

    def on_epoch_end(self, net, **kwargs):
        self.elsewhere = seen_by_new_thread()


def seen_in_fit(make, X, y, **params):
    callback = Sees()
    clf = make(callbacks=callback, max_epochs=1, meta="none", **params).fit(X, y)
    fitted = dict(clf.net_.callbacks_)["Sees"]
    return set(fitted.seen), fitted.elsewhere


# --------------------------------------------------------------------------------------
# The number


@pytest.mark.usefixtures("many_threads", "setter")
@pytest.mark.parametrize(
    ("operations", "n_threads"),
    [(0, 1), (2 * PER_THREAD - 1, 1), (2 * PER_THREAD, 2), (3.5 * PER_THREAD, 3), (1e15, 4), (math.inf, 4)],
)
def test_each_thread_has_enough_to_do(operations, n_threads):
    with threads_for(operations):
        assert torch.get_num_threads() == n_threads
        assert seen_by_new_thread() == MANY
    assert torch.get_num_threads() == seen_by_new_thread() == MANY


@pytest.mark.usefixtures("setter")
def test_number_is_never_raised():
    assert torch.get_num_threads() == 1
    with threads_for(math.inf):
        assert torch.get_num_threads() == 1


@pytest.mark.usefixtures("many_threads", "setter")
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_number_is_put_back_after_errors(error):
    with pytest.raises(error), threads_for(0):
        raise error
    assert torch.get_num_threads() == seen_by_new_thread() == MANY


@pytest.mark.usefixtures("many_threads", "setter")
def test_inner_block_may_have_what_the_user_has():
    with threads_for(0):
        with threads_for(math.inf):
            assert torch.get_num_threads() == MANY
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == MANY


@pytest.mark.usefixtures("many_threads", "setter")
def test_number_that_is_set_inside_stays():
    with threads_for(0):
        torch.set_num_threads(3)
        with threads_for(math.inf):
            assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("many_threads", "setter")
def test_threads_at_once_have_their_own_numbers():
    """Blocks that overlap in any order leave every thread, and those to come, with the user's number."""
    barrier = threading.Barrier(4)

    def work(k):
        found = [torch.get_num_threads()]
        for n in range(20):
            barrier.wait()
            with threads_for(PER_THREAD * (1 + (k + n) % 3)):
                found.append(torch.get_num_threads() - (k + n) % 3)
        return [*found, torch.get_num_threads()]

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(work, range(4)):
            assert found == [MANY, *[1] * 20, MANY]
    assert torch.get_num_threads() == seen_by_new_thread() == MANY


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.usefixtures("many_threads", "setter")
def test_child_process_puts_the_number_back():
    read, write = os.pipe()
    with threads_for(0):
        child = os.fork()
        if not child:
            with threads_for(math.inf):
                inside = torch.get_num_threads()
            os.write(write, pickle.dumps((inside, torch.get_num_threads())))
            os._exit(0)
        os.waitpid(child, 0)
    assert pickle.loads(os.read(read, 100)) == (MANY, 1)
    os.close(read), os.close(write)


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts the process's threads in /proc")
def test_no_thread_is_woken():
    """MKL has a number of its own, which follows too. A new thread has no others to work with yet."""

    def count():
        torch.set_num_threads(2)
        x, before = torch.randn(64, 64), set(os.listdir("/proc/self/task"))
        with threads_for(0):
            x @ x, torch.conv2d(x[None, None], x[None, None, :9, :9]), x.exp()
        inside = set(os.listdir("/proc/self/task"))
        x @ x
        return len(inside - before), len(set(os.listdir("/proc/self/task")) - before)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(count).result() == (0, 1)
    torch.set_num_threads(1)  # the process's number, which the thread has set


# --------------------------------------------------------------------------------------
# Where it applies


@pytest.mark.usefixtures("many_threads", "setter")
def test_small_student_trains_on_one_thread(make, digits):
    assert seen_in_fit(make, *digits) == ({1}, MANY)
    assert torch.get_num_threads() == MANY


@pytest.mark.usefixtures("many_threads")
@pytest.mark.parametrize("meta", ["none", "linear"])
def test_checks_of_a_small_student_take_one_thread(meta, make, digits, logits):
    """Those before the training and after it too: a thread that waits costs more than they do."""
    with SeesOperations() as operations:
        make(meta=meta, max_epochs=2).fit(*digits, teacher_logits=None if meta == "none" else logits)
    assert operations.seen and {n for seen in operations.seen.values() for n in seen} == {1}


@pytest.mark.usefixtures("many_threads")
def test_large_student_trains_on_all_threads(make, digits):
    X, y = digits
    assert seen_in_fit(make, X[:64], y[:64], student__hidden=(LARGE,)) == ({MANY}, MANY)


@pytest.mark.usefixtures("many_threads")
def test_batched_run_counts_its_students(make, digits, logits, monkeypatch):
    """Ten students in one batched run are ten times one."""
    asked = []
    monkeypatch.setattr("sklearn_kd.training._work.threads_for", lambda n: asked.append(n) or threads_for(n))
    make(meta="random", meta__n_trials=10).fit(*digits, teacher_logits=logits)
    of_run, of_one, *_ = sorted(set(asked), reverse=True)
    assert of_run == 10 * of_one


@pytest.mark.usefixtures("many_threads")
def test_failed_fit_puts_the_number_back(make, digits):
    class Fails(Callback):
        def on_epoch_end(self, net, **kwargs):
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        make(callbacks=Fails(), meta="none").fit(*digits)
    assert torch.get_num_threads() == MANY


@pytest.mark.usefixtures("many_threads")
def test_teacher_and_prediction_have_their_own_rule(make, digits):
    """A large teacher is asked on all threads while a small student trains on one, from the second batch on."""
    seen = {"teacher": [], "student": []}

    class Noting(nn.Sequential):
        def __init__(self, name, width):
            super().__init__(nn.Linear(64, width), nn.Linear(width, 10))
            self.name = name

        def forward(self, x):
            seen[self.name].append((len(x), torch.get_num_threads()))
            return super().forward(x)

    teacher, student = Noting("teacher", LARGE), Noting("student", 8)
    clf = make(teacher, student, augment=lambda x: x, max_epochs=1, meta="naive").fit(*digits)
    assert {n for rows, n in seen["teacher"] if rows == 32} == {MANY}
    seen["student"].clear()
    clf.predict(digits[0])
    assert seen["student"] == [(400, 1)]


@pytest.mark.usefixtures("many_threads")
@pytest.mark.parametrize(
    ("method", "function"), [("predict", "softmax"), ("predict_log_proba", "log_softmax")]
)
def test_softmax_of_a_few_rows_takes_one_thread(make, digits, logits, monkeypatch, method, function):
    """Torch divides even two rows among all threads."""
    X, y = digits
    clf = make(meta="none", max_epochs=1).fit(X, y, teacher_logits=logits)
    seen, original = [], getattr(torch, function)

    def noting(*args, **kwargs):
        seen.append(torch.get_num_threads())
        return original(*args, **kwargs)

    monkeypatch.setattr(torch, function, noting)
    getattr(clf, method)(X[:3])
    assert seen == [1]
    assert torch.get_num_threads() == MANY


def test_pass_before_the_first_prediction_leaves_no_trace(make, digits, logits):
    class Drawing(nn.Linear):
        def __init__(self):
            super().__init__(64, 10)
            self.register_buffer("n_passes", torch.zeros((), dtype=torch.int64))

        def forward(self, x):
            self.n_passes += 1
            return super().forward(x + torch.randn_like(x))

    X, y = digits
    clf = make(student=Drawing(), meta="none", standardize=False).fit(X, y, teacher_logits=logits)
    before = clf.student_.n_passes.item()
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        found.append(clf.predict_proba(X[:5]))
    assert (found[0] == found[1]).all()
    assert clf.student_.n_passes == before + 2


# --------------------------------------------------------------------------------------
# The size


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (nn.Linear(40, 30), (2, 40), 2 * 40 * 30),
        (nn.Linear(40, 30), (2, 5, 40), 2 * 5 * 40 * 30),
        (nn.Conv2d(6, 4, 3), (2, 6, 8, 8), 2 * 4 * 36 * 6 * 9),
        (nn.Conv2d(6, 4, 3, groups=2), (2, 6, 8, 8), 2 * 4 * 36 * 3 * 9),
        (nn.ConvTranspose2d(6, 4, 3), (2, 6, 8, 8), 2 * 6 * 64 * 4 * 9),
        (nn.ReLU(), (2, 50), 100 * PER_ELEMENT),
        (nn.Flatten(), (2, 5, 10), 0),
        (CIFARResNet(8), (2, 3, 32, 32), 2 * 16 * 1024 * 16 * 9),
        (nn.TransformerEncoderLayer(80, 2, 640, batch_first=True), (2, 5, 80), 2 * 5 * 80 * 640),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_size_of_the_largest_operation(module, shape, expected):
    x = torch.zeros(shape)
    with torch.no_grad():
        _, size = largest_operation(lambda: module.eval()(x), module.modules())
    assert size == expected


@pytest.mark.parametrize("make", [lambda: nn.LSTM(40, 30), lambda: torch.jit.script(nn.Linear(4, 3))])
def test_modules_whose_operations_are_not_seen_are_large(make):
    assert largest_operation(lambda: None, nn.Sequential(make()).modules()) == (None, math.inf)


def test_what_cannot_be_counted_runs_all_the_same():
    calls = []

    def run():
        calls.append(None)
        if len(calls) == 1:
            raise NotImplementedError("not under a mode")
        return "done"

    assert largest_operation(run, []) == ("done", math.inf)


def test_pass_for_nothing_but_its_operations():
    calls = []
    script = torch.jit.script(nn.Linear(4, 3))
    assert operations_of(lambda: calls.append("not seen"), [script]) == math.inf
    assert calls == []
    assert operations_of(lambda: 1 / 0, []) == math.inf
    layer, x = nn.Linear(40, 30), torch.zeros(2, 40)
    assert operations_of(lambda: layer(x), [layer]) == 2 * 40 * 30
