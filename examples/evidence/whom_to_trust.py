"""Test learned metaparameters with wrong labels and bad teachers: digits, four situations, six methods.

The 1,797 digits are split at random into 600 rows for the teacher (an MLP of 128), 300 for the
student (an MLP of 32), 150 clean rows as D_val, and 747 for the test. The student trains for
60 epochs in batches of 32, by SGD 0.1 with momentum 0.9, a cosine schedule and weight decay 1e-4.
The metaparameters have the library's defaults. The situations are:

  clean            labels and teacher unchanged
  noisy labels     40 % of the student's labels replaced at random
  permuted teacher the teacher's classes are permuted
  shuffled teacher the teacher's rows are shuffled

"none+val", "naive+val" and "fixed (.5, 4)+val" train on the 150 rows of D_val as well. They show what
these rows are worth as training data; the other methods use them to learn the metaparameters.
"linear, auto" is linear with meta__val_temperature="auto". All run on one thread.

    python examples/evidence/whom_to_trust.py --seeds 15

It writes whom_to_trust.json beside this file: settings, versions, every run.
"""

import argparse
import functools
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from skorch.callbacks import LRScheduler
from torch.optim.lr_scheduler import CosineAnnealingLR

from sklearn_kd import DistilledClassifier, MLPStudent

sys.path.append(str(Path(__file__).parents[1]))
from _provenance import provenance

EPOCHS = 60
METHODS = ("none", "naive", "random", "fixed (.5, 4)", "gradient", "linear", "linear, auto", "hyperopt")
WITH_VAL = ("none+val", "naive+val", "fixed (.5, 4)+val")
OF_METHOD = {"fixed (.5, 4)": {"temperature": 4.0}, "linear, auto": {"meta__val_temperature": "auto"}}
SITUATIONS = ("clean", "noisy labels", "permuted teacher", "shuffled teacher")


def student(meta, seed, **params):
    return DistilledClassifier(
        None,
        MLPStudent,
        meta=meta,
        max_epochs=EPOCHS,
        batch_size=32,
        student__hidden=32,
        standardize=False,
        optimizer="SGD",
        lr=0.1,
        optimizer__momentum=0.9,
        optimizer__weight_decay=1e-4,
        callbacks=[LRScheduler(CosineAnnealingLR, T_max=EPOCHS)],
        search_epochs=None,
        random_state=seed,
        **params,
    )


@functools.cache
def teacher_of(seed):
    """Return the teacher of this seed, fitted to the first 600 digits of its order."""
    X, y = load_digits(return_X_y=True)
    rows = np.random.default_rng(seed).permutation(len(X))[:600]
    return MLPClassifier((128,), max_iter=1000, random_state=seed).fit(
        (X[rows] / 16).astype(np.float32), y[rows]
    )


@functools.cache
def draw(situation, seed):
    """Return (X, y, teacher logits) of the student, (X, y, logits) of D_val, and (X, y) of the test rows."""
    rng = np.random.default_rng(seed)
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    order = rng.permutation(len(X))
    _, rows, val, test = np.split(order, [600, 900, 1050])
    teacher = teacher_of(seed)
    labels, logits = y[rows].copy(), teacher.predict_log_proba(X[rows])
    logits_val = teacher.predict_log_proba(X[val])
    if situation == "noisy labels":
        wrong = rng.random(len(labels)) < 0.4
        labels[wrong] = rng.integers(0, 10, wrong.sum())
    elif situation == "permuted teacher":
        classes = rng.permutation(10)
        logits, logits_val = logits[:, classes], logits_val[:, classes]
    elif situation == "shuffled teacher":
        logits, logits_val = rng.permutation(logits), rng.permutation(logits_val)
    return (X[rows], labels, logits), (X[val], y[val], logits_val), (X[test], y[test])


def run(situation, method, seed):
    (X, y, logits), (X_val, y_val, logits_val), test = draw(situation, seed)
    began = time.process_time()
    name = method.removesuffix("+val")
    clf = student(name.split()[0].rstrip(","), seed, **OF_METHOD.get(name, {}))
    if method in WITH_VAL:
        both = np.vstack([logits, logits_val])
        clf.fit(np.vstack([X, X_val]), np.concatenate([y, y_val]), teacher_logits=both)
    else:
        clf.fit(X, y, teacher_logits=logits, X_val=X_val, y_val=y_val)
    return {
        "situation": situation,
        "method": method,
        "seed": seed,
        "accuracy": clf.score(*test),
        "lambda1": clf.lambda1_,
        "temperature": clf.temperature_,
        "CPU seconds": round(time.process_time() - began, 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=15)
    parser.add_argument("--first-seed", type=int, default=100)
    args = parser.parse_args()
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    torch.set_num_threads(1)
    runs = []
    for situation in SITUATIONS:
        print(f"\n{situation:18}accuracy   sd    against naive    lambda1     T")
        naive = None
        for method in ("naive", *(m for m in (*METHODS, *WITH_VAL) if m != "naive")):
            these = [run(situation, method, seed) for seed in seeds]
            runs += these
            accuracy, lambda1, temperature = (
                np.array([r[k] for r in these]) for k in ("accuracy", "lambda1", "temperature")
            )
            naive = accuracy if naive is None else naive
            paired = accuracy - naive
            error = paired.std(ddof=1) / np.sqrt(len(paired))
            print(
                f"{method:18}{accuracy.mean():.3f}    {accuracy.std(ddof=1):.3f}"
                f"   {paired.mean():+.3f} ± {error:.3f}    {lambda1.mean():.2f}    {temperature.mean():5.2f}",
                flush=True,
            )
    record = {
        "settings": vars(args) | {"epochs": EPOCHS, "rows": [600, 300, 150, 747]},
        **provenance(__file__),
        "runs": runs,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
