"""Measure what is saved by training K students of one architecture in one batched run.

The benchmark takes the CPU time of training K students with K fixed pairs (lambda1, T), each for 4 epochs
on its own 512 random rows, with a teacher's logits, by SGD with momentum:

  one by one   K times ``net.partial_fit``
  together     one run on stacked weights (``torch.func.vmap``)

It does so for K = 2, 4, 8, 16 and four students, in batches of 32 and 128, and again with the same rows
for all, as in the trials of a search. Both ways take turns in one process with
one thread. The output is the median and the range of the ratio over the pairs. Only the training
is timed, without preparation and scoring callbacks.

``compare_methods`` (6 methods, 4 folds) with n_jobs=1 and with n_jobs=2 is timed by the wall clock,
in turn, with new processes each time. Other work on the machine disturbs these times.

The same is measured for students that learn (lambda1, T) by a hypergradient in every iteration, on the same
rows and with a D_val of the same size.

    python examples/benchmarks/many_students.py [pairs]
    python examples/benchmarks/many_students.py [pairs] learning    # only these, into the existing record

It restarts itself with one thread and large malloc thresholds, without which page faults
disturb the convolutions, and writes many_students.json beside this file.
"""

import copy
import json
import os
import platform
import sys
import time
from pathlib import Path

import joblib
import numpy as np
import torch
from joblib.externals.loky import get_reusable_executor
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from torch.utils.flop_counter import FlopCounterMode

from sklearn_kd import CNNStudent, DistilledClassifier, MLPStudent, compare_methods
from sklearn_kd.inputs._data import DistillationData, SplitData
from sklearn_kd.losses import LogitDistillation
from sklearn_kd.losses._objective import LogitObjective
from sklearn_kd.meta import Fixed, Gradient
from sklearn_kd.meta._path import MetaparameterPath
from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.tasks._targets import Targets
from sklearn_kd.training._net import TrainingNet
from sklearn_kd.training._stackable import FEWEST, MOST_FLOPS
from sklearn_kd.training._stacked import train_stacked

sys.path.append(str(Path(__file__).parents[1]))
from _provenance import provenance

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
}
PAIRS = next((int(argument) for argument in sys.argv[1:] if argument.isdigit()), 7)
ROWS, EPOCHS, CLASSES = 512, 4, 10
STUDENTS = {
    "MLP 64-32-10": (lambda: MLPStudent(64, CLASSES, 32), (64,)),
    "MLP 64-256-256-10": (lambda: MLPStudent(64, CLASSES, (256, 256)), (64,)),
    "CNN 4-8-8, 16 on 8x8": (lambda: CNNStudent((1, 8, 8), CLASSES, (4, 8, 8), 16), (1, 8, 8)),
    "CNN 8-16-16, 32 on 28x28": (lambda: CNNStudent((1, 28, 28), CLASSES), (1, 28, 28)),
}


def made_rows(shape, seed, held_out=False):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (ROWS,), generator=generator)
    teacher = torch.randn(ROWS, CLASSES, generator=generator)
    X = torch.randn(ROWS, *shape, generator=generator)
    train = DistillationData(X, Targets(labels, teacher), seed)
    X_val = torch.randn(ROWS, *shape, generator=generator)
    return SplitData(train, DistillationData(X_val, Targets(labels), seed) if held_out else None)


def made_net(student, lambda1, temperature, batch_size, strategy):
    loss = LogitDistillation()
    space = MetaparameterSpace(loss.metaparameters(CLASSES))
    return TrainingNet(
        copy.deepcopy(student),
        objective=LogitObjective(loss),
        metaparameters=MetaparameterPath(space, {"lambda1": lambda1, "temperature": temperature}),
        strategy=strategy,
        optimizer=torch.optim.SGD,
        optimizer__momentum=0.9,
        lr=0.01,
        max_epochs=EPOCHS,
        batch_size=batch_size,
        classes=np.arange(CLASSES),
        callbacks__valid_acc=None,
        callbacks__print_log=None,
        verbose=0,
    ).initialize()


def cpu_time(train):
    began = time.process_time()
    train()
    return time.process_time() - began


def one_by_one(nets, data):
    for net, split in zip(nets, data, strict=True):
        net.partial_fit(split)


