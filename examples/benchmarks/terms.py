"""Measure what each term of features adds to a training step of a student, in time and memory.

A ResNet-56 teaches a ResNet-20 on 32×32 colour images, in batches of 128, by SGD with momentum. The layers
are those of "auto": the three stages (16, 32, 64 channels), only the middle one for the hint and only the
last one for masked generation, and the pooled rows of 64 numbers for relations. The unit is the student's
plain step on the labels: forward pass, backward pass and optimizer step. A step with a term also has the
term's loss and gradients, and the optimizer's step of the term's own weights. The teacher's features are
computed beforehand: the teacher's forward pass is the same for all terms and is measured separately.

Time is CPU time of one thread in one process. In each round every contender takes one step in turn. The
result is the median over the rounds of the ratio to the unit in the same round, with the quartiles. Memory is
the peak bytes of tensors during a step, beyond those that existed before, as a ratio to that of the plain
step.

    python examples/benchmarks/terms.py             # about 5 minutes
    python examples/benchmarks/terms.py --quick     # 16 images a batch, 3 rounds
    python examples/benchmarks/terms.py --table     # the table into docs/guide/terms_of_features.rst

It writes terms.json beside this file.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from _measure import (
    LR,
    SEED,
    interleaved,
    options,
    peak_memory,
    quartiles,
    ratio,
    read,
    replace_tables,
    rst_table,
    shown,
    write,
)

from sklearn_kd import CIFARResNet
from sklearn_kd.layers._hooks import feature_hooks
from sklearn_kd.losses import TERMS

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "terms_of_features.rst"
UNIT, TEACHER = "plain step", "teacher's forward pass"
STAGES = ("layer1", "layer2", "layer3")
LAYERS = {"stages": STAGES, "middle stage": STAGES[1:2], "last stage": STAGES[2:]}


def features(maps, auto):
    """Return the features of a forward pass that "auto" selects."""
    if auto == "embedding":
        return [maps["layer3"].mean(dim=(2, 3))]
    return [maps[layer] for layer in LAYERS[auto]]


class Step:
    """A training step of a student, with or without a term beside it."""

    def __init__(self, images, labels, term, taught):
        torch.manual_seed(SEED)
        self.images, self.labels, self.term = images, labels, term
        self.student = CIFARResNet(20, 10).train()
        weights = [*self.student.parameters()]
        if term is not None:
            self.taught = features(taught, term.auto)
            shapes = [tuple(own.shape[1:]) for own in self.taught]  # the student's are the same
            self.module = term.build(shapes, shapes).train()
            weights += [*self.module.parameters()]
        self.optimizer = torch.optim.SGD(weights, lr=LR, momentum=0.9)

    def __call__(self):
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()

    def loss(self):
        if self.term is None:
            return F.cross_entropy(self.student(self.images), self.labels)
        with feature_hooks(self.student, STAGES) as maps:
            loss = F.cross_entropy(self.student(self.images), self.labels)
        return loss + self.term.loss(features(maps, self.term.auto), self.taught, self.module).sum()


def main(quick):
    rows, rounds = (16, 3) if quick else (128, 15)
    generator = torch.Generator().manual_seed(SEED)
    images = torch.randn(rows, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (rows,), generator=generator)
    torch.manual_seed(SEED)
    teacher = CIFARResNet(56, 10).eval()
    with torch.no_grad(), feature_hooks(teacher, STAGES) as taught:
        teacher(images)
    steps = {UNIT: Step(images, labels, None, taught)}
    steps |= {name: Step(images, labels, make(), taught) for name, make in TERMS.items()}

    def ask():
        with torch.no_grad():
            teacher(images)

    times = interleaved(steps | {TEACHER: ask}, rounds)
    memory = {name: peak_memory(step) for name, step in steps.items()}
    return {
        "batch": rows,
        "seconds of a plain step": quartiles(times[UNIT]),
        "bytes of a plain step": memory[UNIT],
        "time": {name: ratio(times, name, UNIT) for name in [*TERMS, TEACHER]},
        "memory": {name: memory[name] / memory[UNIT] for name in TERMS},
        "parameters": {name: sum(w.numel() for w in steps[name].module.parameters()) for name in TERMS},
        "parameters of the student": sum(w.numel() for w in steps[UNIT].student.parameters()),
    }


def table(record):
    header = ["term", "time of a step", "memory of a step", "weights that learn beside the student"]
    rows = [
        [
            f'``"{name}"``',
            shown(*record["time"][name]),
            f"{record['memory'][name]:.2f}",
            f"{record['parameters'][name]:,}",
        ]
        for name in TERMS
    ]
    return rst_table(header, rows)


if __name__ == "__main__":
    chosen = options(__doc__)
    if chosen.table:
        replace_tables(PAGE, {"terms 0": table(read(__file__))})
    else:
        found = main(chosen.quick)
        print(table(found))
        write(found, __file__, chosen)
