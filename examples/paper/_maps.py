"""Shared parts of the experiments on maps: arms, one search, one training, tables.

Parts that do not depend on maps are those of the experiments on images, in _distpro.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _distpro import (
    LAMBDA1S,
    TAU,
    TEMPERATURE,
    TUNING_SEED,
    Cost,
    Experiment,
    NoRetraining,
    by_arm_of,
    cosine,
    cost_table,
    difference,
    points,
    process_of,
    process_record,
    search_table,
)
from _encoders import EncoderMaps
from _networks import Counted
from _protocol import list_table
from _reviewkd import ReviewedStudent, WarmUp
from torch import nn

import sklearn_kd
from sklearn_kd import FCNStudent, ResizedStudent
from sklearn_kd.layers._hooks import feature_hooks
from sklearn_kd.metrics import (
    masked_mean_relative_error,
    masked_root_mean_squared_error,
    mean_iou_score,
    pixel_accuracy_score,
)

WEIGHTS: tuple[float, ...] = (1.0, 5.0, 25.0)
# Arm → how it follows the searched process.
FOLLOWERS = {"mean": {"weights": "mean"}, "DistPro": {}}
TUNED = ("KD", "equal", "ReviewKD", "DistPro")
ARMS = ("none", "KD", "equal", "ReviewKD", "mean", "DistPro")


class MapTask(NamedTuple):
    """Images of shape (n, 3, h, w), maps of shape (n, h, w), and a teacher."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    teacher: nn.Module


class MapPlan(NamedTuple):
    """Settings that differ between the experiments and are the same for all runs of one.

    Attributes
    ----------
    kind : {"classes", "distances"}
    student, teacher : dict
        Keyword arguments of :class:`FCNStudent`, or of :class:`EncoderMaps` where ``encoder`` is one of them.
    layers : tuple of str
        Modules of both networks whose outputs are compared.
    transforms : tuple of str
    training : dict
        Parameters of all trainings.
    warm_up : int
        Epochs in which ReviewKD's weight is raised.
    ignored : int or None
        Class of pixels that are not evaluated.
    device : str
    """

    kind: str
    student: dict[str, Any]
    teacher: dict[str, Any]
    layers: tuple[str, ...]
    transforms: tuple[str, ...]
    training: dict[str, Any]
    warm_up: int
    ignored: int | None = None
    device: str = "auto"


# --------------------------------------------------------------------------------------
# The two kinds of maps


class LearnsFrom(Counted):
    """Count the training batches that go through a student."""

    def counts(self):
        return self.training or torch.is_grad_enabled()


class CountedMaps(LearnsFrom, FCNStudent):
    """The library's network."""


class CountedEncoder(LearnsFrom, EncoderMaps):
    """A trained encoder with the library's sum of stages."""


def network_of(sizes: dict[str, Any]) -> type[nn.Module]:
    """Return the class of networks that these sizes belong to."""
    return CountedEncoder if "encoder" in sizes else CountedMaps


def estimators(plan: MapPlan) -> tuple[Callable, Callable]:
    """Return the estimator of outputs and that of pathways, with their parameters for this kind of maps."""
    if plan.kind == "distances":
        return sklearn_kd.DistilledRegressor, sklearn_kd.DistProRegressor
    ignored = {"ignore_index": plan.ignored}
    return partial(sklearn_kd.DistilledClassifier, **ignored), partial(
        sklearn_kd.DistProClassifier, **ignored
    )


def errors_of(plan: MapPlan, y: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return the errors of predicted maps; the first is "score", where larger is better."""
    if plan.kind == "distances":
        rmse = masked_root_mean_squared_error(y, predicted)
        return {"score": -rmse, "rmse": rmse, "rel": masked_mean_relative_error(y, predicted)}
    ignored = {"ignore_index": plan.ignored}
    iou = mean_iou_score(y, predicted, **ignored)
    return {"score": iou, "iou": iou, "accuracy": pixel_accuracy_score(y, predicted, **ignored)}


def mirrored(X: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mirror half of the images of a batch, with their maps."""
    which = torch.rand(len(X), device=X.device) < 0.5
    return (
        torch.where(which[:, None, None, None], X.flip(3), X),
        torch.where(which[:, None, None], y.flip(2), y),
    )


# --------------------------------------------------------------------------------------
# One run


def train_teacher(file: Path, plan: MapPlan, X, y, epochs: int) -> None:
    """Train a network on the maps and write its weights to a file."""
    distilled, _ = estimators(plan)
    params = common(plan, 0, epochs, Cost()) | {"meta": "none"}
    sizes = {f"student__{name}": value for name, value in plan.teacher.items()}
    fitted = distilled(None, network_of(plan.teacher), **sizes, **params).fit(X, y)
    network = fitted.student_.cpu()
    if isinstance(network, ResizedStudent):
        network = network.student
    if plan.kind == "distances":  # from the standardised targets of the training to their units
        scale, mean = float(fitted.target_scale_[0]), float(fitted.target_mean_[0])
        with torch.no_grad():
            network.head.weight.mul_(scale)
            network.head.bias.mul_(scale).add_(mean)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), file)


