"""Measure the noise of the hypergradient with smaller batches.

The script runs the library's own iteration for a student MLP 64-32-10 on the digits, with 40 % random labels,
a forest's logits, and SGD with momentum. At each of five stages of training (0, 20, 40, 80, 160 steps) 400
iterations start from the same weights, each with newly drawn training and validation batches, and are undone.
Noise is the standard deviation of h = dL_val / d(lambda1, log T) over them. The output is its ratio to the
noise with 128 rows in both batches, with median and range over stages and components, and the signal: the
mean of h divided by its noise.

  full                 128 rows of D_train, 128 of D_val
  D_val halved         iterator_valid__batch_size=64
  half the extra pass  meta__hypergradient_rows=64; a quarter: 32

    python examples/evidence/hypergradient_noise.py        # half a minute

It prints the table and writes hypergradient_noise.json beside this file.
"""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

from sklearn_kd import MLPStudent
from sklearn_kd.bilevel._hypergradient import HypergradientEstimator
from sklearn_kd.losses._logit_distillation import ClosedFormEvaluation
from sklearn_kd.losses._logits import TrainingLoss
from sklearn_kd.tasks._cross_entropy import validation_loss
from sklearn_kd.tasks._targets import Targets
from sklearn_kd.teachers._logit_checks import log_probabilities

sys.path.append(str(Path(__file__).parents[1]))
from _provenance import provenance

LAMBDA1, T, STAGES, DRAWS = 0.5, 2.0, (0, 20, 40, 80, 160), 400
# name: rows of D_val, rows of the extra pass
OPTIONS = {
    "full": (128, 128),
    "D_val halved": (64, 128),
    "half the extra pass": (128, 64),
    "a quarter of the extra pass": (128, 32),
}


def data():
    rng = np.random.default_rng(0)
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    wrong = rng.random(len(y)) < 0.4
    noisy = np.where(wrong, rng.integers(0, 10, len(y)), y)
    forest = RandomForestClassifier(random_state=0).fit(X[:600], y[:600])
    f = log_probabilities(forest.predict_proba(X))
    train, valid = slice(600, 1200), slice(1200, 1797)
    return [torch.as_tensor(a) for a in (X[train], noisy[train], f[train], X[valid], y[valid])]


def step(student, optimizer, X, y, f, record=None):
    optimizer.zero_grad()
    logits = student(X)
    loss = TrainingLoss(logits, Targets(y, f), LAMBDA1, T, scaling="hinton")
    if record is not None:
        record.after_forward((X,), logits, ClosedFormEvaluation(loss), logits)
    logits.backward(loss.r)
    optimizer.step()


def tried(student, optimizer, rows, valid_rows, extra, arrays):
    """Return h of a step on copies."""
    X, y, f, X_val, y_val = arrays
    student = copy.deepcopy(student)
    fresh = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    record = HypergradientEstimator(student, fresh, rows=extra)
    record.begin()
    step(student, fresh, X[rows], y[rows], f[rows], record)
    targets = Targets(y_val[valid_rows])
    h, _ = record.hypergradient(X_val[valid_rows], lambda z: validation_loss(z, targets))
    return (h * torch.tensor([1.0, T])).numpy()


def main():
    arrays = data()
    rng = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    student = MLPStudent(64, 10)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    noise, signal = {name: [] for name in OPTIONS}, []
    for stage in range(max(STAGES) + 1):
        if stage in STAGES:
            found = {name: [] for name in OPTIONS}
            for _ in range(DRAWS):
                rows = torch.randperm(len(arrays[0]), generator=rng)[:128]
                valid_rows = torch.randperm(len(arrays[3]), generator=rng)[:128]
                for name, (n_valid, extra) in OPTIONS.items():
                    h = tried(student, optimizer, rows, valid_rows[:n_valid], extra, arrays)
                    found[name].append(h)
            for name, hs in found.items():
                noise[name].append(np.std(hs, axis=0).tolist())
            signal.append((np.mean(found["full"], axis=0) / np.std(found["full"], axis=0)).tolist())
        rows = torch.randperm(len(arrays[0]), generator=rng)[:128]
        step(student, optimizer, *(a[rows] for a in arrays[:3]))
    for name in OPTIONS:
        ratios = np.array(noise[name]) / np.array(noise["full"])
        print(f"{name:30}{np.median(ratios):6.2f}  ({ratios.min():.2f} to {ratios.max():.2f})")
    print("mean by noise, full:", np.round(signal, 2).tolist())
    record = {**provenance(__file__), "stages": STAGES, "draws": DRAWS, "noise": noise, "signal": signal}
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
