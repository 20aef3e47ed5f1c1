"""Measure the cost of rows that are read during training, and of a teacher's answers stored on disk.

``throughput`` measures rows per second of CPU time in an epoch of ``fit``. The same rows come as an array in
memory, as a map-style Dataset, as a :class:`Stream` of tensors and as a stream of a Parquet file, all in this
process, for a student of a table and one of images. The time of an epoch is that of a fit of six epochs minus
that of one epoch, divided by five. The sources take turns, and the result is the median. The teacher is a
linear network. It is asked once about rows in memory, and in every epoch about those of streams.

``answers`` has 100 and 1,000 classes: Gaussian clouds around random centres. The teacher has the exact
posterior probabilities. For each form in which they can be stored it measures the bytes per row on disk; at T
= 1 and 4 the mean Kullback-Leibler divergence of the restored from the exact probabilities, and the relative
error of the gradient of the teacher's term by a student's logits (norm of the difference by norm, over all
rows); and the accuracy of students that train with it at lambda1 = 0.1, with three seeds. "labels" is a
student without a teacher.

Run: python examples/benchmarks/streams.py [--quick] [--table] [--out NAME]    # about five minutes
"""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from _measure import now, options, read, replace_tables, rst_table, write
from sklearn.exceptions import ConvergenceWarning
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

from sklearn_kd import DistilledClassifier, MLPStudent, Stream
from sklearn_kd.teachers import StoredAnswers
from sklearn_kd.teachers._compressed_logits import LogitCodec

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "streams.rst"
FORMS = {"float32": ("float32", None), "float16": ("float16", None)} | {
    f"top {k}": ("float16", k) for k in (50, 10, 5)
}
KEY = 16  # bytes that find a row
SEEDS = (0, 1, 2)
TEMPERATURES = (1, 4)


def main() -> None:
    """Measure, and write the record; or write its tables into the page."""
    chosen = options(__doc__)
    if chosen.table:
        replace_tables(PAGE, tables(read(__file__)))
        return
    warnings.simplefilter("ignore", ConvergenceWarning)  # few epochs
    n_rows, rounds = (300, 1) if chosen.quick else (4000, 5)
    found = {
        "rows": n_rows,
        "throughput": [
            throughput("table, 64 columns", (64,), table_student, n_rows, rounds),
            throughput("images, 3 × 32 × 32", (3, 32, 32), image_student, n_rows // 2, rounds),
        ],
        "answers": [answers(n_classes, chosen.quick) for n_classes in (100, 1000)],
    }
    write(found, __file__, chosen)


# --------------------------------------------------------------------------------------
# Throughput


def table_student(n_classes: int) -> nn.Module:
    """Return a student of a table."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, n_classes))


def image_student(n_classes: int) -> nn.Module:
    """Return a small convolutional student."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(1024, n_classes),
    )  # fmt: skip


class Rows(IterableDataset):
    """Tensors, one after another."""

    def __init__(self, X: np.ndarray, y: np.ndarray) -> None:
        self.X, self.y = torch.from_numpy(X), y.tolist()

    def __len__(self) -> int:
        return len(self.y)

    def __iter__(self) -> Iterator[Any]:
        return zip(self.X, self.y, strict=True)


class Parquet(IterableDataset):
    """Rows of a Parquet file, a row group at a time."""

    def __init__(self, X: np.ndarray, y: np.ndarray) -> None:
        width = int(np.prod(X.shape[1:]))
        flat = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), width)
        file = io.BytesIO()
        pq.write_table(pa.table({"x": flat, "label": y}), file, row_group_size=500)
        self.data, self.shape, self.n = file.getvalue(), X.shape[1:], len(y)

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[Any]:
        file = pq.ParquetFile(io.BytesIO(self.data))
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            x = table["x"].combine_chunks().flatten().to_numpy().reshape(-1, *self.shape)
            yield from zip(torch.tensor(x), table["label"].to_pylist(), strict=True)


