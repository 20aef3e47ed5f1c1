"""Quickstart: a forest that has seen many labels teaches a small network that has few
=====================================================================================

You have a strong classifier that was fitted to many labeled rows. You need one that is small and answers at
once. You have few labels, and many rows without any. The student learns from your labels, and from the
teacher's answers for all of your rows.
"""

import pickle
import time
from collections import defaultdict

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_kd import DistilledClassifier, MLPStudent

# %%
# Teacher, student and what to compare them with
# ----------------------------------------------
#
# The teacher, a forest of 300 trees, is fitted on 700 labeled digits. The student gets 100 other labeled
# digits and 597 without labels. The last 400 digits are for the test.
#
# ``FrozenEstimator`` keeps the teacher as it was fitted. ``X_unlabeled`` are the rows that only the teacher
# answers for.
#
# Two comparisons show what the teacher is worth: the same student without a teacher, and scikit-learn's
# ``MLPClassifier`` of the same width on the 100 labels. A third one shows what you can do with scikit-learn
# alone: ``MLPClassifier`` with the teacher's predictions in place of the missing labels.

X, y = load_digits(return_X_y=True)


def models(seed):
    """Return the fitted models by name, and the test rows."""
    rows = np.random.default_rng(seed).permutation(len(X))
    many, few, unlabeled, test = np.split(rows, [700, 800, 1397])
    teacher = ExtraTreesClassifier(300, random_state=seed).fit(X[many], y[many])

    student = DistilledClassifier(FrozenEstimator(teacher), MLPStudent, random_state=seed)
    student.fit(X[few], y[few], X_unlabeled=X[unlabeled])

    alone = DistilledClassifier(None, MLPStudent, meta="none", random_state=seed).fit(X[few], y[few])
    mlp, mlp_taught = (
        make_pipeline(StandardScaler(), MLPClassifier(256, max_iter=500, random_state=seed)) for _ in range(2)
    )
    mlp.fit(X[few], y[few])
    mlp_taught.fit(X[np.append(few, unlabeled)], np.append(y[few], teacher.predict(X[unlabeled])))
    return {
        "teacher, 700 labels": teacher,
        "student, 100 labels and the teacher": student,
        "the same student, 100 labels": alone,
        "MLPClassifier, 100 labels": mlp,
        "MLPClassifier, teacher's labels too": mlp_taught,
    }, test


# %%
# Accuracy, time and size
# -----------------------
#
# One division of so few rows says little. So all models are fitted on five random divisions, and the table
# has means and standard errors. The time is the CPU time of ``predict_proba`` for one row, the median of 30
# calls. The size is that of a pickle of what predicts.


def microseconds(model, row, calls):
    """Return the median CPU time of a call of predict_proba about one row."""
    times = []
    for _ in range(calls):
        began = time.process_time()
        model.predict_proba(row)
        times.append(time.process_time() - began)
    return 1e6 * np.median(times)


found = defaultdict(list)
for seed in range(5):
    fitted, test = models(seed)
    for name, model in fitted.items():
        found[name].append(model.score(X[test], y[test]))
print(f"{'':38}accuracy      µs for one row        bytes")
cost, errors = {}, {}
for name, model in fitted.items():
    accuracy, errors[name] = np.mean(found[name]), np.std(found[name], ddof=1) / len(found[name]) ** 0.5
    one = microseconds(model, X[:1], calls=30)
    size = len(pickle.dumps(getattr(model, "student_", model)))  # what predicts
    cost[name] = accuracy, one, size / 1000
    print(f"{name:38}{accuracy:.3f} ± {errors[name]:.3f} {one:15,.0f} {size:12,}")

# %%
# The figure shows accuracy against time: up and to the left is better.

STYLES = {
    "teacher, 700 labels": ("teacher", "s", "#6b7280", (-9, 12), "right"),
    "student, 100 labels and the teacher": ("student", "o", "#d55e00", (0, -22), "left"),
    "the same student, 100 labels": ("the same student, no teacher", "D", "#0072b2", (12, 4), "left"),
    "MLPClassifier, 100 labels": ("MLPClassifier", "^", "#56b4e9", (12, -11), "left"),
    "MLPClassifier, teacher's labels too": ("MLPClassifier, taught", "v", "#56b4e9", (12, 4), "left"),
}
figure, axes = plt.subplots(layout="constrained")
for name, (label, marker, color, shift, side) in STYLES.items():
    accuracy, one, _ = cost[name]
    axes.errorbar(one, accuracy, errors[name], color=color, marker=marker, markersize=10, capsize=4)
    axes.annotate(label, (one, accuracy), shift, textcoords="offset points", ha=side)
axes.set(xscale="log", xlim=(40, 40_000), ylim=(0.86, 0.99), xlabel="CPU time for one row, µs")
axes.set(ylabel="accuracy on new rows", title="Near the teacher's accuracy, a hundred times faster")
plt.show()

# %%
# What it shows
# -------------
#
# The student has most of the teacher's accuracy at less than a hundredth of its time and size. The same
# network without the teacher is .07 below it. ``MLPClassifier`` gains as much from the teacher's predictions:
# its accuracy is not separated from the student's. :doc:`/guide/side_by_side` compares the two on ten data
# sets.


# sphinx_gallery_start_ignore
def record():
    """Write the numbers that README's table is compared with, if the script is called with --record."""
    import json
    import sys
    from pathlib import Path

    if "--record" in sys.argv:
        from _provenance import provenance

        here = Path(sys.argv[0])
        numbers = {**provenance(here), "accuracy by seed": found, "accuracy, µs, kB": cost}
        here.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


record()
# sphinx_gallery_end_ignore
