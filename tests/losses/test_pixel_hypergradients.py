"""Losses of maps of numbers, and their hypergradients, against float64 references on the maps themselves."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from sklearn_kd.bilevel._hypergradient import HypergradientEstimator
from sklearn_kd.inputs._batches import Batch
from sklearn_kd.losses import REGRESSION_LOSSES, BerHuLoss, HuberLoss, SquaredError
from sklearn_kd.losses._objective import LogitObjective
from sklearn_kd.students._resized import ResizedStudent
from sklearn_kd.tasks._pixel_numbers import PixelRegression
from sklearn_kd.tasks._pixels import pixel_rows, pixel_targets
from sklearn_kd.tasks._targets import Targets

LR, SHAPE = 0.1, (4, 4, 6)
LOSSES = {name: kind() for name, kind in REGRESSION_LOSSES.items()}
LOSSES |= {"huber": HuberLoss(1.25), "berhu": BerHuLoss(0.25)}  # widths that float32 holds
LOSSES["bounded"] = SquaredError(teacher_bound=0.3)


@pytest.fixture
def data():
    torch.manual_seed(0)
    X, X_val = torch.randn(2, 4, 3, *SHAPE[1:]).double()
    maps = torch.randn(3, *SHAPE).double()
    unknown = torch.rand(SHAPE).argsort(dim=-1) % 2 == 0  # half the pixels, so that float32 holds the shares
    return X, maps[0].masked_fill(unknown, torch.nan), maps[1], X_val, maps[2].masked_fill(unknown, torch.nan)


def student(loss):
    """A network with maps of half the size, which are resized to that of y."""
    torch.manual_seed(1)
    n_outputs = loss.criterion().outputs_per_target
    own = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(5, n_outputs, 1))
    return ResizedStudent(own, SHAPE[1:], SHAPE[1:]).double()


def start_of(loss):
    starts = {"lambda1": 0.4, "width": 0.6, "teacher_bound": 0.3}
    names = loss.metaparameters(loss.criterion().outputs_per_target)
    return {n: torch.tensor(starts[n], dtype=torch.float64, requires_grad=True) for n in names}


def errors_of_maps(name, outputs, y, width=None):
    """The loss of each pixel by its textbook formula; outputs have shape (B, K, H, W), y (B, H, W)."""
    f = outputs[:, 0]
    e = (f - y).abs()
    if name in ("squared_error", "bounded"):
        return e**2
    if name == "absolute_error":
        return e
    if name == "huber":
        return torch.where(e <= width, e**2 / 2, width * (e - width / 2))
    if name == "berhu":
        return torch.where(e <= width, e, (e**2 + width**2) / (2 * width))
    if name == "quantile":
        return e / 2
    log_variance = 10 * torch.tanh(outputs[:, 1] / 10)
    return (log_variance + (f - y) ** 2 / log_variance.exp()) / 2


def loss_of_maps(name, outputs, y, t, lambda1, width=None, teacher_bound=None):
    """lambda1 · mean over known pixels of L(y) + (1 − lambda1) · mean over all pixels of L(t)."""
    known = ~y.isnan()
    of_y = errors_of_maps(name, outputs, y.nan_to_num(), width)[known].mean()
    of_teacher = errors_of_maps(name, outputs, t, width)
    if teacher_bound is not None:
        f = outputs[:, 0].detach()
        excess = (f - y).abs() + teacher_bound - (t - y).abs()
        of_teacher = torch.where(known, torch.sigmoid(excess.nan_to_num() / 0.1), 1.0) * of_teacher
    return lambda1 * of_y + (1 - lambda1) * of_teacher.mean()


def by_unrolling(name, data):
    """The training loss, and d L_val(w − lr · ∇L_train(w, a))/da by autograd through the step."""
    loss, (X, y, t, X_val, y_val) = LOSSES[name], data
    module, values = student(loss), start_of(loss)
    weights = dict(module.named_parameters())
    train = loss_of_maps(name, functional_call(module, weights, (X,)), y, t, **values)
    gradients = torch.autograd.grad(train, list(weights.values()), create_graph=True)
    stepped = {n: w - LR * g for (n, w), g in zip(weights.items(), gradients, strict=True)}
    width = torch.tensor(getattr(loss, "width", 1.0))
    outputs = functional_call(module, stepped, (X_val,))
    val = errors_of_maps(name, outputs, y_val.nan_to_num(), width)[~y_val.isnan()].mean()
    return train.detach(), torch.stack(torch.autograd.grad(val, list(values.values())))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("method", "tolerance"), [("jvp", 1e-9), ("central_difference", 1e-4)])
def test_hypergradient_is_that_of_the_maps(name, method, tolerance, data):
    loss, (X, y, t, X_val, y_val) = LOSSES[name], data
    module, values, objective = student(loss), start_of(loss), LogitObjective(loss)
    batch = Batch(X, pixel_targets(Targets(y, t[:, None])))
    optimizer = torch.optim.SGD(module.parameters(), lr=LR)
    run = objective.outputs(module, module, {})
    record = HypergradientEstimator(module, optimizer, method=method, forward=run, outputs=run)
    record.begin()
    passed = objective.forward(module, module, {}, batch, values)
    found = objective.evaluate(passed, values, differentiable=True)
    record.after_forward(passed.inputs, passed.logits, found, passed.logits)
    passed.logits.backward(found.gradients[0])
    optimizer.step()
    task = PixelRegression(np.zeros(1), np.ones(1), loss.criterion(), SHAPE[1:])
    val_targets = pixel_targets(Targets(y_val))
    h, _ = record.hypergradient(X_val, lambda outputs: task.validation_loss(outputs, val_targets))
    train, wanted = by_unrolling(name, data)
    torch.testing.assert_close(found.value, train, rtol=1e-9, atol=0)
    assert h.shape == wanted.shape and float(wanted.abs().min()) > 1e-7
    torch.testing.assert_close(h, wanted, rtol=tolerance, atol=tolerance * float(wanted.abs().max()))


@pytest.mark.parametrize("name", LOSSES)
def test_images_of_more_weight_count_more(name, data):
    """An image of weight 2 beside one of 0 counts as the one image twice."""
    loss, (X, y, t, _, _) = LOSSES[name], data
    outputs = student(loss)(X).detach()
    weight = torch.tensor([2.0, 0.0, 1.0, 1.0])
    values = {n: v.detach() for n, v in start_of(loss).items()}
    weighted = pixel_targets(Targets(y, t[:, None], weight))
    twice = [0, 0, 2, 3]
    plain = pixel_targets(Targets(y[twice], t[twice][:, None]))
    found = loss.evaluate(pixel_rows(outputs), weighted, values).value
    wanted = loss.evaluate(pixel_rows(outputs[twice]), plain, values).value
    torch.testing.assert_close(found, wanted)
