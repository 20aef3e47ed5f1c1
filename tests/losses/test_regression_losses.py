"""Losses of a regressor: their values, and their hypergradients against float64 references."""

import numpy as np
import pytest
import torch
from torch.func import functional_call

from sklearn_kd import MLPStudent
from sklearn_kd.bilevel._hypergradient import HypergradientEstimator
from sklearn_kd.losses import (
    REGRESSION_LOSSES,
    BerHuLoss,
    HuberLoss,
    LogitDistillation,
    QuantileLoss,
    SquaredError,
)
from sklearn_kd.losses._distillation_loss import check_loss
from sklearn_kd.meta import MetaparameterSpace
from sklearn_kd.tasks._regression import Regression
from sklearn_kd.tasks._targets import Targets

LR, M = 0.1, 2
LOSSES = {name: kind() for name, kind in REGRESSION_LOSSES.items()}
LOSSES["bounded"] = SquaredError(teacher_bound=0.3)
LOSSES["per output"] = HuberLoss(width=0.7, per_output=True, teacher_bound=0.5)


def task_of(loss):
    return Regression(np.zeros(M), np.ones(M), False, loss.criterion())


def start_of(loss):
    """The start of each metaparameter, as float64 tensors that require gradients."""
    entries = loss.metaparameters(task_of(loss).n_outputs)
    starts = {name: 0.4 if entry.start is None else entry.start for name, entry in entries.items()}
    return {
        name: torch.full(entries[name].shape, value, dtype=torch.float64, requires_grad=True)
        for name, value in starts.items()
    }


@pytest.fixture
def data():
    torch.manual_seed(0)
    X, X_val = torch.randn(2, 12, 5).double()
    y, y_val, t = torch.randn(3, 12, M).double()
    return X, y, t, X_val, y_val


def student(loss):
    torch.manual_seed(1)
    return MLPStudent(5, task_of(loss).n_outputs, hidden=6).double()


def by_unrolling(loss, data):
    """d L_val(w − lr · ∇L_train(w, a))/da by autograd through the step, float64, as one vector."""
    X, y, t, X_val, y_val = data
    module, values = student(loss), start_of(loss)
    weights = dict(module.named_parameters())
    train = loss.loss(functional_call(module, weights, (X,)), t, y, **values).mean()
    gradients = torch.autograd.grad(train, list(weights.values()), create_graph=True)
    stepped = {n: w - LR * g for (n, w), g in zip(weights.items(), gradients, strict=True)}
    val = loss.criterion().errors(functional_call(module, stepped, (X_val,)), y_val).mean()
    found = torch.autograd.grad(val, list(values.values()))
    return torch.cat([part.reshape(-1) for part in found])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("method", "tolerance"), [("jvp", 1e-9), ("central_difference", 1e-4)])
def test_hypergradient_equals_autograd_through_the_step(name, method, tolerance, data):
    loss, (X, y, t, X_val, y_val) = LOSSES[name], data
    module, values = student(loss), start_of(loss)
    optimizer = torch.optim.SGD(module.parameters(), lr=LR)
    record = HypergradientEstimator(module, optimizer, method=method)
    record.begin()
    outputs = module(X)
    found = loss.evaluate(outputs, Targets(y, t), values)
    record.after_forward((X,), outputs, found, outputs)
    outputs.backward(found.gradients[0])
    optimizer.step()
    task = task_of(loss)
    h, val = record.hypergradient(X_val, lambda z: task.validation_loss(z, Targets(y_val)))
    wanted = by_unrolling(loss, data)
    assert h.shape == wanted.shape and float(wanted.abs().min()) > 1e-7
    torch.testing.assert_close(h, wanted, rtol=tolerance, atol=tolerance * float(wanted.abs().max()))
    torch.testing.assert_close(val, loss.criterion().errors(module(X_val), y_val).mean().detach())


