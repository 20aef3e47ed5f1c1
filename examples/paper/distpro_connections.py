"""Compare "lower" pathways with all: from a teacher's stage to the student's stages that are not below it.

Deng, Sun, Newsam and Wang, "DistPro: Searching a fast knowledge distillation process via meta
optimization" (ECCV 2022). ``connections="lower"`` keeps the six of nine pathways whose teacher's stage is
not above the student's. Both sets are run with equal weights and along a process of their own. Equal weights
are run once more at the sum of the process, and the lower process at the sum of the process of all.

CIFAR-10 with the images averaged down to 16×16, 4,000 of them to train on, from a ResNet-20 to a ResNet-8,
conv2 pathways, 6 epochs, a search of 6, three seeds. See _distpro_arms.py for pairs, weights and costs.

    OMP_NUM_THREADS=1 python examples/paper/distpro_connections.py --teacher resnet20-cifar10.pt

It prints the tables. It writes every run to distpro_connections.json and the teacher of small images to
distpro_cifar10_teacher.pt, beside this file or in --out.
"""

from __future__ import annotations

from functools import partial

from _distpro_arms import EQUAL, NONE, WEIGHTS, Arm, Design, main
from _distpro_arms import tables as tables_of

LOWER = {"connections": "lower"}
DESIGN = Design(
    arms={
        "none": NONE,
        "equal, all": EQUAL,
        "equal, lower": EQUAL._replace(params=LOWER),
        "DistPro, all": Arm("pathways", WEIGHTS, "all"),
        "DistPro, lower": Arm("pathways", WEIGHTS, "lower", LOWER),
    },
    searches={"all": {}, "lower": LOWER},
    against=("none", "equal, all", "equal, lower", "DistPro, all"),
    matched={
        "equal, all, DistPro's sum": ("equal, all", "DistPro, all"),
        "equal, lower, DistPro's sum": ("equal, lower", "DistPro, lower"),
        "DistPro, lower, sum of all": ("DistPro, lower", "DistPro, all"),
    },
)

tables = partial(tables_of, DESIGN)


if __name__ == "__main__":
    main(__doc__, __file__, DESIGN, images=4000, epochs=6)
