"""Run comparisons of DistPro that are described by data: searches, the arms that follow them, and the tables.

A script passes a :class:`Design` to :func:`main`. The images and the teacher are those of distpro_cifar10.py:
CIFAR-10 averaged down to 16×16, and the ResNet-20 trained for five more epochs on small images. The arms of a
seed have the same initial weights, batches and augmentation. Each arm's weight is the best of its candidates
on one fifth of the training images, with one run each; all arms of a design that have pathways have the same
candidates. Nothing is chosen by the test images. Accuracy is that of the last epoch, and the cost of a search
is counted. A search is as long as the training. Its learning rate of the importance factors is 0.1, so that
the short searches move the factors about as far as those of distpro_cifar10.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _distpro import (
    LAMBDA1S,
    LAYERS,
    N_ROWS,
    SEARCH_CELLS,
    TAU,
    TEMPERATURE,
    TRAINING,
    TUNING_SEED,
    Cost,
    Plan,
    Task,
    common,
    cost_rows,
    difference,
    digest,
    key,
    pathways_of,
    points,
    process_of,
    search_cells,
    searched,
    strength,
    student_of,
    trained,
    tuning_table,
)
from _protocol import Runs, arguments, list_table
from distpro_cifar10 import PLAN, STUDENT_DEPTH, small_images, teacher_of

from sklearn_kd import CIFARResNet, DistillationProcess, Pathway

WEIGHTS = (1.0, 5.0, 25.0)
# As in the paper's published code. At 0.05, of its text, factors hardly move in searches as short as these.
IMPORTANCE_LR = 0.1
CHANNELS = (16, 32, 64)  # of the stages of a CIFAR ResNet


class Arm(NamedTuple):
    """One way to train the student.

    Parameters
    ----------
    kind : {"none", "KD", "ReviewKD", "pathways"}
    candidates : tuple of float
        Weights to choose from; for KD they are lambda1, the weight of the labels.
    search : str or None, default=None
        Name of the search whose process the pathways follow. None: pathways of equal weight.
    params : dict, default={}
        Further parameters of ``DistProClassifier`` for the training.
    equal : bool, default=False
        Replace the process's weights of the pathways by equal ones, and keep its lambda1 and T. Without a
        search lambda1 is 0.5 and T is 4 throughout.
    elsewhere : bool, default=False
        Follow a process that was searched with the other student of the design.
    """

    kind: str
    candidates: tuple[float, ...] = (0.0,)
    search: str | None = None
    params: Mapping[str, Any] = {}
    equal: bool = False
    elsewhere: bool = False


class Design(NamedTuple):
    """The comparisons of a script.

    Parameters
    ----------
    arms : dict of str to Arm
    searches : dict of str to dict
        Parameters of ``DistProClassifier`` for each search.
    against : tuple of str
        Arms with which the others are compared, in columns.
    matched : dict of str to (str, str), default={}
        Name → (arm, other): the arm at the chosen weight of the other, times the ratio of the sums of their
        processes, so that the pathways of both have the same strength on average.
    depths : tuple of int, default=(8,)
        Depths of the students: one, or two that exchange their processes.
    lengths : tuple of float, default=(1.0,)
        Lengths of the training, in units of ``--epochs``. The weights are chosen at length 1.
    threshold : float or None, default=TAU
        A pathway is not computed in training where its raw factor is at most this. None: all are computed.
    plan : Plan, default=PLAN
    """

    arms: dict[str, Arm]
    searches: dict[str, dict[str, Any]]
    against: tuple[str, ...]
    matched: dict[str, tuple[str, str]] = {}
    depths: tuple[int, ...] = (STUDENT_DEPTH,)
    lengths: tuple[float, ...] = (1.0,)
    threshold: float | None = TAU
    plan: Plan = PLAN


NONE = Arm("none")
KD = Arm("KD", LAMBDA1S)
EQUAL = Arm("pathways", WEIGHTS)


# --------------------------------------------------------------------------------------
# One run


@cache
def task_of(data: str | None, images: int, teacher: Path) -> Task:
    """Return the first ``images`` training images, all test images, and the teacher."""
    X, y, X_test, y_test = small_images(data)
    return Task(X[:images], y[:images], X_test, y_test, CIFARResNet.from_file(teacher), STUDENT_DEPTH)


def one_run(
    *,
    design: Design,
    processes: dict[str, dict],
    data: str | None,
    teacher: Path,
    what: str,
    of: str,
    depth: int,
    weight: float,
    seed: int,
    images: int,
    search_epochs: int,
    epochs: int = 0,
    process: str | None = None,
) -> dict:
    """Make one run by its setting."""
    task = task_of(data, images, teacher)._replace(depth=depth)
    if what == "search":
        how = {"importance_lr": IMPORTANCE_LR} | design.searches[of]
        return searched(task, design.plan, weight, seed, search_epochs, **how)
    cost, arm = Cost(), arm_of(design, of)
    params = common(design.plan, seed, epochs, cost)
    if arm.kind != "pathways":
        student = student_of(task, design.plan, arm.kind, weight, params, None)
    else:
        found = None if process is None else processes[process]
        params |= followed(design, arm, found) | arm.params
        student = pathways_of(task, design.plan, distill_weight=weight, **params)
    return trained(task, student, seed, cost)


def arm_of(design: Design, name: str) -> Arm:
    """Return an arm by its name or by that of a matched arm."""
    return design.arms[design.matched[name][0] if name in design.matched else name]


def followed(design: Design, arm: Arm, found: dict | None) -> dict[str, Any]:
    """Return the parameters that make pathways follow the process of an arm."""
    if found is None and not arm.equal:
        return {"weights": "equal"}
    if not arm.equal:
        return {"process": process_of(found), "pathway_threshold": design.threshold}
    term = [[0.5, TEMPERATURE]] if found is None else found["logit_term"]
    pathways = every_pathway(design.plan) if found is None else process_of(found).pathways
    flat = np.zeros((len(term), len(pathways)))
    return {"process": DistillationProcess(flat, pathways, normalization="softmax", logit_term=term)}


def every_pathway(plan: Plan) -> list[Pathway]:
    """Return the pathways between all stages of two CIFAR ResNets."""
    return [
        Pathway(LAYERS[i], LAYERS[j], transform, i, j, CHANNELS[j], CHANNELS[i])
        for i in range(len(LAYERS))
        for j in range(len(LAYERS))
        for transform in plan.transforms
    ]


# --------------------------------------------------------------------------------------
# All runs


class Comparison:
    """Make the searches and the trainings of a design, each once.

    Parameters
    ----------
    runs : Runs
    design : Design
    options : argparse.Namespace
        ``jobs``, ``runs``, ``images``, ``epochs``, ``search_epochs``.
    **given
        Paths of the data and of the teacher, for :func:`one_run`.
    """

    def __init__(self, runs: Runs, design: Design, options: Any, **given: Any):
        self.runs, self.design, self.options, self.given = runs, design, options, given
        self.processes: dict[str, dict] = {}

    def carry_out(self) -> dict:
        """Make all runs; return them and the weight chosen for each arm, by depth."""
        design, made, chosen = self.design, [], {}
        for depth in design.depths:
            chosen[str(depth)], tried = self.tune(depth)
            made += tried
        seeds = range(self.options.runs)
        for depth in design.depths:
            weights = chosen[str(depth)]
            ordinary = [(arm, seed) for seed in seeds for arm in design.arms]
            made += self.train(
                depth, [self.wanted(depth, arm, weights[arm], seed) for arm, seed in ordinary], design.lengths
            )
            matched = [(name, seed) for seed in seeds for name in design.matched]
            made += self.train(
                depth, [self.matched(depth, name, weights, seed) for name, seed in matched], design.lengths
            )
        return {"chosen": chosen, "runs": [*made, *self.processes.values()]}

    def tune(self, depth: int) -> tuple[dict[str, float], list[dict]]:
        """Choose each arm's best weight on the fifth of D; return the choices and the runs."""
        arms = self.design.arms
        choices = [(arm, w) for arm, of in arms.items() for w in of.candidates if len(of.candidates) > 1]
        wanted = [self.wanted(depth, arm, weight, TUNING_SEED) for arm, weight in choices]
        made = self.train(depth, wanted, (1.0,))
        best = {name: arm.candidates[0] for name, arm in arms.items()}
        accuracy: dict[str, float] = {}
        for (arm, weight), run in zip(choices, made, strict=True):
            if run["valid_accuracy"] > accuracy.get(arm, -1.0):
                best[arm], accuracy[arm] = weight, run["valid_accuracy"]
        return best, made

    def wanted(self, depth: int, name: str, weight: float, seed: int) -> Wanted:
        """Return an arm's training along a process that was searched at the same weight."""
        return Wanted(name, weight, seed, self.search_of(depth, name, weight, seed))

    def search_of(self, depth: int, name: str, weight: float, seed: int) -> Search | None:
        """Return the search whose process an arm follows."""
        arm = arm_of(self.design, name)
        if arm.search is None:
            return None
        if arm.elsewhere:
            (depth,) = set(self.design.depths) - {depth}
        return Search(arm.search, depth, weight, seed)

    def matched(self, depth: int, name: str, weights: Mapping[str, float], seed: int) -> Wanted:
        """Return an arm's training at the sum of the weights of another one in the same seed."""
        arm, other = self.design.matched[name]
        search = self.search_of(depth, arm, weights[arm], seed)
        sum_of_other = self.sum_of(self.search_of(depth, other, weights[other], seed))
        weight = round(weights[other] * sum_of_other / self.sum_of(search), 6)
        return Wanted(name, weight, seed, search)

    def sum_of(self, search: Search | None) -> float:
        """Return the mean sum of the weights of a process, 1 for pathways of equal weight."""
        if search is None:
            return 1.0
        return strength(self.processes[search.key], "process", threshold=self.design.threshold)

    def train(self, depth: int, wanted: list[Wanted], lengths: tuple[float, ...]) -> list[dict]:
        """Make the searches that the trainings need, then the trainings."""
        searches = {of.search.key: of.search for of in wanted if of.search is not None}
        missing = {k: of for k, of in searches.items() if k not in self.processes}
        shared = {name: getattr(self.options, name) for name in ("images", "search_epochs")}
        found = self.made([{"what": "search"} | of._asdict() | shared for of in missing.values()])
        self.processes |= dict(zip(missing, found, strict=True))
        return self.made([
            {"what": "training", "of": of.arm, "depth": depth, "weight": of.weight, "seed": of.seed}
            | {"epochs": n_epochs, "process": of.search and of.search.key}
            | shared
            for n_epochs in sorted({max(1, round(length * self.options.epochs)) for length in lengths})
            for of in wanted
        ])  # fmt: skip

    def made(self, settings: list[dict]) -> list[dict]:
        given = self.given | {"design": self.design, "processes": self.processes}
        return self.runs.of(one_run, settings, self.options.jobs, **given)


