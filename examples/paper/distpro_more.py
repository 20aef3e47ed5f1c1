"""Summarise the five further experiments on DistPro from their records.

docs/guide/reproduces_distpro_more.rst has the tables of distpro_logits.py, distpro_normalizations.py,
distpro_lengths.py, distpro_connections.py and distpro_networks.py. This script adds the table of their costs
in passes, and the sentences of the page that contain differences.

    python examples/paper/distpro_more.py

It reads the records beside this file and prints both.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _distpro import TUNING_SEED, difference, mean_of, points
from _distpro_arms import Design, accuracies, groups_of, search_key
from _protocol import list_table

FOLDER = Path(__file__).parent
NAMES = ("logits", "normalizations", "lengths", "connections", "networks")
HELD_OUT = 5  # the weights are chosen on one image of so many


class Experiment:
    """The record of one experiment.

    Parameters
    ----------
    name : str
        One of ``NAMES``.
    """

    def __init__(self, name: str):
        self.script = importlib.import_module(f"distpro_{name}")
        self.design: Design = self.script.DESIGN
        self.record: dict[str, Any] = json.loads((FOLDER / f"distpro_{name}.json").read_text())
        self.groups = groups_of(self.design, self.record)

    def tables(self) -> list[str]:
        """Return the tables of the page: the script's, without those of the seconds and of the searches.

        If the weight differs between seeds, the cell shows its range.
        """
        found = self.script.tables(self.record)
        wanted = (table for table in found if "search: s (" not in table and "search, student" not in table)
        return [re.sub(r"(?<=     - )([\d.]+)(?:, [\d.]+)+, ([\d.]+)$", as_range, table, flags=re.M)
                for table in wanted]  # fmt: skip

    def of(self, depth: int, epochs: int) -> dict[str, np.ndarray]:
        """Return arm → the accuracies of its seeds."""
        return {arm: np.array(found) for arm, found in accuracies(self.groups[depth, epochs]).items()}


def as_range(weights: re.Match[str]) -> str:
    """Format the smallest and the largest of some weights, "4.51 … 4.79"."""
    return " … ".join(f"{float(weight):#.3g}".rstrip(".") for weight in weights.groups())


def passes_table(experiments: dict[str, Experiment]) -> str:
    """Return the passes of a batch through the student, and the pathways that processes compute."""
    rows = []
    for name, experiment in experiments.items():
        searches = {search_key(run): run for run in experiment.record["runs"] if "raw" in run}
        for (depth, epochs), by_arm in experiment.groups.items():
            followers = {arm: of for arm, of in by_arm.items() if of[0]["setting"]["process"] is not None}
            before = {
                passes([searches[run["setting"]["process"]] for run in of]) for of in followers.values()
            }
            own = {passes(of) for of in by_arm.values()}
            (search,), (training,) = before, own  # the same for all arms
            ran = [np.mean([run["ran"] for run in of]) for of in followers.values()]
            fewest, most = f"{min(ran):.1f}", f"{max(ran):.1f}"
            rows.append([
                f"{name}, ResNet-{depth}, {epochs} epochs",
                "{:.0f}, {:.0f}".format(*search),
                "{:.0f}, {:.0f}".format(*training),
                f"{(sum(search) + sum(training)) / sum(training):.1f}",
                fewest if fewest == most else f"{fewest} … {most}",
            ])  # fmt: skip
    header = ["forward, backward passes", "search", "training", "both, times none", "pathways per step"]
    return list_table(header, rows)


def passes(runs: list[dict]) -> tuple[float, float]:
    """Return the mean number of forward and of backward passes."""
    forward, backward = (mean_of([run["cost"] for run in runs], of) for of in ("forward", "backward"))
    return forward, backward


def minus(a: np.ndarray, b: np.ndarray) -> str:
    """Format "+0.86 ± 0.23 [+0.32, +1.40]"."""
    return difference(list(a), list(b))


def sentences(experiments: dict[str, Experiment]) -> Iterator[str]:
    """Yield the sentences of the page, with the numbers of the records."""
    yield from sentences_on_noise(experiments)
    yield from sentences_on_logits(experiments["logits"].of(8, 6))
    yield from sentences_on_normalizations(experiments["normalizations"].of(8, 6))
    yield from sentences_on_lengths(experiments["lengths"])
    yield from sentences_on_connections(experiments["connections"].of(8, 6))
    yield from sentences_on_networks(experiments["networks"])


def sentences_on_noise(experiments: dict[str, Experiment]) -> Iterator[str]:
    """Yield how much runs of one setting differ on a GPU, and how exact a choice on held-out images is."""
    none = [
        experiments[name].of(8, 6)["none"] for name in ("logits", "normalizations", "connections", "networks")
    ]
    equal = [experiments[name].of(8, 6)[arm] for name, arm in
             (("logits", "equal"), ("connections", "equal, all"), ("networks", "equal"))]  # fmt: skip
    process = [experiments[name].of(8, 6)[arm] for name, arm in
               (("logits", "DistPro"), ("connections", "DistPro, all"), ("networks", "DistPro"))]  # fmt: skip
    again = [100 * np.var(of, axis=0, ddof=1).mean() ** 0.5 for of in (none, equal, process)]
    seeds = [100 * np.mean(of, axis=0).std(ddof=1) for of in (none, equal, process)]
    yield f"by {min(again):.1f} to {max(again):.1f} points (standard deviation) within a seed"
    yield f"{min(seeds):.1f} to {max(seeds):.1f} points between seeds"
    tried = [
        run["valid_accuracy"]
        for name, arm in (("logits", "equal"), ("normalizations", "equal"),
                          ("connections", "equal, all"), ("networks", "equal"))
        for run in experiments[name].record["runs"]
        if "valid_accuracy" in run and run["setting"]["seed"] == TUNING_SEED
        and (run["setting"]["of"], run["setting"]["weight"], run["setting"]["depth"]) == (arm, 1.0, 8)
    ]  # fmt: skip
    yield "{:.2f}, {:.2f}, {:.2f} and {:.2f} %".format(*(100 * accuracy for accuracy in tried))
    for name, about in (("logits", "800 images have"), ("lengths", "512")):
        rows = experiments[name].record["runs"][0]["setting"]["images"] // HELD_OUT
        assert about.startswith(str(rows))
        error = 100 * (0.42 * 0.58 / rows) ** 0.5  # the chosen arms have about 42 % there
        yield f"{about} a standard error of {error:.1f}"


def sentences_on_logits(of: dict[str, np.ndarray]) -> Iterator[str]:
    """Yield the gains of logits, pathways and learning."""
    yield f"add {minus(of['equal, KD fixed'], of['equal'])} to equal weights"
    yield f"and {minus(of['DistPro, KD fixed'], of['DistPro'])} to the process"
    learned, fixed, plain = (
        {kind: of[f"{kind}{how}"] for kind in ("equal", "DistPro")}
        for how in (", KD learned", ", KD fixed", "")
    )
    both = [(found["equal"] + found["DistPro"]) / 2 for found in (learned, fixed)]
    yield f"learned minus fixed is {minus(*both)}"
    yield f"{minus(learned['equal'], fixed['equal'])} with equal weights"
    yield f"{minus(learned['DistPro'], fixed['DistPro'])} with the process"
    process, equal = (
        sum(found[kind] for found in (learned, fixed, plain)) / 3 for kind in ("DistPro", "equal")
    )
    yield f"process minus equal is {minus(process, equal)}"
    yield f"with lambda1 and T fixed minus KD is {minus(of['DistPro, KD fixed'], of['KD'])}"
    yield f"at the process's sum it is {minus(of['DistPro, KD fixed'], of[FIXED_AT_SUM])}"


FIXED_AT_SUM = "equal, KD fixed, DistPro's sum"


def sentences_on_normalizations(of: dict[str, np.ndarray]) -> Iterator[str]:
    """Yield how the normalisations compare with each other and with equal weights."""
    yield f"sigmoid minus the biased softmax is {minus(of['sigmoid'], of['biased_softmax'])}"
    yield f"{minus(of['sigmoid, same sum'], of['biased_softmax'])} at the same sum"
    equal = of["equal, same sum"]
    yield f"The biased softmax minus equal weights at its sum is {minus(of['biased_softmax'], equal)}"
    yield f"the sigmoid minus these is {minus(of['sigmoid, same sum'], equal)}"


def sentences_on_lengths(experiment: Experiment) -> Iterator[str]:
    """Yield how the gains change with the length of the training."""
    by_length = {epochs: experiment.of(8, epochs) for _, epochs in experiment.groups}
    gains = {
        (arm, other): {epochs: of[arm] - of[other] for epochs, of in by_length.items()}
        for arm, other in (("DistPro", "equal"), ("DistPro", "none"), ("KD", "none"), ("ReviewKD", "none"))
    }
    for (arm, other), gain in gains.items():
        yield f"{arm} minus {other} is {points(gain[4])} after 4 epochs and {points(gain[24])} after 24"
    gain = gains["DistPro", "equal"]
    yield f"the first minus the second is {minus(gain[4], gain[24])}"
    at_sum = [minus(of["DistPro"], of["equal, DistPro's sum"]) for of in by_length.values()]
    yield "at the process's sum it is {}, {}, {} and {}".format(*at_sum)


def sentences_on_connections(of: dict[str, np.ndarray]) -> Iterator[str]:
    """Yield how "lower" pathways compare with all."""
    yield f"Six with equal weights minus nine is {minus(of['equal, lower'], of['equal, all'])}"
    nine = of["equal, all, DistPro's sum"]
    yield f"{minus(of['equal, lower'], nine)} where the nine have the sum of DistPro"
    sums = of["DistPro, lower, sum of all"], of["DistPro, all"]
    yield f"the process of the six minus that of the nine is {minus(*sums)} at one sum"
    yield f"{minus(of['DistPro, lower'], of['DistPro, all'])} at the chosen weights"
    at_sum = minus(of["DistPro, lower"], of["equal, lower, DistPro's sum"])
    yield f"the process of the six minus equal weights at its sum is {at_sum}"


def sentences_on_networks(experiment: Experiment) -> Iterator[str]:
    """Yield how the other student's process compares with a student's own."""
    for depth in (8, 14):
        of = experiment.of(depth, 6)
        other, own = of["DistPro, other student's"], of["DistPro"]
        yield f"ResNet-{depth}: the other's minus its own is {minus(other, own)}"
        yield f"{minus(of[OTHER_AT_SUM], own)} at the sum of its own"
        yield f"own minus equal weights at its sum is {minus(own, of[EQUAL_AT_SUM])}"


OTHER_AT_SUM, EQUAL_AT_SUM = "DistPro, other student's, same sum", "equal, DistPro's sum"


def against_equal(experiments: dict[str, Experiment]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the pairs of a process and of equal weights with its sum, in all experiments."""
    connections = experiments["connections"].of(8, 6)
    pairs = [
        (experiments["logits"].of(8, 6), "DistPro, KD fixed", FIXED_AT_SUM),
        (experiments["normalizations"].of(8, 6), "biased_softmax", "equal, same sum"),
        *((connections, f"DistPro, {of}", f"equal, {of}, DistPro's sum") for of in ("all", "lower")),
    ]
    for experiment in (experiments["lengths"], experiments["networks"]):
        pairs += [(experiment.of(*at), "DistPro", EQUAL_AT_SUM) for at in experiment.groups]
    return [(of[a], of[b]) for of, a, b in pairs]


def main() -> None:
    experiments = {name: Experiment(name) for name in NAMES}
    print(passes_table(experiments))
    print(*sentences(experiments), sep="\n")
    for process, equal in against_equal(experiments):
        print(minus(process, equal))


if __name__ == "__main__":
    main()
