"""Measure when two threads pay, and what a fit costs with and without the rule, idle and beside other load.

``sweep`` times the forward and backward pass of a linear layer, of a 3×3 convolution and of a ReLU, by size,
with one thread and with two. Calls take turns. The smallest wall time of each counts, because other programs
only add time.

``fits`` fits the digits with three kinds of student, with the library's rule and with torch's own number of
threads, in turn in one process. ``load`` fits the same MLP beside processes that each keep a core busy. Each
number is the CPU and wall time of a whole ``fit``, the smallest of the repetitions.

``other_load`` is the load average of the minute before: a machine that others use is not idle.

Run: python examples/benchmarks/threads.py [--quick] [--table] [--out NAME]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from unittest import mock

import numpy as np
import torch
from _measure import environment, put_into_page, read, rst_table, write
from sklearn.datasets import load_digits
from torch import nn

from sklearn_kd import CIFARResNet, DistilledClassifier, MLPStudent
from sklearn_kd.runtime import _threads
from sklearn_kd.runtime._operations import largest_operation

N_THREADS = 2
# Freed pages are kept, or the system's work on them would be measured; threads are torch's default.
MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "1073741824"}
BUSY = "while True: pass"
WITHOUT_RULE = mock.patch.object(_threads, "_paying", lambda operations, most: most)

# (rows, width) of linear layers; (rows, channels, size of the image) of convolutions; elements of a ReLU.
LINEAR = [
    (32, 32),
    (128, 32),
    (128, 64),
    (128, 128),
    (256, 128),
    (128, 256),
    (256, 256),
    (512, 256),
    (512, 512),
]
CONVOLUTIONS = [(32, 4, 8), (32, 8, 8), (128, 8, 8), (32, 16, 16), (128, 16, 8), (128, 16, 16), (128, 32, 16)]
ELEMENTS = [2**15, 2**16, 2**17, 2**18, 2**19, 2**20, 2**21]


def main() -> None:
    """Measure, and write the record; or write its tables into the page."""
    chosen = options()
    if not chosen.table:
        record = {
            "environment": environment("cpu")
            | {"clock": "wall time; CPU and wall time of fits", "OMP_NUM_THREADS": None},
            "seconds_per_size": chosen.seconds,
            "load_average_before": os.getloadavg()[0],
            "PER_THREAD": _threads.PER_THREAD,
            "PER_ELEMENT": _threads.PER_ELEMENT,
            "sweep": sweep(chosen.seconds),
            "fits": [idle_fit(name, chosen.repeats) for name in STUDENTS],
            "load": [loaded_fit(n_busy, chosen.repeats) for n_busy in (0, 2, 3)],
            "load_average_after": os.getloadavg()[0],
        }
        write(record, __file__, chosen)
    if chosen.table:
        put_into_page(__file__, tables(read(__file__)))


def options() -> argparse.Namespace:
    """Parse the command line; restart the script where its environment differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="run a small test; write no file without --out")
    parser.add_argument(
        "--table", action="store_true", help="write the JSON's tables into the documentation; measure nothing"
    )
    parser.add_argument("--out", help="name of the JSON file; default: the script's")
    chosen = parser.parse_args()
    chosen.device = "cpu"
    chosen.seconds, chosen.repeats = (0.05, 1) if chosen.quick else (1.5, 5)
    if (
        any(os.environ.get(name) != value for name, value in MEMORY.items())
        or "OMP_NUM_THREADS" in os.environ
    ):
        kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], kept | MEMORY)
    torch.set_num_threads(N_THREADS)
    return chosen


# --------------------------------------------------------------------------------------
# When two threads pay


def sweep(seconds: float) -> list[dict]:
    """Measure every size with one thread and with two."""
    made = [("linear", size, nn.Linear(size[1], size[1]), (size[0], size[1])) for size in LINEAR]
    made += [
        ("convolution", size, nn.Conv2d(size[1], size[1], 3, padding=1), (*size[:2], size[2], size[2]))
        for size in CONVOLUTIONS
    ]
    made += [("elements", (n,), nn.ReLU(), (n,)) for n in ELEMENTS]
    return [measured(kind, size, layer, shape, seconds) for kind, size, layer, shape in made]


