"""Measure the costs of Table 1: passes and seconds by method, on the paper's reduced CIFAR-10.

Gorpinich, Bakhteev, Strijov, "Gradient methods for optimizing metaparameters in the knowledge
distillation problem" (2022), Table 1, compares the cost of the methods by reasoning. Here the student of
the paper, in its protocol (table2_images.py) except for a rate of 0.1, trains for two epochs, nine cycles of
e1 = e2 = 10. The script counts every batch that goes forward or backward through it, and CPU time. The arms
are interleaved in one process; the result is the median of the rounds. Passes are per iteration of one plain
training. The teacher's predictions are not counted: they are computed once for all arms. In all arms D_val
is scored once per epoch, which is the tenth in 1.1 forward passes. Random search and hyperopt
train once more with the best setting.

    OMP_NUM_THREADS=1 python examples/paper/table1_cost.py --cifar-teacher resnet20-cifar10.pt

It prints the table and writes table1_cost.json beside this file. It takes about eight minutes of one core.
"""

from __future__ import annotations

import statistics
import time

import torch
from _images import PAPER, WHERE, PaperStudent, images_of, student_of, where_of
from _networks import PASSES, Counted
from _protocol import Runs, arguments, list_table

ARMS = {
    "none": {"meta": "none"},
    "naive, random": {"meta": "naive"},
    "gradient": {"meta": "gradient"},
    "linear, e1 = e2 = 10": {"meta": "linear"},
    "linear, e1 = 10, e2 = 80": {"meta": "linear", "e2": 80},
    "random search, 5 trials": {"meta": "random", "meta__n_trials": 5},
    "hyperopt, 5 trials": {"meta": "hyperopt", "meta__n_trials": 5},
    "random search, 10 trials": {"meta": "random", "meta__n_trials": 10},
    "hyperopt, 10 trials": {"meta": "hyperopt", "meta__n_trials": 10},
}


class CountedStudent(Counted, PaperStudent):
    """The paper's student, with its passes counted."""


def one_round(number, epochs, **where):
    """Return CPU seconds and passes of each arm; D_val is given, so all arms train on the same images."""
    torch.manual_seed(number)
    X, y, logits, *_ = images_of("reduced CIFAR-10", where)
    n_train = len(X) - len(X) // 10
    found = {}
    # The first fit of a process is slower: the first arm is fitted twice, and its second time counts.
    for arm, method in (("none", ARMS["none"]), *ARMS.items()):
        student = student_of(
            "reduced CIFAR-10",
            max_epochs=epochs,
            device="cpu",
            random_state=number,
            **(PAPER | method | {"lr": 0.1, "meta__lr": 0.25}),
        ).set_params(student=CountedStudent)
        PASSES.clear()
        began = time.process_time()
        student.fit(
            X[:n_train], y[:n_train], teacher_logits=logits[:n_train], X_val=X[n_train:], y_val=y[n_train:]
        )
        found[arm] = {"seconds": time.process_time() - began, **PASSES, "iterations": student.n_iter_}
    return {"arms": found}


def tables(record):
    """Return passes per iteration, and CPU time against naive distillation in the same round."""
    rounds = [run["arms"] for run in record["runs"]]
    rows = []
    for arm in ARMS:
        mine = rounds[0][arm]
        forward, backward = (mine[way] / rounds[0]["none"]["iterations"] for way in ("forward", "backward"))
        ratios = [of[arm]["seconds"] / of["naive, random"]["seconds"] for of in rounds]
        rows.append(
            [
                arm,
                f"{forward:.1f}",
                f"{backward:.1f}",
                f"{statistics.median(of[arm]['seconds'] for of in rounds):.1f}",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f})",
            ]
        )
    return [list_table(["", "forward passes", "backward passes", "CPU seconds", "ratio to naive"], rows)]


def main():
    options = arguments(__doc__, __file__, runs=5, length=("epochs", 2), quick=(1, 1), **WHERE)
    runs = Runs.of_script(options, {"arms": ARMS})
    where = where_of(options)
    wanted = [{"number": number, "epochs": options.epochs} for number in range(options.runs)]
    made = runs.of(one_round, wanted, **where)
    for table in tables({"runs": made}):
        print(table)


if __name__ == "__main__":
    main()
