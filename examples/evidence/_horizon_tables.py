"""Draw the tables and images of horizon.py, and train students on them in one batch.

The weights of all students are stacked, so that one pass trains all branches of all seeds. Each student has
its own optimizer state.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from sklearn_kd import MLPStudent
from sklearn_kd.bilevel._hypergradient import HypergradientEstimator
from sklearn_kd.datasets import fetch_fashion_mnist
from sklearn_kd.losses._logit_distillation import ClosedFormEvaluation
from sklearn_kd.losses._logits import TrainingLoss
from sklearn_kd.tasks._cross_entropy import optimal_val_temperature, validation_loss
from sklearn_kd.tasks._targets import Targets
from sklearn_kd.teachers._logit_checks import log_probabilities

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from _tasks import Folders, source

N_TRAIN, N_VALID, N_TEST, N_TEACHER, TREES, COMPONENTS = 1700, 300, 2000, 4000, 100, 50


class Rows(NamedTuple):
    """The rows of all seeds, shape (S, n, ...); f are the teacher's logits on D_train."""

    X: Tensor
    y: Tensor
    f: Tensor
    X_val: Tensor
    y_val: Tensor
    X_test: Tensor
    y_test: Tensor


# --------------------------------------------------------------------------------------
# Data


def table(name: str, mlbench: str, seed: int, flipped: float) -> list[np.ndarray]:
    """Draw rows of one of R's tables; a forest fitted on D_train, with its labels, is the teacher."""
    X, y = source(name, Folders(mlbench))
    rng = np.random.default_rng(seed)
    order, n_classes = rng.permutation(len(X)), int(y.max()) + 1
    train, valid, test = np.split(order, [N_TRAIN, N_TRAIN + N_VALID])
    wrong = (y + rng.integers(1, n_classes, len(y))) % n_classes
    noisy = np.where(rng.random(len(y)) < flipped, wrong, y)
    scaler, test = StandardScaler().fit(X[train]), test[:N_TEST]
    forest = RandomForestClassifier(TREES, random_state=seed).fit(X[train], noisy[train])
    X = scaler.transform(X)
    f = log_probabilities(forest.predict_proba(scaler.inverse_transform(X[train])))
    return [X[train], noisy[train], f, X[valid], noisy[valid], X[test], y[test]]


def small_images(folder: str, seed: int) -> list[np.ndarray]:
    """Draw images; the student sees 50 components, its teacher 14×14 pixels and 4,000 other images."""
    X, y = fetch_fashion_mnist(data_home=folder, return_X_y=True, download_if_missing=False)
    sizes = np.cumsum([N_TRAIN, N_VALID, N_TEST, N_TEACHER])
    rows = np.random.default_rng(seed).permutation(len(X))[: sizes[-1]]
    X, y = X[rows].reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(len(rows), -1), y[rows].astype(int)
    (train, valid, test, others) = (slice(a, b) for a, b in zip([0, *sizes[:-1]], sizes, strict=True))
    forest = RandomForestClassifier(TREES, random_state=seed).fit(X[others], y[others])
    f = log_probabilities(forest.predict_proba(X[train]))
    scaled = make_pipeline(PCA(COMPONENTS, random_state=seed), StandardScaler()).fit(X[train])
    X = scaled.transform(X)
    return [X[train], y[train], f, X[valid], y[valid], X[test], y[test]]


def stacked(of_seeds: Sequence[Sequence[np.ndarray]]) -> Rows:
    """Stack the rows of all seeds."""

    def tensor(arrays: Any) -> Tensor:
        found = torch.as_tensor(np.stack(arrays))
        return found.float() if found.is_floating_point() else found.long()

    return Rows(*(tensor(arrays) for arrays in zip(*of_seeds, strict=True)))


# --------------------------------------------------------------------------------------
# Students side by side


class Training(NamedTuple):
    """Settings of the students' training."""

    hidden: Any
    optimizer: Any
    params: dict[str, float]
    batch_size: int
    epochs: int

    def make(self, weights: Any) -> torch.optim.Optimizer:
        """Return an optimizer of some weights."""
        return self.optimizer(weights, **self.params)


