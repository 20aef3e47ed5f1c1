"""Losses with named metaparameters: their derivatives, and the hypergradients that come of them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from helpers.own_losses import LOSSES, start_of
from sklearn_kd import CNNStudent, MLPStudent, hypergradient
from sklearn_kd.losses import DistillationLoss, LogitDistillation, Metaparameter
from sklearn_kd.losses._distillation_loss import AutogradEvaluation, check_loss, mean_loss
from sklearn_kd.meta import MetaparameterSpace
from sklearn_kd.tasks._targets import Targets

N_CLASSES, LR = 4, 0.3


@pytest.fixture
def batches():
    torch.manual_seed(0)
    X, X_val = torch.randn(2, 12, 5).double()
    y, y_val = torch.randint(0, N_CLASSES, (2, 12))
    return (X, y), (X_val, y_val), 2 * torch.randn(12, N_CLASSES).double()


def student():
    torch.manual_seed(1)
    return MLPStudent(5, N_CLASSES, hidden=6).double()


def by_unrolling(loss, batches):
    """d L_val(w − lr · ∇L_train(w, a))/da by autograd through the step, float64, as one vector."""
    (X, y), (X_val, y_val), f = batches
    module, values = student(), start_of(loss, N_CLASSES)
    weights = dict(module.named_parameters())
    logits = functional_call(module, weights, (X,))
    train = loss.loss(logits, f, y, **values).mean()
    gradients = torch.autograd.grad(train, list(weights.values()), create_graph=True)
    stepped = {n: w - LR * g for (n, w), g in zip(weights.items(), gradients, strict=True)}
    val = F.cross_entropy(functional_call(module, stepped, (X_val,)), y_val)
    found = torch.autograd.grad(val, list(values.values()))
    return torch.cat([part.reshape(-1) for part in found]).numpy()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("method", "tolerance"),
    [("exact", 1e-10), ("jvp", 1e-10), ("central_difference", 1e-5), ("finite_difference", 1e-4)],
)
def test_hypergradient_equals_autograd_through_the_step(name, method, tolerance, batches):
    loss = LOSSES[name]()
    wanted = by_unrolling(loss, batches)
    found = hypergradient(student(), *batches, loss=loss, lr=LR, method=method)
    assert found.shape == wanted.shape and np.abs(wanted).min() > 1e-6
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max())


def test_values_of_metaparameters_are_given_by_name(batches):
    loss = LOSSES["decoupled"]()
    a, b = (hypergradient(student(), *batches, loss=loss, lr=LR, alpha=alpha) for alpha in (1.0, 3.0))
    assert np.abs(a - b).max() > 1e-3
    np.testing.assert_array_equal(a, hypergradient(student(), *batches, loss=loss, lr=LR))
    with pytest.raises(TypeError, match=r"no metaparameter 'gamma'; it has \['alpha', 'beta', 'T'\]"):
        hypergradient(student(), *batches, loss=loss, gamma=1.0)


# --------------------------------------------------------------------------------------
# Closed forms against autograd


@pytest.mark.parametrize("scaling", ["hinton", "none"])
@pytest.mark.parametrize("weighted", [False, True])
def test_closed_form_equals_autograd(scaling, weighted, batches):
    (_, y), _, f = batches
    loss = LogitDistillation(temperature_scaling=scaling)
    z = torch.randn(12, N_CLASSES, dtype=torch.float64)
    targets = Targets(y, f, torch.linspace(0.5, 1.5, 12).double() if weighted else None)
    values = {"lambda1": 0.3, "temperature": 2.5}
    closed = loss.evaluate(z, targets, values)
    traced = AutogradEvaluation(loss, z, targets, values, differentiable=True)
    u = torch.randn_like(z)
    torch.testing.assert_close(closed.value, traced.value)
    torch.testing.assert_close(closed.gradients[0], traced.gradients[0])
    torch.testing.assert_close(closed.contract(u), traced.contract(u))
    torch.testing.assert_close(closed.derivatives(), traced.derivatives())


@pytest.mark.parametrize("name", LOSSES)
def test_contraction_is_that_of_the_derivatives(name, batches):
    (_, y), _, f = batches
    loss, z = LOSSES[name](), torch.randn(12, N_CLASSES).double()
    found = loss.evaluate(z, Targets(y, f), start_of(loss, N_CLASSES))
    u = torch.randn_like(z)
    torch.testing.assert_close(found.contract(u), (found.derivatives() * u).sum(dim=(1, 2)))


def test_a_metaparameter_without_effect_on_the_logits_has_derivative_0(batches):
    class Shifted(LOSSES["smoothed"]):
        def metaparameters(self, n_classes):
            return super().metaparameters(n_classes) | {"shift": Metaparameter(1.0)}

        def loss(self, logits, teacher_logits, labels, *, smoothing, shift):
            return super().loss(logits, teacher_logits, labels, smoothing=smoothing) + shift

    h = hypergradient(student(), *batches, loss=Shifted(), lr=LR)
    assert h[1] == 0.0
    np.testing.assert_allclose(h[0], by_unrolling(LOSSES["smoothed"](), batches)[0], rtol=1e-4)


def test_float32_networks_are_not_promoted():
    torch.manual_seed(0)
    net, X = CNNStudent((1, 8, 8), N_CLASSES, channels=(2, 2, 2)), torch.randn(8, 1, 8, 8)
    loss, y = LOSSES["classwise"](), torch.arange(8) % N_CLASSES
    z = net(X).detach()
    found = loss.evaluate(z, Targets(y, torch.randn(8, N_CLASSES)), start_of(loss, N_CLASSES))
    assert found.gradients[0].dtype is torch.float32 and found.contract(z).dtype is torch.float32


# --------------------------------------------------------------------------------------
# Wrong losses


def check(loss, weighted=False):
    start = {name: entry.start for name, entry in loss.metaparameters(3).items()}
    check_loss(loss, start, 3, weighted=weighted)


def a_loss(function, **entries):
    class Own(DistillationLoss):
        def metaparameters(self, n_classes):
            return entries

        def loss(self, logits, teacher_logits, labels, **values):
            return function(logits, teacher_logits, labels, **values)

    return Own()


def cross_entropy(z, f, y):
    return F.cross_entropy(z, y, reduction="none")


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda z, f, y: 1.0, TypeError, "returned float; it must return a tensor"),
        (lambda z, f, y: z.argmax(1), TypeError, "returned a tensor of torch.int64; it must return a tensor"),
        (lambda z, f, y: z, ValueError, r"shape \(2, 3\); it must return one loss for each row, shape \(2,\)"),
        (lambda z, f, y: z.sum(1) / 0, ValueError, "it must be finite"),
        (lambda z, f, y: z.detach().sum(1), ValueError, "does not depend on the student's logits"),
    ],
)  # fmt: skip
def test_wrong_losses_are_refused_before_training(function, error, message):
    with pytest.raises(error, match=message):
        check(a_loss(function))


class Doubled(LogitDistillation):
    """As "kd", times a metaparameter."""

    def metaparameters(self, n_classes):
        lambda1, temperature = super().metaparameters(n_classes).values()
        return {"lambda1": lambda1, "temperature": temperature, "size": Metaparameter(2.0)}

    def loss(self, logits, teacher_logits, labels, *, size, **values):
        return size * super().loss(logits, teacher_logits, labels, **values)


def test_a_subclass_of_kd_may_change_its_loss(batches):
    (_, y), _, f = batches
    z, values = torch.randn(12, N_CLASSES).double(), {"lambda1": 0.3, "temperature": 2.5}
    kd = LogitDistillation().evaluate(z, Targets(y, f), values)
    doubled = Doubled().evaluate(z, Targets(y, f), values | {"size": 2.0})
    torch.testing.assert_close(doubled.gradients[0], 2 * kd.gradients[0])
    torch.testing.assert_close(doubled.contract(z)[:2], 2 * kd.contract(z))
    check_loss(Doubled(), values | {"size": 2.0}, 3, weighted=False)


@pytest.mark.parametrize("part", ["value", "gradients", "contract"])
def test_an_evaluation_of_another_loss_is_refused(part):
    class Evaluated(LOSSES["smoothed"]):
        def evaluate(self, logits, targets, values, *, differentiable=True):
            found = super().evaluate(logits, targets, values, differentiable=differentiable)
            if part == "contract":
                found.contract = lambda u: u.new_zeros(2)
            else:
                setattr(found, part, [2 * found.gradients[0]] if part == "gradients" else 2 * found.value)
            return found

    with pytest.raises(ValueError, match=rf"loss=Evaluated: evaluate gives another {part}"):
        check(Evaluated())


class Fixed(DistillationLoss):
    """Its loss takes no metaparameter; ``function`` computes it."""

    def __init__(self, function=cross_entropy, names=()):
        self.function, self.names = function, names

    def metaparameters(self, n_classes):
        return {name: Metaparameter(1.0) for name in self.names}

    def loss(self, logits, teacher_logits, labels):
        return self.function(logits, teacher_logits, labels)


def test_a_loss_that_does_not_take_its_metaparameters_is_refused():
    with pytest.raises(TypeError, match=r"could not be called with the metaparameters \['weight'\]"):
        check(Fixed(names=["weight"]))


def test_an_error_inside_a_loss_names_it():
    with pytest.raises(TypeError, match=r"^loss=Fixed: unsupported operand") as error:
        check(Fixed(lambda z, f, y: z.sum(1) + None))
    assert str(error.value.__cause__).startswith("unsupported operand")


def test_trying_a_loss_leaves_the_generators_as_they_were():
    torch.manual_seed(0)
    wanted = torch.rand(1)
    torch.manual_seed(0)
    check(Fixed(lambda z, f, y: cross_entropy(F.dropout(z, 0.5), f, y)))
    assert torch.rand(1) == wanted


def test_a_loss_without_teacher_is_tried_without():
    loss = Fixed(lambda z, f, y: cross_entropy(z, f, y) + (0 if f is None else torch.nan))
    loss.needs_teacher = False
    check_loss(loss, {}, 3, weighted=False, has_teacher=False)
    with pytest.raises(ValueError, match="must be finite"):
        check_loss(loss, {}, 3, weighted=False, has_teacher=True)


def test_a_loss_may_change_its_arguments_in_place(batches):
    (_, y), _, f = batches

    def changing(z, f, y):
        z -= z.mean(dim=1, keepdim=True)
        f /= 2
        return (z - f).square().sum(1) + 0 * y.fill_(0)

    z = torch.randn(12, N_CLASSES).double()
    given = [tensor.clone() for tensor in (z, f, y)]
    found = Fixed(changing).evaluate(z, Targets(y, f), {})
    wanted = Fixed(lambda z, f, y: (z - z.mean(1, keepdim=True) - f / 2).square().sum(1))
    torch.testing.assert_close(found.gradients[0], wanted.evaluate(z, Targets(y, f), {}).gradients[0])
    assert all(map(torch.equal, given, (z, f, y)))


def test_the_hypergradient_is_in_the_order_of_the_loss_whatever_the_groups(batches):
    def entries(group):
        return {"a": Metaparameter(0.1), "b": Metaparameter(0.2, group=group), "c": Metaparameter(0.3)}

    def weighted(z, f, y, a, b, c):
        return a * cross_entropy(z, f, y) + b * z.square().sum(1) + c * (z - f).square().sum(1)

    one, two = (
        hypergradient(student(), *batches, loss=a_loss(weighted, **entries(g))) for g in ("loss", "x")
    )
    np.testing.assert_array_equal(one, two)
    assert len(set(one)) == 3


def test_the_hypergradient_needs_no_teacher_where_the_loss_needs_none(batches):
    train, val, _ = batches
    loss = a_loss(lambda z, f, y, T: cross_entropy(z / T, f, y), T=Metaparameter(2.0))
    with pytest.raises(ValueError, match="teacher_logits=None, but loss=Own needs a teacher's logits"):
        hypergradient(student(), train, val, None, loss=loss)
    type(loss).needs_teacher = False
    assert hypergradient(student(), train, val, None, loss=loss).shape == (1,)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (np.nan, ValueError, "T=nan must be finite"),
        (0.0, ValueError, "T=0.0 must be above 0: its coordinate is the logarithm"),
        ([1.0, 2.0], ValueError, r"T has shape \(2,\); it must have shape \(\)"),
        ({}, TypeError, "T={} must be a number or an array of numbers"),
        ("random", ValueError, "'T' has no start. Give T=..."),
    ],
)
def test_values_that_are_no_metaparameters_are_refused(value, error, message, batches):
    entry = Metaparameter(2.0, bounds=(1, 10), coordinate="log")
    loss = a_loss(lambda z, f, y, T: cross_entropy(z / T, f, y), T=entry)
    with pytest.raises(error, match=message):
        hypergradient(student(), *batches, loss=loss, T=value)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"start": "randm"}, ValueError, "start='randm' must be a number, an array of numbers, 'random'"),
        ({"start": {}}, TypeError, "start={} must be a number"),
        ({"shape": (0,)}, ValueError, r"shape=\(0,\) must be a tuple of integers of at least 1"),
        ({"shape": 2.5}, ValueError, "shape=2.5 must be a tuple"),
        ({"bounds": None}, ValueError, "bounds=None must be two numbers"),
        ({"predicted_bounds": 3}, ValueError, "predicted_bounds=3 must be two numbers"),
    ],
)
def test_metaparameters_that_cannot_be(given, error, message):
    with pytest.raises(error, match=message):
        Metaparameter(**given)


def test_a_shape_may_be_a_number_or_a_list_and_bounds_an_array():
    entries = [Metaparameter(1.0, shape=shape, bounds=np.array([0.0, 2.0])) for shape in (3, [3], (3,))]
    assert {entry.shape for entry in entries} == {(3,)} and {entry.bounds for entry in entries} == {
        (0.0, 2.0)
    }


@pytest.mark.parametrize("name", ["epoch", "batches", "train_loss", "valid_acc", "skipped_steps", "val_loss"])
def test_names_of_columns_are_no_names_of_metaparameters(name):
    with pytest.raises(ValueError, match="cannot be the name of a metaparameter"):
        MetaparameterSpace({name: Metaparameter(1.0)})


def test_metaparameters_are_a_dict():
    with pytest.raises(TypeError, match="returned NoneType; it must return a dict of names"):
        MetaparameterSpace(None)


def test_a_loss_of_the_batch_cannot_be_weighted():
    loss = a_loss(lambda z, f, y: F.cross_entropy(z, y))
    check(loss)
    with pytest.raises(ValueError, match=r"beside weights of rows \(.*\); it must return one loss for each"):
        check(loss, weighted=True)


def test_mean_of_rows_is_weighted():
    rows, weight = torch.tensor([1.0, 3.0]), torch.tensor([1.5, 0.5])
    assert mean_loss(rows, Targets(torch.zeros(2).long(), None, weight)) == 1.5


@pytest.mark.parametrize("method", ["metaparameters", "loss"])
def test_the_base_class_says_what_is_missing(method):
    arguments = (3,) if method == "metaparameters" else (None, None, None)
    with pytest.raises(NotImplementedError, match=f"DistillationLoss must define {method}"):
        getattr(DistillationLoss(), method)(*arguments)
