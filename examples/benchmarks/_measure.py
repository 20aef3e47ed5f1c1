"""Shared parts of the benchmarks: the clock, interleaved rounds, data, the library's own step, the record."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import sys
import time
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sklearn_kd import DistilledClassifier
from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.tasks._targets import Targets

sys.path.append(str(Path(__file__).parents[1]))
from _provenance import provenance

LR = 0.05
START = (0.5, 2.0)  # lambda1, T
SEED = 0
# Use one thread. Keep freed pages: otherwise they are returned and faulted in again at every step.
PROCESS = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
}


# --------------------------------------------------------------------------------------
# Process and environment


def options(description: str, **flags: str) -> argparse.Namespace:
    """Parse the command line; restart the script if its environment differs from ``PROCESS``.

    ``flags`` are further options by name, with their help.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="run a few rounds, as a test; write no file without --out",
    )
    parser.add_argument(
        "--table", action="store_true", help="write the JSON's tables into the documentation; measure nothing"
    )
    parser.add_argument("--out", help="name of the JSON file; default: the script's")
    parser.add_argument("--device", default="cpu")
    for name, text in flags.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    chosen = parser.parse_args()
    use_process_settings()
    return chosen


def use_process_settings() -> None:
    """Use one thread; restart the script if its environment differs from ``PROCESS``."""
    if any(os.environ.get(name) != value for name, value in PROCESS.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | PROCESS)
    torch.set_num_threads(1)


