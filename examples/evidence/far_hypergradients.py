"""Compare hypergradients over one step and over many with the effect on a whole training.

The data are the digits with 30 % of the labels flipped in D_train and D_val, and the answers of a forest
fitted on the same noisy rows. The library's MLPStudent trains for 20 epochs of 25 batches, with lambda1 = .5,
and T = 1 or T = 4 throughout. The truth is the difference in L_val (all of D_val, at its best T_val) after
whole trainings with other metaparameters: log T by +.2, lambda1 by ±.1. Compared with it are the
hypergradients at the end of the training by

  gradient            of one step, summed over the last epoch
  forward             accumulated from the first step on, Gauss-Newton, decay 1
  forward, .99        the same with decay .99, the default of meta="forward"
  forward, Hessian    the same with the exact curvature, decay 1
  implicit            meta="implicit"
  implicit, 20 terms  with damping .01

The script also measures the CPU time of a fit with each, with a move in every epoch, as a multiple of the
time of a fit with fixed metaparameters.

    OMP_NUM_THREADS=1 python examples/evidence/far_hypergradients.py        # three minutes

It prints the table and writes far_hypergradients.json beside this file.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

from sklearn_kd import DistilledClassifier, MLPStudent, meta
from sklearn_kd.tasks._cross_entropy import optimal_val_temperature, validation_loss
from sklearn_kd.tasks._targets import Targets

sys.path.append(str(Path(__file__).parents[1]))
from _provenance import provenance

N_EPOCHS, N_TRAIN, SEEDS = 20, 800, 3
OPTIMIZERS = {
    "Adam": {"optimizer": "Adam", "lr": 0.003},
    "momentum": {"optimizer": "SGD", "lr": 0.1, "optimizer__momentum": 0.9},
}
SETTINGS = (("Adam", 1.0), ("Adam", 4.0), ("momentum", 1.0))


class Recorder(torch.optim.SGD):
    """Record the hypergradients by (lambda1, log T), and move nothing."""

    seen: list = []

    def step(self, closure=None):
        self.seen.append(self.param_groups[0]["params"][0].grad.tolist())


RECORDED = {"optimizer": Recorder, "val_temperature": "auto"}
METHODS = {
    "gradient": meta.Gradient(**RECORDED),
    "forward": meta.ForwardGradient(decay=1.0, **RECORDED),
    "forward, .99": meta.ForwardGradient(**RECORDED),
    "forward, Hessian": meta.ForwardGradient(decay=1.0, curvature="hessian", **RECORDED),
    "implicit": meta.ImplicitGradient(**RECORDED),
    "implicit, 20 terms": meta.ImplicitGradient(n_terms=20, damping=0.01, **RECORDED),
}


def task(seed):
    """Return D_train, D_val and the teacher's probabilities of D_train."""
    rng = np.random.default_rng(seed)
    X, y = load_digits(return_X_y=True)
    order = rng.permutation(len(y))
    X, y = X[order].astype(np.float32), y[order]
    y = np.where(rng.random(len(y)) < 0.3, rng.integers(0, 10, len(y)), y)
    forest = RandomForestClassifier(random_state=seed).fit(X[:N_TRAIN], y[:N_TRAIN])
    p = np.log(forest.predict_proba(X[:N_TRAIN]).clip(1e-4))
    return (X[:N_TRAIN], y[:N_TRAIN]), (X[N_TRAIN:], y[N_TRAIN:]), p


def fitted(data, strategy, seed, lambda1, temperature, **params):
    """Return the classifier and the CPU seconds of its fit."""
    train, valid, logits = data
    clf = DistilledClassifier(
        None, MLPStudent, meta=strategy, lambda1=lambda1, temperature=temperature, max_epochs=N_EPOCHS,
        batch_size=32, search_epochs=None, random_state=seed, device="cpu", **params,
    )  # fmt: skip
    start = time.process_time()
    clf.fit(*train, X_val=valid[0], y_val=valid[1], teacher_logits=logits)
    return clf, time.process_time() - start


def val_loss(clf, valid):
    """Return L_val on all of D_val at its best T_val."""
    z, y = torch.as_tensor(clf.decision_function(valid[0])), Targets(torch.as_tensor(valid[1]))
    return float(validation_loss(z, y, optimal_val_temperature([(z, y)]))[0])


def truth(data, seed, lambda1, T, **params):
    """Return the change of L_val by lambda1 and by log T, and the CPU seconds of one fit."""

    def loss_at(lambda1, T):
        clf, seconds = fitted(data, "fixed", seed, lambda1, T, **params)
        return val_loss(clf, data[1]), seconds

    (low, _), (high, _) = (loss_at(lambda1 + change, T) for change in (-0.1, 0.1))
    (here, seconds), (warmer, _) = loss_at(lambda1, T), loss_at(lambda1, T * np.exp(0.2))
    return [(high - low) / 0.2, (warmer - here) / 0.2], seconds


def hypergradient(data, strategy, seed, lambda1, T, **params):
    """Return the last hypergradient, of one step: the sum over the last epoch; and the CPU seconds."""
    Recorder.seen.clear()
    _, seconds = fitted(data, strategy, seed, lambda1, T, **params)
    n_last = N_TRAIN // 32 if isinstance(strategy, meta.Gradient) else 1
    return np.sum(Recorder.seen[-n_last:], axis=0).tolist(), seconds


def main():
    fitted(task(0), "gradient", 0, 0.5, 1.0)  # imports
    rows = []
    for optimizer, T in SETTINGS:
        params = OPTIMIZERS[optimizer]
        for seed in range(SEEDS):
            data, where = task(seed), {"optimizer": optimizer, "T": T, "seed": seed}
            change, plain = truth(data, seed, 0.5, T, **params)
            rows.append({**where, "method": "truth", "h": change})
            for name, strategy in METHODS.items():
                h, seconds = hypergradient(data, strategy, seed, 0.5, T, **params)
                rows.append({**where, "method": name, "h": h, "time": seconds / plain})
        show(optimizer, T, rows)
        record = {**provenance(__file__), "rows": rows}
        Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


def show(optimizer, T, rows):
    print(f"{optimizer}, T = {T:g}: dL_val by lambda1, by log T (each seed); time")
    for name in ("truth", *METHODS):
        own = [r for r in rows if (r["optimizer"], r["T"], r["method"]) == (optimizer, T, name)]
        by_lambda1, by_log_T = (" ".join(f"{r['h'][j]:+.3g}" for r in own) for j in (0, 1))
        times = np.median([r.get("time", 1.0) for r in own])
        print(f"  {name:20}{by_lambda1:36}{by_log_T:36}{times:.2f}", flush=True)


if __name__ == "__main__":
    main()
