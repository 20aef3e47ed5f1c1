"""Transfer processes that were searched on CIFAR-10 to CIFAR-100, on two cores.

Students on CIFAR-100 follow the processes of distpro_cifar10.json. A ResNet-20 teaches a ResNet-8 on 10,000
images, which are also averaged down to 16×16. The other arms are the student alone,
pathways of equal weight, and a process that is searched on CIFAR-100 itself, with its mean over time.
All other settings, including the weight of each arm, are those of distpro_cifar10.py or were chosen by it, so
nothing is tuned on CIFAR-100. The transferred process has DistPro's weight. Its search is counted as a
cost, although it had already been made.

The teacher is trained on all 50,000 small images for ten epochs.

    OMP_NUM_THREADS=1 python examples/paper/distpro_transfer.py --jobs 2

It prints the tables. It writes every run to distpro_transfer.json and the teacher to
distpro_transfer_teacher.pt, beside this file or in --out.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import _distpro
from _distpro import (
    TRANSFERRED,
    Experiment,
    common_settings,
    digest,
    digest_of,
    key,
    run_of,
)
from _protocol import Runs, arguments
from distpro_cifar10 import PLAN, small_teacher, task_of

from sklearn_kd import CIFARResNet
from sklearn_kd.datasets import fetch_cifar100

TEACHER_DEPTH, TEACHER_EPOCHS = 20, 10
OF_EACH_ITS_OWN = ("none", "equal", "mean", "DistPro")


class Transfer(Experiment):
    """Run the arms at the weights that were chosen for CIFAR-10, with its processes.

    Parameters
    ----------
    runs, one_run, options, **given
        As in :class:`Experiment`.
    taken : dict
        Weights and processes from the record of ``distpro_cifar10.py``, by :func:`taken_from`.
    """

    def __init__(self, runs, one_run, options, taken, **given):
        super().__init__(runs, one_run, options, transfers=True, **given)
        self.chosen, self.processes = taken["chosen"], dict(taken["processes"])

    def carry_out(self):
        """Make all runs, and the searches on CIFAR-10 whose processes are followed."""
        wanted = [
            self.wanted(arm, weight, seed)
            for seed in range(self.options.runs)
            for arm, weight in self.chosen.items()
        ]
        made = self.train(wanted)
        searched = {key(*of.search): self.processes[key(*of.search)] for of in wanted if of.search}
        followed = [run for run in searched.values() if run["setting"]["of"] == "elsewhere"]
        own = [run for run in searched.values() if run not in followed]
        return {"chosen": self.chosen, "runs": [*made, *own], "followed": followed}


def taken_from(searched):
    """Return the chosen weights and the processes in a record of ``distpro_cifar10.py``."""
    chosen = {arm: searched["chosen"][arm] for arm in OF_EACH_ITS_OWN}
    chosen[TRANSFERRED] = chosen["DistPro"]
    processes = {}
    for run in searched["runs"]:
        setting = run["setting"]
        if setting["what"] == "search" and setting["of"] == "gradient":
            found = {name: value for name, value in run.items() if name != "code"}  # a place in that record
            place = key("elsewhere", setting["weight"], setting["seed"])
            processes[place] = found | {"setting": setting | {"of": "elsewhere"}}
    return {"chosen": chosen, "processes": processes}


def one_run(images, processes, data, teacher, **setting):
    return run_of(lambda where: task_of(data, images, teacher, fetch_cifar100), PLAN, processes, **setting)


def tables(record):
    """Return the tables of distpro_cifar10.py, with the searches on CIFAR-10 counted."""
    return _distpro.tables(record | {"runs": [*record["runs"], *record["followed"]]})


def main():
    options = arguments(
        __doc__,
        __file__,
        runs=3,
        length=("epochs", 12),
        quick=(2, 1),
        searched={
            "type": Path,
            "metavar": "FILE",
            "help": "record of distpro_cifar10.py; default: beside this script",
        },
        data={"metavar": "FOLDER", "help": "folder of CIFAR-100; default: scikit-learn's"},
        images={"type": int, "help": "number of training images; default 10000"},
    )
    options.images = options.images or (2000 if options.quick else 10_000)
    options.search_epochs = max(1, options.epochs // 2)
    searched = options.searched or Path(__file__).with_name("distpro_cifar10.json")
    taken = taken_from(json.loads(searched.read_text()))
    with tempfile.TemporaryDirectory() as temporary:
        teacher, accuracy = small_teacher(
            (options.json.parent if options.json else Path(temporary)) / "distpro_transfer_teacher.pt",
            options,
            fetch_cifar100,
            lambda: CIFARResNet,
            TEACHER_EPOCHS,
            student__depth=TEACHER_DEPTH,
        )
        settings = common_settings(PLAN) | {"teacher": digest(teacher), "teacher_accuracy": accuracy}
        runs = Runs.of_script(options, settings | {"searched": digest_of(taken)})
        found = Transfer(runs, one_run, options, taken, data=options.data, teacher=teacher).carry_out()
        runs.write(chosen=found["chosen"], followed=found["followed"])
    print(f"the teacher: {accuracy:.4f}\n")
    for table in tables(found):
        print(table)


if __name__ == "__main__":
    main()
