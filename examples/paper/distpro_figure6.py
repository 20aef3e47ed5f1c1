"""Draw the searched processes of distpro_cifar10.json: Figure 6 of DistPro.

Deng, Sun, Newsam and Wang, "DistPro: Searching a fast knowledge distillation process via meta optimization"
(ECCV 2022). The figure has a row for each seed and a panel for each stage of the teacher. A panel shows the
weight of each pathway by the step of the search, at the weight that was chosen for DistPro. The record keeps
64 rows of each process.

    python examples/paper/distpro_figure6.py

It writes distpro_figure6.png beside this file, or to --out, and prints a table of the processes. With
--search learned or held there are also panels for lambda1 and T. --quick draws one seed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _distpro import FOLLOWERS, TUNING_SEED, process_of
from _protocol import list_table

from sklearn_kd import DistillationProcess, ProcessDisplay

FOLDER = Path(__file__).parent


def processes_of(record: dict, search: str) -> dict[int, DistillationProcess]:
    """Return seed → the process that the arm of a search follows."""
    # Arms with "weights" follow a process in another way.
    arm = next(arm for arm, (of, how) in FOLLOWERS.items() if of == search and "weights" not in how)
    found = {}
    for run in record["runs"]:
        setting = run["setting"]
        wanted = setting["what"] == "search" and setting["of"] == search
        if wanted and setting["seed"] != TUNING_SEED and setting["weight"] == record["chosen"][arm]:
            found[setting["seed"]] = process_of(run)
    return dict(sorted(found.items()))


def figure(processes: dict[int, DistillationProcess], file: Path) -> None:
    """Draw a row of panels for each seed; the scale of the pathways is the same in all."""
    import matplotlib.pyplot as plt

    first = next(iter(processes.values()))
    n_stages = len({pathway.teacher_stage for pathway in first.pathways})
    n_panels = n_stages + (0 if first.logit_term is None else 2)
    size = (3 * n_panels + 1, 2.4 * len(processes))
    picture, axes = plt.subplots(len(processes), n_panels, figsize=size, squeeze=False, layout="constrained")
    for place, (seed, process) in enumerate(processes.items()):
        row = axes[place]
        ProcessDisplay.from_process(process, axes=row)
        row[0].set_ylabel(f"seed {seed}: weight")
        for ax in row[:n_stages]:
            ax.set_ylim(0, 1)
        for ax in row:
            ax.set_xticks([0, len(process) - 1], ["start", "end"])  # of the record's rows, not of all steps
            if place > 0:
                ax.set_title("")
            if place < len(processes) - 1:
                ax.set_xlabel("")
        if place > 0:
            row[n_stages - 1].get_legend().remove()
    picture.savefig(file, dpi=110)
    plt.close(picture)


def tables(record: dict) -> Iterator[str]:
    """Yield the table of the processes: when a pathway takes the lead, and its weight at the end."""
    rows = []
    for search in ("gradient", "held", "learned"):
        for seed, process in processes_of(record, search).items():
            rows.append([f"{search}, seed {seed}", *cells(process)])
    yield list_table(["search", "leads at the end", "its weight", "leads since", "pathways above 1/9"], rows)


def cells(process: DistillationProcess) -> list[str]:
    """Return the pathway that leads at the end, its weight, since when, and how many are above 1/L."""
    alpha: Any = process.weights
    leader = int(alpha[-1].argmax())
    others = np.flatnonzero(alpha.argmax(axis=1) != leader)
    since = 0.0 if len(others) == 0 else (others[-1] + 1) / len(alpha)
    return [
        str(process.pathways[leader].key),
        f"{alpha[-1, leader]:.2f}",
        f"{100 * since:.0f} %",
        str(int((alpha[-1] > 1 / alpha.shape[1]).sum())),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", type=Path, default=FOLDER / "distpro_cifar10.json")
    parser.add_argument("--search", choices=("gradient", "linear", "learned", "held"), default="gradient")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write to; default: the script's")
    parser.add_argument("--quick", action="store_true", help="draw one seed, as a test")
    options = parser.parse_args()
    record = json.loads(options.record.read_text())
    processes = processes_of(record, options.search)
    if options.quick:
        processes = dict([*processes.items()][:1])
    options.out.mkdir(parents=True, exist_ok=True)
    name = "distpro_figure6" + ("" if options.search == "gradient" else f"_{options.search}")
    figure(processes, options.out / f"{name}.png")
    for table in tables(record):
        print(table)


if __name__ == "__main__":
    main()
