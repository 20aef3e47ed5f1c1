"""DistPro's hypergradient against second derivatives in float64, and what it leaves untouched."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from helpers.hypergradients import ready_net, relative_error
from helpers.networks import ConvNet
from helpers.pathway_passes import pathway_pass
from sklearn_kd.bilevel._hypergradient import METHODS, HypergradientEstimator
from sklearn_kd.bilevel._optimizer_response import Clipping, global_norm
from sklearn_kd.distpro._bound_pathways import BoundPathways
from sklearn_kd.distpro._distances import hcl
from sklearn_kd.distpro._importance import IMPORTANCE, LearnedWeights
from sklearn_kd.distpro._normalization import NORMALIZATIONS
from sklearn_kd.distpro._pathways import PathwayLosses, build_transforms, connect
from sklearn_kd.layers._hooks import feature_hooks
from sklearn_kd.losses import LogitDistillation
from sklearn_kd.losses._feature_objective import LOGIT_CHANGE, FeatureObjective
from sklearn_kd.losses._logits import Targets
from sklearn_kd.losses._objective import ForwardPass
from sklearn_kd.losses._output_loss import WeightedOutputLoss
from sklearn_kd.losses._term_weights import ScaledWeights
from sklearn_kd.runtime._random_state import random_state
from sklearn_kd.tasks._cross_entropy import validation_loss

# Table 7, written down again.
ALPHA = {
    "biased_softmax": lambda a: a.exp() / (a.exp().sum() + torch.tensor(0.7, dtype=torch.float64).exp()),
    "softmax": lambda a: a.exp() / a.exp().sum(),
    "biased_l1": lambda a: a / (a.abs().sum() + 1),
    "l1": lambda a: a / a.abs().sum(),
    "sigmoid": lambda a: 1 / (1 + (-a).exp()),
}
DISTILL_WEIGHT = 3.0
OPTIMIZERS = {
    "momentum, weight decay": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    "nesterov": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, {"lr": 0.01}),
}


def make_network(width, dropout=0.0):
    def stage(fan_in, fan_out):
        return nn.Sequential(nn.Conv2d(fan_in, fan_out, 3, 2, 1), nn.BatchNorm2d(fan_out), nn.Tanh())

    return nn.Sequential(
        stage(1, width), stage(width, 2 * width), nn.Flatten(), nn.Dropout(dropout), nn.Linear(8 * width, 4)
    )


class Problem:
    """A student and its transforms some steps into training, and the batches of the next step."""

    def __init__(
        self, normalization="biased_softmax", optimizer="momentum, weight decay", dropout=0.0, seed=0
    ):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.student, teacher = make_network(3, dropout).double(), make_network(4).double().eval()
            self.pathways = connect(
                {"0": (4, 4, 4), "1": (8, 2, 2)}, {"0": (3, 4, 4), "1": (6, 2, 2)}, "all", ["conv1", "conv2"]
            )
            self.transforms = build_transforms(self.pathways).double()
            self.x, self.x_val = torch.randn(2, 24, 1, 8, 8).double()
            self.y, self.y_val = torch.randint(0, 4, (2, 24))
            with torch.no_grad(), feature_hooks(teacher, ["0", "1"]) as self.maps:
                teacher(self.x)
            self.raw = torch.rand(8).double() + 0.5
            self.normalization = NORMALIZATIONS[normalization](g=0.7)
            self.alpha = ALPHA[normalization]
            self.run = PathwayLosses(self.pathways, hcl)
            weights = ScaledWeights(LearnedWeights(self.normalization), DISTILL_WEIGHT)
            self.objective = FeatureObjective(
                terms=[BoundPathways(self.pathways, ["conv1", "conv2"], hcl, weights, weights)],
                teacher=None,
                output_loss=WeightedOutputLoss(LogitDistillation(), 0.0, {"temperature": 1.0}),
            )
            kind, params = OPTIMIZERS[optimizer]
            self.optimizer = kind(self.weights, **params)
            for _ in range(12):
                self.backward()
                self.optimizer.step()

    @property
    def weights(self):
        return [*self.student.parameters(), *self.transforms.parameters()]

    def to(self, dtype):
        for module in (self.student, self.transforms):
            module.to(dtype)
        self.x, self.x_val = self.x.to(dtype), self.x_val.to(dtype)
        self.maps = {name: maps.to(dtype) for name, maps in self.maps.items()}
        for state in self.optimizer.state.values():
            for name, value in state.items():
                if name != "step" and isinstance(value, torch.Tensor):
                    state[name] = value.to(dtype)
        return self

    def backward(self, record=None):
        self.optimizer.zero_grad()
        logits, losses = pathway_pass(self.run, self.student, self.transforms, self.x, self.maps)
        inputs = self.x, self.maps
        passed = ForwardPass(logits, [logits, losses], inputs, Targets(self.y), losses)
        loss = self.objective.evaluate(passed, {IMPORTANCE: self.raw}, differentiable=True)
        if record is not None:
            record.after_forward(inputs, self.objective.joined(passed), loss, logits)
        torch.autograd.backward(passed.tensors, loss.gradients)

    def hypergradient(self, method, clip=None):
        """Takes the real step."""
        record = HypergradientEstimator(
            self.student,
            self.optimizer,
            method=method,
            others=[self.transforms],
            outputs=self.objective.outputs(self.student, self.student, {"transforms": self.transforms}),
            logit_change=LOGIT_CHANGE,
        )
        record.begin()
        self.backward(record)
        if clip is not None:
            record.clipping = Clipping(clip, global_norm([w.grad for w in self.weights]))
            nn.utils.clip_grad_norm_(self.weights, clip)
        self.optimizer.step()
        return record.hypergradient(self.x_val, lambda z: validation_loss(z, Targets(self.y_val)))[0]

    def reference(self, clip=None):
        """dL_val(U(w, g(w, α̃)))/dα̃ by backpropagation through the optimizer's step."""
        raw = self.raw.clone().requires_grad_(True)
        named = dict(self.student.named_parameters())
        buffers = {name: b.clone() for name, b in self.student.named_buffers()}
        with feature_hooks(self.student, ["0", "1"]) as ours:
            z = functional_call(self.student, {**named, **buffers}, (self.x,))
        losses = []
        for pathway, transform in zip(self.pathways, self.transforms, strict=True):
            theirs, own = self.maps[pathway.teacher_layer], dict(transform.named_parameters())
            state = own | {name: b.clone() for name, b in transform.named_buffers()}
            transformed = functional_call(transform, state, (ours[pathway.student_layer], theirs.shape[2:]))
            losses.append(hcl(transformed, theirs))
        loss = F.cross_entropy(z, self.y) + DISTILL_WEIGHT * (self.alpha(raw) * torch.stack(losses)).sum()
        g = torch.autograd.grad(loss, self.weights, create_graph=True)
        if clip is not None:
            norm = torch.sqrt(sum((g_w**2).sum() for g_w in g))
            g = [g_w * torch.clamp(clip / (norm + 1e-6), max=1.0) for g_w in g]
        moved = {
            name: differentiable_step(self.optimizer, w, g_w)
            for (name, w), g_w in zip(named.items(), g, strict=False)
        }
        z_val = functional_call(self.student, {**moved, **buffers}, (self.x_val,))
        return torch.autograd.grad(F.cross_entropy(z_val, self.y_val), raw)[0]


