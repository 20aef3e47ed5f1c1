"""Train horizon.py's students with a feature loss: CIFAR-10 at 16×16 pixels, from a ResNet-20 to a ResNet-8.

The training loss is CE(labels) + weight · (sum of three pathways), as in DistProClassifier, with one pathway
for each stage, the transform "conv1" and the distance "hcl". The teacher sees the images at 32×32 pixels; its
maps are averaged to the size of the student's.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklearn_kd import CIFARResNet, Pathway, build_transforms
from sklearn_kd.bilevel._hypergradient import HypergradientEstimator
from sklearn_kd.datasets import fetch_cifar10
from sklearn_kd.distpro._distances import hcl
from sklearn_kd.distpro._pathways import PathwayLosses
from sklearn_kd.layers._hooks import feature_hooks
from sklearn_kd.tasks._cross_entropy import labels_rows, optimal_val_temperature, validation_loss
from sklearn_kd.tasks._targets import Targets

N_TRAIN, N_VALID, N_TEST = 768, 384, 2000
LAYERS = ("layer1", "layer2", "layer3")
CHANNELS = (16, 32, 64)
PATHWAYS = [Pathway(name, name, "conv1", i, i, CHANNELS[i], CHANNELS[i]) for i, name in enumerate(LAYERS)]
LOSSES = PathwayLosses(PATHWAYS, hcl)


class Images(NamedTuple):
    """Images of shape (n, 3, 16, 16) in [0, 1], labels, and the teacher's maps of D_train by layer."""

    X: Tensor
    y: Tensor
    maps: dict[str, Tensor]
    X_val: Tensor
    y_val: Tensor
    X_test: Tensor
    y_test: Tensor

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return some rows of D_train."""
        return self.X[rows], self.y[rows], {name: maps[rows] for name, maps in self.maps.items()}


@torch.no_grad()
def images(folder: str | None, teacher: str, seed: int) -> Images:
    """Draw the images of a seed, and ask the teacher."""
    X, y = fetch_cifar10(data_home=folder, subset="train", return_X_y=True)
    X_test, y_test = fetch_cifar10(data_home=folder, subset="test", return_X_y=True)
    rows = np.random.default_rng(seed).permutation(len(X))[: N_TRAIN + N_VALID]
    large, test = torch.as_tensor(X[rows]), torch.as_tensor(X_test[:N_TEST])
    labels, network = torch.as_tensor(y[rows]).long(), CIFARResNet.from_file(teacher)
    maps: dict[str, list[Tensor]] = {name: [] for name in LAYERS}
    for part in large[:N_TRAIN].split(128):
        with feature_hooks(network, LAYERS) as found:
            network(part)
        for name in LAYERS:
            maps[name].append(F.avg_pool2d(found[name], 2))
    small, y_of_test = F.avg_pool2d(large, 2), torch.as_tensor(y_test[:N_TEST]).long()
    return Images(
        small[:N_TRAIN],
        labels[:N_TRAIN],
        {name: torch.cat(parts) for name, parts in maps.items()},
        small[N_TRAIN:],
        labels[N_TRAIN:],
        F.avg_pool2d(test, 2),
        y_of_test,
    )


class WeightOfFeatures(NamedTuple):
    """The dependence of ∂L_train/∂losses on the weight: 1 for each pathway."""

    losses: Tensor

    def derivatives(self) -> Tensor:
        """Return ∂²L_train/∂losses ∂weight, shape (1, L)."""
        return torch.ones_like(self.losses.detach())[None]

    def contract(self, u: Tensor) -> Tensor:
        """Return its inner product with u, shape (1,)."""
        return u.sum()[None]


class Learner:
    """A student with its transforms and its optimizer."""

    def __init__(self, seed: int, params: dict[str, float], total: int):
        torch.manual_seed(seed)
        self.student = CIFARResNet(8)
        self.transforms = build_transforms(PATHWAYS, ["conv1"])
        weights = [*self.student.parameters(), *self.transforms.parameters()]
        self.optimizer = torch.optim.SGD(weights, **params)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=total)

    def copy(self) -> Learner:
        """Return a copy that can be trained further by itself."""
        return copy.deepcopy(self)

    def step(self, batch: Any, weight: float) -> Tensor:
        """Take one step; return the norm of the student's gradient."""
        self.student.train()
        x, y, maps = batch
        self.optimizer.zero_grad()
        logits, losses = _pass(self.student, self.transforms, x, maps)
        (F.cross_entropy(logits, y) + weight * losses.sum()).backward()
        self.optimizer.step()
        self.schedule.step()
        return torch.cat([w.grad.flatten() for w in self.student.parameters()]).norm()

    @torch.no_grad()
    def measure(self, data: Images, with_test: bool) -> dict[str, float]:
        """Return L_val at its best T_val and at T_val = 1 and, if wanted, test accuracy."""
        self.student.eval()
        targets, z = Targets(data.y_val), self.student(data.X_val)
        best = optimal_val_temperature([(z, targets)])
        found = {
            "loss": float(validation_loss(z, targets, best)[0]),
            "loss at 1": float(validation_loss(z, targets)[0]),
            "accuracy": np.nan,
        }
        if with_test:
            hit = [
                (self.student(x).argmax(dim=1) == y).float()
                for x, y in zip(data.X_test.split(500), data.y_test.split(500), strict=True)
            ]
            found["accuracy"] = float(torch.cat(hit).mean())
        return found

    def greedy(self, data: Images, batch: Any, weight: float) -> float:
        """Return dL_val / dweight of the next step, on all of D_val at its T_val."""
        taken = self.copy()
        student, transforms, targets = taken.student, taken.transforms, Targets(data.y_val)
        with torch.no_grad():
            best = optimal_val_temperature([(student.eval()(data.X_val), targets)])
        student.train()
        forward = partial(_losses, student, transforms)
        record = HypergradientEstimator(
            student, taken.optimizer, method="exact", others=[transforms], outputs=forward
        )
        x, y, maps = batch
        record.begin()
        taken.optimizer.zero_grad()
        logits, losses = _pass(student, transforms, x, maps)
        record.after_forward((x, maps), losses, WeightOfFeatures(losses), logits)
        _, r = labels_rows(logits.detach(), y)
        torch.autograd.backward([logits, losses], [r / len(y), torch.full_like(losses, weight)])
        taken.optimizer.step()
        h, _ = record.hypergradient(data.X_val, lambda z: validation_loss(z, targets, best))
        return float(h)


def _pass(
    student: nn.Module, transforms: nn.ModuleList, x: Tensor, maps: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the student's logits and the losses of the pathways."""
    with feature_hooks(student, LAYERS) as ours:
        logits = student(x)
    return logits, torch.stack(LOSSES.losses(transforms, ours, maps, range(len(PATHWAYS))))


def _losses(student: nn.Module, transforms: nn.ModuleList, x: Tensor, maps: dict[str, Tensor]) -> Tensor:
    return _pass(student, transforms, x, maps)[1]
