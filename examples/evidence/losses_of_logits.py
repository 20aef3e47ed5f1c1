"""The losses of logits that have names, against "kd", on tables: with their papers' settings, tuned, learned.

Five tasks of distillation_tasks.py, five seeds of split, teacher and training: letters (26 classes) with a
forest that learns from the same 1,000 rows, with a forest of 4,000 other rows, and with 30 % of 2,000 labels
wrong; digits (10 classes) with a forest of 600 other rows, and with 30 % of the labels wrong. The student is
an MLP of 64 hidden units, trained for 40 epochs; every arm of a split has the same first weights and the same
batches.

Arms: the labels alone; each loss with what its authors take on CIFAR-100 ("paper"; "mkd", whose
temperatures are learned there, has none); each loss with the weight of its labels, lambda1, the best of
four on D_val, 15 % of the rows ("tuned"; of "mkd" the teacher's temperature, at the lambda1 of "kd"); each
loss with all its metaparameters learned on D_val by meta="linear" ("learned"). The last two start from
"paper", search for 40 epochs, and train a fresh student on all rows then.

    OMP_NUM_THREADS=1 python examples/evidence/losses_of_logits.py --tables FOLDER

prints a table, and writes every run, with settings and versions, to losses_of_logits.json beside this file.
FOLDER has mlbench's .rda files (see distillation_tasks.py); without it the tasks of letters are left out.
"""

import argparse
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
    "letter, 1,000 rows",
    "letter, teacher of 4,000 others",
    "letter, 30 % flips",
    "digits, teacher of 600 others",
    "digits, 30 % flips",
)
TRAINING = {"max_epochs": 40, "student__hidden": 64, "device": "cpu"}
LAMBDAS = (0.05, 0.3, 0.6, 0.9)
SEARCH = {"search_epochs": TRAINING["max_epochs"], "retrain": "fresh", "validation_fraction": 0.15}
# lambda1 = 1 / (1 + w) of CE + w · term, or the authors' two weights divided by their sum.
PAPER = {
    "kd": {"lambda1": 0.1, "temperature": 4.0},
    "dkd": {"lambda1": 0.5, "temperature": 4.0, "loss__alpha": 1.0, "loss__beta": 8.0},
    "nkd": {"lambda1": 0.5, "temperature": 1.0, "loss__gamma": 1.5},
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
        if loss != "mkd":
            found[loss, "paper"] = {"loss": loss, "meta": "fixed"} | params
        own = {key: value for key, value in params.items() if key != "lambda1" or loss == "mkd"}
        found[loss, "tuned"] = {"loss": loss, "meta": Shortlist(candidates(loss))} | own | SEARCH
        found[loss, "learned"] = {"loss": loss, "meta": "linear"} | params | SEARCH
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
    for (task, loss, kind), own in frame.groupby(["task", "loss", "kind"], sort=False):
        against = kd.loc[task].xs("tuned" if kind == "alone" else kind, level="kind").loc[own["seed"]]
        change = own["accuracy"].to_numpy() - against.to_numpy()
        error = change.std(ddof=1) / np.sqrt(len(change))
        lines.append(
            f"{task:32} {loss:16} {kind:8} {own['accuracy'].mean():7.2f} ± {own['accuracy'].std():4.2f} "
            f"{change.mean():+7.2f} ± {error:4.2f} {own['log_loss'].mean():9.3f}"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tables", metavar="FOLDER", help="mlbench's .rda files")
    tables = parser.parse_args().tables
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)  # all have as many epochs, whatever they need
    warnings.filterwarnings("ignore", message=".*hardly learned|.*still fell")
    began, runs = time.perf_counter(), []
    settings = {"training": TRAINING, "paper": PAPER, "lambda1": LAMBDAS, "T of mkd": TEACHER_TEMPERATURES}
    for name in NAMES if tables else [name for name in NAMES if TASKS[name].source == "digits"]:
        for seed in SEEDS:
            runs += run(load_task(name, seed, tables=tables), seed)
            result = {"seconds": round(time.perf_counter() - began), "settings": settings, "runs": runs}
            path = Path(__file__).with_suffix(".json")
            path.write_text(json.dumps(result | provenance(__file__, pd), indent=1) + "\n", encoding="utf-8")
        print(summary([found for found in runs if found["task"] == name]), flush=True)


if __name__ == "__main__":
    main()
