"""Measure the cost of ``fit`` around the steps, against hand-written loops and plain skorch.

The students are a perceptron 64-256-256-10 on 25,600 rows and a CNN of three convolutions (16, 32, 32
channels) on 3,840 images of 28×28. The teacher's logits are given. Training is by plain SGD, in batches of
128 in a new order each epoch.

  fit         ``DistilledClassifier(meta="naive").fit``
  by hand     a PyTorch loop: shuffled gather, F.cross_entropy and the soft cross-entropy written in
              the usual way, the loss of each batch kept; and the same with the loss's gradient in closed
              form, as the library computes it
  skorch      unmodified ``NeuralNetClassifier`` (with its DataLoader), with the distillation loss as its
              criterion, no rows held out

Each trains for 2 and for 6 epochs (CNN 1 and 3), in turn in one process, with CPU time of one thread and 10
rounds (CNN 8). The time of an epoch is the difference divided by the number of epochs. The rest of the short
training is its fixed cost. Scoring is the extra time of an epoch of ``fit`` with a D_val of as many rows,
against a hand-written forward pass over D_val. ``gradient`` and ``linear`` (e1 = e2 = 10) have the same
D_val, and are compared with a ``fit`` that has it too. ``predict_proba`` is compared with a forward pass in
batches of 1,024 and a softmax, on 1,000 and 10,000 rows.

    python examples/benchmarks/loop.py             # about 7 minutes
    python examples/benchmarks/loop.py --quick     # a minute
    python examples/benchmarks/loop.py --table     # the table into docs/guide/speed.rst

It writes loop.json beside this file; loop_before.json: see step.py.
"""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from _measure import (
    LR,
    SEED,
    START,
    calls_for,
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
from _peers import distillation
from skorch import NeuralNetClassifier

from sklearn_kd import CNNStudent, DistilledClassifier, MLPStudent

BATCH, PREDICTION_BATCH = 128, 1024
LAMBDA1, T = START
FIT, SCORED, BY_HAND, CLOSED, SKORCH = "fit", "fit with D_val", "by hand", "by hand, closed form", "skorch"
LEARNED = {
    "gradient": {"meta": "gradient"},
    "linear, e1 = e2 = 10": {"meta": "linear"},
}

# name: student, shape of a sample, training batches, short and long training, rounds
STUDENTS = {
    "MLP": (lambda: MLPStudent(64, 10, hidden=(256, 256)), (64,), 200, (2, 6), 10),
    "CNN": (lambda: CNNStudent((1, 28, 28), 10, (16, 32, 32), 64), (1, 28, 28), 30, (1, 3), 8),
}


class DistillationLoss(torch.nn.Module):
    """Criterion for skorch: y holds labels and teacher's logits side by side."""

    def forward(self, z, y):
        return distillation(z, y[:, 0].long(), y[:, 1:], LAMBDA1, T)


def by_plain_loss(student, x, y, f):
    loss = distillation(student(x), y, f, LAMBDA1, T)
    loss.backward()
    return loss.detach()


def by_closed_form(student, x, y, f):
    z = student(x)
    with torch.no_grad():
        log_p, log_q, t = z.log_softmax(1), (z / T).log_softmax(1), (f / T).softmax(1)
        A = log_p.exp().scatter_add_(1, y[:, None], torch.full((len(y), 1), -1.0, device=z.device))
        r = (LAMBDA1 * A + (1 - LAMBDA1) * T * (log_q.exp() - t)) / len(y)
        soft = -(t * log_q).sum(dim=1).mean()
        loss = LAMBDA1 * F.nll_loss(log_p, y) + (1 - LAMBDA1) * T**2 * soft
    z.backward(r)
    return loss


def by_hand(data, backward, epochs):
    """Train with a simple hand-written loop."""
    student = copy.deepcopy(data.student).train()
    optimizer = torch.optim.SGD(student.parameters(), lr=LR)
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(epochs):
        losses = []
        for rows in torch.randperm(len(data.X), generator=generator).to(data.device).split(BATCH):
            optimizer.zero_grad()
            losses.append(backward(student, data.X[rows], data.y[rows], data.f[rows]))
            optimizer.step()
        torch.stack(losses).mean().item()
    return student


def by_skorch(data, arrays, epochs):
    X, y = arrays["X"], np.column_stack([arrays["y"], arrays["f"]])
    NeuralNetClassifier(
        copy.deepcopy(data.student), criterion=DistillationLoss, optimizer=torch.optim.SGD, lr=LR,
        max_epochs=epochs, batch_size=BATCH, iterator_train__shuffle=True, train_split=None,
        classes=list(range(10)), device=data.device, verbose=0,
    ).fit(X, y)  # fmt: skip


def by_fit(data, arrays, epochs, scored=False, **params):
    clf = DistilledClassifier(
        None, data.student, lambda1=LAMBDA1, temperature=T, optimizer="SGD", lr=LR, max_epochs=epochs,
        batch_size=BATCH, search_epochs=None, device=data.device, random_state=SEED,
        **({"meta": "naive"} | params),
    )  # fmt: skip
    valid = {"X_val": arrays["X_val"], "y_val": arrays["y_val"]} if scored else {}
    return clf.fit(arrays["X"], arrays["y"], teacher_logits=arrays["f"], **valid)


def forward_by_hand(student, X, size, device):
    """Return the probabilities of all rows."""
    student.eval()
    with torch.inference_mode():
        logits = torch.cat([student(x.to(device)) for x in torch.as_tensor(X).split(size)])
        return torch.softmax(logits, dim=1).cpu().numpy()


def measure(name, chosen):
    make, shape, n_batches, (short, long), rounds = STUDENTS[name]
    if chosen.quick:
        n_batches, rounds = n_batches // 5, 3
    torch.manual_seed(SEED)
    data = problem(make(), shape, n_batches=n_batches, device=chosen.device)
    arrays = {key: getattr(data, key).cpu().numpy() for key in ("X", "y", "f", "X_val", "y_val")}
    trainings = {
        FIT: lambda epochs: by_fit(data, arrays, epochs),
        BY_HAND: lambda epochs: by_hand(data, by_plain_loss, epochs),
        CLOSED: lambda epochs: by_hand(data, by_closed_form, epochs),
        SKORCH: lambda epochs: by_skorch(data, arrays, epochs),
        SCORED: lambda epochs: by_fit(data, arrays, epochs, scored=True),
    } | {
        label: lambda epochs, params=params: by_fit(data, arrays, epochs, scored=True, **params)
        for label, params in LEARNED.items()
    }
    contenders = {
        f"{label}, {length}": lambda train=train, n=n: train(n)
        for label, train in trainings.items()
        for length, n in (("short", short), ("long", long))
    }
    contenders["forward"] = lambda: forward_by_hand(data.student, data.X_val, BATCH, chosen.device)
    return {
        "rows": len(data.X),
        "rows of D_val": len(data.X_val),
        "epochs": {"short": short, "long": long},
        "seconds": interleaved(contenders, rounds, 1, chosen.device),
        "predict": prediction(data, arrays, rounds, chosen.device),
    }


def prediction(data, arrays, rounds, device):
    """Return seconds of ``predict_proba`` and of the loop by hand, by the number of rows."""
    clf, found = by_fit(data, arrays, 1), {}
    for n in (1_000, 10_000):
        X = np.resize(arrays["X"], (n, *arrays["X"].shape[1:]))
        contenders = {
            "predict_proba": lambda X=X: clf.predict_proba(X),
            BY_HAND: lambda X=X: forward_by_hand(clf.student_, X, PREDICTION_BATCH, device),
        }
        calls = calls_for(contenders[BY_HAND], 0.05, 20, device)
        found[str(n)] = interleaved(contenders, rounds, calls, device)
    return found


# --------------------------------------------------------------------------------------


def epoch_and_fixed(found, label):
    """Return the seconds per epoch, and the fixed cost in seconds, one each per round."""
    short, long = (np.array(found["seconds"][f"{label}, {length}"]) for length in ("short", "long"))
    epochs = found["epochs"]
    epoch = (long - short) / (epochs["long"] - epochs["short"])
    return epoch, short - epochs["short"] * epoch


def cells(found):
    """Return {name: ratio as text} for one student."""
    epoch, fixed = {}, {}
    for label in (FIT, SCORED, BY_HAND, CLOSED, SKORCH, *LEARNED):
        epoch[label], fixed[label] = epoch_and_fixed(found, label)

    def against(a, b):
        return shown(*quartiles(a / b))

    forward = np.array(found["seconds"]["forward"])
    texts = {
        'an epoch of ``fit(meta="naive")``, by the loop by hand': against(epoch[FIT], epoch[BY_HAND]),
        "the same, by the loop by hand with the loss in closed form": against(epoch[FIT], epoch[CLOSED]),
        "an epoch of plain skorch, by the loop by hand": against(epoch[SKORCH], epoch[BY_HAND]),
        "scoring D_val after an epoch, by a forward pass over it": against(
            epoch[SCORED] - epoch[FIT], forward
        ),
    }
    for label in LEARNED:
        texts[f"an epoch of {label}, by one of naive, both with D_val"] = against(epoch[label], epoch[SCORED])
    for n, times in found["predict"].items():
        texts[f"``predict_proba``, {int(n):,} rows, by hand"] = shown(*ratio(times, "predict_proba", BY_HAND))
    texts["fixed cost of ``fit``, ms"] = "{:.0f} ({:.0f}–{:.0f})".format(*quartiles(1e3 * fixed[FIT]))
    return texts


def tables(record, before):
    """Return the table of docs/guide/speed.rst: before → now of the library, for each student."""
    students = record["students"]
    now, then = ({s: cells(found) for s, found in r["students"].items()} for r in (record, before))
    rows = [[what, *(c for s in students for c in (then[s][what], now[s][what]))] for what in now["MLP"]]
    header = ["ratio", *(f"{s}, {when}" for s in students for when in ("before", "now"))]
    return [rst_table(header, rows)]


def main():
    chosen = options(__doc__)
    if chosen.table:
        return put_into_page(__file__, tables(read(__file__), read(__file__, "loop_before.json")))
    record = {"settings": {"batch size": BATCH, "lambda1, T": START, "lr": LR, "seed": SEED}, "students": {}}
    for name in STUDENTS:
        record["students"][name] = found = measure(name, chosen)
        print(f"\n{name}")
        for what, cell in cells(found).items():
            print(f"{what:75}{cell}", flush=True)
    write(record, __file__, chosen)


if __name__ == "__main__":
    main()
