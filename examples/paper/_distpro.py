"""Shared parts of the experiments on DistPro: arms, one search, one training, and the tables.

Searches are separate runs, so that all arms that need the same process share one search. A record keeps
``N_ROWS`` evenly spaced rows of a process, which is interpolated between them.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from _networks import PASSES, Counted
from _protocol import Runs, list_table, number, paired
from _reviewkd import ReviewedStudent, WarmUp
from skorch.callbacks import Callback, LRScheduler
from torch.optim.lr_scheduler import CosineAnnealingLR

from sklearn_kd import CIFARResNet, DistillationProcess, DistilledClassifier, DistProClassifier, Pathway

# The library's own function, to bring arms to the same sum of weights.
from sklearn_kd.distpro._process import retraining_weights

TRAINING = {
    "optimizer": "SGD",
    "lr": 0.1,
    "optimizer__momentum": 0.9,
    "optimizer__weight_decay": 5e-4,
    "batch_size": 128,
}
LAYERS = ("layer1", "layer2", "layer3")
TEMPERATURE, TAU, N_ROWS = 4.0, 0.5, 64
TUNING_SEED = 10_000
# Candidates for each arm's weight; for KD the weight is lambda1, the weight of the labels.
WEIGHTS: tuple[float, ...] = (0.2, 1.0, 5.0, 25.0)
LAMBDA1S: tuple[float, ...] = (0.9, 0.5, 0.1)

SEARCHES: dict[str, dict[str, Any]] = {
    "gradient": {},
    "linear": {"meta": "linear"},
    "learned": {"logit_weight": "learned", "temperature": TEMPERATURE},
    # The same loss, with lambda1 and T fixed at the start of the learned ones: 0.5 and 4.
    "held": {"logit_weight": "learned", "temperature": TEMPERATURE, "meta__lr": 0.0},
    "elsewhere": {},  # on other data
}
# Arm → the search whose process it follows, and its ``weights``.
FOLLOWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "mean": ("gradient", {"weights": "mean"}),
    "final": ("gradient", {"weights": "final"}),
    "reversed": ("gradient", {"weights": "reversed"}),
    "DistPro": ("gradient", {}),
    "DistPro, linear": ("linear", {}),
    "DistPro, lambda1 and T": ("learned", {"logit_weight": "learned"}),
    "DistPro, lambda1 and T fixed": ("held", {"logit_weight": "learned"}),
}
# Arms of constant weights with another sum than the process, repeated with the sum of the process.
MATCHED = {"equal, DistPro's sum": "equal", "final, DistPro's sum": "final"}
TUNED = ("KD", "equal", "ReviewKD", *FOLLOWERS)
ARMS = ("none", *TUNED, *MATCHED)
TRANSFERRED = "DistPro, searched elsewhere"


class Task(NamedTuple):
    """Images of shape (n, 3, h, w) in [0, 1], labels, teacher and student."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    teacher: CIFARResNet
    depth: int


class Plan(NamedTuple):
    """Settings that differ between the experiments and are the same for all runs of one."""

    transforms: tuple[str, ...]
    pad: int
    warm_up: int
    device: str = "auto"


# --------------------------------------------------------------------------------------
# One run


class CountedStudent(Counted, CIFARResNet):
    """Count the training batches that go through the student."""

    def counts(self):
        return self.training or torch.is_grad_enabled()


class Cost(Callback):
    """Count the passes of one training, and its seconds of CPU or GPU time, including the teacher's."""

    def on_train_begin(self, net, **kwargs):
        PASSES.clear()
        self.began_ = self.clock(net)

    def on_train_end(self, net, **kwargs):
        self.cost_ = dict(PASSES) | {"seconds": round(self.clock(net) - self.began_, 2)}

    @staticmethod
    def clock(net):
        if torch.device(net.device).type != "cuda":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


class NoRetraining(Callback):
    """End a fit after its search."""

    def on_epoch_begin(self, net, **kwargs):
        raise KeyboardInterrupt  # how skorch's callbacks end a fit early


def crop_and_flip(x: torch.Tensor, pad: int, mode: str = "reflect") -> torch.Tensor:
    """Move each image by up to ``pad`` pixels, padded by a mode of ``F.pad``; mirror half of them."""
    n, c, h, w = x.shape
    padded, where = F.pad(x, [pad] * 4, mode=mode), {"device": x.device}
    rows, columns = (
        (torch.randint(0, 2 * pad + 1, (n, 1), **where) + torch.arange(size, **where)) for size in (h, w)
    )
    image, channel = torch.arange(n, **where).view(n, 1, 1, 1), torch.arange(c, **where).view(1, c, 1, 1)
    moved = padded[image, channel, rows.view(n, 1, h, 1), columns.view(n, 1, 1, w)]
    mirrored = torch.rand(n, 1, 1, 1, **where) < 0.5
    return torch.where(mirrored, moved.flip(3), moved)


