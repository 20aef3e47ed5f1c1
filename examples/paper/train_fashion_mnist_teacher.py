"""Train a teacher for Fashion-MNIST: a CNN of 241,546 parameters on nine tenths of the training images.

Three convolutions of 32, 64 and 128 channels and a hidden layer of 128, as the teacher of
examples/evidence/fashion_mnist.py, learn 54,000 of the 60,000 training images, mirrored at random. A
stratified tenth is held out. SGD with rate 0.02, momentum 0.9, weight decay 5e-4 and a cosine
schedule, batches of 128. Nothing was chosen by accuracies on the test images. ::

    python examples/paper/train_fashion_mnist_teacher.py --out teacher.safetensors

It writes the weights to --out, and accuracies, settings and versions to train_fashion_mnist_teacher.json
beside this file. --quick uses 3,000 images and writes no JSON, for a test. Other scripts load
the trained network with ``load_teacher(path)``. It takes pixels in [0, 1], as
``fetch_fashion_mnist`` returns them.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_model
from sklearn.model_selection import train_test_split
from skorch.callbacks import LRScheduler
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from sklearn_kd import CNNStudent, DistilledClassifier
from sklearn_kd.datasets import fetch_fashion_mnist

sys.path.append(str(Path(__file__).parents[1]))
from _provenance import provenance

NETWORK = {"channels": (32, 64, 128), "hidden": 128}
TRAINING = {
    "optimizer": "SGD", "lr": 0.02, "optimizer__momentum": 0.9, "optimizer__weight_decay": 5e-4,
    "batch_size": 128,
}  # fmt: skip
MEAN, STD = 0.286, 0.353  # of the training images' pixels in [0, 1]
HELD_OUT = 6_000


class FashionTeacher(nn.Module):
    """A large ``CNNStudent`` that normalises the pixels itself, so that students do not have to."""

    def __init__(self, n_classes=10):
        super().__init__()
        self.network = CNNStudent(input_shape=(1, 28, 28), n_classes=n_classes, **NETWORK)

    def forward(self, x):
        return self.network((x - MEAN) / STD)


def load_teacher(path):
    """Load a network that this script has written to ``path``."""
    teacher = FashionTeacher()
    load_model(teacher, path)
    return teacher.eval()


def mirrored(x):
    """Mirror each image of a batch with probability 1/2."""
    flip = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
    return torch.where(flip, x.flip(3), x)


def checked_options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data", metavar="FOLDER", help="folder with fashion-mnist/; default: scikit-learn's"
    )
    parser.add_argument("--out", type=Path, required=True, help="file for the weights: NAME.safetensors")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="use 3,000 images and 2 epochs; write no JSON")
    args = parser.parse_args()
    # Before the training, not after it.
    if args.out.suffix != ".safetensors" or not args.out.parent.is_dir():
        parser.error(f"--out {args.out} must end in .safetensors and be in a folder that exists")
    if args.quick:
        args.epochs = 2
    return args


def record(args, teacher, images, accuracy, seconds):
    training = {"optimizer": "SGD", **TRAINING, "schedule": "cosine", "augment": "mirrored at random"}
    return {
        "settings": {"seed": args.seed, "epochs": args.epochs, **training, **NETWORK},
        **provenance(__file__, safetensors),
        "images": images,
        "parameters": sum(w.numel() for w in teacher.student_.parameters()),
        "accuracy": accuracy,
        "CPU seconds": round(seconds),
        "threads": torch.get_num_threads(),
    }


def main():
    args = checked_options()
    X, y = fetch_fashion_mnist(data_home=args.data, return_X_y=True)
    test = fetch_fashion_mnist(data_home=args.data, subset="test", return_X_y=True)
    X, X_held, y, y_held = train_test_split(X, y, test_size=HELD_OUT, stratify=y, random_state=args.seed)
    if args.quick:
        X, y = X[:3_000], y[:3_000]
    teacher = DistilledClassifier(
        None,
        FashionTeacher,
        meta="none",
        augment=mirrored,
        max_epochs=args.epochs,
        callbacks=[LRScheduler(CosineAnnealingLR, T_max=args.epochs)],
        verbose=1,
        random_state=args.seed,
        **TRAINING,
    )
    began = time.process_time()
    teacher.fit(X, y, X_val=X_held, y_val=y_held)
    seconds = time.process_time() - began
    teacher.export_student(args.out)
    accuracy = {"held out": teacher.score(X_held, y_held), "test": teacher.score(*test)}
    print(f"accuracy {accuracy}, {seconds:.0f} s of CPU time; the weights are in {args.out}")
    if not args.quick:
        images = {"training": len(y), "held out": len(y_held), "test": len(test[1])}
        found = record(args, teacher, images, accuracy, seconds)
        Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
