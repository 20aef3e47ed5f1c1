"""A step in micro-batches is that of the whole batch, in the memory of one of them."""

import copy
import logging
import re
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn

from helpers.hypergradients import ready_net
from helpers.networks import ConvNet
from helpers.pixels import IGNORED, PixelNet, images_with_maps, pixel_teacher
from sklearn_kd import DistilledClassifier, DistilledRegressor, Execution, MLPStudent
from sklearn_kd.inputs._batches import Batch
from sklearn_kd.inputs._data import DistillationData, SplitData
from sklearn_kd.inputs._micro_batches import micro_batches
from sklearn_kd.losses import SimilarityPreserving
from sklearn_kd.losses._logit_distillation import LogitDistillation
from sklearn_kd.losses._objective import LogitObjective
from sklearn_kd.meta import Fixed, Gradient, ImplicitGradient, Linear
from sklearn_kd.meta._path import MetaparameterPath
from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.tasks._targets import Targets
from sklearn_kd.training._alone import train_alone
from sklearn_kd.training._net import TrainingNet
from sklearn_kd.training._stackable import why_not_stackable

SGD = {"lr": 0.05, "optimizer": torch.optim.SGD, "optimizer__momentum": 0.9}
ADAM = {"lr": 0.01, "optimizer": torch.optim.Adam, "max_epochs": 4}


class InFloat64(DistillationData):
    """Batches in float64."""

    def batch(self, rows):
        return super().batch(rows).map(lambda t: t.double() if t.is_floating_point() else t)


@pytest.fixture(scope="module")
def data():
    """97 weighted rows and 41 of D_val: no batch of 31 rows, nor the last one, can be divided evenly."""
    draw = torch.Generator().manual_seed(0)
    X = torch.randn(97 + 41, 20, generator=draw)
    y = X[:, :5].argmax(1)
    f = 2 * X[:, :5] + torch.randn(len(X), 5, generator=draw)
    weight = torch.rand(97, generator=draw) + 0.5
    train = InFloat64(X[:97], Targets(y[:97], f[:97], weight / weight.mean()), 1)
    return SplitData(train, InFloat64(X[97:], Targets(y[97:]), 2))


def student(*layers):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(20, 16), *layers, nn.Tanh(), nn.Linear(16, 5)).double()


def made_net(strategy, n, module=None, **params):
    space = MetaparameterSpace(LogitDistillation().metaparameters(n_classes=5))
    return TrainingNet(
        module or student(),
        objective=LogitObjective(LogitDistillation()),
        metaparameters=MetaparameterPath(space, {"lambda1": 0.5, "temperature": 2.0}),
        strategy=copy.deepcopy(strategy),
        classes=np.arange(5),
        verbose=0,
        execution=params.pop("execution", Execution(micro_batches=n)),
        **({"max_epochs": 2, "batch_size": 31} | (params or SGD)),
    ).initialize()


def assert_same(found, expected, atol):
    for a, b in zip(found.module_.state_dict().values(), expected.module_.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)
    paths = [net.metaparameters.table() for net in (found, expected)]
    for name in ("lambda1", "temperature"):
        np.testing.assert_allclose(paths[0][name], paths[1][name], rtol=0, atol=atol)
    for name in ("train_loss", "valid_loss", "train_batch_size"):
        place = (slice(None), "batches", slice(None), name) if "size" in name else (slice(None), name)
        columns = [np.ravel(net.history[place]) for net in (found, expected)]
        np.testing.assert_allclose(*columns, rtol=0, atol=atol, err_msg=name)


CASES = {
    "no hypergradient": (Fixed(), SGD, 1e-13),
    "exact": (Gradient(hypergradient="exact"), SGD, 1e-12),
    "jvp": (Gradient(hypergradient="jvp"), ADAM, 1e-12),
    "finite differences": (Gradient(), SGD, 1e-7),
    "central differences": (Gradient(hypergradient="central_difference"), SGD, 1e-7),
    "clipped": (Linear(e1=2, e2=2, hypergradient="exact"), SGD | {"max_grad_norm": 0.05}, 1e-12),
    "some rows": (Gradient(hypergradient="jvp", hypergradient_rows=13), SGD, 1e-12),
    "implicit": (ImplicitGradient(every=2), SGD, 1e-6),
}


