"""A fit, a prediction, a file mean the same whatever torch has been told around the call."""

import contextlib
import copy
import os
import threading

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.naive_bayes import GaussianNB
from torch import nn

from helpers.networks import ConvNet
from sklearn_kd import DistillationProcess, DistilledClassifier, Pathway, compare_methods, hypergradient
from sklearn_kd.runtime._torch_modes import default_dtype_of_caller, ordinary_torch


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
        assert torch.get_default_dtype() is dtype  # left as it was found
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
        assert torch.empty(0).device.type == device
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


AROUND = {
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
    "default device meta": lambda: default_device("meta"),
    "device meta": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "deterministic": deterministic,
    "anomaly mode": torch.autograd.detect_anomaly,
}
around = pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)


@contextlib.contextmanager
def all_at_once():
    with contextlib.ExitStack() as stack:
        for name in ("default dtype float64", "default device meta", "autocast", "no_grad", "inference_mode"):
            stack.enter_context(AROUND[name]())
        yield


anomalous = pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")


class Regularised(nn.Module):
    """Batch normalisation, dropout, weights made in the first forward pass, and tensors made in each."""

    def __init__(self, n_classes):
        super().__init__()
        self.layers = nn.Sequential(nn.LazyLinear(16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.ReLU())
        self.last = nn.Linear(16, n_classes)

    def forward(self, x):
        return self.last(self.layers(x)) * torch.tensor([1.5])


def values_of(clf):
    """All numbers that a fit leaves behind."""
    found = {name: value.numpy() for name, value in clf.student_.state_dict().items()}
    assert all(value.dtype in (np.float32, np.int64) for value in found.values())
    if hasattr(clf, "metaparameter_path_"):
        found |= {name: clf.metaparameter_path_[name] for name in clf.metaparameter_path_.dtype.names}
    else:
        found |= {"process": clf.process_.raw, "weights": clf.process_.weights}
    return found


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, strict=True, err_msg=name)


# --------------------------------------------------------------------------------------
# Around fit


@anomalous
@around
def test_a_fit_is_the_same(around, make, digits, network):
    def fitted():
        clf = make(copy.deepcopy(network), Regularised, max_epochs=1)
        return values_of(clf.fit(*(part[:200] for part in digits)))

    plain = fitted()
    with around():
        assert_equal(fitted(), plain)


@pytest.mark.parametrize("method", ["central_difference", "jvp", "exact"])
def test_a_fit_is_the_same_in_all_of_them_at_once(method, make, digits, network):
    def fitted():
        clf = make(copy.deepcopy(network), Regularised, meta__hypergradient=method, max_epochs=1, e2=2)
        return values_of(clf.fit(*digits))

    plain = fitted()
    with all_at_once():
        assert_equal(fitted(), plain)


def test_a_distpro_fit_is_the_same(make_distpro, images):
    def fitted():
        clf = make_distpro(max_epochs=1, logit_weight=1.0, transforms=["conv1"])
        return values_of(clf.fit(*(part[:80] for part in images)))

    plain = fitted()
    with all_at_once():
        assert_equal(fitted(), plain)


def test_a_fit_that_autocasts_is_the_same_in_autocast(make, digits, logits):
    # The ambient one keeps its casts of weights as long as it lasts, which is all the fit.
    plain = values_of(make(execution="bfloat16", meta="naive").fit(*digits, teacher_logits=logits))
    exact = values_of(make(meta="naive").fit(*digits, teacher_logits=logits))
    assert any((plain[name] != exact[name]).any() for name in plain)
    with torch.autocast("cpu", torch.bfloat16):
        found = make(execution="bfloat16", meta="naive").fit(*digits, teacher_logits=logits)
        assert_equal(values_of(found), plain)