def differentiable_step(optimizer, w, g):
    """One step of torch's documented update rules, written out."""
    group, state = optimizer.param_groups[0], optimizer.state[w]
    g = g + group["weight_decay"] * w.detach()
    if isinstance(optimizer, torch.optim.SGD):
        buffer = group["momentum"] * state["momentum_buffer"] + g
        return w.detach() - group["lr"] * (g + group["momentum"] * buffer if group["nesterov"] else buffer)
    (beta1, beta2), t = group["betas"], float(state["step"]) + 1
    m = beta1 * state["exp_avg"] + (1 - beta1) * g
    s = beta2 * state["exp_avg_sq"] + (1 - beta2) * g * g
    return w.detach() - group["lr"] * (m / (1 - beta1**t)) / ((s / (1 - beta2**t)).sqrt() + group["eps"])


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("method", METHODS)
def test_against_double_backward(normalization, method, once):
    expected = once(normalization, lambda: Problem(normalization).reference())
    found = Problem(normalization).hypergradient(method)
    assert found.shape == (8,) and float(expected.norm()) > 1e-6
    assert relative_error(found, expected) < (1e-5 if "difference" in method else 1e-9)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_through_other_optimizers(optimizer, method, once):
    expected = once(optimizer, lambda: Problem(optimizer=optimizer).reference())
    assert relative_error(Problem(optimizer=optimizer).hypergradient(method), expected) < 1e-4


def test_in_float32():
    problems = [Problem(seed=seed) for seed in range(8)]
    expected = [copy.deepcopy(problem).reference() for problem in problems]
    for method, limit in (("finite_difference", 0.02), ("central_difference", 0.01), ("jvp", 1e-4)):
        found = [copy.deepcopy(problem).to(torch.float32).hypergradient(method) for problem in problems]
        errors = list(map(relative_error, found, expected))
        assert max(errors) < limit and np.median(errors) < limit / 4, method


