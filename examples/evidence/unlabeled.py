"""Measure the gain of unlabeled and made-up rows, with a teacher that knows more than the labels or not.

There are two tables and five splits. 30 % of the rows are test rows. Of the others 1,000 have labels for the
student, and the rest have none. A random forest of 200 trees teaches an MLP of 64. It is fitted on all rows
outside the test ("more"), or on the student's 1,000 ("the same"). All fits have about 3,000 iterations of 64
rows, so that more rows do not mean more steps; the other parameters are the library's defaults. Nothing is
tuned.

The methods are the labels alone; the teacher's answers to the labeled rows (naive); to the rows without
labels too; to made-up rows too, two for each row (``synthesize=2.0``); and to both.

    OMP_NUM_THREADS=1 python examples/evidence/unlabeled.py --mlbench FOLDER

It prints a table and writes every run, with settings and versions, to unlabeled.json beside this file. The
folder has mlbench's .rda files, as ``examples/benchmarks/training_defaults.py`` says; pyreadr reads them.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

from sklearn_kd import DistilledClassifier, MLPStudent

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "benchmarks")]
from _provenance import provenance
from _tasks import Folders, source

TABLES = ("letter", "satellite")
SEEDS = range(5)
N_LABELLED, N_ITERATIONS, BATCH_SIZE, N_TREES, N_HIDDEN, SIZE = 1000, 3000, 64, 200, 64, 2.0
TEACHERS = ("more", "the same")
METHODS = ("naive", "unlabeled", "synthesize", "both")


def fit(meta, teacher, X, y, n_per_epoch, seed, rows=None, **params):
    """Fit a student with about so many iterations."""
    clf = DistilledClassifier(
        teacher,
        MLPStudent,
        meta=meta,
        student__hidden=N_HIDDEN,
        batch_size=BATCH_SIZE,
        max_epochs=max(1, round(N_ITERATIONS / n_per_epoch)),
        validation_fraction=0.1,
        search_epochs=None,
        random_state=seed,
        device="cpu",
        **params,
    )
    return clf.fit(X, y, X_unlabeled=rows)


def iterations_per_epoch(n_labelled, n_unlabeled):
    """Return the batches of an epoch, by the kind of rows that lasts longest."""
    if not n_unlabeled:
        return -(-n_labelled // BATCH_SIZE)
    n_without = round(min(0.8, n_unlabeled / (n_labelled + n_unlabeled)) * BATCH_SIZE)
    return max(-(-n_labelled // (BATCH_SIZE - n_without)), -(-n_unlabeled // n_without))


def run(name, seed, folders):
    """Yield a record for each method of one split."""
    X, y = source(name, folders)
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=seed)
    own, X_rest, y_own, _ = train_test_split(X, y, train_size=N_LABELLED, stratify=y, random_state=seed)

    def record(teacher, method, clf, counts=()):
        run_of = {"table": name, "seed": seed, "teacher": teacher, "method": method}
        return (
            run_of
            | {count.strip("_"): int(getattr(clf, count)) for count in counts}
            | {"accuracy": float(clf.score(X_test, y_test))}
        )

    counts = ("n_iter_", "n_unlabeled_")
    per_epoch = iterations_per_epoch(N_LABELLED, 0)
    yield record("", "none", fit("none", None, own, y_own, per_epoch, seed), counts)
    for kind in TEACHERS:
        forest = RandomForestClassifier(N_TREES, random_state=seed)
        forest.fit(*((X, y) if kind == "more" else (own, y_own)))
        yield record(kind, "teacher", forest)
        for method in METHODS:
            rows = X_rest if method in ("unlabeled", "both") else None
            synthesize = SIZE if method in ("synthesize", "both") else None
            n_further = 0 if rows is None else len(rows)
            n_further += round(SIZE * (N_LABELLED + n_further)) if synthesize else 0
            per_epoch = iterations_per_epoch(N_LABELLED, n_further)
            clf = fit(
                "naive", FrozenEstimator(forest), own, y_own, per_epoch, seed, rows, synthesize=synthesize
            )
            yield record(kind, method, clf, counts)


def summary(runs):
    """Return the mean accuracy and its standard error, by table, teacher and method."""
    lines = []
    for name in TABLES:
        for teacher, method in dict.fromkeys((r["teacher"], r["method"]) for r in runs):
            found = [
                r["accuracy"]
                for r in runs
                if (r["table"], r["teacher"], r["method"]) == (name, teacher, method)
            ]
            error = np.std(found, ddof=1) / np.sqrt(len(found))
            lines.append(f"{name:10} {teacher:9} {method:11} {np.mean(found):.4f} ± {error:.4f}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mlbench", required=True, metavar="FOLDER", help="folder of mlbench's .rda files")
    folders = Folders(parser.parse_args().mlbench)
    began, runs = time.perf_counter(), []
    for name in TABLES:
        for seed in SEEDS:
            runs += run(name, seed, folders)
            print(f"{name}, seed {seed}", flush=True)
    print(summary(runs))
    record = {
        **provenance(__file__),
        "settings": {
            "n_labelled": N_LABELLED, "n_iterations": N_ITERATIONS, "batch_size": BATCH_SIZE,
            "n_trees": N_TREES, "n_hidden": N_HIDDEN, "synthesize": SIZE,
        },
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - began),
        "runs": runs,
    }  # fmt: skip
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"{record['seconds']} s")


if __name__ == "__main__":
    main()
