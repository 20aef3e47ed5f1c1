"""Tagging: several labels for a picture
=====================================

Each picture shows one to three digits, which may cover each other. Its tags are the digits that are in it:
ten labels, of which a picture may have any. A student with 800 tagged pictures learns from a bigger network
that has seen 6,000, and from 3,000 pictures that nobody has tagged.

``y`` is a matrix of 0 and 1, a column for each label, as scikit-learn's ``MultiLabelBinarizer`` makes it of
lists of tags. ``DistilledClassifier`` does the rest by itself: a sigmoid for each label, binary
cross-entropy, and the teacher's probability of each label at a temperature.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import average_precision_score, f1_score
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import MultiLabelBinarizer

from sklearn_kd import DistilledClassifier, MLPStudent

HEIGHT, WIDTH, N_SEEDS = 8, 20, 3

# %%
# The pictures
# ------------
#
# Scikit-learn's digits, 8 by 8 pixels, are put anywhere into a strip. Where two overlap, the brighter pixel
# is seen. The rows of the digits are divided first, so that no digit of the test is in another picture.

digits, names = load_digits(return_X_y=True)
binarizer = MultiLabelBinarizer(classes=range(10))


def pictures(rows, n, rng):
    """Return n pictures of these digits, flat, and the matrix of their tags."""
    X, tags = np.zeros((n, HEIGHT, WIDTH), np.float32), []
    for picture in X:
        shown = rng.choice(rows, rng.integers(1, 4))
        for row in shown:
            left = rng.integers(0, WIDTH - 7)
            part = picture[:, left : left + 8]
            np.maximum(part, digits[row].reshape(8, 8) / 16, out=part)
        tags.append(set(names[shown].tolist()))
    return X.reshape(n, -1), binarizer.fit_transform(tags)


# %%
# Teacher and students
# --------------------
#
# The teacher has 256 hidden units and was trained on other digits than the students'. All students are
# networks of 64. One has the 800 labels alone. One has the teacher's answers for the same pictures, with the
# best of three weights of labels and teacher. The last one also gets pictures without tags, for which the
# teacher answers.

methods = {
    "labels alone": {"meta": "none"},
    "distilled": {},
    "distilled, 3,000 untagged pictures too": {},
}
scores = {name: np.empty((N_SEEDS, 2)) for name in ("the teacher", *methods)}
for seed in range(N_SEEDS):
    rng = np.random.default_rng(seed)
    earlier, later, rest = np.split(rng.permutation(len(digits)), [800, 1300])
    teacher = MLPClassifier((256,), learning_rate_init=0.005, tol=2e-2, n_iter_no_change=3, random_state=seed)
    teacher.fit(*pictures(earlier, 6000, rng))
    X, y = pictures(later, 800, rng)
    untagged, _ = pictures(later, 3000, rng)
    X_test, y_test = pictures(rest, 2000, rng)
    fitted = {"the teacher": teacher}
    for name, params in methods.items():
        student = DistilledClassifier(
            FrozenEstimator(teacher),
            MLPStudent,
            student__hidden=64,
            max_epochs=50,
            random_state=seed,
            **params,
        )
        fitted[name] = student.fit(X, y, X_unlabeled=untagged if "untagged" in name else None)
    for name, model in fitted.items():
        f1 = f1_score(y_test, model.predict(X_test), average="samples", zero_division=0)
        precision = average_precision_score(y_test, model.predict_proba(X_test), average="macro")
        scores[name][seed] = f1, precision

# %%
# The test
# --------
#
# The table has the F1 of a picture's tags, averaged over the pictures, and the average precision of a label,
# averaged over the labels. They are means over three seeds. The last column is the paired difference to the
# labels alone, with its standard error.

print(f"{'':40}F1      average precision   difference to labels alone")
for name, found in scores.items():
    change = found[:, 1] - scores["labels alone"][:, 1]
    error = change.std(ddof=1) / np.sqrt(N_SEEDS)
    means = f"{found[:, 0].mean():.3f}   {found[:, 1].mean():<17.3f}"
    print(f"{name:40}{means}   {change.mean():+.3f} ± {error:.3f}")

# %%
# What the students say
# ---------------------
#
# Four pictures of the test, of the last seed, and the probabilities of the student alone and of the one that
# learned from untagged pictures. The true tags are shaded. A tag is predicted above 0.5, the line.

shown = [np.flatnonzero(y_test.sum(axis=1) == n_tags)[k] for n_tags in (2, 3) for k in (0, 1)]
STYLES = {
    "labels alone": ("#0072b2", "////"),
    "distilled, 3,000 untagged pictures too": ("#d55e00", ""),
}
figure, axes = plt.subplots(4, 2, layout="constrained", height_ratios=[1, 1.2] * 2)
for place, row in enumerate(shown):
    image, bars = axes[2 * (place // 2) : 2 * (place // 2) + 2, place % 2]
    image.imshow(X_test[row].reshape(HEIGHT, WIDTH), cmap="gray_r")
    image.set_axis_off()
    for tag in np.flatnonzero(y_test[row]):
        bars.axvspan(tag - 0.5, tag + 0.5, color="0.85", zorder=0)
    for side, (name, (color, hatch)) in zip((-0.2, 0.2), STYLES.items(), strict=True):
        p = fitted[name].predict_proba(X_test[row : row + 1])[0]
        label = "labels alone" if side < 0 else "taught, untagged pictures too"
        bars.bar(np.arange(10) + side, p, 0.4, color=color, hatch=hatch, edgecolor="white", label=label)
    bars.axhline(0.5, color="0.4", linewidth=0.8)
    bars.set(xticks=range(10), ylim=(0, 1), yticks=(0, 1))
figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
figure.suptitle("Which digits are in the picture?", fontsize=13)
plt.show()

# %%
# What it shows
# -------------
#
# The teacher's answers about the 800 tagged pictures bring .04 of average precision. Its answers about
# pictures that nobody has tagged bring more than three times as much, most of what lies between the student
# alone and the teacher: they show the student which digits the teacher sees in 3,000 further pictures.
