"""Measure a training step of small students against loops in plain PyTorch and scikit-learn's MLPClassifier.

The students are a perceptron 64-100-10 in batches of 200 on 5,000 rows, by SGD and by Adam, and one
64-256-256-10 in batches of 128 on 3,200:

  by hand        a PyTorch loop on the labels: shuffled gather, F.cross_entropy, optimizer
  none, fixed    ``DistilledClassifier(meta=...).fit`` without D_val; fixed has a teacher's logits, T = 2
  MLPClassifier  scikit-learn's, of the same widths, rates and batches

Each trains for 1 and for 9 epochs, in turn in one process, with CPU time of one thread and 7 rounds. The time
of a step is the difference divided by the number of steps. The ratio is to the hand-written loop.

    python examples/benchmarks/small_step.py             # about 2 minutes
    python examples/benchmarks/small_step.py --quick     # half a minute
    python examples/benchmarks/small_step.py --table     # the table into docs/guide/speed.rst

It writes small_step.json beside this file; small_step_before.json: see step.py.
"""

import copy
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from _measure import (
    SEED,
    START,
    interleaved,
    options,
    problem,
    put_into_page,
    quartiles,
    ratio,
    read,
    rst_table,
    shown,
    write,
)  # fmt: skip
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from sklearn_kd import DistilledClassifier, MLPStudent

BY_HAND, SHORT, LONG = "by hand", 1, 9
STUDENTS = {"64-100-10": ((100,), 200), "64-256-256-10": ((256, 256), 128)}
N_BATCHES = 25
RATES = {"SGD": 0.05, "Adam": 1e-3}


def by_hand(data, optimizer, epochs):
    student = copy.deepcopy(data.student).train()
    steps = getattr(torch.optim, optimizer)(student.parameters(), lr=RATES[optimizer])
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(epochs):
        losses = []
        for rows in torch.randperm(len(data.X), generator=generator).split(data.batch_size):
            steps.zero_grad()
            loss = F.cross_entropy(student(data.X[rows]), data.y[rows])
            loss.backward()
            steps.step()
            losses.append(loss.detach())
        torch.stack(losses).mean().item()


def by_fit(data, arrays, optimizer, meta, epochs):
    clf = DistilledClassifier(
        None, data.student, meta=meta, temperature=START[1] if meta == "fixed" else 1.0,
        optimizer=optimizer, lr=RATES[optimizer], max_epochs=epochs, batch_size=data.batch_size,
        device="cpu", random_state=SEED,
    )  # fmt: skip
    taught = {"teacher_logits": arrays["f"]} if meta == "fixed" else {}
    clf.fit(arrays["X"], arrays["y"], **taught)


def by_scikit_learn(hidden, data, arrays, optimizer, epochs):
    MLPClassifier(
        hidden, solver=optimizer.lower(), alpha=0.0, batch_size=data.batch_size, momentum=0.0,
        learning_rate_init=RATES[optimizer], max_iter=epochs, tol=0.0, n_iter_no_change=1000,
        random_state=SEED,
    ).fit(arrays["X"], arrays["y"])  # fmt: skip


def steps_of_fits(hidden, data, optimizer, rounds):
    """Return seconds per step by contender, one for each round."""
    arrays = {key: getattr(data, key).numpy() for key in ("X", "y", "f")}
    trainings = {
        BY_HAND: lambda epochs: by_hand(data, optimizer, epochs),
        'fit(meta="none")': lambda epochs: by_fit(data, arrays, optimizer, "none", epochs),
        'fit(meta="fixed")': lambda epochs: by_fit(data, arrays, optimizer, "fixed", epochs),
        "MLPClassifier": lambda epochs: by_scikit_learn(hidden, data, arrays, optimizer, epochs),
    }
    contenders = {
        (name, epochs): lambda train=train, epochs=epochs: train(epochs)
        for name, train in trainings.items()
        for epochs in (SHORT, LONG)
    }
    seconds = interleaved(contenders, rounds)
    n_steps = (LONG - SHORT) * N_BATCHES
    return {
        name: ((np.array(seconds[name, LONG]) - seconds[name, SHORT]) / n_steps).tolist()
        for name in trainings
    }


def measure(name, chosen):
    hidden, batch_size = STUDENTS[name]
    rounds = 3 if chosen.quick else 7
    torch.manual_seed(SEED)
    data = problem(MLPStudent(64, 10, hidden=hidden), (64,), batch_size=batch_size, n_batches=N_BATCHES)
    return {
        "hidden": hidden,
        "batch size": batch_size,
        "seconds per step": {
            optimizer: steps_of_fits(hidden, data, optimizer, rounds) for optimizer in RATES
        },
    }


def cells(record):
    """Return {what: {student: ratio as text}}."""
    found = {}
    for student, of_student in record["students"].items():
        for optimizer, times in of_student["seconds per step"].items():
            for name in times:
                if name != BY_HAND:
                    what = f"{optimizer}, a step of {name} by the loop by hand"
                    found.setdefault(what, {})[student] = shown(*ratio(times, name, BY_HAND))
    return found


def tables(record, before):
    """Return the table of docs/guide/speed.rst: before → now of the library, for each student."""
    now, then = cells(record), cells(before)
    rows = [[what, *(text for s in STUDENTS for text in (then[what][s], now[what][s]))] for what in now]
    header = ["ratio", *(f"{s}, {when}" for s in STUDENTS for when in ("before", "now"))]
    return [rst_table(header, rows)]


def main():
    chosen = options(__doc__)
    if chosen.table:
        before = read(__file__, "small_step_before.json")
        return put_into_page(__file__, tables(read(__file__), before))
    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.filterwarnings("ignore", "Without effect")
    record = {
        "settings": {"lr": RATES, "lambda1, T": START, "seed": SEED, "batches": N_BATCHES},
        "students": {},
    }
    for name in STUDENTS:
        record["students"][name] = found = measure(name, chosen)
        print(f"\n{name}")
        for optimizer, times in found["seconds per step"].items():
            micros = quartiles(1e6 * np.array(times[BY_HAND]))[0]
            print(f"{optimizer}, by hand: {micros:.0f} µs")
        for what, of_students in cells(record).items():
            print(f"{what:60}{of_students.get(name, '')}", flush=True)
    write(record, __file__, chosen)


if __name__ == "__main__":
    main()
