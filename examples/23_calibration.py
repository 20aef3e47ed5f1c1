"""Probabilities: does a student know when it is wrong?
====================================================

Some predictions are acted on, and others are handed to a person. For that the probabilities must be right: of
the rows that get 0.9, nine in ten should be of that class. This example looks at the probabilities that a
student takes over from its teacher, and repairs them with one number, the temperature.

Two teachers are fitted to the same 4,000 rows: a forest, whose probabilities are too careful on new rows,
and a boosting model, whose probabilities are about right. The student has 400 labels and 2,000 rows
without. Beside it stand the same student without a teacher, and ``MLPClassifier`` with the classes that the
teacher predicts as its labels.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.calibration import CalibrationDisplay
from sklearn.datasets import make_classification
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_kd import DistilledClassifier, MLPStudent

warnings.simplefilter("ignore", ConvergenceWarning)  # of MLPClassifier, whose epochs are given
SEEDS = range(3)

# %%
# Data and models
# ---------------
# Student and ``MLPClassifier`` have the same width, batch size, learning rate and number of iterations. Three
# data sets of two classes, of which 5 % of the labels are wrong: no model can be sure of them.
# ``lambda1=0.1`` lets the student follow the teacher's probabilities closely.


def data(seed):
    """Return the rows and labels of: the teacher, the student, unlabeled rows, temperature, test."""
    X, y = make_classification(
        11_000, 20, n_informative=8, n_redundant=4, n_clusters_per_class=4, class_sep=0.8, flip_y=0.1,
        random_state=seed,
    )  # fmt: skip
    ends = np.cumsum([4000, 400, 2000, 400])
    return list(zip(np.split(X, ends), np.split(y, ends), strict=True))


def student(teacher, seed, max_epochs=20, **params):
    return DistilledClassifier(
        teacher,
        MLPStudent,
        student__hidden=64,
        batch_size=256,
        max_epochs=max_epochs,
        random_state=seed,
        device="cpu",
        **params,
    )


def models(seed):
    """Yield a name and a fitted model."""
    (X_past, y_past), (X, y), (X_more, _), *_ = data(seed)
    yield "student alone", student(None, seed, max_epochs=100, meta="none").fit(X, y)  # as many iterations
    teachers = {
        "forest": RandomForestClassifier(100, min_samples_leaf=2, random_state=seed),
        "boosting": HistGradientBoostingClassifier(max_iter=60, random_state=seed),
    }
    for name, teacher in teachers.items():
        teacher.fit(X_past, y_past)
        yield name, teacher
        taught = student(FrozenEstimator(teacher), seed, meta="fixed", lambda1=0.1)
        yield f"student of the {name}", taught.fit(X, y, X_unlabeled=X_more)
        network = MLPClassifier(64, batch_size=256, learning_rate_init=0.003, max_iter=20, random_state=seed)
        mlp = make_pipeline(StandardScaler(), network)
        yield f"MLP, classes of the {name}", mlp.fit(np.r_[X, X_more], np.r_[y, teacher.predict(X_more)])


# %%
# One temperature
# ---------------
# Dividing all logits by one number T moves the probabilities towards 0.5 (T > 1) or away from it (T < 1),
# and changes no prediction. T is the one with the smallest log loss on 400 further labeled rows. Every
# model gets its own.


def probability(model, X):
    return model.predict_proba(X)[:, 1].astype(float).clip(1e-6, 1 - 1e-6)


def best_temperature(p, y):
    def loss(log_t):
        return log_loss(y, expit(logit(p) / np.exp(log_t)))

    return np.exp(minimize_scalar(loss, bounds=(-2, 2), method="bounded").x)


def calibration_error(y, p, n_bins=10):
    """Return the mean distance between probability and share of class 1, over bins of equal width."""
    bins = np.minimum((p * n_bins).astype(int), n_bins - 1)
    gaps = [abs((y - p)[bins == k].sum()) for k in range(n_bins)]
    return sum(gaps) / len(y)


def surest(y, p, share):
    """Return the accuracy on the share of the rows of which the model is surest."""
    order = np.argsort(-abs(p - 0.5))[: round(share * len(p))]
    return ((p > 0.5) == y)[order].mean()


scores, seen = {}, {}
for seed in SEEDS:
    *_, (X_val, y_val), (X_test, y_test) = data(seed)
    for name, model in models(seed):
        p = probability(model, X_test)
        t = best_temperature(probability(model, X_val), y_val)
        mended = expit(logit(p) / t)
        scores.setdefault(name, []).append(
            [((p > 0.5) == y_test).mean(), surest(y_test, p, 0.5), log_loss(y_test, p),
             calibration_error(y_test, p), t, log_loss(y_test, mended), calibration_error(y_test, mended)]
        )  # fmt: skip
        seen.setdefault(name, []).append((y_test, p, mended))

# %%
# What came out
# -------------
# Means over the three data sets. ``surest half`` is the accuracy on the half of the rows of which the model
# is surest. ``ECE`` is the expected calibration error.

head = ("accuracy", "surest half", "log loss", "ECE", "T", "log loss, T", "ECE, T")
print(f"{'':28}" + "".join(f"{title:>12}" for title in head))
for name, values in scores.items():
    print(f"{name:28}" + "".join(f"{value:12.3f}" for value in np.mean(values, axis=0)))
for teacher in ("forest", "boosting"):
    gain = np.subtract(scores[f"student of the {teacher}"], scores[f"MLP, classes of the {teacher}"])
    print(f"student less MLP, {teacher}, accuracy on each data set: {gain[:, 0].round(3)}")

# %%
# - **A student has its teacher's probabilities.** That of the forest is too careful, as the forest is (T
#   below 1 is best), and that of the boosting model is about right.
# - **Networks that learn classes are too sure**: the student alone and ``MLPClassifier``, by T above 1. A
#   teacher's classes say nothing about how sure it was.
# - **One number repairs each of them.** After it the calibration errors are alike, and the log loss shows
#   who knows more. The student is ahead of the MLP there, and in accuracy on two or three of three data
#   sets.
# - **A student knows where it is weak.** On the half of which it is surest it is right more often than the
#   teacher is on all rows, so it can answer that half and leave the other to the teacher.
#
# The figure has the reliability of four models, before and after the temperature, and the accuracy on the
# surest rows: the curve of the student lies below that of the forest, above that of the MLP with the
# forest's classes, and well above that of the student alone.

STYLES = {
    "forest": ("#6b7280", "s", "-"), "student of the forest": ("#d55e00", "o", "-"),
    "student alone": ("#0072b2", "D", "--"), "MLP, classes of the forest": ("#56b4e9", "^", "--"),
}  # fmt: skip
figure, axes = plt.subplots(1, 3, figsize=(12, 4.3), layout="constrained")
for ax, k, title in ((axes[0], 1, "as they come"), (axes[1], 2, "after one temperature")):
    for name, (color, marker, line) in STYLES.items():
        y_all = np.concatenate([of[0] for of in seen[name]])
        p_all = np.concatenate([of[k] for of in seen[name]])
        CalibrationDisplay.from_predictions(
            y_all, p_all, n_bins=10, ax=ax, name=name, color=color, marker=marker, linestyle=line,
            linewidth=2, markersize=6,
        )  # fmt: skip
    ax.set(title=title, xlabel="probability of class 1", ylabel="share of class 1")
    ax.get_legend().remove()
shares = np.linspace(0.1, 1, 19)
for name, (color, marker, line) in STYLES.items():
    kept = np.mean([[surest(y, p, share) for share in shares] for y, p, _ in seen[name]], axis=0)
    axes[2].plot(
        100 * shares, kept, color=color, marker=marker, linestyle=line, linewidth=2, markevery=3, label=name
    )
axes[2].set(title="the surest rows only", xlabel="rows that are answered, %", ylabel="accuracy on them")
axes[2].legend(frameon=False, fontsize=9, loc="lower left")
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="0.92")
    ax.set_axisbelow(True)
plt.show()
