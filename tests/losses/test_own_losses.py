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
    check_loss(loss, start, 3, weighted=weighted, taught=True)


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
        (lambda z, f, y, a: z.sum(), TypeError, r"could not be called with the metaparameters \[\]"),
        (lambda z, f, y: 1.0, TypeError, "returned float; it must return a tensor"),
        (lambda z, f, y: z, ValueError, r"shape \(2, 3\); it must return one loss for each row, shape \(2,\)"),
        (lambda z, f, y: z.sum(1) / 0, ValueError, "it must be finite"),
        (lambda z, f, y: z.detach().sum(1), ValueError, "does not depend on the student's logits"),
    ],
)  # fmt: skip
def test_wrong_losses_are_refused_before_training(function, error, message):
    with pytest.raises(error, match=message):
        check(a_loss(function))


def test_a_loss_of_the_batch_cannot_be_weighted():
    loss = a_loss(lambda z, f, y: F.cross_entropy(z, y))
    check(loss)
    with pytest.raises(ValueError, match="beside sample_weight; it must return one loss for each row"):
        check(loss, weighted=True)


def test_mean_of_rows_is_weighted():
    rows, weight = torch.tensor([1.0, 3.0]), torch.tensor([1.5, 0.5])
    assert mean_loss(rows, Targets(torch.zeros(2).long(), None, weight)) == 1.5


@pytest.mark.parametrize("method", ["metaparameters", "loss"])
def test_the_base_class_says_what_is_missing(method):
    arguments = (3,) if method == "metaparameters" else (None, None, None)
    with pytest.raises(NotImplementedError, match=f"DistillationLoss must define {method}"):
        getattr(DistillationLoss(), method)(*arguments)
