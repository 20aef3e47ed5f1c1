"""Kill fits by SIGKILL, resume them, and compare the results to the bit.

Each configuration is fitted once without checkpoints, as the reference. Then, repeatedly, a child process
fits it with a ``checkpoint_dir`` and is killed: by itself in a random training batch, with half of a
checkpoint written, before a written checkpoint is renamed, or from outside at a random time.
This process then runs the same fit, and compares it with the reference bit by bit: the student's weights
and buffers, the path (for DistPro the process), and the history without durations.

``batches_again`` counts the training batches of the killed process that were repeated. "Before the
kill" counts all its batches, including those of trials and of the search. A kill from outside counts none,
because the number of batches before it is unknown.

    python examples/evidence/kill_and_resume.py [--kills 30]

It writes kill_and_resume.json beside this file, with that many kills of each configuration. It takes about
four minutes on one core and needs ``os.fork``.
"""

import argparse
import hashlib
import itertools
import json
import os
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from skorch.callbacks import Callback, EarlyStopping, LRScheduler
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from sklearn_kd import DistilledClassifier, DistProClassifier, MLPStudent
from sklearn_kd.files import _atomic as _atomic_file
from sklearn_kd.meta import Hyperopt

sys.path.append(str(Path(__file__).parents[1]))
from _provenance import provenance

HOWS = ("in a batch", "in a write", "before the rename", "from outside")


class Count(Callback):
    """Count the training batches of all fits of the process, and kill it after ``last``."""

    made, last = 0, None

    def __init__(self):
        pass

    def on_batch_end(self, net, training=False, **kwargs):
        if training:
            Count.made += 1
            if Count.made == Count.last:
                os.kill(os.getpid(), signal.SIGKILL)


class ConvNet(nn.Module):
    def __init__(self, n_classes=10, width=4):
        super().__init__()
        wide = 2 * width
        self.stage1 = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(width, wide, 3, 2, 1), nn.BatchNorm2d(wide), nn.ReLU())
        self.drop, self.linear = nn.Dropout(0.2), nn.Linear(wide, n_classes)

    def forward(self, x):
        return self.linear(self.drop(self.stage2(self.stage1(x)).mean(dim=(2, 3))))


class Regularized(nn.Sequential):
    def __init__(self, in_features, n_classes):
        body = nn.Linear(in_features, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.3)
        super().__init__(*body, nn.Linear(24, n_classes))


def noisy(x):
    return x + 0.05 * torch.randn_like(x)


def seeded(make):
    torch.manual_seed(0)
    return make()


COMMON = {"batch_size": 32, "random_state": 0, "device": "cpu"}
SINGLE_RUN = {"meta": "linear", "search_epochs": None, "validation_fraction": 0.1}


def distilled(teacher=None, student=MLPStudent, callbacks=(), **params):
    known = COMMON | SINGLE_RUN | {"max_epochs": 6} | params
    return DistilledClassifier(teacher, student, callbacks=[Count(), *callbacks], **known)


def distpro(**params):
    known = COMMON | {"search_epochs": 3, "max_epochs": 3, "transforms": ["conv1"]} | params
    teacher = seeded(lambda: ConvNet(width=6))
    return DistProClassifier(
        teacher, ConvNet, callbacks=[Count()], search_callbacks=[Count()], logit_weight="learned", **known
    )


CONFIGURATIONS = {
    "linear, e1=7, e2=9": lambda: distilled(meta="linear", e1=7, e2=9),
    "gradient, Adam, cosine, BatchNorm, dropout, early stopping": lambda: distilled(
        meta="gradient", student=Regularized, optimizer=torch.optim.Adam, lr=0.01,
        callbacks=[LRScheduler(CosineAnnealingLR, T_max=6), EarlyStopping(patience=4, sink=lambda _: None)],
        meta__optimizer=torch.optim.Adam, meta__lr=0.1, meta__val_temperature="auto",
    ),
    "linear, network teacher, augmented batches, momentum": lambda: distilled(
        teacher=seeded(lambda: nn.Linear(64, 10)), augment=noisy, optimizer__momentum=0.9, lr=0.05
    ),
    "hyperopt, 4 trials": lambda: distilled(meta=Hyperopt(n_trials=4), max_epochs=3),
    "DistPro, linear, learned lambda1 and T": lambda: distpro(meta="linear", e1=3, e2=2),
}  # fmt: skip


def data(clf):
    X, y = load_digits(return_X_y=True)
    X, y = (X[:300] / 16).astype(np.float32), y[:300]
    if isinstance(clf, DistProClassifier):
        return {"X": X[:160].reshape(-1, 1, 8, 8), "y": y[:160]}
    if clf.teacher is not None:
        return {"X": X, "y": y}
    rng = np.random.default_rng(0)
    said = np.where(rng.random(300) < 0.8, y, rng.integers(0, 10, 300))
    return {"X": X, "y": y, "teacher_logits": 4 * np.eye(10)[said] + rng.normal(size=(300, 10))}


