"""Choose the defaults by validation rows: start, s(T), T_val, the metaparameters' steps, the student's rate.

A student is trained with the defaults of that time: ``DistilledClassifier(teacher, student)`` with
meta="linear", SGD of rate 0.1 in batches of 128, an MLPStudent of width 32, and 200 epochs. Then one or two
of these are changed: the start of T, the rate and the optimizer of the metaparameters, s(T), T_val, the
student's rate. The nine situations are digits, clean, with 40 % of the labels flipped, with all of the
teacher's predictions wrong, and with half of them wrong; synthetic tabular data, clean and flipped; breast
cancer; and 2,000 images of Fashion-MNIST, clean and flipped, for only 30 epochs. With right labels and the
right teacher, D_val is the tenth of the student's rows that ``fit`` holds out, while fixed (.5, 4) trains on
all of them. Otherwise D_val is passed with right labels.

Candidates are evaluated on rows that are in neither the student's rows nor D_val. The test rows of the draws
are never predicted. Each seed splits digits and breast cancer anew, so an evaluation row may be a
test row in a draw elsewhere. The evaluation images are training images.

    OMP_NUM_THREADS=1 python examples/paper/defaults.py --fashion-teacher teacher.safetensors

It prints the table and writes every run to defaults.json beside this file.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from _images import WHERE, where_of
from _problems import STUDENTS, TRAINING, WIDTH, draw
from _protocol import Runs, arguments, list_table, number, paired

from sklearn_kd import DistilledClassifier, MLPStudent

SITUATIONS = {
    "digits": {"name": "digits"},
    "digits, flipped": {"name": "digits", "flipped": 0.4},
    "digits, teacher half wrong": {"name": "digits", "wrong": 0.5},
    "digits, teacher wrong": {"name": "digits", "wrong": 1.0},
    "tabular": {"name": "tabular"},
    "tabular, flipped": {"name": "tabular", "flipped": 0.4},
    "breast cancer": {"name": "breast cancer"},
    "Fashion-MNIST": {"name": "Fashion-MNIST"},
    "Fashion-MNIST, flipped": {"name": "Fashion-MNIST", "flipped": 0.4},
}
EPOCHS = {"Fashion-MNIST": 30, "Fashion-MNIST, flipped": 30}  # the others: the library's 200
RATES = (0.03, 0.1, 0.3)
ADAM = {"meta__optimizer": torch.optim.Adam}
FROM_4 = {"temperature": 4.0}
CANDIDATES = (
    {f"fixed (.5, 4), lr {lr}": {"meta": "fixed", "lr": lr} | FROM_4 for lr in RATES}
    | {f"naive, lr {lr}": {"meta": "naive", "lr": lr} for lr in RATES}
    | {
        "the defaults": {},
        "lr 0.03": {"lr": 0.03},
        "lr 0.3": {"lr": 0.3},
        "T from 2": {"temperature": 2.0},
        "T from 4": FROM_4,
        "T from 4, lr 0.03": FROM_4 | {"lr": 0.03},
        "T from 4, lr 0.3": FROM_4 | {"lr": 0.3},
        "meta_lr 0.3": {"meta__lr": 0.3},
        "meta_lr 3": {"meta__lr": 3.0},
        "T from 4, meta_lr 0.3": FROM_4 | {"meta__lr": 0.3},
        "T from 4, meta_lr 3": FROM_4 | {"meta__lr": 3.0},
        "T from 4, Adam 0.01": FROM_4 | ADAM | {"meta__lr": 0.01},
        "T from 4, Adam 0.03": FROM_4 | ADAM | {"meta__lr": 0.03},
        "T from 4, Adam 0.1": FROM_4 | ADAM | {"meta__lr": 0.1},
        "s(T) = 1": {"loss__temperature_scaling": "none"},
        "T from 4, s(T) = 1": FROM_4 | {"loss__temperature_scaling": "none"},
        "T_val auto": {"meta__val_temperature": "auto"},
        "T from 4, T_val auto": FROM_4 | {"meta__val_temperature": "auto"},
    }
)
SINGLE_RUN = {"meta": "linear", "search_epochs": None, "validation_fraction": 0.1}
BASELINE = "fixed (.5, 4), lr 0.1"


def one_run(situation, candidate, seed, epochs, **where):
    """Return the accuracy on the evaluation rows."""
    of = SITUATIONS[situation]
    given = where if of["name"] == "Fashion-MNIST" else {}
    problem = draw(**of, seed=seed, **given)
    student = DistilledClassifier(
        None,
        STUDENTS[of["name"]],
        max_epochs=epochs or EPOCHS.get(situation, 200),
        random_state=seed,
        device="cpu",
        **(
            SINGLE_RUN
            | TRAINING
            | (WIDTH if STUDENTS[of["name"]] is MLPStudent else {})
            | CANDIDATES[candidate]
        ),
    )
    X, y = problem.train
    if len(of) > 1:
        X_val, y_val = problem.valid
        student.fit(X, y, teacher_logits=problem.logits, X_val=X_val, y_val=y_val)
    else:
        X, y = (np.concatenate(both) for both in zip(problem.train, problem.valid, strict=True))
        student.fit(X, y, teacher_logits=np.concatenate([problem.logits, problem.valid_logits]))
    return {
        "accuracy": student.score(*problem.judge),
        "lambda1": round(student.lambda1_, 4),
        "temperature": round(student.temperature_, 4),
    }


def wanted(options):
    for situation, of in SITUATIONS.items():
        if of["name"] == "Fashion-MNIST" and options.fashion_teacher is None:
            continue
        runs = options.runs if of["name"] != "Fashion-MNIST" else max(1, options.runs // 3)
        for seed in range(runs):
            for candidate in CANDIDATES:
                yield {"situation": situation, "candidate": candidate, "seed": seed, "epochs": options.epochs}


def by_candidate(runs):
    """Return candidate → situation → accuracy of each draw."""
    cells = defaultdict(lambda: defaultdict(list))
    for run in runs:
        cells[run["setting"]["candidate"]][run["setting"]["situation"]].append(run["accuracy"])
    return cells


def tables(record):
    """Return the mean difference to fixed (.5, 4) by situation, and the mean and the worst of these."""
    cells = by_candidate(record["runs"])
    base = cells[BASELINE]
    rows = []
    for candidate, situations in cells.items():
        differences = [
            paired(accuracy, base[situation])["mean"] for situation, accuracy in situations.items()
        ]
        if candidate == BASELINE:
            shown = [number(np.mean(accuracy)) for accuracy in base.values()]
        else:
            shown = [number(difference, sign=True) for difference in differences]
        rows.append(
            [candidate, *shown, number(np.mean(differences), sign=True), number(min(differences), sign=True)]
        )
    return [list_table(["", *base, "mean", "worst"], rows)]


def main():
    options = arguments(__doc__, __file__, runs=6, length=("epochs", None), quick=(1, 2), **WHERE)
    runs = Runs.of_script(options, {"candidates": {c: str(of) for c, of in CANDIDATES.items()}})
    made = runs.of(one_run, wanted(options), options.jobs, **where_of(options))
    for table in tables({"runs": made}):
        print(table)


if __name__ == "__main__":
    main()
