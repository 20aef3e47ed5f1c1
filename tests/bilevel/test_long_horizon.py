"""Hypergradients over many steps against whole trainings and dense solutions in float64."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

from helpers.parameter_ids import in_words
from sklearn_kd.bilevel._forward_mode import ForwardHypergradient
from sklearn_kd.bilevel._hypergradient import HypergradientEstimator
from sklearn_kd.bilevel._implicit import ImplicitHypergradient, TrainingBatch
from sklearn_kd.bilevel._optimizer_response import Clipping, global_norm
from sklearn_kd.bilevel._optimizer_tangent import why_no_tangent
from sklearn_kd.losses._logit_distillation import ClosedFormEvaluation, LogitDistillation
from sklearn_kd.losses._logits import TrainingLoss
from sklearn_kd.runtime._random_state import random_state
from sklearn_kd.tasks._cross_entropy import validation_loss
from sklearn_kd.tasks._targets import Targets

OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.01}),
    "momentum": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    "nesterov": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "adam": (torch.optim.Adam, {"lr": 0.01}),
    "adam, L2": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.1}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
}
LAMBDA = (0.4, 2.0)


class Training:
    """A small student in float64, and the same batches in every run."""

    def __init__(self, optimizer="sgd", dropout=0.0, batch_norm=False, limit=None, linear=False):
        generator = torch.Generator().manual_seed(1)
        with torch.random.fork_rng():
            torch.manual_seed(2)
            hidden = [nn.BatchNorm1d(6)] if batch_norm else []
            layers = [nn.Linear(4, 6), *hidden, nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, 3)]
            self.student = nn.Linear(4, 3).double() if linear else nn.Sequential(*layers).double()
        self.x, self.x_val = torch.randn(2, 40, 4, generator=generator).double()
        self.f = 3 * torch.randn(40, 3, generator=generator).double()
        self.y, self.y_val = torch.randint(0, 3, (2, 40), generator=generator)
        kind, params = OPTIMIZERS[optimizer]
        self.optimizer, self.limit = kind(self.student.parameters(), **params), limit

    def batch(self, i):
        rows = torch.arange(8 * i, 8 * i + 8) % 40
        return self.x[rows], Targets(self.y[rows], self.f[rows])

    def run(self, n_steps, values=LAMBDA, estimator=None, first=0):
        """Train; carry the tangents along where there is an estimator; return L_val."""
        torch.manual_seed(5)
        for i in range(first, first + n_steps):
            (x, targets), self.targets = self.batch(i), self.batch(i)[1]
            if estimator is not None:
                estimator.begin()
            self.optimizer.zero_grad()
            z = self.student(x)
            loss = TrainingLoss(z, targets, *values, scaling="hinton")
            if estimator is not None:
                estimator.after_forward((x,), z, ClosedFormEvaluation(loss), z)
            z.backward(loss.r)
            if self.limit is not None:
                gradients = [w.grad for w in self.student.parameters()]
                if estimator is not None:
                    estimator.clipping = Clipping(self.limit, global_norm(gradients))
                nn.utils.clip_grad_norm_(self.student.parameters(), self.limit)
            self.optimizer.step()
            if hasattr(estimator, "advance"):
                estimator.advance()
        return self.val_loss()

    @torch.no_grad()
    def val_loss(self):
        for part in self.student.modules():
            part.training = isinstance(part, nn.BatchNorm1d)  # as L_val of a hypergradient sees it
        return validation_loss(self.student(self.x_val), Targets(self.y_val))[0]

    def forward_mode(self, **how):
        def loss_gradient(z):
            return TrainingLoss(z, self.targets, *LAMBDA, scaling="hinton").r

        return ForwardHypergradient(self.student, self.optimizer, loss_gradient=loss_gradient, **how)

    def halves(self):
        """D_val in two unequal batches."""
        parts = slice(0, 25), slice(25, 40)
        return [(self.x_val[rows], Targets(self.y_val[rows])) for rows in parts]


def of_batch(z, batch):
    return validation_loss(z, batch[1])


def by_central_differences(n_steps, **settings):
    step, found = 1e-5, []
    for j in range(2):
        ends = [tuple(a + e * (i == j) for i, a in enumerate(LAMBDA)) for e in (step, -step)]
        ahead, behind = (Training(**settings).run(n_steps, values) for values in ends)
        found.append((ahead - behind) / (2 * step))
    return torch.stack(found)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_forward_mode_is_the_derivative_of_the_whole_training(optimizer):
    training = Training(optimizer)
    estimator = training.forward_mode(curvature="hessian", method="central_difference")
    training.run(12, estimator=estimator)
    h, val_loss = estimator.over_steps(training.halves(), of_batch)
    torch.testing.assert_close(h, by_central_differences(12, optimizer=optimizer), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(val_loss, training.val_loss())


def test_forward_mode_agrees_with_autograd_through_the_unrolled_training():
    training = Training("momentum")
    names = [name for name, _ in training.student.named_parameters()]
    w = [w.detach().clone() for w in training.student.parameters()]
    a = torch.tensor(LAMBDA, dtype=torch.float64, requires_grad=True)
    loss, buffers = LogitDistillation(), [torch.zeros_like(w_i) for w_i in w]
    for i in range(12):
        x, targets = training.batch(i)
        w = [w_i.requires_grad_() if w_i.is_leaf else w_i for w_i in w]
        z = functional_call(training.student, dict(zip(names, w, strict=True)), (x,))
        L = loss.loss(z, targets.teacher_logits, targets.labels, lambda1=a[0], temperature=a[1]).mean()
        g = torch.autograd.grad(L, w, create_graph=True)
        damping = 1.0 if i == 0 else 0.7
        buffers = [0.9 * b + damping * g_i for b, g_i in zip(buffers, g, strict=True)]
        w = [w_i - 0.1 * b for w_i, b in zip(w, buffers, strict=True)]
    z_val = functional_call(training.student, dict(zip(names, w, strict=True)), (training.x_val,))
    expected = torch.autograd.grad(nn.functional.cross_entropy(z_val, training.y_val), a)[0]
    estimator = training.forward_mode(curvature="hessian", method="central_difference")
    training.run(12, estimator=estimator)
    h, _ = estimator.over_steps(training.halves(), of_batch)
    torch.testing.assert_close(h, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "settings",
    [{"limit": 0.2, "optimizer": "momentum"}, {"dropout": 0.3}, {"batch_norm": True}],
    ids=in_words,
)
def test_clipping_dropout_and_batch_normalisation(settings):
    training = Training(**settings)
    estimator = training.forward_mode(curvature="hessian", method="central_difference")
    training.run(8, estimator=estimator)
    h, _ = estimator.over_steps([(training.x_val, Targets(training.y_val))], of_batch)
    torch.testing.assert_close(h, by_central_differences(8, **settings), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("optimizer", ["nesterov", "adamw"])
@pytest.mark.parametrize("limit", [None, 0.2])
def test_gauss_newton_is_exact_where_the_student_is_linear(optimizer, limit):
    settings = {"optimizer": optimizer, "linear": True, "limit": limit}
    training = Training(**settings)
    estimator = training.forward_mode(method="jvp")
    training.run(12, estimator=estimator)
    h, _ = estimator.over_steps(training.halves(), of_batch)
    torch.testing.assert_close(h, by_central_differences(12, **settings), rtol=1e-5, atol=1e-8)


def dense(training, targets, x, curvature):
    """The curvature of L_train and ∂g/∂a at the student's weights, as matrices."""
    weights = dict(training.student.named_parameters())
    shapes = {name: w.shape for name, w in weights.items()}
    flat = torch.cat([w.detach().flatten() for w in weights.values()])

    def logits(v):
        parts = v.split([shape.numel() for shape in shapes.values()])
        named = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return functional_call(training.student, named, (x,))

    def total(z, a):
        loss = LogitDistillation().loss
        return loss(z, targets.teacher_logits, targets.labels, lambda1=a[0], temperature=a[1]).mean()

    a, z = torch.tensor(LAMBDA).double(), logits(flat)
    J = jacrev(logits)(flat).flatten(0, 1)
    r_a = jacrev(jacrev(total), argnums=1)(z, a).flatten(0, 1)
    if curvature == "gauss_newton":
        H = J.T @ torch.func.hessian(total)(z, a).reshape(z.numel(), z.numel()) @ J
    else:
        H = torch.func.hessian(lambda v: total(logits(v), a))(flat)
    return H, J.T @ r_a


