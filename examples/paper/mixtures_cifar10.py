"""Compare a mixture of losses whose weights are learned with single losses that are tuned by hand.

The claim is that a learned mixture of {KD, ReviewKD, one term of relations, DistPro's pathways} is at least
as good as the best single one, tuned by hand over four weights, at no more than the price of two trainings.

A ResNet-20 teaches a ResNet-8 on 4,000 images of CIFAR-10, averaged down to 16×16, for 6 epochs with three
seeds. The teacher is that of distpro_cifar10.py. Every arm is a ``DistilledClassifier`` with a list of
losses:

- the student alone;
- each of the four losses alone beside the loss of the labels, with a fixed weight: the best of four on a
  fifth of the training images. For KD the weight is lambda1, the weight of the labels, and T = 4;
- the mixture of all four with fixed weights. It starts, untuned, at lambda1 = 0.5 and T = 4, and at the
  default weights of the terms, which for ReviewKD and the relations are the papers';
- the mixture by hand: all weights of the start times one factor, the best of four on the same fifth. The
  ratio of KD to labels is multiplied too;
- the mixture with lambda1, T, the weights of ReviewKD and the relations, and the factors of the pathways
  learned by "linear", by "twins" and by "halving", with the defaults of these strategies. The search holds
  out its own D_val. Then a fresh student trains on all images along the mean of what was found.

The length of each search is set so that search and training cost at most two trainings of the mixture.
Nothing else is chosen for the learned arms. All arms end with their last weights, none with an average of
weights.

The arms of a seed have the same initial weights, batches and augmentation (crops and mirrors), so differences
are paired. The test images choose only the single loss with which the others are compared: the one with
the best mean test accuracy. Accuracy is that of the last epoch. The price includes searches and tuning.

mixtures_horizon.py asks at which horizon the weights are right.

    OMP_NUM_THREADS=1 python examples/paper/mixtures_cifar10.py --teacher resnet20-cifar10.pt

It prints the tables. It writes every run to mixtures_cifar10.json and the teacher of small images to
distpro_cifar10_teacher.pt, beside this file or in --out.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from _distpro import (
    LAYERS,
    TRAINING,
    TUNING_SEED,
    CountedStudent,
    Task,
    common,
    cost_in_words,
    difference,
    digest,
    mean_of,
    points,
    rows_of,
)
from _networks import PASSES
from _protocol import Runs, arguments, list_table
from distpro_cifar10 import PLAN, STUDENT_DEPTH, TEACHER_EPOCHS, small_images, small_teacher
from skorch.callbacks import Callback

from sklearn_kd import CIFARResNet, DistilledClassifier, Pathways
from sklearn_kd.datasets import fetch_cifar10
from sklearn_kd.losses import ReviewKD, SimilarityPreserving

TEMPERATURE = 4.0
SAME_LAYERS = {"teacher_layers": list(LAYERS), "student_layers": list(LAYERS)}
MAKERS = {
    "ReviewKD": partial(ReviewKD, **SAME_LAYERS),
    "similarity": SimilarityPreserving,
    "pathways": partial(Pathways, transforms=["conv2"], **SAME_LAYERS),
}
# Where the mixture starts; the weight of KD is lambda1.
START: dict[str, float] = {"KD": 0.5} | {name: make().weight for name, make in MAKERS.items()}
CANDIDATES: dict[str, tuple[float, ...]] = {
    "KD": (0.9, 0.5, 0.1, 0.01),
    "ReviewKD": (1.0, 2.5, 5.0, 10.0),
    "similarity": (30.0, 150.0, 600.0, 3000.0),
    "pathways": (1.0, 5.0, 25.0, 125.0),
    "mixture by hand": (1 / 9, 1 / 3, 1.0, 3.0),
}
# Strategy → the share of the epochs that its search takes.
SEARCHES = {"linear": 0.875, "twins": 0.5, "halving": 0.375}
FIXED = ("none", *CANDIDATES, "mixture")
ARMS = (*FIXED, *(f"mixture, {meta}" for meta in SEARCHES))
SINGLE = tuple(START)


# --------------------------------------------------------------------------------------
# One run


class RetrainingBegins(Callback):
    """Record the seconds and passes before the training on all rows."""

    def on_train_begin(self, net, **kwargs):
        self.before_ = spent()


def spent() -> Counter:
    """Return the passes and the seconds of CPU time of this process so far."""
    return Counter(PASSES) + Counter(seconds=time.process_time())


def spent_since(before: Counter, after: Counter) -> dict[str, float]:
    return {name: round(after[name] - before[name], 2) for name in ("seconds", "forward", "backward")}


@cache
def task_of(data: str | None, images: int, teacher: Path) -> Task:
    """Return the first ``images`` training images, all test images, and the teacher."""
    X, y, X_test, y_test = small_images(data)
    return Task(X[:images], y[:images], X_test, y_test, CIFARResNet.from_file(teacher), STUDENT_DEPTH)


def one_run(
    *,
    data: str | None,
    teacher: Path,
    arm: str,
    weight: float,
    seed: int,
    images: int,
    epochs: int,
    search_epochs: int | None = None,
) -> dict:
    """Train one student; return its accuracy, its cost, and the weights that it found."""
    task, retraining = task_of(data, images, teacher), RetrainingBegins()
    (X, y), (X_judged, y_judged) = rows_of(task, seed)
    params = common(PLAN, seed, epochs, retraining) | losses(weights_of(arm, weight))
    meta = arm.partition(", ")[2]
    if search_epochs is not None:
        schedule = common(PLAN, seed, search_epochs, retraining)["callbacks"][:1]
        params |= {"meta": meta, "search_epochs": search_epochs, "retrain": "fresh"}
        params |= {"search_callbacks": schedule}
    student = DistilledClassifier(task.teacher, CountedStudent, student__depth=task.depth, **params)
    before = spent()
    student.fit(X, y)
    ended = spent()
    cost = {
        "search": spent_since(before, retraining.before_),
        "training": spent_since(retraining.before_, ended),
    }
    judged = "valid_accuracy" if seed == TUNING_SEED else "accuracy"
    diverged = student.net_.diverged_
    result = {judged: student.score(X_judged, y_judged), "cost": cost, "diverged": diverged}
    if search_epochs is not None:
        process = student.process_
        for name, row in (("mean", process.schedule(1, "mean")), ("end", process.schedule(1, "final"))):
            result[name] = {of: np.round(values[0], 4).tolist() for of, values in row.items()}
        result["trained on"] = [name for name, term in student.terms_.items() if term.is_trained]
    return result


def weights_of(arm: str, weight: float) -> dict[str, float]:
    """Return the losses of an arm by name, with their weights; the weight of KD is lambda1."""
    if arm == "mixture by hand":
        return {name: scaled(name, weight) for name in START}
    if arm in SINGLE:
        return {arm: weight}
    return {} if arm == "none" else START


def scaled(name: str, factor: float) -> float:
    """Return a weight of the start times a factor; for KD, the lambda1 that scales KD : labels by it."""
    if name != "KD":
        return START[name] * factor
    return START["KD"] / (START["KD"] + factor * (1 - START["KD"]))


def losses(weights: Mapping[str, float]) -> dict[str, Any]:
    """Return the parameters of a training with losses of these weights."""
    if not weights:
        return {"loss": "kd", "meta": "none"}
    terms = [make(weight=weights[name]) for name, make in MAKERS.items() if name in weights]
    if "KD" not in weights:
        return {"loss": terms, "meta": "fixed"}
    kd = {"lambda1": weights["KD"], "temperature": TEMPERATURE}
    return {"loss": ["kd", *terms], "meta": "fixed"} | kd


# --------------------------------------------------------------------------------------
# All runs


class Comparison:
    """Make all runs, each once.

    Parameters
    ----------
    runs : Runs
    options : argparse.Namespace
        ``jobs``, ``runs``, ``images``, ``epochs``.
    **given
        Paths of the data and of the teacher, for :func:`one_run`.
    """

    def __init__(self, runs: Runs, options: Any, **given: Any):
        self.runs, self.options, self.given = runs, options, given

    def carry_out(self) -> dict[str, Any]:
        """Return the weight chosen for each arm, and the runs."""
        tried = self.made([self.setting(arm, w, TUNING_SEED) for arm, of in CANDIDATES.items() for w in of])
        chosen = dict.fromkeys(ARMS, 1.0) | best_weights(tried)
        tested = self.made([
            self.setting(arm, chosen[arm], seed) for seed in range(self.options.runs) for arm in ARMS
        ])  # fmt: skip
        return {"chosen": chosen, "runs": [*tried, *tested]}

    def setting(self, arm: str, weight: float, seed: int, **further: Any) -> dict[str, Any]:
        shared = {"images": self.options.images, "epochs": self.options.epochs}
        share = SEARCHES.get(arm.partition(", ")[2])
        if share is not None:
            shared["search_epochs"] = max(1, round(share * self.options.epochs))
        return {"arm": arm, "weight": weight, "seed": seed} | shared | further

    def made(self, settings: list[dict]) -> list[dict]:
        return self.runs.of(one_run, settings, self.options.jobs, **self.given)


def best_weights(tried: list[dict]) -> dict[str, float]:
    """Return for each arm the weight with the best accuracy on the fifth."""
    best: dict[str, tuple[float, float]] = {}
    for run in tried:
        arm, found = run["setting"]["arm"], (run["valid_accuracy"], run["setting"]["weight"])
        if arm not in best or found[0] > best[arm][0]:
            best[arm] = found
    return {arm: weight for arm, (_, weight) in best.items()}


# --------------------------------------------------------------------------------------
# Results


def tables(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield tables: accuracies and prices, the costs behind them, what was found, tuning."""
    runs = sorted(record["runs"], key=lambda run: run["setting"]["seed"])
    by_arm = {arm: [run for run in runs if run["setting"]["arm"] == arm] for arm in ARMS}
    tuning = {arm: [run for run in of if "valid_accuracy" in run] for arm, of in by_arm.items()}
    tested = {arm: [run for run in of if "accuracy" in run] for arm, of in by_arm.items()}
    chosen = best_weights([run for of in tuning.values() for run in of])
    yield accuracy_table(tested, tuning, chosen)
    yield cost_table(tested, tuning)
    yield weights_table(tested)
    yield tuning_table(tuning, chosen)