def teacher_of(file: Path, plan: MapPlan, n_outputs: int) -> nn.Module:
    """Read a teacher written by :func:`train_teacher`."""
    teacher = network_of(plan.teacher)(3, n_outputs, **plan.teacher)
    teacher.load_state_dict(torch.load(file, weights_only=True))
    return teacher.eval()


def common(plan, seed, epochs, cost):
    """Return the parameters that all trainings share, so that trainings of one seed are paired."""
    return plan.training | {
        "augment": mirrored,
        "max_epochs": epochs,
        "callbacks": [cosine(epochs), ("cost", cost)],
        "random_state": seed,
        "device": plan.device,
    }


def student_sizes(plan):
    return {f"student__{name}": value for name, value in plan.student.items()}


def pathways_of(task, plan, **params):
    return estimators(plan)[1](
        task.teacher,
        network_of(plan.student),
        teacher_layers=list(plan.layers),
        student_layers=list(plan.layers),
        transforms=list(plan.transforms),
        **student_sizes(plan),
        **params,
    )


def rows_of(task, seed):
    """Return training images and evaluation images: those of the test, or for tuning a fifth of D."""
    if seed != TUNING_SEED:
        return (task.X, task.y), (task.X_test, task.y_test)
    rows = np.random.default_rng(seed).permutation(len(task.X))
    held_out = len(rows) // 5
    return tuple((task.X[part], task.y[part]) for part in (rows[held_out:], rows[:held_out]))


def one_search(task: MapTask, plan: MapPlan, weight: float, seed: int, search_epochs: int) -> dict:
    """Return some rows of the process, and the cost of its search."""
    cost = Cost()
    params = common(plan, seed, 1, Cost()) | {"callbacks": [NoRetraining()]}
    student = pathways_of(
        task,
        plan,
        distill_weight=weight,
        search_epochs=search_epochs,
        search_callbacks=[cosine(search_epochs), cost],
        **params,
    )
    student.fit(*rows_of(task, seed)[0])
    return process_record(student, cost)


def one_training(
    task: MapTask, plan: MapPlan, arm: str, weight: float, seed: int, epochs: int, found: dict | None
) -> dict:
    """Return the errors on the evaluation images, the cost, and the number of computed pathways."""
    cost = Cost()
    student = student_of(task, plan, arm, weight, common(plan, seed, epochs, cost), found)
    trained, (X, y) = rows_of(task, seed)
    errors = errors_of(plan, y, student.fit(*trained).predict(X))
    if seed == TUNING_SEED:
        errors = {"valid_score": errors["score"]}
    result = errors | {"cost": cost.cost_, "diverged": student.net_.diverged_}
    if hasattr(student, "pathways_"):
        result["ran"] = [round(ran, 2) for ran in student.history_[:, "pathways"]]
    return result


def student_of(task, plan, arm, weight, params, found):
    distilled, _ = estimators(plan)
    if arm in ("none", "KD"):
        params |= {"meta": "none"} if arm == "none" else {"meta": "fixed", "lambda1": weight}
        if plan.kind == "classes":
            params["temperature"] = TEMPERATURE
        return distilled(task.teacher, network_of(plan.student), **student_sizes(plan), **params)
    if arm == "ReviewKD":
        return reviewed(task, plan, weight, params)
    if arm == "equal":
        return pathways_of(task, plan, weights="equal", distill_weight=weight, **params)
    params |= FOLLOWERS[arm] | {"pathway_threshold": TAU}
    return pathways_of(task, plan, process=process_of(found), distill_weight=weight, **params)


def reviewed(task, plan, weight, params):
    params["callbacks"].append(WarmUp(plan.warm_up))
    make = partial(network_of(plan.student), 3, **plan.student)
    return estimators(plan)[0](
        None,
        ReviewedStudent,
        meta="none",
        student__make=make,
        student__teacher=task.teacher,
        student__layers=plan.layers,
        student__channels=tuple(
            channels_of(network, task, plan.layers) for network in (make(1), task.teacher)
        ),
        student__weight=weight,
        **params,
    )


