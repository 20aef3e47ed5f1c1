"""Repeat the six pairs of networks of Table 1 of DistPro on CIFAR-100, with its settings, on one GPU.

Deng, Sun, Newsam and Wang, "DistPro: Searching a fast knowledge distillation process via meta optimization"
(ECCV 2022). A search of 40 epochs on four fifths of the images is followed by 240 epochs on all of them.
There are 27 pathways: conv1, conv2 and conv3 between three stages of teacher and student. SGD has Nesterov
momentum 0.9, weight decay 0.0005, batches of 128, and a rate of 0.1 (0.02 for the ShuffleNets, as in the
published code). The rate is constant in the search, and divided by ten after 150, 180 and 210 of 240 epochs.
Images are padded with four black pixels, cropped and mirrored.

The arms of a seed have the same initial weights, batches and augmentation:

- the student alone;
- its teacher's logits: KD with lambda1 = 0.1 and T = 4;
- pathways of equal weight, and DistPro, with a sum of weights of one as in the paper's text, and of 27 as in
  its published code.

No weight is tuned, and nothing is chosen by the test images: accuracy is that of the last epoch, while the
paper's code keeps the best on the test images. Trained teachers are read from --teachers, a folder of the
files that RepDistiller or mdistiller publish, renamed to wrn_40_2.pth, resnet32x4.pth, resnet56.pth and
resnet110.pth. A teacher without a file is trained on the labels first.

    python examples/paper/distpro_table1.py --teachers FOLDER --pairs "WRN-40-2 to WRN-16-2"

It prints the tables. It writes every run to distpro_table1.json, and trained teachers to
distpro_table1_NAME.pth, beside this file or in --out. A stopped run resumes from its last epoch, by the
checkpoints in distpro_table1_checkpoints. Its seconds then count from there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _distpro import (
    Cost,
    NoRetraining,
    Plan,
    crop_and_flip,
    difference,
    digest,
    points,
    process_of,
    process_record,
    train_teacher,
)
from _networks import accuracy_of
from _protocol import Runs, arguments, list_table
from distpro_cifar100 import images_of
from skorch.callbacks import LRScheduler
from torch.optim.lr_scheduler import MultiStepLR

from sklearn_kd import DistilledClassifier, DistProClassifier
from sklearn_kd.networks import NETWORKS, load_published

WRN = ("block2.layer.0.bn1", "block3.layer.0.bn1", "bn1")  # before the activation
STAGES = ("layer1", "layer2", "layer3")


class Pair(NamedTuple):
    """Two networks by their names in ``NETWORKS``, the learning rate, and DistPro's accuracy in Table 1."""

    teacher: str
    student: str
    lr: float
    published: float


PAIRS = {
    "WRN-40-2 to WRN-16-2": Pair("wrn_40_2", "wrn_16_2", 0.1, 76.36),
    "WRN-40-2 to ShuffleNet V1": Pair("wrn_40_2", "ShuffleV1", 0.02, 77.24),
    "ResNet-32x4 to ShuffleNet V1": Pair("resnet32x4", "ShuffleV1", 0.02, 77.18),
    "ResNet-32x4 to ShuffleNet V2": Pair("resnet32x4", "ShuffleV2", 0.02, 77.54),
    "ResNet-56 to ResNet-20": Pair("resnet56", "resnet20", 0.1, 72.03),
    "ResNet-110 to ResNet-32": Pair("resnet110", "resnet32", 0.1, 73.74),
}
EPOCHS, SEARCH_EPOCHS, STEPS = 240, 40, (150, 180, 210)
PLAN = Plan(transforms=("conv1", "conv2", "conv3"), pad=4, warm_up=0)
N_PATHWAYS = 27
SUMS = (1.0, float(N_PATHWAYS))
ARMS = ("none", "KD", *(f"{arm}, sum {of:g}" for arm in ("equal", "DistPro") for of in SUMS))
TRAINING = {
    "optimizer": "SGD",
    "optimizer__momentum": 0.9,
    "optimizer__nesterov": True,
    "optimizer__weight_decay": 5e-4,
    "batch_size": 128,
}


