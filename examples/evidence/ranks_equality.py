"""Compare a student that several processes train together with one that a single process trains.

Two and four processes of a gloo group on the CPU are compared with one. D_train has 150 rows and D_val 61.
Batches of 32 rows leave a last one of 22, of which two processes have 11 each, and four have 6, 6, 5 and 5.
Rows have weights. The first comparisons are of nets in float64: an MLP and a CNN, SGD with momentum, Adam and
AdamW, every kind of hypergradient, clipping, and normalisation by the statistics of a process's own rows and
of all rows. Then come whole fits of the four estimators, which compute in float32.

    OMP_NUM_THREADS=1 python examples/evidence/ranks_equality.py      # two minutes

It prints the largest absolute differences of weights, of the path of the metaparameters and of the losses in
the history, and how many messages and numbers an iteration takes; and writes ranks_equality.json beside this
file. ``--table`` prints only the tables of docs/guide/more_machines.rst.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from torch import nn
from torch.distributed.nn.functional import all_reduce

from sklearn_kd import (
    DistilledClassifier,
    DistilledRegressor,
    DistProClassifier,
    DistProRegressor,
    MLPStudent,
)
from sklearn_kd.inputs._data import DistillationData, SplitData
from sklearn_kd.losses._logit_distillation import LogitDistillation
from sklearn_kd.losses._objective import LogitObjective
from sklearn_kd.meta import Fixed, ForwardGradient, Gradient, ImplicitGradient, Linear
from sklearn_kd.meta._path import MetaparameterPath
from sklearn_kd.meta._space import MetaparameterSpace
from sklearn_kd.runtime._ranks import ALONE, Ranks
from sklearn_kd.tasks._targets import Targets
from sklearn_kd.training._alone import train_alone
from sklearn_kd.training._net import TrainingNet

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[1] / "paper"))
from _protocol import list_table
from _provenance import provenance

N_TRAIN, N_VAL, BATCH_SIZE, EPOCHS = 150, 61, 32, 4
SIZES = (2, 4)


class Counting(Ranks):
    """Counts the messages of an iteration, and their bytes."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__(ranks._group)
        self.messages: list[int] = []

    def mean_(self, tensors: Any) -> None:
        tensors = list(tensors)
        for dtype in {t.dtype for t in tensors}:
            self.messages.append(sum(t.nbytes for t in tensors if t.dtype == dtype))
        super().mean_(tensors)


class InFloat64(DistillationData):
    """Batches in float64."""

    def batch(self, rows: Any) -> Any:
        return super().batch(rows).map(lambda t: t.double() if t.is_floating_point() else t)


class Synchronised(nn.Module):
    """Batch normalisation by the statistics of all processes' rows, which torch has only for GPUs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, square = x.mean(0), (x * x).mean(0)
        if dist.is_initialized():
            mean, square = (all_reduce(t) / dist.get_world_size() for t in (mean, square))
        return (x - mean) / (square - mean**2 + 1e-5).sqrt()


class ConvNet(nn.Module):
    """Two stages, whose names are those of the layers that DistPro pairs."""

    def __init__(self, n_classes: int = 2, width: int = 4) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU())
        self.linear = nn.Linear(2 * width, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.stage2(self.stage1(x)).mean(dim=(2, 3)))


class Plain(nn.Module):
    """A transform of pathways without batch normalisation, unlike the library's."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return nn.functional.interpolate(self.conv(x), size)


def student(kind: str) -> nn.Module:
    torch.manual_seed(3)
    if kind == "CNN":
        return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), ConvNet(5)).double()
    norm = {"MLP": nn.Identity(), "own": nn.BatchNorm1d(16), "synchronised": Synchronised()}[kind]
    return nn.Sequential(nn.Linear(64, 16), norm, nn.Tanh(), nn.Linear(16, 5)).double()


SGD = {"optimizer": torch.optim.SGD, "optimizer__momentum": 0.9, "lr": 0.05}
ADAM, ADAMW = ({"optimizer": kind, "lr": 0.01} for kind in (torch.optim.Adam, torch.optim.AdamW))
HESSIAN = {"curvature": "hessian", "hypergradient": "central_difference"}
# Name: student, strategy, settings.
NETS = {
    "MLP, SGD, no hypergradient": ("MLP", Fixed(), SGD),
    "MLP, SGD, exact": ("MLP", Gradient(hypergradient="exact"), SGD),
    "MLP, SGD, jvp": ("MLP", Gradient(hypergradient="jvp"), SGD),
    "MLP, SGD, finite differences": ("MLP", Gradient(), SGD),
    "MLP, SGD, central differences": ("MLP", Gradient(hypergradient="central_difference"), SGD),
    "MLP, SGD, clipped, linear": (
        "MLP",
        Linear(e1=3, e2=2, hypergradient="exact"),
        SGD | {"max_grad_norm": 0.05},
    ),
    "MLP, Adam, exact": ("MLP", Gradient(hypergradient="exact"), ADAM),
    "MLP, AdamW, finite differences": ("MLP", Gradient(), ADAMW),
    "MLP, SGD, J d on 8 rows": ("MLP", Gradient(hypergradient="jvp", hypergradient_rows=8), SGD),
    "CNN, SGD, exact": ("CNN", Gradient(hypergradient="exact"), SGD),
    "CNN, Adam, finite differences": ("CNN", Gradient(), ADAM),
    "MLP, SGD, forward mode": ("MLP", ForwardGradient(every=2), SGD),
    "MLP, Adam, forward mode, Hessian": ("MLP", ForwardGradient(**HESSIAN), ADAM),
    "MLP, SGD, implicit": ("MLP", ImplicitGradient(every=3), SGD),
    "statistics of all rows, exact": ("synchronised", Gradient(hypergradient="exact"), SGD),
    "statistics of all rows, finite differences": ("synchronised", Gradient(), SGD),
    "statistics of own rows, exact": ("own", Gradient(hypergradient="exact"), SGD),
}