def gain(name, n_students, batch_size, same_rows, strategy=None):
    make, shape = STUDENTS[name]
    torch.manual_seed(0)
    student = make()
    strategy = strategy or Fixed()
    held_out = strategy.learns_from_validation
    of_each = [made_rows(shape, 0 if same_rows else k, held_out) for k in range(n_students)]
    data = of_each[:1] * n_students if same_rows else of_each
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        student(data[0].train.X[:batch_size])
    starts = np.random.default_rng(0).uniform([0, 1], [1, 8], size=(n_students, 2))
    seconds = []
    for _ in range(PAIRS + 1):
        pair = []
        for train in (one_by_one, train_stacked):
            nets = [made_net(student, *start, batch_size, strategy) for start in starts]
            pair.append(cpu_time(lambda train=train, nets=nets: train(nets, data)))
        seconds.append(pair)
    apart, together = np.transpose(seconds[1:])  # the first pair warms up
    ratio = apart / together
    steps = n_students * EPOCHS * -(-ROWS // batch_size)
    return {
        "student": name,
        "parameters": sum(w.numel() for w in student.parameters()),
        "batch_size": batch_size,
        "forward_flops": counter.get_total_flops(),
        "students": n_students,
        "same_rows": same_rows,
        "ratio": round(float(np.median(ratio)), 2),
        "ratio_range": [round(float(r), 2) for r in (ratio.min(), ratio.max())],
        "microseconds_per_student_and_step": {
            "one by one": round(float(np.median(apart)) / steps * 1e6),
            "together": round(float(np.median(together)) / steps * 1e6),
        },
    }


def learning():
    """Measure students that learn their metaparameters, on the same rows."""
    print("learning: one by one / together: median [range]; µs per student and step")
    runs = []
    mlp, _, cnn, _ = STUDENTS
    for name, batch_size in ((mlp, 32), (mlp, 128), (cnn, 32)):
        for n_students in (2, 3, 4, 8):
            runs.append(gain(name, n_students, batch_size, True, Gradient()))
            show(runs[-1])
    return {"pairs": PAIRS, **provenance(__file__, joblib), "runs": runs}


def show(run):
    low, high = run["ratio_range"]
    micros = run["microseconds_per_student_and_step"]
    print(
        f"{run['student']:26}{'same rows' if run['same_rows'] else 'own rows':11}B={run['batch_size']:<4} "
        f"{run['forward_flops'] / 1e6:6.1f} MFLOP  K={run['students']:<3} {run['ratio']:5.2f} "
        f"[{low:.2f}, {high:.2f}]  {micros['one by one']:6d} {micros['together']:6d}",
        flush=True,
    )


def comparisons():
    X, y = load_digits(return_X_y=True)
    clf = DistilledClassifier(
        RandomForestClassifier(100), MLPStudent, student__hidden=32, optimizer="SGD", lr=0.1, max_epochs=60,
        batch_size=128, validation_fraction=0.1, search_epochs=None, device="cpu",
    )  # fmt: skip
    methods = ("none", "naive", "random", "gradient", "linear", "hyperopt")
    seconds = {1: [], 2: []}
    for _ in range(max(1, PAIRS // 2)):
        for n_jobs, found in seconds.items():
            get_reusable_executor().shutdown(wait=True)
            began = time.perf_counter()
            compare_methods(clf, X / 16, y, methods=methods, cv=4, random_state=0, n_jobs=n_jobs)
            found.append(round(time.perf_counter() - began, 1))
    ratio = np.divide(seconds[1], seconds[2])
    return {
        "seconds": {f"n_jobs={n}": found for n, found in seconds.items()},
        "ratio": round(float(np.median(ratio)), 2),
        "ratio_range": [round(float(r), 2) for r in (ratio.min(), ratio.max())],
        "settings": "digits, random forest of 100 trees, MLP of 32, 60 epochs, 4 folds, six methods",
    }


def main():
    path = Path(__file__).with_suffix(".json")
    if "learning" in sys.argv:
        record = json.loads(path.read_text()) | {"learning": learning()}
        path.write_text(json.dumps(record, indent=1) + "\n")
        return
    runs = []
    print("one by one / together: median [range]; µs per student and step")
    for same_rows in (False, True):
        for name in STUDENTS:
            for batch_size in (32, 128):
                for n_students in (2, 4, 8, 16):
                    runs.append(gain(name, n_students, batch_size, same_rows))
                    show(runs[-1])
    record = {
        "pairs": PAIRS,
        "seeds": "students 0; rows 0 … K − 1; starts 0; compare_methods random_state=0",
        "settings": f"{ROWS} rows, {EPOCHS} epochs, SGD, lr 0.01, momentum 0.9, one thread, CPU time",
        "rule": f"on a CPU together from {FEWEST} students and up to {MOST_FLOPS:.3g} flops per forward pass",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, shared",
        **provenance(__file__, joblib),
        "runs": runs,
        "compare_methods": comparisons(),
        "learning": learning(),
    }
    print(json.dumps(record["compare_methods"], indent=1))
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ENVIRONMENT)
    main()
