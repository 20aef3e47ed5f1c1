"""Search on D_train, then retrain on all rows: compare methods of two trainings with a grid of 25 settings.

The tasks are those of ``distillation_tasks.py``; the students have the library's defaults. D_val is 15 % of
the student's rows, or the task's own. All methods of a task and a seed have the same rows, wrong labels,
D_val, initial weights and, on the same rows, the same batches. No method sees the test rows.

**grid**: each of 25 settings trains a student on D_train; the one with the smallest calibrated L_val on all
of D_val trains a student on all rows. That costs 26 trainings. **grid or none** has the labels alone as a
26th setting. **oracle** is the setting of the 25 that turns out best on the test rows. So all settings are
trained on all rows, and ``none``, ``naive`` and the fixed settings come with the grid. If trainings are long,
only these and the grid's choice are trained on all rows, and there is no oracle. A teacher that learns from
the student's rows is fitted on D_train in the trials, and on all rows for the students on all rows. The
grid's student is a fresh one, with its last weights. The student of **grid or none, auto** begins and ends
like the default's, by ``retrain="auto"``. Runs of commits older than ``retrain`` have fresh students:
``retrain="fresh"``.

The other methods are parameters of ``DistilledClassifier``, in ``METHODS``. Trainings are counted in passes:
a step is a forward pass (1) and a backward pass (2). A hypergradient adds 3 on a batch of D_val and one more
forward pass. ::

    OMP_NUM_THREADS=1 python examples/evidence/search_then_retrain.py --runs RUNS.jsonl \
        --tables FOLDER --fashion-mnist FOLDER --cifar FOLDER --resnet FILE
    python examples/evidence/search_then_retrain.py --runs RUNS.jsonl --record
    python examples/evidence/search_then_retrain.py --table

The first command adds each run to RUNS.jsonl at once, resumes there if it was stopped, and prints the tables;
``--tasks``, ``--methods`` and ``--seeds`` select a part. The second writes all runs, with settings and
versions, to search_then_retrain.json beside this file. The third prints the tables of that file.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from distillation_tasks import TASKS, Places, Task, available, load_task, logits_of
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss

from sklearn_kd import DistilledClassifier, meta
from sklearn_kd.comparison._fits import MethodFit, fit_all

sys.path.append(str(Path(__file__).parents[1]))
from _provenance import code_of, provenance

RECORD = Path(__file__).with_suffix(".json")
VALIDATION_FRACTION = 0.15
LAMBDA1S, TEMPERATURES = (0.1, 0.3, 0.5, 0.7, 0.9), (1.0, 2.0, 4.0, 7.0, 10.0)
LABELS_ALONE = (1.0, 1.0)
SETTINGS = [*product(LAMBDA1S, TEMPERATURES), LABELS_ALONE]
# Settings of the grid that are methods by themselves.
FIXED = {"none": LABELS_ALONE, "naive": (0.5, 1.0), "fixed .5 4": (0.5, 4.0), "fixed .9 4": (0.9, 4.0)}
GRID = "grid"
MEANS = {"accuracy": 4, "log_loss": 4, "trainings": 2, "cpu_seconds": 2}  # and their decimals
PLAIN, HYPERGRADIENT = 3, 7  # passes of an iteration
DIVERGED = 1e9  # L_val of a student that has none


_WITH_GRID = (*FIXED, GRID, "grid or none", "oracle")


class Grid(meta.Strategy):
    """The best of ``SETTINGS`` by L_val."""

    learns_from_validation = True

    def start(self, context: meta.StartContext) -> dict[str, float]:
        settings = [{"lambda1": lambda1, "temperature": temperature} for lambda1, temperature in SETTINGS]
        self.losses_ = np.nan_to_num(context.evaluate_all(settings), nan=np.inf).clip(max=DIVERGED)
        return settings[int(np.argmin(self.losses_))]


class Method(NamedTuple):
    """A way to choose the metaparameters.

    Attributes
    ----------
    params : dict
        Parameters of ``DistilledClassifier``.
    cost : float or None, default=None
        Cost of an iteration of the search, or of the single training, in plain steps. None: count its passes.
    teacher_saw_all : bool, default=False
        Whether a teacher that learns from the student's rows is fitted beforehand, on D_val's rows too, like
        a teacher that a user already has.
    epochs : int, default=1
        Factor on the task's number of epochs.
    """

    params: dict[str, Any]
    cost: float | None = None
    teacher_saw_all: bool = False
    epochs: int = 1


_FRESH = {"retrain": "fresh"}  # as in the runs of commits that knew no other way
_SEARCH = _FRESH | {"meta": "linear", "search_epochs": 0.5, "temperature": 4.0}
_THIRD = _SEARCH | {"search_epochs": 1 / 3}
_AUTO = {"meta__val_temperature": "auto"}
_SHORTLIST = {"meta": "shortlist", "search_epochs": 1 / 3}
METHODS = {
    "none, average": Method({"meta": "none", "retrain": "average"}),
    "none, twice the epochs": Method({"meta": "none"}, epochs=2),
    "grid or none, auto": Method({"meta": Grid(val_temperature="auto"), "search_epochs": 1.0}),
    "linear": Method({"meta": "linear"}),
    "linear from 4": Method({"meta": "linear", "temperature": 4.0}),
    "half, mean": Method(_SEARCH),
    "half, tail": Method(_SEARCH | {"weights": "tail"}),
    "half, final": Method(_SEARCH | {"weights": "final"}),
    "half, process": Method(_SEARCH | {"weights": "process"}),
    "half, process, auto": Method(_SEARCH | {"weights": "process", "retrain": "auto"}),
    "half, mean, from 1": Method(_SEARCH | {"temperature": 1.0}),
    "half, mean, calibrated": Method(_SEARCH | _AUTO),
    "third, mean": Method(_THIRD),
    "shortlist": Method(_SHORTLIST),
    "shortlist, fresh": Method(_SHORTLIST | _FRESH),
    "shortlist, continue": Method(_SHORTLIST | {"retrain": "continue"}),
    "shortlist, average": Method(_SHORTLIST | {"retrain": "average"}),
    "shortlist, teacher saw all": Method(_SHORTLIST, teacher_saw_all=True),
    "twins": Method(_SEARCH | {"meta": "twins"}, cost=2.0),
    "halving": Method(_SEARCH | {"meta": "halving", "search_epochs": 0.4, "weights": "final"}, cost=2.4),
    # A step and, for each of two tangents, a derivative forwards and one backwards.
    "forward third": Method(_THIRD | _AUTO | {"meta": "forward"}, cost=3.7),
    # Once in an epoch of some 7 batches, 5 products with the curvature of 2 of them.
    "implicit third": Method(_THIRD | _AUTO | {"meta": "implicit", "meta__n_batches": 2}, cost=3.2),
}


# --------------------------------------------------------------------------------------
# The runs of a task and a seed


def student_of(task: Task, seed: int, **params: Any) -> DistilledClassifier:
    """Return an unfitted student."""
    teacher = task.teacher if task.teacher_logits is None else None
    return DistilledClassifier(
        teacher,
        task.student,
        **{"validation_fraction": VALIDATION_FRACTION, "search_epochs": None}
        | {"random_state": seed, "device": "cpu"}
        | task.params
        | params,
    )


def rows_of(task: Task, *, with_validation: bool = True) -> dict[str, Any]:
    """Return the arguments of ``fit``."""
    given: dict[str, Any] = {"X": task.X_train, "y": task.y_train}
    if task.teacher_logits is not None:
        given["teacher_logits"] = task.teacher_logits
    if task.X_val is not None and with_validation:
        given |= {"X_val": task.X_val, "y_val": task.y_val}
    return given


def run_grid(task: Task, seed: int, common: dict[str, Any]) -> dict[str, Any]:
    """Train all settings on D_train, and again on all rows."""
    began = time.process_time()
    chosen = student_of(task, seed, meta=Grid(val_temperature="auto"), **common)
    losses = chosen.fit(**rows_of(task)).strategy_.losses_
    seconds_of_trials = time.process_time() - began
    given = rows_of(task, with_validation=False)
    if task.teacher_logits is None:
        teacher = clone(task.teacher).fit(task.X_train, task.y_train)
        given["teacher_logits"] = logits_of(teacher, task.X_train)
    settings = [
        {"lambda1": lambda1, "temperature": temperature, "val_loss": round(float(loss), 6)}
        for (lambda1, temperature), loss in zip(SETTINGS, losses, strict=True)
    ]
    retrained = settings
    if TASKS[task.name].is_dear:
        by_validation = [best_of(settings[:-1]), best_of(settings)]
        retrained = [of for of in settings if of in by_validation or place_of(of) in FIXED.values()]
    fits = []
    for of in retrained:
        values = dict(zip(("lambda1", "temperature"), place_of(of), strict=True))
        clf = student_of(task, seed, meta="fixed", **values, **common).set_params(teacher=None)
        fits.append(MethodFit(str(values), clf, given))
    fit_all(fits)
    for of, fit in zip(retrained, fits, strict=True):
        of |= scores(fit.clf, task)
    return {
        "settings": settings,
        "cpu_seconds_of_trials": round(seconds_of_trials, 3),
        "cpu_seconds": round(time.process_time() - began, 3),
    }


def place_of(setting: dict[str, Any]) -> tuple[float, float]:
    """Return lambda1 and T of a setting."""
    return setting["lambda1"], setting["temperature"]


def best_of(settings: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the setting of the smallest L_val."""
    return min(settings, key=lambda of: of["val_loss"])