def layers_of(network: str) -> list[str]:
    """Return the layers of three stages of a network."""
    return list(WRN if network.startswith("wrn") else STAGES)


def steps(epochs: int) -> tuple[str, LRScheduler]:
    """Return the schedule of the learning rate, scaled to the number of epochs."""
    at = [round(step * epochs / EPOCHS) for step in STEPS]
    return ("rate", LRScheduler(MultiStepLR, milestones=at, gamma=0.1))


@cache
def teacher_of(name: str, file: Path) -> Any:
    return load_published(name, file)


def one_run(
    *,
    processes: dict[str, dict],
    files: dict[str, Path],
    data: str | None,
    checkpoints: Path | None,
    what: str,
    pair: str,
    teacher: str,
    of: str,
    seed: int,
    images: int,
    search_epochs: int,
    epochs: int = 0,
) -> dict:
    """Make one run by its setting: a search at a sum of weights, or the training of an arm.

    ``files`` are the weights of the teachers by their digest, which is ``teacher`` in the setting.
    """
    cost, networks = Cost(), PAIRS[pair]
    X, y, X_test, y_test = images_of("CIFAR-100", data, images)
    network = teacher_of(networks.teacher, files[teacher])
    params = common(networks, seed, checkpoints and checkpoints / f"{pair}, {what}, {of}, {seed}")
    if what == "search":
        params |= {"distill_weight": float(of), "search_epochs": search_epochs, "search_callbacks": [cost]}
        params |= {"max_epochs": 1, "callbacks": [NoRetraining()]}
        return process_record(pathways_of(networks, network, params).fit(X, y), cost)
    params |= {"max_epochs": epochs, "callbacks": [steps(epochs), ("cost", cost)]}
    student = student_of(networks, network, of, params, processes.get(process_key(pair, of, seed)))
    student.fit(X, y)
    return {
        "accuracy": student.score(X_test, y_test),
        "cost": cost.cost_,
        "diverged": student.net_.diverged_,
    }


def common(networks: Pair, seed: int, checkpoints: Path | None) -> dict[str, Any]:
    """Return the parameters that all trainings of a seed share."""
    return TRAINING | {
        "lr": networks.lr,
        "augment": partial(crop_and_flip, pad=PLAN.pad, mode="constant"),
        "random_state": seed,
        "device": PLAN.device,
        "checkpoint_dir": checkpoints,
    }


def student_of(networks: Pair, teacher: Any, arm: str, params: dict, found: dict | None) -> Any:
    """Return the unfitted student of an arm."""
    if arm in ("none", "KD"):
        how = {"meta": "none"} if arm == "none" else {"meta": "fixed", "lambda1": 0.1, "temperature": 4.0}
        return DistilledClassifier(teacher, NETWORKS[networks.student], **params, **how)
    params = params | {"distill_weight": sum_of(arm)}
    how = {"weights": "equal"} if arm.startswith("equal") else {"process": process_of(found or {})}
    return pathways_of(networks, teacher, params | how)


def pathways_of(networks: Pair, teacher: Any, params: dict) -> DistProClassifier:
    return DistProClassifier(
        teacher,
        NETWORKS[networks.student],
        teacher_layers=layers_of(networks.teacher),
        student_layers=layers_of(networks.student),
        transforms=list(PLAN.transforms),
        **params,
    )


def sum_of(arm: str) -> float:
    """Return the factor on the sum over pathways."""
    return float(arm.split("sum ")[1])


def process_key(pair: str, arm: str, seed: int) -> str:
    """Return the key of the process that an arm follows."""
    return f"{pair}, {arm}, {seed}"


# --------------------------------------------------------------------------------------
# All runs


