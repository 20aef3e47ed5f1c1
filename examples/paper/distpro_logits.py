"""Separate the gains of the teacher's logits, of the pathways, and of learning lambda1 and T.

distpro_cifar10.py finds that a process with lambda1 and T learned beside the pathways is ahead of the process
alone. The process alone does not use the teacher's logits at all, so there are three possible reasons. Here
the pathways have equal weights or follow a process. The logits are not used, or used with lambda1 = 0.5 and T
= 4 in search and training (where the learned ones start), or used with lambda1 and T learned. All six
combinations are run, and also the student alone and KD. "equal, KD learned" has equal weights, and takes
lambda1 and T from the search of "DistPro, KD learned".

A ResNet-20 teaches a ResNet-8 on 4,000 images of CIFAR-10, averaged down to 16×16, by nine conv2 pathways, in
6 epochs after a search of 6, with three seeds. _distpro_arms.py describes pairs, weights and costs.

    OMP_NUM_THREADS=1 python examples/paper/distpro_logits.py --teacher resnet20-cifar10.pt

It prints the tables. It writes every run to distpro_logits.json and the teacher of small images to
distpro_cifar10_teacher.pt, beside this file or in --out.
"""

from __future__ import annotations

from functools import partial

from _distpro import SEARCHES
from _distpro_arms import KD, NONE, Arm, Design, main
from _distpro_arms import tables as tables_of

# Where the logits are used, the best weight of the pathways was the largest that was tried (25).
WEIGHTS = (1.0, 5.0, 25.0, 125.0)
LEARNED = {"logit_weight": "learned"}
DESIGN = Design(
    arms={
        "none": NONE,
        "KD": KD,
        "equal": Arm("pathways", WEIGHTS),
        "equal, KD fixed": Arm("pathways", WEIGHTS, params=LEARNED, equal=True),
        "equal, KD learned": Arm("pathways", WEIGHTS, "learned", LEARNED, equal=True),
        "DistPro": Arm("pathways", WEIGHTS, "gradient"),
        "DistPro, KD fixed": Arm("pathways", WEIGHTS, "held", LEARNED),
        "DistPro, KD learned": Arm("pathways", WEIGHTS, "learned", LEARNED),
    },
    searches={name: SEARCHES[name] for name in ("gradient", "held", "learned")},
    against=("KD", "equal, KD fixed", "DistPro", "DistPro, KD fixed"),
    matched={"equal, KD fixed, DistPro's sum": ("equal, KD fixed", "DistPro, KD fixed")},
)

tables = partial(tables_of, DESIGN)


if __name__ == "__main__":
    main(__doc__, __file__, DESIGN, images=4000, epochs=6)
