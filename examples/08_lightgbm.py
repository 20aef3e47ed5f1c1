"""LightGBM: a booster of hundreds of trees as a small network
===========================================================

A booster has learned a table with categories and missing values. It answers well, and is too slow or too
large for where the answers are needed. Here its knowledge goes into a small network, and a table says what
was lost and what was gained.

The table is made up, so that this page needs no download: orders of a shop, and whether they are sent back.
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
# It is fitted once, by hand, and stops early by rows that are held out. ``FrozenEstimator`` says that it
# is to be used as it is. LightGBM takes the columns of categories, and the missing ages, as they are.

X_fit, X_stop, y_fit, y_stop = train_test_split(X, y, test_size=0.2, random_state=0)
booster = lightgbm.LGBMClassifier(n_estimators=1000, learning_rate=0.05, num_leaves=15, n_jobs=1, verbose=-1)
stop = lightgbm.early_stopping(30, verbose=False)
booster.fit(X_fit, y_fit, eval_set=[(X_stop, y_stop)], callbacks=[stop])
print(f"{booster.best_iteration_} trees")

# %%
# To have the booster trained on D_train inside ``fit``, as in a cross-validation, give it unfitted, with
# ``early_stopping_round=30`` and the rows to stop by: ``teacher__fit__eval_set=[(X_stop, y_stop)]``.
#
# The students
# ------------
#
# The student is a network and needs numbers: ``student_preprocessing="auto"`` encodes the categories,
# fills in the missing ages and scales, fitted on the rows that the student trains on. The teacher sees
# the table as it is. The same network without a teacher shows what the teacher is worth.

settings = {"student__hidden": 128, "max_epochs": 60, "student_preprocessing": "auto", "random_state": 0}
students = {
    "student": DistilledClassifier(FrozenEstimator(booster), MLPStudent, **settings),
    "without teacher": DistilledClassifier(None, MLPStudent, meta="none", **settings),
}
for student in students.values():
    student.fit(X, y)

# %%
# What is lost, and what is gained
# --------------------------------
#
# Size is that of a pickle, of the students without their preprocessing. The times are milliseconds of the
# processor: of a call with one row, the mean of 50, and of a call with all 2,000 rows of the test.


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

figure, panels = plt.subplots(1, 3, figsize=(8, 2), sharey=True, layout="constrained")
for axes, column in zip(panels, ("accuracy", "kB", "2,000 rows"), strict=True):
    axes.barh(table.columns, table.loc[column], color=["0.7", "C1", "C0"])
    axes.set(xlabel="ms for 2,000 rows" if column == "2,000 rows" else column)
    axes.spines[["top", "right"]].set_visible(False)
panels[0].set(xlim=(0.5, 0.85))
panels[0].invert_yaxis()
plt.show()

# %%
# The network has a tenth of the booster's size, and answers 2,000 rows in less time. It loses .03 of the
# accuracy: where that is too much, a larger network and more rows for the teacher to label
# (``X_unlabeled``) are the next steps. One row costs not much less than with the booster, since most of
# the time is taken by the table, which is made numbers of, not by the network.
#
# The same network without the teacher is worse by .03 in accuracy and far worse in log loss. It has
# learned its 6,000 labels by heart; with 64 units and 15 epochs its log loss is .52, still behind the
# student's .48. The teacher's soft answers are harder to learn by heart than labels.
