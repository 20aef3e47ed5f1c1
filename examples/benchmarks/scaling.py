"""Measure the cost of a hypergradient by the size of the model, the batch and the number of classes.

The ratio of a gradient iteration (``meta__hypergradient="finite_difference"``) to the library's plain step,
on perceptrons with two equal hidden layers, 64 inputs, plain SGD; one thing varies at a time:

  parameters    about 10⁴, 10⁵, 10⁶, 10⁷; batches of 128, 10 classes
  batch size    16 … 1,024; hidden layers of 256, 10 classes
  classes       2 … 1,000; hidden layers of 256, batches of 128

Both kinds of step take turns in one process, with CPU time of one thread, in 20 rounds of about 0.2 s of
plain steps (at most 20). The results are the median ratio and quartiles over the rounds.

    python examples/benchmarks/scaling.py             # about 6 minutes
    python examples/benchmarks/scaling.py --quick     # half a minute, without the largest
    python examples/benchmarks/scaling.py --table     # the tables into docs/guide/speed.rst

large.py measures the cost of an epoch by rows, columns and classes. This script writes scaling.json, and the
picture scaling.png, beside this file; scaling_before.json: see step.py.
"""

from pathlib import Path

import numpy as np
import torch
from _measure import (
    LR,
    SEED,
    calls_for,
    interleaved,
    operations,
    options,
    ours,
    problem,
    put_into_page,
    ratio,
    read,
    rst_table,
    shown,
    write,
)  # fmt: skip

from sklearn_kd import MLPStudent
from sklearn_kd.style._style import series_look

UNIT, GRADIENT = "plain step", "gradient iteration"
# Varied sizes: {value: (hidden width, batch size, classes)}
SERIES = {
    "parameters": {
        10**4: (70, 128, 10),
        10**5: (282, 128, 10),
        10**6: (963, 128, 10),
        10**7: (3125, 128, 10),
    },
    "batch size": {size: (256, size, 10) for size in (16, 32, 64, 128, 256, 512, 1024)},
    "classes": {n: (256, 128, n) for n in (2, 10, 100, 1000)},
}


def measure(width, batch_size, n_classes, rounds, device):
    """Return seconds per plain step and per gradient iteration, one each per round."""
    torch.manual_seed(SEED)
    student = MLPStudent(64, n_classes, hidden=(width, width))
    data = problem(student, (64,), n_classes, batch_size, device=device)
    contenders = {
        UNIT: ours(data, meta="naive"),
        GRADIENT: ours(data, meta="gradient", meta__hypergradient="finite_difference"),
    }
    n = calls_for(contenders[UNIT], 0.2, 20, device)
    return {
        "parameters": sum(w.numel() for w in student.parameters()),
        "steps per round": n,
        "seconds per step": interleaved(contenders, rounds, n, device),
        "operations": {name: operations(step) for name, step in contenders.items()},
    }


def tables(record, before):
    """Return the tables of docs/guide/speed.rst, one for each series."""
    found = []
    for what, points in record["series"].items():
        rows = [
            [
                f"{point['parameters'] if what == 'parameters' else int(value):,}",
                *(
                    shown(*ratio(r["series"][what][value]["seconds per step"], GRADIENT, UNIT))
                    for r in (before, record)
                ),
                f"{1e3 * np.median(point['seconds per step'][UNIT]):.2f}",
            ]
            for value, point in points.items()
        ]
        found.append(rst_table([what, "ratio, before", "ratio, now", "plain step, ms"], rows))
    return found


def draw(record, before):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), sharey=True, layout="constrained")
    for ax, what in zip(axes, record["series"], strict=True):
        for place, (label, r) in enumerate((("before", before), ("now", record))):
            points = r["series"][what]
            x = [p["parameters"] if what == "parameters" else int(v) for v, p in points.items()]
            ratios = [ratio(p["seconds per step"], GRADIENT, UNIT) for p in points.values()]
            middle, low, high = zip(*ratios, strict=True)
            look = series_look(place)
            ax.plot(x, middle, label=label, markersize=4, **look.line())
            ax.fill_between(x, low, high, alpha=0.2, color=look.color, linewidth=0)
        ax.axhline(7 / 3, color="gray", linestyle=":", label="7/3, by counting passes")
        ax.set(xscale="log", xlabel=what, ylim=(1, None))
    axes[0].set_ylabel("gradient iteration / plain step")
    axes[0].legend()
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


def main():
    chosen = options(__doc__)
    if chosen.table:
        record, before = read(__file__), read(__file__, "scaling_before.json")
        draw(record, before)
        return put_into_page(__file__, tables(record, before))
    record = {"settings": {"lr": LR, "seed": SEED, "features": 64}, "series": {}}
    for what, points in SERIES.items():
        record["series"][what] = {}
        for value, sizes in list(points.items())[: 3 if chosen.quick else None]:
            found = measure(*sizes, 3 if chosen.quick else 20, chosen.device)
            record["series"][what][str(value)] = found
            ratios = shown(*ratio(found["seconds per step"], GRADIENT, UNIT))
            unit = 1e3 * np.median(found["seconds per step"][UNIT])
            print(f"{what:12}{value:>10,}{ratios:>20}{unit:10.2f} ms", flush=True)
    write(record, __file__, chosen)


if __name__ == "__main__":
    main()
