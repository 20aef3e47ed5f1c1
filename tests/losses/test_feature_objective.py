"""Hypergradients of weights of feature terms, against backpropagation through the optimizer's step."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from sklearn_kd.bilevel._hypergradient import METHODS, HypergradientEstimator
from sklearn_kd.distpro._importance import LearnedWeights
from sklearn_kd.distpro._normalization import NORMALIZATIONS
from sklearn_kd.layers._hooks import feature_hooks
from sklearn_kd.losses import FeatureTerm, LogitDistillation
from sklearn_kd.losses._bound_terms import PairedTerm
from sklearn_kd.losses._feature_objective import LOGIT_CHANGE, FeatureObjective
from sklearn_kd.losses._output_loss import LearnedOutputLoss
from sklearn_kd.losses._term_weights import LearnedScale, NamedWeights
from sklearn_kd.tasks._targets import Targets

VALUES = {"hint_weight": 0.7, "pair_mean_weight": 0.3, "lambda1": 0.6, "temperature": 2.0}
FIXED = 0.4
LR = 0.05


def weighted_mean(rows, weight):
    return rows.mean() if weight is None else (weight * rows).mean()


class Projected(FeatureTerm):
    name = "hint"

    def build(self, student, teacher):
        return nn.Conv2d(student[0][0], teacher[0][0], 1)

    takes_row_weight = True

    def loss(self, student, teacher, module, *, row_weight):
        rows = (module(student[0]) - teacher[0]).square().mean(dim=(1, 2, 3))
        return weighted_mean(rows, row_weight)


class Pair(FeatureTerm):
    name, weight_names = "pair", ("mean_weight", "square_weight")

    def loss(self, student, teacher, module):
        s, t = student[0].mean(dim=1), teacher[0].mean(dim=1)
        return torch.stack([(s - t).abs().mean(), ((s - t) ** 2).mean()])


def network(channels):
    return nn.Sequential(
        nn.Conv2d(1, channels, 3), nn.BatchNorm2d(channels), nn.Tanh(), nn.Flatten(),
        nn.Linear(channels * 16, 4),
    )  # fmt: skip


class Teacher:
    gives_outputs = False
    watch = None

    def __init__(self, maps):
        self.maps = maps

    def __call__(self, x, layers):
        return self.maps, None


class Problem:
    def __init__(self, weight=None):
        self.weight = weight
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.student, teacher = network(3).double(), network(5).double().eval()
            self.x, self.x_val = torch.randn(2, 12, 1, 6, 6).double()
            self.y, self.y_val = torch.randint(0, 4, (2, 12))
            with torch.no_grad(), feature_hooks(teacher, ["2"]) as self.maps:
                self.teacher_logits = teacher(self.x)
            shapes = {"2": (3, 4, 4)}, {"2": (5, 4, 4)}
            self.objective = FeatureObjective(
                terms=[
                    PairedTerm("hint", Projected(), *shapes, NamedWeights(["hint_weight"])),
                    PairedTerm("pair", Pair(), *shapes, NamedWeights(["pair_mean_weight", FIXED])),
                ],
                teacher=Teacher(self.maps),
                output_loss=LearnedOutputLoss(LogitDistillation(), ("lambda1", "temperature")),
            )
            self.others = self.objective.make_modules(torch.device("cpu"), seed=0)
            self.projection = self.others["hint_term"].double()
        self.optimizer = torch.optim.SGD([*self.student.parameters(), *self.projection.parameters()], LR)

    def batch(self):
        targets = Targets(self.y, self.teacher_logits, self.weight)
        return type("Batch", (), {"__getitem__": lambda _, i: self.x, "targets": targets, "n_rows": None})()

    def hypergradient(self, method):
        record = HypergradientEstimator(
            self.student,
            self.optimizer,
            method=method,
            others=list(self.others.values()),
            outputs=self.objective.outputs(self.student, self.student, self.others),
            logit_change=self.objective.logit_change,
        )
        values = {name: torch.tensor(value, dtype=torch.float64) for name, value in VALUES.items()}
        record.begin()
        passed = self.objective.forward(self.student, self.student, self.others, self.batch(), values)
        loss = self.objective.evaluate(passed, values, differentiable=True)
        record.after_forward(passed.inputs, self.objective.joined(passed), loss, passed.logits)
        torch.autograd.backward(passed.tensors, loss.gradients)
        self.optimizer.step()
        return record.hypergradient(self.x_val, self.validation)[0]

    def validation(self, logits):
        z = logits.detach().requires_grad_()
        with torch.enable_grad():
            loss = F.cross_entropy(z, self.y_val)
            (r,) = torch.autograd.grad(loss, [z])
        return loss.detach(), r

    def reference(self):
        values = {n: torch.tensor(v, dtype=torch.float64, requires_grad=True) for n, v in VALUES.items()}
        named = dict(self.student.named_parameters())
        buffers = {name: b.clone() for name, b in self.student.named_buffers()}
        with feature_hooks(self.student, ["2"]) as ours:
            z = functional_call(self.student, {**named, **buffers}, (self.x,))
        s, t = ours["2"], self.maps["2"]
        T = values["temperature"]
        soft = F.cross_entropy(z / T, (self.teacher_logits / T).softmax(1), reduction="none")
        hard = F.cross_entropy(z, self.y, reduction="none")
        projected = (self.projection(s) - t).square().mean(dim=(1, 2, 3))
        difference = s.mean(dim=1) - t.mean(dim=1)
        loss = (
            values["lambda1"] * weighted_mean(hard, self.weight)
            + (1 - values["lambda1"]) * T**2 * weighted_mean(soft, self.weight)
            + values["hint_weight"] * weighted_mean(projected, self.weight)
            + values["pair_mean_weight"] * difference.abs().mean()
            + FIXED * (difference**2).mean()
        )
        g = torch.autograd.grad(loss, list(named.values()), create_graph=True)
        moved = {name: w.detach() - LR * g_w for (name, w), g_w in zip(named.items(), g, strict=True)}
        z_val = functional_call(self.student, {**moved, **buffers}, (self.x_val,))
        h = torch.autograd.grad(F.cross_entropy(z_val, self.y_val), list(values.values()))
        return torch.stack(h)


WEIGHT = torch.linspace(0.2, 1.8, 12, dtype=torch.float64) ** 2


@pytest.mark.parametrize("weight", [None, WEIGHT / WEIGHT.mean()], ids=["alike", "weighted"])
@pytest.mark.parametrize("method", METHODS)
def test_against_double_backward(method, weight, once):
    expected = once(f"reference {weight is None}", lambda: Problem(weight).reference())
    found = Problem(weight).hypergradient(method)
    assert found.shape == (len(VALUES),) and expected.abs().min() > 1e-6
    assert float((found - expected).norm() / expected.norm()) < (1e-5 if "difference" in method else 1e-9)


def test_history_averages_the_losses_before_their_weights():
    problem = Problem()
    objective, values = problem.objective, {n: torch.tensor(v) for n, v in VALUES.items()}
    objective.begin_epoch()
    for _ in range(2):
        passed = objective.forward(problem.student, problem.student, problem.others, problem.batch(), values)
    record = objective.epoch_record()
    assert record["hint_loss"] == pytest.approx(float(passed.context[0].detach()))
    assert record["pair_loss"] == pytest.approx(float(passed.context[1:].detach().sum()))


def test_differences_are_those_that_err_least_with_paired_terms():
    assert Problem().objective.logit_change == LOGIT_CHANGE


def test_a_learned_scale_of_normalised_factors():
    """Values and derivatives against autograd."""
    raw = torch.tensor([0.5, 1.5, -0.3], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    normalization, like = NORMALIZATIONS["biased_softmax"](0.7), torch.zeros(3, dtype=torch.float64)
    weights = LearnedScale(LearnedWeights(normalization, "factors"), "scale")
    values = {"factors": raw.detach(), "scale": scale.detach()}
    alpha = scale * normalization(raw)
    torch.testing.assert_close(weights.alpha(values, like), alpha.detach())
    rows = [torch.autograd.grad(a, [raw, scale], retain_graph=True) for a in alpha]
    wanted = torch.stack([torch.cat([of_raw, of_scale[None]]) for of_raw, of_scale in rows]).T
    torch.testing.assert_close(weights.derivatives(values, like), wanted)
