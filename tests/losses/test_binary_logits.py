"""The loss of several labels and its derivatives against autograd in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers.parameter_ids import in_words
from sklearn_kd import hypergradient
from sklearn_kd.losses import LogitDistillation, MultilabelDistillation
from sklearn_kd.losses._binary_logits import BinaryTrainingLoss
from sklearn_kd.losses._distillation_loss import AutogradEvaluation
from sklearn_kd.tasks._targets import Targets, label_weights

N, K = 7, 4
SCALARS = {"lambda1": torch.tensor(0.3).double(), "temperature": torch.tensor(2.5).double()}
BY_LABEL = {
    "lambda1": torch.tensor([0.1, 0.4, 0.6, 0.9]).double(),
    "temperature": torch.tensor([1.0, 2.0, 3.5, 8.0]).double(),
}
VALUES = {
    "numbers": SCALARS,
    "by label": BY_LABEL,
    "lambda1 by label": SCALARS | {"lambda1": BY_LABEL["lambda1"]},
    "T by label": SCALARS | {"temperature": BY_LABEL["temperature"]},
}


def draw(seed, *, weighted=False, unlabeled=False):
    generator = torch.Generator().manual_seed(seed)
    z, f = (3 * torch.randn(N, K, generator=generator, dtype=torch.float64) for _ in range(2))
    y = torch.randint(0, 2, (N, K), generator=generator).to(torch.int8)
    weight = torch.rand(N, generator=generator, dtype=torch.float64) if weighted else None
    if not unlabeled:
        return z, Targets(y, f, weight)
    y[[1, 4]] = -1
    return z, Targets(y, f, weight, label_weights(y).double())


def reference(z, targets, lambda1, temperature, scaling):
    """L_train written with torch's own binary cross-entropy and Bernoulli distributions."""
    y, f, weight, label_weight = targets
    hard = F.binary_cross_entropy_with_logits(z, y.clamp(min=0).double(), reduction="none")
    if label_weight is not None:
        hard = label_weight[:, None] * hard
    taught, learned = (torch.distributions.Bernoulli(logits=part / temperature) for part in (f, z))
    soft = torch.distributions.kl_divergence(taught, learned)
    s = temperature**2 if scaling == "hinton" else 1.0
    rows = (lambda1 * hard + (1 - lambda1) * s * soft).mean(dim=1)
    return (rows if weight is None else weight * rows).mean()


