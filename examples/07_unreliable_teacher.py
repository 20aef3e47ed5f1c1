"""An unreliable teacher: the learned lambda1 turns to the labels
===============================================================

A teacher has learned digits well. Then something goes wrong, and its answers about half of the classes are
mixed up: it calls a 5 a 6, a 6 a 7, and so on, as confidently as before. Nobody has checked. Does
distillation notice?

``lambda1``, the weight of the labels, decides: at 0 the student believes the teacher alone, at 1 the labels
alone. Fixed weights are compared with one that is learned from 150 rows that are held out, D_val.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier

from sklearn_kd import DistilledClassifier, MLPStudent
from sklearn_kd.teachers import FunctionTeacher

# %%
# The teacher
# -----------
#
# A function can be a teacher: it gets X, and returns probabilities or logits. This one asks a forest that
# was trained on other rows than the student's, and exchanges the columns of the mixed classes.
# ``FunctionTeacher`` makes a teacher of it.


def unreliable(forest, n_mixed):
    """Return a teacher that mixes up the last ``n_mixed`` of the ten classes."""
    columns = np.arange(10)
    columns[10 - n_mixed :] = np.roll(columns[10 - n_mixed :], 1)

    def answers(X):
        return forest.predict_proba(X)[:, columns]

    return FunctionTeacher(answers, classes=range(10))


# %%
# The data
# --------
#
# Each seed divides the digits anew: 600 rows for the teacher, 300 for the student, 150 for D_val, and the
# other 747 for the test. The test rows choose nothing.


def divide(seed):
    """Return the teacher's forest, and (X, y) of D_train, D_val and the test."""
    X, y = load_digits(return_X_y=True)
    X = X / 16
    parts = np.split(np.random.default_rng(seed).permutation(len(X)), [600, 900, 1050])
    early, train, valid, test = ((X[rows], y[rows]) for rows in parts)
    return ExtraTreesClassifier(200, random_state=seed).fit(*early), train, valid, test


# %%
# The fits
# --------
#
# "labels alone" has no teacher. The fixed methods have the usual temperature, T = 4. All methods train on the
# same rows and are given the same D_val. A further method uses D_val as you would by hand: it keeps the one
# of the three fixed weights whose student is best on D_val. That takes three fits in place of one.

METHODS = {
    "labels alone": {"meta": "none"},
    "fixed, lambda1 = 0.1": {"meta": "fixed", "lambda1": 0.1, "temperature": 4.0},
    "fixed, lambda1 = 0.5": {"meta": "fixed", "lambda1": 0.5, "temperature": 4.0},
    "fixed, lambda1 = 0.9": {"meta": "fixed", "lambda1": 0.9, "temperature": 4.0},
    "learned": {"meta": "linear", "lambda1": 0.5, "temperature": 4.0},
}
NETWORK = {"student__hidden": 32, "max_epochs": 30, "batch_size": 32, "search_epochs": None}
FIXED = [name for name in METHODS if name.startswith("fixed")]
MIXED, SEEDS = (0, 5), range(3)

fitted, tests, teachers = {}, {}, {}
for seed in SEEDS:
    forest, train, valid, tests[seed] = divide(seed)
    alone = DistilledClassifier(None, MLPStudent, **NETWORK, **METHODS["labels alone"], random_state=seed)
    alone.fit(*train, X_val=valid[0], y_val=valid[1])
    for n_mixed in MIXED:
        fitted[n_mixed, seed, "labels alone"] = alone
        teachers[n_mixed, seed] = teacher = unreliable(forest, n_mixed)
        for name in METHODS.keys() - {"labels alone"}:
            student = DistilledClassifier(teacher, MLPStudent, **NETWORK, **METHODS[name], random_state=seed)
            fitted[n_mixed, seed, name] = student.fit(*train, X_val=valid[0], y_val=valid[1])
        best = max(FIXED, key=lambda name: fitted[n_mixed, seed, name].score(*valid))
        fitted[n_mixed, seed, "best fixed on D_val"] = fitted[n_mixed, seed, best]

# %%
# The test
# --------
#
# Accuracy and its standard deviation over three seeds, with a good teacher (0 classes mixed up) and with a
# bad one (5). ``lambda1`` is that at the end of the training.

rows = []
for n_mixed in MIXED:
    right = [
        np.mean(teachers[n_mixed, seed].function(tests[seed][0]).argmax(axis=1) == tests[seed][1])
        for seed in SEEDS
    ]
    rows.append((n_mixed, "the teacher itself", np.mean(right), np.std(right, ddof=1), np.nan))
    for name in (*METHODS, "best fixed on D_val"):
        students = [fitted[n_mixed, seed, name] for seed in SEEDS]
        right = [student.score(*tests[seed]) for seed, student in zip(SEEDS, students, strict=True)]
        weight = np.mean([student.lambda1_ for student in students])
        rows.append((n_mixed, name, np.mean(right), np.std(right, ddof=1), weight))
table = pd.DataFrame(rows, columns=["classes mixed up", "method", "accuracy", "sd", "lambda1"])
print(table.to_string(index=False, float_format="{:.3f}".format, na_rep=""))

# %%
# With the good teacher (circles) all weights do about as well. With the bad one (crosses) a low fixed weight
# follows the teacher down, and the learned weight does not.

figure, axes = plt.subplots(layout="constrained")
styles = {0: ("a good teacher", "o", "#009e73"), 5: ("5 of 10 classes mixed up", "X", "#cc79a7")}
for n_mixed, (label, marker, color) in styles.items():
    part = table[table["classes mixed up"] == n_mixed]
    axes.errorbar(
        part["accuracy"], part["method"], xerr=part["sd"], fmt=marker, color=color, label=label, capsize=3
    )
axes.set(xlim=(0.4, 1.02), xlabel="accuracy on new rows", title="Can the student trust its teacher?")
axes.grid(axis="y", color="0.9")
axes.invert_yaxis()
axes.legend(loc="lower left", bbox_to_anchor=(0, 0.1))
plt.show()

# %%
# What it shows
# -------------
#
# With a good teacher the fixed weights of 0.5 and 0.9, and the learned one, are about .01 ahead of the labels
# alone. Learning gains nothing over a fixed weight that suits.
#
# When half of the classes are mixed up, the usual weight of 0.5 loses .07, and a weight of 0.1 follows the
# teacher down. The learned lambda1 stays near 1: its student is as good as one without a teacher, and no
# better. So is the best of the fixed weights, at three times the fits. Learning does not give a better
# student here. It gives a safe one, where nobody has checked the teacher.