def rows(even: bool) -> SplitData:
    """Return D_train and D_val; with ``even`` without the last rows, so that all batches are full."""
    n, n_val = (N_TRAIN - N_TRAIN % BATCH_SIZE, 64) if even else (N_TRAIN, N_VAL)
    draw = torch.Generator().manual_seed(0)
    X = torch.randn(n + n_val, 64, generator=draw)
    y = X[:, :5].argmax(1)
    f = 2 * X[:, :5] + torch.randn(n + n_val, 5, generator=draw)
    weight = torch.rand(n, generator=draw) + 0.5
    train = InFloat64(X[:n], Targets(y[:n], f[:n], weight / weight.mean()), 1)
    return SplitData(train, InFloat64(X[n:], Targets(y[n:]), 2))


def net_result(ranks: Ranks, name: str) -> dict[str, Any]:
    """Train a net of ``NETS``."""
    kind, strategy, settings = NETS[name]
    space = MetaparameterSpace(LogitDistillation().metaparameters(n_classes=5))
    net = TrainingNet(
        student(kind),
        objective=LogitObjective(LogitDistillation()),
        metaparameters=MetaparameterPath(space, {"lambda1": 0.5, "temperature": 2.0}),
        strategy=strategy,
        classes=np.arange(5),
        verbose=0,
        max_epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        ranks=ranks,
        **settings,
    ).initialize()
    # Means of processes' means are those of all rows only where all have as many.
    train_alone(net, rows(even=kind == "synchronised"), 5)
    path = net.metaparameters.table()
    return {
        "weights": _joined(net.module_.parameters()),
        "path": np.concatenate([path[column] for column in ("lambda1", "temperature")]),
        "history": _losses(net.history),
    }


FOREST = {"n_estimators": 10, "max_depth": 6, "random_state": 0}
LAYERS = {
    "teacher_layers": ["stage1", "stage2"],
    "student_layers": ["stage1", "stage2"],
    "transforms": [Plain],
}
FIT = {"optimizer": "SGD", "optimizer__momentum": 0.9, "max_epochs": 4, "batch_size": 32, "random_state": 0}


def _network(n_outputs: int) -> nn.Module:
    torch.manual_seed(1)
    return ConvNet(n_outputs, 6)


def estimator(name: str) -> Any:
    searched = {"search_epochs": 2, "meta__hypergradient": "exact"}
    return {
        "DistilledClassifier": lambda: DistilledClassifier(
            ExtraTreesClassifier(**FOREST), MLPStudent, meta="linear", e1=3, e2=3, lr=0.1, **FIT
        ),
        "DistilledRegressor": lambda: DistilledRegressor(
            ExtraTreesRegressor(**FOREST), MLPStudent, meta="gradient", lr=0.01, **FIT
        ),
        "DistProClassifier": lambda: DistProClassifier(
            _network(2), ConvNet, lr=0.1, **searched, **LAYERS, **FIT
        ),
        "DistProRegressor": lambda: DistProRegressor(
            _network(1), ConvNet, lr=0.01, **searched, **LAYERS, **FIT
        ),
    }[name]()


METHODS = {
    "none": "without a hypergradient",
    "exact": "with one, exact",
    "finite_difference": "with one, by finite differences",
}
ESTIMATORS = ("DistilledClassifier", "DistilledRegressor", "DistProClassifier", "DistProRegressor")