@pytest.mark.parametrize("clip", [0.05, 1e6], ids=["active", "inactive"])
def test_through_clipping_of_all_gradients_together(clip):
    """The factors then reach the student through the norm of the transforms' gradients as well."""
    assert relative_error(Problem().hypergradient("exact", clip), Problem().reference(clip)) < 1e-6
    assert relative_error(Problem().hypergradient("jvp", clip), Problem().reference(clip)) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_dropout_masks_are_replayed(method):
    """With other masks the directional derivative is off by orders of magnitude."""
    found = []
    for other in (method, "exact"):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            found.append(Problem(dropout=0.5).hypergradient(other))
    assert relative_error(*found) < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_leaves_no_trace(method):
    """Weights, gradients, BatchNorm's buffers and the random state are the real step's alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with_meta = Problem(dropout=0.3)
        plain = copy.deepcopy(with_meta)
        state = torch.get_rng_state()
        with_meta.hypergradient(method)
        after_meta = random_state(torch.device("cpu"))["cpu"]
        torch.set_rng_state(state)
        plain.backward()
        plain.optimizer.step()
        assert torch.equal(after_meta, torch.get_rng_state())
    for module in ("student", "transforms"):
        found = getattr(with_meta, module).state_dict()
        assert any("running_mean" in name for name in found)
        for name, tensor in getattr(plain, module).state_dict().items():
            assert torch.equal(tensor, found[name]), name
    for a, b in zip(plain.weights, with_meta.weights, strict=True):
        assert torch.equal(a.grad, b.grad)
    assert all(part.training for part in (*with_meta.student.modules(), *with_meta.transforms.modules()))


def test_no_direction_gives_nan():
    problem = Problem()
    with torch.no_grad():
        problem.student[-1].weight.zero_()
        problem.student[-1].bias.copy_(torch.tensor([1000.0, 0.0, 0.0, 0.0]))
    problem.optimizer.param_groups[0]["lr"] = 0.0
    problem.y_val = torch.zeros(24, dtype=torch.long)
    assert torch.isnan(problem.hypergradient("finite_difference")).all()


# --------------------------------------------------------------------------------------
# The net as the estimator makes it


def loss_after_a_step(net, batch, val_batch, raw):
    teacher, net = net.objective.teacher, copy.deepcopy(net)
    net.objective.teacher = teacher
    net.metaparameters._now.copy_(raw)
    net._plain_iteration(batch)
    for part in net.module_.modules():
        part.train(isinstance(part, nn.modules.batchnorm._NormBase))
    with torch.no_grad():
        rows = F.cross_entropy(net.module_(val_batch[0]), val_batch[1], reduction="none")
    return float((rows * val_batch.targets.weight).mean())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("normalization", ["biased_softmax", "sigmoid"])
def test_of_the_net_itself(method, normalization, make_distpro, images, conv_teacher, monkeypatch):
    """What the net hands to its factors, against steps taken with other factors.

    With momentum, weight decay, clipping, row weights, a logit term, dropout left to other tests.
    """
    clf = make_distpro(copy.deepcopy(conv_teacher), normalization=normalization, meta__hypergradient=method,
                       transforms=["conv1"], distill_weight=5.0, logit_weight=0.7, optimizer__momentum=0.9,
                       optimizer__weight_decay=0.01)  # fmt: skip
    with torch.random.fork_rng():
        net, batch, val_batch = ready_net(clf, images)
        raw, epsilon, expected = net.metaparameters._now.clone(), 1e-4, []
        for unit in torch.eye(len(raw), dtype=torch.float64):
            ends = [loss_after_a_step(net, batch, val_batch, raw + e * unit) for e in (epsilon, -epsilon)]
            expected.append((ends[0] - ends[1]) / (2 * epsilon))
        found = []
        monkeypatch.setattr(net.metaparameters, "descend", lambda h: (found.append(h), raw)[1])
        net.train_step(batch)
    assert relative_error(found[0], torch.tensor(expected, dtype=torch.float64)) < 1e-4
    assert max(map(abs, expected)) > 1e-6


class ReadByLSTM(ConvNet):
    """What it makes of its maps has no forward-mode derivative."""

    def __init__(self, n_classes):
        super().__init__(n_classes)
        self.read = nn.LSTM(8, 8, batch_first=True)

    def forward(self, x):
        h = self.stage2(self.stage1(x)).mean(dim=3)
        return self.linear(self.read(h.transpose(1, 2))[0][:, -1])


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_jvp_where_forward_mode_does_not_exist(make_distpro, images):
    """The search goes on by central differences, with one warning and the very same process."""
    with pytest.warns(UserWarning, match="'central_difference' is used"):
        clf = make_distpro(student=ReadByLSTM, meta__hypergradient="jvp").fit(*images)
    other = make_distpro(student=ReadByLSTM, meta__hypergradient="central_difference").fit(*images)
    np.testing.assert_array_equal(clf.process_.raw, other.process_.raw)
    assert abs(clf.process_.raw[-1]).max() > 0
