"""Compute what a distillation at the size of ImageNet costs: passes, bytes, memory, hours.

    python examples/scale/cost_model.py            # writes cost_model.json beside this file
    python examples/scale/cost_model.py --table    # the tables into docs/guide/scale.rst

The sizes of the networks are counted (network_sizes.json), and the CPU time to load an image is measured
(image_loading.json). The rest is arithmetic on ``ASSUMPTIONS``, whose rates are published ones.

- A pass takes the longer of its multiply-adds at the GPU's rate, and of its operations at the time that it takes
  to launch one. A backward pass has twice the multiply-adds and twice the operations of the forward pass.
- R GPUs have 1/R of the batch each. After that come the ring all-reduces, 2 (R − 1) / R · bytes / bandwidth
  + 2 (R − 1) · latency each. Nothing overlaps.
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

# Published: ResNet-50 v1.5 is trained at 938 images a second in TF32 on an A100 of 80 GB, and at 2470 in mixed
# precision (NVIDIA, DeepLearningExamples, PyTorch/Classification/ConvNets/resnet50v1.5, on 1 and on 8 GPUs).
# Its forward pass has 4.09 · 10⁹ multiply-adds, and training three times as many.
RESNET_50 = 3 * 4.089e9
ASSUMPTIONS = {
    "GPU": "A100, 80 GB",
    "multiply-adds per second": {"TF32": 938 * RESNET_50, "mixed precision": 2470 * RESNET_50},
    "seconds to launch an operation": 8e-6,
    "images": 1_281_167,  # ImageNet's training images
    "epochs": 100,
    "batch": 512,
    "share of pathways computed": 0.4,  # the paper says that its threshold saves 60 %
    "metaparameters": 27,
    # Bytes per second of one GPU in one direction: half of the nominal rate.
    "bandwidth": {"NVLink": 150e9, "InfiniBand, 200 Gb/s": 12.5e9, "Ethernet, 25 Gb/s": 1.5625e9},
    "latency": {"NVLink": 5e-6, "InfiniBand, 200 Gb/s": 10e-6, "Ethernet, 25 Gb/s": 50e-6},  # seconds a hop
    "GPUs of a machine": 8,
    "states of the optimizer": {"SGD": 1, "AdamW": 2},  # numbers for each weight
    "copies of the weights for a hypergradient": 4,  # HypergradientEstimator
}
GPUS = (1, 8, 64)
SIMULATED = (2, 8, 64)
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
    """Yield part, forward and backward passes, and the share that is computed, for an iteration.

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


def compute_seconds(kind: str, sizes: Sizes, rows: int, precision: str = "TF32", share: float = 1.0) -> float:
    """Return the seconds of the passes of an iteration on so many rows of one GPU."""
    rate, launch = (ASSUMPTIONS[k] for k in ("multiply-adds per second", "seconds to launch an operation"))
    found = 0.0
    for part, forward, backward, of in passes_of(kind, share):
        of_a_pass = max(
            rows * sizes[part]["multiply-adds"] / rate[precision], sizes[part]["operations"] * launch
        )
        found += (forward + 2 * backward) * of * of_a_pass
    return found


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
    """Return the slowest link that a ring of so many GPUs goes through."""
    return "NVLink" if gpus <= ASSUMPTIONS["GPUs of a machine"] else "InfiniBand, 200 Gb/s"


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


def kept_bytes(kind: str, sizes: Sizes) -> int:
    """Return the bytes for each row that wait for the backward pass; of a search, in its largest pass."""
    return sizes["student"]["bytes kept"] + (
        sizes["transforms"]["bytes kept"] if PASSES[kind].pathways[0] else 0
    )


def iteration_seconds(
    kind: str, sizes: Sizes, gpus: int, rows: int, *, link: str | None = None, **how: Any
) -> float:
    """Return the seconds of an iteration on several GPUs with so many rows each."""
    sent = communication(reduced_bytes(kind, sizes), gpus, link or link_of(gpus))
    return compute_seconds(kind, sizes, rows, **how) + sent


# --------------------------------------------------------------------------------------
# The results


def results(networks: dict[str, Sizes], loading: dict[str, Any]) -> dict[str, Any]:
    """Return all numbers of the page."""
    functions = {
        "multiply-adds": relative_costs,
        "bytes": lambda sizes: {kind: reduced_bytes(kind, sizes) for kind in MAIN},
        "memory": memory,
        "hours": hours,
        "e2": overheads,
        "scaling": scaling,
        "links": links,
    }
    return {
        "assumptions": ASSUMPTIONS,
        "passes": {kind: passes._asdict() for kind, passes in PASSES.items()},
        "sizes": networks,
        **{what: {pair: of(sizes) for pair, sizes in networks.items()} for what, of in functions.items()},
        "loading": loaders(networks, loading),
    }


MAIN = ("none", "retraining", "search")
PRUNED = {"share": ASSUMPTIONS["share of pathways computed"]}
METHODS = {
    "the student alone": ("none", {}),
    "KD": ("KD", {}),
    "DistPro, all pathways": ("retraining", {}),
    "DistPro, two fifths of them": ("retraining", PRUNED),
    "a search on ImageNet": ("search", {}),
}


def relative_costs(sizes: Sizes) -> dict[str, float]:
    """Return the multiply-adds of each kind of iteration relative to the student alone."""
    alone = multiply_adds("none", sizes)
    found = {kind: multiply_adds(kind, sizes) / alone for kind in PASSES}
    return found | {"retraining, pruned": multiply_adds("retraining", sizes, **PRUNED) / alone}


