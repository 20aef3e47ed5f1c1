"""Measure how other metaparameters change L_val after 1, 5, 20, ... iterations, and what one iteration shows.

At 10, 40 and 70 % of a training, branches continue from its state with other metaparameters, on the
same batches. After k iterations a branch is compared with the training whose metaparameters stayed: by
the loss on all of D_val, each student at its own best T_val ("loss"), by the same at T_val = 1
("loss at 1"), and by test accuracy. "greedy" is what the greedy hypergradient h promises, in first order:
the sum over the k iterations of h · change, where h is the library's, on all of D_val, along
the training that stayed, interpolated between the iterations at which it is computed. The change is that of
(lambda1, log T), or of the weight of the features. "greedy, exact" is h of the first iteration
integrated along the change (Gauss-Legendre, 3 points): it must agree with the change measured after one
iteration.

The tasks have 1,700 rows of D_train and 300 of D_val (CIFAR-10: 768 and 384 images), and five seeds, which
differ in rows, flips, initial weights and batches:

  letter, 30 % flipped   flips in D_train and D_val, not in the test rows; teacher: a forest on D_train
  satellite              unchanged; teacher: a forest on D_train
  Fashion-MNIST          50 principal components; teacher: a forest on the 14×14 pixels of 4,000 other images
  CIFAR-10               16×16 pixels, ResNet-8, feature maps of a trained ResNet-20 (_horizon_images.py)

"Adam" is the library's default: MLPStudent of width 256, rate 0.003, 30 epochs, the default batch size. "SGD"
trains an MLP of 48-48 with rate 0.1 and momentum 0.9, for 40 epochs of 32 batches. CIFAR-10 has SGD with rate
0.1, momentum 0.9, weight decay 5e-4 and a cosine schedule, 8 epochs of 12 batches, and no branch at 70 %.

Two more branches test whether the size of the gradient is what matters. "T = 4, gradient of T = 1"
multiplies the loss by the number that makes the gradient of the first iteration as large as at T = 1.
"T = 1, gradient of T = 4" does the reverse.

    OMP_NUM_THREADS=1 python examples/evidence/horizon.py --mlbench FOLDER --fashion FOLDER \\
        --cifar FOLDER --teacher resnet20-cifar10.pt

It writes horizon.json beside this file (some five minutes of one core). horizon_figure.py prints its tables
and draws horizon.png. The folder of --mlbench has the .rda files of R's package mlbench, which pyreadr reads;
--fashion and --cifar are those of the data sets' own files.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _horizon_images import Images, Learner, images
from _horizon_tables import (
    N_TEST,
    N_TRAIN,
    N_VALID,
    Rows,
    Stack,
    Training,
    greedy,
    small_images,
    stacked,
    table,
)

from sklearn_kd.inputs._batches import rows_per_batch

sys.path.append(str(Path(__file__).parents[1]))
from _provenance import provenance

SEEDS = 5
POINTS, POINTS_OF_IMAGES = (0.1, 0.4, 0.7), (0.1, 0.4)
KEYS = ("loss", "loss at 1", "accuracy")
HORIZONS = ("1", "5", "20", "1 epoch", "3 epochs", "the end")
ADAM = Training(256, torch.optim.Adam, {"lr": 0.003}, rows_per_batch("auto", 2000), 30)
SGD = Training((48, 48), torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}, 1700 // 32, 40)
TRAININGS = {"SGD": SGD, "Adam": ADAM}
OF_IMAGES = {"params": {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}, "batch_size": 64, "epochs": 8}
NODES, SHARES = np.polynomial.legendre.leggauss(3)
NODES, SHARES = (NODES + 1) / 2, SHARES / 2


class Arm(NamedTuple):
    """Metaparameters of a branch; its loss is scaled to the gradient of the branch ``as_large_as``."""

    lambda1: float
    temperature: float
    as_large_as: str | None = None


STAYS = "stays"
# By the metaparameters of the training that the branches leave.
STARTS = {
    (0.5, 1.0): {
        STAYS: Arm(0.5, 1.0),
        "T = 4": Arm(0.5, 4.0),
        "T = 4, gradient of T = 1": Arm(0.5, 4.0, STAYS),
        "T = 1, gradient of T = 4": Arm(0.5, 1.0, "T = 4"),
    },
    (0.5, 4.0): {
        STAYS: Arm(0.5, 4.0),
        "T = 1": Arm(0.5, 1.0),
        "lambda1 = .25": Arm(0.25, 4.0),
        "lambda1 = .75": Arm(0.75, 4.0),
        "lambda1 = .9": Arm(0.9, 4.0),
    },
}
WEIGHTS = (1.0, 2.0, 5.0)  # of the features; the first stays


class Clock:
    """The iterations of a training at which it branches, is measured, and h is computed."""

    def __init__(self, n_rows: int, batch_size: int, epochs: int, points: Sequence[float]):
        self.n_rows, self.batch_size = n_rows, batch_size
        self.per_epoch = n_rows // batch_size
        self.total = self.per_epoch * epochs
        self.points = [round(share * self.total) for share in points]
        after = (0, 1, 2, 3, 4, 9, 14, 19)
        taken = set(range(self.points[0], self.total, self.per_epoch // 2)) | {self.total - 1}
        self.taken = sorted(taken | {p + i for p in self.points for i in after if p + i < self.total})

    def horizons(self, point: int) -> list[int]:
        """Return the numbers of iterations after a branch, in the order of ``HORIZONS``."""
        return [1, 5, 20, self.per_epoch, 3 * self.per_epoch, self.total - point]

    def measured_after(self, i: int) -> list[int]:
        """Return the branching points whose branches are measured after iteration i."""
        return [point for point in self.points if i + 1 - point in self.horizons(point)]

    def batch(self, seed: int, i: int) -> torch.Tensor:
        """Return the rows of batch i; the rest of an epoch that fills no batch is left out."""
        epoch, place = divmod(i, self.per_epoch)
        order = torch.randperm(self.n_rows, generator=torch.Generator().manual_seed(1000 * seed + epoch))
        return order[place * self.batch_size : (place + 1) * self.batch_size]

    def promised(self, h: dict[int, np.ndarray], change: np.ndarray, point: int) -> np.ndarray:
        """Return the sum of h · change over the steps up to each horizon, shape (S, n_horizons)."""
        found = np.array([h[i] @ change for i in self.taken])
        steps = np.arange(point, self.total)
        filled = np.array([np.interp(steps, self.taken, of_seed) for of_seed in found.T])
        return np.cumsum(filled, axis=1)[:, [k - 1 for k in self.horizons(point)]]


def entry(settings: dict[str, Any], measured: Sequence[dict], stays: Sequence[dict], **more: Any) -> dict:
    """Return the record of one branch: differences to the training that stays, a row for each seed."""
    differences = {
        name: np.transpose([m[name] - s[name] for m, s in zip(measured, stays, strict=True)]) for name in KEYS
    }
    return settings | {name: rounded(value) for name, value in (differences | more).items()}


def rounded(values: Any) -> Any:
    """Return four digits of numbers, None for NaN."""
    if np.ndim(values):
        return [rounded(value) for value in values]
    value = float(values)
    return None if np.isnan(value) else float(f"{value:.4g}")


# --------------------------------------------------------------------------------------
# lambda1 and T


def coordinates(values: Sequence[float]) -> np.ndarray:
    """Return (lambda1, log T)."""
    return np.array([values[0], np.log(values[1])])


def run_tables(task: str, rows: Rows, name: str, training: Training) -> Iterator[dict]:
    """Yield the records of all branches of a task with one kind of training."""
    clock = Clock(rows.X.shape[1], training.batch_size, training.epochs, POINTS)
    groups = [(start, -1, STAYS) for start in STARTS]
    stack = Stack.fresh(training, rows, list(STARTS))
    h: dict[Any, dict] = {start: {} for start in STARTS}
    more: dict[Any, dict] = {}  # by group
    measured: dict[int, dict] = {}  # by iteration
    for i in range(clock.total):
        batch = batches(rows, clock, i)
        if i in clock.points:
            stack, groups = branched(stack, groups, i)
            more |= first_step(stack, groups, rows, batch, i)
        else:
            stack.step(*batch)
        for start in STARTS if i + 1 in clock.taken else ():
            ahead = batches(rows, clock, i + 1)
            h[start][i + 1] = greedy(stack, rows, groups.index((start, -1, STAYS)), ahead, start)
        of = clock.measured_after(i)
        if of:
            asked = [g for g, (_, point, _) in enumerate(groups) if point in (*of, -1)]
            measured[i] = {groups[g]: found for g, found in stack.measure(rows, asked).items()}
    for share, point in zip(POINTS, clock.points, strict=True):
        for start in STARTS:
            settings = {
                "task": task, "training": name, "start": start, "branched at": share,
                "horizons": clock.horizons(point), "per epoch": clock.per_epoch,
            }  # fmt: skip
            ends = [point + k - 1 for k in clock.horizons(point)]
            stays = [measured[i][start, -1, STAYS] for i in ends]
            yield settings | {"arm": STAYS} | {key: rounded(stays[-1][key]) for key in KEYS}
            for arm, values in branches_of(start).items():
                of_arm = dict(more[start, point, arm])
                if values.as_large_as is None:
                    change = coordinates(values) - coordinates(start)
                    of_arm["greedy"] = clock.promised(h[start], change, point)
                found = [measured[i][start, point, arm] for i in ends]
                yield entry(settings | {"arm": arm}, found, stays, **of_arm)


def branches_of(start: tuple[float, float]) -> dict[str, Arm]:
    """Return all arms except the one that stays."""
    return {name: arm for name, arm in STARTS[start].items() if name != STAYS}


def batches(rows: Rows, clock: Clock, i: int) -> list[torch.Tensor]:
    """Return batch i of all seeds: X, y and f."""
    chosen = [clock.batch(seed, i) for seed in range(len(rows.X))]
    return [torch.stack([part[s][c] for s, c in enumerate(chosen)]) for part in rows[:3]]


def branched(stack: Stack, groups: list[tuple], point: int) -> tuple[Stack, list[tuple]]:
    """Return the students followed by those of the branches that leave here, and their groups."""
    leaving = [(start, point, arm) for start in STARTS for arm in branches_of(start)]
    sources = [groups.index((start, -1, STAYS)) for start, _, _ in leaving]
    values = [STARTS[start][arm][:2] for start, _, arm in leaving]
    return stack.extended(sources, values), groups + leaving


def first_step(stack: Stack, groups: list[tuple], rows: Rows, batch: Any, point: int) -> dict[tuple, dict]:
    """Take the first step of the branches; return by group its gradient, its length, and h's prediction.

    Gradient and length are ratios to those of the training that stays. "greedy, exact" is the integral of h
    from the start to the branch's metaparameters.
    """
    stack.gradient(*batch)
    norms = stack.gradient_norms()
    found: dict[tuple, dict] = {}
    for g, (start, left_at, arm) in enumerate(groups):
        if left_at != point:
            continue
        place, values = groups.index((start, -1, STAYS)), STARTS[start][arm]
        found[groups[g]] = {"gradient": norms[g] / norms[place]}
        if values.as_large_as is None:
            found[groups[g]]["greedy, exact"] = integrated(stack, rows, place, batch, start, values)
        else:
            of = place if values.as_large_as == STAYS else groups.index((start, point, values.as_large_as))
            stack.scale[stack.members(g)] = norms[of] / norms[g]
    lengths = stack.measured_step(*batch)
    for group in found:
        place = groups.index((group[0], -1, STAYS))
        found[group]["first step"] = lengths[groups.index(group)] / lengths[place]
    return found


def integrated(stack: Stack, rows: Rows, group: int, batch: Any, start: Any, arm: Arm) -> np.ndarray:
    """Return the integral of h of the next step from the start to an arm, a number for each seed."""
    begin, change = coordinates(start), coordinates(arm) - coordinates(start)
    total = np.zeros(len(rows.X))
    for node, share in zip(NODES, SHARES, strict=True):
        lambda1, log_t = begin + node * change
        total += share * (greedy(stack, rows, group, batch, (float(lambda1), float(np.exp(log_t)))) @ change)
    return total


# --------------------------------------------------------------------------------------
# The weight of the features


def run_images(data: Sequence[Images]) -> Iterator[dict]:
    """Yield the records of all branches of the feature loss."""
    clock = Clock(len(data[0].X), OF_IMAGES["batch_size"], OF_IMAGES["epochs"], POINTS_OF_IMAGES)
    of_seeds = [run_seed(seed, of_seed, clock) for seed, of_seed in enumerate(data)]
    h = {i: np.array([of_h[i] for of_h, _, _ in of_seeds])[:, None] for i in clock.taken}
    for share, point in zip(POINTS_OF_IMAGES, clock.points, strict=True):
        settings = {
            "task": "CIFAR-10", "training": "SGD", "start": WEIGHTS[:1], "branched at": share,
            "horizons": clock.horizons(point), "per epoch": clock.per_epoch,
        }  # fmt: skip
        ends = [point + k - 1 for k in clock.horizons(point)]

        def of(group: Any, ends: list[int] = ends) -> list[dict]:
            return [{key: np.array([m[i, group][key] for _, m, _ in of_seeds]) for key in KEYS} for i in ends]

        stays = of(STAYS)
        yield settings | {"arm": STAYS} | {key: rounded(stays[-1][key]) for key in KEYS}
        for weight in WEIGHTS[1:]:
            change = np.array([weight - WEIGHTS[0]])
            gradients = [norms[point, weight] for _, _, norms in of_seeds]
            more = {"greedy": clock.promised(h, change, point), "gradient": gradients}
            yield entry(settings | {"arm": f"weight {weight:g}"}, of((point, weight)), stays, **more)


def run_seed(seed: int, data: Images, clock: Clock) -> tuple[dict, dict, dict]:
    """Return h by iteration, measurements by (iteration, group), and ratios of gradients by group."""
    stays = Learner(seed, OF_IMAGES["params"], clock.total)
    h, measured, ratios = {}, {}, {}
    branches: dict[Any, Learner] = {}
    for i in range(clock.total):
        batch = data.batch(clock.batch(seed, i))
        if i in clock.points:
            branches |= {(i, weight): stays.copy() for weight in WEIGHTS[1:]}
        if i in clock.taken:
            h[i] = stays.greedy(data, batch, WEIGHTS[0])
        norm = stays.step(batch, WEIGHTS[0])
        norms = {group: branch.step(batch, group[1]) for group, branch in branches.items()}
        ratios |= {group: float(n / norm) for group, n in norms.items() if group[0] == i}
        of, last = clock.measured_after(i), i == clock.total - 1
        if of:
            measured[i, STAYS] = stays.measure(data, last)
            for group, branch in branches.items():
                if group[0] in of:
                    measured[i, group] = branch.measure(data, last)
    return h, measured, ratios


# --------------------------------------------------------------------------------------


def tasks(options: argparse.Namespace) -> dict[str, Any]:
    """Return functions that draw the rows of a seed, by task."""
    return {
        "letter, 30 % flipped": lambda seed: table("letter", options.mlbench, seed, 0.3),
        "satellite": lambda seed: table("satellite", options.mlbench, seed, 0.0),
        "Fashion-MNIST": lambda seed: small_images(options.fashion, seed),
    }


def run_all(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the record after each task, with the runs so far."""
    torch.set_num_threads(1)
    settings = {
        "seeds": options.seeds, "points": POINTS, "points of CIFAR-10": POINTS_OF_IMAGES,
        "horizons": HORIZONS,
        "rows": {"D_train": N_TRAIN, "D_val": N_VALID, "test, at most": N_TEST}, "CIFAR-10": OF_IMAGES,
        "trainings": {
            name: training._replace(optimizer=training.optimizer.__name__)._asdict()
            for name, training in TRAININGS.items()
        },
    }  # fmt: skip
    record: dict[str, Any] = {**provenance(__file__), "settings": settings, "CPU seconds": {}, "runs": []}
    seconds = record["CPU seconds"]
    for task, draw_rows in tasks(options).items():
        began = time.process_time()
        rows = stacked([draw_rows(seed) for seed in range(options.seeds)])
        seconds[f"{task}, data"] = round(time.process_time() - began)
        for name, training in TRAININGS.items():
            began = time.process_time()
            record["runs"] += run_tables(task, rows, name, training)
            seconds[f"{task}, {name}"] = round(time.process_time() - began)
            yield record
    began = time.process_time()
    data = [images(options.cifar, options.teacher, seed) for seed in range(options.seeds)]
    seconds["CIFAR-10, data"] = round(time.process_time() - began)
    record["runs"] += run_images(data)
    seconds["CIFAR-10"] = round(time.process_time() - began) - seconds["CIFAR-10, data"]
    yield record


def write(record: dict[str, Any], file: Path) -> None:
    """Write a record with a line for each branch."""
    head = json.dumps({key: value for key, value in record.items() if key != "runs"}, indent=1)
    rows = ",\n  ".join(json.dumps(run) for run in record["runs"])
    file.write_text(f'{head[:-2]},\n "runs": [\n  {rows}\n ]\n}}\n', encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("mlbench", "fashion", "cifar", "teacher"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    for record in run_all(options):
        write(record, options.out)
        print(record["CPU seconds"], flush=True)


if __name__ == "__main__":
    main()
