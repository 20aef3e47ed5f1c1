"""Print the tables of horizon.json, and draw horizon.png.

    python examples/evidence/horizon_figure.py

It prints every branch, and the tables of docs/guide/horizon.rst. The picture is written beside this file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sklearn_kd.style._style import series_look, style_axes

sys.path.append(str(Path(__file__).parents[1] / "paper"))
from _protocol import list_table, number

FILE = Path(__file__).with_name("horizon.json")
STAYS, END = "stays", -1
TASKS = ("letter, 30 % flipped", "satellite", "Fashion-MNIST", "CIFAR-10")
AS_LARGE = "T = 4, gradient of T = 1"
# Branches of the page's tables: where they leave, and what changes.
SHOWN = (([0.5, 1.0], "T = 4"), ([0.5, 4.0], "T = 1"), ([0.5, 4.0], "lambda1 = .9"))
LOOKS = {0.1: series_look(0), 0.4: series_look(1), 0.7: series_look(2)}


def mean_and_error(values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over the seeds and its standard error; NaN if there is no number."""
    found = np.array(values, dtype=float)
    return found.mean(axis=0), found.std(axis=0, ddof=1) / len(found) ** 0.5


def cell(values: Any) -> str:
    """Format numbers of the seeds as mean ± standard error."""
    mean, error = mean_and_error(values)
    return f"{number(float(mean), sign=True)} ± {number(float(error))}"


def branches(record: dict, **wanted: Any) -> Iterator[dict]:
    """Yield the runs with these entries, except those whose metaparameters stayed."""
    for run in record["runs"]:
        if run["arm"] != STAYS and all(run[key] == value for key, value in wanted.items()):
            yield run


def at(values: Any, place: int) -> np.ndarray:
    """Return the numbers of the seeds at one horizon."""
    return np.array(values, dtype=float)[:, place]


def change_of(run: dict) -> str:
    """Name the change: "T = 1 → 4"."""
    if run["task"] == "CIFAR-10":
        return f"weight 1 → {run['arm'].removeprefix('weight ')}"
    lambda1, temperature = run["start"]
    before = f"{temperature:g}" if run["arm"].startswith("T") else number(lambda1).rstrip("0")
    what, after = run["arm"].split(" = ", 1)
    beside = f", T = {temperature:g}" if what == "lambda1" else ""
    return f"{what} = {before} → {after}{beside}"


# --------------------------------------------------------------------------------------
# The tables of the page


def shown(record: dict, branched: float) -> Iterator[dict]:
    """Yield the runs of the page's tables."""
    for task in TASKS:
        for run in branches(record, task=task):
            listed = task == "CIFAR-10" or (run["start"], run["arm"]) in SHOWN
            if listed and run["branched at"] == branched:
                yield run


def effects(record: dict, key: str, branched: float = 0.4) -> str:
    """Return the table of a quantity by the number of iterations after the branch."""
    header = ["", "student", "change", *record["settings"]["horizons"]]
    rows = []
    for run in shown(record, branched):
        cells = [cell(at(run[key], place)) for place in range(len(run["horizons"]))]
        rows.append([run["task"], run["training"], change_of(run), *cells])
    return list_table(header, rows)


def ends(record: dict) -> str:
    """Return the table of the end of training: L_val at its best T_val and at 1, and test accuracy."""
    header = ["", "student", "change", "L_val", "L_val at T_val = 1", "accuracy"]
    rows = [
        [run["task"], run["training"], change_of(run)]
        + [cell(at(run[key], END)) for key in ("loss", "loss at 1", "accuracy")]
        for run in shown(record, 0.4)
    ]
    return list_table(header, rows)


def right_signs(record: dict, task: str | None, training: str, key: str) -> tuple[np.ndarray, int]:
    """Return by horizon how often a quantity has the sign of the change of L_val at the end, and the number.

    It counts all seeds of the branches whose mean change at the end exceeds two standard errors. ``task``
    None is all tasks except CIFAR-10.
    """
    right = []
    for run in branches(record, training=training):
        if (run["task"] == "CIFAR-10") == (task is None) or "greedy" not in run:
            continue
        mean, error = mean_and_error(at(run["loss"], END))
        if abs(mean) > 2 * error:
            right += list(np.sign(np.array(run[key], dtype=float)) == np.sign(mean))
    return np.mean(right, axis=0), len(right)


