"""Hypergradients against a double-backward reference in float64."""

import copy
import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from helpers.hypergradients import relative_error
from helpers.parameter_ids import in_words
from sklearn_kd import hypergradient
from sklearn_kd.bilevel._hypergradient import METHODS, HypergradientEstimator, validation_mode
from sklearn_kd.bilevel._optimizer_response import response_class, warn_if_response_unknown
from sklearn_kd.losses import LogitDistillation
from sklearn_kd.losses._logit_distillation import ClosedFormEvaluation
from sklearn_kd.losses._logits import TrainingLoss
from sklearn_kd.meta import Random
from sklearn_kd.runtime._random_state import random_state
from sklearn_kd.runtime._recurrent import gather_weights
from sklearn_kd.tasks._cross_entropy import validation_loss
from sklearn_kd.tasks._targets import Targets, label_weights
from sklearn_kd.training._clipping import clip_gradients

OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1}),
    "momentum": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    "nesterov": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "weight decay": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.1}),
    "adam": (torch.optim.Adam, {"lr": 0.01}),
    "adam, L2": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.1}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
}


def make_student(batch_norm, dropout=0.0):
    norm = [nn.BatchNorm1d(9)] if batch_norm else []
    return nn.Sequential(nn.Linear(6, 9), *norm, nn.Tanh(), nn.Dropout(dropout), nn.Linear(9, 4))


