"""Compare the five normalisations of importance factors: Table 7 of DistPro, at a size for one core.

Deng, Sun, Newsam and Wang, "DistPro: Searching a fast knowledge distillation process via meta
optimization" (ECCV 2022). Each normalisation has its own searches and trainings. No pathway is pruned
(``pathway_threshold=None``), because a threshold is meaningful only for some of the normalisations.
The sums of the weights differ, so each normalisation is run again at the sum of the biased softmax's
process. (Weights by the l1 norm may be negative: sums are those of absolute values.)

A ResNet-20 teaches a ResNet-8 on 4,000 images of CIFAR-10, averaged down to 16×16, by nine conv2 pathways, in
6 epochs after a search of 6, with three seeds. _distpro_arms.py describes pairs, weights and costs.

    OMP_NUM_THREADS=1 python examples/paper/distpro_normalizations.py --teacher resnet20-cifar10.pt

It prints the tables. It writes every run to distpro_normalizations.json and the teacher of small images to
distpro_cifar10_teacher.pt, beside this file or in --out.
"""

from __future__ import annotations

from functools import partial

from _distpro_arms import EQUAL, NONE, WEIGHTS, Arm, Design, main
from _distpro_arms import tables as tables_of

NORMALIZATIONS = ("biased_softmax", "softmax", "biased_l1", "l1", "sigmoid")
FIRST = NORMALIZATIONS[0]
DESIGN = Design(
    arms={"none": NONE, "equal": EQUAL} | {name: Arm("pathways", WEIGHTS, name) for name in NORMALIZATIONS},
    searches={name: {"normalization": name} for name in NORMALIZATIONS},
    against=("none", "equal", FIRST),
    matched={f"{name}, same sum": (name, FIRST) for name in ("equal", *NORMALIZATIONS[1:])},
    threshold=None,
)

tables = partial(tables_of, DESIGN)


if __name__ == "__main__":
    main(__doc__, __file__, DESIGN, images=4000, epochs=6)