GROUPS = ((None, "SGD", "tables, SGD"), (None, "Adam", "tables, Adam"), ("CIFAR-10", "SGD", "CIFAR-10, SGD"))


def signs(record: dict) -> str:
    """Return the table of right signs, measured after k iterations and promised by greedy."""
    rows = []
    for task, training, name in GROUPS:
        for key, what in (("loss", "measured"), ("greedy", "greedy")):
            share, n = right_signs(record, task, training, key)
            rows.append([name, str(n), what, *(f"{value:.0%}" for value in share)])
    return list_table(["", "branches × seeds", "", *record["settings"]["horizons"]], rows)


def sizes(record: dict) -> str:
    """Return the table of the gradient's size when T = 1 becomes 4 at 40 %."""
    matched = "the same, gradient of T = 1"
    header = ["", "student", "gradient", "first step", "after 5", matched, "the end", matched]
    rows = []
    for run in branches(record, **{"arm": "T = 4", "branched at": 0.4}):
        (scaled,) = branches(
            record, **{"arm": AS_LARGE, "branched at": 0.4, "task": run["task"], "training": run["training"]}
        )
        ratios = [f"× {np.median(run[key]):.2f}" for key in ("gradient", "first step")]
        cells = [cell(at(of["loss"], place)) for place in (1, END) for of in (run, scaled)]
        rows.append([run["task"], run["training"], *ratios, *cells])
    return list_table(header, rows)


def tables(record: dict) -> list[str]:
    """Return the tables of docs/guide/horizon.rst."""
    return [effects(record, "loss"), signs(record), effects(record, "greedy"), sizes(record), ends(record)]


def exactness(record: dict) -> float:
    """Return the correlation of the integrated hypergradient with what is measured after one iteration."""
    pairs = [
        (at(run["loss"], 0), np.array(run["greedy, exact"]))
        for run in branches(record)
        if "greedy, exact" in run
    ]
    measured, exact = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return float(np.corrcoef(measured, exact)[0, 1])


def disagreements(record: dict) -> tuple[list[str], int]:
    """Return the branches where L_val and accuracy contradict each other at the end, and the number compared.

    It compares the branches in which both changes exceed two standard errors.
    """
    found, n = [], 0
    for run in branches(record):
        if "greedy" not in run:
            continue
        (loss, of_loss), (accuracy, of_accuracy) = (
            mean_and_error(at(run[key], END)) for key in ("loss", "accuracy")
        )
        if abs(loss) > 2 * of_loss and abs(accuracy) > 2 * of_accuracy:
            n += 1
            if loss * accuracy > 0:
                found.append(
                    f"{run['task']}, {run['training']}, {change_of(run)} at {run['branched at']:.0%}"
                )
    return found, n


def sentences(record: dict) -> list[str]:
    """Return the sentences of the guide about the record."""
    found, n = disagreements(record)
    return [f"correlation {number(exactness(record))}", f"in {len(found)} of {n} branches"]


def print_all(record: dict) -> None:
    """Print a line for each branch, with what greedy promises below it."""
    for run in record["runs"]:
        if run["arm"] == STAYS:
            loss, accuracy = np.mean(run["loss"]), np.mean(run["accuracy"])
            print(
                f"\n{run['task']}, {run['training']}, from {run['start']} at {run['branched at']:.0%}", end=""
            )
            print(f": L_val {loss:.4f}, accuracy {accuracy:.4f}; iterations {run['horizons']}")
            continue
        places = range(len(run["horizons"]))
        accuracy, ratio = cell(at(run["accuracy"], END)), np.median(run["gradient"])
        cells = " ".join(f"{cell(at(run['loss'], place)):>14}" for place in places)
        print(f"{run['arm']:26}{cells}   accuracy {accuracy}, gradient × {ratio:.2f}")
        if "greedy" in run:
            print(f"{'  greedy':26}" + " ".join(f"{cell(at(run['greedy'], place)):>14}" for place in places))


