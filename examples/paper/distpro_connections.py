"""Compare "lower" pathways, from a teacher's stage to the student's stages not below it, with all pathways.

Deng, Sun, Newsam and Wang, "DistPro: Searching a fast knowledge distillation process via meta
optimization" (ECCV 2022). ``connections="lower"`` keeps the six of nine pathways whose teacher's stage is
not above the student's. Both sets are run with equal weights and along their own process. Equal weights
are run again at the sum of the process, and the lower process at the sum of the process of all.

A ResNet-20 teaches a ResNet-8 on 4,000 images of CIFAR-10, averaged down to 16×16, by conv2 pathways, in 6
epochs after a search of 6, with three seeds. _distpro_arms.py describes pairs, weights and costs.

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
