"""LightGBM: a booster of hundreds of trees as a small network
===========================================================

A booster has learned a table with categories and missing values. It answers well, but it is too slow or too
large for the place where the answers are needed. A small network takes its place. What is lost, and what is
gained?

The table has the orders of a shop, and whether they are sent back. It is made up, so that this page needs no
download.
"""

import pickle
import time
import warnings

import lightgbm
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

from sklearn_kd import DistilledClassifier, MLPStudent

warnings.filterwarnings(
    "ignore", "The argument 'eval_set' is deprecated"
)  # newer ones are not in LightGBM 4.0

# %%
# The data
# --------
#
# Four columns of categories, one with forty towns, and four of numbers. Some ages are missing.

rng = np.random.default_rng(0)
n = 8000
towns = np.array([f"town {i}" for i in range(40)])
X = pd.DataFrame({
    "town": rng.choice(towns, n),
    "article": rng.choice(["shoes", "coat", "shirt", "bag"], n),
    "payment": rng.choice(["card", "invoice", "transfer"], n),
    "device": rng.choice(["phone", "desktop"], n),
    "price": rng.lognormal(3.5, 0.6, n),
    "age": np.where(rng.random(n) < 0.15, np.nan, rng.normal(42, 12, n)),
    "items": rng.poisson(2, n) + 1.0,
    "days": rng.exponential(20, n),
}).astype(dict.fromkeys(("town", "article", "payment", "device"), "category"))  # fmt: skip
of_town = dict(zip(towns, rng.normal(0, 0.8, 40), strict=True))
score = (
    X["town"].astype(object).map(of_town)
    + 1.5 * ((X["article"] == "shoes") & (X["items"] > 2))
    + 1.5 * ((X["payment"] == "invoice") & (X["price"] > 40))
    - 1.0 * (X["age"].fillna(30) > 50)
    + 1.2 * np.sin(X["days"] / 6)
    - 0.6
)
y = np.where(rng.random(n) < 1 / (1 + np.exp(-2 * score)), "sent back", "kept")
X, X_test, y, y_test = train_test_split(X, y, test_size=2000, random_state=0)

# %%
# The teacher
# -----------
#
# It is fitted once, by hand, and stops early by rows that are held out. LightGBM takes the columns of
# categories, and the missing ages, as they are.

X_fit, X_stop, y_fit, y_stop = train_test_split(X, y, test_size=0.2, random_state=0)
booster = lightgbm.LGBMClassifier(n_estimators=1000, learning_rate=0.05, num_leaves=15, n_jobs=1, verbose=-1)
stop = lightgbm.early_stopping(30, verbose=False)
booster.fit(X_fit, y_fit, eval_set=[(X_stop, y_stop)], callbacks=[stop])
print(f"{booster.best_iteration_} trees")

# %%
# An unfitted booster is trained inside ``fit``, on the student's rows. Then give it
# ``early_stopping_round=30`` and the rows to stop by: ``teacher__fit__eval_set=[(X_stop, y_stop)]``.
#
# The students
# ------------
#
# ``FrozenEstimator`` keeps the booster as it was fitted. The student is a network and needs numbers:
# ``student_preprocessing="auto"`` encodes the categories, fills in the missing ages and scales, fitted on the
# rows that the student trains on. The teacher sees the table as it is. The same network without a teacher
# shows what the teacher is worth. It may learn its labels by heart, so there is a smaller one too, which
# trains for a shorter time.

settings = {"student_preprocessing": "auto", "random_state": 0}
large = settings | {"student__hidden": 128, "max_epochs": 60}
small = settings | {"student__hidden": 64, "max_epochs": 15}
students = {
    "student": DistilledClassifier(FrozenEstimator(booster), MLPStudent, **large),
    "the same, no teacher": DistilledClassifier(None, MLPStudent, meta="none", **large),
    "smaller, no teacher": DistilledClassifier(None, MLPStudent, meta="none", **small),
}
for student in students.values():
    student.fit(X, y)

# %%
# What is lost, and what is gained
# --------------------------------
#
# "agreement" is the share of rows with the booster's label. The size is that of a pickle, of the students
# without their preprocessing. The times are CPU milliseconds: of a call with one row, the mean of 50, and of
# a call with all 2,000 rows of the test.


def described(model):
    """Return how good, how large and how fast a model is."""
    began = time.process_time()
    for row in range(50):
        model.predict_proba(X_test[row : row + 1])
    took = 1000 * (time.process_time() - began) / 50
    began = time.process_time()
    probabilities = model.predict_proba(X_test)
    took_all = 1000 * (time.process_time() - began)
    size = len(pickle.dumps(getattr(model, "student_", model)))
    return {
        "accuracy": model.score(X_test, y_test), "log loss": log_loss(y_test, probabilities),
        "agreement": np.mean(model.predict(X_test) == booster.predict(X_test)), "kB": size / 1000,
        "one row": took, "2,000 rows": took_all,
    }  # fmt: skip


table = pd.DataFrame({name: described(model) for name, model in {"booster": booster, **students}.items()})
print(table.T.to_string(float_format="{:.3f}".format))

# %%
# The figure shows accuracy against size. The number beside each model is its time for 2,000 rows.

STYLES = {
    "booster": ("s", "#6b7280", (0, -24), "center"),
    "student": ("o", "#d55e00", (12, -5), "left"),
    "the same, no teacher": ("D", "#0072b2", (12, -5), "left"),
}
figure, axes = plt.subplots(layout="constrained")
for name, (marker, color, shift, side) in STYLES.items():
    accuracy, size, took = table.loc[["accuracy", "kB", "2,000 rows"], name]
    axes.plot(size, accuracy, marker, color=color, markersize=10)
    axes.annotate(f"{name}: {took:.0f} ms", (size, accuracy), shift, textcoords="offset points", ha=side)
axes.set(xlim=(0, 370), ylim=(0.72, 0.81), xlabel="size, kB", ylabel="accuracy on new rows")
axes.set_title("A tenth of the booster's size")
plt.show()

# %%
# What it shows
# -------------
#
# The network has a tenth of the booster's size, and answers 2,000 rows in less time. It loses .01 of the
# accuracy, and its labels differ from the booster's in a tenth of the rows. Where that is too much, a larger
# network and more rows for the teacher to label (``X_unlabeled``) are the next steps. A single row costs not
# much less than with the booster: most of the time goes into making numbers of the table, not into the
# network.
#
# The same network without the teacher is worse by .05 in accuracy and far worse in log loss. Part of that is
# due to learning the 6,000 labels by heart: the smaller network without a teacher has a better log loss,
# still behind the student's. Its accuracy is hardly better.
