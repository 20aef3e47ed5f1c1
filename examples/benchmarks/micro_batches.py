"""Measure the time and the memory of a training step in micro-batches.

The script runs the library's own step, without the loop around it, for ResNet-8 on 32×32 colour images, with
batches of 128, SGD and given logits of the teacher, in 1, 2, 4, 8 and 16 micro-batches. ``fixed`` is a step
without a hypergradient. The others compute one in each step, by ``finite_difference`` or ``exact``.

Time is CPU time of one thread in one process. In each round every contender takes one step in turn. The
result is the median over the rounds of the ratio to the step of the whole batch in the same round, with
quartiles. Memory is the peak bytes of tensors during a step, beyond those that existed before, as a share of
that of the whole batch.

    python examples/benchmarks/micro_batches.py             # about 3 minutes
    python examples/benchmarks/micro_batches.py --quick     # batches of 32, 2 rounds
    python examples/benchmarks/micro_batches.py --table     # the table into docs/guide/speed.rst

It writes micro_batches.json beside this file.
"""

import torch
from _measure import (
    SEED,
    interleaved,
    options,
    ours,
    peak_memory,
    problem,
    put_into_page,
    ratio,
    read,
    rst_table,
    shown,
    write,
)

from sklearn_kd import CIFARResNet, Execution

NUMBERS = (1, 2, 4, 8, 16)
WAYS = {
    "fixed": {"meta": "fixed"},
    "finite_difference": {"meta": "gradient", "meta__hypergradient": "finite_difference"},
    "exact": {"meta": "gradient", "meta__hypergradient": "exact"},
}


def measure(way, rows, rounds):
    """Return the times and the memory of a step, by the number of micro-batches."""
    torch.manual_seed(SEED)
    data = problem(CIFARResNet(8, 10), (3, 32, 32), batch_size=rows)
    steps = {str(n): ours(data, execution=Execution(micro_batches=n), **WAYS[way]) for n in NUMBERS}
    times = interleaved(steps, rounds)
    return {
        "time": {n: ratio(times, n, "1") for n in steps},
        "bytes": {n: peak_memory(step) for n, step in steps.items()},
        "weights": sum(w.nbytes for w in data.student.parameters()),
    }


def main(quick):
    rows, rounds = (32, 2) if quick else (128, 5)
    return {"batch": rows, "ways": {way: measure(way, rows, rounds) for way in WAYS}}


def table(record):
    header = ["micro-batches"]
    header += [f"{what}, {way}" for way in WAYS for what in ("memory", "time")]
    rows = []
    for n in map(str, NUMBERS):
        row = [n]
        for found in record["ways"].values():
            row += [f"{found['bytes'][n] / found['bytes']['1']:.2f}", shown(*found["time"][n])]
        rows.append(row)
    return rst_table(header, rows)


if __name__ == "__main__":
    chosen = options(__doc__)
    if chosen.table:
        put_into_page(__file__, [table(read(__file__))])
    else:
        found = main(chosen.quick)
        print(table(found))
        write(found, __file__, chosen)
