"""Compare DistPro with its baselines on one GPU: CIFAR-100, 27 pathways, and a process from CIFAR-10.

Deng, Sun, Newsam and Wang, "DistPro: Searching a fast knowledge distillation process via meta optimization"
(ECCV 2022). The arms, the choice of their weights, pairs and costs are those of distpro_cifar10.py. One more
arm follows a process that was searched on CIFAR-10, at DistPro's weight. A ResNet-56 teaches a ResNet-20 (the
paper has a WRN-40-2 and a WRN-16-2) on all 50,000 images, by pathways conv1, conv2 and conv3 between all
stages, in 30 epochs after a search of 10, with three seeds. Data and augmentation are on the GPU.

The teacher of CIFAR-100 is trained first, for --teacher-epochs, unless --teacher names one. The teacher of
CIFAR-10 is a trained ResNet-56.

    python examples/paper/distpro_cifar100.py --cifar10-teacher resnet56-cifar10.pt

It prints the tables. It writes every run to distpro_cifar100.json and the trained teacher to
distpro_cifar100_teacher.pt, beside this file or in --out.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from _distpro import Experiment, Plan, Task, common_settings, digest, run_of, tables, train_teacher
from _networks import accuracy_of
from _protocol import Runs, arguments

from sklearn_kd import CIFARResNet
from sklearn_kd.datasets import fetch_cifar10, fetch_cifar100

PLAN = Plan(transforms=("conv1", "conv2", "conv3"), pad=4, warm_up=3)
STUDENT_DEPTH, TEACHER_DEPTH = 20, 56
FEW = 5_000


@cache
def images_of(name, data, images):
    """Return (X, y, X_test, y_test), with at most ``images`` rows in each split.

    A small subset has only the first ten classes, so that no class is missing.
    """
    fetch, parts = {"CIFAR-10": fetch_cifar10, "CIFAR-100": fetch_cifar100}[name], []
    for subset in ("train", "test"):
        X, y = fetch(data_home=data, subset=subset, return_X_y=True)
        rows = np.flatnonzero(y < (10 if images < FEW else 100))[:images]
        parts += [X[rows], y[rows]]
    return tuple(parts)


def trained_teacher(options, folder):
    """Return the file of the teacher for CIFAR-100, trained if it is missing."""
    file = options.teacher or folder / "distpro_cifar100_teacher.pt"
    if not file.exists() or (options.anew and not options.teacher):
        X, y, *_ = images_of("CIFAR-100", options.data, options.images)
        train_teacher(file, PLAN, CIFARResNet, X, y, options.teacher_epochs, student__depth=TEACHER_DEPTH)
    return file


@cache
def task_of(name, data, images, teacher):
    return Task(*images_of(name, data, images), CIFARResNet.from_file(teacher), STUDENT_DEPTH)


def one_run(images, processes, data, teacher, cifar10_teacher, **setting):
    def tasks(where):
        name, file = ("CIFAR-100", teacher) if where == "here" else ("CIFAR-10", cifar10_teacher)
        return task_of(name, data, images, file)

    return run_of(tasks, PLAN, processes, **setting)


def main():
    options = arguments(
        __doc__,
        __file__,
        runs=3,
        length=("epochs", 30),
        quick=(2, 1),
        teacher={"type": Path, "metavar": "FILE", "help": "weights of a CIFAR ResNet for CIFAR-100"},
        data={"metavar": "FOLDER", "help": "folder of the data sets; default: scikit-learn's"},
        images={"type": int, "help": "number of training images; default: all"},
        **{
            "cifar10-teacher": {
                "type": Path,
                "required": True,
                "metavar": "FILE",
                "help": "weights for CIFAR-10",
            },
            "teacher-epochs": {"type": int, "help": "epochs of the teacher; default 60"},
        },
    )
    options.images = options.images or (256 if options.quick else 50_000)
    options.teacher_epochs = options.teacher_epochs or (1 if options.quick else 60)
    options.search_epochs = max(1, options.epochs // 3)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.json.parent if options.json else Path(temporary)
        files = {"teacher": trained_teacher(options, folder), "cifar10_teacher": options.cifar10_teacher}
        _, _, X_test, y_test = images_of("CIFAR-100", options.data, options.images)
        accuracy = accuracy_of(CIFARResNet.from_file(files["teacher"]), X_test, y_test)
        settings = common_settings(PLAN) | {name: digest(file) for name, file in files.items()}
        runs = Runs.of_script(options, settings | {"teacher_accuracy": accuracy})
        experiment = Experiment(runs, one_run, options, transfers=True, data=options.data, **files)
        found = experiment.carry_out()
        runs.write(chosen=found["chosen"])
    print(f"the teacher: {accuracy:.4f}\n")
    for table in tables(found):
        print(table)


if __name__ == "__main__":
    main()
