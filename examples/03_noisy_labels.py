"""Noisy labels: the learned metaparameters rely on the teacher
============================================================

Many rows were labeled cheaply, and 40 % of the labels are wrong. You have a teacher, trained earlier on
other rows, and a few rows with reliable labels. How far should the student trust the labels?

Two metaparameters decide: ``lambda1``, the weight of the labels, and T, the temperature of the teacher's
answers. ``meta="linear"`` learns both while it trains, from the reliable rows.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPClassifier

from sklearn_kd import DistilledClassifier, MetaparameterPathDisplay, MLPStudent

# %%
# The data
# --------
#
# 400 digits for the teacher, 800 with noisy labels for the student, 150 with trusted labels, and the other
# 447 for the test.


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


# %%
# The fits
# --------
#
# ``fit`` gets the trusted rows as ``X_val`` and ``y_val``. Methods that learn nothing do not use them. So one
# of them, "all rows", trains on them as well: it is the baseline to beat if you know that the teacher is
# good. Each method is fitted on two random divisions of the rows.

DIVISIONS = 2
METHODS = {
    "none": {"meta": "none"},
    "naive": {"meta": "naive"},
    "fixed (.5, 4)": {"meta": "fixed", "temperature": 4.0},
    "fixed (.5, 4), all rows": {"meta": "fixed", "temperature": 4.0},
    "linear": {"meta": "linear"},
}


# sphinx_gallery_start_ignore
def recording():
    """Return whether the script is to write the record, which has more methods and divisions."""
    import sys

    return "--record" in sys.argv


if recording():
    DIVISIONS = 5
    METHODS |= {"naive, all rows": {"meta": "naive"}, "gradient": {"meta": "gradient"}}
# sphinx_gallery_end_ignore

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

# %%
# Accuracy
# --------
#
# Means over the divisions, and the spread between them as a standard deviation. ``lambda1`` and T are those
# at the end of the training.

means = {}
print(f"{'':25}accuracy   sd     lambda1    T     CPU seconds")
for method in ("the teacher itself", *METHODS):
    these = [run for run in runs if run["method"] == method]
    accuracy = np.array([run["accuracy"] for run in these])
    means[method] = accuracy.mean()
    line = f"{method:25}{accuracy.mean():.3f}     {accuracy.std(ddof=1):.3f}"
    if method in METHODS:
        lambda1, T, seconds = (
            np.mean([r[k] for r in these]) for k in ("lambda1", "temperature", "CPU seconds")
        )
        line += f"   {lambda1:.2f}     {T:5.2f}   {seconds:5.1f}"
    print(line)

# %%
# Without a teacher the student learns the wrong labels. Every method with a teacher is far ahead of that.
# Linear has moved nearly all weight to the teacher, and is as accurate as the fixed setting that trains on
# the trusted rows too. It takes about twice the time, and did not have to be told that the teacher is good.

COLORS = {"the teacher itself": "#6b7280", "none": "#0072b2"}  # the others are students with a teacher
HATCHES = {"the teacher itself": "", "none": "//"}
figure, axes = plt.subplots(layout="constrained")
for name, mean in means.items():
    bar = axes.barh(
        name, mean, color=COLORS.get(name, "#d55e00"), hatch=HATCHES.get(name, ""), edgecolor="white"
    )
    axes.bar_label(bar, fmt="{:.3f}", padding=3)
axes.set(xlim=(0.5, 1.03), xlabel="accuracy on new rows", title="40 % of the labels are wrong")
axes.invert_yaxis()
plt.show()

# %%
# How the metaparameters move
# ---------------------------
#
# :class:`~sklearn_kd.MetaparameterPathDisplay` draws ``lambda1`` and T over the training: a thin line for
# each fit, a thick one for their mean. ``lambda1`` falls within the first 50 iterations, while the student
# has learned little from the wrong labels yet. Then it jumps from step to step, around a low mean.

display = MetaparameterPathDisplay.from_path(learned, name=f"linear: {DIVISIONS} runs and their mean")
display.axes_[0].set_title("The weight of the labels falls, the temperature rises")
plt.show()

# %%
# What it shows
# -------------
#
# The student without a teacher has a third of the rows wrong. With a teacher that is known to be good, a
# fixed weight of 0.5 and T = 4 on all rows do as well as learning. Learning needs no such knowledge: in
# :doc:`07_unreliable_teacher` the teacher is bad, and the weight goes the other way.

# %%
# A notebook shows an estimator with its parameters:
student  # noqa: B018


# sphinx_gallery_start_ignore
def record():
    """Write the runs that README and the guide are compared with, and the guide's picture."""
    import json
    import sys
    from pathlib import Path

    from _provenance import provenance

    here = Path(sys.argv[0])
    display.figure_.savefig(here.with_suffix(".png"), dpi=120)
    here.with_suffix(".json").write_text(json.dumps({**provenance(here), "runs": runs}, indent=1) + "\n")


if recording():
    record()
# sphinx_gallery_end_ignore
