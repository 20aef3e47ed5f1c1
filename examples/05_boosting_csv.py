"""A boosting teacher on a CSV with categories and missing values
==============================================================

A gradient boosting model was fitted on 12,000 customers of a telephone company. Most of their rows had to be
deleted since, but the model is still there. A smaller and faster network is to take its place, and 800 rows
with labels are left to train it on.

The model takes the table as it is: words, numbers and gaps. So does the student:
``student_preprocessing="auto"`` makes numbers of the table, as learned from the rows that the student trains
on. The customers are made up, so that this page needs no download. Real tables differ in how much a teacher
helps.
"""

import io
import pickle
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sklearn_kd import DistilledClassifier, MLPStudent

# %%
# The table
# ---------
#
# A CSV as they come: seven columns, three of them words, three with gaps. Whether a customer leaves depends
# on pairs of columns. Trees find such pairs, a straight line does not.


def made_up_csv(n_rows, seed):
    """Return the text of a CSV: one customer a row, and whether the customer left."""
    rng = np.random.default_rng(seed)
    plans = rng.choice(["basic", "family", "business", "prepaid"], n_rows, p=[0.4, 0.25, 0.1, 0.25])
    regions = rng.choice(list("ABCDEFGH"), n_rows)
    phones = rng.choice([f"model {k}" for k in range(25)], n_rows, p=(w := 0.85 ** np.arange(25)) / w.sum())
    months = rng.gamma(2.0, 14.0, n_rows).round()
    age = rng.normal(45, 15, n_rows).clip(18, 90).round()
    bill = rng.lognormal(3.2, 0.5, n_rows).round(2)
    calls = rng.poisson(np.where(plans == "business", 2.5, 1.0))
    score = (
        -1.2
        + 1.6 * (bill > 30) * np.isin(plans, ["basic", "prepaid"])
        + 1.2 * (calls > 2) * (months < 24)
        - 1.5 * (plans == "family") * (age > 40)
        + 1.3 * np.isin(regions, ["B", "F"]) * (age < 35)
        + 0.8 * np.sin(months / 8.0)
        + 0.7 * np.isin(phones, ["model 1", "model 4", "model 9"]) * (months > 18)
    )
    silent = rng.random(n_rows) < 0.15  # who does not tell the age leaves more often
    table = pd.DataFrame({
        "plan": plans, "region": regions, "phone": phones, "months": months,
        "age": np.where(silent, np.nan, age),
        "bill": np.where(rng.random(n_rows) < 0.05, np.nan, bill),
        "calls": calls,
        "left": np.where(rng.random(n_rows) < 1 / (1 + np.exp(-1.5 * (score + silent))), "yes", "no"),
    })  # fmt: skip
    table.loc[rng.random(n_rows) < 0.1, "phone"] = None
    return table.to_csv(index=False)


words = dict.fromkeys(["plan", "region", "phone"], "category")
table = pd.read_csv(io.StringIO(made_up_csv(20_000, seed=0)), dtype=words)
y, X = (table.pop("left") == "yes").astype(int), table
print(X.head().to_string())
print(f"left: {y.mean():.0%}; with a gap: {X.isna().any(axis=1).mean():.0%} of the rows")
past, kept, test = slice(0, 12_000), slice(11_200, 12_000), slice(12_000, None)

# %%
# The teacher
# -----------
#
# It is fitted on the table itself. The student's 800 rows are the last of the teacher's rows: the student has
# nothing that the teacher has not seen.

boosting = HistGradientBoostingClassifier(max_iter=80, learning_rate=0.08, random_state=0)
boosting.fit(X[past], y[past])

# %%
# The students
# ------------
#
# The same network is fitted three times on the same rows. Two students have the teacher:
# ``FrozenEstimator`` keeps it as it is. For one of them ``lambda1=0.1``, the weight of the labels, says that
# the teacher knows more than the labels do. For the other ``fit`` chooses the weight and the temperature. The
# third has no teacher.
#
# Beside them is what else you might train on 800 rows: a network and a linear model of scikit-learn, behind
# the usual preprocessing, and boosting itself.


