"""Imbalanced labels: a teacher that has seen the rare classes
===========================================================

161 labeled digits, 50 of the most frequent class and 2 of the rarest. The classes are rare only in
these rows: the students are tested on rows in which all ten are alike, by balanced accuracy, the
mean of the classes' recalls. Two remedies are compared, and both together: weights that make up for
the number of rows, and a teacher that was trained earlier, on other rows, in which no class is
rare.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import recall_score
from sklearn.neural_network import MLPClassifier
from sklearn.utils.class_weight import compute_sample_weight

from sklearn_kd import DistilledClassifier, MLPStudent, distillation_report

N_SEEDS, N_CLASSES = 5, 10
N_ROWS = np.round(50 * 25 ** (-np.arange(N_CLASSES) / 9)).astype(int)  # from 50 to 2

# %%
# The data
# --------
# The number of rows falls from class to class by the same factor, from 50 to 2. Each seed draws
# anew which class is rare, which rows are kept, and the 600 rows that only the teacher saw.


def divide(seed):
    """Return the teacher, the imbalanced (X, y), the test's (X, y), and the classes from frequent to rare."""
    rng = np.random.default_rng(seed)
    X, y = load_digits(return_X_y=True)
    earlier, test, rest = np.split(rng.permutation(len(X)), [600, 1200])
    teacher = MLPClassifier((128,), max_iter=1000, random_state=seed).fit(X[earlier], y[earlier])
    by_frequency = rng.permutation(N_CLASSES)
    kept = [rest[y[rest] == c][:n] for c, n in zip(by_frequency, N_ROWS, strict=True)]
    rows = rng.permutation(np.concatenate(kept))
    return FrozenEstimator(teacher), (X[rows], y[rows]), (X[test], y[test]), by_frequency


# %%
# Four students
# -------------
# The same network of 32 hidden units, with and without weights, with and without the teacher.
# ``sample_weight`` weighs the loss of the labels and that of the teacher's answers. T = 4 and equal
# weight of labels and teacher are fixed: with 2 rows of a class, a held-out part to learn them from
# would lack it.

distill = {"meta": "fixed", "temperature": 4.0}
methods = {
    "labels": ({"meta": "none"}, False),
    "labels, weighted": ({"meta": "none"}, True),
    "distilled": (distill, False),
    "distilled, weighted": (distill, True),
}
recalls = {name: np.empty((N_SEEDS, N_CLASSES)) for name in ("the teacher", *methods)}
for seed in range(N_SEEDS):
    teacher, (X, y), (X_test, y_test), by_frequency = divide(seed)
    recalls["the teacher"][seed] = recall_score(
        y_test, teacher.predict(X_test), average=None, labels=by_frequency
    )
    weight = compute_sample_weight("balanced", y)
    students = {}
    for name, (params, weighted) in methods.items():
        student = DistilledClassifier(
            teacher if params is distill else None, MLPStudent, student__hidden=32, max_epochs=60,
            random_state=seed, **params,
        )  # fmt: skip
        students[name] = student.fit(X, y, sample_weight=weight if weighted else None)
        found = recall_score(y_test, student.predict(X_test), average=None, labels=by_frequency)
        recalls[name][seed] = found

# %%
# Balanced accuracy
# -----------------
# Mean over five seeds, and the paired difference to the student of the labels alone, with its
# standard error over the seeds.

balanced = {name: found.mean(axis=1) for name, found in recalls.items()}
print(f"{'':22}balanced accuracy   difference to labels   recall of the 3 rarest")
for name, values in balanced.items():
    change = values - balanced["labels"]
    error = change.std(ddof=1) / np.sqrt(N_SEEDS)
    rarest = f"{recalls[name][:, -3:].mean():.3f}"
    print(f"{name:22}{values.mean():<20.3f}{change.mean():+.3f} ± {error:<14.3f}{rarest}")

# %%
# Class by class
# --------------
# Weights help a little, the teacher's answers more, and most where labels are rarest; beside them
# weights add nothing. The teacher saw 60 rows of each class, and its answers say how much a row
# looks like each of them. That also tells about rare classes on rows of frequent ones.

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
styles = {"the teacher": ("0.6", ":"), "labels": ("C0", "--"), "labels, weighted": ("C0", "-"),
          "distilled": ("C1", "--"), "distilled, weighted": ("C1", "-")}  # fmt: skip
for name, (color, line) in styles.items():
    ax.plot(recalls[name].mean(axis=0), line, color=color, label=name, marker="o", markersize=4)
ax.set_xticks(range(N_CLASSES), N_ROWS)
ax.set_xlabel("training rows of the class")
ax.set_ylabel("recall on the test rows")
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False)
plt.show()

# %%
# The report
# ----------
# Of the last seed: the distilled student beside its teacher, and beside the same student trained on
# the weighted labels alone. The report looks at one fit; the table above at five.

report = distillation_report(
    students["distilled, weighted"], X_test, y_test, student_alone=students["labels, weighted"]
)
print(report)
report  # noqa: B018
