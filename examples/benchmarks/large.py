"""Measure the time of an epoch and the memory of a fit, by the number of rows, columns and classes.

One ``fit`` of one epoch, with everything that it does once (checks, split, warnings), is compared with a
hand-written PyTorch loop over the same rows. The student is a perceptron with a hidden layer of 32 on float32
inputs, with given logits of the teacher, batches of 256 in a new order, and plain SGD. One size varies at a
time:

  rows      10³ … 10⁵, with ``--largest`` 10⁶ and 10⁷; 50 columns, 10 classes
  columns   10 … 1,000; 100,000 rows, 10 classes
  classes   2 … 1,000; 100,000 rows, 50 columns

``fixed`` is ``meta="fixed"``; ``linear`` is e1 = e2 = 10 with a tenth of the rows held out. The contenders
take turns in one process, with CPU time of one thread and 5 rounds (from 100,000 rows on 3). The results are
the median ratio with quartiles, and nanoseconds per row.

Memory is the peak of the process's own pages (RssAnon, sampled every two milliseconds) during ``fit``, minus
those before it, as a share of the bytes of X. Each form of X, with 10⁶ rows of 50 columns, has its own
process.

    python examples/benchmarks/large.py             # about 4 minutes, 2 GB
    python examples/benchmarks/large.py --largest   # about 20 minutes, 6 GB
    python examples/benchmarks/large.py --quick     # half a minute
    python examples/benchmarks/large.py --table     # the tables into docs/guide/speed.rst

It writes large.json beside this file, after each measurement.
"""

import copy
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import torch
from _measure import (
    LR,
    SEED,
    START,
    interleaved,
    options,
    put_into_page,
    ratio,
    read,
    rst_table,
    shown,
    write,
)  # fmt: skip
from _peers import distillation

from sklearn_kd import DistilledClassifier, MLPStudent

BATCH = 256
LAMBDA1, T = START
BY_HAND, FIXED, LINEAR = "by hand", "fixed", "linear"
# Varied sizes: {value: (rows, columns, classes)}
SERIES = {
    "rows": {n: (n, 50, 10) for n in (10**3, 10**4, 10**5)},
    "columns": {n: (100_000, n, 10) for n in (10, 50, 200, 1000)},
    "classes": {n: (100_000, 50, n) for n in (2, 10, 100, 1000)},
}
LARGEST = {n: (n, 50, 10) for n in (10**6, 10**7)}
FORMS = {
    "float32": (np.float32, False, "fixed"),
    "float32, linear": (np.float32, False, "linear"),
    "float64": (np.float64, False, "fixed"),
    "float32, memory-mapped": (np.float32, True, "fixed"),
    "float64, memory-mapped, linear": (np.float64, True, "linear"),
}


def made(n_rows, n_columns, n_classes):
    """Return X, y and the logits of a linear teacher, made in parts."""
    rng = np.random.default_rng(SEED)
    weight = rng.standard_normal((n_columns, n_classes), dtype=np.float32)
    X = rng.standard_normal((n_rows, n_columns), dtype=np.float32)
    logits, y = np.empty((n_rows, n_classes), np.float32), np.empty(n_rows, np.int64)
    for start in range(0, n_rows, 10_000):
        part = slice(start, start + 10_000)
        np.matmul(X[part], weight, out=logits[part])
        y[part] = logits[part].argmax(axis=1)
    y[: 2 * n_classes] = np.tile(np.arange(n_classes), 2)[:n_rows]
    return X, y, logits


def by_hand(student, X, y, logits):
    """Train for an epoch with a simple hand-written loop."""
    student = copy.deepcopy(student).train()
    optimizer = torch.optim.SGD(student.parameters(), lr=LR)
    X, y, logits = torch.as_tensor(X), torch.as_tensor(y), torch.as_tensor(logits)
    losses = []
    for rows in torch.randperm(len(X), generator=torch.Generator().manual_seed(SEED)).split(BATCH):
        optimizer.zero_grad()
        loss = distillation(student(X[rows]), y[rows], logits[rows], LAMBDA1, T)
        loss.backward()
        losses.append(loss.detach())
        optimizer.step()
    return torch.stack(losses).mean().item()


def by_fit(student, X, y, logits, meta):
    DistilledClassifier(
        None, student, meta=meta, lambda1=LAMBDA1, temperature=T, lr=LR, max_epochs=1, batch_size=BATCH,
        validation_fraction=0.1, search_epochs=None, device="cpu", random_state=SEED,
    ).fit(X, y, teacher_logits=logits)  # fmt: skip


