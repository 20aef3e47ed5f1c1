"""Search a process of DistPro on a part of CIFAR-10, and draw the weight of each pathway over the training.

A trained ResNet-20 teaches a ResNet-8 on a part of CIFAR-10, by its feature maps. Nine pathways
connect the three stages of the teacher with those of the student. "equal weights" gives each of them 1/9
throughout. DistPro first searches how the weights should change over the training, on a
student that is discarded. Then a fresh student follows the learned process. The picture shows the
process, with a panel for each stage of the teacher and a line for each pathway. ::

    python examples/paper/distpro_quick.py --teacher resnet20-cifar10.pt

It takes about four minutes on one core. The teacher's weights are those of a
CIFARResNet, saved by torch.save. fetch_cifar10 reads the images from scikit-learn's data folder, or from
--data FOLDER. The accuracies come from one run on few images: they show that the method works, not which
method is best. distpro_cifar10.py compares the methods. The picture is written
beside this file, or to --out.
"""

import argparse
import time
from pathlib import Path

import matplotlib
import numpy as np
from skorch.callbacks import LRScheduler
from torch.optim.lr_scheduler import CosineAnnealingLR

from sklearn_kd import CIFARResNet, DistilledClassifier, DistProClassifier, ProcessDisplay
from sklearn_kd.datasets import fetch_cifar10


def cosine(epochs):
    return [("rate", LRScheduler(CosineAnnealingLR, T_max=epochs))]


def students(teacher, args):
    """Return the unfitted students by method."""
    training = {
        "student__depth": 8,
        "optimizer": "SGD",
        "lr": 0.1,
        "batch_size": 128,
        "optimizer__momentum": 0.9,
        "optimizer__weight_decay": 5e-4,
        "max_epochs": args.epochs,
        "callbacks": cosine(args.epochs),
        "random_state": args.seed,
    }
    maps = training | {"transforms": ["conv2"]}
    return {
        "none": DistilledClassifier(None, CIFARResNet, meta="none", **training),
        "equal weights": DistProClassifier(teacher, CIFARResNet, weights="equal", **maps),
        "DistPro": DistProClassifier(
            teacher,
            CIFARResNet,
            search_epochs=args.search_epochs,
            search_callbacks=cosine(args.search_epochs),
            verbose=1,
            **maps,
        ),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--teacher", type=Path, required=True, metavar="FILE", help="weights of a CIFAR ResNet"
    )
    parser.add_argument("--data", metavar="FOLDER", help="folder of CIFAR-10; default: scikit-learn's")
    parser.add_argument("--images", type=int, default=2_560, help="number of training images; default 2560")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--search-epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, metavar="FOLDER")
    args = parser.parse_args()
    X, y = fetch_cifar10(data_home=args.data, subset="train", return_X_y=True)
    X_test, y_test = fetch_cifar10(data_home=args.data, subset="test", return_X_y=True)
    rows = np.random.default_rng(args.seed).permutation(len(X))[: args.images]
    teacher = CIFARResNet.from_file(args.teacher)

    for method, student in students(teacher, args).items():
        began = time.perf_counter()
        student.fit(X[rows], y[rows])
        seconds = time.perf_counter() - began
        print(f"{method:14} accuracy {student.score(X_test, y_test):.4f}   {seconds:.0f} s", flush=True)
    ran = student.history_[:, "pathways"]
    print(f"pathways computed per step: {ran[0]:.1f} in the first epoch, {ran[-1]:.1f} in the last")

    matplotlib.use("Agg")
    display = ProcessDisplay.from_estimator(student)
    file = args.out / Path(__file__).with_suffix(".png").name
    display.figure_.savefig(file, dpi=120)
    print(f"the process: {file.name}")


if __name__ == "__main__":
    main()