def measured(kind: str, size: tuple, layer: nn.Module, shape: tuple, seconds: float) -> dict:
    """Return multiply-adds, or elements, and the smallest wall times in microseconds."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.no_grad():
        output, operations = largest_operation(lambda: layer(x), [])
    gradient = torch.ones_like(output)

    def passes() -> None:
        layer(x).backward(gradient)
        layer.zero_grad()
        x.grad = None

    best, n_calls, end = {1: np.inf, N_THREADS: np.inf}, 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        for n_threads in best:
            torch.set_num_threads(n_threads)
            passes()  # wakes the second thread
            for _ in range(5):
                start = time.perf_counter()
                passes()
                best[n_threads] = min(best[n_threads], time.perf_counter() - start)
        n_calls += 5
    torch.set_num_threads(N_THREADS)
    times = {f"us_{n}_threads": 1e6 * t for n, t in best.items()}
    row = {"kind": kind, "size": list(size), "operations": operations, "calls": n_calls} | times
    row["speedup"] = best[1] / best[N_THREADS]
    print(row, flush=True)
    return row


# --------------------------------------------------------------------------------------
# Fits


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10),
    )  # fmt: skip


# How they are made, the shape of a sample, the number of rows and of epochs.
STUDENTS = {
    "MLP": (lambda: MLPStudent(64, 10), (64,), 1797, 20),
    "CNN": (_cnn, (8, 8), 1797, 4),
    "ResNet-8": (lambda: CIFARResNet(8, mean=(0.0,), std=(1.0,)), (1, 8, 8), 1797, 3),
}


def fit(name: str) -> tuple[float, float]:
    """Fit digits with a student of this name; return CPU and wall seconds."""
    make, shape, n_rows, n_epochs = STUDENTS[name]
    X, y = (part[:n_rows] for part in load_digits(return_X_y=True))
    logits = 4 * np.eye(10)[y] + np.random.default_rng(0).normal(size=(len(y), 10))
    torch.manual_seed(0)
    clf = DistilledClassifier(
        None,
        make(),
        meta="linear",
        max_epochs=n_epochs,
        batch_size=64,
        validation_fraction=0.1,
        search_epochs=None,
        device="cpu",
        random_state=0,
    )
    X = (X / 16).astype(np.float32).reshape(-1, *shape)
    began, cpu = time.perf_counter(), time.process_time()
    clf.fit(X, y, teacher_logits=logits)
    return time.process_time() - cpu, time.perf_counter() - began


def both(name: str, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Return (CPU, wall) of fits with the rule and without, which take turns."""
    fit(name)  # imports
    found: dict[str, list[tuple[float, float]]] = {"rule": [], "all_threads": []}
    for _ in range(repeats):
        for arm, rule in (("rule", nullcontext()), ("all_threads", WITHOUT_RULE)):
            with rule:
                found[arm].append(fit(name))
    return found


def idle_fit(name: str, repeats: int) -> dict:
    """Return the smallest CPU and wall seconds of a student's fits."""
    found = both(name, repeats)
    row = {"student": name, "load_average": os.getloadavg()[0], "runs": found}
    row |= {arm: [min(run[k] for run in runs) for k in range(2)] for arm, runs in found.items()}
    print({k: v for k, v in row.items() if k != "runs"}, flush=True)
    return row


def loaded_fit(n_busy: int, repeats: int) -> dict:
    """Return the smallest CPU and wall seconds of the MLP's fits beside busy processes."""
    with busy(n_busy):
        found = both("MLP", repeats)
    row = {"busy_processes": n_busy, "load_average": os.getloadavg()[0], "runs": found}
    row |= {arm: [min(run[k] for run in runs) for k in range(2)] for arm, runs in found.items()}
    print({k: v for k, v in row.items() if k != "runs"}, flush=True)
    return row


@contextmanager
def busy(n: int):
    """Keep ``n`` cores busy inside."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


# --------------------------------------------------------------------------------------
# Tables


def tables(record: dict) -> list[str]:
    """Return the tables of the page: the sweep, the idle fits, the fits beside busy processes."""
    sizes = [
        [row["kind"], f"{row['operations'] / 1e6:.2f}", *(f"{row[f'us_{n}_threads']:.0f}" for n in (1, 2)),
         f"{row['speedup']:.2f}"]
        for row in record["sweep"]
    ]  # fmt: skip
    header = ["operation", "million multiply-adds", "one thread, µs", "two threads, µs", "one by two"]
    idle = [[row["student"], *_cells(row, 2)] for row in record["fits"]]
    load = [[str(row["busy_processes"]), *_cells(row, 1)] for row in record["load"]]
    columns = ["rule, CPU s", "rule, wall s", "all threads, CPU s", "all threads, wall s"]
    return [
        rst_table(header, sizes),
        rst_table(["student", *columns], idle),
        rst_table(["busy processes", *columns], load),
    ]


def _cells(row: dict, digits: int) -> list[str]:
    return [f"{value:.{max(digits, 2)}f}" for arm in ("rule", "all_threads") for value in row[arm]]


if __name__ == "__main__":
    main()