@pytest.mark.parametrize("scaling", ["none", "hinton"])
@pytest.mark.parametrize(
    "kind", [{}, {"weighted": True}, {"weighted": True, "unlabeled": True}], ids=in_words
)
@pytest.mark.parametrize("values", VALUES)
def test_closed_forms_equal_autograd(values, kind, scaling):
    z, targets = draw(0, **kind)
    z.requires_grad_()
    values = {name: value.clone().requires_grad_() for name, value in VALUES[values].items()}
    expected = reference(z, targets, **values, scaling=scaling)
    (r,) = torch.autograd.grad(expected, z, create_graph=True)
    u = torch.randn(N, K, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    by_value = torch.autograd.grad((r * u).sum(), list(values.values()))
    given = {name: value.detach() for name, value in values.items()}
    found = MultilabelDistillation(temperature_scaling=scaling).evaluate(z, targets, given)
    assert isinstance(found, BinaryTrainingLoss)
    close = {"rtol": 1e-6, "atol": 1e-8} if kind.get("unlabeled") else {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(found.value, expected.detach(), **close)
    torch.testing.assert_close(found.gradients[0], r.detach(), **close)
    torch.testing.assert_close(found.contract(u), torch.cat([g.reshape(-1) for g in by_value]), **close)
    derivatives = found.derivatives()
    torch.testing.assert_close((derivatives * u).sum(dim=(1, 2)), found.contract(u), **close)
    assert derivatives.shape == (sum(v.numel() for v in given.values()), N, K)


@pytest.mark.parametrize("kind", [{}, {"weighted": True, "unlabeled": True}], ids=in_words)
def test_the_loss_of_rows_is_what_is_evaluated(kind):
    z, targets = draw(2, **kind)
    loss = MultilabelDistillation()
    traced = AutogradEvaluation(loss, z, targets, BY_LABEL, differentiable=True)
    found = loss.evaluate(z, targets, BY_LABEL)
    torch.testing.assert_close(found.value, traced.value, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.derivatives(), traced.derivatives(), rtol=1e-6, atol=1e-8)


def test_a_subclass_with_another_loss_has_its_derivatives():
    class Doubled(MultilabelDistillation):
        def loss(self, *args, **metaparameters):
            return 2 * super().loss(*args, **metaparameters)

    z, targets = draw(3)
    twice, once = (loss.evaluate(z, targets, SCALARS) for loss in (Doubled(), MultilabelDistillation()))
    torch.testing.assert_close(twice.value, 2 * once.value)
    torch.testing.assert_close(twice.contract(z), 2 * once.contract(z))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_label_of_probability_0_is_the_limit(dtype):
    z, (y, f, *_) = draw(4)
    losses = []
    for value in (float("-inf"), -1e4):
        masked = f.to(dtype).index_fill(1, torch.tensor([1]), value)
        values = {name: v.to(dtype) for name, v in BY_LABEL.items()}
        losses.append(BinaryTrainingLoss(z.to(dtype), Targets(y, masked), values, scaling="hinton"))
    for a, b in zip(*((x.value, x.gradients[0], x.derivatives()) for x in losses), strict=True):
        assert torch.isfinite(a).all()
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_stacked_students_are_those_alone():
    drawn = [draw(seed) for seed in (5, 6)]
    z = torch.stack([own for own, _ in drawn])
    targets = Targets(*(torch.stack(parts) for parts in zip(*(t[:2] for _, t in drawn), strict=True)))
    values = {
        name: torch.tensor(of_both).double().reshape(-1, 1, 1)
        for name, of_both in {"lambda1": [0.2, 0.7], "temperature": [1.0, 4.0]}.items()
    }
    both = BinaryTrainingLoss(z, targets, values, scaling="hinton")
    for k, (own, of_own) in enumerate(drawn):
        alone = BinaryTrainingLoss(own, of_own, {n: v[k, 0, 0] for n, v in values.items()}, scaling="hinton")
        torch.testing.assert_close(both.value[k], alone.value)
        torch.testing.assert_close(both.gradients[0][k], alone.gradients[0])
        torch.testing.assert_close(both.contract(z)[:, k], alone.contract(own))
        torch.testing.assert_close(both.derivatives()[:, k], alone.derivatives())


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize(
    ("method", "tolerance"), [("jvp", 1e-9), ("exact", 1e-9), ("finite_difference", 1e-5)]
)
def test_hypergradients_equal_those_of_an_unrolled_step(method, tolerance, values):
    torch.manual_seed(0)
    student = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, K)).double()
    (x, x_val), lr = torch.randn(2, N, 3).double(), 0.5
    (_, targets), (_, of_val) = draw(7), draw(8)
    y, f = targets.labels, targets.teacher_logits
    knobs = {name: value.clone().requires_grad_() for name, value in VALUES[values].items()}
    weights = dict(student.named_parameters())
    train = reference(student(x), targets, **knobs, scaling="hinton")
    steps = torch.autograd.grad(train, list(weights.values()), create_graph=True)
    moved = {name: w - lr * g for (name, w), g in zip(weights.items(), steps, strict=True)}
    logits = torch.func.functional_call(student, moved, (x_val,)) / 1.5
    val = F.binary_cross_entropy_with_logits(logits, of_val.labels.double())
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(val, list(knobs.values()))])

    per_label = {
        "numbers": False,
        "by label": True,
        "lambda1 by label": "lambda1",
        "T by label": "temperature",
    }
    found = hypergradient(
        student, (x, y), (x_val, of_val.labels), f, lr=lr, method=method, val_temperature=1.5,
        loss=MultilabelDistillation(per_label=per_label[values]),
        **{name: value.numpy() for name, value in VALUES[values].items()},
    )  # fmt: skip
    error = np.linalg.norm(found - expected.numpy()) / np.linalg.norm(expected.numpy())
    assert error < tolerance


def test_kd_is_the_form_for_the_labels():
    student, x = torch.nn.Linear(3, K).double(), torch.randn(N, 3).double()
    _, (y, f, *_) = draw(9)
    several = hypergradient(student, (x, y), (x, y), f)
    assert (several == hypergradient(student, (x, y), (x, y), f, loss=MultilabelDistillation())).all()
    with pytest.raises(ValueError, match=r"loss=LogitDistillation\(\) is for one label per row"):
        hypergradient(student, (x, y), (x, y), f, loss=LogitDistillation())
    one = y.argmax(dim=1)
    with pytest.raises(ValueError, match=r"loss=MultilabelDistillation\(\) is for several labels"):
        hypergradient(student, (x, one), (x, one), f, loss=MultilabelDistillation())


@pytest.mark.parametrize(
    ("params", "match"),
    [({"per_label": "T"}, "per_label='T' is not one of"), ({"temperature_bounds": (0, 1)}, "two numbers, 0 < low")],
)  # fmt: skip
def test_parameters_are_checked(params, match):
    with pytest.raises(ValueError, match=match):
        MultilabelDistillation(**params).check()
