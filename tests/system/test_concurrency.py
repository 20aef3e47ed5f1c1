"""Fits in threads and processes at once give what they give one after the other."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed, parallel_config
from sklearn.ensemble import StackingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback
from torch import nn

from helpers.networks import ConvNet
from helpers.parameter_ids import in_words
from helpers.settings import SINGLE_RUN
from sklearn_kd import DistilledClassifier, MLPStudent, compare_methods
from sklearn_kd.runtime._global_lock import torch_state_lock
from sklearn_kd.runtime._random_state import preserved_random_state

# A deadlock is to fail, not to hang.
PATIENCE = 300


@pytest.fixture(autouse=True)
def impatient_threads():
    """Threads interrupt each other a thousand times as often as by default."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


class Drawing(nn.Module):
    """Initial weights and masks from torch's generator, and running statistics."""

    def __init__(self, in_features, n_classes):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_features, 16),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(16, n_classes),
        )

    def forward(self, x):
        return self.layers(x)


def fitted(clf, *given, **more):
    clf = clf.fit(*given, **more)
    return [value.numpy() for value in clf.student_.state_dict().values()]


def in_threads(function, arguments):
    """``function(argument)`` of each, one thread per argument."""
    pool = ThreadPoolExecutor(len(arguments))
    began = threading.Barrier(len(arguments))

    def run(argument):
        began.wait()
        return function(argument)

    found = [pool.submit(run, argument) for argument in arguments]
    found = [future.result(PATIENCE) for future in found]
    pool.shutdown()
    return found


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        for value, other in zip(a, b, strict=True):
            np.testing.assert_array_equal(value, other)


@contextlib.contextmanager
def dask_cluster(processes):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            1, threads_per_worker=2, processes=processes, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
        parallel_config("dask"),
    ):
        yield


BACKENDS = {
    "threading": lambda: parallel_config("threading"),
    "loky": lambda: parallel_config("loky", inner_max_num_threads=1),
    "dask threads": lambda: dask_cluster(processes=False),
    "dask processes": lambda: dask_cluster(processes=True),
}


def one_thread_of_torch(function, *args, **kwargs):
    torch.set_num_threads(1)  # in a process of dask's too
    return function(*args, **kwargs)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_gives_the_same(backend, make, digits, logits):
    def fits(parallel):
        return parallel(
            delayed(one_thread_of_torch)(fitted, clf, *digits, teacher_logits=logits)
            for clf in [
                make(student=Drawing, meta=meta, random_state=seed)
                for meta in ("naive", "linear", "hyperopt")
                for seed in range(2)
            ]
        )

    expected = fits(Parallel(n_jobs=1))
    with BACKENDS[backend]():
        found = fits(Parallel(n_jobs=4 if "thread" in backend else 2))
    assert_same(found, expected)


def test_the_generators_are_left_as_they_were(make, digits, logits):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    in_threads(
        lambda seed: fitted(make(student=Drawing, random_state=seed), *digits, teacher_logits=logits),
        range(4),
    )
    assert torch.equal(torch.get_rng_state(), before)


def in_threads_of_its_own(clfs, *given):
    torch.set_num_threads(1)
    return Parallel(n_jobs=2, backend="threading")(delayed(fitted)(clf, *given) for clf in clfs)


def test_threads_inside_processes(make, digits):
    groups = [
        [make(student=Drawing, meta="none", random_state=2 * k + j) for j in range(2)] for k in range(2)
    ]
    expected = [[fitted(clf, *digits) for clf in group] for group in groups]
    with parallel_config("loky", inner_max_num_threads=1):
        found = Parallel(n_jobs=2)(delayed(in_threads_of_its_own)(group, *digits) for group in groups)
    for group, other in zip(found, expected, strict=True):
        assert_same(group, other)


# --------------------------------------------------------------------------------------
# What several fits are given together


