"""Measure fixed costs: imports, the first fit, each fit however small, and sizes on disk.

  import          CPU seconds of ``import torch, sklearn``, and of ``import sklearn_kd`` after it, each in a
                  new process
  first, second   CPU seconds of the first and the second fit in each of these processes: an MLP 64-32-10, 256
                  rows, one epoch of two batches, teacher's logits given; "fixed" and "linear"
  fixed cost      the same fit later on, and the same two steps in a PyTorch loop written by hand, in turn
  sizes           bytes of ``save``, ``save(history=False)`` and ``pickle`` after 200 epochs of digits, an
                  MLP 64-16-10, beside those of its weights

The processes are started in turn, 5 of each kind. The medians are over processes and rounds. Times are CPU
times of one thread.

    python examples/benchmarks/start.py             # about 3 minutes
    python examples/benchmarks/start.py --quick     # a minute
    python examples/benchmarks/start.py --table     # the table into docs/guide/speed.rst

It writes start.json beside this file; start_before.json: see step.py.
"""

import json
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from _measure import SEED, interleaved, options, put_into_page, quartiles, read, rst_table, write
from _peers import distillation
from sklearn.datasets import load_digits

from sklearn_kd import DistilledClassifier, MLPStudent

ROWS, BATCH, LAMBDA1, T, LR = 256, 128, 0.5, 2.0, 0.1
METAS = ("none", "fixed", "linear")
EPOCHS = 200

# Run in a new process; {meta} is a strategy.
PROCESS = """
import json, time
start = time.process_time()
import torch, sklearn
imported = time.process_time()
import sklearn_kd
own = time.process_time()
import numpy as np
from sklearn_kd import DistilledClassifier, MLPStudent
rng = np.random.default_rng({seed})
X, y = rng.normal(size=({rows}, 64)).astype("float32"), np.arange({rows}) % 10
f = rng.normal(size=({rows}, 10)).astype("float32")
seconds = []
for _ in range(2):
    began = time.process_time()
    student = MLPStudent(64, 10, hidden=(32,))
    clf = DistilledClassifier(None, student, meta={meta!r}, max_epochs=1, batch_size={batch},
        validation_fraction=0.1, search_epochs=None)
    clf.fit(X, y, teacher_logits=f)
    seconds.append(time.process_time() - began)
print(json.dumps([imported - start, own - imported, *seconds]))
"""


def processes(n: int) -> dict:
    """Return CPU seconds of the parts of a process, {meta: {part: one per process}}."""
    names = "import torch, sklearn", "import sklearn_kd", "first fit", "second fit"
    found = {meta: {name: [] for name in names} for meta in METAS[1:]}
    for turn in range(n):
        for meta in METAS[1:] if turn % 2 else METAS[:0:-1]:
            code = PROCESS.format(meta=meta, seed=SEED, rows=ROWS, batch=BATCH)
            command = [sys.executable, "-W", "ignore", "-c", code]
            done = subprocess.run(command, capture_output=True, check=True, cwd=Path(__file__).parent)
            for name, seconds in zip(names, json.loads(done.stdout), strict=True):
                found[meta][name].append(seconds)
    return found


def fixed_cost(rounds: int) -> dict:
    """Return CPU seconds of a small fit, and of its two steps by hand, {name: one per round}."""
    rng = np.random.default_rng(SEED)
    X, y = rng.normal(size=(ROWS, 64)).astype(np.float32), np.arange(ROWS) % 10
    f = rng.normal(size=(ROWS, 10)).astype(np.float32)
    student = MLPStudent(64, 10, hidden=(32,))
    tensors = [torch.as_tensor(array) for array in (X, y, f)]

    def fit(meta):
        clf = DistilledClassifier(
            None, student, meta=meta, lambda1=LAMBDA1, temperature=T, lr=LR, max_epochs=1, batch_size=BATCH,
            random_state=SEED,
        )  # fmt: skip
        clf.fit(X, y, teacher_logits=None if meta == "none" else f)

    def by_hand(meta):
        optimizer = torch.optim.SGD(student.parameters(), lr=0.0)
        for rows in torch.randperm(ROWS).split(BATCH):
            x, labels, logits = (tensor[rows] for tensor in tensors)
            optimizer.zero_grad()
            z = student(x)
            loss = (
                F.cross_entropy(z, labels) if meta == "none" else distillation(z, labels, logits, LAMBDA1, T)
            )
            loss.backward()
            optimizer.step()

    contenders = {f"fit, {meta}": lambda meta=meta: fit(meta) for meta in METAS[:2]}
    contenders |= {f"by hand, {meta}": lambda meta=meta: by_hand(meta) for meta in METAS[:2]}
    return interleaved(contenders, rounds, 5)