def fitted(name, folder=None):
    Count.made = 0
    clf = CONFIGURATIONS[name]().set_params(checkpoint_dir=folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # none of the checkpoints is refused
        return clf.fit(**data(clf))


def bits(clf):
    """Hash everything that is compared."""
    found = hashlib.sha256()
    for name, value in clf.student_.state_dict().items():
        found.update(name.encode() + value.numpy().tobytes())
    if isinstance(clf, DistProClassifier):
        histories = [clf.search_history_, clf.history_]
        found.update(clf.process_.raw.tobytes() + clf.process_.logit_term.tobytes())
    else:
        histories = [clf.history_]
        found.update(clf.metaparameter_path_.tobytes())
    for row in (row for history in histories for row in history.to_list()):
        found.update(repr({k: v for k, v in row.items() if k != "dur"}).encode())
    return found.hexdigest()


class HalfWritten:
    """A file that kills its process when half of the payload has been written."""

    def __init__(self, *args):
        self.file = open(*args)  # noqa: SIM115

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        if len(data) < 300:  # the header
            return self.file.write(data)
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)


def prepare_to_die(how, when, counted):
    """Arrange the kill in the child; a kill during a write first stores the count of batches."""
    writes = itertools.count()

    def is_the_last():
        if next(writes) == when:
            counted.write_text(str(Count.made))
            return True
        return False

    def open_or_half(path, mode):
        return HalfWritten(path, mode) if mode == "wb" and is_the_last() else open(path, mode)

    def replace_or_die(*names, replace=os.replace):
        if is_the_last():
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*names)

    if how == "in a batch":
        Count.last = when
    elif how == "in a write":
        _atomic_file.open = open_or_half
    elif how == "before the rename":
        os.replace = replace_or_die


def killed_child(name, folder, how, when):
    """Kill a fit in a child and return its number of training batches, or None if unknown."""
    counted = Path(folder).with_suffix(".count")
    child = os.fork()
    if child == 0:
        prepare_to_die(how, when, counted)
        fitted(name, folder)
        os._exit(0)
    if how == "from outside":
        time.sleep(when)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status)
    if counted.exists():
        made = int(counted.read_text())
        counted.unlink()
    else:
        made = when if how == "in a batch" else None
    return killed, made


def one_kill(name, reference, how, rng):
    n_batches, n_writes, seconds, expected = reference
    when = {
        "in a batch": lambda: int(rng.integers(1, n_batches + 1)),
        "from outside": lambda: float(rng.uniform(0, seconds)),
    }.get(how, lambda: int(rng.integers(n_writes)))()
    with tempfile.TemporaryDirectory() as parent:
        folder = f"{parent}/checkpoints"
        killed, made = killed_child(name, folder, how, when)
        clf = fitted(name, folder)
        left = os.listdir(folder)
    again = None if made is None else Count.made - (n_batches - made)
    return {
        "configuration": name, "how": how, "killed": killed, "before the kill": made,
        "batches_again": again, "identical": bits(clf) == expected, "files_left": len(left),
    }  # fmt: skip


def reference_of(name):
    clf = fitted(name)
    n_batches, expected = Count.made, bits(clf)
    writes = []
    replace, os.replace = os.replace, lambda *names: (writes.append(names), replace(*names))
    try:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            checkpointed = bits(fitted(name, folder))
            seconds = time.perf_counter() - began
    finally:
        os.replace = replace
    assert checkpointed == expected and bits(fitted(name)) == expected
    return n_batches, len(writes), seconds, expected


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, help="kills of each configuration")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng, kills, sizes = np.random.default_rng(0), [], {}
    for name in CONFIGURATIONS:
        reference = reference_of(name)
        sizes[name] = {"training batches": reference[0], "checkpoints": reference[1]}
        for k in range(args.kills):
            kills.append(one_kill(name, reference, HOWS[k % len(HOWS)], rng))
        mine = kills[-args.kills :]
        again = [kill["batches_again"] for kill in mine if kill["batches_again"] is not None]
        print(
            f"{name}: {sum(kill['killed'] for kill in mine)} killed, "
            f"{sum(kill['identical'] for kill in mine)} of {len(mine)} identical, "
            f"{np.mean(again):.1f} of {reference[0]} batches made again, at most {max(again)}"
        )
    found = {
        "settings": {"kills of each": args.kills, "seed": 0, "threads": 1, "sizes": sizes},
        **provenance(__file__),
        "kills": kills,
    }
    args.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
