"""Learned metaparameters: a student that finds out whom to trust
==============================================================

How far should a student trust its teacher, and how far its labels? With ``meta="linear"`` the weight of the
labels, lambda1, and the temperature T are learned: ``e1`` iterations follow the hypergradient of the loss
on held-out rows, the next ``e2`` follow a line fitted to them, and so on. This example puts the same
student into two opposite situations, compares the methods in ``GridSearchCV``, and draws the paths.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_kd import DistilledClassifier, MetaparameterPathDisplay, MLPStudent

warnings.simplefilter("ignore", ConvergenceWarning)
SEEDS = range(3)

# %%
# Two situations
# --------------
# The teacher is a network that has seen 700 digits; the student has 300.
#
# - **Wrong labels**: 40 % of the student's labels are replaced at random, and the teacher is good.
# - **Wrong teacher**: the labels are right, and the teacher's classes are in another order. ``fit`` notices
#   that and warns. The warning is silenced here, because not all bad teachers can be noticed.

warnings.filterwarnings("ignore", ".*agrees with the labels")
X, y = load_digits(return_X_y=True)
rng = np.random.default_rng(0)
past, own, test = np.split(rng.permutation(len(X)), [700, 1000])
noisy = y.copy()
noisy[own] = np.where(rng.random(len(own)) < 0.4, rng.integers(10, size=len(own)), y[own])


def teacher(labels):
    network = MLPClassifier(128, max_iter=60, learning_rate_init=0.003, random_state=0)
    return FrozenEstimator(make_pipeline(StandardScaler(), network).fit(X[past], labels[past]))


situations = {"wrong labels": (teacher(y), noisy), "wrong teacher": (teacher((y + 1) % 10), y)}

# %%
# A grid search over methods
# --------------------------
# ``meta`` is a parameter like any other. Each seed has a split of its own: 250 of the student's rows to
# train on, and the same 797 clean rows to test on. No method is told in which situation it is.
#
# "learned, single run" is the paper's method: the values are learned while the one student trains, whereas
# by default a search comes first (:doc:`/guide/searching`). A student that learns wrong labels by heart is
# overconfident, and its loss on held-out rows shows this more than whether it is right. In the last method
# ``meta__val_temperature="auto"`` keeps the overall confidence out of that loss (:ref:`val-temperature`).

METHODS = {
    "labels alone": {"meta": "none"},
    "half and half": {"meta": "naive"},
    "random": {"meta": "random"},
    "default, best of 3": {"meta": "shortlist"},
    "learned in a search": {"meta": "linear"},
    "learned, single run": {"meta": "linear", "search_epochs": None},
    "… without confidence": {"meta": "linear", "search_epochs": None, "meta__val_temperature": "auto"},
}


def student(teacher, seed):
    return DistilledClassifier(
        teacher, MLPStudent, student__hidden=64, e1=10, e2=10, max_epochs=24, batch_size=32,
        random_state=seed, device="cpu",
    )  # fmt: skip


grid = [{name: [value] for name, value in params.items()} for params in METHODS.values()]
scores = {}
for situation, (trained, labels) in situations.items():
    of_seeds = []
    for seed in SEEDS:
        train = np.random.default_rng(seed).choice(own, 250, replace=False)
        search = GridSearchCV(student(trained, seed), grid, cv=[(train, test)], refit=False)
        of_seeds.append(search.fit(X, labels).cv_results_["mean_test_score"])
    scores[situation] = np.array(of_seeds)  # (seeds, methods)
means = {situation: values.mean(axis=0) for situation, values in scores.items()}
errors = {situation: values.std(axis=0, ddof=1) / len(SEEDS) ** 0.5 for situation, values in scores.items()}
print(f"{'accuracy':20}" + "".join(f"{situation:>17}" for situation in situations))
for k, method in enumerate(METHODS):
    print(f"{method:20}" + "".join(f"{means[s][k]:9.3f} ± {errors[s][k]:.3f}" for s in situations))

# %%
# The paths
# ---------
# The paths of the last method on all 300 rows, for three seeds. The thick line is their mean.

figure, axes = plt.subplot_mosaic(
    [["wrong labels", "wrong teacher", "lambda1"], ["wrong labels", "wrong teacher", "T"]],
    figsize=(12, 4.6), width_ratios=(1, 1, 1.5), layout="constrained",
)  # fmt: skip
for (situation, (trained, labels)), (color, line) in zip(
    situations.items(), [("#d55e00", "-"), ("#cc79a7", "--")], strict=True
):
    paths = [
        student(trained, seed)
        .set_params(**METHODS["… without confidence"])
        .fit(X[own], labels[own])
        .metaparameter_path_
        for seed in SEEDS
    ]
    MetaparameterPathDisplay.from_path(
        paths, name=situation, axes=[axes["lambda1"], axes["T"]], color=color, linestyle=line
    )

# %%
# What came out
# -------------
# - **Every fixed guess fails somewhere**: labels alone if the labels are wrong, half and half if the teacher
#   is. A random draw is luck; it was near the labels here.
# - **The default and learning in a search are good in both situations**, without being told which one it is.
# - **A single run depends on the loss that it learns from.** With a wrong teacher it is as good as labels
#   alone. With wrong labels the plain loss trusts them too long; without the confidence it does not.
# - **The paths say why**, which trials do not: with wrong labels lambda1 falls, with a wrong teacher it
#   reaches 1 within twenty iterations.
#
# These are two situations and three seeds. :doc:`/guide/choosing` compares the methods on fifteen seeds, and
# :doc:`/guide/path` explains how to read paths.
#
# In the figure, blue diamonds are the student alone and orange circles the student with the teacher; bars
# are standard errors over three seeds. On the right, lambda1 falls to about 0.2 with wrong labels (solid)
# and jumps to 1 with a wrong teacher (dashed), and T rises a little with wrong labels.

axes["lambda1"].set_title("the paths")
for situation in situations:
    ax = axes[situation]
    for k, method in enumerate(METHODS):
        color, marker = ("#0072b2", "D") if method == "labels alone" else ("#d55e00", "o")
        ax.errorbar(
            means[situation][k], k, xerr=errors[situation][k], color=color, marker=marker, markersize=10,
            capsize=3, linestyle="",
        )  # fmt: skip
    ax.set_yticks(range(len(METHODS)), METHODS if situation == "wrong labels" else [])
    ax.set(title=situation, xlabel="accuracy on clean rows", xlim=(0.45, 1), ylim=(len(METHODS) - 0.5, -0.5))
    ax.grid(axis="x", color="0.92")
for ax in axes.values():
    ax.spines[["top", "right"]].set_visible(False)
plt.show()
