"""Measure the memory of a search and the size of pickles with a large network as the teacher.

A module of 400 MB is the teacher in a GridSearchCV of 3 folds and 2 candidates, in one
process: once shared by the clones, the library's way, and once copied by every clone,
scikit-learn's default. Each variant runs in a fresh process, which reports the rise of its peak
resident memory during the search. Then a fitted estimator is pickled, with its teacher
and with ``keep_teacher=False``.

    python examples/evidence/teacher_memory.py

It writes teacher_memory.json beside this file.
"""

import json
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import GridSearchCV

from sklearn_kd import DistilledClassifier, MLPStudent
from sklearn_kd._sklearn_compat import clone_by_parameters
from sklearn_kd.estimators._base import BaseDistiller

sys.path.append(str(Path(__file__).parents[1]))
from _provenance import provenance

MEGABYTES = 400


class LargeTeacher(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(MEGABYTES * 250_000))
        self.out = torch.nn.Linear(8, 3)

    def forward(self, x):
        return self.out(x) * self.weight[0]


def classifier(**params):
    return DistilledClassifier(
        LargeTeacher(), MLPStudent, meta="linear", validation_fraction=0.1, search_epochs=None, max_epochs=2,
        batch_size=32, device="cpu", random_state=0, **params,
    )  # fmt: skip


def rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(90, 8)).astype(np.float32), np.arange(90) % 3


def peak():
    """Return the peak resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def search(clones):
    if clones == "copied":
        BaseDistiller.__sklearn_clone__ = clone_by_parameters
    clf = classifier()
    clf.fit(*rows())
    before = peak()
    GridSearchCV(clf, {"lr": [0.01, 0.1]}, cv=3).fit(*rows())
    return peak() - before


def main():
    if len(sys.argv) > 1:
        return print(search(sys.argv[1]))
    found = {**provenance(__file__), "teacher, MB": MEGABYTES}
    for clones in ("shared", "copied"):
        done = subprocess.run([sys.executable, __file__, clones], capture_output=True, text=True, check=True)
        found[f"extra peak memory of the search, MiB, {clones}"] = round(float(done.stdout), 1)
    for keep in (True, False):
        clf = classifier(keep_teacher=keep).fit(*rows())
        found[f"pickle, bytes, keep_teacher={keep}"] = len(pickle.dumps(clf))
    print(json.dumps(found, indent=1))
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
