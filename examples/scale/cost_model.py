"""Compute what a distillation at the size of ImageNet costs: passes, bytes, memory, hours.

    python examples/scale/cost_model.py            # writes cost_model.json beside this file
    python examples/scale/cost_model.py --table    # the tables into docs/guide/scale.rst

The sizes of the networks are counted (network_sizes.json). The seconds of an iteration on one GPU
(gpu_iterations.json) and the CPU time to load an image (image_loading.json) are measured. The rest is
computed from ``ASSUMPTIONS``.

An iteration on R GPUs takes as long as one GPU takes for 1/R of the batch, plus the ring all-reduces,
2 (R − 1) / R · bytes / bandwidth + 2 (R − 1) · latency each. Nothing overlaps.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.extend(str(Path(__file__).resolve().parents[1] / part) for part in ("", "benchmarks"))
from _measure import replace_tables, rst_table
from _provenance import provenance

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "guide" / "scale.rst"
FLOAT = 4  # bytes

ASSUMPTIONS = {
    "images": 1_281_167,  # ImageNet's training images
    "epochs": 100,
    "batch": 512,
    "share of pathways computed": 0.4,  # the paper says that its threshold saves 60 %
    "metaparameters": 27,
    # Bytes per second of one GPU in one direction: half of the nominal rate.
    "bandwidth": {"NVLink": 225e9, "InfiniBand, 400 Gb/s": 25e9, "Ethernet, 25 Gb/s": 1.5625e9},
    "latency": {"NVLink": 5e-6, "InfiniBand, 400 Gb/s": 10e-6, "Ethernet, 25 Gb/s": 50e-6},  # seconds a hop
    "GPUs of a machine": 8,
    "states of the optimizer": {"SGD": 1, "AdamW": 2},  # numbers for each weight
    "copies of the weights for a hypergradient": 4,  # HypergradientEstimator
}
DIVISIONS = ((1, 512), (8, 64), (64, 8), (64, 64))  # GPUs, and rows on each
SIMULATED = (8, 64)
E2 = (0, 10, 30, 100, 300)
E1 = 10


Sizes = dict[str, dict[str, int]]


class Passes(NamedTuple):
    """Forward and backward passes of an iteration, of the student, of all pathways and of the teacher."""

    student: tuple[int, int]
    pathways: tuple[int, int]
    teacher: int


PASSES = {
    "none": Passes((1, 1), (0, 0), 0),
    "KD": Passes((1, 1), (0, 0), 1),
    "KD, stored answers": Passes((1, 1), (0, 0), 0),
    "retraining": Passes((1, 1), (1, 1), 1),
    "search": Passes((3, 2), (2, 1), 1),
}
WORDS = {
    "none": "the student on the labels",
    "KD": "KD",
    "KD, stored answers": "KD, the teacher's answers stored",
    "retraining": "DistPro, retraining along a process",
    "search": "DistPro, a search iteration with a hypergradient",
}


# --------------------------------------------------------------------------------------
# The parts of the model


def passes_of(kind: str, share: float = 1.0) -> Iterator[tuple[str, int, int, float]]:
    """Yield the part, its forward and backward passes, and its computed share, for an iteration.

    ``share`` is the share of the pathways that a retraining computes.
    """
    passes = PASSES[kind]
    yield "student", *passes.student, 1.0
    yield "transforms", *passes.pathways, share if kind == "retraining" else 1.0
    yield "teacher", passes.teacher, 0, 1.0


def multiply_adds(kind: str, sizes: Sizes, share: float = 1.0) -> float:
    """Return the multiply-adds of an iteration for each image; a backward pass counts as two forward."""
    return sum(
        (forward + 2 * backward) * of * sizes[part]["multiply-adds"]
        for part, forward, backward, of in passes_of(kind, share)
    )


def reduced_bytes(kind: str, sizes: Sizes) -> list[int]:
    """Return the bytes of each all-reduce of an iteration: gradients, and for a hypergradient v and h."""
    student, transforms = (FLOAT * sizes[part]["parameters"] for part in ("student", "transforms"))
    gradients = student + (transforms if PASSES[kind].pathways[0] else 0)
    if kind != "search":
        return [gradients]
    return [gradients, student, FLOAT * ASSUMPTIONS["metaparameters"]]


def communication(messages: Sequence[int], gpus: int, link: str) -> float:
    """Return the seconds of ring all-reduces of so many bytes each."""
    if gpus == 1:
        return 0.0
    hops, bandwidth = 2 * (gpus - 1), ASSUMPTIONS["bandwidth"][link]
    return sum(hops / gpus * n / bandwidth + hops * ASSUMPTIONS["latency"][link] for n in messages)


def link_of(gpus: int) -> str:
    """Return the slowest link in a ring of so many GPUs."""
    return "NVLink" if gpus <= ASSUMPTIONS["GPUs of a machine"] else "InfiniBand, 400 Gb/s"


def fixed_bytes(kind: str, sizes: Sizes, optimizer: str, gpus: int) -> dict[str, int]:
    """Return the bytes on each GPU that do not depend on its rows."""
    student, transforms, teacher = (
        FLOAT * sizes[part]["parameters"] for part in ("student", "transforms", "teacher")
    )
    passes = PASSES[kind]
    trained = student + (transforms if passes.pathways[0] else 0)
    copies = ASSUMPTIONS["copies of the weights for a hypergradient"]
    return {
        "weights": trained,
        "gradients": trained,
        "optimizer": trained * ASSUMPTIONS["states of the optimizer"][optimizer],
        "teacher": teacher if passes.teacher else 0,
        "hypergradient": copies * trained if kind == "search" else 0,
        "all-reduce": trained if gpus > 1 else 0,
    }


class Measured:
    """Seconds and peaks of memory on one GPU, by pair, kind, rows and execution."""

    def __init__(self, record: dict[str, Any], networks: dict[str, Sizes]):
        self.gpu, self.sizes = record["gpu"], networks
        self.runs = {(r["pair"], r["kind"], r["batch"], r["execution"]): r for r in record["runs"]}
        self.most = max(rows for _, _, rows, _ in self.runs)

    def seconds(
        self, pair: str, kind: str, rows: int, execution: str = "eager", share: float = 1.0
    ) -> float | None:
        """Return the seconds of an iteration on so many rows, in parts if so many were not measured.

        A retraining with a share of its pathways lies between KD, which has none, and all of them. None: this
        was not measured.
        """
        if kind == "retraining" and share < 1:
            ends = [self.seconds(pair, of, rows, execution) for of in ("KD", kind)]
            return None if None in ends else ends[0] + share * (ends[1] - ends[0])
        if rows > self.most:
            part = self.seconds(pair, kind, self.most, execution)
            return part and part * rows / self.most
        run = self.runs.get((pair, kind, rows, execution))
        return run and run["seconds"]

    def shared(
        self, pair: str, kind: str, gpus: int, rows: int, *, link: str = "", **how: Any
    ) -> float | None:
        """Return the seconds of an iteration on several GPUs with so many rows each."""
        own = self.seconds(pair, kind, rows, **how)
        sent = communication(reduced_bytes(kind, self.sizes[pair]), gpus, link or link_of(gpus))
        return own and own + sent


# --------------------------------------------------------------------------------------
# The results


def results(measured: Measured, loading: dict[str, Any]) -> dict[str, Any]:
    """Return all numbers of the page."""
    functions = {
        "multiply-adds": lambda pair: relative_costs(measured.sizes[pair]),
        "bytes": lambda pair: {kind: reduced_bytes(kind, measured.sizes[pair]) for kind in MAIN},
        "memory": lambda pair: memory(measured, pair),
        "seconds": lambda pair: seconds(measured, pair),
        "hours": lambda pair: hours(measured, pair),
        "e2": lambda pair: overheads(measured, pair),
        "scaling": lambda pair: scaling(measured, pair),
        "links": lambda pair: links(measured, pair),
    }
    return {
        "gpu": measured.gpu,
        "assumptions": ASSUMPTIONS,
        "passes": {kind: passes._asdict() for kind, passes in PASSES.items()},
        "sizes": measured.sizes,
        **{what: {pair: of(pair) for pair in measured.sizes} for what, of in functions.items()},
        "loading": loaders(measured, loading),
    }


MAIN = ("none", "retraining", "search")
MEASURED = ("none", "KD", "retraining", "search")
PRUNED = {"share": ASSUMPTIONS["share of pathways computed"]}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "the student alone": ("none", {}),
    "the student alone, bfloat16": ("none", {"execution": "bfloat16"}),
    "KD": ("KD", {}),
    "DistPro, all pathways": ("retraining", {}),
    "DistPro, all pathways, bfloat16": ("retraining", {"execution": "bfloat16"}),
    "DistPro, two fifths of them": ("retraining", PRUNED),
    "a search, in every iteration": ("search", {}),
}


def relative_costs(sizes: Sizes) -> dict[str, float]:
    """Return the multiply-adds of each kind of iteration relative to the student alone."""
    alone = multiply_adds("none", sizes)
    found = {kind: multiply_adds(kind, sizes) / alone for kind in PASSES}
    return found | {"retraining, pruned": multiply_adds("retraining", sizes, **PRUNED) / alone}


def memory(measured: Measured, pair: str) -> dict[str, dict[str, float]]:
    """Return the computed memory on one of 8 GPUs that does not depend on the rows, and measured peaks."""
    optimizer = "AdamW" if pair == "deit" else "SGD"
    return {
        kind: {"fixed": sum(fixed_bytes(kind, measured.sizes[pair], optimizer, 8).values())}
        | {str(rows): measured.runs[pair, kind, rows, "eager"]["peak bytes"] for rows in (64, 256)}
        for kind in MEASURED
    }


def seconds(measured: Measured, pair: str) -> dict[str, dict[str, float]]:
    """Return the measured seconds of an iteration relative to the student's alone, by rows."""
    return {
        kind: {
            str(rows): measured.seconds(pair, kind, rows) / measured.seconds(pair, "none", rows)
            for rows in (8, 64, 256)
        }
        for kind in MEASURED
    }


