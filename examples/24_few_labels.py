"""Few labels, many rows: what unlabeled rows are worth
=========================================================

Labels are expensive, rows are not. You have 20 to 320 labeled digits, and 500 digits without a label.
Somebody else fitted a forest to 500 labeled digits that you do not have, and you may ask it. How far does
each way to use all this come?

Five ways are compared on the same rows:

- ``MLPClassifier`` on your labels alone;
- ``MLPClassifier`` on your labels and, for the other rows, on the classes that the forest predicts. You can
  do that with scikit-learn alone, so it is the baseline that counts;
- the student of this library on your labels alone;
- the student with the forest, which is asked about your labeled rows alone;
- the student with the forest, which is asked about all rows (``X_unlabeled``).
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score, log_loss
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_kd import DistilledClassifier, MLPStudent

warnings.simplefilter("ignore", ConvergenceWarning)  # the number of iterations is given
X, y = load_digits(return_X_y=True)
N_LABELS, SEEDS = (20, 50, 125, 320), range(3)
HIDDEN, BATCH, LR, ITERATIONS = 64, 32, 0.005, 150

# %%
# The models
# ----------
# All networks have 64 hidden units, and the same batch size, learning rate and number of iterations.
# ``lambda1=0.1`` says that the teacher knows more than the labels. The default finds such a value by itself,
# but it needs held-out labels for that, and of 20 labels none can be spared.


def epochs(n_rows):
    return max(1, round(ITERATIONS * BATCH / n_rows))


def mlp(X, y, seed):
    network = MLPClassifier(
        HIDDEN,
        batch_size=min(BATCH, len(X)),
        learning_rate_init=LR,
        max_iter=epochs(len(X)),
        random_state=seed,
    )
    return make_pipeline(StandardScaler(), network).fit(X, y)


def student(X, y, seed, teacher=None, X_unlabeled=None):
    n_rows = len(X) + (0 if X_unlabeled is None else len(X_unlabeled))
    trust = {"meta": "none"} if teacher is None else {"meta": "fixed", "lambda1": 0.1}
    model = DistilledClassifier(
        teacher, MLPStudent, student__hidden=HIDDEN, batch_size=BATCH, lr=LR, max_epochs=epochs(n_rows),
        random_state=seed, device="cpu", **trust,
    )  # fmt: skip
    return model.fit(X, y, X_unlabeled=X_unlabeled)


# %%
# The runs
# --------
# Three random divisions of the rows. The labeled rows have about as many of each class.

results = {}  # by model: (accuracy, log loss) for each seed and number of labels
for seed in SEEDS:
    past, pool, others, test = np.split(np.random.default_rng(seed).permutation(len(X)), [500, 900, 1400])
    forest = ExtraTreesClassifier(200, random_state=seed).fit(X[past], y[past])
    teacher, predicted = FrozenEstimator(forest), forest.predict(X[others])
    nth_of_its_class = [np.sum(y[pool[:i]] == y[pool[i]]) for i in range(len(pool))]
    pool = pool[np.argsort(nth_of_its_class, kind="stable")]
    for n in N_LABELS:
        own = pool[:n]
        models = {
            "the forest": forest,
            "MLPClassifier, labels": mlp(X[own], y[own], seed),
            "MLPClassifier, forest's classes": mlp(
                X[np.append(own, others)], np.append(y[own], predicted), seed
            ),
            "student, labels": student(X[own], y[own], seed),
            "student, forest": student(X[own], y[own], seed, teacher),
            "student, forest, all rows": student(X[own], y[own], seed, teacher, X[others]),
        }
        for name, model in models.items():
            proba = model.predict_proba(X[test]).astype(float)
            proba /= proba.sum(axis=1, keepdims=True)  # float32 rounds
            scores = accuracy_score(y[test], proba.argmax(axis=1)), log_loss(y[test], proba)
            results.setdefault(name, []).append(scores)
results = {name: np.reshape(scores, (len(SEEDS), len(N_LABELS), 2)) for name, scores in results.items()}


def mean_and_error(values):
    return values.mean(axis=0), values.std(axis=0, ddof=1) / len(values) ** 0.5


for k, title in enumerate(["accuracy", "log loss"]):
    print(f"{title:34}" + "".join(f"{f'{n} labels':<15}" for n in N_LABELS))
    for name, values in results.items():
        cells = [
            f"{mean:.3f} ± {error:.3f}" for mean, error in zip(*mean_and_error(values[..., k]), strict=True)
        ]
        print(f"  {name:32}" + "  ".join(cells))
gain = results["student, forest, all rows"] - results["MLPClassifier, forest's classes"]
cells = [f"{mean:+.3f} ± {error:.3f}" for mean, error in zip(*mean_and_error(gain[..., 0]), strict=True)]
print("student, forest, all rows, less MLPClassifier, forest's classes, in accuracy:\n  " + "  ".join(cells))

# %%
# What came out
# -------------
# In the figure, orange is the student with the forest, dark blue the same student without it, light blue
# ``MLPClassifier``. Hollow markers with dashed lines stand for the ways that leave the 500 other rows out.
#
# - **The other rows matter most.** With 20 labels and the forest's answers for the other rows the student
#   is right about 95 % of new rows. Without these rows even 320 labels do not quite bring it there.
# - **Asking about the labeled rows alone** helps the student where it has few labels, and less than the
#   other rows do.
# - **The forest's classes as labels are as accurate** as its probabilities: the differences are at most .005.
# - **They have the better log loss here.** A forest is unsure about rows that it has not seen, and the
#   student repeats its probabilities. :ref:`sphx_glr_auto_examples_23_calibration.py` mends that with one
#   number. Over ten data sets, with the default settings, the student's log loss is the better one
#   (:doc:`/guide/side_by_side`).

figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
styles = {  # colour, marker, line, filled
    "the forest": ("#6b7280", "", ":", True),
    "student, forest, all rows": ("#d55e00", "o", "-", True),
    "student, forest": ("#d55e00", "o", "--", False),
    "student, labels": ("#0072b2", "D", "-", True),
    "MLPClassifier, forest's classes": ("#56b4e9", "^", "-", True),
    "MLPClassifier, labels": ("#56b4e9", "^", "--", False),
}
for ax, k, title in zip(
    axes, (0, 1), ("accuracy on new rows", "log loss on new rows (lower is better)"), strict=True
):
    for name, (color, marker, line, filled) in styles.items():
        mean, error = mean_and_error(results[name][..., k])
        ax.errorbar(
            N_LABELS, mean, error, color=color, marker=marker, linestyle=line, label=name, markersize=7,
            markerfacecolor=color if filled else "white", capsize=2, linewidth=2,
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_xticks(N_LABELS, N_LABELS)
    ax.minorticks_off()
    ax.set(xlabel="labeled rows", title=title)
    ax.grid(color="0.92")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
axes[0].legend(frameon=False, loc="lower right")
plt.show()
