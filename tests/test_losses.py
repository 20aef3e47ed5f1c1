"""Closed-form losses and derivatives against autograd in float64."""

import pytest
import torch
import torch.nn.functional as F

from sklearn_kd._losses import Targets, TrainingLoss, validation_loss


def draw(seed, weighted):
    generator = torch.Generator().manual_seed(seed)
    z, f = (4 * torch.randn(7, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    y = torch.randint(0, 5, (7,), generator=generator)
    weight = torch.rand(7, generator=generator, dtype=torch.float64) if weighted else None
    return z, Targets(y, f, weight)


def reference_loss(z, targets, lambda1, temperature, scaling):
    """L_train as the paper writes it, for autograd to differentiate."""
    y, f, weight = targets
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