def test_casts_of_the_ambient_autocast_are_not_lost(make, digits, logits):
    layer, x = nn.Linear(3, 2), torch.ones(1, 3)
    with torch.autocast("cpu", torch.bfloat16):
        before = layer(x)
        make(execution="bfloat16", meta="naive", max_epochs=1).fit(*digits, teacher_logits=logits)
        assert torch.is_autocast_enabled("cpu") and torch.equal(layer(x), before)
        assert layer(x).dtype is torch.bfloat16
    with torch.no_grad():
        layer.weight.add_(1)
    with torch.autocast("cpu", torch.bfloat16):  # left as if no fit had been: its casts are forgotten
        assert not torch.equal(layer(x), before)


def test_methods_compare_the_same(make, digits):
    def compared():
        clf = make(GaussianNB(), max_epochs=1)
        X, y = (part[:120] for part in digits)
        methods = "none", "naive", "random", "linear"
        found = compare_methods(clf, X, y, methods=methods, cv=2, random_state=0, n_jobs=1).results_
        return {name: found[name] for name in ("accuracy", "log_loss", "lambda1", "models_in_batch")}

    plain = compared()
    with all_at_once():
        assert_equal(compared(), plain)


def test_trials_and_rows_of_a_dataset_are_the_same(make, digits):
    data, teacher = torch.utils.data.TensorDataset(*map(torch.tensor, digits)), _net()

    def fitted():
        return values_of(make(teacher, meta="hyperopt", max_epochs=1).fit(data))

    plain = fitted()
    with all_at_once():
        assert_equal(fitted(), plain)


def test_a_failing_fit_leaves_all_as_it_was(make, digits):
    with default_dtype(torch.float64), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(ValueError, match="nothing to distil"):
            make().fit(*digits)
        assert torch.is_autocast_enabled("cpu") and not torch.is_grad_enabled()


def test_tensors_and_students_made_in_inference_mode(make, digits, logits):
    plain = values_of(make(student=_net()).fit(*digits, teacher_logits=logits))
    with torch.inference_mode():
        given = [torch.tensor(part) for part in (*digits, logits)]
        student = _net()
        data = torch.utils.data.TensorDataset(*given[:2])
    found = make(student=student).fit(*given[:2], teacher_logits=given[2])
    assert_equal(values_of(found), plain)
    found = make(student=student).fit(data, teacher_logits=given[2])
    assert_equal(values_of(found), plain)


def test_dataset_items_with_a_past(make, digits, logits):
    X = torch.tensor(digits[0]).requires_grad_()
    data = torch.utils.data.TensorDataset(X, torch.tensor(digits[1]))
    plain = make().fit(*digits, teacher_logits=logits)
    assert_equal(values_of(make().fit(data, teacher_logits=logits)), values_of(plain))
    assert X.grad is None


def _net():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))


# --------------------------------------------------------------------------------------
# Around prediction, files, functions


@anomalous
@around
def test_predictions_and_scores_are_the_same(around, make, digits, logits, once):
    clf = once("predicts", lambda: make(student=Regularised).fit(*digits, teacher_logits=logits))
    X, y = (part[:100] for part in digits)
    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(y))

    def answers():
        scores = clf.score(X, y), clf.score(data)
        return [clf.predict_proba(X), clf.predict_log_proba(data), clf.predict(X), *scores]

    plain = answers()
    with around():
        for found, wanted in zip(answers(), plain, strict=True):
            np.testing.assert_array_equal(found, wanted, strict=True)


