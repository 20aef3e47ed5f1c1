"""Follow processes that were searched with another student: Table 3b of DistPro, at a size for one core.

Deng, Sun, Newsam and Wang, "DistPro: Searching a fast knowledge distillation process via meta optimization"
(ECCV 2022). A ResNet-20 teaches a ResNet-8 and a ResNet-14. Each student follows its own process, and the
process that was searched with the other student. The weights of all arms of a student are chosen in the same
way, with that student. The cost of a search is also counted if it was made with the other student.

There are 4,000 images of CIFAR-10, averaged down to 16×16, nine conv2 pathways, 6 epochs after a search of 6,
and three seeds. _distpro_arms.py describes pairs, weights and costs.

    OMP_NUM_THREADS=1 python examples/paper/distpro_networks.py --teacher resnet20-cifar10.pt

It prints the tables. It writes every run to distpro_networks.json and the teacher of small images to
distpro_cifar10_teacher.pt, beside this file or in --out.
"""

from __future__ import annotations

from functools import partial

from _distpro_arms import EQUAL, NONE, WEIGHTS, Arm, Design, main
from _distpro_arms import tables as tables_of

DESIGN = Design(
    arms={
        "none": NONE,
        "equal": EQUAL,
        "DistPro": Arm("pathways", WEIGHTS, "gradient"),
        "DistPro, other student's": Arm("pathways", WEIGHTS, "gradient", elsewhere=True),
    },
    searches={"gradient": {}},
    against=("none", "equal", "DistPro"),
    matched={
        "equal, DistPro's sum": ("equal", "DistPro"),
        "DistPro, other student's, same sum": ("DistPro, other student's", "DistPro"),
    },
    depths=(8, 14),
)

tables = partial(tables_of, DESIGN)


if __name__ == "__main__":
    main(__doc__, __file__, DESIGN, images=4000, epochs=6)
