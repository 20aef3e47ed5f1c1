"""Separate what the teacher's logits, the pathways and the learning of lambda1 and T add to each other.

distpro_cifar10.py finds that a process with lambda1 and T learned beside the pathways is ahead of the process
alone. The process alone does not use the teacher's logits at all, so three things may be the reason. Here the
pathways are equal, or follow a process; and the logits are not used, or used with lambda1 = 0.5 and T = 4 in
the search and in the training (where learned ones start), or used with lambda1 and T learned. All six
combinations are run, and the student alone and KD. "equal, KD learned" has equal weights, and lambda1 and T
from the search of "DistPro, KD learned".

CIFAR-10 with the images averaged down to 16×16, 4,000 of them to train on, from a ResNet-20 to a ResNet-8,
nine conv2 pathways, 6 epochs, a search of 6, three seeds. See _distpro_arms.py for pairs, weights and costs.

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