@anomalous
@around
def test_files_are_the_same(around, make, digits, logits, once, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    clf = once("is saved", lambda: make().fit(*digits, teacher_logits=logits))
    clf.export_student(tmp_path / "plain_student.safetensors")
    with around():
        clf.save(tmp_path / "other.safetensors")
        clf.export_student(tmp_path / "other_student.safetensors")
        loaded = DistilledClassifier.load(tmp_path / "other.safetensors")
    plain, other = (safetensors.load_file(path) for path in sorted(tmp_path.glob("*_student.safetensors")))
    assert_equal(other, plain)
    assert_equal(values_of(loaded), values_of(clf))
    np.testing.assert_array_equal(loaded.predict_proba(digits[0]), clf.predict_proba(digits[0]), strict=True)


@anomalous
@around
@pytest.mark.parametrize("method", ["finite_difference", "jvp", "exact"])
def test_a_hypergradient_is_the_same(around, method):
    generator = torch.Generator().manual_seed(0)
    X, f = (torch.randn(8, size, generator=generator) for size in (4, 3))
    student = nn.Linear(4, 3)
    y = torch.arange(8) % 3

    def found():
        return hypergradient(student, (X, y), (X, y), f, method=method)

    plain = found()
    assert np.isfinite(plain).all() and plain.any()
    with around():
        np.testing.assert_array_equal(found(), plain, strict=True)


@anomalous
@around
def test_a_process_is_the_same(around, tmp_path):
    pathways = [Pathway("layer1", "layer1", name, 0, 0, 16, 16) for name in ("conv1", "conv2")]
    raw = torch.tensor([[1.0, 1.0], [3.0, 1.0]])
    plain = DistillationProcess(raw.numpy(), pathways)
    with around():
        process = DistillationProcess(raw.bfloat16(), pathways)
        np.testing.assert_array_equal(process.weights, plain.weights, strict=True)
        process.save(tmp_path / "process.npz")
        assert DistillationProcess.load(tmp_path / "process.npz").at(1, 5).dtype == np.float64


def test_hypergradient_takes_tensors_of_inference_mode_and_bfloat16():
    generator = torch.Generator().manual_seed(0)
    student, y = nn.Linear(4, 3), torch.arange(8) % 3
    X, f = (torch.randn(8, size, generator=generator).round() for size in (4, 3))
    plain = hypergradient(student, (X, y), (X, y), f)
    with torch.inference_mode():
        X_made, y_made = X.clone(), y.clone()
        made_there = copy.deepcopy(student)
    watched = X.clone().requires_grad_()
    for given in ((X_made, y_made), (watched, y)):
        for answers in (f.bfloat16(), f.double().requires_grad_()):
            np.testing.assert_array_equal(hypergradient(student, given, given, answers), plain)
    assert watched.grad is None
    with pytest.raises(ValueError, match=r"student was made inside torch\.inference_mode"):
        hypergradient(made_there, (X, y), (X, y), f)


# --------------------------------------------------------------------------------------
# What it cannot be called in


def test_networks_without_numbers_are_refused(make, make_distpro, digits, images, logits):
    with torch.device("meta"):
        net, conv = _net(), ConvNet()
    said = "has weights on the device 'meta', which hold no numbers, such as '0.weight'"
    with pytest.raises(ValueError, match=f"^student Sequential {said}"):
        make(student=net).fit(*digits, teacher_logits=logits)
    with pytest.raises(ValueError, match=f"^teacher Sequential {said}"):
        make(net).fit(*digits)
    with pytest.raises(ValueError, match=r"^teacher ConvNet has weights on the device 'meta'"):
        make_distpro(conv).fit(*images)


def test_transforms_of_torch_func_are_refused(make, digits, logits):
    clf = make().fit(*digits, teacher_logits=logits)

    def score(w):
        return w * clf.score(*digits)

    with pytest.raises(RuntimeError, match=r"called inside a transform of torch\.func"):
        torch.func.grad(score)(torch.ones(()))
    with pytest.raises(RuntimeError, match=r"called inside a transform of torch\.func"):
        torch.func.vmap(lambda w: clf.fit(*digits, teacher_logits=logits) and w)(torch.ones(2))
    assert clf.score(*digits) > 0


def test_fake_tensors_are_refused(make, digits, logits):
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode(), pytest.raises(RuntimeError, match="each tensor is a FakeTensor without numbers"):
        make().fit(*digits, teacher_logits=logits)


# --------------------------------------------------------------------------------------
# The default dtype, which all threads share


def test_threads_share_the_default_dtype():
    inside, leave, seen = threading.Event(), threading.Event(), []

    def other():
        with ordinary_torch():
            inside.set()
            leave.wait(60)
            seen.append(torch.get_default_dtype())

    with default_dtype(torch.float64):
        thread = threading.Thread(target=other)
        with ordinary_torch():
            thread.start()
            assert inside.wait(60)
            seen.append(torch.get_default_dtype())
        seen.append(torch.get_default_dtype())  # the other one is still at work
        leave.set()
        thread.join(60)
        assert torch.get_default_dtype() is torch.float64
    assert seen == [torch.float32] * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a fork beside threads
def test_a_fork_holds_what_its_own_thread_holds():
    inside, leave = threading.Event(), threading.Event()

    def other():
        with ordinary_torch():
            inside.set()
            leave.wait(60)

    def dtype_of_child():
        if (child := os.fork()) == 0:
            os._exit(int(torch.get_default_dtype() is torch.float64))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    with default_dtype(torch.float64):
        thread = threading.Thread(target=other)
        thread.start()
        assert inside.wait(60)
        outside = dtype_of_child()
        with ordinary_torch():
            within = dtype_of_child()
        leave.set()
        thread.join(60)
    assert (outside, within) == (1, 0)


def test_a_default_dtype_that_is_set_meanwhile_stays():
    try:
        with ordinary_torch():
            torch.set_default_dtype(torch.bfloat16)
        assert torch.get_default_dtype() is torch.bfloat16
    finally:
        torch.set_default_dtype(torch.float32)


class OwnDtype(ClassifierMixin, BaseEstimator):
    """A classifier made of torch that calculates in the default dtype."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.dtypes_ = [torch.get_default_dtype()]
        return self

    def predict_proba(self, X):
        self.dtypes_.append(torch.get_default_dtype())
        return np.full((len(X), len(self.classes_)), 1 / len(self.classes_))


def test_a_scikit_learn_teacher_has_the_default_dtype_of_the_caller(make, digits):
    with default_dtype(torch.float64):
        teacher = make(OwnDtype(), keep_teacher=True).fit(*digits).teacher_
    assert teacher.dtypes_ == [torch.float64] * 2
    with default_dtype_of_caller():
        assert torch.get_default_dtype() is torch.float32


# --------------------------------------------------------------------------------------
# Students of another type


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_student_of_another_dtype_is_trained_in_float32(dtype, make, digits, logits, tmp_path):
    pytest.importorskip("safetensors")
    given = _net().to(dtype)
    before = copy.deepcopy(given.state_dict())
    plain = make(student=copy.deepcopy(given).float()).fit(*digits, teacher_logits=logits)
    clf = make(student=given).fit(*digits, teacher_logits=logits)
    assert_equal(values_of(clf), values_of(plain))
    for name, value in given.state_dict().items():  # the user's own is left alone
        assert value.dtype is before[name].dtype and torch.equal(value, before[name])
    clf.save(tmp_path / "net.safetensors")
    loaded = DistilledClassifier.load(tmp_path / "net.safetensors", student=given)
    np.testing.assert_array_equal(loaded.predict_proba(digits[0]), clf.predict_proba(digits[0]))


def test_a_student_of_another_dtype_for_distpro(make_distpro, images):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        given = ConvNet()
    plain = make_distpro(student=copy.deepcopy(given)).fit(*images)
    assert_equal(values_of(make_distpro(student=given.double()).fit(*images)), values_of(plain))


class Casting(nn.Module):
    """Takes float32, and calculates in float64."""

    def __init__(self, in_features, n_classes):
        super().__init__()
        self.layer = nn.Linear(in_features, n_classes, dtype=torch.float64)

    def forward(self, x):
        return self.layer(x.double())


def test_a_student_that_casts_keeps_its_dtype(make, digits, logits):
    clf = make(student=Casting).fit(*digits, teacher_logits=logits)
    assert clf.student_.student.layer.weight.dtype is torch.float64
    assert clf.predict_proba(digits[0]).dtype == np.float32


def test_lazy_weights_of_another_dtype(make, digits, logits):
    with default_dtype(torch.float64):
        given = nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(10))
    clf = make(student=given).fit(*digits, teacher_logits=logits)
    assert clf.student_.student[0].weight.dtype is torch.float32
    again = make(student=nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(10)))
    assert_equal(values_of(again.fit(*digits, teacher_logits=logits)), values_of(clf))
