"""Numbers: boosted trees teach a network about rows that nobody measured
========================================================================

A model of boosted trees was trained on 3,000 measured rows, which are gone. What is left are the model, a few
measured rows, and many rows that nobody measured. A small network is to take the model's place: it is
differentiable, and smaller than hundreds of trees.

The rows are those of Friedman's first function: ten columns, of which five matter, and noise of standard
deviation 1. On measured rows the trees' predictions are y without its noise, or nearly so; on the
others they are all there is.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_friedman1
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator

from sklearn_kd import DistilledRegressor, MLPStudent

N_SEEDS, SIZES, N_EARLIER, N_UNMEASURED, N_TEST, STEPS = 3, (50, 100, 200), 3000, 1000, 5000, 900
warnings.simplefilter("ignore", ConvergenceWarning)  # with so few rows the loss still falls at the end

# %%
# The students
# ------------
# The same network of 64 hidden units, with about as many steps: of y alone, of y and the teacher, and of
# both and the rows without y. The weight of y, lambda1, is the best of three on held-out rows.

METHODS = ("y alone", "y and the teacher", "y, teacher, rows without y")


def fitted(name, teacher, X, y, X_unmeasured, seed):
    """Return a fitted student."""
    further = X_unmeasured if name == "y, teacher, rows without y" else None
    n_rows = len(X) + (0 if further is None else len(further))
    student = DistilledRegressor(
        None if name == "y alone" else teacher, MLPStudent, student__hidden=64,
        meta="none" if name == "y alone" else "shortlist", batch_size=32,
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
    print(f"seed {seed} of {N_SEEDS} is done", flush=True)

# %%
# R² on the test
# --------------
# Mean over three seeds, and the paired difference to the student of y alone with its standard error.

print(f"{'rows':>5}" + "".join(f"{name:>28}" for name in scores))
for k, n in enumerate(SIZES):
    line = f"{n:5d}"
    for values in scores.values():
        change = values[:, k] - scores["y alone"][:, k]
        error = change.std(ddof=1) / np.sqrt(N_SEEDS)
        line += f"{values[:, k].mean():11.3f} ({change.mean():+.3f} ± {error:.3f})"
    print(line)

# %%
# The picture
# -----------
# The teacher's answers to the measured rows help where these are few. Its answers to the others bring the
# student near to it, however few rows are measured.

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
styles = {"the teacher": ("0.6", ":"), "y alone": ("C0", "--"), "y and the teacher": ("C1", "--"),
          "y, teacher, rows without y": ("C1", "-")}  # fmt: skip
for name, (color, line) in styles.items():
    mean, error = scores[name].mean(axis=0), scores[name].std(axis=0, ddof=1) / np.sqrt(N_SEEDS)
    ax.errorbar(
        SIZES, mean, error, color=color, linestyle=line, label=name, marker="o", markersize=4, capsize=2
    )
ax.set_xscale("log", base=2)
ax.set_xticks(SIZES, SIZES)
ax.set_xlabel("measured rows")
ax.set_ylabel("R² on the test rows")
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False)
plt.show()
