"""Measure the time of a prediction: one row, 1,000 rows, and one row from eight threads at once.

``predict_proba`` of a student takes turns, call by call and in changing order, with its bare network, from an
array to probabilities in ``torch.inference_mode``, and with ``MLPClassifier.predict_proba`` of the same size.
The results are the smallest, the median and the 99th percentile of the thread's CPU time, in microseconds.
With eight threads each predicts one row again and again, in wall time; their calls per second in total are
compared with those of one thread. torch has one thread: with two, the bare network would spin on 1,000 rows,
which ``threads.py`` measures.

``other_load`` is the load average of the minute before. If other programs run, medians and percentiles of
wall times include their time.

Run: python examples/benchmarks/predict.py [--quick] [--table] [--out NAME]
"""

from __future__ import annotations

import os
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import torch
from _measure import options, put_into_page, read, rst_table, write
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from sklearn_kd import DistilledClassifier, MLPStudent

HIDDEN = {"32": (32,), "256-256": (256, 256)}
N_THREADS = 8


def main() -> None:
    """Measure, and write the record; or write its tables into the page."""
    chosen = options(__doc__)
    if chosen.table:
        put_into_page(__file__, tables(read(__file__)))
        return
    n_calls = 20 if chosen.quick else 800
    found = [student(name, hidden, n_calls) for name, hidden in HIDDEN.items()]
    write(
        {"calls": n_calls, "threads_of_torch": torch.get_num_threads(), "students": found}, __file__, chosen
    )


def student(name: str, hidden: tuple[int, ...], n_calls: int) -> dict:
    """Measure one student on digits."""
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    clf = DistilledClassifier(
        None, MLPStudent, student__hidden=hidden, meta="none", max_epochs=3, device="cpu", random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not converge
        clf.fit(X, y)
        peer = MLPClassifier(hidden, max_iter=3, random_state=0).fit(X, y)
    network = clf.student_

    def bare(rows: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return torch.softmax(network(torch.from_numpy(rows)), dim=1).numpy()

    contenders = {"predict_proba": clf.predict_proba, "network": bare, "MLPClassifier": peer.predict_proba}
    row = {"hidden": name, "other_load": os.getloadavg()[0]}
    row["one_row"] = in_turns(contenders, X[:1], n_calls)
    row["1000_rows"] = in_turns(contenders, X[:1000], n_calls // 3)
    row["threads"] = {key: at_once(ask, X, n_calls) for key, ask in contenders.items()}
    print(row, flush=True)
    return row


def in_turns(contenders: dict, rows: np.ndarray, n_calls: int) -> dict:
    """Return the times of calls that take turns."""
    times = {name: [] for name in contenders}
    for turn in range(n_calls):
        names = list(contenders)
        for name in names[turn % 3 :] + names[: turn % 3]:  # each finds the caches of each other
            times[name].append(timed(contenders[name], rows, time.thread_time))
    return {name: described(of_calls) for name, of_calls in times.items()}


def at_once(ask, X: np.ndarray, n_calls: int) -> dict:
    """Return the times of calls for one row from eight threads, and calls per second of eight and of one."""
    barrier, expected = Barrier(N_THREADS), ask(X[:N_THREADS])

    def work(k: int) -> list[float]:
        row = X[k : k + 1]
        barrier.wait()
        times = [timed(ask, row) for _ in range(n_calls // N_THREADS)]
        assert np.allclose(ask(row), expected[k], atol=1e-6)
        return times

    began = time.perf_counter()
    alone = [timed(ask, X[:1]) for _ in range(n_calls // N_THREADS)]
    per_second = {"calls_a_second_of_one": len(alone) / (time.perf_counter() - began)}
    with ThreadPoolExecutor(N_THREADS) as pool:
        began = time.perf_counter()
        times = [t for of_thread in pool.map(work, range(N_THREADS)) for t in of_thread]
        per_second["calls_a_second_of_eight"] = len(times) / (time.perf_counter() - began)
    return described(times) | per_second


def timed(ask, rows: np.ndarray, clock=time.perf_counter) -> float:
    """Return the time of one call, in seconds."""
    start = clock()
    ask(rows)
    return clock() - start


def described(times: list[float]) -> dict:
    """Return the smallest, the median and the 99th percentile, in microseconds."""
    found = np.percentile(times, [0, 50, 99]) * 1e6
    return dict(zip(("least", "p50", "p99"), map(float, found), strict=True))


def tables(record: dict) -> list[str]:
    """Return the table of the page."""
    header = ["student: rows", "network, µs", "``predict_proba``, µs", "MLPClassifier, µs", "by the network"]
    names = ("network", "predict_proba", "MLPClassifier")
    rows = []
    for found in record["students"]:
        for part, text in (("one_row", "one row"), ("1000_rows", "1,000 rows"), ("threads", "eight threads")):
            times = found[part]
            cells = [
                f"{times[name]['least']:.0f} ({times[name]['p50']:.0f}, {times[name]['p99']:.0f})"
                for name in names
            ]
            by_network = times["predict_proba"]["least"] / times["network"]["least"]
            rows.append([f"{found['hidden']}: {text}", *cells, f"{by_network:.2f}"])
    return [rst_table(header, rows)]


def _cell(times: dict) -> str:
    return f"{times['p50']:.0f} ({times['p99']:.0f})"


if __name__ == "__main__":
    main()
