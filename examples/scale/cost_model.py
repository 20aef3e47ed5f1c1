"""Compute what a distillation at the size of ImageNet costs: passes, bytes, memory, hours.

    python examples/scale/cost_model.py            # writes cost_model.json beside this file
    python examples/scale/cost_model.py --table    # the tables into docs/guide/scale.rst

The seconds of an iteration on one GPU, and the sizes of the networks, are measured: gpu_iterations.json. The
CPU time to load an image is measured: image_loading.json. The rest is arithmetic on ``ASSUMPTIONS``.

Time of an iteration on R GPUs: that of one GPU on its share of the batch, and the ring all-reduces,
2 (R − 1) / R · bytes / bandwidth + 2 (R − 1) · latency each, which nothing overlaps.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "guide" / "scale.rst"
FLOAT = 4  # bytes

ASSUMPTIONS = {
    "images": 1_281_167,  # ImageNet's training images
    "epochs": 100,
    "batch": 512,
    "share of pathways computed": 0.4,  # the paper's saving of 60 % by the threshold
    "metaparameters": 27,
    # Bytes per second of one GPU in one direction: half of the nominal rate of the link.
    "bandwidth": {"within a machine": 225e9, "between machines": 25e9, "25 Gb/s Ethernet": 1.5625e9},
    "latency": {
        "within a machine": 5e-6,
        "between machines": 15e-6,
        "25 Gb/s Ethernet": 50e-6,
    },  # seconds a hop
    "GPUs of a machine": 8,
    "states of the optimizer": {"SGD": 1, "AdamW": 2},  # numbers for each weight
    "copies of the student's weights for a hypergradient": 4,  # HypergradientEstimator
}
GPUS = (1, 8, 64)
E2 = (0, 10, 30, 100, 300)
E1 = 10


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


def multiply_adds(kind: str, sizes: dict[str, dict[str, int]], share: float = 1.0) -> float:
    """Return the multiply-adds of an iteration for each image; a backward pass counts as two forward.

    ``share`` is the share of the pathways that a retraining computes.
    """
    passes, (student, pathways, teacher) = (
        PASSES[kind],
        (sizes[part]["multiply-adds"] for part in ("student", "transforms", "teacher")),
    )
    computed = share if kind == "retraining" else 1.0
    return (
        (passes.student[0] + 2 * passes.student[1]) * student
        + (passes.pathways[0] + 2 * passes.pathways[1]) * computed * pathways
        + passes.teacher * teacher
    )


def reduced_bytes(kind: str, sizes: dict[str, dict[str, int]]) -> list[int]:
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
    """Return the slowest link that a ring of so many GPUs goes through."""
    return "within a machine" if gpus <= ASSUMPTIONS["GPUs of a machine"] else "between machines"


def fixed_bytes(kind: str, sizes: dict[str, dict[str, int]], optimizer: str, gpus: int) -> dict[str, int]:
    """Return the bytes on each GPU that do not depend on its rows."""
    student, transforms, teacher = (
        FLOAT * sizes[part]["parameters"] for part in ("student", "transforms", "teacher")
    )
    passes = PASSES[kind]
    trained = student + (transforms if passes.pathways[0] else 0)
    copies = ASSUMPTIONS["copies of the student's weights for a hypergradient"]
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

    def __init__(self, record: dict[str, Any]):
        self.sizes, self.gpu = record["networks"], record["gpu"]
        self.runs = {(r["pair"], r["kind"], r["batch"], r["execution"]): r for r in record["runs"]}

    def seconds(self, pair: str, kind: str, rows: int, execution: str = "eager", share: float = 1.0) -> float:
        """Return the seconds of an iteration on so many rows: of two halves, and so on, if they do not fit.

        A retraining with a share of its pathways lies in between KD, which has none, and all of them.
        """
        if kind == "retraining" and share < 1:
            none, all_of_them = (self.seconds(pair, k, rows, execution) for k in ("KD", kind))
            return none + share * (all_of_them - none)
        run = self.runs.get((pair, kind, rows, execution))
        if run is None or run["seconds"] is None:
            if rows <= min(batch for _, _, batch, _ in self.runs):
                raise ValueError(f"{pair}, {kind}: nothing measured for {rows} rows")
            return 2 * self.seconds(pair, kind, rows // 2, execution, share)
        return run["seconds"]


def iteration_seconds(
    measured: Measured, pair: str, kind: str, gpus: int, rows: int, *, link: str = "", **how: Any
) -> float:
    """Return the seconds of an iteration on several GPUs with so many rows each."""
    messages = reduced_bytes(kind, measured.sizes[pair])
    return measured.seconds(pair, kind, rows, **how) + communication(messages, gpus, link or link_of(gpus))


# --------------------------------------------------------------------------------------
# The results


def results(measured: Measured, loading: dict[str, Any]) -> dict[str, Any]:
    """Return all numbers of the page."""
    pairs = list(measured.sizes)
    return {
        "gpu": measured.gpu,
        "assumptions": ASSUMPTIONS,
        "passes": {kind: passes._asdict() for kind, passes in PASSES.items()},
        "sizes": measured.sizes,
        "multiply-adds": {pair: relative_costs(measured.sizes[pair]) for pair in pairs},
        "bytes": {
            pair: {
                kind: reduced_bytes(kind, measured.sizes[pair]) for kind in ("none", "retraining", "search")
            }
            for pair in pairs
        },
        "memory": {pair: memory(measured, pair) for pair in pairs},
        "hours": {pair: hours(measured, pair) for pair in pairs},
        "loading": loaders(measured, loading),
        "e2": {pair: overheads(measured, pair) for pair in pairs},
        "scaling": {pair: scaling(measured, pair) for pair in pairs},
        "links": {pair: links(measured, pair) for pair in pairs},
    }


def relative_costs(sizes: dict[str, dict[str, int]]) -> dict[str, float]:
    """Return the multiply-adds of each kind of iteration relative to the student alone."""
    share, alone = ASSUMPTIONS["share of pathways computed"], multiply_adds("none", sizes)
    found = {kind: multiply_adds(kind, sizes) / alone for kind in PASSES}
    return found | {"retraining, pruned": multiply_adds("retraining", sizes, share) / alone}


def memory(measured: Measured, pair: str) -> dict[str, Any]:
    """Return measured peaks, and the computed part that does not depend on the rows."""
    optimizer = "AdamW" if pair == "deit" else "SGD"
    found: dict[str, Any] = {}
    for kind in ("none", "KD", "retraining", "search"):
        runs = {rows: measured.runs.get((pair, kind, rows, "eager")) for rows in (64, 256)}
        peaks = {str(rows): run and run.get("peak bytes") for rows, run in runs.items()}
        found[kind] = {
            "fixed": sum(fixed_bytes(kind, measured.sizes[pair], optimizer, 8).values()),
            "peak": peaks,
        }
    return found


METHODS = {
    "none": ("none", {}),
    "KD": ("KD", {}),
    "DistPro": ("retraining", {}),
    "DistPro, pruned": ("retraining", {"share": ASSUMPTIONS["share of pathways computed"]}),
    "search on ImageNet": ("search", {}),
}


def hours(measured: Measured, pair: str) -> dict[str, dict[str, float]]:
    """Return the hours of 100 epochs of ImageNet at batches of 512, by method and GPUs."""
    n_iterations = ASSUMPTIONS["epochs"] * ASSUMPTIONS["images"] / ASSUMPTIONS["batch"]
    found: dict[str, dict[str, float]] = {}
    for method, (kind, how) in METHODS.items():
        for execution in ("eager", "bfloat16") if kind != "search" else ("eager",):
            name = method + (", bfloat16" if execution == "bfloat16" else "")
            found[name] = {
                str(gpus): n_iterations
                / 3600
                * iteration_seconds(
                    measured, pair, kind, gpus, ASSUMPTIONS["batch"] // gpus, execution=execution, **how
                )
                for gpus in GPUS
            }
    return found


def loaders(measured: Measured, loading: dict[str, Any]) -> dict[str, Any]:
    """Return how many cores keep a GPU busy that trains on 64 rows at a time."""
    per_core = 1 / loading["seconds per image"]
    cores = {
        pair: {
            name: 64 / measured.seconds(pair, kind, 64, execution, **how) / per_core
            for name, (kind, execution, how) in {
                "none": ("none", "eager", {}),
                "none, bfloat16": ("none", "bfloat16", {}),
                "DistPro, pruned": ("retraining", "eager", METHODS["DistPro, pruned"][1]),
            }.items()
        }
        for pair in measured.sizes
    }
    return {"images per second and core": per_core, "cores": cores}


def overheads(measured: Measured, pair: str, gpus: int = 8) -> dict[str, dict[str, float]]:
    """Return what a search costs more than a retraining with all pathways, by e2 with e1 = 10."""
    rows = ASSUMPTIONS["batch"] // gpus
    plain, search = (iteration_seconds(measured, pair, kind, gpus, rows) for kind in ("retraining", "search"))
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
    for kind in ("none", "retraining", "search"):
        whole = measured.seconds(pair, kind, ASSUMPTIONS["batch"])
        strong = {g: whole / g / iteration_seconds(measured, pair, kind, g, 512 // g) for g in GPUS}
        alone = measured.seconds(pair, kind, 64)
        weak = {g: alone / iteration_seconds(measured, pair, kind, g, 64) for g in GPUS}
        for name, of in (("strong", strong), ("weak", weak)):
            found[name][kind] = {str(gpus): value for gpus, value in of.items()}
    return found


def links(measured: Measured, pair: str, gpus: int = 8) -> dict[str, dict[str, float]]:
    """Return the share of an iteration on 64 rows of each of 8 GPUs that is communication, by the link."""
    found = {}
    for link in ASSUMPTIONS["bandwidth"]:
        found[link] = {
            kind: communication(reduced_bytes(kind, measured.sizes[pair]), gpus, link)
            / iteration_seconds(measured, pair, kind, gpus, 64, link=link)
            for kind in ("none", "retraining", "search")
        }
    return found


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
        ["", *names],
        [
            [f"{part}, {what}", *(f"{found['sizes'][pair][part][key] / unit:,.{digits}f}" for pair in pairs)]
            for part in ("student", "teacher", "transforms")
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
        ["GB on each GPU", *(f"{name}: fixed; peak with 64 rows, with 256" for name in names)],
        [
            [WORDS[kind], *(memory_cell(found["memory"][pair][kind]) for pair in pairs)]
            for kind in ("none", "KD", "retraining", "search")
        ],
    )
    for pair in pairs:
        yield (
            f"hours {pair}",
            [f"hours, {NAMES[pair]}", *(f"{gpus} GPU{'s' * (gpus > 1)}" for gpus in GPUS)],
            [
                [method, *(amount(of[str(gpus)]) for gpus in GPUS)]
                for method, of in found["hours"][pair].items()
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
        ["efficiency", *(f"{name}: {gpus} GPUs" for name in names for gpus in GPUS[1:])],
        [
            [
                f"{how}, {WORDS[kind]}",
                *(
                    f"{found['scaling'][pair][how][kind][str(gpus)]:.2f}"
                    for pair in pairs
                    for gpus in GPUS[1:]
                ),
            ]
            for how in ("strong", "weak")
            for kind in ("none", "retraining", "search")
        ],
    )
    yield (
        "links",
        ["share of communication, 8 GPUs", *names],
        [
            [f"{link}: {WORDS[kind]}", *(percent(found["links"][pair][link][kind]) for pair in pairs)]
            for link in ASSUMPTIONS["bandwidth"]
            for kind in ("none", "search")
        ],
    )
    yield (
        "loading",
        ["cores that keep one GPU busy", *names],
        [
            [method, *(f"{found['loading']['cores'][pair][method]:.0f}" for pair in pairs)]
            for method in found["loading"]["cores"][pairs[0]]
        ],
    )


def megabytes(messages: Sequence[int]) -> list[str]:
    """Format the messages; h, of a hundred bytes, is left out."""
    return [f"{n / 1e6:.1f}" for n in messages if n > 1000]


def memory_cell(of: dict[str, Any]) -> str:
    peaks = ("does not fit" if peak is None else f"{peak / 1e9:.1f}" for peak in of["peak"].values())
    return "; ".join([f"{of['fixed'] / 1e9:.2f}", ", ".join(peaks)])


def percent(share: float) -> str:
    return f"{100 * share:.{0 if share >= 0.1 else 1}f} %"


def amount(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 20 else f"{hours:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", action="store_true", help="write the tables into docs/guide/scale.rst")
    chosen = parser.parse_args()
    record = HERE / "cost_model.json"
    if not chosen.table:
        measured = json.loads((HERE / "gpu_iterations.json").read_text())
        loading = json.loads((HERE / "image_loading.json").read_text())
        record.write_text(json.dumps(results(Measured(measured), loading), indent=1) + "\n")
        return
    sys.path.append(str(HERE.parent / "benchmarks"))
    from _measure import replace_tables, rst_table

    found = json.loads(record.read_text())
    replace_tables(PAGE, {f"cost_model {name}": rst_table(head, rows) for name, head, rows in tables(found)})


if __name__ == "__main__":
    main()