def environment(device: str) -> dict:
    """Describe the machine and the process."""
    return {
        "processor": _processor() if device == "cpu" else torch.cuda.get_device_name(device),
        "clock": "CPU time" if device == "cpu" else "wall time, synchronised",
        "threads": torch.get_num_threads(),
        **PROCESS,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write(record: dict, script: str, chosen: argparse.Namespace) -> None:
    """Write the record as JSON beside the script, numbers to five digits."""
    if chosen.quick and chosen.out is None:
        return
    path = Path(script).with_suffix(".json") if chosen.out is None else Path(script).parent / chosen.out
    about = {"quick": chosen.quick, **provenance(script), "environment": environment(chosen.device)}
    text = json.dumps(about | _rounded(record), indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def read(script: str, name: str | None = None) -> dict:
    """Read a record back."""
    path = Path(script).with_suffix(".json") if name is None else Path(script).parent / name
    return json.loads(path.read_text(encoding="utf-8"))


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


# --------------------------------------------------------------------------------------
# Time


def now(device: str = "cpu") -> float:
    """Return seconds: of CPU time, or of wall time after the GPU has finished."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def interleaved(contenders: dict, rounds: int, steps: dict | int = 1, device: str = "cpu") -> dict:
    """Return seconds per call, {name: one per round}; the order changes from round to round."""
    names, times = list(contenders), {name: [] for name in contenders}
    for contender in contenders.values():
        contender()
        contender()
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            n = steps if isinstance(steps, int) else steps[name]
            start = now(device)
            for _ in range(n):
                contenders[name]()
            times[name].append((now(device) - start) / n)
    return times


def ratio(times: dict, name: str, unit: str) -> tuple[float, float, float]:
    """Return median and quartiles, over the rounds, of the ratio of ``name``'s time to ``unit``'s."""
    return quartiles(np.divide(times[name], times[unit]))


def quartiles(values) -> tuple[float, float, float]:
    """Return the median, and the lower and upper quartile."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return float(middle), float(low), float(high)


def shown(median: float, low: float, high: float) -> str:
    """Format as ``1.23 (1.20–1.27)``."""
    return f"{median:.2f} ({low:.2f}–{high:.2f})"


def calls_for(contender, seconds: float, most: int, device: str = "cpu") -> int:
    """Return how many calls fill a round of about that length."""
    contender()
    start = now(device)
    contender()
    return int(np.clip(seconds / (now(device) - start), 1, most))


# --------------------------------------------------------------------------------------
# Memory and launches


def peak_memory(run, device: str = "cpu") -> int:
    """Return the peak bytes of tensors during ``run``, beyond the tensors that existed before.

    On the CPU they come from the profiler's record of every allocation through torch's allocator.
    """
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(max(np.cumsum(changes), default=0))


class _Counter(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def operations(step) -> int:
    """Count the operations that one call dispatches: on a GPU, about its launches."""
    with _Counter() as counter:
        step()
    return counter.count


# --------------------------------------------------------------------------------------
# Data and the library's own step


class Problem(NamedTuple):
    """A student and its data; ``f`` are the teacher's logits on ``X``."""

    student: nn.Module
    X: Tensor
    y: Tensor
    f: Tensor
    X_val: Tensor
    y_val: Tensor
    batch_size: int
    device: str

    def batches(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return training batches, cut beforehand so that the loop is not measured."""
        return list(zip(*(t.split(self.batch_size) for t in (self.X, self.y, self.f)), strict=True))

    def val_batches(self) -> list[tuple[Tensor, Tensor]]:
        """Return the validation batches."""
        return list(zip(*(t.split(self.batch_size) for t in (self.X_val, self.y_val)), strict=True))


def problem(student: nn.Module, shape, n_classes=10, batch_size=128, n_batches=4, device="cpu") -> Problem:
    """Draw normal inputs, and labels of a linear teacher, a fifth of them random; every class occurs."""
    generator = torch.Generator().manual_seed(SEED)
    n = batch_size * max(n_batches, math.ceil(3 * n_classes / batch_size))
    features = math.prod(shape)
    truth = torch.randn(features, n_classes, generator=generator) * 2 / features**0.5

    def rows(n):
        X = torch.randn(n, *shape, generator=generator)
        f = X.flatten(1) @ truth
        drawn = torch.randint(n_classes, (n,), generator=generator)
        y = torch.where(torch.rand(n, generator=generator) < 0.2, drawn, f.argmax(1))
        return X.to(device), y.to(device), f.to(device)

    X, y, f = rows(n)
    y[:n_classes] = torch.arange(n_classes)
    X_val, y_val, _ = rows(batch_size * n_batches)
    return Problem(student.to(device), X, y, f, X_val, y_val, batch_size, device)


def ours(problem: Problem, val_batch_size: int | None = None, **params):
    """Return the library's ``train_step`` without the loop around it, as a function without arguments."""
    size, valid_size = problem.batch_size, val_batch_size or problem.batch_size
    lambda1, temperature = START
    clf = DistilledClassifier(
        None, problem.student, lambda1=lambda1, temperature=temperature, optimizer="SGD", lr=LR, max_epochs=1,
        batch_size=size, iterator_valid__batch_size=valid_size, device=problem.device,
        search_epochs=None, random_state=SEED, **params,
    )  # fmt: skip
    X, y, f, X_val, y_val = (t.cpu().numpy() for t in problem[1:6])
    net = clf.fit(X, y, teacher_logits=f, X_val=X_val, y_val=y_val).net_
    net.module_.train()
    train = DistillationData(problem.X, Targets(problem.y, problem.f))
    valid = DistillationData(problem.X_val, Targets(problem.y_val))
    net.validation_batches_ = cycle(list(net.get_iterator(valid, training=False)))
    batches = cycle(list(net.get_iterator(train, training=True)))

    def run():
        net.train_step(next(batches))

    run.student = net.module_
    return run


# --------------------------------------------------------------------------------------
# Tables for the documentation

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "speed.rst"


def rst_table(header: list[str], rows: list[list[str]]) -> str:
    """Format a list table of reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", "   :class: numbers", ""]
    for row in (header, *rows):
        lines += [f"   * - {row[0]}", *(f"     - {cell}" for cell in row[1:])]
    return "\n".join(lines) + "\n"


def put_into_page(script: str, tables: list[str]) -> None:
    """Replace the tables after ``.. NAME 0``, ``.. NAME 1`` … in the page on speed."""
    replace_tables(PAGE, {f"{Path(script).stem} {i}": table for i, table in enumerate(tables)})


def replace_tables(page: Path, tables: dict[str, str]) -> None:
    """Replace the table after each mark, a comment of reStructuredText, in a page of the documentation."""
    text = page.read_text(encoding="utf-8")
    for mark, table in tables.items():
        above, found, below = text.partition(f".. {mark}\n\n")
        assert found, f"{page.name} has no comment '.. {mark}'"
        below = re.sub(r"\A\.\. list-table::\n(?:   .*\n|\n(?=   ))*", "", below)
        text = above + found + table + "\n" + below.lstrip("\n")
    page.write_text(text, encoding="utf-8")
