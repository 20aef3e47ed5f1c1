"""Compare the named losses of logits with "kd" on tables: with their papers' settings, and tuned.

There are five tasks of distillation_tasks.py, and five seeds of split, teacher and training: vehicles (4
classes, 590 rows), vowels (11 classes, 690 rows, a quarter of the labels wrong) and letters (26 classes,
1,000 rows) with a forest that learns from the student's rows, digits (10 classes) with a forest of 600 other
rows, and with 30 % of the labels wrong. The student is an MLP of 64 hidden units, trained for 30 epochs in
batches of 128 rows. Every arm of a split has the same initial weights and the same batches.

The arms are the labels alone, and each loss in two forms. "paper" has its authors' settings for CIFAR-100
(for "mkd", whose temperatures they learn, meta="linear" from S = T = 4). "tuned" has the weight of the
labels, lambda1, that is the best of four on D_val, 15 % of the rows, and trains a fresh student with it on
all rows (for "mkd" it tunes the teacher's temperature, at the lambda1 of "kd"). The rest of "tuned" is as in
"paper".

    OMP_NUM_THREADS=1 python examples/evidence/losses_of_logits.py --tables FOLDER

It prints a table, and writes every run, with settings and versions, to losses_of_logits.json beside this
file. Splits that the file already has, by the same code and settings, are kept. FOLDER has mlbench's .rda
files (see distillation_tasks.py); without it only the tasks of digits are run.
"""

import argparse
import itertools
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from distillation_tasks import TASKS, load_task
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss

from sklearn_kd import DistilledClassifier
from sklearn_kd.meta import Shortlist

sys.path.append(str(Path(__file__).parents[1]))
from _provenance import provenance

SEEDS = range(5)
NAMES = (
    "vehicle",
    "vowel, 25 % flips",
    "digits, teacher of 600 others",
    "digits, 30 % flips",
    "letter, 1,000 rows",
)
TRAINING = {"max_epochs": 30, "batch_size": 128, "lr": 0.01, "student__hidden": 64, "device": "cpu"}
LAMBDAS = (0.05, 0.3, 0.6, 0.9)
SEARCH = {"search_epochs": TRAINING["max_epochs"], "retrain": "fresh", "validation_fraction": 0.15}
# lambda1 = 1 / (1 + w) of CE + w · term, or the authors' two weights divided by their sum.
PAPER = {
    "kd": {"lambda1": 0.1, "temperature": 4.0},
    "dkd": {"lambda1": 0.5, "temperature": 4.0, "loss__alpha": 1.0, "loss__beta": 8.0},
    "nkd": {"lambda1": 0.5, "temperature": 3.0, "loss__gamma": 3.5},
    "dist": {"lambda1": 0.5, "temperature": 4.0, "loss__beta": 2.0, "loss__gamma": 2.0},
    "standardized_kd": {"lambda1": 0.1 / 9.1, "temperature": 2.0},
    "mkd": {"lambda1": 0.1, "loss__student_temperature": 4.0, "loss__teacher_temperature": 4.0},
    "smoothed_kd": {"lambda1": 0.1, "temperature": 4.0, "loss__smoothing": 0.1},
}
TEACHER_TEMPERATURES = (1.0, 2.0, 4.0, 8.0)


def candidates(loss):
    """Return the four settings that D_val chooses from."""
    if loss == "mkd":
        return [{"teacher_temperature": value} for value in TEACHER_TEMPERATURES]
    return [{"lambda1": value} for value in LAMBDAS]


def arms():
    """Return the parameters of each arm by (loss, kind)."""
    found = {("labels", "alone"): {"meta": "none"}}
    for loss, params in PAPER.items():
        searched = {"meta": "linear"} | SEARCH if loss == "mkd" else {"meta": "fixed"}
        found[loss, "paper"] = {"loss": loss} | params | searched
        own = {key: value for key, value in params.items() if key != "lambda1" or loss == "mkd"}
        found[loss, "tuned"] = {"loss": loss, "meta": Shortlist(candidates(loss))} | own | SEARCH
    return found