def test_fits_that_share_a_network_as_teacher(make, digits, network):
    """In training mode, which would show in its answers and its running statistics."""
    before = {name: value.clone() for name, value in network.state_dict().items()}

    def fit(seed):
        return fitted(make(network, Drawing, random_state=seed, augment=torch.neg), *digits)

    expected = [fit(seed) for seed in range(4)]
    assert_same(in_threads(fit, range(4)), expected)
    assert network.training and all(part.training for part in network.modules())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_fits_that_share_a_skorch_net_as_teacher(make, digits):
    teacher = NeuralNetClassifier(Drawing(64, 10), max_epochs=1, verbose=0).fit(
        digits[0], digits[1].astype(np.int64)
    )

    def fit(seed):
        return fitted(make(teacher, Drawing, random_state=seed), *digits)

    expected = [fit(seed) for seed in range(4)]
    assert_same(in_threads(fit, range(4)), expected)


def test_distpro_fits_that_share_a_teacher(make_distpro, images):
    """Whose hooks would otherwise hear of each other's batches."""
    teacher, student = ConvNet(width=6, dropout=0.5), ConvNet(dropout=0.2)

    def fit(seed):
        settings = {"transforms": ["conv1"], "logit_weight": 1.0}
        clf = make_distpro(teacher, random_state=seed, student=student, **settings)
        return fitted(clf, *images)

    expected = [fit(seed) for seed in range(3)]
    assert_same(in_threads(fit, range(3)), expected)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in teacher.modules())


@pytest.mark.parametrize("frozen", [False, True])
def test_a_teacher_that_fits_estimators_of_its_own_in_threads(make, digits, frozen):
    """Its turn must not be waited for by the one that waits for it."""
    from sklearn.frozen import FrozenEstimator

    def fit(seed):
        inner = [
            (f"s{k}", make(student=Drawing, meta="none", max_epochs=1, random_state=k)) for k in range(2)
        ]
        teacher = StackingClassifier(inner, LogisticRegression(), cv=2, n_jobs=2)
        with parallel_config("threading"):
            if frozen:
                teacher = FrozenEstimator(teacher.fit(*digits))
            return fitted(make(teacher, Drawing, random_state=seed), *digits)

    expected = [fit(seed) for seed in range(2)]
    assert_same(in_threads(fit, range(2)), expected)


# --------------------------------------------------------------------------------------
# Prediction


def test_prediction_in_threads(make, digits, logits):
    clf = make(student=Drawing, meta="naive").fit(*digits, teacher_logits=logits)
    expected = clf.predict_proba(digits[0])
    for found in in_threads(lambda _: clf.predict_proba(digits[0]), range(4)):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("meta", ["none", "linear", "hyperopt"])
def test_a_fitted_student_is_in_evaluation_mode(meta, make, digits, logits):
    """So that nobody who asks it has to change what others are asking."""
    clf = make(student=Drawing, meta=meta).fit(*digits, teacher_logits=logits)
    assert not any(part.training for part in clf.student_.modules())
    before = fitted(clf.set_params(warm_start=True), *digits, teacher_logits=logits)
    assert any(
        (a != b).any() for a, b in zip(before, fitted(clf, *digits, teacher_logits=logits), strict=True)
    )


def test_prediction_waits_for_nobody(make, digits):
    clf = make(meta="none").fit(*digits)
    has_turn, over = threading.Event(), threading.Event()

    def train():
        with torch_state_lock():
            has_turn.set()
            over.wait(PATIENCE)

    thread = threading.Thread(target=train)
    thread.start()
    has_turn.wait(PATIENCE)
    with ThreadPoolExecutor(1) as pool:
        predicted = pool.submit(clf.predict, digits[0])
        try:
            assert predicted.result(PATIENCE / 10).shape == digits[1].shape
        finally:
            over.set()
    thread.join()


# --------------------------------------------------------------------------------------
# Searches


def test_a_grid_search_in_threads(make, digits):
    grid = {"lr": [0.05, 0.2], "meta": ["naive", "linear"]}

    def scores():
        search = GridSearchCV(make(LogisticRegression(), Drawing), grid, cv=2, n_jobs=2)
        return search.fit(*digits).cv_results_["mean_test_score"], search.predict_proba(digits[0])

    with parallel_config(n_jobs=1):
        expected = GridSearchCV(make(LogisticRegression(), Drawing), grid, cv=2).fit(*digits)
    with parallel_config("threading"):
        found = scores()
    np.testing.assert_array_equal(found[0], expected.cv_results_["mean_test_score"])
    np.testing.assert_array_equal(found[1], expected.predict_proba(digits[0]))


