"""Other ways to the same hypergradient: by hand in PyTorch, and by the libraries that offer one.

Each is one iteration: the student's step of plain SGD, h = dL_val(w')/d(lambda1, log T), and the
metaparameters' step. All have the same losses, written as people write them; where a library
leaves w' behind, it is the student's real step, so that none pays for a step twice but the
paper's algorithm, which asks for it. The libraries are imported when they are made.

With Python 3.11 and torch 2.13: ``pip install higher==0.2.1 torchopt==0.7.3 hypergrad==0.0.1``;
``pip install --no-deps --ignore-requires-python betty-ml==0.2.1``, which asks for an older Python; and
learn2learn 0.2.0 from its source, the C files made anew by Cython, beside gym and torchvision.
"""

from __future__ import annotations

import copy
import logging
import math
import warnings
from importlib.metadata import PackageNotFoundError, version

import torch
import torch.nn.functional as F
from _measure import LR, START
from torch import Tensor
from torch.func import functional_call

BOUNDS = ((0.0, math.log(1.0)), (1.0, math.log(10.0)))  # of lambda1 and log T


def distillation(z, y, f, lambda1, T):
    """lambda1 · CE(labels) + (1 − lambda1) · T² · CE(teacher at T, student at T)."""
    soft = -(F.softmax(f / T, dim=1) * F.log_softmax(z / T, dim=1)).sum(dim=1).mean()
    return lambda1 * F.cross_entropy(z, y) + (1 - lambda1) * T**2 * soft


class Plain:
    """A step without metaparameters, written by hand."""

    def __init__(self, student):
        self.student = copy.deepcopy(student)
        self.optimizer = torch.optim.SGD(self.student.parameters(), lr=LR)

    def __call__(self, batch, val_batch=None):
        x, y, f = batch
        self.optimizer.zero_grad()
        distillation(self.student(x), y, f, *START).backward()
        self.optimizer.step()


class Forward(Plain):
    """Only the forward pass."""

    def __call__(self, batch, val_batch=None):
        with torch.no_grad():
            self.student(batch[0])


class Peer:
    """Base: subclasses say how ``hypergradient`` comes about, and where the student steps."""

    package = None  # what it installs from
    exact = True

    def __init__(self, student):
        self.student = copy.deepcopy(student)
        w = next(student.parameters())
        self.theta = w.new_tensor([START[0], math.log(START[1])]).requires_grad_()
        self.low, self.high = (w.new_tensor(bound) for bound in BOUNDS)
        self.optimizer = torch.optim.SGD([self.theta], lr=1.0)
        self.prepare()

    def prepare(self):
        """What is made once."""

    def __call__(self, batch, val_batch):
        self.theta.grad = self.hypergradient(batch, val_batch)
        self.optimizer.step()
        with torch.no_grad():
            self.theta.clamp_(self.low, self.high)

    def hypergradient(self, batch, val_batch) -> Tensor:
        """h by (lambda1, log T), shape (2,)."""
        raise NotImplementedError

    def loss(self, z, batch):
        """L_train, differentiable in the metaparameters."""
        return distillation(z, batch[1], batch[2], self.theta[0], self.theta[1].exp())

    def weights(self):
        """The student's."""
        return list(self.student.parameters())

    def unrolled(self, model, new_weights, val_batch):
        """h through the graph from ``model`` at w' back to theta; w' becomes the student's."""
        x, y = val_batch
        (h,) = torch.autograd.grad(F.cross_entropy(model(x), y), self.theta)
        if new_weights is not None:
            with torch.no_grad():
                torch._foreach_copy_(self.weights(), list(new_weights))
        return h


# --------------------------------------------------------------------------------------
# By hand