def test_values():
    f, y, t = torch.tensor([[1.0]]), torch.tensor([[3.0]]), torch.tensor([[0.0]])
    half = {"lambda1": torch.tensor(0.25)}
    assert float(LOSSES["squared_error"].loss(f, t, y, **half)) == 0.25 * 4 + 0.75 * 1
    assert float(LOSSES["absolute_error"].loss(f, t, y, **half)) == 0.25 * 2 + 0.75 * 1
    width = {"width": torch.tensor(0.5)}
    assert float(LOSSES["huber"].loss(f, t, y, **half, **width)) == 0.25 * 0.5 * 1.75 + 0.75 * 0.5 * 0.75
    beyond = (0.25 * (2**2 + 0.5**2) + 0.75 * (1 + 0.5**2)) / (2 * 0.5)
    assert float(LOSSES["berhu"].loss(f, t, y, **half, **width)) == beyond
    wide = {"width": torch.tensor(2.0)}
    assert float(LOSSES["berhu"].loss(f, t, y, **half, **wide)) == 0.25 * 2 + 0.75 * 1
    nine = QuantileLoss(0.9)
    assert float(nine.loss(f, t, y, **half)) == pytest.approx(0.25 * 0.9 * 2 + 0.75 * 0.1)
    gaussian = LOSSES["gaussian_nll"].loss(torch.tensor([[1.0, 0.0]]), t, y, **half)
    assert float(gaussian) == 0.25 * 2 + 0.75 * 0.5


def test_a_student_that_is_better_by_more_than_the_bound_is_left_alone():
    loss, y, t = SquaredError(teacher_bound=0.2), torch.zeros(2, 1), torch.full((2, 1), 2.0)
    f = torch.tensor([[0.1], [5.0]], requires_grad=True)
    rows = loss.loss(f, t, y, lambda1=torch.tensor(0.0), teacher_bound=torch.tensor(0.2))
    rows.sum().backward()
    assert abs(float(f.grad[0])) < 1e-6  # off by 0.1; the teacher by 2
    assert float(f.grad[1]) == pytest.approx(6.0)  # off by 5: it follows


def test_rows_without_a_target_have_the_teachers_term_alone():
    loss = LOSSES["bounded"]
    y, t = torch.tensor([[1.0], [torch.nan]]), torch.zeros(2, 1)
    f = torch.full((2, 1), 0.5, requires_grad=True)
    rows = loss.loss(f, t, y, lambda1=torch.tensor(0.5), teacher_bound=torch.tensor(4.0))
    assert rows[1].item() == pytest.approx(0.125)
    assert rows[0].item() == pytest.approx(0.5 * 2 * 0.25 + 0.125)  # the mean over rows that have one
    rows.sum().backward()
    assert bool(torch.isfinite(f.grad).all())


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (SquaredError(per_output=1), "per_output=1 must be True or False"),
        (SquaredError(teacher_bound=-1), "teacher_bound=-1 must be a number from 0 to 4 or None"),
        (HuberLoss(width=0), r"width=0 must be a number from 0.05 to 20"),
        (BerHuLoss(width=21), r"width=21 must be a number from 0.05 to 20"),
        (QuantileLoss(1.0), "quantile=1.0 must be a number above 0 and below 1"),
    ],
)
def test_wrong_parameters_are_refused(loss, message):
    with pytest.raises(ValueError, match=message):
        loss.check()


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_passes_the_trial_of_a_loss(name):
    loss = LOSSES[name]
    task, entries = task_of(loss), loss.metaparameters(task_of(loss).n_outputs)
    values = MetaparameterSpace(entries).shaped({"lambda1": 0.5} | MetaparameterSpace(entries).starts)
    labels = task.example_targets(unlabeled=True)
    check_loss(loss, values, task.n_outputs, weighted=True, unlabeled=True, labels=labels)
    assert not LogitDistillation().has_label_loss and loss.has_label_loss


class Averaged(SquaredError):
    """A loss whose errors are one for each row: broadcast, they would be those of all pairs of rows."""

    def errors(self, outputs, targets):
        return ((outputs - targets) ** 2).mean(dim=1)


class Named(SquaredError):
    """A loss whose criterion is a name."""

    def criterion(self):
        return "squared_error"


def test_own_errors_of_another_shape_and_own_criteria_of_another_type_are_refused():
    outputs, y = torch.zeros(3, 1), torch.ones(3, 1)
    with pytest.raises(
        ValueError, match=r"errors of Averaged returned shape \(3,\) for targets of shape \(3, 1\)"
    ):
        Averaged().loss(outputs, None, y, lambda1=torch.tensor(1.0))
    with pytest.raises(TypeError, match="criterion of Named returned 'squared_error'"):
        Named().check()
