"""Numbers: boosted trees teach a network about rows that nobody measured
========================================================================

A model of boosted trees was trained on 3,000 measured rows, which are gone. You still have the model, a few
measured rows, and many rows that nobody measured. A small network is to take the model's place, because it is
differentiable.

The rows are those of Friedman's first function: ten columns, of which five matter, and noise of standard
deviation 1. For a measured row the trees predict y nearly without its noise. For the others their prediction
is all there is.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_friedman1
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator

from sklearn_kd import DistilledRegressor, MLPStudent

N_SEEDS, SIZES, N_EARLIER, N_UNMEASURED, N_TEST, STEPS = 3, (50, 100, 200), 3000, 1000, 2000, 450
warnings.simplefilter("ignore", ConvergenceWarning)  # with so few rows the loss still falls at the end

# %%
# The students
# ------------
#
# The same network of 64 hidden units is trained on y alone, on y and the teacher's predictions for the same
# rows, and on both with 1,000 rows without y. All take about as many steps. ``lambda1=0.1``, the weight of
# y, says that the teacher is known to be good.

METHODS = ("y alone", "y and the teacher", "y, teacher, rows without y")


def fitted(name, teacher, X, y, X_unmeasured, seed):
    """Return a fitted student."""
    further = X_unmeasured if name == "y, teacher, rows without y" else None
    n_rows = len(X) + (0 if further is None else len(further))
    student = DistilledRegressor(
        None if name == "y alone" else teacher, MLPStudent, student__hidden=64,
        meta="none" if name == "y alone" else "fixed", lambda1=0.1, batch_size=32,
        max_epochs=round(STEPS * 32 / n_rows), random_state=seed,
    )  # fmt: skip
    return student.fit(X, y, X_unlabeled=further)


scores = {name: np.empty((N_SEEDS, len(SIZES))) for name in ("the teacher", *METHODS)}
for seed in range(N_SEEDS):
    X_all, y_all = make_friedman1(
        N_EARLIER + N_UNMEASURED + N_TEST + max(SIZES), noise=1.0, random_state=seed
    )
    earlier, unmeasured, test, own = np.split(
        np.arange(len(X_all)), np.cumsum([N_EARLIER, N_UNMEASURED, N_TEST])
    )
    trees = HistGradientBoostingRegressor(random_state=seed).fit(X_all[earlier], y_all[earlier])
    scores["the teacher"][seed] = trees.score(X_all[test], y_all[test])
    for k, n in enumerate(SIZES):
        for name in METHODS:
            rows = X_all[own[:n]], y_all[own[:n]]
            student = fitted(name, FrozenEstimator(trees), *rows, X_all[unmeasured], seed)
            scores[name][seed, k] = student.score(X_all[test], y_all[test])

# %%
# R² on the test
# --------------
#
# The table has means over three seeds. Below each of them is the paired difference to the student of y alone,
# with its standard error.

print(f"{'rows':>5}" + "".join(f"{name:>28}" for name in scores))
for k, n in enumerate(SIZES):
    print(f"{n:5d}" + "".join(f"{values[:, k].mean():28.3f}" for values in scores.values()))
    changes = [values[:, k] - scores["y alone"][:, k] for values in scores.values()]
    errors = [change.std(ddof=1) / np.sqrt(N_SEEDS) for change in changes]
    differences = zip(changes, errors, strict=True)
    print(" " * 5 + "".join(f"{change.mean():+20.3f} ± {error:.3f}" for change, error in differences))

# %%
# The figure shows the same means with their standard errors.

STYLES = {
    "the teacher": ("#6b7280", ":", "s"), "y, teacher, rows without y": ("#d55e00", "-", "o"),
    "y and the teacher": ("#d55e00", "--", "o"), "y alone": ("#0072b2", "-", "D"),
}  # fmt: skip
figure, axes = plt.subplots(layout="constrained")
for name, (color, line, marker) in STYLES.items():
    mean, error = scores[name].mean(axis=0), scores[name].std(axis=0, ddof=1) / np.sqrt(N_SEEDS)
    fill = "white" if line == "--" else color
    axes.errorbar(
        SIZES,
        mean,
        error,
        color=color,
        linestyle=line,
        label=name,
        marker=marker,
        markerfacecolor=fill,
        capsize=3,
    )
axes.set_xscale("log", base=2)
axes.set_xticks(SIZES, SIZES)
axes.set(xlabel="measured rows", ylabel="R² on new rows", title="Rows that nobody measured teach the most")
axes.legend()
plt.show()

# %%
# What it shows
# -------------
#
# The teacher's predictions for rows that nobody measured bring the student near to the teacher, however few
# rows are measured. Its predictions for the measured rows help less, by .03 to .05.
