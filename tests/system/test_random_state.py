"""``random_state`` reaches all that draws in a fit, and the global generators never move."""

import contextlib
import os
import random
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier
from torch import nn
from torch.utils.data import Dataset

from helpers.networks import ConvNet
from sklearn_kd import MLPStudent, compare_methods
from sklearn_kd.runtime._random_state import preserved_random_state, seeded_without_lock


@contextlib.contextmanager
def unmoved(seed):
    """Global generators that start from ``seed``; they must be there again in the end."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        found = torch.rand(()).item(), np.random.random(), random.random()
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        yield
        assert found == (torch.rand(()).item(), np.random.random(), random.random())
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


def assert_repeats(fitted, differs=None):
    """``fitted()``, an array, does not depend on the global generators, nor moves them."""
    found = []
    for seed in (1, 2):
        with unmoved(seed):
            found.append(fitted())
    np.testing.assert_array_equal(*found, strict=True)
    assert np.isfinite(found[0]).all()
    if differs is not None:  # but it does depend on its own seed
        assert not np.array_equal(found[0], differs())


def weights_of(clf):
    return np.concatenate([w.detach().cpu().numpy().ravel() for w in clf.student_.parameters()])


class Lazy(nn.Sequential):
    def __init__(self, n_classes):
        super().__init__(nn.Flatten(), nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(n_classes))


class MadeLater(nn.Module):
    """Its layer is made in the first forward pass, and is no lazy module."""

    def __init__(self, n_classes):
        super().__init__()
        self.n_classes, self.layer = n_classes, None

    def forward(self, x):
        if self.layer is None:
            self.layer = nn.Linear(x.shape[1], self.n_classes)
        return self.layer(x)


class Noisy(nn.Module):
    """Drops out in evaluation too."""

    def __init__(self, in_features=64, n_classes=10):
        super().__init__()
        self.layer = nn.Linear(in_features, n_classes)

    def forward(self, x):
        return self.layer(nn.functional.dropout(x, 0.2, training=True))


class NumpyNoise(Noisy):
    """Draws from NumPy's and Python's generators."""

    def forward(self, x):
        return self.layer(x + torch.from_numpy(np.random.normal(0, 0.1, x.shape)).float() + random.random())


def noisy_teacher():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Noisy()


def skorch_net(module, digits):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NeuralNetClassifier(module, max_epochs=1, verbose=0, criterion=nn.CrossEntropyLoss).fit(
            *digits
        )


TEACHERS = {
    "module": lambda digits: noisy_teacher(),
    "skorch net": lambda digits: skorch_net(Noisy, digits),
    "frozen skorch net": lambda digits: FrozenEstimator(skorch_net(Noisy, digits)),
    "frozen pipeline": lambda digits: FrozenEstimator(
        make_pipeline(StandardScaler(), _SkorchFloat(Noisy)).fit(*digits)
    ),
    "pipeline": lambda digits: make_pipeline(StandardScaler(), _SkorchFloat(Noisy)),
}


class _SkorchFloat(NeuralNetClassifier):
    """Not a net to this library where it is inside a pipeline: a classifier to be fitted."""

    def __init__(self, module, **params):
        params = {"max_epochs": 1, "verbose": 0, "criterion": nn.CrossEntropyLoss} | params
        super().__init__(module, **params)


# --------------------------------------------------------------------------------------


@pytest.mark.parametrize("student", [MLPStudent, Lazy, MadeLater, Noisy, NumpyNoise])
@pytest.mark.parametrize("meta", ["linear", "naive"])
def test_students(student, meta, make, digits, logits):
    def fitted(**params):
        clf = make(student=student, meta=meta, max_epochs=1, **params)
        return weights_of(clf.fit(*digits, teacher_logits=logits))

    assert_repeats(fitted, lambda: fitted(random_state=1))


def test_an_instance_with_lazy_weights(make, digits, logits):
    given = Lazy(10)
    assert_repeats(lambda: weights_of(make(student=given).fit(*digits, teacher_logits=logits)))
    assert isinstance(given[1].weight, nn.UninitializedParameter)  # left as it is


def test_a_student_that_draws_in_trials_and_goes_on(make, digits, logits):
    assert_repeats(
        lambda: weights_of(
            make(student=Noisy, meta="hyperopt", max_epochs=1).fit(*digits, teacher_logits=logits)
        )
    )
    with unmoved(0):
        clf = make(student=Noisy, warm_start=True).fit(*digits, teacher_logits=logits)
        clf.fit(*digits, teacher_logits=logits)


# Of skorch before 1.3, whose nets look fitted from the start.
@pytest.mark.filterwarnings("ignore:teacher is already fitted:UserWarning")
@pytest.mark.parametrize("kind", TEACHERS)
def test_teachers(kind, make, digits):
    teacher = TEACHERS[kind](digits)
    assert_repeats(lambda: weights_of(make(teacher, max_epochs=1).fit(*digits)))


@pytest.mark.parametrize("kind", ["module", "skorch net"])
def test_teachers_asked_about_augmented_batches(kind, make, digits):
    def augment(x):
        shift = np.random.normal(0, 0.05, x.shape).astype(np.float32) + random.random() / 10
        return x + torch.from_numpy(shift) + 0.05 * torch.randn_like(x)

    teacher = TEACHERS[kind](digits)

    def fitted(**params):
        return weights_of(make(teacher, augment=augment, max_epochs=1, **params).fit(*digits))

    assert_repeats(fitted, lambda: fitted(random_state=1))


@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_dataset_that_draws(n_workers, make, digits):
    class Drawn(Dataset):
        def __len__(self):
            return 60

        def __getitem__(self, index):
            x = torch.from_numpy(digits[0][index]) + 0.1 * torch.randn(64)
            return x + np.float32(0.1 * np.random.normal()) + 0.1 * random.random(), int(digits[1][index])

    loading = {f"iterator_{part}__num_workers": n_workers for part in ("train", "valid")}
    assert_repeats(lambda: weights_of(make(noisy_teacher(), max_epochs=1, **loading).fit(Drawn())))


def noisy_augment(x):
    """Ends the fit after so many calls as it is told."""
    noisy_augment.n_calls -= 1
    if not noisy_augment.n_calls:
        raise ZeroDivisionError
    return x + 0.1 * torch.randn_like(x) + 0.1 * np.float32(np.random.normal()) + 0.1 * random.random()


def test_a_checkpoint_of_a_teacher_that_draws_is_found_again(make, digits, tmp_path):
    teacher = noisy_teacher()

    def fitted(n_calls, **params):
        noisy_augment.n_calls = n_calls
        return make(teacher, augment=noisy_augment, max_epochs=3, **params).fit(*digits)

    whole = fitted(10**6)
    n_calls = 10**6 - noisy_augment.n_calls
    with unmoved(1), pytest.raises(ZeroDivisionError):
        fitted(n_calls, checkpoint_dir=tmp_path)  # in its last step
    with unmoved(2):
        resumed = fitted(n_calls // 2, checkpoint_dir=tmp_path)
    np.testing.assert_array_equal(weights_of(resumed), weights_of(whole))


def test_methods_compared(make, digits):
    teacher = noisy_teacher()
    X, y = (part[:120] for part in digits)

    def compared():
        clf = make(teacher, Lazy, max_epochs=1)
        found = compare_methods(clf, X, y, methods=("naive", "linear"), cv=2, random_state=0, n_jobs=1)
        return found.results_["log_loss"]

    assert_repeats(compared)


def test_compared_as_fitted(make, digits):
    # The teacher's answers about D_train are those that ``fit`` would have had.
    teacher = noisy_teacher()
    X, y = (part[:120] for part in digits)
    clf = make(teacher, max_epochs=1)
    train, test = np.arange(80), np.arange(80, 120)
    found = compare_methods(
        clf, X, y, methods=("linear",), baseline="linear", cv=[(train, test)], random_state=0, n_jobs=1
    ).results_
    clf.set_params(random_state=int(found["random_state"][0]))
    assert clf.fit(X[train], y[train]).lambda1_ == found["lambda1"][0]


class LazyConv(ConvNet):
    def __init__(self, n_classes=10):
        super().__init__(n_classes)
        self.linear = nn.LazyLinear(n_classes)


class NoisyConv(ConvNet):
    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.2, training=True))


def test_distpro(make_distpro, images):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = NoisyConv(width=6)

    def fitted(**params):
        clf = make_distpro(teacher, LazyConv, max_epochs=1, logit_weight=1.0, **params).fit(*images)
        return np.concatenate([weights_of(clf), clf.process_.raw.ravel()])

    assert_repeats(fitted, lambda: fitted(random_state=1))


class LazyTransform(nn.Module):
    def __init__(self, c_in, c_out):
        super().__init__()
        self.match = nn.LazyConv2d(c_out, 1)

    def forward(self, x, size):
        return nn.functional.interpolate(self.match(x), size)


class LaterTransform(LazyTransform):
    def __init__(self, c_in, c_out):
        nn.Module.__init__(self)
        self.c_out, self.match = c_out, None

    def forward(self, x, size):
        if self.match is None:
            self.match = nn.Conv2d(x.shape[1], self.c_out, 1)
        return super().forward(x, size)


@pytest.mark.parametrize("transform", [LazyTransform, LaterTransform])
def test_transforms_that_the_optimizer_would_miss(transform, make_distpro, images):
    with pytest.raises(ValueError, match=r"only the first forward pass creates, such as '0\.match\.weight'"):
        make_distpro(transforms=[transform]).fit(*images)


def test_without_random_state_fits_differ(make, digits, logits):
    fits = [weights_of(make(random_state=None).fit(*digits, teacher_logits=logits)) for _ in range(2)]
    assert not np.array_equal(*fits)


def test_a_prediction_of_a_network_that_draws_draws_on(make, digits, logits):
    # What a user's network does when it predicts is the user's: it is not seeded, and may be.
    clf = make(student=Noisy).fit(*digits, teacher_logits=logits)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = (clf.predict_proba(digits[0]) for _ in range(2))
        torch.manual_seed(0)
        again = clf.predict_proba(digits[0])
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, again)
    plain = make().fit(*digits, teacher_logits=logits)
    with unmoved(0):
        plain.predict(digits[0])
        plain.score(*digits)


def test_a_scikit_learn_teacher_waits_for_no_training():
    entered, leave = threading.Event(), threading.Event()

    def train():
        with preserved_random_state(torch.device("cpu"), 5):
            drawn.append(torch.rand(2))
            entered.set()
            leave.wait(60)
            drawn.append(torch.rand(2))

    drawn: list = []
    thread = threading.Thread(target=train)
    thread.start()
    assert entered.wait(60)
    with seeded_without_lock(1):  # here the teacher would be fitted
        leave.set()
        thread.join(60)
    with preserved_random_state(torch.device("cpu"), 5):
        assert torch.equal(torch.cat(drawn), torch.rand(4))  # whose stream was left alone


def test_seeds_that_overlap_in_threads_are_put_back_by_the_last():
    cpu = torch.device("cpu")
    with preserved_random_state(cpu, 5):
        before = torch.get_rng_state()
        first, second = seeded_without_lock(1), seeded_without_lock(2)
        first.__enter__()
        second.__enter__()
        drawn = torch.rand(3)
        first.__exit__(None, None, None)  # not in the order in which they began
        second.__exit__(None, None, None)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert torch.equal(torch.rand(3), drawn)


@pytest.mark.gpu
def test_a_fit_on_the_cpu_leaves_the_generator_of_a_gpu(make, digits, logits):
    before = torch.cuda.get_rng_state()
    make(noisy_teacher(), max_epochs=1).fit(*digits)
    make(make_pipeline(StandardScaler(), _SkorchFloat(Noisy)), max_epochs=1).fit(*digits)
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.gpu
@pytest.mark.parametrize("augment", [None, torch.clone])
def test_students_and_teachers_on_a_gpu(augment, make, digits):
    clf = make(noisy_teacher(), Noisy, augment=augment, max_epochs=1, device="cuda")
    assert_repeats(lambda: weights_of(clf.fit(*digits)))
    torch.cuda.manual_seed(3)
    before = torch.cuda.get_rng_state()
    clf.fit(*digits)
    assert torch.equal(torch.cuda.get_rng_state(), before)


REPEATED = """
import numpy as np, torch
from torch import nn
from sklearn_kd import DistProClassifier

