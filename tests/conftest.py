import gc
import signal

import numpy as np
import pytest
import torch
from joblib import parallel_config
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import nn

from helpers.networks import ConvNet
from helpers.parameter_ids import check_names
from helpers.process_group import Processes
from helpers.settings import single_run
from sklearn_kd import DistilledClassifier, DistProClassifier, MLPStudent
from sklearn_kd.training._net import TrainingNet

# The networks here are too small for a second thread to pay, and results repeat to the bit.
torch.set_num_threads(1)
threadpool_limits(1)


@pytest.fixture(autouse=True)
def one_process():
    """No processes but where a test asks for them: the trainings here are over sooner."""
    with parallel_config(n_jobs=1):
        yield


@pytest.fixture(scope="module")
def once():
    """once(key, fit): what fit() gives, made once for all tests of a file that only read it."""
    made = {}

    def once(key, fit):
        if key not in made:
            made[key] = fit()
        return made[key]

    return once


@pytest.fixture(scope="session")
def process_pool():
    """The two processes of all tests that use ``two``."""
    pool = {}
    yield pool
    if pool:
        pool["two"].close()


@pytest.fixture
def two(process_pool):
    """Two processes of one group, started once; anew where a test before has left them in disorder."""
    if process_pool and not process_pool["two"].in_order:
        process_pool.pop("two").close()
    if not process_pool:
        process_pool["two"] = Processes(2)
    return process_pool["two"]


@pytest.fixture
def sigint_heard():
    """SIGINT interrupts, as in a terminal: what is started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_collection_finish():
    """Leave out of each garbage collection what was imported and collected: a million objects that stay."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items):
    check_names(item.nodeid for item in items)
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def digits():
    """(X, y) of 400 digits, scaled to [0, 1]."""
    X, y = load_digits(return_X_y=True)
    return (X[:400] / 16).astype(np.float32), y[:400]


@pytest.fixture(scope="session")
def logits(digits):
    """Logits of a teacher that is right nine times in ten."""
    rng = np.random.default_rng(0)
    said = np.where(rng.random(400) < 0.9, digits[1], rng.integers(0, 10, 400))
    return (4 * np.eye(10)[said] + rng.normal(size=(400, 10))).astype(np.float32)


@pytest.fixture
def make():
    """A classifier that trains in a blink, by SGD, in a single run."""

    def make(teacher=None, student=MLPStudent, **params):
        quick = single_run(params) | {
            "optimizer": torch.optim.SGD,
            "lr": 0.1,
            "max_epochs": 2,
            "batch_size": 32,
        }
        quick |= {"random_state": 0, "device": "cpu"}
        if student is MLPStudent:
            quick["student__hidden"] = 32
        return DistilledClassifier(teacher, student, **(quick | params))

    return make


@pytest.fixture
def no_training(monkeypatch):
    """Fail where a student or a logistic regression is trained."""

    def fail(*args, **kwargs):
        raise AssertionError("trained before the input was refused")

    monkeypatch.setattr(TrainingNet, "train_step", fail)
    monkeypatch.setattr(LogisticRegression, "fit", fail)


@pytest.fixture(scope="session")
def trained(digits):
    """A linear network that knows its digits; column j is digit j."""
    X, y = (torch.as_tensor(part) for part in digits)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Linear(64, 10)
    opt = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(200):
        opt.zero_grad()
        nn.functional.cross_entropy(net(X), y).backward()
        opt.step()
    return net


@pytest.fixture
def network():
    """A teacher for digits whose training mode would show."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 10), nn.Dropout(0.5), nn.BatchNorm1d(10))


@pytest.fixture(scope="session")
def images(digits):
    """(X, y) of 160 digits as images of 8×8."""
    return digits[0][:160].reshape(-1, 1, 8, 8), digits[1][:160]


@pytest.fixture
def conv_teacher():
    """A wider network than the student, untrained."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ConvNet(width=6)


@pytest.fixture
def make_distpro(conv_teacher):
    """A DistProClassifier that searches and retrains in a blink."""

    def make(teacher=None, student=ConvNet, **params):
        quick = {
            "transforms": ["conv1", "conv2"],
            "search_epochs": 1,
            "max_epochs": 2,
            "batch_size": 32,
            "random_state": 0,
            "device": "cpu",
        }
        return DistProClassifier(conv_teacher if teacher is None else teacher, student, **(quick | params))

    return make