def run_method(task: Task, seed: int, method: Method, common: dict[str, Any]) -> dict[str, Any]:
    """Fit a student in the way that users do."""
    began = time.process_time()
    clf = student_of(task, seed, **common | method.params)
    if method.teacher_saw_all and task.teacher_logits is None:
        clf.set_params(teacher=FrozenEstimator(clone(task.teacher).fit(task.X_train, task.y_train)))
    clf.set_params(max_epochs=clf.max_epochs * method.epochs)
    clf.fit(**rows_of(task))
    cost = method.epochs * trainings(clf, task, method.cost)
    seconds = time.process_time() - began
    return {
        **{name: round(float(value), 4) for name, value in clf.metaparameters_.items()},
        **scores(clf, task),
        "trainings": round(float(cost), 3),
        "cpu_seconds": round(seconds, 3),
    }


def scores(clf: DistilledClassifier, task: Task) -> dict[str, Any]:
    """Evaluate a student on the test rows."""
    probabilities = clf.predict_proba(task.X_test).astype(float)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    predicted = clf.classes_[probabilities.argmax(axis=1)]
    return {
        "accuracy": round(float(np.mean(predicted == task.y_test)), 5),
        "log_loss": round(float(log_loss(task.y_test, probabilities, labels=clf.classes_)), 5),
        "constant": len(np.unique(predicted)) == 1,
        "diverged": bool(clf.net_.diverged_),
    }


