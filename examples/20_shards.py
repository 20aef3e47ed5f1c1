"""Shards on disk: rows that are never all in memory, and a teacher asked once
===========================================================================

The rows are in files, more than fit into memory, and the teacher is slow. A :class:`~sklearn_kd.Stream`
reads one file at a time, and :class:`~sklearn_kd.teachers.StoredAnswers` writes down what the teacher says
about each row, so that no later epoch and no later student asks it again.
"""

import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_classification
from sklearn.ensemble import ExtraTreesClassifier
from torch.utils.data import IterableDataset

from sklearn_kd import DistilledClassifier, MLPStudent, Stream
from sklearn_kd.teachers import StoredAnswers

# %%
# Files of rows
# -------------
# Ten files of 1,000 rows. They could be Parquet (:doc:`/guide/streams`) and many more. Nobody checked the
# labels in them: four in ten are replaced at random.

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
N_FILES, N_ROWS = 10, 1000
X, y = make_classification(
    17_000, 20, n_informative=10, n_redundant=0, n_classes=4, class_sep=1.5, flip_y=0, random_state=0
)
X = X.astype(np.float32)
past, streamed, test = np.split(np.arange(len(X)), [5000, 15_000])
rng = np.random.default_rng(0)
for k, rows in enumerate(np.split(streamed, N_FILES)):
    labels = np.where(rng.random(len(rows)) < 0.4, rng.integers(4, size=len(rows)), y[rows])
    np.savez(folder / f"rows-{k:02d}.npz", X=X[rows], y=labels)

# %%
# A stream of them
# ----------------
# Any ``IterableDataset`` will do. ``fit`` calls ``set_epoch`` before each pass, so that the files and the
# rows of each come in a new order. It does not shuffle by itself. The largest thing that is open at any
# time is one file.


class Shards(IterableDataset):
    epoch, largest = 0, 0

    def __init__(self, folder):
        self.files = sorted(folder.glob("rows-*.npz"))

    def __len__(self):
        return N_FILES * N_ROWS

    def set_epoch(self, number):
        self.epoch = number

    def __iter__(self):
        rng = np.random.default_rng(self.epoch)
        for file in rng.permutation(self.files):
            with np.load(file, allow_pickle=False) as arrays:
                X, y = arrays["X"], arrays["y"]
            self.largest = max(self.largest, X.nbytes)
            for i in rng.permutation(len(X)):
                yield X[i], int(y[i])


shards = Shards(folder)
stream = Stream(shards, classes=range(4))

# %%
# The teacher
# -----------
# A forest that has seen 5,000 clean labels. It comes as a function that counts the rows and the CPU time it
# takes.


class Forest:
    """A fitted forest that counts."""

    def __init__(self):
        self.model = ExtraTreesClassifier(100, random_state=0).fit(X[past], y[past])
        self.n_rows, self.seconds = 0, 0.0

    def __call__(self, rows):
        began = time.process_time()
        answers = self.model.predict_proba(rows)
        self.seconds += time.process_time() - began
        self.n_rows += len(rows)
        return answers


forest = Forest()

# %%
# Fit after fit
# -------------
# Four epochs each: first without a store, then three students with one. The last row is the largest student
# without the teacher.

runs = []


def fit(name, teacher, hidden, **params):
    rows, seconds, began = forest.n_rows, forest.seconds, time.process_time()
    model = DistilledClassifier(
        teacher, MLPStudent, student__hidden=hidden, max_epochs=4, batch_size=250, lr=0.01, random_state=0,
        device="cpu", **params,
    )  # fmt: skip
    model.fit(stream)
    asked, spent = forest.n_rows - rows, forest.seconds - seconds
    runs.append((name, asked, spent, time.process_time() - began - spent, model.score(X[test], y[test])))


trusting = {"meta": "fixed", "lambda1": 0.1}
fit("not stored, 64 units", forest, 64, **trusting)
stored = StoredAnswers(forest, folder / "answers")
for hidden in (16, 64, 256):
    fit(f"stored, {hidden} units", stored, hidden, **trusting)
fit("no teacher, 256 units", None, 256, meta="none")

print(f"the forest: accuracy {forest.model.score(X[test], y[test]):.3f}")
print(f"{'':24}{'rows asked':>12}{'teacher, s':>12}{'the rest, s':>12}{'accuracy':>10}")
for name, asked, spent, rest, accuracy in runs:
    print(f"{name:24}{asked:12,}{spent:12.2f}{rest:12.2f}{accuracy:10.3f}")
size = sum(file.stat().st_size for file in (folder / "answers").rglob("*"))
print(f"open at a time: {shards.largest / 1000:.0f} kB of {X[streamed].nbytes / 1000:.0f} kB of rows")
print(f"the stored answers: {size / 1000:.0f} kB")
temporary.cleanup()

# %%
# Without a store the forest is asked about every row in every epoch. With one, the first student pays for
# one pass, and the others for a few rows of each part of the store, by which the teacher is recognised. So
# students of several sizes cost little more than their own training. All of them are more accurate than the
# largest one that has only the labels. That is one run of one data set; :doc:`/guide/streams` has
# measurements.
#
# In the figure, hatched grey is the time of the teacher: four epochs without a store, one for the first
# student with one, and a fraction for the next two. On the right are the accuracies: the student without
# the teacher is the last, and the forest, a dotted line, is ahead of all.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True, layout="constrained")
names = [run[0] for run in runs]
taught = np.array([run[2] for run in runs])
rest = np.array([run[3] for run in runs])
colors = ["#0072b2" if name.startswith("no teacher") else "#d55e00" for name in names]
left.barh(names, taught, color="#6b7280", hatch="//", edgecolor="white", label="asking the teacher")
left.barh(names, rest, left=taught, color=colors)
left.barh(names[:1], 0, color="#d55e00", label="reading rows and training")
left.set(xlabel="CPU seconds", title="the price of each fit")
left.legend(frameon=False, loc="lower right")
right.axvline(forest.model.score(X[test], y[test]), color="#6b7280", linestyle=":", linewidth=2)
right.text(forest.model.score(X[test], y[test]), -0.7, "the forest", color="#6b7280", ha="center")
for name, color, run in zip(names, colors, runs, strict=True):
    right.plot(run[4], name, "D" if color == "#0072b2" else "o", color=color, markersize=11)
right.set(xlabel="accuracy on new rows", title="what the students know")
right.grid(axis="x", color="0.92")
left.invert_yaxis()
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
plt.show()