def sizes(epochs: int) -> dict:
    """Return the bytes of files and pickles of a small student, {meta: {kind: bytes}}."""
    X, y = load_digits(return_X_y=True)
    f, found = np.eye(10, dtype=np.float32)[y] * 4, {}
    for meta in METAS:
        clf = DistilledClassifier(
            None,
            MLPStudent,
            student__hidden=16,
            meta=meta,
            max_epochs=epochs,
            validation_fraction=0.1,
            search_epochs=None,
            random_state=SEED,
            device="cpu",
        ).fit(X / 16, y, teacher_logits=f)
        found[meta] = {
            "weights": sum(w.nbytes for w in clf.student_.parameters()),
            "save": saved(clf),
            "save(history=False)": saved(clf, history=False),
            "pickle": len(pickle.dumps(clf)),
        }
    return found


def saved(clf, **params) -> int | None:
    """Return the bytes of a file of ``save``; None if an older version has no such parameter."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.safetensors"
        try:
            clf.save(path, **params)
        except TypeError:
            return None
        return path.stat().st_size


# --------------------------------------------------------------------------------------


def cells(record) -> dict[str, str]:
    """Return {what: value as text}."""
    found, texts = record["processes"], {}

    def seconds(values, scale=1.0, digits=2):
        middle, low, high = quartiles(np.array(values) * scale)
        return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"

    for name in ("import torch, sklearn", "import sklearn_kd"):
        texts[f"``{name}``, s"] = seconds([s for of_meta in found.values() for s in of_meta[name]])
    for meta, of_meta in found.items():
        extra = np.subtract(of_meta["first fit"], of_meta["second fit"])
        texts[f"first fit minus second, {meta}, s"] = seconds(extra)
    for meta in METAS[:2]:
        spent = record["fixed cost"]
        extra = np.subtract(spent[f"fit, {meta}"], spent[f"by hand, {meta}"])
        texts[f"fixed cost of a fit, {meta}, ms"] = seconds(extra, 1e3, 1)
    for meta, of_meta in record["sizes"].items():
        for kind in ("save", "save(history=False)", "pickle"):
            size = of_meta[kind]
            text = "–" if size is None else f"{size / 1000:.1f}"
            texts[f"``{kind}``, {meta}, kB ({of_meta['weights'] / 1000:.1f} of weights)"] = text
    return texts


def tables(record, before) -> list[str]:
    """Return the table of docs/guide/speed.rst."""
    now, then = cells(record), cells(before)
    return [rst_table(["", "before", "now"], [[what, then[what], now[what]] for what in now])]


def main():
    chosen = options(__doc__)
    if chosen.table:
        return put_into_page(__file__, tables(read(__file__), read(__file__, "start_before.json")))
    settings = {"rows": ROWS, "batch size": BATCH, "lambda1, T": (LAMBDA1, T), "lr": LR, "seed": SEED}
    record = {
        "settings": settings | {"epochs of digits": EPOCHS},
        "processes": processes(2 if chosen.quick else 5),
        "fixed cost": fixed_cost(3 if chosen.quick else 15),
        "sizes": sizes(EPOCHS // 10 if chosen.quick else EPOCHS),
    }
    for what, cell in cells(record).items():
        print(f"{what:60}{cell}", flush=True)
    write(record, __file__, chosen)


if __name__ == "__main__":
    main()