# --------------------------------------------------------------------------------------
# The picture


def draw(record: dict, file: Path) -> None:
    """Draw the change of L_val against the number of iterations, and how often its sign is right."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, 4, figsize=(15, 9), layout="constrained")
    rows = ((SHOWN[0], "SGD"), (SHOWN[0], "Adam"), (SHOWN[2], "SGD"))
    for line, ((start, arm), training) in zip(axes, rows, strict=True):
        for ax, task in zip(line, TASKS[:3], strict=False):
            runs = list(branches(record, task=task, training=training, start=start, arm=arm))
            panel(ax, runs, f"{task}, {training}")
    for ax, arm in zip(axes[:, 3], ("weight 2", "weight 5"), strict=False):
        panel(ax, list(branches(record, task="CIFAR-10", arm=arm)), "CIFAR-10, features, SGD")
    draw_signs(axes[2, 3], record)
    for ax in axes[:, 0]:
        ax.set_ylabel("change of L$_{val}$ at its best T$_{val}$")
    for ax in axes[-1]:
        ax.set_xlabel("iterations after the branch")
    axes[2, 3].set_xlabel("")
    axes[0, 0].legend(fontsize=8, loc="lower left")
    figure.savefig(file, dpi=110)


def panel(ax: Any, runs: Sequence[dict], title: str) -> None:
    """Draw the branches that leave at each point: the mean, one standard error, and greedy, dashed."""
    bounds = [0.0]
    for run in runs:
        order = np.argsort(run["horizons"])
        look = LOOKS[run["branched at"]]
        k, colour = np.array(run["horizons"])[order], look.color
        mean, error = (part[order] for part in mean_and_error(run["loss"]))
        ax.plot(k, mean, color=colour, marker=look.marker, ms=4, label=f"left at {run['branched at']:.0%}")
        ax.fill_between(k, mean - error, mean + error, color=colour, alpha=0.15, linewidth=0)
        promised = mean_and_error(run["greedy"])[0][order]
        ax.plot(k, promised, color=colour, linestyle="--", linewidth=1)
        bounds += [*(mean - error), *(mean + error)]
    low, high = min(bounds), max(bounds)
    room = 0.15 * (high - low)
    ax.set_ylim(low - 2 * room, high + 2 * room)
    ax.axhline(0, color="0.4", linewidth=0.8)
    ax.axvline(runs[0]["per epoch"], color="0.7", linewidth=0.8, linestyle=":")
    ax.set_xscale("log")
    style_axes(ax)
    ax.set_title(f"{title}: {change_of(runs[0])}", loc="left", fontsize=8.5)


def draw_signs(ax: Any, record: dict) -> None:
    """Draw how often the sign is the same as at the end."""
    names = record["settings"]["horizons"][:-1]
    for place, (task, training, name) in enumerate(GROUPS):
        look = series_look(place)
        for key, style in (("loss", "-"), ("greedy", "--")):
            share, _ = right_signs(record, task, training, key)
            label = name if key == "loss" else None
            line = {"color": look.color, "marker": look.marker, "ms": 4}
            ax.plot(range(len(names)), share[:-1], style, label=label, **line)
    ax.axhline(0.5, color="0.4", linewidth=0.8)
    ax.set_ylim(0, 1.02)
    style_axes(ax)
    ax.set_xticks(range(len(names)), names, fontsize=7)
    ax.set_title("share with the sign of the end", loc="left", fontsize=9)
    ax.legend(fontsize=8, loc="lower left")


def main() -> None:
    record = json.loads(FILE.read_text(encoding="utf-8"))
    print_all(record)
    for table in tables(record):
        print(f"\n{table}")
    print(f"the integral of h and what is measured after one iteration: correlation {exactness(record):.3f}")
    found, n = disagreements(record)
    print(f"loss and accuracy contradict in {len(found)} of {n} branches:", *found, sep="\n  ")
    draw(record, FILE.with_suffix(".png"))


if __name__ == "__main__":
    main()
