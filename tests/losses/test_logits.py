"""Closed-form losses and derivatives against autograd in float64."""

import pytest
import torch
import torch.nn.functional as F

from sklearn_kd.losses._logits import TrainingLoss
from sklearn_kd.tasks._cross_entropy import validation_loss
from sklearn_kd.tasks._targets import Targets, label_weights


def draw(seed, weighted):
    generator = torch.Generator().manual_seed(seed)
    z, f = (4 * torch.randn(7, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    y = torch.randint(0, 5, (7,), generator=generator)
    weight = torch.rand(7, generator=generator, dtype=torch.float64) if weighted else None
    return z, Targets(y, f, weight)


def reference_loss(z, targets, lambda1, temperature, scaling):
    """L_train as the paper writes it, for autograd to differentiate."""
    y, f, weight, _ = targets
    t = F.softmax(f / temperature, dim=1)
    soft = -(t * F.log_softmax(z / temperature, dim=1)).sum(dim=1)
    s = temperature**2 if scaling == "hinton" else 1.0
    rows = lambda1 * F.cross_entropy(z, y, reduction="none") + (1 - lambda1) * s * soft
    return rows.mean() if weight is None else (weight * rows).mean()


@pytest.mark.parametrize("scaling", ["none", "hinton"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_closed_forms_equal_autograd(seed, weighted, scaling):
    z, targets = draw(seed, weighted)
    z.requires_grad_()
    knobs = torch.tensor([0.1 + 0.15 * seed, 1.0 + 1.7 * seed], dtype=torch.float64)
    knobs.requires_grad_()
    expected = reference_loss(z, targets, *knobs, scaling)
    (r_expected,) = torch.autograd.grad(expected, z, create_graph=True)
    by_knob = torch.autograd.functional.jacobian(
        lambda k: torch.autograd.grad(reference_loss(z, targets, *k, scaling), z, create_graph=True)[0],
        knobs,
    )
    loss = TrainingLoss(z, targets, *knobs.detach(), scaling=scaling)
    torch.testing.assert_close(loss.value, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(loss.r, r_expected.detach(), rtol=1e-11, atol=1e-12)
    derivatives = loss.metaparameter_derivatives()
    torch.testing.assert_close(derivatives, by_knob.permute(2, 0, 1), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_closed_forms_where_some_rows_have_no_label(weighted):
    z, targets = draw(1, weighted)
    labels = targets.labels.masked_fill(torch.tensor([0, 1, 0, 1, 1, 0, 1]).bool(), -1)
    targets = targets._replace(labels=labels, label_weight=label_weights(labels).double())
    torch.testing.assert_close(label_weights(labels), torch.tensor([7, 0, 7, 0, 0, 7, 0]) / 3.0)

    def reference(z, lambda1, T):
        weight = torch.ones(7).double() if targets.weight is None else targets.weight
        known = labels >= 0
        hard = (weight[known] * F.cross_entropy(z[known], labels[known], reduction="none")).mean()
        t = F.softmax(targets.teacher_logits / T, dim=1)
        soft = -(weight * (t * F.log_softmax(z / T, dim=1)).sum(dim=1)).mean()
        return lambda1 * hard + (1 - lambda1) * T**2 * soft

    z.requires_grad_()
    knobs = torch.tensor([0.3, 2.5], dtype=torch.float64)
    (r,) = torch.autograd.grad(reference(z, *knobs), z)
    by_knob = torch.autograd.functional.jacobian(
        lambda k: torch.autograd.grad(reference(z, *k), z, create_graph=True)[0], knobs
    )
    loss = TrainingLoss(z, targets, *knobs, scaling="hinton")
    close = {"rtol": 1e-6, "atol": 1e-7}  # the weights are float32
    torch.testing.assert_close(loss.value, reference(z, *knobs).detach(), **close)
    torch.testing.assert_close(loss.r, r, **close)
    torch.testing.assert_close(loss.metaparameter_derivatives(), by_knob.permute(2, 0, 1), **close)


def test_paper_form_of_the_temperature_derivative():
    """r2 = (lambda1 − 1)/(T B) · [D/T + E/T²] for s = 1, as design and paper have it."""
    z, targets = draw(3, weighted=False)
    f, lambda1, T = targets.teacher_logits, 0.3, 2.5
    q, t = F.softmax(z / T, dim=1), F.softmax(f / T, dim=1)
    D = q - t
    E = q * (z - (q * z).sum(1, keepdim=True)) - t * (f - (t * f).sum(1, keepdim=True))
    expected = (lambda1 - 1) / (T * len(z)) * (D / T + E / T**2)
    _, r2 = TrainingLoss(z, targets, lambda1, T, scaling="none").metaparameter_derivatives()
    torch.testing.assert_close(r2, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("scaling", ["none", "hinton"])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_minus_infinity_is_the_limit(weighted, dtype, temperature, scaling):
    """A masked class has probability 0: value, r and its derivatives are those without a NaN in it."""
    z, (y, f, weight, _) = draw(2, weighted)
    masked = torch.tensor([True, False, False, True, False])
    rows = torch.arange(7)[:, None] % 3 != 0  # not in all rows
    losses = [
        TrainingLoss(
            z.to(dtype),
            Targets(y, f.to(dtype).masked_fill(masked & rows, value), weight),
            0.3,
            temperature,
            scaling=scaling,
        )
        for value in (float("-inf"), -1e4)
    ]
    for a, b in zip(*((x.value, x.r, x.metaparameter_derivatives()) for x in losses), strict=True):
        assert torch.isfinite(a).all()
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    # The same classes left out of the teacher's sum, by autograd in float64.
    z = z.requires_grad_()
    kept = (~(masked & rows)).double()
    T = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    s = T**2 if scaling == "hinton" else 1.0
    e = (f / T).exp() * kept
    soft = -(e / e.sum(1, keepdim=True) * F.log_softmax(z / T, dim=1)).sum(dim=1)
    hard = F.cross_entropy(z, y, reduction="none")
    expected = ((1.0 if weight is None else weight) * (0.3 * hard + 0.7 * s * soft)).mean()
    (r,) = torch.autograd.grad(expected, z, create_graph=True)
    by_T = torch.stack([torch.autograd.grad(r_i, T, retain_graph=True)[0] for r_i in r.flatten()]).reshape(
        r.shape
    )
    close = {"rtol": 1e-9, "atol": 1e-10} if dtype is torch.float64 else {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(losses[0].value.double(), expected.detach(), **close)
    torch.testing.assert_close(losses[0].r.double(), r.detach(), **close)
    torch.testing.assert_close(losses[0].metaparameter_derivatives()[1].double(), by_T, **close)


def test_minus_infinity_in_stacked_students():
    z, (y, f, *_) = draw(4, weighted=False)
    f = f.index_fill(1, torch.tensor([1]), float("-inf"))
    knobs = [
        torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1) for values in ([0.2, 0.8], [1.0, 4.0])
    ]
    stacked = Targets(y.expand(2, 7), f.expand(2, 7, 5))
    loss = TrainingLoss(z.expand(2, 7, 5), stacked, *knobs, scaling="hinton")
    for k in range(2):
        alone = TrainingLoss(z, Targets(y, f), *(float(knob[k]) for knob in knobs), scaling="hinton")
        torch.testing.assert_close(loss.value[k], alone.value)
        torch.testing.assert_close(loss.r[k], alone.r)
    assert torch.isfinite(loss.metaparameter_derivatives()).all()


def test_without_teacher_only_the_labels_count():
    z, targets = draw(0, weighted=False)
    loss = TrainingLoss(z, Targets(targets.labels), 0.2, 3.0, scaling="hinton")
    z.requires_grad_()
    expected = F.cross_entropy(z, targets.labels)
    torch.testing.assert_close(loss.value, expected.detach())
    torch.testing.assert_close(loss.r, torch.autograd.grad(expected, z)[0])


def test_golden_values():
    """Catches a silent change of a formula: the numbers are from 30-digit arithmetic."""
    z = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]], dtype=torch.float64)
    f = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 2.0]], dtype=torch.float64)
    targets = Targets(torch.tensor([0, 2]), f)
    for scaling, expected in (("none", 1.03181353752237458510), ("hinton", 3.55340939213998308676)):
        loss = TrainingLoss(z, targets, 0.25, 2.0, scaling=scaling)
        assert float(loss.value) == pytest.approx(expected, rel=1e-12)
    assert float(validation_loss(z, targets, 2.0)[0]) == pytest.approx(0.769096639511773358119, rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_validation_loss_equals_autograd(weighted):
    z, targets = draw(1, weighted)
    z.requires_grad_()
    rows = F.cross_entropy(z / 1.7, targets.labels, reduction="none")
    expected = rows.mean() if targets.weight is None else (targets.weight * rows).mean()
    loss, r = validation_loss(z, targets, 1.7)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(r, torch.autograd.grad(expected, z)[0], rtol=1e-11, atol=1e-12)


def test_without_teacher_the_metaparameters_change_nothing():
    logits, targets = torch.randn(3, 4), Targets(torch.tensor([0, 1, 2]))
    derivatives = TrainingLoss(logits, targets, 0.5, 2.0, scaling="hinton").metaparameter_derivatives()
    torch.testing.assert_close(derivatives, torch.zeros(2, 3, 4))