@pytest.mark.parametrize("case", CASES)
def test_micro_batches_end_where_whole_batches_do(case, data):
    strategy, params, atol = CASES[case]
    divided, whole = (train_alone(made_net(strategy, n, **params), data, 5) for n in (4, 1))
    assert_same(divided, whole, atol)
    moved = divided.metaparameters.table()["lambda1"][-1] != 0.5
    assert moved != isinstance(strategy, Fixed)


class Counting(nn.Module):
    """Its outputs depend on a buffer that each pass in training mode changes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    def forward(self, x):
        if self.training:
            self.scale += 0.1
        return x * self.scale


LAYERS = {
    "dropout": lambda: nn.Dropout(0.5),
    "batch normalisation": lambda: nn.BatchNorm1d(16),
    "a buffer that counts": Counting,
}


@pytest.mark.parametrize("kind", LAYERS)
def test_each_micro_batch_is_repeated_with_its_own_masks_and_buffers(kind, data):
    """The exact hypergradient repeats no pass; the others repeat each with another random state."""
    found = {}
    for method in ("exact", "jvp", "central_difference"):
        module = student(LAYERS[kind]())
        found[method] = train_alone(made_net(Gradient(hypergradient=method), 4, module), data, 5)
    assert_same(found["jvp"], found["exact"], 1e-12)
    assert_same(found["central_difference"], found["exact"], 1e-6)


def test_the_pass_over_d_val_is_divided_too(data):
    seen = []

    class Watched(nn.Tanh):
        def forward(self, x):
            seen.append((len(x), torch.is_grad_enabled()))
            return super().forward(x)

    net = made_net(
        Gradient(hypergradient="central_difference"), 4, student(Watched()), **SGD | {"max_epochs": 1}
    )
    train_alone(net, data, 5)
    with_graph = [n for n, has_graph in seen if has_graph]
    # Of four steps the last one's batch has four rows: two micro-batches.
    assert max(with_graph) == 8 and len(with_graph) == 3 * 4 + 2 + 4 * 4
    # Both passes of the difference; D_val is predicted in whole batches, which without a graph keep nothing.
    assert sum(n <= 8 for n, has_graph in seen if not has_graph) == 2 * (3 * 4 + 2)


# --------------------------------------------------------------------------------------
# Division


@pytest.mark.parametrize(
    ("n_rows", "n", "sizes"),
    [(12, 4, [3, 3, 3, 3]), (11, 4, [2, 3, 3, 3]), (5, 4, [2, 3]), (3, 4, [3]), (1, 4, [1]), (9, 1, [9])],
)
def test_a_micro_batch_has_two_rows_or_more(n_rows, n, sizes):
    weight = torch.rand(n_rows)
    batch = Batch(torch.rand(n_rows, 3), Targets(torch.arange(n_rows), torch.rand(n_rows, 2), weight))
    divided = list(micro_batches(batch, n))
    assert sorted(len(micro[0]) for micro in divided) == sizes
    assert torch.equal(torch.cat([micro[0] for micro in divided]), batch[0])
    assert torch.equal(torch.cat([micro.targets.weight for micro in divided]), weight)
    if len(sizes) == 1:
        assert divided[0] is batch
    else:
        assert {micro.n_rows for micro in divided} == {n_rows}


def test_pixels_go_with_their_images():
    batch = Batch(torch.rand(5, 1, 2, 2), Targets(torch.arange(20), torch.rand(20, 3), None, torch.rand(20)))
    divided = list(micro_batches(batch, 2))
    assert [len(micro.targets.labels) for micro in divided] == [8, 12]
    assert torch.equal(
        torch.cat([micro.targets.label_weight for micro in divided]), batch.targets.label_weight
    )


def test_processes_divide_their_shares_into_equally_many():
    """One has three rows of seven and the other four, which alone would be one and two micro-batches."""
    for n_own in (3, 4):
        batch = Batch(torch.rand(n_own, 2), Targets(torch.arange(n_own)), n_rows=7)
        assert len(list(micro_batches(batch, 2, n_ranks=2))) == 1


# --------------------------------------------------------------------------------------
# Whole fits, in float32


class PlainConvNet(nn.Module):
    """A net for digits whose rows do not see each other."""

    def __init__(self, n_classes=10, width=4):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 2 * width, 3, stride=2)
        self.linear = nn.Linear(2 * width, n_classes)

    def forward(self, x):
        return self.linear(self.conv2(self.conv1(x).relu()).relu().mean(dim=(2, 3)))


def quick(kind, teacher, module, **params):
    settings = {"optimizer": torch.optim.SGD, "lr": 0.1, "max_epochs": 2, "batch_size": 32}
    settings |= {"random_state": 0, "device": "cpu", "meta": "gradient", "search_epochs": None}
    return kind(teacher, module, **(settings | {"validation_fraction": 0.2} | params))


def unlabeled(digits):
    X, y = digits
    clf = quick(DistilledClassifier, LogisticRegression(max_iter=200), MLPStudent, student__hidden=16)
    return clf, (X[:130], y[:130]), {"X_unlabeled": X[130:200], "sample_weight": np.linspace(0.5, 1.5, 130)}


def labels(digits):
    X, y = digits
    clf = quick(DistilledClassifier, None, MLPStudent, meta="none", student__hidden=16)
    return clf, (X[:150], np.stack([y[:150] > 4, y[:150] % 2 == 0, y[:150] == 3], axis=1).astype(int)), {}


def numbers(digits):
    X, y = digits
    clf = quick(DistilledRegressor, Ridge(), MLPStudent, student__hidden=16, lr=0.01)
    return clf, (X[:150], np.stack([y[:150], X[:150].mean(axis=1)], axis=1)), {}


def pixels(digits):
    clf = quick(DistilledClassifier, pixel_teacher(), PixelNet, ignore_index=IGNORED, batch_size=10)
    return clf, images_with_maps(), {}


def hints(digits):
    X, y = digits[0][:150].reshape(-1, 1, 8, 8), digits[1][:150]
    torch.manual_seed(0)
    clf = quick(DistilledClassifier, ConvNet(width=6), PlainConvNet, loss=["kd", "hint"], lr=0.01)
    return clf, (X, y), {"sample_weight": np.linspace(0.5, 1.5, 150)}


@pytest.mark.parametrize("case", [unlabeled, labels, numbers, pixels, hints])
def test_fits_of_all_kinds_end_where_whole_batches_do(case, digits):
    fits = []
    for n in (1, 3):
        estimator, Xy, given = case(digits)
        fits.append(estimator.set_params(execution=Execution(micro_batches=n)).fit(*Xy, **given))
    whole, divided = fits
    for a, b in zip(whole.student_.parameters(), divided.student_.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert set(whole.metaparameters_) == set(divided.metaparameters_)
    for name, value in whole.metaparameters_.items():
        np.testing.assert_allclose(divided.metaparameters_[name], value, rtol=1e-3, atol=1e-4)
    columns = [name for name in ("train_loss", "valid_loss", "hint_loss") if name in whole.history_[-1]]
    for name in columns:
        np.testing.assert_allclose(divided.history_[:, name], whole.history_[:, name], rtol=1e-4)


class PlainTransform(nn.Conv2d):
    """A transform of pathways without batch normalisation."""

    def __init__(self, c_in, c_out):
        super().__init__(c_in, c_out, 1)

    def forward(self, x, size):
        return nn.functional.adaptive_avg_pool2d(super().forward(x), size)


def watched(teacher, asked):
    def ask(x, layers):
        asked.append(len(x))
        return teacher(x, layers)

    return ask


def test_pathways_in_float64(make_distpro, images):
    """A step with a hypergradient of importance factors; the teacher is asked for three rows at a time."""
    found = []
    for n in (1, 10):
        execution, transforms = Execution(micro_batches=n), [PlainTransform]
        clf = make_distpro(student=PlainConvNet, execution=execution, transforms=transforms)
        net, batch, _ = ready_net(clf, images, callbacks=[])
        asked = []
        net.objective.teacher = watched(net.objective.teacher, asked)
        net.train_step(batch)
        found.append(([w.detach() for m in net.trained_modules() for w in m.parameters()], net, asked))
    (whole, net, _), (divided, of_parts, asked) = found
    for a, b in zip(whole, divided, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    for name, value in net.metaparameters.named().items():
        torch.testing.assert_close(of_parts.metaparameters.named()[name], value, rtol=1e-5, atol=1e-7)
    assert max(asked) <= 4 and sum(asked) == len(batch[0])


def test_relations_between_rows_are_those_of_a_micro_batch(digits):
    X, y = digits[0][:150].reshape(-1, 1, 8, 8), digits[1][:150]
    sizes = []

    class Watched(SimilarityPreserving):
        name = "watched"

        def loss(self, student, teacher, module, **given):
            sizes.append(len(student[0]))
            return super().loss(student, teacher, module, **given)

    torch.manual_seed(0)
    execution = Execution(micro_batches=4)
    loss = ["kd", Watched(weight=1.0)]
    quick(
        DistilledClassifier, ConvNet(width=6), PlainConvNet, loss=loss, meta="fixed", execution=execution
    ).fit(X, y)
    assert max(sizes[2:]) <= 9  # beside two rows that try the term


# --------------------------------------------------------------------------------------
# Memory


@contextmanager
def graph_memory():
    """The most bytes that graphs have kept at a time."""
    now, most, kept = [0], [0], {}

    class Saved:
        def __init__(self, tensor):
            self.tensor, self.key = tensor, tensor.data_ptr()
            size, n = kept.get(self.key, (tensor.nbytes, 0))
            now[0] += 0 if n else size
            kept[self.key] = size, n + 1
            most[0] = max(most[0], now[0])

        def __del__(self):
            size, n = kept[self.key]
            now[0] -= 0 if n > 1 else size
            kept[self.key] = size, n - 1

    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        yield most


class Deep(nn.Sequential):
    """Whose activations outweigh its weights, as rows are many."""

    def __init__(self):
        super().__init__(nn.Linear(20, 8), *[nn.Tanh() for _ in range(12)], nn.Linear(8, 5))


@pytest.mark.parametrize("method", ["none", "exact", "finite_difference"])
def test_graphs_take_the_memory_of_one_micro_batch(method, data):
    strategy = Fixed() if method == "none" else Gradient(hypergradient=method)
    most = []
    for n in (1, 8):
        torch.manual_seed(0)
        net = made_net(strategy, n, Deep().double(), **SGD | {"batch_size": 40, "max_epochs": 1})
        with graph_memory() as peak:
            train_alone(net, data, 5)
        most.append(peak[0])
    assert most[1] < most[0] / 4, most


# --------------------------------------------------------------------------------------
# What is refused, and said


@pytest.mark.parametrize(
    ("n", "kind", "match"),
    [
        (0, ValueError, "micro_batches=0 must be at least 1"),
        (-2, ValueError, "micro_batches=-2 must be at least 1"),
        (2.0, TypeError, "micro_batches=2.0 must be a whole number"),
        (True, TypeError, "micro_batches=True must be a whole number"),
        ("4", TypeError, "micro_batches='4' must be a whole number"),
    ],
)
def test_a_number_that_cannot_be_used_is_refused(n, kind, match, make, digits, logits, no_training):
    with pytest.raises(kind, match=f"execution.*{re.escape(match)}"):
        make(execution=Execution(micro_batches=n)).fit(*digits, teacher_logits=logits)


def test_forward_mode_refuses_micro_batches(make, digits, logits, no_training):
    clf = make(meta="forward", execution=Execution(micro_batches=2))
    with pytest.raises(ValueError, match=r"meta: ForwardGradient .* micro_batches=2\. Set micro_batches=1"):
        clf.fit(*digits, teacher_logits=logits)


def test_other_ways_to_execute_say_why_not(data, caplog):
    nets = [made_net(Fixed(), 2) for _ in range(3)]
    assert "micro-batches divide the batch of one student" in why_not_stackable(nets, [data] * 3)
    net = made_net(Fixed(), 2, execution=Execution(cuda_graph=True, micro_batches=2), max_epochs=1)
    with caplog.at_level(logging.INFO, "sklearn_kd"):
        train_alone(net, data, 5)
    assert "Not captured in a CUDA graph: a graph keeps the memory of a whole iteration" in caplog.text


def test_running_out_of_memory_advises_more_of_them(make, digits, logits, monkeypatch):
    def runs_out(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TrainingNet, "train_step", runs_out)
    with pytest.raises(torch.OutOfMemoryError, match=r"batch_size; execution__micro_batches=8;"):
        make(execution__micro_batches=4).fit(*digits, teacher_logits=logits)
    with pytest.raises(torch.OutOfMemoryError) as error:
        make(meta="forward").fit(*digits, teacher_logits=logits)
    assert "micro_batches" not in str(error.value)