def hours(measured: Measured, pair: str) -> dict[str, dict[str, float | None]]:
    """Return the hours of 100 epochs of ImageNet, by method, and by GPUs and rows on each."""
    found: dict[str, dict[str, float | None]] = {}
    for method, (kind, how) in METHODS.items():
        found[method] = {}
        for gpus, rows in DIVISIONS:
            n_iterations = ASSUMPTIONS["epochs"] * ASSUMPTIONS["images"] / (gpus * rows)
            of_one = measured.shared(pair, kind, gpus, rows, **how)
            found[method][f"{gpus} of {rows}"] = of_one and n_iterations * of_one / 3600
    return found


def loaders(measured: Measured, loading: dict[str, Any]) -> dict[str, Any]:
    """Return how many cores keep a GPU busy if it trains on 64 rows at a time."""
    seconds_each = loading["seconds per image"]
    cores = {
        method: {pair: seconds_each * 64 / measured.seconds(pair, kind, 64, **how) for pair in measured.sizes}
        for method, (kind, how) in METHODS.items()
        if kind != "search" and "execution" not in how
    }
    return {"images per second and core": 1 / seconds_each, "cores": cores}


def overheads(measured: Measured, pair: str, gpus: int = 8) -> dict[str, dict[str, float]]:
    """Return the extra cost of a search over a retraining with all pathways, by e2 with e1 = 10."""
    rows = ASSUMPTIONS["batch"] // gpus
    plain, search = (measured.shared(pair, kind, gpus, rows) for kind in ("retraining", "search"))
    sent, sent_more = (sum(reduced_bytes(kind, measured.sizes[pair])) for kind in ("retraining", "search"))
    shares = {str(e2): E1 / (E1 + e2) for e2 in E2}
    return {
        e2: {"time": share * (search / plain - 1), "bytes": share * (sent_more / sent - 1)}
        for e2, share in shares.items()
    }


