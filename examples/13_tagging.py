"""Tagging: several labels for a picture
=====================================

Each picture shows one to three digits, which may cover each other. Its tags are the digits that can be seen:
ten labels, of which a picture may have any. A student with 800 tagged pictures learns from a bigger network
that has seen 6,000, and from 3,000 pictures that nobody has tagged.

``y`` is a matrix of 0 and 1, a column for each label, as scikit-learn's ``MultiLabelBinarizer`` makes it of
lists of tags. :class:`~sklearn_kd.DistilledClassifier` does the rest by itself: a sigmoid for each label,
binary cross-entropy, and the teacher's probability of each label at a temperature.
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
# The teacher has 256 hidden units and was trained on other digits than the students'. All students are
# networks of 64. The last one also gets pictures without tags, about which the teacher is asked.

methods = {
    "labels alone": {"meta": "none"},
    "distilled, lambda1 = 0.5": {"meta": "fixed"},
    "distilled, the best of three settings": {},
    "the same, with 3,000 untagged pictures": {},
}
scores = {name: np.empty((N_SEEDS, 2)) for name in ("the teacher", *methods)}
for seed in range(N_SEEDS):
    rng = np.random.default_rng(seed)
    earlier, later, rest = np.split(rng.permutation(len(digits)), [800, 1300])
    teacher = MLPClassifier((256,), max_iter=200, tol=1e-2, n_iter_no_change=3, random_state=seed)
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
            max_epochs=60,
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
# F1 of a picture's tags, averaged over the pictures, and the average precision of a label, averaged over the
# labels: mean over three seeds, and the paired difference to the labels alone with its standard error.

print(f"{'':40}F1      average precision   difference to labels alone")
for name, found in scores.items():
    change = found[:, 1] - scores["labels alone"][:, 1]
    error = change.std(ddof=1) / np.sqrt(N_SEEDS)
    means = f"{found[:, 0].mean():.3f}   {found[:, 1].mean():<17.3f}"
    print(f"{name:40}{means}   {change.mean():+.3f} ± {error:.3f}")

# %%
# What the student sees
# ---------------------
# Eight pictures of the test, of the last seed: their tags, and the probabilities of the student alone and of
# the one that learned from untagged pictures.

shown = (
    np.flatnonzero(y_test.sum(axis=1) == 3)[:4].tolist()
    + np.flatnonzero(y_test.sum(axis=1) == 2)[:4].tolist()
)
compared = {"labels alone": "C0", "the same, with 3,000 untagged pictures": "C1"}
figure, axes = plt.subplots(4, 4, figsize=(10, 6.5), layout="constrained", height_ratios=[1, 1.2] * 2)
for place, row in enumerate(shown):
    image, bars = axes[2 * (place // 4) : 2 * (place // 4) + 2, place % 4]
    image.imshow(X_test[row].reshape(HEIGHT, WIDTH), cmap="gray_r")
    image.set_axis_off()
    image.set_title(f"tags {', '.join(map(str, np.flatnonzero(y_test[row])))}", fontsize=10)
    for side, (name, color) in zip((-0.2, 0.2), compared.items(), strict=True):
        p = fitted[name].predict_proba(X_test[row : row + 1])[0]
        bars.bar(np.arange(10) + side, p, 0.4, color=color, label=name.replace("the same", "distilled"))
    for tag in np.flatnonzero(y_test[row]):
        bars.axvspan(tag - 0.5, tag + 0.5, color="0.9", zorder=0, label="the true tags")
    bars.axhline(0.5, color="0.5", linewidth=0.8)
    bars.set(xticks=range(10), ylim=(0, 1), yticks=(0, 0.5, 1))
    bars.spines[["top", "right"]].set_visible(False)
handles, texts = axes[1, 0].get_legend_handles_labels()
by_text = dict(zip(texts, handles, strict=True))  # the true tags once
figure.legend(by_text.values(), by_text, loc="outside lower center", ncols=3, frameon=False)
plt.show()

# %%
# What it shows
# -------------
# The teacher's answers about the 800 tagged pictures bring .05 of average precision. Its answers about
# pictures that nobody has tagged bring .17, seven tenths of what lies between the student alone and the
# teacher: they show the student which digits the teacher sees in 3,000 further pictures.