def trainings(clf: DistilledClassifier, task: Task, cost: float | None) -> float:
    """Return the cost of a fit, in plain trainings on all rows."""
    path = clf.metaparameter_path_
    searched, retraining = path[path["search"]], np.count_nonzero(~path["search"])
    of_one = -(-task.n_rows // clf.net_.batch_size) * clf.max_epochs
    if clf.search_epochs is not None and not len(searched):  # its trials were the search
        n_trials = len(getattr(clf, "trials_", SETTINGS))
        return n_trials * clf.search_epochs * share_of_d_train(task) + retraining / of_one
    if not len(searched):  # a single training, in which the metaparameters were learned
        searched, retraining = path, 0
    if cost is None:
        learned = np.count_nonzero(np.isfinite(searched["val_loss"]))
        cost = 1 + (HYPERGRADIENT / PLAIN - 1) * learned / len(searched)
    return (cost * len(searched) + retraining) / of_one


def share_of_d_train(task: Task) -> float:
    """Return the share of the student's rows that a search trains on."""
    return 1.0 if task.X_val is not None else 1 - VALIDATION_FRACTION


# --------------------------------------------------------------------------------------
# All runs, on disk


class RunFile:
    """A file of JSON lines, to which runs are added one by one.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path):
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.runs: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self._params = {self._key(run): run["params"] for run in self.runs}

    @staticmethod
    def _key(run: dict[str, Any]) -> tuple[str, int, str]:
        return run["task"], run["seed"], run["method"]

    def has(self, of: dict[str, Any]) -> bool:
        """Return whether a run exists; refuse one of the same name with other parameters."""
        known = self._params.get(self._key(of))
        if known not in (None, of["params"]):
            raise ValueError(
                f"{self.path} has a run {self._key(of)} with {known}, not with {of['params']}. Rename the "
                "method, or give another file."
            )
        return known is not None

    def add(self, run: dict[str, Any]) -> None:
        """Keep a run, in memory and on disk."""
        self.runs.append(run)
        self._params[self._key(run)] = run["params"]
        with self.path.open("a") as file:
            file.write(json.dumps(run) + "\n")


def run_all(options: argparse.Namespace, names: list[str], places: Places) -> int:
    """Make the missing runs, seed by seed; return how many failed."""
    file, code, n_failed = RunFile(options.runs), code_of(__file__), 0
    for seed, name in product(options.seeds, names):
        wanted = []
        for method in options.methods or (GRID, *METHODS):
            params = {} if method == GRID else METHODS[method].params
            of = {"task": name, "seed": seed, "method": method, "params": repr(options.common | params)}
            if not file.has(of):
                wanted.append(of)
        task = load_task(name, seed, **places._asdict()) if wanted else None
        for of in wanted:
            what = f"{name}, seed {seed}, {of['method']}"
            try:
                found = one_run(task, seed, of["method"], options.common)
            except Exception as error:  # the others go on; this one has no line in the file
                print(f"{what}: FAILED: {error!r}", flush=True)
                n_failed += 1
                continue
            file.add(of | found | {"code": code})
            print(f"{what}: {found.get('accuracy', '')} {found['cpu_seconds']:.1f} s", flush=True)
    return n_failed


def one_run(task: Task, seed: int, method: str, common: dict[str, Any]) -> dict[str, Any]:
    """Make a run of a method or of the grid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if method == GRID:
            return run_grid(task, seed, common)
        return run_method(task, seed, METHODS[method], common)


# --------------------------------------------------------------------------------------
# The tables


def as_methods(runs: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the runs of methods, including those that come with the grid."""
    for run in runs:
        if run["method"] != GRID:
            yield run
            continue
        settings = run["settings"]
        place = {"task": run["task"], "seed": run["seed"]}
        of_trials = run["cpu_seconds_of_trials"]
        retrained = [found for found in settings if "accuracy" in found]
        of_one = (run["cpu_seconds"] - of_trials) / len(retrained)
        by_setting = {place_of(found): found for found in retrained}
        for name, setting in FIXED.items():
            yield place | by_setting[setting] | {"method": name, "trainings": 1, "cpu_seconds": of_one}
        among = {GRID: settings[:-1], "grid or none": settings}
        for name, tried in among.items():
            paid = {"trainings": len(tried) + 1, "cpu_seconds": of_trials + of_one}
            yield place | best_of(tried) | {"method": name} | paid
        if len(retrained) == len(settings):
            best = max(among[GRID], key=lambda found: found["accuracy"])
            yield place | best | {"method": "oracle", "trainings": np.nan, "cpu_seconds": np.nan}


class Comparison:
    """Paired differences of the methods, by task.

    Parameters
    ----------
    runs : iterable of dict
    shown : list of str or None, default=None
        The methods to show, in addition to those that come with the grid. None: all.
    """

    def __init__(self, runs: Iterable[dict[str, Any]], shown: list[str] | None = None):
        self._runs = {(r["method"], r["task"], r["seed"]): r for r in as_methods(runs)}
        found = dict.fromkeys(method for method, _, _ in self._runs)
        wanted = [*_WITH_GRID, *(METHODS if shown is None else shown)]
        self.methods = sorted(found.keys() & set(wanted), key=wanted.index)
        found = {task for _, task, _ in self._runs}
        self.tasks = sorted(found, key=lambda name: (TASKS[name].kept_back, list(TASKS).index(name)))

    def values(self, method: str, task: str, column: str) -> dict[int, float]:
        """Return a column by seed."""
        return {s: r[column] for (m, t, s), r in self._runs.items() if (m, t) == (method, task)}

    def difference(
        self, method: str, task: str, to: str = GRID, column: str = "accuracy"
    ) -> tuple[float, float]:
        """Return the mean over the seeds that both have, and its standard error."""
        own, other = self.values(method, task, column), self.values(to, task, column)
        return mean_and_error([own[seed] - other[seed] for seed in own.keys() & other.keys()])

    def over(
        self, method: str, tasks: Iterable[str], to: str = GRID, column: str = "accuracy"
    ) -> tuple[float, float]:
        """Return the mean of the differences over tasks, and its standard error."""
        found = (self.difference(method, task, to, column)[0] for task in tasks)
        return mean_and_error(mean for mean in found if not np.isnan(mean))

    def below(self, method: str, to: str) -> str:
        """Return in how many tasks a method is below another by more than one standard error, as text."""
        found = [self.difference(method, task, to) for task in self.tasks]
        found = [(mean, error) for mean, error in found if not np.isnan(mean)]
        return f"{sum(mean < -error for mean, error in found)} of {len(found)}"

    def mean(self, method: str, column: str) -> float:
        """Return the mean over the tasks of the mean over the seeds."""
        found = (list(self.values(method, task, column).values()) for task in self.tasks)
        return mean_and_error(np.mean(values) for values in found if values)[0]

    def count(self, method: str, column: str) -> int:
        """Return the number of runs in which a column is true."""
        return sum(r[column] for (m, _, _), r in self._runs.items() if m == method)


def mean_and_error(values: Iterable[float]) -> tuple[float, float]:
    """Return the mean and its standard error; NaN if there are too few values."""
    found = np.array(list(values), dtype=float)
    if not len(found):
        return np.nan, np.nan
    return float(found.mean()), float(found.std(ddof=1) / np.sqrt(len(found))) if len(found) > 1 else np.nan


def tables(comparison: Comparison) -> str:
    """Return the differences to the grid by task, and a summary by method."""
    return "\n".join([*_by_task(comparison), "", *_by_method(comparison)])


def _by_task(comparison: Comparison) -> Iterator[str]:
    tasks, methods = comparison.tasks, [method for method in comparison.methods if method != GRID]
    yield "Accuracy minus the grid's, in thousandths, mean ± standard error over the seeds. * kept back"
    yield from (f"  {k:2} {method}" for k, method in enumerate(methods, 1))
    yield f"{'task':44}{'grid':>6}" + "".join(f"{k:>14}" for k in range(1, len(methods) + 1))
    for task in tasks:
        level = np.mean(list(comparison.values(GRID, task, "accuracy").values()) or [np.nan])
        cells = "".join(_thousandths(*comparison.difference(method, task)) for method in methods)
        yield f"{task + ' *' * TASKS[task].kept_back:44}{level:6.3f}{cells}"
    for title, kinds in (("development", (False,)), ("kept back", (True,)), ("all", (False, True))):
        of_kind = [task for task in tasks if TASKS[task].kept_back in kinds]
        cells = "".join(_thousandths(*comparison.over(method, of_kind)) for method in methods)
        yield f"{f'mean of {title} tasks ± SE over tasks':50}{cells}"


def _by_method(comparison: Comparison) -> Iterator[str]:
    yield "Means over the tasks; differences of accuracy and log loss in thousandths."
    yield "Below: the tasks in which the difference is below zero by more than one standard error."
    head = ("accuracy", "log loss", "trainings", "CPU s", "- grid", "- none", "log l. - grid")
    head += ("below grid", "below none", "constant", "diverged")
    yield f"{'method':26}" + "".join(f"{title:>14}" for title in head)
    for method in comparison.methods:
        means = [comparison.mean(method, column) for column in MEANS]
        numbers = [f"{mean:.{digits}f}" for mean, digits in zip(means, MEANS.values(), strict=True)]
        of = ((GRID, "accuracy"), ("none", "accuracy"), (GRID, "log_loss"))
        numbers += [_thousandths(*comparison.over(method, comparison.tasks, *to)) for to in of]
        numbers += [comparison.below(method, to) for to in (GRID, "none")]
        numbers += [str(comparison.count(method, column)) for column in ("constant", "diverged")]
        yield f"{method:26}" + "".join(f"{number:>14}" for number in numbers)


def _thousandths(mean: float, error: float) -> str:
    if np.isnan(mean):
        return f"{'':14}"
    spread = "" if np.isnan(error) else f" ±{1000 * error:.1f}"
    return f"{1000 * mean:+8.1f}{spread:6}"


# The methods that the guide's page shows by task.
SHOWN = (
    "none", "fixed .5 4", "linear", "half, process", "half, process, auto", "shortlist, fresh", "shortlist",
    "grid or none, auto", "oracle",
)  # fmt: skip


def page_tables(comparison: Comparison) -> list[str]:
    """Return the two tables of docs/guide/which_method.rst: by method, and by task."""
    methods = [method for method in comparison.methods if method != GRID]
    by_method = [["", "trainings", "CPU s", "accuracy − grid", "log loss − grid", "below grid", "below none"]]
    for method in methods:
        cost = [comparison.mean(method, "trainings"), comparison.mean(method, "cpu_seconds")]
        counts = [comparison.below(method, to) for to in (GRID, "none")]
        differences = [
            _signed(*comparison.over(method, comparison.tasks, GRID, column))
            for column in ("accuracy", "log_loss")
        ]
        paid = ["" if np.isnan(mean) else f"{mean:.1f}" for mean in cost]
        by_method.append([method, *paid, *differences, *counts])
    shown = [method for method in SHOWN if method in methods]
    by_task = [["", "grid", *shown]]
    for task in comparison.tasks:
        level = np.mean([*comparison.values(GRID, task, "accuracy").values()])
        cells = [_signed(*comparison.difference(method, task)) for method in shown]
        by_task.append([task + " *" * TASKS[task].kept_back, f"{level:.3f}", *cells])
    return [_list_table(by_method), _list_table(by_task)]


def _signed(mean: float, error: float) -> str:
    if np.isnan(mean):
        return ""
    return f"{mean:+.3f}".replace("-", "−") + ("" if np.isnan(error) else f" ± {error:.3f}")


def _list_table(rows: list[list[str]]) -> str:
    lines = [".. list-table::", "   :header-rows: 1", "   :class: numbers", ""]
    for row in rows:
        lines += [f"   {'*' if k == 0 else ' '} - {cell}".rstrip() for k, cell in enumerate(row)]
    return "\n".join(lines) + "\n"


# --------------------------------------------------------------------------------------
# The command line


def arguments() -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, metavar="FILE", help="file of JSON lines; runs are added")
    parser.add_argument("--tasks", nargs="+", help="tasks, 'development', or 'kept back'; default: all")
    parser.add_argument("--methods", nargs="+", choices=[GRID, *METHODS], help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=range(5))
    parser.add_argument(
        "--common", type=json.loads, default={}, help="JSON: further parameters of all students"
    )
    parser.add_argument("--tables", metavar="FOLDER", help="folder of mlbench's .rda files")
    parser.add_argument("--fashion-mnist", metavar="FOLDER", help="folder of fashion-mnist/")
    parser.add_argument("--cifar", metavar="FOLDER", help="folder of cifar-10-batches-py/")
    parser.add_argument("--resnet", metavar="FILE", help="state dict of a ResNet-20 for CIFAR-10")
    parser.add_argument("--table", action="store_true", help="print the tables and train nothing")
    parser.add_argument("--page", action="store_true", help="also print the tables of the guide's page")
    parser.add_argument("--record", action="store_true", help="write search_then_retrain.json")
    options = parser.parse_args()
    if options.runs is None and not (options.table or options.page):
        parser.error("give --runs FILE, --table or --page")
    return options


def chosen_tasks(wanted: list[str] | None, places: Places) -> list[str]:
    """Return the names of the requested tasks that can be loaded."""
    names = available(places)
    if wanted is None:
        return names
    kinds = {"development": False, "kept back": True}
    return [name for name in names if name in wanted or TASKS[name].kept_back in map(kinds.get, wanted)]


def write_record(runs: list[dict[str, Any]]) -> None:
    """Write all runs, one on each line, with settings and versions, beside this file."""
    codes = list({json.dumps(run["code"]): run["code"] for run in runs}.values())
    record = {
        **provenance(__file__),
        "codes": codes,  # which made the runs
        "settings": {
            "validation_fraction": VALIDATION_FRACTION,
            "grid": {"lambda1": LAMBDA1S, "temperature": TEMPERATURES},
            "tasks": {name: asdict(recipe) for name, recipe in TASKS.items()},
        },
        "threads": torch.get_num_threads(),
    }
    lines = [json.dumps(run | {"code": codes.index(run["code"])}) for run in runs]
    head = json.dumps(record, indent=1).removesuffix("\n}")
    RECORD.write_text(f'{head},\n "runs": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n")


def main() -> None:
    """Make runs, print the tables, or write the record."""
    options, n_failed = arguments(), 0
    if options.runs is None:
        runs = json.loads(RECORD.read_text())["runs"]
    else:
        if not (options.table or options.record or options.page):
            places = Places(options.tables, options.fashion_mnist, options.cifar, options.resnet)
            n_failed = run_all(options, chosen_tasks(options.tasks, places), places)
        runs = RunFile(options.runs).runs
    print(tables(Comparison(runs, options.methods)))
    if options.page:
        print("\n".join(page_tables(Comparison(runs, options.methods))))
    if options.record:
        write_record(runs)
    if n_failed:
        sys.exit(f"{n_failed} runs failed; see above.")


if __name__ == "__main__":
    main()