def run(task, seed):
    """Yield a record for each arm of one split."""
    for (loss, kind), params in arms().items():
        clf = DistilledClassifier(
            task.teacher, task.student, random_state=seed, **TRAINING | task.params | params
        )
        given = {"teacher_logits": task.teacher_logits} if kind != "alone" else {}
        if kind == "alone":
            clf.set_params(teacher=None)
        began = time.perf_counter()
        clf.fit(task.X_train, task.y_train, **given)
        seconds = time.perf_counter() - began
        probabilities = clf.predict_proba(task.X_test)
        yield {
            "task": task.name,
            "seed": seed,
            "loss": loss,
            "kind": kind,
            "accuracy": float(clf.score(task.X_test, task.y_test)),
            "log_loss": float(log_loss(task.y_test, probabilities, labels=clf.classes_)),
            "seconds": round(seconds, 2),
            "metaparameters": {key: float(value) for key, value in clf.metaparameters_.items()},
        }


def summary(runs):
    """Return the accuracies, and paired differences to "kd" of the same kind, with their standard errors."""
    frame = pd.DataFrame(runs)
    frame["accuracy"] *= 100
    kd = frame[frame["loss"] == "kd"].set_index(["task", "seed", "kind"])["accuracy"]
    lines = [f"{'task':32} {'loss':16} {'kind':8} {'accuracy':>14} {'minus kd':>14} {'log loss':>9}"]
    frame["change"] = [
        own.accuracy - kd[own.task, own.seed, "tuned" if own.kind == "alone" else own.kind]
        for own in frame.itertuples()
    ]
    for (task, loss, kind), own in frame.groupby(["task", "loss", "kind"], sort=False):
        change = own["change"]
        error = change.std(ddof=1) / np.sqrt(len(change))
        lines.append(
            f"{task:32} {loss:16} {kind:8} {own['accuracy'].mean():7.2f} ± {own['accuracy'].std():4.2f} "
            f"{change.mean():+7.2f} ± {error:4.2f} {own['log_loss'].mean():9.3f}"
        )
    lines.append("Means over the tasks, and the standard error of the mean over tasks and seeds:")
    for (loss, kind), own in frame.groupby(["loss", "kind"], sort=False):
        change = own["change"]
        error = change.std(ddof=1) / np.sqrt(len(change))
        lines.append(
            f"{'':32} {loss:16} {kind:8} {own['accuracy'].mean():7.2f}        "
            f"{change.mean():+7.2f} ± {error:4.2f} {own['log_loss'].mean():9.3f}"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tables", metavar="FOLDER", help="mlbench's .rda files")
    tables = parser.parse_args().tables
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)  # all have as many epochs, whatever they need
    path = Path(__file__).with_suffix(".json")
    settings = {
        "training": TRAINING, "search": SEARCH, "paper": PAPER, "lambda1": list(LAMBDAS),
        "teacher_temperature": list(TEACHER_TEMPERATURES),
    }  # fmt: skip
    record = {"settings": settings} | provenance(__file__, pd)
    runs = kept_runs(path, record)
    done = {(found["task"], found["seed"]) for found in runs}
    names = NAMES if tables else [name for name in NAMES if TASKS[name].source == "digits"]
    for seed, name in itertools.product(SEEDS, names):
        if (name, seed) not in done:
            runs += run(load_task(name, seed, tables=tables), seed)
            path.write_text(json.dumps(record | {"runs": runs}, indent=1) + "\n", encoding="utf-8")
    print(summary(runs))


def kept_runs(path, record):
    """Return the runs of a file of the same code and settings."""
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    same = all(found["code"][key] == record["code"][key] for key in ("library", "script"))
    return found["runs"] if same and found["settings"] == record["settings"] else []


if __name__ == "__main__":
    main()
