"""Measure training in one and in two processes: CPU time, messages, and the cost of the second all-reduce.

Two processes on this machine communicate by gloo. Strong scaling compares a batch of 128 rows in one process
with 64 in each of two. Weak scaling compares 64 in one with 64 in each of two. The students are:

- perceptron: 64 inputs, two hidden layers of 700, 0.5 million weights, a cached teacher;
- convolutional: ResNet-8 of 16×16 pixels, 0.08 million weights; for DistPro a ResNet-14 and 9 pathways.

The kinds of iterations are KD with fixed metaparameters; KD with a hypergradient in every iteration;
``meta="linear"`` with e1 = 10 and e2 of 10 and of 100; and DistPro's retraining and search.

Each number is the CPU time of a process (all of its threads) in the iterations after the first ones, as the
median over rounds of fits that take turns. Collectives are timed by CPU time too, and their bytes are those
that a process passes to them. CPU time measures the work of a process. It does not include waiting for the
latency or bandwidth of a network, or for a slower process. examples/scale/cost_model.py computes these.

    python examples/benchmarks/data_parallel.py            # about six minutes
    python examples/benchmarks/data_parallel.py --quick    # half a minute; writes no file
    python examples/benchmarks/data_parallel.py --table    # the tables into docs/guide/scale.rst

It writes data_parallel.json beside this file.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from _measure import options, quartiles, read, replace_tables, rst_table, write
from skorch.callbacks import Callback

from sklearn_kd import CIFARResNet, DistilledClassifier, DistProClassifier, MLPStudent

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "scale.rst"
ROWS, WARM_UP, N_CLASSES = 64, 4, 10
LAYERS = ["layer1", "layer2", "layer3"]
KINDS = {
    ("perceptron", "fixed"): {"meta": "fixed"},
    ("perceptron", "gradient"): {"meta": "gradient"},
    ("perceptron", "linear, e2 = 10"): {"meta": "linear", "e1": 10, "e2": 10},
    ("perceptron", "linear, e2 = 100"): {"meta": "linear", "e1": 10, "e2": 100},
    ("convolutional", "fixed"): {"meta": "fixed"},
    ("convolutional", "gradient"): {"meta": "gradient"},
    ("convolutional", "DistPro, retraining"): {"weights": "equal"},
    ("convolutional", "DistPro, search"): {},
}
WORDS = {
    "fixed": "KD",
    "gradient": "a hypergradient in every iteration",
    "linear, e2 = 10": '``meta="linear"``, e1 = 10, e2 = 10',
    "linear, e2 = 100": '``meta="linear"``, e1 = 10, e2 = 100',
    "DistPro, retraining": "DistPro, retraining",
    "DistPro, search": "DistPro, search",
}


# --------------------------------------------------------------------------------------
# In each process


class Clock(Callback):
    """Record CPU time and collectives after the first iterations; end the fit after the last one."""

    def __init__(self, n, collectives):
        self.n, self.collectives = n, collectives

    def on_train_begin(self, net, **kwargs):
        self.done_ = 0

    def on_batch_end(self, net, training=False, **kwargs):
        if not training:
            return
        self.done_ += 1
        if self.done_ in (WARM_UP, WARM_UP + self.n):
            now = Counter(self.collectives) + Counter({"seconds": time.process_time()})
            if self.done_ == WARM_UP:
                self.began_ = now
            else:
                self.found_ = {k: (now[k] - self.began_[k]) / self.n for k in now}
                raise KeyboardInterrupt  # ends a training early


@contextmanager
def counted_collectives():
    """Count calls, bytes and CPU seconds of torch.distributed's collectives."""
    found, originals = (
        Counter(),
        {name: getattr(dist, name) for name in ("all_reduce", "broadcast", "all_gather")},
    )

    def counting(original):
        def collective(*args, **kwargs):
            began = time.process_time()
            try:
                return original(*args, **kwargs)
            finally:
                tensor = args[0] if isinstance(args[0], torch.Tensor) else args[1]
                found.update(
                    {"calls": 1, "bytes": tensor.nbytes, "collective seconds": time.process_time() - began}
                )
                found[f"of {tensor.nbytes} bytes"] += 1

        return collective

    for name, original in originals.items():
        setattr(dist, name, counting(original))
    try:
        yield found
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


class End(Callback):
    def on_epoch_begin(self, net, **kwargs):
        raise KeyboardInterrupt


def data(student):
    """Return images or rows, labels and logits; all classes occur."""
    rng = np.random.default_rng(0)
    shape = (64,) if student == "perceptron" else (3, 16, 16)
    X = rng.standard_normal((1024, *shape), dtype=np.float32)
    return X, np.arange(len(X)) % N_CLASSES, rng.standard_normal((len(X), N_CLASSES))


