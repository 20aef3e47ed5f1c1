"""Ask at which horizon the weights of a mixture of losses are right.

The mixture is that of mixtures_cifar10.py, at its start. One weight at a time is multiplied by four and by a
quarter, in the last third of a training or in a whole training. Each of these trainings is compared with the
mixture at its start, on a fifth of the training images that it has not seen; the test images are not used.
Accuracies are those of one training each, on 800 images.

    OMP_NUM_THREADS=1 python examples/paper/mixtures_horizon.py --teacher resnet20-cifar10.pt

It prints the table. It writes every run to mixtures_horizon.json and the teacher of small images to
distpro_cifar10_teacher.pt, beside this file or in --out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from _distpro import LAYERS, TRAINING, TUNING_SEED, Cost, CountedStudent, common, digest, rows_of
from _protocol import Runs, arguments, list_table
from distpro_cifar10 import PLAN, teacher_of
from mixtures_cifar10 import MAKERS, START, TEMPERATURE, losses, scaled, task_of

from sklearn_kd import DistilledClassifier, MetaparameterProcess
from sklearn_kd.losses import LOSSES, Metaparameter

FACTORS = (4.0, 0.25)
WHEN = ("last third", "whole")
N_BLOCKS = 20


def one_run(
    *, data: str | None, teacher: Path, when: str, of: str, factor: float, images: int, epochs: int
) -> dict:
    """Train the mixture with one weight multiplied; return L_val by blocks of rows, and accuracy."""
    task = task_of(data, images, teacher)
    (X, y), (X_judged, y_judged) = rows_of(task, TUNING_SEED)
    params = common(PLAN, TUNING_SEED, epochs, Cost())
    if when == "last third":
        params |= in_the_last_third(of, factor, epochs, -(-len(X) // params["batch_size"]))
    else:
        params |= losses(START | ({of: scaled(of, factor)} if of in START else {}))
    student = DistilledClassifier(task.teacher, CountedStudent, student__depth=task.depth, **params).fit(X, y)
    return {
        "valid_accuracy": student.score(X_judged, y_judged),
        "losses": blocks_of_losses(student, X_judged, y_judged),
        "diverged": student.net_.diverged_,
    }


def in_the_last_third(arm: str, factor: float, epochs: int, steps_per_epoch: int) -> dict[str, Any]:
    """Return the parameters of a training in whose last third one weight of the start is multiplied.

    The weight of the pathways is the sum of their factors after the biased softmax, which is below 1. So here
    the weight of their term is the largest of ``FACTORS``, and their factors are set so that it begins at the
    start.
    """
    n_pathways, largest = len(LAYERS) ** 2, max(FACTORS)
    of_start = START["pathways"] * n_pathways / (n_pathways + 1)

    def values(factors: Mapping[str, float]) -> dict[str, Any]:
        share = factors.get("pathways", 1.0) * of_start / (largest * START["pathways"])
        raw = 1.0 + np.log(share / (1 - share) / n_pathways)
        return {
            "lambda1": scaled("KD", factors.get("KD", 1.0)),
            "temperature": TEMPERATURE,
            "reviewkd_weight": scaled("ReviewKD", factors.get("ReviewKD", 1.0)),
            "similarity_weight": scaled("similarity", factors.get("similarity", 1.0)),
            "pathways_importance": np.full(n_pathways, raw),
        }

    until, n_epochs = int(epochs * 2 / 3), epochs
    first, last = values({}), values({arm: factor})
    rows = {
        name: [first[name]] * (until * steps_per_epoch)
        + [last[name]] * ((n_epochs - until) * steps_per_epoch)
        for name in first
    }
    entries = LOSSES["kd"]().metaparameters(n_classes=10)
    entries |= {
        f"{term}_weight": Metaparameter(START[name], bounds=(1e-3, 1e6), coordinate="log")
        for name, term in (("ReviewKD", "reviewkd"), ("similarity", "similarity"))
    }
    entries["pathways_importance"] = Metaparameter(0.0, shape=(n_pathways,))
    terms = {name: make() for name, make in MAKERS.items()}
    terms["pathways"].set_params(
        weight=largest * START["pathways"],
        pathway_threshold=None,
        importance_bounds=(-np.inf, np.inf),  # as the process, in which small weights are far below −3
    )
    process = MetaparameterProcess(rows, entries)
    return {
        "loss": ["kd", *terms.values()],
        "process": process,
        "weights": "process",
        "retrain": "fresh",
    }


def blocks_of_losses(student: DistilledClassifier, X: np.ndarray, y: np.ndarray) -> list[float]:
    """Return the mean cross-entropy of blocks of rows, from which the errors of differences are computed."""
    p = student.predict_proba(X)[np.arange(len(y)), np.searchsorted(student.classes_, y)]
    parts = np.array_split(-np.log(np.maximum(p, 1e-12)), N_BLOCKS)
    return [round(float(part.mean()), 5) for part in parts]


def tables(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table: L_val and accuracy with one weight changed, minus those without."""
    runs = {tuple(run["setting"][name] for name in ("when", "of", "factor")): run for run in record["runs"]}
    cells = [(when, factor) for when in WHEN for factor in FACTORS]
    rows = [
        [name, *(changed(runs[when, name, factor], runs[when, "none", 1.0]) for when, factor in cells)]
        for name in START
    ]
    yield list_table(["", *(f"{when}, × {factor:g}" for when, factor in cells)], rows)


def changed(run: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """Format "−0.031 ± 0.012 (+0.4)": L_val with its standard error over the rows, and points of accuracy."""
    differences = np.subtract(run["losses"], base["losses"])
    error = differences.std(ddof=1) / len(differences) ** 0.5
    gained = 100 * (run["valid_accuracy"] - base["valid_accuracy"])
    return f"{differences.mean():+.3f} ± {error:.3f} ({gained:+.1f})".replace("-", "−")


def main() -> None:
    """Parse the options, make the runs, print the table."""
    options = arguments(
        __doc__,
        __file__,
        runs=1,
        length=("epochs", 6),
        quick=(1, 1),
        teacher={"type": Path, "required": True, "metavar": "FILE", "help": "weights of a ResNet-20"},
        data={"metavar": "FOLDER", "help": "folder of CIFAR-10; default: scikit-learn's"},
        images={"type": int, "help": "number of training images; default 4000"},
    )
    options.images = options.images or (320 if options.quick else 4000)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.json.parent if options.json else Path(temporary)
        teacher, accuracy = teacher_of(options, folder)
        settings = {"start": START, "factors": FACTORS, "temperature": TEMPERATURE, "training": TRAINING}
        settings |= {"plan": PLAN._asdict(), "teacher": digest(teacher), "teacher_accuracy": accuracy}
        runs = Runs.of_script(options, settings)
        shared = {"images": options.images, "epochs": options.epochs}
        changes = [("none", 1.0), *((name, factor) for name in START for factor in FACTORS)]
        wanted = [
            {"when": when, "of": name, "factor": factor} | shared for when in WHEN for name, factor in changes
        ]
        made = runs.of(one_run, wanted, options.jobs, data=options.data, teacher=teacher)
    print(f"the teacher of small images: {accuracy:.4f}\n")
    for table in tables({"runs": made}):
        print(table)


if __name__ == "__main__":
    main()