class Problem:
    """A student some steps into training, and the batches of its next step."""

    def __init__(self, seed, optimizer="sgd", steps=20, batch_norm=False, scaling="hinton", dropout=0.0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.student = make_student(batch_norm, dropout).double()
            self.x, self.x_val = torch.randn(2, 64, 6).double()
            self.y, self.y_val = torch.randint(0, 4, (2, 64))
            self.f = 3 * torch.randn(64, 4).double()
            self.lambda1, self.T = float(torch.rand(())), 1 + 4 * float(torch.rand(()))
            self.scaling = scaling
            kind, params = OPTIMIZERS[optimizer]
            self.optimizer = kind(self.student.parameters(), **params)
            for _ in range(steps):
                self.backward()
                self.optimizer.step()

    def to(self, dtype):
        self.student, self.x, self.x_val, self.f = (
            t.to(dtype) for t in (self.student, self.x, self.x_val, self.f)
        )
        for state in self.optimizer.state.values():
            for name, value in state.items():
                if name != "step" and isinstance(value, torch.Tensor):
                    state[name] = value.to(dtype)
        return self

    @property
    def targets(self):
        return Targets(self.y, self.f)

    def backward(self, record=None):
        self.optimizer.zero_grad()
        logits = self.student(self.x)
        loss = TrainingLoss(logits, self.targets, self.lambda1, self.T, scaling=self.scaling)
        if record is not None:
            record.after_forward((self.x,), logits, ClosedFormEvaluation(loss), logits)
        logits.backward(loss.r)

    def hypergradient(self, method, clip=None, rows=None):
        """Takes the real step."""
        record = HypergradientEstimator(self.student, self.optimizer, method=method, rows=rows)
        record.begin()
        self.backward(record)
        if clip is not None:
            record.clipping = clip_gradients([self.student], clip)
        self.optimizer.step()
        h, _ = record.hypergradient(self.x_val, lambda z: validation_loss(z, Targets(self.y_val), 1.3))
        return h

    def label_term(self, z):
        return F.cross_entropy(z, self.y)

    def reference(self, clip=None):
        """d L_val(U(w, g(w, λ))) / dλ by backpropagation through the step, BatchNorm by the batch."""
        knobs = torch.tensor([self.lambda1, self.T], dtype=torch.float64, requires_grad=True)
        lambda1, T = knobs
        named = dict(self.student.named_parameters())
        buffers = {name: b.clone() for name, b in self.student.named_buffers()}
        z = functional_call(self.student, {**named, **buffers}, (self.x,))
        t, s = F.softmax(self.f / T, dim=1), T**2 if self.scaling == "hinton" else 1.0
        soft = -(t * F.log_softmax(z / T, dim=1)).sum(dim=1).mean()
        loss = lambda1 * self.label_term(z) + (1 - lambda1) * s * soft
        g = torch.autograd.grad(loss, list(named.values()), create_graph=True)
        if clip is not None:
            norm = torch.sqrt(sum((g_w**2).sum() for g_w in g))
            k = torch.clamp(clip / (norm + 1e-6), max=1.0)
            g = [k * g_w for g_w in g]
        moved = {
            name: differentiable_step(self.optimizer, w, g_w)
            for (name, w), g_w in zip(named.items(), g, strict=True)
        }
        z_val = functional_call(self.student, {**moved, **buffers}, (self.x_val,))
        return torch.autograd.grad(F.cross_entropy(z_val / 1.3, self.y_val), knobs)[0]


class PartlyLabeled(Problem):
    """The same with labels for 21 of the 64 rows."""

    known = torch.arange(64) % 3 == 1

    @property
    def targets(self):
        labels = self.y.masked_fill(~self.known, -1)
        return Targets(labels, self.f, None, label_weights(labels).double())

    def label_term(self, z):
        return F.cross_entropy(z[self.known], self.y[self.known])


def differentiable_step(optimizer, w, g):
    """One step of torch's documented update rules, written out."""
    group, state = optimizer.param_groups[0], optimizer.state[w]
    lr, decay = group["lr"], group["weight_decay"]
    if isinstance(optimizer, torch.optim.SGD):
        g = g + decay * w.detach()
        mu, buffer = group["momentum"], state.get("momentum_buffer")
        if mu:
            buffer = g if buffer is None else mu * buffer + (1 - group["dampening"]) * g
            g = g + mu * buffer if group["nesterov"] else buffer
        return w.detach() - lr * g
    if not isinstance(optimizer, torch.optim.AdamW):
        g = g + decay * w.detach()
    (beta1, beta2), t = group["betas"], float(state["step"]) + 1
    m = beta1 * state["exp_avg"] + (1 - beta1) * g
    s = beta2 * state["exp_avg_sq"] + (1 - beta2) * g * g
    kept = 1 - lr * decay if isinstance(optimizer, torch.optim.AdamW) else 1.0
    return kept * w.detach() - lr * (m / (1 - beta1**t)) / ((s / (1 - beta2**t)).sqrt() + group["eps"])


@pytest.mark.parametrize("batch_norm", [False, True], ids=["plain", "batchnorm"])
# The scaling is the loss's alone: with two optimizers it is enough.
@pytest.mark.parametrize(
    ("optimizer", "scaling"), [*((name, "hinton") for name in OPTIMIZERS), ("sgd", "none"), ("adam", "none")]
)
def test_against_double_backward(optimizer, batch_norm, scaling):
    """Random draws: exact ways within 1e-5 in float64, 5 of them; finite differences 2 % in float32, 20.

    Adam with batch normalisation bends so much, where the two terms of h nearly cancel, that
    up to three draws in 20 miss the 2 %.
    """
    errors = []
    for seed in range(20):
        problem = partial(copy.deepcopy, Problem(seed, optimizer, batch_norm=batch_norm, scaling=scaling))
        expected = problem().reference()
        for method in METHODS if seed < 5 else ():
            assert relative_error(problem().hypergradient(method), expected) < 1e-5, (seed, method)
        found = problem().to(torch.float32).hypergradient("finite_difference")
        errors.append(relative_error(found, expected))
    assert np.median(errors) < 0.005
    assert np.sum(np.array(errors) > 0.02) <= 3 * ("adam" in optimizer and batch_norm)


@pytest.mark.parametrize("scaling", ["hinton", "none"])
def test_against_double_backward_where_some_rows_have_no_label(scaling):
    for seed in range(2):
        problem = partial(copy.deepcopy, PartlyLabeled(seed, "adam", scaling=scaling))
        expected = problem().reference()
        for method in METHODS:
            assert relative_error(problem().hypergradient(method), expected) < 1e-5, (seed, method)


def test_public_function_takes_rows_without_labels():
    problem = PartlyLabeled(3, "sgd")
    found = hypergradient(
        problem.student,
        (problem.x, problem.targets.labels),
        (problem.x_val, problem.y_val),
        problem.f,
        lr=0.1,
        method="exact",
        val_temperature=1.3,
        lambda1=problem.lambda1,
        temperature=problem.T,
    )
    # The weights of the rows are float32.
    np.testing.assert_allclose(found, problem.reference().numpy(), rtol=1e-5)


def test_central_difference_in_float32():
    errors = [
        relative_error(
            Problem(seed).to(torch.float32).hypergradient("central_difference"), Problem(seed).reference()
        )
        for seed in range(20)
    ]
    assert max(errors) < 0.02 and np.median(errors) < 0.005


def test_rows_of_the_extra_pass_estimate_the_whole():
    """The halves of a batch, each taken for the whole, give the whole's hypergradient on average."""
    problems = [Problem(3), Problem(3)]
    problems[1].x, problems[1].y, problems[1].f = (
        t.flip(0) for t in (Problem(3).x, Problem(3).y, Problem(3).f)
    )
    halves = [problem.hypergradient("jvp", rows=32) for problem in problems]
    expected = Problem(3).hypergradient("exact")
    torch.testing.assert_close(sum(halves) / 2, expected, rtol=1e-9, atol=1e-12)
    assert relative_error(halves[0], expected) > 1e-3


def test_buffers_are_replayed():
    """Spectral normalisation moves its buffers in each pass, and its output with them.

    Not to the last digit: exact derivatives take the buffers for constants.
    """
    found = []
    for method in ("finite_difference", "exact"):
        problem = Problem(0)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            nn.utils.parametrizations.spectral_norm(problem.student[0])
        problem.optimizer = torch.optim.SGD(problem.student.parameters(), lr=0.1)
        found.append(problem.hypergradient(method))
    assert relative_error(*found) < 1e-2


@pytest.mark.parametrize("optimizer", ["momentum", "nesterov"])
def test_first_step_of_momentum_is_undamped(optimizer):
    expected = Problem(0, optimizer, steps=0).reference()
    assert relative_error(Problem(0, optimizer, steps=0).hypergradient("exact"), expected) < 1e-9


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("clip", [0.05, 1e6], ids=["active", "inactive"])
@pytest.mark.parametrize("method", METHODS)
def test_through_gradient_clipping(optimizer, clip, method):
    for seed in range(3):
        expected = Problem(seed, optimizer).reference(clip)
        found = Problem(seed, optimizer).hypergradient(method, clip)
        # torch's clipping divides by n + 1e-6, the reference by the same.
        assert relative_error(found, expected) < (1e-4 if method == "finite_difference" else 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_dropout_masks_are_replayed(method):
    """With other masks the directional derivative is off by orders of magnitude."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        one = Problem(1, dropout=0.5).hypergradient(method)
        torch.manual_seed(5)
        problem = Problem(1, dropout=0.5)
        # The same masks by hand: freeze them as the forward pass will draw them.
        state = torch.get_rng_state()
        mask = F.dropout(torch.ones(64, 9).double(), 0.5)
        torch.set_rng_state(state)
        problem.student[2] = _FixedMask(mask)
        expected = problem.reference()
    # D_val is seen without dropout, and so by the reference.
    assert relative_error(one, expected) < (1e-4 if "difference" in method else 1e-5)


class _FixedMask(nn.Module):
    """Dropout by a given mask on its first call, none on the second (the validation batch)."""

    def __init__(self, mask):
        super().__init__()
        self.masks = [mask, torch.ones_like(mask)]

    def forward(self, x):
        return x * self.masks.pop(0)


@pytest.mark.parametrize("method", METHODS)
def test_leaves_no_trace(method):
    """Weights, buffers, gradients, modes and random state are the real step's alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with_meta = Problem(2, "momentum", batch_norm=True, dropout=0.3)
        plain = copy.deepcopy(with_meta)
        state = torch.get_rng_state()
        with_meta.hypergradient(method)
        after_meta = random_state(torch.device("cpu"))["cpu"]
        torch.set_rng_state(state)
        plain.backward()
        plain.optimizer.step()
        after_plain = torch.get_rng_state()
    assert torch.equal(after_meta, after_plain)
    for name, tensor in plain.student.state_dict().items():
        assert torch.equal(tensor, with_meta.student.state_dict()[name]), name
    for a, b in zip(plain.student.parameters(), with_meta.student.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    assert all(module.training for module in with_meta.student.modules())


def test_public_function_equals_reference_and_leaves_no_trace():
    problem = Problem(4, batch_norm=True)
    before = copy.deepcopy(problem.student.state_dict())
    gradients = [w.grad.clone() for w in problem.student.parameters()]
    expected = problem.reference()
    for method in METHODS:
        found = hypergradient(
            problem.student,
            (problem.x, problem.y),
            (problem.x_val, problem.y_val),
            problem.f,
            lambda1=problem.lambda1,
            temperature=problem.T,
            lr=0.1,
            method=method,
            val_temperature=1.3,
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    for name, tensor in problem.student.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    for w, gradient in zip(problem.student.parameters(), gradients, strict=True):
        assert torch.equal(w.grad, gradient)


@pytest.mark.parametrize(
    "wrong", [{"method": "exakt"}, {"loss": LogitDistillation(temperature_scaling="hintn")}]
)
def test_public_function_refuses_unknown_names(wrong):
    p = Problem(0)
    with pytest.raises(ValueError, match="is not one of"):
        hypergradient(p.student, (p.x, p.y), (p.x_val, p.y_val), p.f, **wrong)


@pytest.mark.parametrize(
    "make",
    [
        lambda w: torch.optim.RMSprop(w),
        lambda w: torch.optim.Adam(w, amsgrad=True),
        lambda w: torch.optim.SGD(w, lr=0.1, maximize=True),
    ],
)
def test_unknown_optimizer_is_treated_as_sgd_with_a_warning(make):
    optimizer = make([nn.Parameter(torch.zeros(3))])
    with pytest.warns(UserWarning, match="treated as a step of plain SGD"):
        warn_if_response_unknown(optimizer)
    response = response_class(optimizer)(optimizer, optimizer.param_groups[0]["params"])
    response.before_step()
    c, (d,) = response([torch.ones(3)], [torch.zeros(3)])
    torch.testing.assert_close(c * d, torch.full((3,), -optimizer.param_groups[0]["lr"]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("margin", [80.0, 1000.0], ids=["tiny", "zero"])
def test_vanishing_validation_gradient_gives_nan(method, margin):
    """A direction made of rounding noise, or none at all, must not be followed."""
    problem = Problem(0)
    with torch.no_grad():
        problem.student[-1].weight.zero_()
        problem.student[-1].bias.copy_(torch.tensor([margin, 0.0, 0.0, 0.0]))
        problem.optimizer.param_groups[0]["lr"] = 0.0
    problem.y_val = torch.zeros(64, dtype=torch.long)
    assert torch.isnan(problem.hypergradient(method)).all()


def test_frozen_and_unused_weights_are_left_out():
    problem = Problem(0)
    problem.student.register_parameter("unused", nn.Parameter(torch.ones(3).double()))
    problem.student[0].bias.requires_grad_(False)
    moved = [w for n, w in problem.student.named_parameters() if n != "0.bias"]
    problem.optimizer = torch.optim.SGD(moved, lr=0.1)
    found = problem.hypergradient("exact")
    problem = Problem(0)
    problem.student[0].bias.requires_grad_(False)
    expected = hypergradient(
        problem.student,
        (problem.x, problem.y),
        (problem.x_val, problem.y_val),
        problem.f,
        lambda1=problem.lambda1,
        temperature=problem.T,
        method="exact",
        val_temperature=1.3,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_shared_weights():
    """A weight used twice has one derivative."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.out(torch.tanh(self.b(torch.tanh(self.a(x)))))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        student = Tied().double()
    p = Problem(0)
    batches = (p.x, p.y), (p.x_val, p.y_val), p.f
    fast, jvp, exact = (
        hypergradient(student, *batches, method=m) for m in ("finite_difference", "jvp", "exact")
    )
    np.testing.assert_allclose(jvp, exact, rtol=1e-9)
    np.testing.assert_allclose(fast, exact, rtol=1e-5)


class Rows(nn.Module):
    """Reads an image row by row, by an LSTM or by attention, neither of which has forward mode."""

    def __init__(self, n_classes, kind="lstm"):
        super().__init__()
        self.attends = kind == "attention"
        self.body = (
            nn.MultiheadAttention(8, 2, batch_first=True) if self.attends else nn.LSTM(8, 8, batch_first=True)
        )
        self.last = nn.Linear(8, n_classes)

    def forward(self, x):
        x = x.reshape(len(x), 8, 8)
        h = self.body(x, x, x, need_weights=False)[0] if self.attends else self.body(x)[0]
        return self.last(h.mean(dim=1))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("kind", ["lstm", "attention"])
def test_jvp_where_forward_mode_does_not_exist(kind, make, digits, logits):
    """Central differences take its place, with one warning and the very same path."""
    params = {"student": Rows, "student__kind": kind, "meta": "gradient", "lr": 0.5}
    told = "hypergradient='jvp' cannot be computed for student Rows.*'central_difference' is used"
    with pytest.warns(UserWarning, match=told) as record:
        clf = make(meta__hypergradient="jvp", **params).fit(*digits, teacher_logits=logits)
    assert len([w for w in record if "central_difference" in str(w.message)]) == 1
    other = make(meta__hypergradient="central_difference", **params).fit(*digits, teacher_logits=logits)
    for name in ("lambda1", "temperature", "val_loss"):
        np.testing.assert_array_equal(clf.metaparameter_path_[name], other.metaparameter_path_[name])
    assert abs(clf.metaparameter_path_["lambda1"] - 0.5).max() > 1e-4
    exact = make(meta__hypergradient="exact", **params).fit(*digits, teacher_logits=logits)
    np.testing.assert_allclose(
        clf.metaparameter_path_["lambda1"], exact.metaparameter_path_["lambda1"], atol=1e-5
    )


@pytest.mark.parametrize("method", ["finite_difference", "exact"])
def test_recurrent_layers_have_no_dropout_and_keep_their_mode(method, digits, logits):
    """CuDNN takes no gradient of them in evaluation mode."""
    torch.manual_seed(0)
    student, passes = Rows(10), []
    student.body = nn.LSTM(8, 8, num_layers=2, dropout=0.5, batch_first=True)
    student.body.register_forward_pre_hook(lambda layer, _: passes.append((layer.training, layer.dropout)))
    X, y = torch.as_tensor(digits[0][:40]), torch.as_tensor(digits[1][:40])
    given = (X[:20], y[:20]), (X[20:], y[20:]), torch.as_tensor(logits[:20])
    found = hypergradient(student, *given, method=method)
    replayed = [(True, 0.5)] if method == "finite_difference" else []
    assert passes == [(True, 0.5), (True, 0.0), *replayed]
    assert student.body.training and student.body.dropout == 0.5
    student.body.dropout = 0.0
    assert not np.allclose(found, hypergradient(student, *given, method=method), rtol=1e-3)


def test_the_validation_gradient_of_a_recurrent_layer_is_that_in_evaluation_mode():
    torch.manual_seed(0)
    layer, x = nn.LSTM(8, 8, num_layers=2, dropout=0.5), torch.rand(4, 3, 8)

    def gradient():
        return torch.autograd.grad(layer(x)[0].square().sum(), [*layer.parameters()])

    with validation_mode([layer]):
        found = gradient()
    layer.eval()
    torch.testing.assert_close(found, gradient(), rtol=0, atol=0)


def test_weights_that_are_gathered_are_the_layers_own():
    """Not those of a functional_call before, which the layer still lists."""
    layer = nn.LSTM(8, 8)
    functional_call(layer, {n: w.detach() + 1 for n, w in layer.named_parameters()}, torch.rand(2, 3, 8))
    own = {id(w) for w in layer.parameters()}
    assert not own & {id(w) for w in layer._flat_weights}
    gather_weights([layer])
    assert own == {id(w) for w in layer._flat_weights}


@pytest.mark.gpu
@pytest.mark.parametrize(
    "settings", [{}, {"meta": "implicit"}, {"meta__hypergradient": "exact"}], ids=in_words
)
def test_recurrent_students_on_a_gpu(settings, make, digits, logits):
    """The same path as on the CPU, without a warning of weights that lie apart."""
    params = {"student": Rows, "meta": "gradient", "lr": 0.5} | settings
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        cpu, gpu = (
            make(device=device, **params).fit(*digits, teacher_logits=logits) for device in ("cpu", "cuda")
        )
    for name in ("lambda1", "temperature"):
        np.testing.assert_allclose(gpu.metaparameter_path_[name], cpu.metaparameter_path_[name], atol=5e-3)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_public_function_falls_back_too(digits, logits):
    torch.manual_seed(0)
    student, (X, y) = Rows(10), (torch.as_tensor(digits[0][:40]), torch.as_tensor(digits[1][:40]))
    given = (X[:20], y[:20]), (X[20:], y[20:]), torch.as_tensor(logits[:20])
    with pytest.warns(UserWarning, match="cannot be computed for student Rows"):
        h = hypergradient(student, *given, method="jvp")
    np.testing.assert_allclose(h, hypergradient(student, *given, method="exact"), rtol=1e-2)
    np.testing.assert_array_equal(h, hypergradient(student, *given, method="central_difference"))


def test_trials_of_a_student_that_cannot_be_stacked(make, digits, logits):
    """An LSTM has no rule for vmap: its trials run one by one, with the same losses as alone."""
    clf = make(None, Rows, meta=Random(n_trials=4), max_epochs=1).fit(*digits, teacher_logits=logits)
    best = clf.trials_[clf.trials_["val_loss"].argmin()]
    alone = make(None, Rows, meta="fixed", max_epochs=1)
    alone.set_params(lambda1=float(best["lambda1"]), temperature=float(best["temperature"]))
    assert np.isfinite(clf.trials_["val_loss"]).all() and len(clf.trials_) == 4
    assert alone.fit(*digits, teacher_logits=logits).score(*digits) > 0


def test_errors_in_jvp_that_are_others_are_raised(digits, logits):
    """Only the way of differentiation is changed, never an error hidden."""

    class Third(nn.Linear):
        n_passes = 0

        def forward(self, x):
            self.n_passes += 1
            if self.n_passes > 2:
                raise RuntimeError("third pass")
            return super().forward(x)

    X, y = torch.as_tensor(digits[0][:40]), torch.as_tensor(digits[1][:40])
    with pytest.raises(RuntimeError, match="third pass"):
        hypergradient(Third(64, 10), (X, y), (X, y), torch.as_tensor(logits[:40]), method="jvp")
