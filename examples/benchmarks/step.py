"""Measure the cost of a step with a hypergradient against a plain step of the same student.

The students are a perceptron 64-256-256-10, a CNN of three convolutions (16, 32, 32 channels, 28×28 images)
and a ResNet-8 with batch normalisation (16, 32, 64 channels, 32×32 colour images). They train by plain SGD in
batches of 128; lambda1 and log T are learned from batches of 128 other rows. The unit is the library's own
step of ``meta="naive"``, which learns nothing.

  ours        ``train_step`` with each ``meta__hypergradient=``; with the validation batch halved; averaged
              over whole cycles of ``meta="linear"``, e1 = e2 = 10 and e1 = 10, e2 = 100
  the paper's algorithm, re-implemented from its description; double backward by hand
  peers       higher, TorchOpt, learn2learn, torch.optim's differentiable SGD, hypergrad, betty,
              where they are installed

Time is CPU time of one thread in one process. In each of 30 rounds (CNN 20, ResNet-8 12; whole cycles 10,
8, 3) every contender takes about 0.1 s of steps (at most 20) in turn. The result is the median over the
rounds of the ratio to the unit in the same round, with the quartiles.

Memory is the peak bytes of tensors from the creation of the contender through its fourth step, minus that of
a plain step (for ours the library's, for the others the hand-written one). Operations are those that one step
dispatches. Error is that of the hypergradient in float32, and in float64, relative to the exact one in
float64 by ``sklearn_kd.hypergradient``, after 20 steps of training.

    python examples/benchmarks/step.py             # about 10 minutes
    python examples/benchmarks/step.py --quick     # a minute, without ResNet-8
    python examples/benchmarks/step.py --table     # the tables into docs/guide/speed.rst

It writes step.json beside this file. step_before.json is the same measured with an older version of the
library (its field "code" says which): ``PYTHONPATH=OLDER python step.py --out step_before.json``.
"""

import copy
from itertools import cycle

import numpy as np
import torch
import torch.nn.functional as F
from _measure import (
    LR,
    SEED,
    START,
    calls_for,
    interleaved,
    operations,
    options,
    ours,
    peak_memory,
    problem,
    put_into_page,
    ratio,
    read,
    rst_table,
    shown,
    write,
)  # fmt: skip
from _peers import PEERS, Forward, Plain, installed, made
from torch import nn

from sklearn_kd import CNNStudent, MLPStudent, hypergradient
from sklearn_kd.bilevel._hypergradient import METHODS

UNIT, BY_HAND, FORWARD = "plain step", "plain step by hand", "forward pass, no gradient"
HALF = "finite_difference, validation batch halved"
CYCLES = {"e1 = e2 = 10": (10, 10), "e1 = 10, e2 = 100": (10, 100)}


class Block(nn.Module):
    """Two 3×3 convolutions with batch normalisation, and a shortcut around them."""

    def __init__(self, fan_in, fan_out, stride):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(fan_in, fan_out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(fan_out),
            nn.ReLU(), nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False), nn.BatchNorm2d(fan_out),
        )  # fmt: skip
        self.around = nn.Identity()
        if stride != 1:
            self.around = nn.Sequential(
                nn.Conv2d(fan_in, fan_out, 1, stride, bias=False), nn.BatchNorm2d(fan_out)
            )

    def forward(self, x):
        return F.relu(self.convolutions(x) + self.around(x))


def resnet8():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


# name: student, shape of a sample, rounds, rounds of whole cycles
STUDENTS = {
    "MLP": (lambda: MLPStudent(64, 10, hidden=(256, 256)), (64,), 30, 10),
    "CNN": (lambda: CNNStudent((1, 28, 28), 10, (16, 32, 32), 64), (1, 28, 28), 20, 8),
    "ResNet-8": (resnet8, (3, 32, 32), 12, 3),
}


def trained(name, device):
    """Return the student after 20 plain steps, and its data."""
    make, shape, *_ = STUDENTS[name]
    torch.manual_seed(SEED)
    data = problem(make(), shape, device=device)
    step, batches = Plain(data.student), cycle(data.batches())
    for _ in range(20):
        step(next(batches))
    return data._replace(student=step.student)


def looped(step, data):
    """Return a function that runs a peer's step on batch after batch."""
    batches, val_batches = cycle(data.batches()), cycle(data.val_batches())

    def run():
        step(next(batches), next(val_batches))

    run.student = step.student
    return run


def check_finite(steps):
    """Check that the results are finite: steps on NaN are faster, so their times are meaningless."""
    for name, run in steps.items():
        weights = run.student.parameters() if hasattr(run, "student") else ()
        if not all(bool(w.isfinite().all()) for w in weights):
            raise RuntimeError(f"{name}: the student diverged")


