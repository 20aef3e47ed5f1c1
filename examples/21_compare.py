"""Compare methods: is one better, and what does it cost?
======================================================

Which way to distil is best on *your* data? :func:`~sklearn_kd.compare_methods` runs several on the same
folds, with the same seeds and the same teacher, so that the differences come from the methods alone. Its
t-test takes into account that training folds overlap. This example puts accuracy beside the price of a fit.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.frozen import FrozenEstimator

from sklearn_kd import DistilledClassifier, MLPStudent, compare_methods

# %%
# The task
# --------
# A forest has seen 900 digits with right labels. Of the student's 500 rows 35 % have a label drawn at random,
# in the test folds too, as in real data. So a model that is always right has an accuracy of about .69 here.

X, y = load_digits(return_X_y=True)
rng = np.random.default_rng(0)
past, own, _ = np.split(rng.permutation(len(X)), [900, 1400])
teacher = FrozenEstimator(ExtraTreesClassifier(200, random_state=0).fit(X[past], y[past]))
X, y = X[own], np.where(rng.random(len(own)) < 0.35, rng.integers(10, size=len(own)), y[own])
student = DistilledClassifier(
    teacher, MLPStudent, student__hidden=64, max_epochs=20, batch_size=32, device="cpu", random_state=0
)
methods = {
    "labels alone": {"meta": "none"},
    "half and half": {"meta": "naive"},
    "teacher alone": {"meta": "fixed", "lambda1": 0.0},
    "default": {"meta": "shortlist"},
    "linear": {"meta": "linear"},
}

# %%
# Methods × folds
# ---------------
# Five folds. The baseline of the differences is the student without a teacher.

comparison = compare_methods(
    student, X, y, methods=methods, baseline="labels alone", cv=5, random_state=0, n_jobs=1
)
print(comparison)

# %%
# The price
# ---------
# ``fit_seconds`` is wall-clock time, which methods that are trained in one batched run share. For the price
# each method is fitted alone, twice, and the smaller CPU time counts.


def cpu_seconds(params):
    times = []
    for _ in range(2):
        began = time.process_time()
        clone(student).set_params(**params).fit(X, y)
        times.append(time.process_time() - began)
    return min(times)


prices = {name: cpu_seconds(params) for name, params in methods.items()}
prices = {name: price / prices["labels alone"] for name, price in prices.items()}
for name, price in prices.items():
    print(f"{name:16}{price:5.1f} × the student without a teacher")

# %%
# What came out
# -------------
# All four ways to use the teacher have a higher mean than the labels alone, by .05 to .07, for up to about
# twice the price. But five folds of 100 rows with noisy labels are few. Two intervals hold zero, and they
# belong to the methods with the *largest* means, whose gains differ most from fold to fold. The four are
# not tested against each other here: name one of them as the ``baseline`` for that. More folds narrow the
# intervals: ``cv=RepeatedStratifiedKFold(n_splits=5, n_repeats=4)``, as in :doc:`/guide/comparing`.
#
# The figure has accuracy against price on the left: the student alone (blue) is the cheapest and the least
# accurate. On the right are the differences to it with their 95 % intervals, and the folds as small dots.
# Intervals that do not hold zero are thick lines with filled markers.

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(1, 1.1), layout="constrained")
styles = [("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#cc79a7", "D"), ("#e69f00", "v")]
for row, (color, marker) in zip(comparison.summary("accuracy"), styles, strict=True):
    left.plot(prices[row["method"]], row["mean"], marker, color=color, markersize=11, label=row["method"])
left.set(xlabel="price of a fit (student alone = 1)", ylabel="accuracy on noisy labels")
left.set_xlim(0.8, 1.2 * max(prices.values()))
left.margins(y=0.15)
left.legend(frameon=False, loc="lower right")
left.grid(color="0.92")
left.spines[["top", "right"]].set_visible(False)
comparison.plot("accuracy", ax=right)
right.set(xlabel="difference to labels alone, 95 % interval", title="fold by fold")
left.set_title("accuracy against price")
plt.show()