def student(teacher, **params):
    return DistilledClassifier(
        teacher, MLPStudent, student__hidden=64, student_preprocessing="auto", max_epochs=60, random_state=0,
        device="cpu", **params,
    )  # fmt: skip


def behind_preprocessing(model):
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    categories = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=5)
    columns = make_column_transformer(
        (numbers, make_column_selector(dtype_include="number")),
        (categories, make_column_selector(dtype_include="category")),
    )
    return make_pipeline(columns, model)


models = {
    "boosting, 12,000 rows (the teacher)": boosting,
    "student of the teacher": student(FrozenEstimator(boosting), meta="fixed", lambda1=0.1),
    "the same, lambda1 and T chosen": student(FrozenEstimator(boosting)),
    "the same without a teacher": student(None, meta="none"),
    "MLPClassifier": behind_preprocessing(MLPClassifier(64, early_stopping=True, random_state=0)),
    "LogisticRegression": behind_preprocessing(LogisticRegression(max_iter=1000)),
    "boosting, 800 rows": HistGradientBoostingClassifier(max_iter=80, learning_rate=0.08, random_state=0),
}
for model in models.values():
    if model is not boosting:
        model.fit(X[kept], y[kept])

# %%
# The test
# --------
#
# The 8,000 rows of the test are new to all models. The time is the CPU time for one row of the table,
# preprocessing included. The last line has the setting that ``fit`` chose from 120 held-out rows.


def microseconds_per_row(model, row):
    model.predict_proba(row)
    times = []
    for _ in range(30):
        start = time.process_time()
        model.predict_proba(row)
        times.append(time.process_time() - start)
    return 1e6 * np.median(times)


rows = []
for name, model in models.items():
    proba = model.predict_proba(X[test]).astype(float)
    proba /= proba.sum(axis=1, keepdims=True)  # float32 rounds
    rows.append({
        "model": name,
        "accuracy": accuracy_score(y[test], model.classes_[proba.argmax(axis=1)]),
        "ROC AUC": roc_auc_score(y[test], proba[:, 1]),
        "log loss": log_loss(y[test], proba),
        "µs per row": microseconds_per_row(model, X[test][:1]),
        "kB": len(pickle.dumps(model)) / 1000,
    })  # fmt: skip
results = pd.DataFrame(rows).set_index("model")
print(results.to_string(float_format=lambda x: f"{x:.3f}" if x < 1 else f"{x:,.0f}"))
chosen = models["the same, lambda1 and T chosen"]
print(f"chosen: lambda1 = {chosen.lambda1_:.2f}, T = {chosen.temperature_:.1f}")

# %%
# The figure has the ROC AUC, which is 0.5 for guesses, against the time for one row.

STYLES = {
    "boosting, 12,000 rows (the teacher)": (
        "teacher: boosting, 12,000 rows",
        "s",
        "#6b7280",
        (8, 9),
        "right",
    ),
    "student of the teacher": ("student", "o", "#d55e00", (0, 11), "center"),
    "the same without a teacher": ("the same, no teacher", "D", "#0072b2", (0, -21), "center"),
    "boosting, 800 rows": ("boosting, 800 rows", "P", "#56b4e9", (8, 9), "right"),
    "MLPClassifier": ("MLPClassifier", "^", "#56b4e9", (8, -21), "right"),
    "LogisticRegression": ("LogisticRegression", "v", "#56b4e9", (8, 9), "right"),
}
figure, axes = plt.subplots(layout="constrained")
for name, (label, marker, color, shift, side) in STYLES.items():
    place = results.loc[name, "µs per row"] / 1000, results.loc[name, "ROC AUC"]
    axes.plot(*place, marker, color=color, markersize=10)
    axes.annotate(label, place, shift, textcoords="offset points", ha=side)
axes.set(xlim=(0, None), ylim=(0.67, 0.85), xlabel="CPU time for one row, ms", ylabel="ROC AUC on new rows")
axes.set_title("As good as boosting on the same rows, and faster")
plt.show()

# %%
# What it shows
# -------------
#
# The student is well ahead of the same network without the teacher. It is as good as boosting on the same
# 800 rows, smaller and faster. It is far from its teacher, which has seen 15 times as
# many labels. On these rows ``fit`` chose a setting that trusts the teacher, and its student is as good as
# the one that was told to.
