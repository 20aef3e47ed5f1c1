"""Quickstart: a forest that has seen many labels teaches a small network that has few
=====================================================================================

A strong classifier has been fitted to many labelled rows. You need one that is small and answers at once.
You have few labels, and many rows without any. The student learns from your labels, and from the teacher's
answers for all of your rows.

Digits: 700 labelled rows for the teacher, a forest of 300 trees; 100 labelled rows and 597 without labels for
the student; 400 rows for the test; means of five random divisions and their standard errors. Beside the
student stand the same network without a teacher, and scikit-learn's ``MLPClassifier`` of the same width: with
the 100 labels, and with the teacher's predictions in place of the labels that are missing. The times are CPU
times of ``predict_proba``. The bytes are those of a pickle of what predicts.
"""

import json
import pickle
import sys
import time
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np
from _provenance import provenance
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_kd import DistilledClassifier, MLPStudent

matplotlib.use("Agg")
import matplotlib.pyplot as plt

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
cost = {}
for name, model in fitted.items():
    accuracy, error = np.mean(found[name]), np.std(found[name], ddof=1) / len(found[name]) ** 0.5
    one = microseconds(model, X[:1], calls=30)
    size = len(pickle.dumps(getattr(model, "student_", model)))  # what predicts
    cost[name] = accuracy, one, size / 1000
    print(f"{name:38}{accuracy:.3f} ± {error:.3f} {one:15,.0f} {size:12,}")

figure, axes = plt.subplots(1, 3, figsize=(11, 2.6), sharey=True, layout="constrained")
titles, limits = (
    ("accuracy on new rows", "time to answer one row, µs", "size, kB"),
    ((0, 1.25), (10, 1e6), (10, 1e6)),
)
colours = ["#7f7f7f", "#d62728", *["#9ecae1"] * 3]
for axis, title, limit, values in zip(axes, titles, limits, zip(*cost.values(), strict=True), strict=True):
    log = axis is not axes[0]
    axis.set(title=title, xscale="log" if log else "linear", xlim=limit)
    bars = axis.barh(list(cost), values, color=colours)
    axis.bar_label(bars, fmt="{:,.0f}" if log else "{:.3f}", padding=3)
    axis.spines[["top", "right"]].set_visible(False)
axes[0].set_xticks([0, 0.25, 0.5, 0.75, 1])
axes[0].invert_yaxis()
here = Path(sys.argv[0])
figure.savefig(here.with_suffix(".png"), dpi=120)
if "--record" in sys.argv:  # README's table is held against it
    record = {**provenance(here), "accuracy by seed": found, "accuracy, µs, kB": cost}
    here.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
print(f"the same as a picture: {here.with_suffix('.png').name}")