def fit_result(ranks: Ranks, name: str) -> dict[str, Any]:
    """Fit an estimator: search, and training with what was found."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(150, 1, 8, 8)).astype(np.float32)
    X = images if name.startswith("DistPro") else images.reshape(150, -1)
    numbers = images[:, 0, :, :4].mean((1, 2)) - images[:, 0, :, 4:].mean((1, 2))
    y = 5 * numbers if name.endswith("Regressor") else (numbers > 0).astype(int)
    made = estimator(name).set_params(device="cpu", parallel=None if ranks.size == 1 else "ddp")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it learns too little in four epochs
        made.fit(X, y)
    path = made.process_.raw if name.startswith("DistPro") else made.metaparameter_path_["lambda1"]
    return {
        "weights": _joined(made.student_.parameters()),
        "path": np.ravel(path),
        "history": _losses(made.history_),
    }


def message_result(ranks: Ranks, method: str) -> dict[str, Any]:
    """Return the bytes of the messages of an iteration of a student in float32, after the first."""
    counting = Counting(ranks)
    module = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 5))
    space = MetaparameterSpace(LogitDistillation().metaparameters(n_classes=5))
    net = TrainingNet(
        module,
        objective=LogitObjective(LogitDistillation()),
        metaparameters=MetaparameterPath(space, {"lambda1": 0.5, "temperature": 2.0}),
        strategy=Fixed() if method == "none" else Gradient(hypergradient=method),
        classes=np.arange(5),
        verbose=0,
        max_epochs=1,
        batch_size=BATCH_SIZE,
        ranks=counting,
        **SGD,
    ).initialize()
    data = rows(even=True)
    train_alone(net, SplitData(*(DistillationData(part._inputs, part._targets, 1) for part in data)), 5)
    n = len(net.history[-1, "batches", :, "train_loss"])
    own = [size for size in counting.messages if size]
    n_weights = sum(w.numel() for w in module.parameters())
    return {"weights": n_weights, "messages": len(own) / n, "bytes": sum(own) / n}


def _joined(tensors: Any) -> np.ndarray:
    return torch.cat([t.detach().flatten() for t in tensors]).numpy()


def _losses(history: Any) -> np.ndarray:
    return np.array([[row["train_loss"], row.get("valid_loss", 0.0)] for row in history])


# --------------------------------------------------------------------------------------
# Processes


def work(rank: int, size: int, folder: str, jobs: list[tuple[Any, str]]) -> None:
    """Do all jobs with the other processes, and write the results of the first and the last."""
    torch.set_num_threads(1)
    store = dist.FileStore(os.path.join(folder, "store"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    ranks = Ranks.joined()
    found = [job(ranks, name) for job, name in jobs]
    torch.save(found, os.path.join(folder, f"{rank}.pt"))
    dist.barrier()


def found_by(size: int, jobs: list[tuple[Any, str]]) -> list[list[dict[str, Any]]]:
    """Return the results of each of so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=work, args=(rank, size, folder, jobs)) for rank in range(size)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return [torch.load(os.path.join(folder, f"{k}.pt"), weights_only=False) for k in range(size)]


def differences(alone: dict[str, Any], of_each: list[dict[str, Any]]) -> dict[str, Any]:
    found = {name: float(np.abs(of_each[0][name] - alone[name]).max()) for name in alone}
    equal = all(np.array_equal(of[name], of_each[0][name]) for of in of_each for name in alone)
    return found | {"equal to the bit": equal}


def measure() -> dict[str, Any]:
    jobs = [(net_result, name) for name in NETS] + [(fit_result, name) for name in ESTIMATORS]
    alone = [job(ALONE, name) for job, name in jobs]
    record: dict[str, Any] = {"differences": {}, "iteration": {}}
    for size in SIZES:
        of_each = found_by(size, [*jobs, *((message_result, method) for method in METHODS)])
        for k, (_, name) in enumerate(jobs):
            found = differences(alone[k], [of[k] for of in of_each])
            record["differences"].setdefault(name, {})[str(size)] = found
        record["iteration"] = dict(zip(METHODS, of_each[0][len(jobs) :], strict=True))
    return record


def tables(record: dict[str, Any]) -> list[str]:
    """Return the table of the largest differences with two and with four processes, and that of messages."""
    header = ("", "weights", "metaparameters", "losses")
    lines = [
        (name, *(_power(max(of[key] for of in sizes.values())) for key in ("weights", "path", "history")))
        for name, sizes in record["differences"].items()
    ]
    messages = [
        (METHODS[method], f"{of['messages']:g}", f"{of['bytes'] / 4 / of['weights']:.2f}")
        for method, of in record["iteration"].items()
    ]
    return [
        list_table(header, lines),
        list_table(("an iteration", "messages", "numbers for each weight"), messages),
    ]


def sentences(record: dict[str, Any]) -> list[str]:
    """Return the sentences of the documentation about the record."""
    equal = all(of["equal to the bit"] for sizes in record["differences"].values() for of in sizes.values())
    return ["Among each other they are equal to the bit."] if equal else []


def _power(value: float) -> str:
    """Format as a power of ten that is not below the value."""
    return f"1e{math.ceil(math.log10(value)):d}" if value else "0"


def main() -> None:
    path = Path(__file__).with_suffix(".json")
    if "--table" not in sys.argv:
        settings = {"n_train": N_TRAIN, "n_val": N_VAL, "batch_size": BATCH_SIZE, "epochs": EPOCHS}
        record = {**provenance(__file__), "settings": settings, **measure()}
        path.write_text(json.dumps(record, indent=1) + "\n")
    print("\n".join(tables(json.loads(path.read_text()))))


if __name__ == "__main__":
    main()