def scaling(measured: Measured, pair: str) -> dict[str, dict[str, dict[str, float]]]:
    """Return efficiencies: of 512 rows over all GPUs (strong), and of 64 rows on each (weak).

    Strong scaling is against one GPU on all rows, weak scaling against one GPU on its 64.
    """
    found: dict[str, dict[str, dict[str, float]]] = {"strong": {}, "weak": {}}
    batch = ASSUMPTIONS["batch"]
    for kind in MAIN:
        whole, alone = (measured.seconds(pair, kind, rows) for rows in (batch, 64))
        strong = {g: whole / g / measured.shared(pair, kind, g, batch // g) for g in SIMULATED}
        weak = {g: alone / measured.shared(pair, kind, g, 64) for g in SIMULATED}
        for name, of in (("strong", strong), ("weak", weak)):
            found[name][kind] = {str(gpus): value for gpus, value in of.items()}
    return found


def links(measured: Measured, pair: str, gpus: int = 8) -> dict[str, dict[str, float]]:
    """Return the share of communication in an iteration on 64 rows on each of 8 GPUs, by the link."""
    return {
        link: {
            kind: communication(reduced_bytes(kind, measured.sizes[pair]), gpus, link)
            / measured.shared(pair, kind, gpus, 64, link=link)
            for kind in MAIN
        }
        for link in ASSUMPTIONS["bandwidth"]
    }


# --------------------------------------------------------------------------------------
# The page

NAMES = {
    "resnet": "ResNet-34 to ResNet-18",
    "mobilenet": "ResNet-50 to MobileNet",
    "deit": "DeiT-S to DeiT-Ti",
}


def tables(found: dict[str, Any]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield name, header and rows of each table."""
    pairs = [pair for pair in NAMES if pair in found["sizes"]]
    names = [NAMES[pair] for pair in pairs]
    yield (
        "passes",
        ["iteration", "student", "pathways", "teacher", *names],
        [
            [
                WORDS[kind],
                f"{of['student'][0]} + {of['student'][1]}",
                f"{of['pathways'][0]} + {of['pathways'][1]}" if of["pathways"][0] else "",
                str(of["teacher"] or ""),
                *(f"{found['multiply-adds'][pair][kind]:.2f}" for pair in pairs),
            ]
            for kind, of in found["passes"].items()
        ]
        + [
            [
                "the same retraining with two fifths of the pathways",
                "1 + 1",
                "0.4 + 0.4",
                "1",
                *(f"{found['multiply-adds'][pair]['retraining, pruned']:.2f}" for pair in pairs),
            ]
        ],
    )
    yield (
        "sizes",
        ["counted", *names],
        [
            [f"{part}, {what}", *(f"{found['sizes'][pair][part][key] / unit:,.{digits}f}" for pair in pairs)]
            for part in ("student", "teacher", "transforms", "conv1 alone")
            for what, key, unit, digits in (
                ("million parameters", "parameters", 1e6, 1),
                ("billion multiply-adds", "multiply-adds", 1e9, 2),
            )
        ],
    )
    yield (
        "bytes",
        ["MB all-reduced in an iteration", *names],
        [
            [WORDS[kind], *(" + ".join(megabytes(found["bytes"][pair][kind])) for pair in pairs)]
            for kind in ("none", "retraining", "search")
        ],
    )
    yield (
        "memory",
        ["GB on each GPU", *names],
        [[WORDS[kind], *(memory_cell(found["memory"][pair][kind]) for pair in pairs)] for kind in MEASURED],
    )
    yield (
        "seconds",
        ["measured, relative to the student alone; with 8, 64, 256 rows", *names],
        [
            [
                WORDS[kind],
                *(", ".join(f"{n:.1f}" for n in found["seconds"][pair][kind].values()) for pair in pairs),
            ]
            for kind in MEASURED[1:]
        ],
    )
    for pair in pairs:
        yield (
            f"hours {pair}",
            [
                f"hours, {NAMES[pair]}",
                *(f"{gpus} GPU{'s' * (gpus > 1)}, {rows} rows each" for gpus, rows in DIVISIONS),
            ],
            [
                [method, *map(amount, of.values())]
                for method, of in found["hours"][pair].items()
                if None not in of.values()
            ],
        )
    yield (
        "e2",
        ["e2, with e1 = 10", *(f"{name}: time, bytes" for name in names)],
        [
            [
                e2,
                *(
                    f"{percent(of[e2]['time'])}, {percent(of[e2]['bytes'])}"
                    for of in map(found["e2"].get, pairs)
                ),
            ]
            for e2 in map(str, E2)
        ],
    )
    yield (
        "scaling",
        ["efficiency", *(f"{name}: {gpus}" for name in names for gpus in SIMULATED)],
        [
            [
                f"{how}, {WORDS[kind]}",
                *(f"{found['scaling'][p][how][kind][str(g)]:.2f}" for p in pairs for g in SIMULATED),
            ]
            for how in ("strong", "weak")
            for kind in MAIN
        ],
    )
    yield (
        "links",
        ["share of communication", *names],
        [
            [f"{link}: {WORDS[kind]}", *(percent(found["links"][pair][link][kind]) for pair in pairs)]
            for link in ASSUMPTIONS["bandwidth"]
            for kind in ("none", "search")
        ],
    )
    yield (
        "loading",
        ["cores for one GPU", *names],
        [
            [method, *(f"{of[pair]:.1f}" for pair in pairs)]
            for method, of in found["loading"]["cores"].items()
        ],
    )


def megabytes(messages: Sequence[int]) -> list[str]:
    """Format the messages; h, of a hundred bytes, is left out."""
    return [f"{n / 1e6:.1f}" for n in messages if n > 1000]


def memory_cell(of: dict[str, float]) -> str:
    """Format the fixed part, and the peaks with 64 and with 256 rows."""
    return f"{of['fixed'] / 1e9:.2f}; {of['64'] / 1e9:.1f}, {of['256'] / 1e9:.1f}"


def percent(share: float) -> str:
    return f"{100 * share:.{0 if share >= 0.1 else 1}f} %"


def amount(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 20 else f"{hours:.1f}"


def computed() -> dict[str, Any]:
    """Return :func:`results` of the records beside this file."""
    networks, iterations, loading = (
        json.loads((HERE / f"{name}.json").read_text())
        for name in ("network_sizes", "gpu_iterations", "image_loading")
    )
    return results(Measured(iterations, networks["networks"]), loading)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", action="store_true", help="write the tables into docs/guide/scale.rst")
    chosen = parser.parse_args()
    record = HERE / "cost_model.json"
    if not chosen.table:
        record.write_text(json.dumps(provenance(__file__) | computed(), indent=1) + "\n")
        return
    found = json.loads(record.read_text())
    replace_tables(PAGE, {f"cost_model {name}": rst_table(head, rows) for name, head, rows in tables(found)})


if __name__ == "__main__":
    main()
