"""Measure the error of the fast hypergradient in float32, for each rule that sets its step.

Finite differences of logits, on seven networks at ten stages of training each (0 to 90 steps) in batches of
128, are compared with the exact hypergradient in float64. By z(w + ε d) − z(w), with two rules for ε:

  by weights   ε = 3e-5 · ‖w‖/‖d‖
  by logits    ε such that the logits are expected to move by a fixed share of their size (the library's)
  central      the same ε with the central difference, (z(w + ε d) − z(w − ε d)) / 2ε

    python examples/evidence/finite_difference.py

It prints median and largest relative error, and the ratio of the expected to the true size of
the logits' change, and writes finite_difference.json beside this file.
"""

import copy
import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sklearn_kd import CNNStudent, hypergradient
from sklearn_kd.bilevel import _hypergradient as _bilevel
from sklearn_kd.bilevel._optimizer_response import global_norm
from sklearn_kd.training import _single_step

sys.path.append(str(Path(__file__).parents[1]))
from _provenance import provenance

ratios = []


def by_weights(replay, w, d, logits, size):
    step = 3e-5 * global_norm(w) / global_norm(d)
    with torch.no_grad():
        return (replay([a + step * b for a, b in zip(w, d, strict=True)]) - logits) / step


def exact_and_measure(replay, w, d, logits, size):
    u = JVP(replay, w, d, logits, size)
    ratios.append(float(size / u.square().mean().sqrt()))
    return u


JVP = _bilevel.DIRECTIONAL_DERIVATIVES["jvp"]
_bilevel.DIRECTIONAL_DERIVATIVES |= {"by weights": by_weights, "jvp": exact_and_measure}
_bilevel.METHODS += ("by weights",)
_single_step.METHODS = _bilevel.METHODS


def perceptron(*widths, norm=False):
    layers = []
    for fan_in, fan_out in pairwise(widths[:-1]):
        layers += [nn.Linear(fan_in, fan_out), *([nn.BatchNorm1d(fan_out)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(*widths[-2:]))


def convolutions_with_norm():
    layers = []
    for fan_in, fan_out in ((1, 16), (16, 32), (32, 32)):
        layers += [
            nn.Conv2d(fan_in, fan_out, 3, padding=1),
            nn.BatchNorm2d(fan_out),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(288, 10))


NETWORKS = {
    "logistic regression 8-4": (lambda: perceptron(8, 4), (8,)),
    "MLP 8-6-4": (lambda: perceptron(8, 6, 4), (8,)),
    "MLP 64-32-10": (lambda: perceptron(64, 32, 10), (64,)),
    "MLP 64-256-256-10": (lambda: perceptron(64, 256, 256, 10), (64,)),
    "the same with batch norm": (lambda: perceptron(64, 256, 256, 10, norm=True), (64,)),
    "CNN 16-32-32, 64": (lambda: CNNStudent((1, 28, 28), 10, (16, 32, 32), 64), (1, 28, 28)),
    "CNN 16-32-32 with batch norm": (convolutions_with_norm, (1, 28, 28)),
}


def errors(make, shape):
    """Return the relative errors of all three at ten stages of training."""
    found = {"by weights": [], "finite_difference": [], "central_difference": []}
    for stage in range(10):
        torch.manual_seed(stage)
        student = make()
        x, x_val = torch.randn(2, 128, *shape)
        truth = torch.randn(x[0].numel(), student(x[:2]).shape[1])
        f, f_val = (batch.flatten(1) @ truth / 2 for batch in (x, x_val))
        y, y_val = f.argmax(1), f_val.argmax(1)
        optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
        for _ in range(10 * stage):
            optimizer.zero_grad()
            nn.functional.cross_entropy(student(x), y).backward()
            optimizer.step()
        exact = hypergradient(
            copy.deepcopy(student).double(), (x.double(), y), (x_val.double(), y_val), f.double(),
            temperature=2.0, method="jvp",
        )  # fmt: skip
        for method, values in found.items():
            h = hypergradient(student, (x, y), (x_val, y_val), f, temperature=2.0, method=method)
            values.append(float(np.linalg.norm(h - exact) / np.linalg.norm(exact)))
    return found


def main():
    results = {name: errors(*network) for name, network in NETWORKS.items()}
    print(f"{'relative error, median (largest)':32}{'by weights':>20}{'by logits':>20}{'central':>20}")
    for name, found in results.items():
        cells = [f"{np.median(e):.1e} ({max(e):.1e})" for e in found.values()]
        print(f"{name:32}" + "".join(f"{cell:>20}" for cell in cells))
    low, middle, high = np.percentile(ratios, [0, 50, 100])
    print(f"expected / true size of the change: {low:.2f} to {high:.2f}, median {middle:.2f}")
    record = {**provenance(__file__), "errors": results, "ratios": ratios}
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