class Paper(Peer):
    """The paper's algorithm, as DARTS: 11 passes where a plain step is 3.

    A virtual step (3 passes), v at w' (3), the gradient of L_train by the metaparameters at
    w + ε v and w − ε v (1 forward each, the way back ends at the logits), their step; then the
    student's real step with the new metaparameters (3). ε = 0.01/‖v‖.
    """

    exact = False

    def prepare(self):
        self.virtual = copy.deepcopy(self.student)
        self.student_optimizer = torch.optim.SGD(self.student.parameters(), lr=LR)

    def hypergradient(self, batch, val_batch):
        gradient = torch.autograd.grad(self.loss(self.student(batch[0]), batch), self.weights())
        with torch.no_grad():
            for ahead, w, g in zip(self.virtual.parameters(), self.weights(), gradient, strict=True):
                ahead.copy_(w - LR * g)
        x, y = val_batch
        v = torch.autograd.grad(F.cross_entropy(self.virtual(x), y), list(self.virtual.parameters()))
        step = 0.01 / torch.cat([v_w.flatten() for v_w in v]).norm()
        above = self.gradient_at(batch, v, step)
        below = self.gradient_at(batch, v, -2 * step)
        self.shift(v, step)
        return -LR * (above - below) / (2 * step)

    def gradient_at(self, batch, v, step):
        """∂L_train/∂theta with the weights moved by ``step`` · v."""
        self.shift(v, step)
        return torch.autograd.grad(self.loss(self.student(batch[0]), batch), self.theta)[0]

    def shift(self, v, step):
        """Move the weights."""
        with torch.no_grad():
            for w, v_w in zip(self.weights(), v, strict=True):
                w.add_(step * v_w)

    def __call__(self, batch, val_batch):
        super().__call__(batch, val_batch)
        self.student_optimizer.zero_grad()
        loss = self.loss(self.student(batch[0]), batch)
        loss.backward(inputs=self.weights())
        self.student_optimizer.step()


class DoubleBackward(Peer):
    """``create_graph=True`` and a functional call, in plain PyTorch."""

    def hypergradient(self, batch, val_batch):
        named = dict(self.student.named_parameters())
        loss = self.loss(self.student(batch[0]), batch)
        gradient = torch.autograd.grad(loss, list(named.values()), create_graph=True)
        ahead = {n: w - LR * g for (n, w), g in zip(named.items(), gradient, strict=True)}
        return self.unrolled(lambda x: functional_call(self.student, ahead, (x,)), ahead.values(), val_batch)


class DifferentiableSGD(Peer):
    """``torch.optim.SGD(differentiable=True)`` on clones of the weights."""

    def prepare(self):
        self.sgd = torch.optim.SGD(self.weights(), lr=LR, differentiable=True)

    def hypergradient(self, batch, val_batch):
        named = dict(self.student.named_parameters())
        loss = self.loss(self.student(batch[0]), batch)
        gradient = torch.autograd.grad(loss, list(named.values()), create_graph=True)
        ahead = {name: w.clone() for name, w in named.items()}
        for w, g in zip(ahead.values(), gradient, strict=True):
            w.grad = g
        self.sgd.param_groups[0]["params"] = list(ahead.values())
        with warnings.catch_warnings():  # .grad of a tensor that is no leaf
            warnings.simplefilter("ignore")
            self.sgd.step()
        return self.unrolled(lambda x: functional_call(self.student, ahead, (x,)), ahead.values(), val_batch)


# --------------------------------------------------------------------------------------
# By libraries


class Higher(Peer):
    """``innerloop_ctx`` for each step."""

    package = "higher"

    def prepare(self):
        import higher

        self.context = higher.innerloop_ctx
        self.sgd = torch.optim.SGD(self.student.parameters(), lr=LR)

    def hypergradient(self, batch, val_batch):
        with self.context(self.student, self.sgd) as (model, optimizer):
            optimizer.step(self.loss(model(batch[0]), batch))
            return self.unrolled(model, model.parameters(), val_batch)


class TorchOpt(Peer):
    """``MetaSGD``, which leaves w' in the student."""

    package = "torchopt"

    def prepare(self):
        import torchopt

        self.stop_gradient = torchopt.stop_gradient
        self.sgd = torchopt.MetaSGD(self.student, lr=LR)

    def hypergradient(self, batch, val_batch):
        self.sgd.step(self.loss(self.student(batch[0]), batch))
        h = self.unrolled(self.student, None, val_batch)
        self.stop_gradient(self.student)
        self.stop_gradient(self.sgd)
        return h


class Learn2Learn(Peer):
    """``MAML``: clone, adapt."""

    package = "learn2learn"

    def prepare(self):
        import learn2learn

        self.maml = learn2learn.algorithms.MAML(self.student, lr=LR)

    def hypergradient(self, batch, val_batch):
        learner = self.maml.clone()
        learner.adapt(self.loss(learner(batch[0]), batch))
        return self.unrolled(learner, learner.parameters(), val_batch)


