"""Noisy labels: the learned metaparameters rely on the teacher
============================================================

Many rows were labelled cheaply, and 40 % of the labels are wrong. There are a teacher,
trained earlier on other rows, and a few rows with reliable labels, passed to ``fit``
as ``X_val`` and ``y_val``. The learned lambda1, the weight of the labels, falls.

Digits: 400 rows for the teacher (an MLP of 128), 800 noisy rows, 150 trusted rows, the
other 447 for the test; five random divisions, two where the gallery is built. "naive, all
rows" and "fixed (.5, 4), all rows" train on the trusted rows as well. The latter is the
baseline to beat if you know that the teacher is good.
"""

import json
import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
from _provenance import provenance
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPClassifier

from sklearn_kd import DistilledClassifier, MetaparameterPathDisplay, MLPStudent

matplotlib.use("Agg")
DIVISIONS = 5
METHODS = {
    "none": {"meta": "none"},
    "naive": {"meta": "naive"},
    "naive, all rows": {"meta": "naive"},
    "fixed (.5, 4)": {"meta": "fixed", "temperature": 4.0},
    "fixed (.5, 4), all rows": {"meta": "fixed", "temperature": 4.0},
    "gradient": {"meta": "gradient"},
    "linear": {"meta": "linear"},
}


def divide(seed):
    """Return the teacher, noisy (X, y), trusted (X, y) and test (X, y)."""
    rng = np.random.default_rng(seed)
    X, y = load_digits(return_X_y=True)
    X = X / 16
    early, noisy, trusted, test = np.split(rng.permutation(len(X)), [400, 1200, 1350])
    teacher = MLPClassifier((128,), max_iter=1000, random_state=seed).fit(X[early], y[early])
    labels = y[noisy].copy()
    wrong = rng.random(len(labels)) < 0.4
    labels[wrong] = rng.integers(0, 10, wrong.sum())
    return FrozenEstimator(teacher), (X[noisy], labels), (X[trusted], y[trusted]), (X[test], y[test])


runs, learned = [], []
for seed in range(DIVISIONS):
    teacher, (X, y), (X_val, y_val), test = divide(seed)
    for method, params in METHODS.items():
        student = DistilledClassifier(
            teacher, MLPStudent, max_epochs=60, batch_size=32, optimizer="SGD", lr=0.1,
            optimizer__momentum=0.9, student__hidden=32, standardize=False,
            search_epochs=None, random_state=seed, **params,
        )  # fmt: skip
        began = time.process_time()
        if method.endswith("all rows"):
            student.fit(np.vstack([X, X_val]), np.concatenate([y, y_val]))
        else:
            student.fit(X, y, X_val=X_val, y_val=y_val)
        runs.append({
            "seed": seed, "method": method, "accuracy": student.score(*test), "lambda1": student.lambda1_,
            "temperature": student.temperature_, "CPU seconds": round(time.process_time() - began, 2),
        })  # fmt: skip
        if method == "linear":
            learned.append(student.metaparameter_path_)
    runs.append({"seed": seed, "method": "the teacher itself", "accuracy": teacher.score(*test)})

print(f"{'':25}accuracy   sd     lambda1    T     CPU seconds")
for method in ("the teacher itself", *METHODS):
    these = [run for run in runs if run["method"] == method]
    accuracy = np.array([run["accuracy"] for run in these])
    line = f"{method:25}{accuracy.mean():.3f}     {accuracy.std(ddof=1):.3f}"
    if method in METHODS:
        lambda1, T, seconds = (
            np.mean([r[k] for r in these]) for k in ("lambda1", "temperature", "CPU seconds")
        )
        line += f"   {lambda1:.2f}     {T:5.2f}   {seconds:5.1f}"
    print(line)

here = Path(sys.argv[0])
display = MetaparameterPathDisplay.from_path(learned, name=f"linear: {DIVISIONS} runs and their mean")
display.figure_.savefig(here.with_suffix(".png"), dpi=120)
record = {**provenance(here), "runs": runs}
here.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
print(f"lambda1 over the iterations: {here.with_suffix('.png').name}")

# %%
# A notebook shows the estimator with its parameters:
student  # noqa: B018