def memory(sizes: Sizes) -> dict[str, dict[str, float]]:
    """Return the bytes of one of 8 GPUs by kind of iteration, with SGD: fixed, and for each row."""
    return {
        kind: {
            "fixed": sum(fixed_bytes(kind, sizes, "SGD", 8).values()),
            "for each row": kept_bytes(kind, sizes),
        }
        for kind in ("none", "KD", "retraining", "search")
    }


def hours(sizes: Sizes) -> dict[str, dict[str, float]]:
    """Return the hours of 100 epochs of ImageNet at batches of 512, by method and GPUs."""
    n_iterations = ASSUMPTIONS["epochs"] * ASSUMPTIONS["images"] / ASSUMPTIONS["batch"]
    found: dict[str, dict[str, float]] = {}
    for method, (kind, how) in METHODS.items():
        for precision in ASSUMPTIONS["multiply-adds per second"]:
            if kind == "search" and precision != "TF32":
                continue  # hypergradients are taken in float32
            found[f"{method}; {precision}"] = {
                str(gpus): n_iterations
                / 3600
                * iteration_seconds(
                    kind, sizes, gpus, ASSUMPTIONS["batch"] // gpus, precision=precision, **how
                )
                for gpus in GPUS
            }
    return found


def loaders(networks: dict[str, Sizes], loading: dict[str, Any]) -> dict[str, Any]:
    """Return how many cores keep a GPU busy that trains on 64 rows at a time."""
    cores: dict[str, dict[str, float]] = {}
    for method, (kind, how) in METHODS.items():
        for precision in ASSUMPTIONS["multiply-adds per second"]:
            if kind == "search":  # it reads two batches in an iteration, and is slower than a retraining
                continue
            rates = {
                pair: 64 / compute_seconds(kind, sizes, 64, precision, **how)
                for pair, sizes in networks.items()
            }
            cores[f"{method}; {precision}"] = {
                pair: rate * loading["seconds per image"] for pair, rate in rates.items()
            }
    return {"images per second and core": 1 / loading["seconds per image"], "cores": cores}


def overheads(sizes: Sizes, gpus: int = 8) -> dict[str, dict[str, float]]:
    """Return what a search costs more than a retraining with all pathways, by e2 with e1 = 10."""
    rows = ASSUMPTIONS["batch"] // gpus
    plain, search = (iteration_seconds(kind, sizes, gpus, rows) for kind in ("retraining", "search"))
    sent, sent_more = (sum(reduced_bytes(kind, sizes)) for kind in ("retraining", "search"))
    shares = {str(e2): E1 / (E1 + e2) for e2 in E2}
    return {
        e2: {"time": share * (search / plain - 1), "bytes": share * (sent_more / sent - 1)}
        for e2, share in shares.items()
    }


def scaling(sizes: Sizes) -> dict[str, dict[str, dict[str, float]]]:
    """Return efficiencies: of 512 rows over all GPUs (strong), and of 64 rows on each (weak).

    Strong scaling is against one GPU on all rows, weak scaling against one GPU on its 64.
    """
    found: dict[str, dict[str, dict[str, float]]] = {"strong": {}, "weak": {}}
    batch = ASSUMPTIONS["batch"]
    for kind in MAIN:
        whole, alone = (compute_seconds(kind, sizes, rows) for rows in (batch, 64))
        strong = {g: whole / g / iteration_seconds(kind, sizes, g, batch // g) for g in SIMULATED}
        weak = {g: alone / iteration_seconds(kind, sizes, g, 64) for g in SIMULATED}
        for name, of in (("strong", strong), ("weak", weak)):
            found[name][kind] = {str(gpus): value for gpus, value in of.items()}
    return found


def links(sizes: Sizes, gpus: int = 8) -> dict[str, dict[str, float]]:
    """Return the share of an iteration on 64 rows of each of 8 GPUs that is communication, by the link."""
    return {
        link: {
            kind: communication(reduced_bytes(kind, sizes), gpus, link)
            / iteration_seconds(kind, sizes, gpus, 64, link=link)
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
        ["GB on each GPU", *names],
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
    """Format the fixed part, and the sum with 64 and with 512 rows."""
    sums = (of["fixed"] + rows * of["for each row"] for rows in (64, 512))
    return f"{of['fixed'] / 1e9:.2f}; " + ", ".join(f"{n / 1e9:.0f}" for n in sums)


def percent(share: float) -> str:
    return f"{100 * share:.{0 if share >= 0.1 else 1}f} %"


def amount(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 20 else f"{hours:.1f}"


def computed() -> dict[str, Any]:
    """Return :func:`results` of the records beside this file."""
    networks, loading = (
        json.loads((HERE / f"{name}.json").read_text()) for name in ("network_sizes", "image_loading")
    )
    return results(networks["networks"], loading)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", action="store_true", help="write the tables into docs/guide/scale.rst")
    chosen = parser.parse_args()
    record = HERE / "cost_model.json"
    if not chosen.table:
        record.write_text(json.dumps(computed(), indent=1) + "\n")
        return
    sys.path.append(str(HERE.parent / "benchmarks"))
    from _measure import replace_tables, rst_table

    found = json.loads(record.read_text())
    replace_tables(PAGE, {f"cost_model {name}": rst_table(head, rows) for name, head, rows in tables(found)})


if __name__ == "__main__":
    main()