def test_comparisons_in_threads(make, digits):
    def compare(seed):
        clf = make(LogisticRegression(), max_epochs=1)
        methods = ("none", "naive", "random", "linear")
        found = compare_methods(clf, *digits, methods=methods, cv=2, random_state=seed, n_jobs=1)
        return [found.results_[name] for name in ("accuracy", "log_loss", "lambda1", "temperature")]

    expected = [compare(seed) for seed in range(2)]
    assert_same(in_threads(compare, range(2)), expected)


# --------------------------------------------------------------------------------------
# Turns


@pytest.fixture
def elsewhere():
    """Another thread that has its turn until it is told to end it."""
    began, over = threading.Event(), threading.Event()

    def work():
        with torch_state_lock():
            began.set()
            over.wait(PATIENCE)

    thread = threading.Thread(target=work)
    thread.start()
    began.wait(PATIENCE)
    yield over
    over.set()
    thread.join()


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="a signal cannot be sent to a thread")
def test_an_interrupt_ends_the_wait(elsewhere, sigint_heard, make, digits):
    main = threading.main_thread().ident
    timer = threading.Timer(0.5, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        make(meta="none").fit(*digits)
    elsewhere.set()
    make(meta="none").fit(*digits)  # nothing is held


def draws(queue):
    with preserved_random_state(torch.device("cpu"), seed=3):
        queue.put(float(torch.rand(())))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_process_forked_meanwhile_does_not_wait(elsewhere):
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=draws, args=(queue,), daemon=True)
    process.start()
    process.join(PATIENCE / 10)
    try:
        assert process.exitcode == 0
        assert queue.get() == float(torch.rand((), generator=torch.Generator().manual_seed(3)))
    finally:
        process.kill()


def test_a_training_that_fails_ends_its_turn(make, digits):
    class Fails(Callback):
        def on_epoch_end(self, net, **kwargs):
            raise RuntimeError("on purpose")

    def fit(fails):
        with contextlib.suppress(RuntimeError):
            make(meta="none", callbacks=[Fails()] if fails else None).fit(*digits)
        return True

    assert in_threads(fit, [True, False])


def test_callbacks_may_fit_and_search_in_their_own_thread(make, digits):
    class Searches(Callback):
        def on_epoch_end(self, net, **kwargs):
            cross_val_score(make(meta="none", max_epochs=1), *digits, cv=2)

    def fit(seed):
        return fitted(make(student=Drawing, meta="none", callbacks=[Searches()], random_state=seed), *digits)

    expected = [fit(seed) for seed in range(2)]
    assert_same(in_threads(fit, range(2)), expected)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "params", [{"meta": "linear"}, {"meta": "linear", "execution": "bfloat16"}], ids=in_words
)
def test_threads_on_a_gpu(params, digits, logits):
    def fit(seed):
        clf = DistilledClassifier(
            None,
            Drawing,
            max_epochs=2,
            batch_size=32,
            random_state=seed,
            device="cuda",
            **(SINGLE_RUN | params),
        )
        return clf.fit(*digits, teacher_logits=logits).predict_proba(digits[0])

    expected = [fit(seed) for seed in range(3)]
    np.testing.assert_allclose(in_threads(fit, range(3)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_a_teacher_on_the_host_shared_by_threads_that_train_on_a_gpu(digits, network):
    """Its tensors are moved for each of them, and it stays where it is."""

    def fit(seed):
        clf = DistilledClassifier(
            network, MLPStudent, max_epochs=1, random_state=seed, device="cuda", **SINGLE_RUN
        )
        return clf.fit(*digits).predict_proba(digits[0])

    expected = [fit(seed) for seed in range(3)]
    np.testing.assert_allclose(in_threads(fit, range(3)), expected, rtol=1e-4, atol=1e-5)
    assert all(value.device.type == "cpu" for value in network.state_dict().values())