class Hypergrad(Peer):
    """``neumann`` without further terms: the mixed derivative at w' in place of w, so inexact.

    Batch normalisation is by the batch alone: functorch cannot move running statistics.
    """

    package = "hypergrad"
    exact = False

    def prepare(self):
        from hypergrad.approx_hypergrad import neumann

        self.neumann = neumann
        self.sgd = torch.optim.SGD(self.student.parameters(), lr=LR)
        self.functional = torch.func.replace_all_batch_norm_modules_(copy.deepcopy(self.student))
        self.names = [name for name, _ in self.student.named_parameters()]

    def hypergradient(self, batch, val_batch):
        self.sgd.zero_grad()
        self.loss(self.student(batch[0]), batch).backward(inputs=self.weights())
        self.sgd.step()

        def call(weights, x):
            return functional_call(self.functional, dict(zip(self.names, weights, strict=True)), (x,))

        def inner(weights, theta):
            z = call(weights, batch[0])
            return distillation(z, batch[1], batch[2], theta[0][0], theta[0][1].exp())

        def outer(weights, theta):
            return F.cross_entropy(call(weights, val_batch[0]), val_batch[1])

        weights = tuple(w.detach() for w in self.weights())
        (h,) = self.neumann(inner, outer, weights, (self.theta.detach(),), num_iters=0, lr=LR)
        return h


class Betty(Peer):
    """``Engine`` with its "darts" hypergradient, of the step after w', times the rate it leaves out.

    The differences are central with 0.01/‖v‖, at w' in place of w: inexact. The metaparameters'
    rate is multiplied by the student's, since its hypergradient is not.
    """

    package = "betty-ml"
    exact = False

    def prepare(self):
        logging.disable(logging.INFO)
        from betty.configs import Config, EngineConfig
        from betty.engine import Engine
        from betty.problems import ImplicitProblem

        peer = self

        class Metaparameters(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.theta = torch.nn.Parameter(peer.theta.detach().clone())

        class Upper(ImplicitProblem):
            def training_step(self, batch):
                return F.cross_entropy(self.lower(batch[0]), batch[1])

            def get_batch(self):
                return peer.val_batch

            def grad_callback(self):
                peer.h = LR * self.module.theta.grad

            def param_callback(self):
                with torch.no_grad():
                    self.module.theta.clamp_(peer.low, peer.high)

        class Lower(ImplicitProblem):
            def training_step(self, batch):
                theta = self.upper.module.theta
                return distillation(self(batch[0]), batch[1], batch[2], theta[0], theta[1].exp())

            def get_batch(self):
                return peer.batch

        knobs = Metaparameters()
        self.theta = knobs.theta
        upper = Upper("upper", Config(), knobs, torch.optim.SGD(knobs.parameters(), lr=LR))
        lower = Lower(
            "lower", Config(unroll_steps=1), self.student, torch.optim.SGD(self.student.parameters(), lr=LR)
        )
        links = {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}}
        device = "cpu" if self.theta.device.type == "cpu" else "gpu"
        self.engine = Engine([upper, lower], EngineConfig(strategy=device), links)
        self.engine.train()

    def hypergradient(self, batch, val_batch):
        self.batch, self.val_batch = batch, val_batch
        self.engine.global_step += 1
        self.engine.train_step()
        return self.h

    def __call__(self, batch, val_batch):
        self.hypergradient(batch, val_batch)  # the engine has stepped the metaparameters


PEERS = {
    "the paper's algorithm": Paper,
    "double backward": DoubleBackward,
    "torch.optim differentiable": DifferentiableSGD,
    "higher": Higher,
    "TorchOpt": TorchOpt,
    "learn2learn": Learn2Learn,
    "hypergrad": Hypergrad,
    "betty": Betty,
}


def installed(peer: type[Peer]) -> str | None:
    """Its version, "" where it needs no package, None where it is not installed."""
    try:
        return "" if peer.package is None else version(peer.package)
    except PackageNotFoundError:
        return None


def made(peer: type[Peer], student):
    """The peer, or the reason why there is none."""
    if installed(peer) is None:
        return "not installed"
    try:
        return peer(student)
    except Exception as error:  # a library that does not work here is a finding, not a failure
        return f"{type(error).__name__}: {error}"
