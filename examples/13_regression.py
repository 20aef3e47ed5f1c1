"""Numbers: boosted trees teach a network about rows that nobody measured
========================================================================

Gradient boosting is hard to beat on small tables of numbers. Its model is hundreds of trees, which no
gradient passes through. Here it teaches a small network, on Friedman's first function: ten columns, of
which five matter, and noise of standard deviation 1.

On the rows that both have seen, the teacher's predictions say little that the targets do not. They say
more about rows in between: ``synthesize`` makes such rows up, and the teacher predicts them.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_friedman1
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning

from sklearn_kd import DistilledRegressor, MetaparameterPathDisplay, MLPStudent

N_SEEDS, SIZES, N_TEST, STEPS = 5, (100, 200, 400, 800), 5000, 1200

# %%
# The students
# ------------
# The same network of 64 hidden units, with about as many steps: of the targets alone, of targets and
# teacher, and of both and twice as many rows that are made up. The weight of the targets, lambda1, is
# chosen among three on held-out rows.

METHODS = {
    "targets alone": {"meta": "none"},
    "with the teacher": {},
    "with made-up rows": {"synthesize": 2.0},
}


def fitted(name, teacher, X, y, seed):
    """Return a fitted student."""
    params = METHODS[name]
    n_rows = len(X) * (1 + params.get("synthesize", 0))
    student = DistilledRegressor(
        None if name == "targets alone" else teacher, MLPStudent, student__hidden=64, batch_size=32,
        max_epochs=round(STEPS * 32 / n_rows), random_state=seed, **params,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return student.fit(X, y)


scores = {name: np.empty((N_SEEDS, len(SIZES))) for name in ("the teacher", *METHODS)}
chosen = np.empty((N_SEEDS, len(SIZES)))
for seed in range(N_SEEDS):
    X_all, y_all = make_friedman1(max(SIZES) + N_TEST, noise=1.0, random_state=seed)
    X_test, y_test = X_all[-N_TEST:], y_all[-N_TEST:]
    for k, n in enumerate(SIZES):
        X, y = X_all[:n], y_all[:n]
        teacher = HistGradientBoostingRegressor(random_state=seed)
        scores["the teacher"][seed, k] = teacher.fit(X, y).score(X_test, y_test)
        teacher = HistGradientBoostingRegressor(
            random_state=seed
        )  # which the student's fit fits on its D_train
        for name in METHODS:
            student = fitted(name, teacher, X, y, seed)
            scores[name][seed, k] = student.score(X_test, y_test)
        chosen[seed, k] = student.lambda1_

# %%
# R² on the test
# --------------
# Mean over five seeds, and the paired difference to the student of the targets alone with its standard
# error.

print(f"{'rows':>5}" + "".join(f"{name:>26}" for name in scores))
for k, n in enumerate(SIZES):
    line = f"{n:5d}"
    for values in scores.values():
        change = values[:, k] - scores["targets alone"][:, k]
        error = change.std(ddof=1) / np.sqrt(N_SEEDS)
        line += f"{values[:, k].mean():11.3f} ({change.mean():+.3f} ± {error:.3f})"
    print(line)
print(
    "lambda1 with made-up rows, mean:", dict(zip(SIZES, chosen.mean(axis=0).round(2).tolist(), strict=True))
)

# %%
# The picture
# -----------

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
styles = {"the teacher": ("0.6", ":"), "targets alone": ("C0", "--"), "with the teacher": ("C1", "--"),
          "with made-up rows": ("C1", "-")}  # fmt: skip
for name, (color, line) in styles.items():
    mean, error = scores[name].mean(axis=0), scores[name].std(axis=0, ddof=1) / np.sqrt(N_SEEDS)
    ax.errorbar(
        SIZES, mean, error, color=color, linestyle=line, label=name, marker="o", markersize=4, capsize=2
    )
ax.set_xscale("log", base=2)
ax.set_xticks(SIZES, SIZES)
ax.set_xlabel("rows with targets")
ax.set_ylabel("R² on the test rows")
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False)
plt.show()

# %%
# Learned weights
# ---------------
# ``meta="linear"`` learns lambda1, and here a bound too: where the student's error on y plus the bound is
# below the teacher's error, the teacher is not followed.

X, y = X_all[:400], y_all[:400]
student = DistilledRegressor(
    HistGradientBoostingRegressor(random_state=0), MLPStudent, meta="linear", loss__teacher_bound=0.5,
    max_epochs=60, batch_size=32, random_state=0,
).fit(X, y)  # fmt: skip
print(
    {name: round(value, 3) for name, value in student.metaparameters_.items()}, student.score(X_test, y_test)
)
MetaparameterPathDisplay.from_estimator(student)
plt.show()