def accuracy_table(by_arm, tuning, chosen):
    accuracy = {arm: [run["accuracy"] for run in of] for arm, of in by_arm.items()}
    best = max(SINGLE, key=lambda arm: np.mean(accuracy[arm]))
    units = {"mixture": seconds(by_arm["mixture"]), best: seconds(by_arm[best])}
    rows = []
    for arm, values in accuracy.items():
        price = seconds(by_arm[arm]) + total_seconds(tuning[arm])
        against = ("none", best, "mixture")
        differences = ("" if arm == other else difference(values, accuracy[other]) for other in against)
        weight = f"{chosen[arm]:.3g}" if tuning[arm] else ""
        rows.append(
            [arm, weight, points(values), *differences, *(f"{price / u:.2f}" for u in units.values())]
        )
    minus = (f"minus {other}" for other in ("none", best, "mixture"))
    prices = (f"price, in trainings of {arm}" for arm in units)
    return list_table(["", "weight", "accuracy, %", *minus, *prices], rows)


def total_seconds(runs) -> float:
    return sum(part["seconds"] for run in runs for part in run["cost"].values())


def seconds(runs) -> float:
    """Return the mean seconds of a run with its search."""
    return total_seconds(runs) / len(runs)


def cost_table(by_arm, tuning):
    """Return the seconds and passes of tuning (all runs), search and training (means), and the times none."""
    alone, rows = seconds(by_arm["none"]), []
    for arm, of in by_arm.items():
        tried = [run["cost"]["training"] for run in tuning[arm]]
        whole = {name: sum(cost[name] for cost in tried) for name in ("seconds", "forward", "backward")}
        searched = [run["cost"]["search"] for run in of if run["cost"]["search"]["forward"]]
        price = seconds(of) + mean_of([whole], "seconds")
        trained = [run["cost"]["training"] for run in of]
        cells = (cost_in_words(costs) for costs in ([whole] if tried else [], searched, trained))
        rows.append([arm, *cells, f"{price / alone:.1f}"])
    header = [f"{phase}: s (forward, backward)" for phase in ("tuning", "search", "training")]
    return list_table(["", *header, "times none"], rows)