def makers(data):
    """Return {name: factory} of the contenders, and {name: reason} of the missing ones."""
    found = {
        UNIT: lambda: ours(data, meta="naive"),
        BY_HAND: lambda: looped(Plain(data.student), data),
        FORWARD: lambda: looped(Forward(data.student), data),
    }
    for method in METHODS:
        found[method] = lambda method=method: ours(data, meta="gradient", meta__hypergradient=method)
    found[HALF] = lambda: ours(data, val_batch_size=data.batch_size // 2, meta="gradient")
    missing = {}
    for name, peer in PEERS.items():
        first = made(peer, data.student)
        if isinstance(first, str):
            missing[name] = first
        else:
            found[name] = lambda peer=peer: looped(peer(data.student), data)
    return found, missing


def errors(data):
    """Return the relative error of each hypergradient, {name: {dtype: error}}."""

    def typed(tensors, dtype):
        return [t.to(dtype) if t.is_floating_point() else t for t in tensors]

    def batches(dtype):
        return typed(data.batches()[0], dtype), typed(data.val_batches()[0], dtype)

    def by_ours(method, dtype):
        (x, y, f), val_batch = batches(dtype)
        h = hypergradient(
            copy.deepcopy(data.student).to(dtype), (x, y), val_batch, f, lambda1=START[0],
            temperature=START[1], lr=LR, method=method,
        )  # fmt: skip
        return h * [1, START[1]]  # by log T

    def by_peer(peer, dtype):
        return peer(copy.deepcopy(data.student).to(dtype)).hypergradient(*batches(dtype)).cpu().numpy()

    exact = by_ours("exact", torch.float64)
    ways = {method: (by_ours, method) for method in METHODS}
    ways |= {n: (by_peer, p) for n, p in PEERS.items() if not isinstance(made(p, data.student), str)}
    return {
        name: {
            str(dtype): float(np.linalg.norm(way(which, dtype) - exact) / np.linalg.norm(exact))
            for dtype in (torch.float32, torch.float64)
        }
        for name, (way, which) in ways.items()
    }


def costs(make, device):
    """Return the peak memory of making and four steps, and the operations of the next."""
    kept = []

    def four_steps():
        kept.append(make())
        for _ in range(4):
            kept[0]()

    return peak_memory(four_steps, device), operations(kept[0])


def measure(name, chosen):
    data, device = trained(name, chosen.device), chosen.device
    *_, rounds, cycle_rounds = STUDENTS[name]
    if chosen.quick:
        rounds, cycle_rounds = 3, 1
    made_by, missing = makers(data)
    found = {"parameters": sum(w.numel() for w in data.student.parameters()), "missing": missing}
    found["errors"] = errors(data)
    found["memory"], found["operations"] = {}, {}
    for contender, make in made_by.items():
        found["memory"][contender], found["operations"][contender] = costs(make, device)
    steps = {contender: make() for contender, make in made_by.items()}
    n = calls_for(steps[UNIT], 0.02 if chosen.quick else 0.1, 20, device)
    found["steps per round"] = n
    found["seconds per step"] = interleaved(steps, rounds, n, device)
    check_finite(steps)
    cycles = {UNIT: steps[UNIT]} | {
        label: ours(data, meta="linear", e1=e1, e2=e2) for label, (e1, e2) in CYCLES.items()
    }
    lengths = {UNIT: 10} | {label: sum(e) for label, e in CYCLES.items()}
    found["seconds per step of whole cycles"] = interleaved(cycles, cycle_rounds, lengths, device)
    return found


# --------------------------------------------------------------------------------------


def cost(found, contender):
    """Return median ratio and quartiles as text, or None if not measured."""
    if contender == UNIT:
        return "1"
    for times in (found["seconds per step"], found.get("seconds per step of whole cycles", {})):
        if contender in times:
            return shown(*ratio(times, contender, UNIT))
    return None


def extra_memory(found, contender):
    """Return the MB beyond a plain step, as text."""
    memory = found["memory"]
    if contender not in memory or contender in (UNIT, BY_HAND, FORWARD):
        return ""
    unit = BY_HAND if contender in PEERS else UNIT
    return f"{(memory[contender] - memory[unit]) / 1e6:.1f}"


def largest_error(record, contender):
    errors = [found["errors"].get(contender) for found in record["students"].values()]
    return "" if None in errors else f"{max(e['torch.float32'] for e in errors):.0e}"


def tables(record, before):
    """Return the tables of docs/guide/speed.rst."""
    students = record["students"]
    last = students["ResNet-8"]
    contenders = [*last["seconds per step"], *CYCLES]
    contenders = [c for c in contenders if c not in PEERS] + [c for c in contenders if c in PEERS]
    names = {UNIT: "plain step (the unit)"} | {
        name: f"{name} {v}" for name, v in record["peers"].items() if v
    }
    rows = [
        [
            names.get(contender, contender),
            *(cost(found, contender) for found in students.values()),
            extra_memory(last, contender),
            largest_error(record, contender),
        ]
        for contender in contenders
    ]
    header = ["way to a hypergradient", *students, "extra MB", "error"]
    operations = [
        [names.get(c, c), *(str(found["operations"][c]) for found in students.values())]
        for c in contenders
        if c in last["operations"]
    ]
    then = [
        [f"{c}, {when}", *(cost(found, c) for found in r["students"].values())]
        for c in ("finite_difference", HALF, "jvp", "exact", *CYCLES)
        for when, r in (("before", before), ("now", record))
    ]
    return [
        rst_table(header, rows),
        rst_table(["operations per step", *students], operations),
        rst_table(["", *students], then),
    ]


def main():
    chosen = options(__doc__)
    if chosen.table:
        return put_into_page(__file__, tables(read(__file__), read(__file__, "step_before.json")))
    record = {
        "settings": {"batch size": 128, "lambda1, T": START, "seed": SEED, "device": chosen.device},
        "peers": {name: installed(peer) for name, peer in PEERS.items()},
        "students": {},
    }
    for name in list(STUDENTS)[:2] if chosen.quick else STUDENTS:
        record["students"][name] = found = measure(name, chosen)
        print(f"\n{name}, {found['parameters']} parameters; missing: {found['missing'] or 'nothing'}")
        for contender in [*found["seconds per step"], *CYCLES]:
            error = found["errors"].get(contender, {}).values()
            print(
                f"{contender:45}{cost(found, contender) or '':20}{extra_memory(found, contender):>10} MB"
                f"{found['operations'].get(contender, ''):>8}  {' '.join(f'{e:.0e}' for e in error)}",
                flush=True,
            )
    write(record, __file__, chosen)


if __name__ == "__main__":
    main()
