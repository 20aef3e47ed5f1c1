"""Follow one process for 4, 8, 12 and 24 epochs: Figure 5 and Table 2 of DistPro, at a size for one core.

Deng, Sun, Newsam and Wang, "DistPro: Searching a fast knowledge distillation process via meta optimization"
(ECCV 2022), claim that the gain of the process is larger the shorter the training is. Here each seed has one
search of 8 epochs, and its process is followed for all four lengths. The other arms are the student alone,
KD, ReviewKD, pathways of equal weight, and these at the sum of the weights of the process. Each arm's weight
is chosen at 8 epochs and kept for the other lengths. (ReviewKD's weight is warmed up over the first epoch.)

A ResNet-20 teaches a ResNet-8 on 2,560 images of CIFAR-10, averaged down to 16×16, by nine conv2 pathways,
with three seeds. _distpro_arms.py describes pairs, weights and costs.

    OMP_NUM_THREADS=1 python examples/paper/distpro_lengths.py --teacher resnet20-cifar10.pt

It prints the tables. It writes every run to distpro_lengths.json, the figure to distpro_lengths.png and the
teacher of small images to distpro_cifar10_teacher.pt, beside this file or in --out.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from _distpro_arms import EQUAL, KD, NONE, WEIGHTS, Arm, Design, accuracies, groups_of, main
from _distpro_arms import tables as tables_of

from sklearn_kd.style._style import series_look

DESIGN = Design(
    arms={
        "none": NONE,
        "KD": KD,
        "equal": EQUAL,
        "ReviewKD": Arm("ReviewKD", WEIGHTS),
        "DistPro": Arm("pathways", WEIGHTS, "gradient"),
    },
    searches={"gradient": {}},
    against=("none", "KD", "equal", "DistPro"),
    matched={"equal, DistPro's sum": ("equal", "DistPro")},
    lengths=(0.5, 1.0, 1.5, 3.0),
)

tables = partial(tables_of, DESIGN)


def figure(record: dict, file: Path) -> None:
    """Draw the accuracy of each arm by the length of its training, with standard errors."""
    import matplotlib.pyplot as plt

    groups = {epochs: accuracies(by_arm) for (_, epochs), by_arm in groups_of(DESIGN, record).items()}
    _, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    for place, name in enumerate(next(iter(groups.values()))):
        line = series_look(place).line()
        values = 100 * np.array([accuracy[name] for accuracy in groups.values()])
        error = values.std(axis=1, ddof=1) / values.shape[1] ** 0.5 if values.shape[1] > 1 else None
        ax.errorbar([*groups], values.mean(axis=1), error, markersize=4, capsize=2, label=name, **line)
    ax.set_xscale("log")
    ax.set_xticks([*groups], [str(epochs) for epochs in groups])
    ax.minorticks_off()
    ax.set(xlabel="epochs of the training", ylabel="accuracy on the test, %")
    ax.legend(fontsize="small")
    ax.figure.savefig(file, dpi=110)
    plt.close(ax.figure)


if __name__ == "__main__":
    found = main(__doc__, __file__, DESIGN, images=2560, epochs=8)
    if found["file"]:
        figure(found, found["file"].with_suffix(".png"))