def measure(sizes, rounds):
    torch.manual_seed(SEED)
    data = made(*sizes)
    student = MLPStudent(sizes[1], sizes[2])
    contenders = {
        BY_HAND: lambda: by_hand(student, *data),
        FIXED: lambda: by_fit(student, *data, "fixed"),
        LINEAR: lambda: by_fit(student, *data, "linear"),
    }
    return {"sizes": sizes, "seconds": interleaved(contenders, rounds)}


# --------------------------------------------------------------------------------------
# Memory, in a process of its own


def own_pages():
    """Return the bytes of the process's own pages, without those of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def memory(form, n_rows):
    """Print the bytes of X, and the peak during a fit above the memory before it."""
    dtype, mapped, meta = FORMS[form]
    X, y, logits = made(n_rows, 50, 10)
    with tempfile.TemporaryDirectory() as folder:
        X, logits = (
            X.astype(dtype, copy=False),
            logits.astype(np.float16 if mapped else np.float32, copy=False),
        )
        if mapped:
            for name, array in (("X", X), ("logits", logits)):
                np.save(Path(folder, name), array)
            X, logits = (
                np.load(Path(folder, f"{name}.npy"), mmap_mode="r", allow_pickle=False)
                for name in ("X", "logits")
            )
        by_fit(MLPStudent, X[:3000], y[:3000], logits[:3000], meta)
        before, peak, over = own_pages(), 0, threading.Event()

        def watch():
            nonlocal peak
            while not over.wait(0.002):
                peak = max(peak, own_pages())

        watcher = threading.Thread(target=watch)
        watcher.start()
        by_fit(MLPStudent, X, y, logits, meta)
        over.set()
        watcher.join()
    print(json.dumps({"X": X.nbytes, "above": peak - before}))


def memory_of(form, n_rows):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, __file__, "--memory", form, str(n_rows)]
    environment["OMP_NUM_THREADS"] = "1"
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(found.stdout.splitlines()[-1])


# --------------------------------------------------------------------------------------


def row_of(value, found):
    seconds, n_rows = found["seconds"], found["sizes"][0]
    per_row = [1e9 * np.median(seconds[name]) / n_rows for name in (BY_HAND, FIXED, LINEAR)]
    ratios = [shown(*ratio(seconds, name, BY_HAND)) for name in (FIXED, LINEAR)]
    return [f"{int(value):,}", *ratios, *(f"{ns:,.0f}" for ns in per_row)]


def tables(record):
    """Return the tables of docs/guide/speed.rst: one for each series, and memory."""
    units = ("by hand, ns per row", "fixed, ns per row", "linear, ns per row")
    found = [
        [
            [what, "fixed / by hand", "linear / by hand", *units],
            *(row_of(value, p) for value, p in points.items()),
        ]
        for what, points in record["series"].items()
    ]
    header = ["X of 1,000,000 rows", "MB", "peak of fit above it, MB", "share"]
    rows = [
        [form, f"{m['X'] / 1e6:,.0f}", f"{m['above'] / 1e6:,.0f}", f"{m['above'] / m['X']:.2f}"]
        for form, m in record["memory"].items()
    ]
    return [rst_table(header, rows) if rows else "" for header, *rows in [*found, [header, *rows]]]


def main():
    if sys.argv[1:2] == ["--memory"]:
        return memory(sys.argv[2], int(sys.argv[3]))
    chosen = options(__doc__, largest="measure 10⁶ and 10⁷ rows too")
    if chosen.table:
        return put_into_page(__file__, tables(read(__file__)))
    record = {"settings": {"batch size": BATCH, "lambda1, T": START, "lr": LR, "seed": SEED}}
    record |= {"series": {}, "memory": {}}
    for what, points in SERIES.items():
        record["series"][what] = {}
        more = LARGEST if what == "rows" and chosen.largest else {}
        for value, sizes in [*points.items(), *more.items()][: 2 if chosen.quick else None]:
            rounds = 2 if chosen.quick else 3 if sizes[0] >= 10**5 else 5
            record["series"][what][str(value)] = found = measure(sizes, rounds)
            print(f"{what:10}", *(f"{cell:>20}" for cell in row_of(value, found)), flush=True)
            write(record, __file__, chosen)
    n_rows = 10**5 if chosen.quick else 10**6
    for form in FORMS:
        record["memory"][form] = found = memory_of(form, n_rows)
        print(f"{form:40}{found['above'] / found['X']:.2f} of {found['X'] / 1e6:.0f} MB", flush=True)
        write(record, __file__, chosen)


if __name__ == "__main__":
    main()