def carry_out(runs: Runs, options: Any, teachers: dict[str, Path], **given: Any) -> list[dict]:
    """Make the searches and the trainings of the chosen pairs, a pair at a time; return all runs."""
    digests = {name: digest(file) for name, file in teachers.items()}
    given["files"] = {digests[name]: file for name, file in teachers.items()}
    found = []
    for pair in options.pairs:
        shared = {name: getattr(options, name) for name in ("images", "search_epochs")}
        shared |= {"pair": pair, "teacher": digests[PAIRS[pair].teacher]}
        cells = [(arm, seed) for seed in range(options.runs) for arm in ARMS]
        followers = [(arm, seed) for arm, seed in cells if arm.startswith("DistPro")]
        searches = runs.of(
            one_run,
            [{"what": "search", "of": f"{sum_of(arm):g}", "seed": seed} | shared for arm, seed in followers],
            processes={},
            **given,
        )
        keys = [process_key(pair, *cell) for cell in followers]
        trainings = [
            {"what": "training", "of": arm, "seed": seed, "epochs": options.epochs} | shared
            for arm, seed in cells
        ]
        found += searches
        found += runs.of(one_run, trainings, processes=dict(zip(keys, searches, strict=True)), **given)
    return found


def teachers_of(options: Any, folder: Path) -> dict[str, Path]:
    """Return the files of the teachers of the chosen pairs; train those that have none."""
    files = {}
    for name in sorted({PAIRS[pair].teacher for pair in options.pairs}):
        given = options.teachers and options.teachers / f"{name}.pth"
        files[name] = given if given and given.exists() else folder / f"distpro_table1_{name}.pth"
        if not files[name].exists():
            X, y, *_ = images_of("CIFAR-100", options.data, options.images)
            train_teacher(files[name], PLAN, NETWORKS[name], X, y, options.epochs)
    return files


# --------------------------------------------------------------------------------------
# Results


def tables(record: dict) -> Iterator[str]:
    """Yield the table of accuracies beside the published ones, and for each pair the paired differences."""
    by_pair: dict[str, dict[str, list[float]]] = {}
    for run in sorted(record["runs"], key=lambda run: run["setting"]["seed"]):
        setting = run["setting"]
        if setting["what"] == "training":
            by_pair.setdefault(setting["pair"], {}).setdefault(setting["of"], []).append(run["accuracy"])
    rows = [
        [pair, f"{PAIRS[pair].published:.2f}", *(points(by_arm[arm]) for arm in ARMS)]
        for pair, by_arm in by_pair.items()
    ]
    yield list_table(["accuracy, %", "published DistPro", *ARMS], rows)
    for pair, by_arm in by_pair.items():
        against = ("none", "KD", *ARMS[2:4])
        rows = [
            [arm, *("" if arm == other else difference(by_arm[arm], by_arm[other]) for other in against)]
            for arm in ARMS[1:]
        ]
        yield list_table([pair, *(f"minus {other}" for other in against)], rows)


def main() -> None:
    options = arguments(
        __doc__,
        __file__,
        runs=3,
        length=("epochs", EPOCHS),
        quick=(1, 1),
        teachers={"type": Path, "metavar": "FOLDER", "help": "folder of published weights"},
        pairs={"nargs": "+", "choices": [*PAIRS], "help": "pairs of networks; default: all six"},
        data={"metavar": "FOLDER", "help": "folder of CIFAR-100; default: scikit-learn's"},
        images={"type": int, "help": "number of training images; default: all"},
    )
    options.images = options.images or (128 if options.quick else 50_000)
    options.search_epochs = max(1, round(options.epochs * SEARCH_EPOCHS / EPOCHS))
    options.pairs = options.pairs or [*PAIRS]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.json.parent if options.json else Path(temporary)
        files = teachers_of(options, folder)
        _, _, X_test, y_test = images_of("CIFAR-100", options.data, options.images)
        accuracy = {name: accuracy_of(teacher_of(name, file), X_test, y_test) for name, file in files.items()}
        settings = {"training": TRAINING, "plan": PLAN._asdict(), "steps": STEPS}
        runs = Runs.of_script(options, settings)
        checkpoints = options.json and folder / "distpro_table1_checkpoints"
        found = carry_out(runs, options, files, data=options.data, checkpoints=checkpoints)
    print("the teachers:", ", ".join(f"{name} {np.round(of, 4)}" for name, of in accuracy.items()), "\n")
    for table in tables({"runs": found}):
        print(table)


if __name__ == "__main__":
    main()