class Search(NamedTuple):
    """A search: its name in the design, and its setting."""

    of: str
    depth: int
    weight: float
    seed: int

    @property
    def key(self) -> str:
        """Key of the search's process."""
        return key(f"{self.of}, ResNet-{self.depth}", self.weight, self.seed)


class Wanted(NamedTuple):
    """A training, and the search whose process it follows."""

    arm: str
    weight: float
    seed: int
    search: Search | None


# --------------------------------------------------------------------------------------
# Results


def tables(design: Design, record: dict) -> Iterator[str]:
    """Yield the tables of a record: for each student and length, then costs, searches and tuning."""
    groups = groups_of(design, record)
    if len(design.lengths) > 1:
        yield lengths_table(groups)
    for by_arm in groups.values():
        yield accuracy_table(by_arm, design)
    searches = {search_key(run): run for run in record["runs"] if run["setting"]["what"] == "search"}
    costs = {of: run["cost"] for of, run in searches.items()}
    for by_arm in groups.values():
        yield list_table(*cost_rows(costs, by_arm))
    yield search_table(searches, groups, design)
    for depth, chosen in record["chosen"].items():
        tuned = [run for run in record["runs"] if "valid_accuracy" in run]
        tuned = [run for run in tuned if run["setting"]["depth"] == int(depth)]
        yield tuning_table(tuned, chosen, [name for name, arm in design.arms.items() if arm.candidates[1:]])


