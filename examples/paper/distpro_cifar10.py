"""Compare DistPro with its baselines on two cores: accuracy and cost of a searched process.

Deng, Sun, Newsam and Wang, "DistPro: Searching a fast knowledge distillation process via meta optimization"
(ECCV 2022). A ResNet-20 teaches a ResNet-8 on 10,000 images of CIFAR-10, averaged down to 16×16, by nine
conv2 pathways, in 12 epochs after a search of 6, with three seeds. The teacher is a ResNet-20 trained on
images of 32×32, and for five more epochs on all 50,000 small ones.

The arms are:

- the student alone;
- its teacher's logits (KD, T = 4);
- pathways of equal weight;
- ReviewKD's fusion blocks (_reviewkd.py, warmed up over the first epoch);
- DistPro; the mean over time of its process; its last weights throughout; the process backwards;
- DistPro with a search that predicts ten of twenty steps;
- DistPro with lambda1 and T learned beside the pathways. Its control, "DistPro, lambda1 and T fixed", fixes
  both at the start of the learned ones, 0.5 and 4, which is also KD's choice;
- equal and last weights again, at the sum of DistPro's weights. (The mean and the process backwards
  already have this sum.)

Each arm's weight is the best of four (of three for KD) on a fifth of the training images, the same fifth for
all arms. Nothing is chosen by the test images. The arms of a seed have the same initial
weights, batches and augmentation (crops and mirrors; D_val of a search has none), so differences are
paired. Accuracy is that of the last epoch. The cost of a search is counted, in seconds and in passes through
the student.

    OMP_NUM_THREADS=1 python examples/paper/distpro_cifar10.py --jobs 2 --teacher resnet20-cifar10.pt

It prints the tables. It writes every run to distpro_cifar10.json and the teacher of small images to
distpro_cifar10_teacher.pt, beside this file or in --out.
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
from sklearn_kd.datasets import fetch_cifar10

PLAN = Plan(transforms=("conv2",), pad=2, warm_up=1)
STUDENT_DEPTH, TEACHER_EPOCHS = 8, 5


def pooled(X):
    """Return the means of 2×2 pixels."""
    n, c, h, w = X.shape
    return X.reshape(n, c, h // 2, 2, w // 2, 2).mean(axis=(3, 5), dtype=np.float32)


@cache
def small_images(data, fetch=fetch_cifar10):
    """Return (X, y, X_test, y_test) of a data set, the training images in a random order."""
    (X, y), (X_test, y_test) = (
        fetch(data_home=data, subset=subset, return_X_y=True) for subset in ("train", "test")
    )
    order = np.random.default_rng(0).permutation(len(X))
    return pooled(X)[order], y[order], pooled(X_test), y_test


def small_teacher(file, options, fetch, start, epochs, **params):
    """Return the file of a teacher for small images, trained if it is missing, and its accuracy.

    ``start()`` returns the network to train; ``params`` are parameters of the training.
    """
    X, y, X_test, y_test = small_images(options.data, fetch)
    if not file.exists() or options.anew:
        if options.quick:
            X, y, epochs = X[: options.images], y[: options.images], 1
        train_teacher(file, PLAN, start(), X, y, epochs, **params)
    return file, accuracy_of(CIFARResNet.from_file(file), X_test, y_test)


def teacher_of(options, folder):
    """Return the file of the teacher for small CIFAR-10 images, trained if missing, and its accuracy."""
    return small_teacher(
        folder / "distpro_cifar10_teacher.pt",
        options,
        fetch_cifar10,
        lambda: CIFARResNet.from_file(options.teacher),
        TEACHER_EPOCHS,
        lr=0.01,
    )


@cache
def task_of(data, images, teacher, fetch=fetch_cifar10):
    X, y, X_test, y_test = small_images(data, fetch)
    parts = (part[:images] for part in (X, y, X_test, y_test))
    return Task(*parts, CIFARResNet.from_file(teacher), STUDENT_DEPTH)


def one_run(images, processes, data, teacher, **setting):
    return run_of(lambda where: task_of(data, images, teacher), PLAN, processes, **setting)


def main():
    options = arguments(
        __doc__,
        __file__,
        runs=3,
        length=("epochs", 12),
        quick=(2, 1),
        teacher={"type": Path, "required": True, "metavar": "FILE", "help": "weights of a ResNet-20"},
        data={"metavar": "FOLDER", "help": "folder of CIFAR-10; default: scikit-learn's"},
        images={"type": int, "help": "number of training images; default 10000"},
    )
    options.images = options.images or (256 if options.quick else 10_000)
    options.search_epochs = max(1, options.epochs // 2)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.json.parent if options.json else Path(temporary)
        teacher, accuracy = teacher_of(options, folder)
        settings = common_settings(PLAN) | {"teacher": digest(teacher), "teacher_accuracy": accuracy}
        runs = Runs.of_script(options, settings)
        found = Experiment(runs, one_run, options, data=options.data, teacher=teacher).carry_out()
        runs.write(chosen=found["chosen"])
    print(f"the teacher of small images: {accuracy:.4f}\n")
    for table in tables(found):
        print(table)


if __name__ == "__main__":
    main()