def throughput(name: str, shape: tuple[int, ...], student: Any, n_rows: int, rounds: int) -> dict:
    """Return the rows of an epoch per second of CPU time, by source."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(n_rows, *shape)).astype(np.float32), rng.integers(10, size=n_rows)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 10))
    sources: dict[str, Any] = {
        "array": (X, y),
        "Dataset": (TensorDataset(torch.from_numpy(X), torch.from_numpy(y)),),
        "stream of tensors": (Stream(Rows(X, y), classes=range(10)),),
        "stream of Parquet": (Stream(Parquet(X, y), classes=range(10)),),
    }

    def seconds(source: str, max_epochs: int) -> float:
        clf = DistilledClassifier(
            teacher,
            student,
            meta="naive",
            max_epochs=max_epochs,
            batch_size=128,
            random_state=0,
            device="cpu",
        )
        start = now()
        clf.fit(*sources[source])
        return now() - start

    for source in sources:
        seconds(source, 1)
    times: dict[str, list[float]] = {source: [] for source in sources}
    for _ in range(rounds):
        for source in sources:
            times[source].append((seconds(source, 6) - seconds(source, 1)) / 5)
    rates = {source: n_rows / float(np.median(of_source)) for source, of_source in times.items()}
    print(name, {source: round(rate) for source, rate in rates.items()}, flush=True)
    return {"student": name, "rows_per_cpu_second": rates, "seconds": times}


# --------------------------------------------------------------------------------------
# Answers


class Posterior(nn.Module):
    """Exact logits of Gaussian clouds of variance 1 around centres."""

    def __init__(self, centres: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("centres", torch.from_numpy(centres))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.centres.T - self.centres.square().sum(1) / 2


def answers(n_classes: int, quick: bool) -> dict:
    """Measure all forms of the answers about one task."""
    rng = np.random.default_rng(n_classes)
    n_rows, n_columns, n_epochs = (40 if quick else 10_000), 32, (1 if quick else 15)
    centres = (0.6 * rng.normal(size=(n_classes, n_columns))).astype(np.float32)

    def rows(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = rng.permutation(np.arange(n) % n_classes)
        return (centres[y] + rng.normal(size=(n, n_columns))).astype(np.float32), y

    (X, y), (X_test, y_test) = rows(max(n_rows, 2 * n_classes)), rows(2 * n_rows)
    teacher = Posterior(centres)
    logits = teacher(torch.from_numpy(X))
    forms = {name: form for name, form in FORMS.items() if form[1] is None or form[1] < n_classes}
    found = {"classes": n_classes, "rows": len(X), "teacher_accuracy": _accuracy(teacher, X_test, y_test)}
    found["forms"] = {name: error_of(LogitCodec(n_classes, *form), logits) for name, form in forms.items()}
    settings = {"max_epochs": n_epochs, "student__hidden": (64,), "batch_size": 128, "device": "cpu"}

    def score(teacher: Any, seed: int, **meta: Any) -> float:
        clf = DistilledClassifier(teacher, MLPStudent, random_state=seed, **settings, **meta)
        return float(clf.fit(X, y).score(X_test, y_test))

    for name, (dtype, top) in forms.items():
        with tempfile.TemporaryDirectory() as folder:
            stored = StoredAnswers(teacher, folder, top=top, dtype=dtype)
            for t in TEMPERATURES:
                meta = {"meta": "fixed", "lambda1": 0.1, "temperature": t}
                found["forms"][name][f"accuracy_T{t}"] = [score(stored, seed, **meta) for seed in SEEDS]
            files = [path.stat().st_size for path in Path(folder).glob("part-*.npy")]
            found["forms"][name]["bytes_per_row"] = sum(files) / len(X)
    found["labels"] = [score(None, seed, meta="none") for seed in SEEDS]
    print(found, flush=True)
    return found


def _accuracy(teacher: nn.Module, X: np.ndarray, y: np.ndarray) -> float:
    return float((teacher(torch.from_numpy(X)).argmax(1).numpy() == y).mean())


def error_of(codec: LogitCodec, logits: torch.Tensor) -> dict:
    """Return what a form of the answers changes in the loss and in its gradient."""
    exact, restored = logits.double(), codec.restored(codec.packed(logits)).double()
    # A student on its way: the teacher's logits, weaker and with noise.
    z = 0.5 * exact + torch.randn(exact.shape, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    found: dict[str, Any] = {"record_bytes": codec.record.itemsize + KEY}
    for t in TEMPERATURES:
        log_p, log_q = (exact / t).log_softmax(1), (restored / t).log_softmax(1)
        found[f"kl_T{t}"] = float((log_p.exp() * (log_p - log_q)).sum(1).mean())
        gradient = (z / t).softmax(1) - log_p.exp()
        error = log_p.exp() - log_q.exp()
        found[f"gradient_T{t}"] = float(error.norm() / gradient.norm())
    return found


# --------------------------------------------------------------------------------------
# Tables


def tables(record: dict) -> dict[str, str]:
    """Return the tables of the page, by the marks before them."""
    return {"streams 0": throughput_table(record), "streams 1": answers_table(record)}


def throughput_table(record: dict) -> str:
    """Return the table of rows per CPU second."""
    header = ["source", *(row["student"] for row in record["throughput"])]
    rates = [row["rows_per_cpu_second"] for row in record["throughput"]]
    return rst_table(header, [[source, *(f"{rate[source]:,.0f}" for rate in rates)] for source in rates[0]])


def answers_table(record: dict) -> str:
    """Return the table of the forms of stored answers."""
    header = ["classes", "stored", "bytes a row", "KL at T = 1", "at T = 4", "gradient's error at T = 1",
              "at T = 4", "accuracy at T = 1", "at T = 4"]  # fmt: skip
    rows = []
    for task in record["answers"]:
        rows.append([f"{task['classes']:,}", "labels alone", *["–"] * 5, *[_shown(task["labels"])] * 2])
        for name, form in task["forms"].items():
            numbers = [f"{form['bytes_per_row']:,.0f}", *(f"{form[f'kl_T{t}']:.2g}" for t in TEMPERATURES)]
            numbers += [f"{form[f'gradient_T{t}']:.2g}" for t in TEMPERATURES]
            accuracies = [_shown(form[f"accuracy_T{t}"]) for t in TEMPERATURES]
            rows.append([f"{task['classes']:,}", name, *numbers, *accuracies])
    return rst_table(header, rows)


def _shown(accuracy: list[float]) -> str:
    return f"{np.mean(accuracy):.3f} ± {np.std(accuracy, ddof=1):.3f}"


if __name__ == "__main__":
    main()