def search_key(run: dict) -> str:
    """Return the key of the process of a search's run."""
    return Search(*(run["setting"][name] for name in Search._fields)).key


def groups_of(design: Design, record: dict) -> dict[tuple[int, int], dict[str, list[dict]]]:
    """Return (depth, epochs) → arm → its final runs, in the order of the seeds."""
    groups: dict[tuple[int, int], dict[str, list[dict]]] = {}
    for run in sorted(record["runs"], key=lambda run: run["setting"]["seed"]):
        setting = run["setting"]
        if setting["what"] == "search" or setting["seed"] == TUNING_SEED:
            continue
        name, depth = setting["of"], setting["depth"]
        if name in design.matched or setting["weight"] == record["chosen"][str(depth)][name]:
            groups.setdefault((depth, setting["epochs"]), {}).setdefault(name, []).append(run)
    order = (*design.arms, *design.matched)
    return {at: {name: groups[at][name] for name in order} for at in sorted(groups)}


def accuracies(by_arm: Mapping[str, list[dict]]) -> dict[str, list[float]]:
    """Return arm → the accuracies of its seeds."""
    return {name: [run["accuracy"] for run in of] for name, of in by_arm.items()}


def accuracy_table(by_arm: Mapping[str, list[dict]], design: Design) -> str:
    """Return the accuracies of one student at one length, and paired differences."""
    accuracy = accuracies(by_arm)
    rows = [
        [
            name,
            ", ".join(sorted({f"{run['setting']['weight']:g}" for run in by_arm[name]})),
            points(values),
            *("" if name == other else difference(values, accuracy[other]) for other in design.against),
        ]
        for name, values in accuracy.items()
    ]
    first = next(iter(by_arm.values()))[0]["setting"]
    head = f"ResNet-{first['depth']}, {first['epochs']} epochs"
    return list_table([head, "weight", "accuracy, %", *(f"minus {other}" for other in design.against)], rows)


