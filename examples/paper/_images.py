"""Load the paper's image sets, build its students and teachers, and run one training on them."""

from __future__ import annotations

import argparse
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import torch
from _networks import answers
from skorch.callbacks import Callback, LRScheduler
from torch import nn
from torch.optim.lr_scheduler import StepLR
from train_fashion_mnist_teacher import load_teacher

from sklearn_kd import CIFARResNet, DistilledClassifier
from sklearn_kd.datasets import fetch_cifar10, fetch_fashion_mnist
from sklearn_kd.meta import PAPER_SETTINGS

# Options for finding the images; no number depends on them.
WHERE = {
    "data": {"metavar": "FOLDER", "help": "folder of the data sets; default: scikit-learn's"},
    "cifar-teacher": {"type": Path, "metavar": "FILE", "help": "weights of a ResNet-20 for CIFAR-10"},
    "fashion-teacher": {
        "type": Path,
        "metavar": "FILE",
        "help": "weights from train_fashion_mnist_teacher.py",
    },
}
# Numbers of training and held-out images, epochs, and rate of the metaparameters, by the paper's text.
SETS = {
    "Fashion-MNIST": {"n_images": 60_000, "epochs": 50, "meta__lr": 0.1},
    "reduced CIFAR-10": {"n_images": 12_800, "epochs": 50, "meta__lr": 0.25},
    "CIFAR-10": {"n_images": 50_000, "epochs": 100, "meta__lr": 0.1},
}
CHANNELS = {"Fashion-MNIST": (1, 8, 16, 128), "reduced CIFAR-10": (3, 8, 16, 32), "CIFAR-10": (3, 8, 16, 32)}
MEAN_SD = {"Fashion-MNIST": ((0.286,), (0.353,))}  # of the training images; the others:
MEAN_SD |= dict.fromkeys(
    ("reduced CIFAR-10", "CIFAR-10"), ((0.4914, 0.4824, 0.4467), (0.2471, 0.2435, 0.2616))
)
# Their rates are in ``SETS``, and their optimizers are the library's defaults.
PAPER = {
    name: value
    for name, value in PAPER_SETTINGS.items()
    if name not in ("optimizer", "meta__optimizer", "meta__lr")
}
HALVINGS = {50: 10, 100: 10}  # epochs: the rate is halved after every so many; else five times in all
METHODS = {
    "none": {"meta": "none"},
    "naive": {"meta": "naive"},
    "random": {"meta": "random"},
    "gradient": {"meta": "gradient"},
    "linear": {"meta": "linear", "meta__form": "values"},
    # hyperopt draws its first 20 trials at random
    "hyperopt": {"meta": "hyperopt", "meta__n_startup_trials": 5},
}


class PaperStudent(nn.Module):
    """The paper's student: three convolutions, each with BatchNorm, and two fully connected layers.

    The 3×3 convolutions have no padding. The student normalises images by ``mean`` and ``sd`` of
    each channel. It lays them out with the channels last, which is faster for convolutions on a CPU.
    """

    def __init__(self, channels, mean, sd, n_classes=10):
        super().__init__()
        layers = []
        for fan_in, fan_out in pairwise(channels):
            layers += [nn.Conv2d(fan_in, fan_out, 3), nn.BatchNorm2d(fan_out), nn.ReLU(), nn.MaxPool2d(2)]
        side = 2 if len(mean) == 3 else 1  # of 32×32 and of 28×28 images, after three layers
        n_features = channels[-1] * side**2
        self.layers = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(n_features, 64), nn.ReLU(), nn.Linear(64, n_classes)
        )
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("sd", torch.tensor(sd).view(-1, 1, 1))
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        """Return logits of shape (B, n_classes)."""
        x = (x - self.mean) / self.sd
        return self.layers(x.contiguous(memory_format=torch.channels_last))


class TestAccuracy(Callback):
    """Record test accuracy after the first and every fifth epoch, as ``test_acc`` in the history."""

    def __init__(self, X, y, epochs):
        self.X, self.y, self.epochs = X, y, epochs

    def on_epoch_end(self, net, **_):
        epoch = len(net.history)
        if epoch == 1 or epoch % 5 == 0 or epoch == self.epochs:
            net.history.record("test_acc", float((net.predict(self.X) == self.y).mean()))


@cache
def images(name: str, data: str | None, teacher: Path) -> tuple:
    """Return (X, y, teacher's logits) of the images for training and D_val, and (X, y) of the test."""
    fetch = partial(
        fetch_fashion_mnist if name == "Fashion-MNIST" else fetch_cifar10, data_home=data, return_X_y=True
    )
    X, y = (part[: SETS[name]["n_images"]] for part in fetch(subset="train"))
    network = load_teacher(teacher) if name == "Fashion-MNIST" else CIFARResNet.from_file(teacher)
    return X, y, answers(network, X), *fetch(subset="test")


def where_of(options: argparse.Namespace) -> dict:
    """Return the options of ``WHERE``."""
    return {name: vars(options)[name] for name in (option.replace("-", "_") for option in WHERE)}


def images_of(name: str, where: dict) -> tuple:
    """Call ``images`` for a set, with the paths of the command line."""
    option = "fashion-teacher" if name == "Fashion-MNIST" else "cifar-teacher"
    teacher = where[option.replace("-", "_")]
    if teacher is None:
        raise ValueError(f"{name} needs a teacher: give --{option} FILE, {WHERE[option]['help']}.")
    return images(name, where["data"], teacher)


def student_of(name: str, **params) -> DistilledClassifier:
    """Return an unfitted student for a set."""
    mean, sd = MEAN_SD[name]
    return DistilledClassifier(
        None,
        PaperStudent,
        student__channels=CHANNELS[name],
        student__mean=mean,
        student__sd=sd,
        **({"optimizer": "SGD"} | params),
    )


def train_as_the_paper(
    name: str, method: str, run: int, epochs: int, where: dict, **params
) -> DistilledClassifier:
    """Make one run of a column of Table 2."""
    X, y, logits, X_test, y_test = images_of(name, where)
    halving = HALVINGS.get(epochs, max(1, epochs // 5))
    student = student_of(
        name,
        max_epochs=epochs,
        callbacks=[
            ("rate", LRScheduler(StepLR, step_size=halving, gamma=0.5)),
            ("test", TestAccuracy(X_test, y_test, epochs)),
        ],
        device="auto",
        random_state=run,
        **(PAPER | METHODS[method] | {"meta__lr": SETS[name]["meta__lr"]} | params),
    )
    return student.fit(X, y, teacher_logits=logits)