def channels_of(network: nn.Module, task: MapTask, layers: Sequence[str]) -> list[int]:
    """Return the channels of the maps of some layers."""
    with torch.no_grad(), feature_hooks(network.eval(), layers) as maps:
        network(torch.tensor(task.X[:1]))
    return [maps[layer].shape[1] for layer in layers]


def run_of(
    task: MapTask,
    plan: MapPlan,
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
    """Make one run by its setting."""
    if what == "search":
        return one_search(task, plan, weight, seed, search_epochs)
    return one_training(task, plan, of, weight, seed, epochs, None if process is None else processes[process])


def common_settings(plan: MapPlan) -> dict:
    """Return the settings on which the numbers of all runs depend."""
    settings = {"weights": WEIGHTS, "lambda1s": LAMBDA1S, "temperature": TEMPERATURE, "tau": TAU}
    return settings | {"plan": plan._asdict() | {"training": {k: str(v) for k, v in plan.training.items()}}}


# --------------------------------------------------------------------------------------
# All runs


class MapExperiment(Experiment):
    """Make the searches and trainings of an experiment on maps, each once.

    ``options`` has ``seeds`` in addition to the options of :class:`Experiment`.
    """

    def carry_out(self) -> dict:
        """Make all runs, and return the weight chosen for each arm."""
        weights, made = self.tune()
        seeds = self.options.seeds
        made += self.train([self.wanted(arm, weights[arm], seed) for seed in seeds for arm in ARMS])
        return {"chosen": weights, "runs": [*made, *self.processes.values()]}

    def tune(self) -> tuple[dict[str, float], list[dict]]:
        """Choose each arm's best weight on the fifth of D; the mean's is that of its process."""
        candidates = [(arm, w) for arm in TUNED for w in (LAMBDA1S if arm == "KD" else WEIGHTS)]
        made = self.train([self.wanted(arm, weight, TUNING_SEED) for arm, weight in candidates])
        best, score = {"none": 0.0}, {}
        for (arm, weight), run in zip(candidates, made, strict=True):
            if run["valid_score"] > score.get(arm, -np.inf):
                best[arm], score[arm] = weight, run["valid_score"]
        return best | {"mean": best["DistPro"]}, made


# --------------------------------------------------------------------------------------
# Results


def tables(plan: MapPlan, record: dict) -> Iterator[str]:
    """Yield tables: errors and paired differences; cost; results of the searches; choice of weights."""
    runs, chosen = record["runs"], record["chosen"]
    by_arm = by_arm_of(runs, chosen)
    names = {"rmse": "RMSE, cm", "rel": "REL, %"} if plan.kind == "distances" else {
        "iou": "mean IoU, %", "accuracy": "pixels, %"}  # fmt: skip
    for name, words in names.items():
        yield error_table(by_arm, name, words)
    yield cost_table(runs, by_arm)
    yield search_table(runs)
    yield tuning_table([run for run in runs if "valid_score" in run], chosen)


def error_table(by_arm: dict[str, list], name: str, words: str) -> str:
    """Return the mean and standard error of each arm, and paired differences, in hundredths."""
    values = {arm: [run[name] for run in of] for arm, of in by_arm.items()}
    baselines = ("none", "equal", "mean")
    rows = [
        [
            arm,
            f"{by_arm[arm][0]['setting']['weight']:g}",
            points(of),
            *("" if arm == base else difference(of, values[base]) for base in baselines),
            "" if arm == "DistPro" else difference(values["DistPro"], of),
        ]
        for arm, of in values.items()
    ]
    header = ["", "weight", words, *(f"minus {base}" for base in baselines), "DistPro minus it"]
    return list_table(header, rows)


def tuning_table(tuned: Sequence[dict], chosen: dict[str, float]) -> str:
    """Return the score on the fifth of D by weight, from one run each."""
    rows = []
    for arm in TUNED:
        of = {run["setting"]["weight"]: run["valid_score"] for run in tuned if run["setting"]["of"] == arm}
        cells = (f"{weight:g}: {100 * score:.2f}".replace("-", "−") for weight, score in sorted(of.items()))
        rows.append([arm, f"{chosen[arm]:g}", "; ".join(cells)])
    return list_table(["tuned", "chosen", "score on the held-out fifth, in hundredths"], rows)
