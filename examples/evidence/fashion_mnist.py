"""Compare the methods on Fashion-MNIST, where a large CNN teaches the paper's small one.

The teacher (three convolutions of 32, 64 and 128 channels) and the students (8, 16 and 16)
train on the same images, 6,000 of the 60,000 without --full. All 10,000
test images are used. Each method runs with --runs seeds. A seed sets the images, the split, the
initial weights and the batches; all methods of a seed share its teacher. The optimizer is SGD with
rate 0.02 (at 0.05 the student with T = 4 fixed collapses: T² = 16 times the soft gradient),
momentum 0.9 and a cosine schedule. ::

    python examples/evidence/fashion_mnist.py

fetch_fashion_mnist reads the images from scikit-learn's data folder, or from
--data FOLDER, and downloads them if they are missing. The Debian package dataset-fashion-mnist has
them (--data /usr/share/datasets). The results and the picture are written beside this file.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
from skorch.callbacks import LRScheduler
from torch.optim.lr_scheduler import CosineAnnealingLR

from sklearn_kd import CNNStudent, DistilledClassifier, MetaparameterPathDisplay
from sklearn_kd.datasets import fetch_fashion_mnist

sys.path.append(str(Path(__file__).parents[1]))
from _provenance import provenance

METHODS = {
    "none": {"meta": "none"},
    "naive": {"meta": "naive"},
    "random": {"meta": "random"},
    "fixed (.5, 4)": {"meta": "fixed", "temperature": 4.0},
    "gradient": {"meta": "gradient"},
    "linear": {"meta": "linear"},
    "linear, auto": {"meta": "linear", "meta__val_temperature": "auto"},
    "hyperopt": {"meta": "hyperopt"},
}


def load(data_home, subset):
    """Return (X, y) of the 60,000 training or the 10,000 test images, standardised."""
    X, y = fetch_fashion_mnist(data_home=data_home, subset=subset, return_X_y=True)
    return (X - 0.286) / 0.353, y


def network(seed, epochs, **params):
    return DistilledClassifier(
        params.pop("teacher", None),
        CNNStudent,
        optimizer="SGD",
        lr=0.02,
        optimizer__momentum=0.9,
        optimizer__weight_decay=5e-4,
        max_epochs=epochs,
        batch_size=128,
        validation_fraction=0.1,
        search_epochs=None,
        callbacks=[LRScheduler(CosineAnnealingLR, T_max=epochs)],
        random_state=seed,
        **params,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data", metavar="FOLDER", help="folder with fashion-mnist/; default: scikit-learn's"
    )
    parser.add_argument("--full", action="store_true", help="train on all 60,000 images")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    args = parser.parse_args()
    (X_all, y_all), test = load(args.data, "train"), load(args.data, "test")
    runs, paths = [], []
    for seed in range(args.runs):
        rows = np.random.default_rng(seed).permutation(60_000)[: 60_000 if args.full else 6_000]
        X, y = X_all[rows], y_all[rows]
        big = {"student__channels": (32, 64, 128), "student__hidden": 128}
        teacher = network(seed, args.epochs, meta="none", **big).fit(X, y)
        accuracy = teacher.score(*test)
        print(f"run {seed}: the teacher's accuracy is {accuracy:.4f}", flush=True)
        runs.append({"seed": seed, "method": "the teacher itself", "accuracy": accuracy})
        for method, params in METHODS.items():
            began = time.perf_counter()
            student = network(seed, args.epochs, teacher=teacher.student_, **params).fit(X, y)
            runs.append({
                "seed": seed,
                "method": method,
                "accuracy": student.score(*test),
                "seconds": round(time.perf_counter() - began, 1),
                "lambda1": student.lambda1_,
                "temperature": student.temperature_,
                "parameters": sum(w.numel() for w in student.student_.parameters()),
            })  # fmt: skip
            print(f"  {method:14} {runs[-1]['accuracy']:.4f}   {runs[-1]['seconds']:.0f} s", flush=True)
            if method == "linear, auto":
                paths.append(student.metaparameter_path_)
    print(f"\n{'':20}accuracy    sd    {args.runs} runs")
    for method in ("the teacher itself", *METHODS):
        accuracy = np.array([run["accuracy"] for run in runs if run["method"] == method])
        sd = accuracy.std(ddof=1) if len(accuracy) > 1 else np.nan
        print(f"{method:20}{accuracy.mean():.4f}    {sd:.4f}")
    here = Path(__file__)
    matplotlib.use("Agg")
    display = MetaparameterPathDisplay.from_path(paths, name="linear, auto: runs and their mean")
    display.figure_.savefig(here.with_suffix(".png"), dpi=120)
    record = {
        "settings": {name: value for name, value in vars(args).items() if name != "data"},
        **provenance(__file__),
        "runs": runs,
    }
    here.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
