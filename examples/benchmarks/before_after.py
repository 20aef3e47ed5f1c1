"""Compare training iterations with those of an older version of the library, in turn in one process.

Records of two runs, such as step.json and step_before.json, hold ratios to a unit that may have become faster
too. Here both versions are imported into one process, and each round runs a few iterations of both, so that
other work on the machine slows both:

    OLDER=path/to/an/older/checkout python examples/benchmarks/before_after.py           # a minute
    OLDER=path/to/an/older/checkout python examples/benchmarks/before_after.py --quick
    python examples/benchmarks/before_after.py --table                # the table into docs/guide/speed.rst

The script times ``train_step`` alone, for perceptrons 64-100-10 (batches of 200) and 64-256-256-10 (128) with
plain SGD: ``meta="naive"`` (T = 1), ``"fixed"`` at T = 2, and ``"gradient"`` from there. It takes the CPU
time of one thread in 60 rounds of 12 iterations, and writes before_after.json beside this file.
"""

import importlib
import os
import sys
import warnings

import torch
from _measure import (
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

VERSIONS = ("before", "now")
STUDENTS = {"64-100-10": ((100,), 200), "64-256-256-10": ((256, 256), 128)}
METAS = ("naive", "fixed", "gradient")


def steps_of_version(path):
    """Return {(student, meta): train_step} and the commit of the library in a folder, or of this one."""
    ours = [
        name for name in sys.modules if name.partition(".")[0] in ("sklearn_kd", "_measure", "_provenance")
    ]
    for name in ours:
        del sys.modules[name]
    sys.path.insert(0, path)
    try:
        measure, library = importlib.import_module("_measure"), importlib.import_module("sklearn_kd")
        found = {}
        for student, (hidden, batch_size) in STUDENTS.items():
            torch.manual_seed(SEED)
            network = library.MLPStudent(64, 10, hidden=hidden)
            data = measure.problem(network, (64,), batch_size=batch_size)
            found |= {(student, meta): measure.ours(data, meta=meta) for meta in METAS}
        return found, importlib.import_module("_provenance").provenance(__file__)["code"]
    finally:
        sys.path.remove(path)


def tables(record):
    """Return the table of docs/guide/speed.rst."""
    seconds = record["seconds"].values()
    rows = [
        [
            f"an iteration of {meta}, now by before",
            *(shown(*ratio(s[meta], "now", "before")) for s in seconds),
        ]
        for meta in METAS
    ]
    for when in VERSIONS:
        times = [{meta: of_student[meta][when] for meta in METAS} for of_student in seconds]
        rows.append([f"gradient by fixed, {when}", *(shown(*ratio(t, "gradient", "fixed")) for t in times)])
    return [rst_table(["ratio", *STUDENTS], rows)]


def main():
    chosen = options(__doc__)
    if chosen.table:
        return put_into_page(__file__, tables(read(__file__)))
    warnings.filterwarnings("ignore", "Without effect")
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    steps, code = {}, {}
    for when, path in zip(VERSIONS, (os.environ["OLDER"], here), strict=True):
        found, code[when] = steps_of_version(path)
        steps |= {(*key, when): step for key, step in found.items()}
    times = interleaved(steps, 6 if chosen.quick else 60, 12)
    seconds = {
        student: {meta: {when: times[student, meta, when] for when in VERSIONS} for meta in METAS}
        for student in STUDENTS
    }
    record = {"settings": {"lambda1, T": START, "seed": SEED}, "codes": code, "seconds": seconds}
    print(*tables(record))
    write(record, __file__, chosen)


if __name__ == "__main__":
    main()