def ratios(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the weights of a search relative to the start's, and T; KD's are relative to the labels'."""
    alpha = np.exp(values["pathways_importance"])
    share, n = alpha.sum() / (alpha.sum() + np.e), len(alpha)
    return {
        "KD": (1 - values["lambda1"]) / max(values["lambda1"], 1e-9) * START["KD"] / (1 - START["KD"]),
        "ReviewKD": values["reviewkd_weight"] / START["ReviewKD"],
        "similarity": values["similarity_weight"] / START["similarity"],
        "pathways": share * (n + 1) / n,
        "T": values["temperature"],
        "largest": float(alpha.max() / alpha.sum()),
    }


def weights_table(by_arm):
    """Return where each search ends, and its mean, by seed."""
    rows = []
    for arm, of in by_arm.items():
        for run in of:
            if "mean" not in run:
                continue
            both = ratios(run["mean"]), ratios(run["end"])
            cells = [f"{both[0][name]:.2f}; {both[1][name]:.2f}" for name in (*START, "T", "largest")]
            left_out = set(MAKERS) - {spelt(name) for name in run["trained on"]}
            rows.append([f"{arm}, seed {run['setting']['seed']}", *cells, ", ".join(sorted(left_out))])
    header = [
        *(f"{name}, times the start" for name in START),
        "T",
        "share of the largest pathway",
        "left out",
    ]
    return list_table(["mean; end", *header], rows)


def spelt(term: str) -> str:
    """Return the name in this script of a term of a list of losses."""
    return {make().name: name for name, make in MAKERS.items()}[term]


def tuning_table(tuning, chosen):
    """Return the accuracy on the fifth of D by weight, from one run each."""
    rows = []
    for arm in CANDIDATES:
        cells = (f"{run['setting']['weight']:.3g}: {100 * run['valid_accuracy']:.2f}" for run in tuning[arm])
        rows.append([arm, f"{chosen[arm]:.3g}", "; ".join(cells)])
    return list_table(["tuned", "chosen", "accuracy on the held-out fifth, %"], rows)


# --------------------------------------------------------------------------------------
# The script


def main() -> None:
    """Parse the options, make the runs, print the tables."""
    options = arguments(
        __doc__,
        __file__,
        runs=3,
        length=("epochs", 6),
        quick=(2, 1),
        teacher={"type": Path, "required": True, "metavar": "FILE", "help": "weights of a ResNet-20"},
        data={"metavar": "FOLDER", "help": "folder of CIFAR-10; default: scikit-learn's"},
        images={"type": int, "help": "number of training images; default 4000"},
    )
    options.images = options.images or (320 if options.quick else 4000)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.json.parent if options.json else Path(temporary)
        teacher, accuracy = small_teacher(
            folder / "distpro_cifar10_teacher.pt",
            options,
            fetch_cifar10,
            lambda: CIFARResNet.from_file(options.teacher),
            TEACHER_EPOCHS,
            lr=0.01,
        )
        settings = {"start": START, "candidates": CANDIDATES, "searches": SEARCHES}
        settings |= {"temperature": TEMPERATURE, "training": TRAINING, "plan": PLAN._asdict()}
        settings |= {"teacher": digest(teacher), "teacher_accuracy": accuracy}
        runs = Runs.of_script(options, settings)
        found = Comparison(runs, options, data=options.data, teacher=teacher).carry_out()
        runs.write(chosen=found["chosen"])
    print(f"the teacher of small images: {accuracy:.4f}\n")
    for table in tables(found):
        print(table)


if __name__ == "__main__":
    main()