torch.use_deterministic_algorithms(True)
rng = np.random.default_rng(0)
X, y = rng.normal(size=(96, 1, 8, 8)).astype(np.float32), rng.integers(0, 4, 96)


class Net(nn.Module):
    def __init__(self, n_classes=4, width=8):
        super().__init__()
        self.stage1, self.stage2 = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, width, 3, stride=2)
        self.last = nn.Linear(width, n_classes)

    def forward(self, x):
        return self.last(self.stage2(self.stage1(x).relu()).relu().mean(dim=(2, 3)))


clf = DistProClassifier(
    Net(width=16), Net, teacher_layers=["stage1", "stage2"], student_layers=["stage1", "stage2"],
    distance="mse", search_epochs=3, max_epochs=3, batch_size=16, random_state=0, device="cuda",
)
first, again = (clf.fit(X, y).process_.raw for _ in range(2))
assert (first == again).all(), abs(first - again).max()
"""


@pytest.mark.gpu
def test_a_fit_repeats_on_a_gpu_by_deterministic_algorithms():
    """As docs/guide/reproducibility.rst says."""
    env = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    subprocess.run([sys.executable, "-c", REPEATED], check=True, env=env, timeout=300)


@pytest.mark.parametrize("others", [0, 1])
def test_a_function_as_teacher_draws_the_same_and_leaves_the_generators(others, make, digits, trained):
    """Alone and in a list; it is asked about arrays, without torch's lock."""
    X, y = digits
    seen = []

    def drawing(X):
        seen.append((np.random.rand(), random.random(), float(torch.rand(()))))
        return trained(torch.as_tensor(X)).detach() + np.random.rand()

    teacher = [drawing, trained] if others else drawing
    for seed in (1, 2):
        np.random.seed(seed)
        random.seed(seed)
        before = np.random.get_state()[2], random.getstate()
        make(teacher, random_state=0, max_epochs=1).fit(X, y)
        assert (np.random.get_state()[2], random.getstate()) == before
    assert seen[0] == seen[1]
