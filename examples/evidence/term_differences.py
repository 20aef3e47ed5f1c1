"""Measure the error of hypergradients of terms' weights in float32, by the share by which the logits move.

The default hypergradient, by finite differences, is compared with forward mode ("jvp"), which is exact, in
the same iterations of a training with ``loss=["kd", term]``: two epochs of SGD at rates 0.02 and 0.1 in
batches of 64, with a teacher of the student's architecture. A ResNet-8 learns 400 noisy images of 3×16×16 in
four clusters, and a CNN with batch normalisation learns 400 digits. The metaparameters stay at their start.

    OMP_NUM_THREADS=1 python examples/evidence/term_differences.py

It prints the median error of the weights over the iterations, as a share of their mean size, and writes
term_differences.json beside this file.
"""

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from torch import nn

from sklearn_kd import CIFARResNet, DistilledClassifier
from sklearn_kd.bilevel._hypergradient import HypergradientEstimator
from sklearn_kd.losses import TERMS, _feature_objective

sys.path.append(str(Path(__file__).parents[1]))
from _provenance import provenance

SHARES = (0.3, 1.0, 3.0, 10.0, 30.0)
RATES = (0.02, 0.1)
# Weights that these small tasks bear; the others have their default.
WEIGHTS = {
    "attention": {"weight": 100.0},
    "similarity": {"weight": 100.0},
    "rkd": {"distance_weight": 2.5, "angle_weight": 5.0},
    "hint": {"weight": 1.0},
}


def small_cnn(n_classes):
    stages = [
        part
        for c_in, c_out, stride in ((1, 6, 1), (6, 12, 2))
        for part in (nn.Conv2d(c_in, c_out, 3, stride, 1), nn.BatchNorm2d(c_out), nn.ReLU())
    ]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, n_classes))


def digits():
    X, y = load_digits(return_X_y=True)
    return (X[:400] / 16).reshape(-1, 1, 8, 8).astype(np.float32), y[:400]


def clusters():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 400)
    centres = rng.normal(size=(4, 3, 16, 16))
    return (rng.normal(size=(400, 3, 16, 16)) + centres[y] * 0.5).astype(np.float32), y


TASKS = {"ResNet-8": (partial(CIFARResNet, 8), clusters), "small CNN": (small_cnn, digits)}


def hypergradients(taken, teacher, student, X, y, name, method, rate):
    """Return the hypergradients of the term's weights, one row for each iteration."""
    taken.clear()
    term = TERMS[name](**WEIGHTS.get(name, {}))
    DistilledClassifier(
        teacher, student, loss=["kd", term], meta="gradient", meta__hypergradient=method, meta__lr=1e-9,
        optimizer="SGD", lr=rate, search_epochs=None, max_epochs=2, batch_size=64, random_state=0,
        device="cpu",
    ).fit(X, y)  # fmt: skip
    return np.array(taken)[:, : len(term.weight_names)]


def errors(taken, task):
    """Return the errors by term, rate and share."""
    student, data = TASKS[task]
    X, y = data()
    settings = {"optimizer": "SGD", "lr": 0.05, "max_epochs": 5, "batch_size": 64, "random_state": 0}
    teacher = DistilledClassifier(None, student, meta="none", device="cpu", **settings).fit(X, y).student_
    found = {}
    for name in TERMS:
        for rate in RATES:
            run = partial(hypergradients, taken, teacher, student, X, y, name, rate=rate)
            exact = run("jvp")
            for share in SHARES:
                _feature_objective.LOGIT_CHANGE = share
                error = np.median(np.abs(run("finite_difference") - exact)) / np.abs(exact).mean()
                found.setdefault(name, {}).setdefault(str(rate), {})[str(share)] = float(error)
    return found


def main():
    taken = []
    take = HypergradientEstimator.hypergradient

    def noted(self, *given):
        h, val_loss = take(self, *given)
        taken.append(h.double().numpy())
        return h, val_loss

    HypergradientEstimator.hypergradient = noted
    results = {task: errors(taken, task) for task in TASKS}
    print(f"{'':30}" + "".join(f"{share:>9}" for share in SHARES))
    for task, of_terms in results.items():
        for name, of_rates in of_terms.items():
            for rate, of_shares in of_rates.items():
                head = f"{task}, {name}, {rate}"
                print(f"{head:30}" + "".join(f"{error:>9.1%}" for error in of_shares.values()))
    record = {**provenance(__file__), "errors": results}
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