class Stack:
    """G groups of students, each with one student for each of S seeds, trained in one batch.

    The students of a group have the same metaparameters and the same history. Student k has group k // S and
    seed k % S.

    Parameters
    ----------
    training : Training
    template : nn.Module
        One student; only its structure is used.
    weights : dict of str to Tensor of shape (G · S, ...)
    values : sequence of G (float, float)
        lambda1 and T of each group.
    n_seeds : int
    """

    def __init__(
        self,
        training: Training,
        template: nn.Module,
        weights: dict[str, Tensor],
        values: Sequence[tuple[float, float]],
        n_seeds: int,
    ):
        self.training, self.template, self.n_seeds = training, template, n_seeds
        self.weights = {name: w.detach().clone().requires_grad_() for name, w in weights.items()}
        self.values = list(values)
        self.scale = torch.ones(len(values) * n_seeds)  # of the training loss
        self.optimizer = training.make(self.weights.values())

    @classmethod
    def fresh(cls, training: Training, rows: Rows, values: Sequence[tuple[float, float]]) -> Stack:
        """Return untrained students; those of a seed are the same in all groups."""
        students = []
        for seed in range(len(rows.X)):
            torch.manual_seed(seed)
            students.append(MLPStudent(rows.X.shape[-1], rows.f.shape[-1], training.hidden))
        weights, _ = stack_module_state(students * len(values))
        return cls(training, students[0], weights, values, len(students))

    def extended(self, sources: Sequence[int], values: Sequence[tuple[float, float]]) -> Stack:
        """Return the same students followed by copies of groups with other metaparameters."""
        groups = [*range(len(self.values)), *sources]
        of = torch.cat([self.members(g) for g in groups])
        weights = {name: w.detach()[of] for name, w in self.weights.items()}
        longer = Stack(self.training, self.template, weights, [*self.values, *values], self.n_seeds)
        longer.scale = torch.cat([self.scale, torch.ones(len(values) * self.n_seeds)])
        for name, w in self.weights.items():
            longer.optimizer.state[longer.weights[name]] = {
                key: part[of].clone() if part.ndim else part.clone()
                for key, part in self.optimizer.state[w].items()
            }
        return longer

    def members(self, group: int) -> Tensor:
        """Return the places of the students of a group."""
        return torch.arange(group * self.n_seeds, (group + 1) * self.n_seeds)

    def logits(self, X: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """Return logits of shape (K, n, C) for rows of each seed, shape (S, n, ...)."""
        n_groups = len(next(iter(weights.values()))) // self.n_seeds
        X = X.repeat(n_groups, *[1] * (X.ndim - 1))
        return vmap(lambda w, x: functional_call(self.template, w, (x,)))(weights, X)

    def gradient(self, X: Tensor, y: Tensor, f: Tensor) -> None:
        """Compute the gradient of each student's training loss."""
        self.optimizer.zero_grad()
        logits, n_groups = self.logits(X, self.weights), len(self.values)
        targets = Targets(y.repeat(n_groups, 1), f.repeat(n_groups, 1, 1))
        values = torch.tensor(self.values).repeat_interleave(self.n_seeds, dim=0)[:, :, None, None]
        loss = TrainingLoss(logits, targets, values[:, 0], values[:, 1], scaling="hinton")
        logits.backward(loss.r * self.scale[:, None, None])

    def gradient_norms(self) -> Tensor:
        """Return the norms of the gradients, shape (G, S)."""
        return self._norms([w.grad for w in self.weights.values()])

    def step(self, *batch: Tensor) -> None:
        """Take one step."""
        self.gradient(*batch)
        self.optimizer.step()

    def measured_step(self, *batch: Tensor) -> Tensor:
        """Take one step; return its length for each student, shape (G, S)."""
        before = [w.detach().clone() for w in self.weights.values()]
        self.step(*batch)
        return self._norms([w.detach() - b for w, b in zip(self.weights.values(), before, strict=True)])

    def _norms(self, of_weights: Sequence[Any]) -> Tensor:
        flat = torch.cat([t.flatten(start_dim=1) for t in of_weights], dim=1)
        return flat.norm(dim=1).view(-1, self.n_seeds)

    @torch.no_grad()
    def measure(self, rows: Rows, groups: Sequence[int]) -> dict[int, dict[str, np.ndarray]]:
        """Return by group L_val at each student's best T_val and at T_val = 1, and test accuracy."""
        found = {}
        for group in groups:
            weights = {name: w[self.members(group)] for name, w in self.weights.items()}
            correct = self.logits(rows.X_test, weights).argmax(dim=-1) == rows.y_test
            losses = []
            for z, y in zip(self.logits(rows.X_val, weights), rows.y_val, strict=True):
                targets = Targets(y)
                best = optimal_val_temperature([(z, targets)])
                losses.append([float(validation_loss(z, targets, t)[0]) for t in (best, 1.0)])
            loss, at_one = np.transpose(losses)
            accuracy = correct.float().mean(dim=1).numpy()
            found[group] = {"loss": loss, "loss at 1": at_one, "accuracy": accuracy}
        return found

    def alone(self, k: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return a copy of one student, with its optimizer."""
        student = copy.deepcopy(self.template)
        optimizer = self.training.make(student.parameters())
        for name, w in student.named_parameters():
            w.data.copy_(self.weights[name][k])
            optimizer.state[w] = {
                key: part[k].clone() if part.ndim else part.clone()
                for key, part in self.optimizer.state[self.weights[name]].items()
            }
        return student, optimizer


# --------------------------------------------------------------------------------------
# The greedy hypergradient


def greedy(
    stack: Stack, rows: Rows, group: int, batch: Sequence[Tensor], values: tuple[float, float]
) -> np.ndarray:
    """Return dL_val / d(lambda1, log T) of the next step of a group, at any values of them, shape (S, 2).

    L_val is that of all of D_val at the student's best T_val before the step, where the derivative
    through T_val vanishes. The step is taken on copies.
    """
    (lambda1, temperature), found = values, []
    for s, k in enumerate(stack.members(group).tolist()):
        student, optimizer = stack.alone(k)
        targets = Targets(rows.y_val[s])
        with torch.no_grad():
            best = optimal_val_temperature([(student(rows.X_val[s]), targets)])
        record = HypergradientEstimator(student, optimizer, method="exact")
        record.begin()
        x, y, f = (part[s] for part in batch)
        logits = student(x)
        loss = TrainingLoss(logits, Targets(y, f), lambda1, temperature, scaling="hinton")
        record.after_forward((x,), logits, ClosedFormEvaluation(loss), logits)
        logits.backward(loss.r)
        optimizer.step()
        judge = partial(validation_loss, targets=targets, val_temperature=best)
        h, _ = record.hypergradient(rows.X_val[s], judge)
        found.append([float(h[0]), temperature * float(h[1])])
    return np.array(found)