def cosine(epochs):
    return ("rate", LRScheduler(CosineAnnealingLR, T_max=epochs))


def train_teacher(file: Path, plan: Plan, student, X, y, epochs: int, **params) -> None:
    """Train a network on the labels and write its weights to a file."""
    teacher = DistilledClassifier(
        None,
        student,
        meta="none",
        augment=partial(crop_and_flip, pad=plan.pad),
        max_epochs=epochs,
        callbacks=[cosine(epochs)],
        random_state=0,
        **TRAINING | params,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(teacher.fit(X, y).student_.cpu().state_dict(), file)


def common(plan, seed, epochs, cost):
    """Return the parameters that all trainings share, so that trainings of one seed are paired."""
    return TRAINING | {
        "augment": partial(crop_and_flip, pad=plan.pad),
        "max_epochs": epochs,
        "callbacks": [cosine(epochs), ("cost", cost)],
        "random_state": seed,
        "device": plan.device,
    }


def pathways_of(task, plan, **params):
    return DistProClassifier(
        task.teacher,
        CountedStudent,
        student__depth=task.depth,
        teacher_layers=list(LAYERS),
        student_layers=list(LAYERS),
        transforms=list(plan.transforms),
        **params,
    )


def rows_of(task, seed):
    """Return training rows and evaluation rows: the test rows, or for tuning a fifth of D."""
    if seed != TUNING_SEED:
        return (task.X, task.y), (task.X_test, task.y_test)
    rows = np.random.default_rng(seed).permutation(len(task.X))
    held_out = len(rows) // 5
    return tuple((task.X[part], task.y[part]) for part in (rows[held_out:], rows[:held_out]))


def one_search(task: Task, plan: Plan, search: str, weight: float, seed: int, search_epochs: int) -> dict:
    """Return some rows of the process, and the cost of its search."""
    return searched(task, plan, weight, seed, search_epochs, **SEARCHES[search])


def searched(
    task: Task, plan: Plan, weight: float, seed: int, search_epochs: int, **how: Any
) -> dict[str, Any]:
    """Search with these parameters; return some rows of the process, and the cost of its search."""
    cost = Cost()
    params = common(plan, seed, 1, Cost()) | {"callbacks": [NoRetraining()]}
    student = pathways_of(
        task,
        plan,
        distill_weight=weight,
        search_epochs=search_epochs,
        search_callbacks=[cosine(search_epochs), cost],
        **params,
        **how,
    )
    return process_record(student.fit(*rows_of(task, seed)[0]), cost)


def process_record(student: Any, cost: Cost) -> dict:
    """Return some rows of a fitted student's process, and the cost of its search."""
    process = student.process_
    n = min(N_ROWS, len(process))
    term = process.logit_term_at(np.arange(n), n)
    return {
        "raw": process.raw_at(np.arange(n), n).round(4).tolist(),
        "logit_term": None if term is None else term.round(4).tolist(),
        "pathways": [list(pathway) for pathway in process.pathways],
        "normalization": process.normalization,
        "skipped": sum(student.search_history_[:, "skipped_hypergradients"]),
        "cost": cost.cost_,
    }


def process_of(found: dict) -> DistillationProcess:
    """Rebuild the process of a run of :func:`one_search`."""
    pathways = [Pathway(*pathway) for pathway in found["pathways"]]
    normalization = found.get("normalization", "biased_softmax")  # older records have no other
    return DistillationProcess(
        found["raw"], pathways, normalization=normalization, logit_term=found["logit_term"]
    )


def one_training(
    task: Task, plan: Plan, arm: str, weight: float, seed: int, epochs: int, found: dict | None
) -> dict:
    """Return the accuracy, the cost, and the number of computed pathways."""
    cost = Cost()
    student = student_of(task, plan, arm, weight, common(plan, seed, epochs, cost), found)
    return trained(task, student, seed, cost)


def trained(task: Task, student: Any, seed: int, cost: Cost) -> dict[str, Any]:
    """Fit a student that has the callback ``cost``; return what :func:`one_training` does."""
    rows, judged = rows_of(task, seed)
    accuracy = student.fit(*rows).score(*judged)
    result = {"valid_accuracy" if seed == TUNING_SEED else "accuracy": accuracy, "cost": cost.cost_}
    result["diverged"] = student.net_.diverged_
    if isinstance(student, DistProClassifier):
        result["ran"] = [round(ran, 2) for ran in student.history_[:, "pathways"]]
    return result


def student_of(task, plan, arm, weight, params, found):
    arm = MATCHED.get(arm, arm)
    if arm in ("none", "KD"):
        meta = {"meta": "none"} if arm == "none" else {"meta": "fixed", "lambda1": weight}
        params |= meta | {"temperature": TEMPERATURE, "student__depth": task.depth}
        return DistilledClassifier(task.teacher, CountedStudent, **params)
    if arm == "ReviewKD":
        return reviewed(task, plan, weight, params)
    if arm == "equal":
        return pathways_of(task, plan, weights="equal", distill_weight=weight, **params)
    how = {} if arm == TRANSFERRED else FOLLOWERS[arm][1]
    return pathways_of(
        task, plan, process=process_of(found), distill_weight=weight, pathway_threshold=TAU, **params, **how
    )


def reviewed(task, plan, weight, params):
    params["callbacks"].append(WarmUp(plan.warm_up))
    return DistilledClassifier(
        None,
        ReviewedStudent,
        meta="none",
        student__make=partial(CountedStudent, task.depth),
        student__teacher=task.teacher,
        student__layers=LAYERS,
        student__channels=((16, 32, 64), (16, 32, 64)),
        student__weight=weight,
        **params,
    )


def strength(found: dict, weights: str, n_steps: int = 1000, threshold: float | None = TAU) -> float:
    """Return the mean sum of the absolute weights of the computed pathways over a retraining."""
    process = process_of(found)
    alpha = retraining_weights(process, n_steps, weights, threshold, len(process.pathways))
    return float(np.abs(alpha).sum(axis=1).mean())


def common_settings(plan: Plan) -> dict:
    """Return the settings on which the numbers of all runs depend."""
    settings = {"weights": WEIGHTS, "lambda1s": LAMBDA1S, "temperature": TEMPERATURE}
    return settings | {"plan": plan._asdict(), "training": TRAINING, "tau": TAU, "rows": N_ROWS}


def digest(file: Path) -> str:
    """Return the SHA-256 of a file on which numbers depend."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def digest_of(found: dict) -> str:
    """Return the SHA-256 of the parts taken from a record."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


# --------------------------------------------------------------------------------------
# All runs


class Wanted(NamedTuple):
    """A training, and the search (its name, weight and seed) whose process it follows."""

    arm: str
    weight: float
    seed: int
    search: tuple[str, float, int] | None = None


class Experiment:
    """Make the searches and trainings of an experiment, each once.

    Parameters
    ----------
    runs : Runs
    one_run : callable
        The script's function. It receives the settings made here, and ``processes``.
    options : argparse.Namespace
        ``jobs``, ``runs``, ``images``, ``epochs``, ``search_epochs``.
    transfers : bool, default=False
        Also search a process on other data.
    **given
        Parameters of ``one_run``: the paths of the data.
    """

    def __init__(
        self, runs: Runs, one_run: Callable[..., dict], options: Any, *, transfers: bool = False, **given: Any
    ):
        self.runs, self.one_run, self.options, self.given = runs, one_run, options, given
        self.search_of = {arm: search for arm, (search, _) in FOLLOWERS.items()}
        self.search_of |= {TRANSFERRED: "elsewhere"} if transfers else {}
        self.processes: dict[str, dict] = {}

    def carry_out(self) -> dict:
        """Make all runs, and return the weight chosen for each arm."""
        seeds, (weights, made) = range(self.options.runs), self.tune()
        made += self.train([self.wanted(arm, weights[arm], seed) for seed in seeds for arm in weights])
        made += self.train([self.matched(arm, weights["DistPro"], seed) for seed in seeds for arm in MATCHED])
        return {"chosen": weights, "runs": [*made, *self.processes.values()]}

    def tune(self) -> tuple[dict[str, float], list[dict]]:
        """Choose each arm's best weight on the fifth of D; return the choices and the runs."""
        candidates = {arm: LAMBDA1S if arm == "KD" else WEIGHTS for arm in TUNED}
        choices = [(arm, w) for arm, of in candidates.items() for w in of if len(of) > 1]
        made = self.train([self.wanted(arm, weight, TUNING_SEED) for arm, weight in choices])
        best = {"none": 0.0} | {arm: of[0] for arm, of in candidates.items()}
        accuracy: dict[str, float] = {}
        for (arm, weight), run in zip(choices, made, strict=True):
            if run["valid_accuracy"] > accuracy.get(arm, -1.0):
                best[arm], accuracy[arm] = weight, run["valid_accuracy"]
        if TRANSFERRED in self.search_of:
            best[TRANSFERRED] = best["DistPro"]
        return best, made

    def wanted(self, arm: str, weight: float, seed: int) -> Wanted:
        """Return an arm's training with a process that was searched at the same weight."""
        search = self.search_of.get(arm)
        return Wanted(arm, weight, seed, None if search is None else (search, weight, seed))

    def matched(self, arm: str, weight: float, seed: int) -> Wanted:
        """Return a constant arm at the sum of DistPro's weights in the same seed."""
        search = ("gradient", weight, seed)
        found, constant = self.processes[key(*search)], MATCHED[arm] == "equal"
        own = 1.0 if constant else strength(found, MATCHED[arm])
        ratio = strength(found, "process") / own if own else 0.0
        return Wanted(arm, round(weight * ratio, 6), seed, None if constant else search)

    def train(self, wanted: list[Wanted]) -> list[dict]:
        """Make the searches that the trainings need, then the trainings."""
        searches = {key(*of.search): of.search for of in wanted if of.search is not None}
        missing = {k: of for k, of in searches.items() if k not in self.processes}
        found = self.made([self.setting("search", *of) for of in missing.values()])
        self.processes |= dict(zip(missing, found, strict=True))
        return self.made([
            self.setting("training", *of[:3])
            | {"epochs": self.options.epochs, "process": None if of.search is None else key(*of.search)}
            for of in wanted
        ])  # fmt: skip

    def setting(self, what, of, weight, seed):
        options = {name: getattr(self.options, name) for name in ("images", "search_epochs")}
        return {"what": what, "of": of, "weight": weight, "seed": seed} | options

    def made(self, settings):
        given = self.given | {"processes": self.processes}
        return self.runs.of(self.one_run, settings, self.options.jobs, **given)


def key(search: str, weight: float, seed: int) -> str:
    """Return the key of a process."""
    return f"{search}, {weight:g}, {seed}"


def run_of(
    tasks: Callable[[str], Task],
    plan: Plan,
    processes: dict,
    *,
    what: str,
    of: str,
    weight: float,
    seed: int,
    search_epochs: int,
    epochs: int = 0,
    process: str | None = None,
) -> dict:
    """Make one run by its setting; ``tasks`` returns the task of "here" or of "elsewhere"."""
    if what == "search":
        task = tasks("elsewhere" if of == "elsewhere" else "here")
        return one_search(task, plan, of, weight, seed, search_epochs)
    found = None if process is None else processes[process]
    return one_training(tasks("here"), plan, of, weight, seed, epochs, found)


# --------------------------------------------------------------------------------------
# Results


def tables(record: dict) -> Iterator[str]:
    """Yield tables: accuracies and paired differences; cost; results of the searches; choice of weights."""
    runs, chosen = record["runs"], record["chosen"]
    by_arm = by_arm_of(runs, chosen)
    yield accuracy_table(by_arm)
    yield cost_table(runs, by_arm)
    yield search_table(runs)
    tuned = [run for run in runs if "valid_accuracy" in run]
    if tuned:
        yield tuning_table(tuned, chosen)


def by_arm_of(runs, chosen):
    """Return arm → its final runs, in the order of the seeds."""
    found: dict[str, list] = {arm: [] for arm in (*ARMS, TRANSFERRED)}
    for run in runs:
        setting = run["setting"]
        if setting["what"] == "search" or setting["seed"] == TUNING_SEED:
            continue
        if setting["of"] in MATCHED or setting["weight"] == chosen[setting["of"]]:
            found[setting["of"]].append(run)
    return {arm: sorted(of, key=lambda run: run["setting"]["seed"]) for arm, of in found.items() if of}


def points(values) -> str:
    """Format mean ± standard error, in percent: "63.01 ± 0.12"."""
    values = 100 * np.asarray(values)
    return f"{values.mean():.2f}" + (f" ± {standard_error(values):.2f}" if len(values) > 1 else "")


def standard_error(values) -> float:
    return float(np.std(values, ddof=1) / len(values) ** 0.5)


def difference(a, b) -> str:
    """Format mean ± standard error of paired differences in percentage points, and the 95 % interval."""
    values = 100 * np.subtract(a, b)
    if len(values) < 2:
        return f"{values.mean():+.2f}".replace("-", "−")
    found = paired(100 * np.asarray(a), 100 * np.asarray(b))
    text = f"{values.mean():+.2f} ± {standard_error(values):.2f} [{found['low']:+.2f}, {found['high']:+.2f}]"
    return text.replace("-", "−")


def accuracy_table(by_arm):
    accuracy = {arm: [run["accuracy"] for run in of] for arm, of in by_arm.items()}
    baselines = ("none", "equal", "mean")
    rows = [
        [
            arm,
            ", ".join(sorted({f"{run['setting']['weight']:g}" for run in by_arm[arm]})),
            points(values),
            *("" if arm == base else difference(values, accuracy[base]) for base in baselines),
            "" if arm == "DistPro" else difference(accuracy["DistPro"], values),
        ]
        for arm, values in accuracy.items()
    ]
    header = ["", "weight", "accuracy, %", *(f"minus {base}" for base in baselines), "DistPro minus it"]
    return list_table(header, rows)


def cost_table(runs, by_arm):
    """Return the cost of the retraining, of its search, and of both relative to the student alone."""
    searches = {
        key(setting["of"], setting["weight"], setting["seed"]): run["cost"]
        for run in runs
        if (setting := run["setting"])["what"] == "search"
    }
    return list_table(*cost_rows(searches, by_arm))


def cost_rows(searches, by_arm):
    """Return the header and the rows of the costs; ``searches`` maps the key of a process to its cost."""
    alone = mean_of([run["cost"] for run in by_arm["none"]], "seconds")
    rows = []
    for arm, of in by_arm.items():
        own = [run["cost"] for run in of]
        before = [searches[process] for run in of if (process := run["setting"]["process"]) is not None]
        both = sum(mean_of(costs, "seconds") for costs in (before, own))
        ran = [np.mean(run["ran"]) for run in of if "ran" in run]
        rows.append(
            [
                arm,
                cost_in_words(before),
                cost_in_words(own),
                f"{both / alone:.1f}",
                f"{np.mean(ran):.1f}" if ran else "",
            ]
        )
    header = ["", *(f"{phase}: s (forward, backward)" for phase in ("search", "training"))]
    return [*header, "times none", "pathways"], rows


def mean_of(costs, name) -> float:
    return float(np.mean([cost[name] for cost in costs])) if costs else 0.0


def cost_in_words(costs) -> str:
    """Format as "75.1 (1134, 756)"."""
    if not costs:
        return ""
    seconds, forward, backward = (mean_of(costs, name) for name in ("seconds", "forward", "backward"))
    return f"{seconds:.1f} ({forward:.0f}, {backward:.0f})"


def search_table(runs):
    """Return the final and the mean weights of the pathways, and the final lambda1 and T, by search."""
    searches = {
        tuple(setting[name] for name in ("of", "weight", "seed")): run
        for run in runs
        if (setting := run["setting"])["what"] == "search" and setting["seed"] != TUNING_SEED
    }
    rows = [
        [f"{search}, weight {weight:g}, seed {seed}", *search_cells(run)]
        for (search, weight, seed), run in sorted(searches.items())
    ]
    return list_table(["search", *SEARCH_CELLS], rows)


SEARCH_CELLS = ("largest weight at the end", "pruned at the end", "mean sum", "lambda1, T", "skipped")


def search_cells(run: dict, threshold: float | None = TAU) -> list[str]:
    """Return the cells of ``SEARCH_CELLS`` for a search."""
    process, term = process_of(run), run["logit_term"]
    last = process.weights[-1]
    return [
        f"{last.max():.2f} ({process.pathways[last.argmax()].key})",
        "" if threshold is None else str(int((process.raw[-1] <= threshold).sum())),
        number(strength(run, "process", threshold=threshold)),
        "" if term is None else f"{term[-1][0]:.2f}, {term[-1][1]:.1f}",
        str(run["skipped"]),
    ]


def tuning_table(tuned, chosen, arms=TUNED):
    """Return the accuracy on the fifth of D by weight, from one run each."""
    rows = []
    for arm in (arm for arm in arms if arm in chosen):
        of = {run["setting"]["weight"]: run["valid_accuracy"] for run in tuned if run["setting"]["of"] == arm}
        cells = (f"{weight:g}: {100 * accuracy:.2f}" for weight, accuracy in sorted(of.items()))
        rows.append([arm, f"{chosen[arm]:g}", "; ".join(cells)])
    return list_table(["tuned", "chosen", "accuracy on the held-out fifth, %"], rows)