def lengths_table(groups: Mapping[tuple[int, int], Mapping[str, list[dict]]]) -> str:
    """Return the accuracies by the length of the training."""
    by_length = {epochs: accuracies(by_arm) for (_, epochs), by_arm in groups.items()}
    names = next(iter(by_length.values()))
    rows = [[name, *(points(accuracy[name]) for accuracy in by_length.values())] for name in names]
    return list_table(["accuracy, %", *(f"{epochs} epochs" for epochs in by_length)], rows)


def search_table(searches: Mapping[str, dict], groups: Mapping[Any, Mapping[str, list[dict]]], design) -> str:
    """Return the ends of the processes that the final runs follow."""
    followed = {
        run["setting"]["process"] for by_arm in groups.values() for of in by_arm.values() for run in of
    }
    rows = [
        [of, *search_cells(run, design.threshold)] for of, run in sorted(searches.items()) if of in followed
    ]
    return list_table(["search, student, weight, seed", *SEARCH_CELLS], rows)


# --------------------------------------------------------------------------------------
# The script


def main(doc: str, file: str, design: Design, *, images: int, epochs: int) -> dict:
    """Run a script: parse its options, make the runs, print the tables; return the results."""
    options = arguments(
        doc,
        file,
        runs=3,
        length=("epochs", epochs),
        quick=(2, 1),
        teacher={"type": Path, "required": True, "metavar": "FILE", "help": "weights of a ResNet-20"},
        data={"metavar": "FOLDER", "help": "folder of CIFAR-10; default: scikit-learn's"},
        images={"type": int, "help": f"number of training images; default {images}"},
    )
    options.images = options.images or (256 if options.quick else images)
    options.search_epochs = options.epochs
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.json.parent if options.json else Path(temporary)
        teacher, accuracy = teacher_of(options, folder)
        settings = {"design": design_as_json(design), "training": TRAINING, "temperature": TEMPERATURE}
        settings |= {
            "importance_lr": IMPORTANCE_LR,
            "rows": N_ROWS,
            "teacher": digest(teacher),
            "teacher_accuracy": accuracy,
        }
        runs = Runs.of_script(options, settings)
        found = Comparison(runs, design, options, data=options.data, teacher=teacher).carry_out()
        runs.write(chosen=found["chosen"])
    print(f"the teacher of small images: {accuracy:.4f}\n")
    for table in tables(design, found):
        print(table)
    return found | {"file": options.json}


def design_as_json(design: Design) -> dict[str, Any]:
    """Return the settings of a design on which the numbers of all its runs depend."""
    arms = {name: arm._asdict() for name, arm in design.arms.items()}
    return design._asdict() | {"arms": arms, "plan": design.plan._asdict()}