def test_gauss_newton_tangents_of_a_network():
    training = Training("sgd")
    estimator = training.forward_mode(method="central_difference")
    Z = torch.zeros(sum(w.numel() for w in training.student.parameters()), 2).double()
    estimator.decay = 0.9
    for i in range(4):
        x, targets = training.batch(i)
        H, g_a = dense(training, targets, x, "gauss_newton")
        Z = 0.9 * Z - 0.1 * (H @ (0.9 * Z) + g_a + 0.01 * (0.9 * Z))
        training.student.train()
        training.run(1, estimator=estimator, first=i)
    found = torch.cat([Z_w.flatten(1) for Z_w in estimator.Z], dim=1).T
    torch.testing.assert_close(found, Z, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
def test_without_memory_it_is_the_greedy_hypergradient(optimizer, curvature):
    training, greedy = Training(optimizer), Training(optimizer)
    estimator = training.forward_mode(curvature=curvature, decay=0.0)
    training.run(12, estimator=estimator)
    h, _ = estimator.over_steps([(training.x_val, Targets(training.y_val))], of_batch)
    of_one_step = HypergradientEstimator(greedy.student, greedy.optimizer, method="exact")
    greedy.run(12, estimator=of_one_step)
    expected, _ = of_one_step.hypergradient(greedy.x_val, lambda z: validation_loss(z, Targets(greedy.y_val)))
    torch.testing.assert_close(h, expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
def test_training_is_the_same_beside_the_tangents(curvature):
    settings = {"optimizer": "adam", "dropout": 0.3, "batch_norm": True}
    alone, beside = Training(**settings), Training(**settings)
    alone.run(6)
    state = random_state(torch.device("cpu"))["cpu"]
    beside.run(6, estimator=beside.forward_mode(curvature=curvature))
    assert torch.equal(state, random_state(torch.device("cpu"))["cpu"])
    for name, value in alone.student.state_dict().items():
        assert torch.equal(value, beside.student.state_dict()[name]), name


@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
@pytest.mark.parametrize(("solver", "n_terms"), [("cg", 60), ("neumann", 80)])
def test_implicit_hypergradient_is_the_dense_solution(curvature, solver, n_terms):
    training = Training("sgd")
    training.run(40)
    training.student.train()
    H, g_a = dense(training, Targets(training.y, training.f), training.x, curvature)
    damping = 0.2 - min(float(torch.linalg.eigvalsh(H)[0]), 0.0)  # else H may have no inverse

    def batch(rows):
        targets = Targets(training.y[rows], training.f[rows])
        return TrainingBatch(
            (training.x[rows],),
            lambda z: ClosedFormEvaluation(TrainingLoss(z, targets, *LAMBDA, scaling="hinton")),
        )

    estimator = ImplicitHypergradient(
        training.student,
        training.optimizer,
        n_terms=n_terms,
        solver=solver,
        damping=damping,
        curvature=curvature,
    )
    h, _ = estimator.to_the_end([batch(slice(0, 10)), batch(slice(10, 40))], training.halves(), of_batch)
    z = training.student(training.x_val)
    v = torch.autograd.grad(nn.functional.cross_entropy(z, training.y_val), training.student.parameters())
    v = torch.cat([g.flatten() for g in v])
    expected = -g_a.T @ torch.linalg.solve(H + damping * torch.eye(len(H)), v)
    torch.testing.assert_close(h, expected, rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
def test_implicit_hypergradient_counts_images_and_not_their_pixels(curvature):
    """Ten images of four pixels, each a row of the outputs, are forty rows."""
    found = []
    for n_pixels in (1, 4):
        training = Training("sgd", linear=True)
        training.run(5)
        targets = Targets(training.y, training.f)
        x, x_val = (t.reshape(-1, n_pixels, 4) if n_pixels > 1 else t for t in (training.x, training.x_val))
        estimator = ImplicitHypergradient(
            training.student,
            training.optimizer,
            curvature=curvature,
            damping=0.1,
            forward=lambda x, student=training.student: student(x).reshape(-1, 3),
        )
        batch = TrainingBatch(
            (x,),
            lambda z, targets=targets: ClosedFormEvaluation(
                TrainingLoss(z, targets, *LAMBDA, scaling="hinton")
            ),
        )
        y_val = Targets(training.y_val)
        found.append(
            estimator.to_the_end([batch], [(x_val,)], lambda z, _, y_val=y_val: validation_loss(z, y_val))[0]
        )
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-9)


def test_optimizers_without_tangents_are_named():
    w = [nn.Parameter(torch.zeros(2))]
    assert why_no_tangent(torch.optim.SGD(w, lr=0.1)) is None
    assert why_no_tangent(torch.optim.RMSprop(w)) == "RMSprop"
    assert why_no_tangent(torch.optim.Adam(w, amsgrad=True)) == "Adam with amsgrad=True"
    assert why_no_tangent(torch.optim.SGD(w, lr=0.1, maximize=True)) == "SGD with maximize=True"