def measure(student, kind, rows, n, parallel):
    """Return the means over n iterations of a fit on batches of so many rows in all processes."""
    X, y, logits = data(student)
    params = {"optimizer": "SGD", "lr": 0.01, "batch_size": rows, "max_epochs": 10_000, "random_state": 0}
    params |= {"device": "cpu", "iterator_valid__batch_size": rows, "parallel": parallel} | KINDS[
        student, kind
    ]
    with counted_collectives() as collectives:
        clock, given = Clock(n, collectives), {"X_val": X[:rows], "y_val": y[:rows]}
        if kind.startswith("DistPro"):
            search = {"search_callbacks": [clock], "search_epochs": 10_000, "callbacks": [End()]}
            params |= search if kind == "DistPro, search" else {"callbacks": [clock]}
            torch.manual_seed(0)
            clf = DistProClassifier(
                CIFARResNet(14), CIFARResNet, student__depth=8, teacher_layers=LAYERS, student_layers=LAYERS,
                transforms=["conv2"], **params,
            )  # fmt: skip
        else:
            made = {"student": MLPStudent, "student__hidden": (700, 700)}
            made = made if student == "perceptron" else {"student": CIFARResNet, "student__depth": 8}
            clf = DistilledClassifier(None, **made, callbacks=[clock], search_epochs=None, **params)
            given["teacher_logits"] = logits
        clf.fit(X, y, **given)
    return clock.found_


def run_all(rank, size, folder, rounds, n):
    """Measure all kinds, in turn, in one of ``size`` processes; write the runs to a file of the folder."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size)}
    torch.set_num_threads(1)
    if size > 1:
        store = dist.FileStore(f"{folder}/store", size)
        dist.init_process_group(
            "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=120)
        )
    parallel, found = "ddp" if size > 1 else None, []
    batches = {"strong": 2 * ROWS, "weak": ROWS * size}
    for _ in range(rounds):
        for student, kind in KINDS:
            for how, rows in batches.items():
                steps = 110 if kind == "linear, e2 = 100" else n
                of = {"student": student, "kind": kind, "how": how, "processes": size, "rank": rank}
                found.append(of | measure(student, kind, rows, steps, parallel))
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    if size > 1:
        dist.destroy_process_group()


# --------------------------------------------------------------------------------------


def runs_of(size, rounds, n):
    """Return the runs of all kinds in ``size`` processes."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(run_all, (size, folder, rounds, n), nprocs=size, start_method="spawn")
        return [run for rank in range(size) for run in json.loads(Path(folder, f"{rank}.json").read_text())]


def summary(runs):
    """Return medians and quartiles of each kind, for one process and for two."""
    found = {}
    for student, kind in KINDS:
        for how in ("strong", "weak"):
            cell = {}
            for size in (1, 2):
                same = [
                    r
                    for r in runs
                    if (r["student"], r["kind"], r["how"], r["processes"]) == (student, kind, how, size)
                ]
                cell[str(size)] = {
                    "seconds": quartiles([r["seconds"] for r in same]),
                    "share of collectives": float(
                        np.median([r.get("collective seconds", 0) / r["seconds"] for r in same])
                    ),
                    "calls": float(np.median([r.get("calls", 0) for r in same])),
                    "bytes": float(np.median([r.get("bytes", 0) for r in same])),
                }
            found[f"{student}, {kind}, {how}"] = cell
    return found


def tables(record):
    """Return the tables of docs/guide/scale.rst: scaling, and messages."""
    of = record["kinds"]
    scaling, messages = [], []
    for student, kind in KINDS:
        row = [f"{student}: {WORDS[kind]}"]
        for how in ("strong", "weak"):
            one, two = (of[f"{student}, {kind}, {how}"][size]["seconds"][0] for size in ("1", "2"))
            ideal = one / 2 if how == "strong" else one
            row += [f"{1e3 * one:.1f}", f"{1e3 * two:.1f}", f"{ideal / two:.2f}"]
        scaling.append(row)
        two = of[f"{student}, {kind}, strong"]["2"]
        messages.append(
            [
                row[0],
                f"{two['calls']:.2f}",
                f"{two['bytes'] / 1e6:.3f}",
                f"{100 * two['share of collectives']:.0f} %",
            ]
        )
    head = ["CPU ms in an iteration of a process"]
    head += [f"{how}: {what}" for how in ("strong", "weak") for what in ("one process", "two", "efficiency")]
    return {
        "data_parallel 0": rst_table(head, scaling),
        "data_parallel 1": rst_table(["two processes", "messages", "MB", "share of CPU time"], messages),
    }


def main():
    chosen = options(__doc__)
    if chosen.table:
        return replace_tables(PAGE, tables(read(__file__)))
    rounds, n = (1, 10) if chosen.quick else (3, 20)
    runs = [run for size in (1, 2) for run in runs_of(size, rounds, n)]
    record: dict[str, Any] = {"settings": {"rows": ROWS, "rounds": rounds, "iterations": n}}
    record["kinds"] = summary(runs)
    record["messages"] = {
        f"{r['student']}, {r['kind']}": {k[3:]: v for k, v in r.items() if k.startswith("of ")}
        for r in runs
        if r["processes"] == 2 and r["rank"] == 0 and r["how"] == "strong"
    }
    write(record, __file__, chosen)
    for table in tables(record).values():
        print(table)


if __name__ == "__main__":
    main()
