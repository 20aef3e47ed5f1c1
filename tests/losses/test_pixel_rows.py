"""Losses of maps are those of their pixels: float64 references, hypergradients included."""

import copy

import pytest
import torch
import torch.nn.functional as F

from helpers.pixels import PixelNet, pixel_teacher
from sklearn_kd.bilevel._hypergradient import HypergradientEstimator
from sklearn_kd.inputs._batches import Batch
from sklearn_kd.losses import LogitDistillation
from sklearn_kd.losses._objective import LogitObjective
from sklearn_kd.students._resized import ResizedStudent
from sklearn_kd.tasks._pixel_classes import PixelClassification
from sklearn_kd.tasks._pixels import pixel_rows, pixel_targets
from sklearn_kd.tasks._targets import Targets

B, K, SIZE, LR = 5, 3, 8, 0.3
VALUES = {"lambda1": 0.3, "temperature": 2.0}


@pytest.fixture
def problem():
    """A student of maps of a quarter of the size, a teacher's maps of half, and labels of which some are unknown."""
    torch.manual_seed(0)
    student = ResizedStudent(PixelNet(3, K, stride=4), (SIZE, SIZE), (SIZE, SIZE)).double()
    batches = []
    for seed in (1, 2):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(B, 3, SIZE, SIZE, generator=generator).double()
        y = torch.randint(-1, K, (B, SIZE, SIZE), generator=generator)
        f = 2 * torch.randn(B, K, SIZE // 2, SIZE // 2, generator=generator).double()
        weight = torch.rand(B, generator=generator).double() + 0.5
        batches.append((x, y, f, weight))
    return student, *batches


def train_loss(maps, y, f, weight, lambda1, temperature):
    """The loss of maps as torch writes it: means over known pixels, and over all of them for the teacher."""
    f = F.interpolate(f, size=y.shape[1:], mode="bilinear", align_corners=False)
    of_labels = F.cross_entropy(maps, y, reduction="none", ignore_index=-1)
    hard = (weight[:, None, None] * of_labels).sum() / (y >= 0).sum()
    log_q, t = (maps / temperature).log_softmax(1), (f / temperature).softmax(1)
    soft = (weight[:, None, None] * -(t * log_q).sum(1)).mean()
    return lambda1 * hard + (1 - lambda1) * temperature**2 * soft


def batch_of(x, y, f, weight):
    targets = pixel_targets(Targets(y.to(torch.int8), f, weight))
    return Batch(x, targets._replace(label_weight=targets.label_weight.double()))


def test_loss_and_gradient_are_those_of_the_maps(problem):
    student, train, _ = problem
    objective = LogitObjective(LogitDistillation())
    passed = objective.forward(student, student, {}, batch_of(*train), VALUES)
    found = objective.evaluate(passed, VALUES, differentiable=False)
    expected = train_loss(student(train[0]), *train[1:], **VALUES)
    torch.testing.assert_close(found.value, expected, rtol=1e-6, atol=0)
    passed.tensors[0].backward(found.gradients[0])
    wanted = torch.autograd.grad(expected, list(student.parameters()))
    for w, gradient in zip(student.parameters(), wanted, strict=True):
        torch.testing.assert_close(w.grad, gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", ["exact", "jvp", "central_difference"])
def test_hypergradients_are_those_of_the_maps(problem, method):
    student, train, (x_val, y_val, _, weight) = problem
    reference = copy.deepcopy(student)
    values = {name: torch.tensor(value).double().requires_grad_() for name, value in VALUES.items()}
    loss = train_loss(reference(train[0]), *train[1:], **values)
    weights = dict(reference.named_parameters())
    gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    moved = {name: w - LR * g for (name, w), g in zip(weights.items(), gradients, strict=True)}
    of_labels = F.cross_entropy(
        torch.func.functional_call(reference, moved, (x_val,)), y_val, reduction="none", ignore_index=-1
    )
    val_loss = (weight[:, None, None] * of_labels).sum() / (y_val >= 0).sum()
    expected = torch.stack(torch.autograd.grad(val_loss, list(values.values())))

    objective, optimizer = LogitObjective(LogitDistillation()), torch.optim.SGD(student.parameters(), lr=LR)
    record = HypergradientEstimator(
        student,
        optimizer,
        method=method,
        forward=lambda x: pixel_rows(student(x)),
        outputs=objective.outputs(student, student, {}),
    )
    record.begin()
    passed = objective.forward(student, student, {}, batch_of(*train), VALUES)
    found = objective.evaluate(passed, VALUES, differentiable=True)
    record.after_forward(passed.inputs, objective.joined(passed), found, passed.logits)
    passed.tensors[0].backward(found.gradients[0])
    optimizer.step()
    validated = batch_of(x_val, y_val, torch.zeros(B, K, 1, 1), weight).targets
    h, value = record.hypergradient(
        x_val, lambda outputs: PixelClassification.validation_loss(outputs, validated)
    )
    torch.testing.assert_close(value, val_loss.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(h, expected, rtol=1e-4 if method == "central_difference" else 1e-6, atol=1e-10)


def test_a_batch_without_a_known_pixel_follows_the_teacher_alone(problem):
    student, (x, y, f, weight), _ = problem
    batch = batch_of(x, torch.full_like(y, -1), f, weight)
    logits = pixel_rows(student(x)).detach()
    found = LogitDistillation().evaluate(logits, batch.targets, VALUES)
    teacher_alone = LogitDistillation().evaluate(logits, batch.targets, VALUES | {"lambda1": 0.0})
    torch.testing.assert_close(found.gradients[0], 0.7 * teacher_alone.gradients[0])
    _, gradient = PixelClassification.validation_loss(logits, batch.targets)
    assert (gradient == 0).all()


def test_pixels_of_a_teacher_are_in_order():
    maps = torch.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    rows = pixel_rows(maps)
    assert rows.shape == (8, 3)
    assert rows[1].tolist() == maps[0, :, 0, 1].tolist()
    assert pixel_teacher()(torch.zeros(1, 3, 4, 4)).shape == (1, 3, 4, 4)
