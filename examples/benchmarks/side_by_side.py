"""Compare this library with MLPClassifier, AutoGluon, deepbridge and compiled teachers, side by side.

Each task is split into test rows (30 %), rows of the teacher (35 %) and rows of the student (35 %). A fifth
of the student's rows has labels. "more rows": the teacher is fitted on its own rows. "same rows": it is
fitted on the student's labeled rows. The teacher is a random forest of 300 trees, and on the text set a
logistic regression. Nothing is chosen by test rows. All settings are defaults, except those named here:

- this library: ``DistilledClassifier(FrozenEstimator(teacher), MLPStudent)``, the default, fitted on the
  labeled rows, and with ``X_unlabeled``; and with ``meta`` "linear", "naive" and "none" in a single run;
- MLPClassifier behind a StandardScaler, with its own width of 100 and with the student's 256, fitted on the
  labels, and on the labels and the teacher's hard labels of the rows without one;
- AutoGluon: ``TabularPredictor.distill`` into LightGBM and its neural network; its best student by its own
  held-out rows; its teacher is AutoGluon's forest of 300 trees. It gets the unlabeled rows as
  ``augmentation_data``, and makes rows up if there are none. It has one seed, because a run takes minutes;
- deepbridge: ``KnowledgeDistillation`` into boosted trees, 10 trials. It refuses more than two classes, and
  unlabeled rows.

AutoGluon and deepbridge run in their own interpreters, and only if these are named. CPU times are those of
one thread; the time of a fit includes the teacher's answers, but not its training. ``--part speed`` measures
the time of a prediction, with all models of a task in turn in one process.

    python examples/benchmarks/side_by_side.py --mlbench FOLDER --fashion FOLDER --autogluon PYTHON \\
        --deepbridge PYTHON --part all --table

The folders are those of ``training_defaults.py``. The runs are kept in side_by_side.json beside this file; a
script that was stopped resumes. ``--table`` writes the tables into docs/guide/side_by_side.rst. ``--part
speed`` needs skl2onnx, onnxruntime, treelite and tl2cgen.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from functools import lru_cache
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _measure import PROCESS, replace_tables, use_process_settings
from _tasks import IMAGES, Folders, source
from sklearn.base import ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_kd import DistilledClassifier, MLPStudent

sys.path.append(str(Path(__file__).parents[1] / "paper"))
from _protocol import Runs, arguments, list_table, number

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "guide" / "side_by_side.rst"
TEXT = "docstrings"
FURTHER = ("networkx", "sympy")  # packages whose texts are read, beside those of every record
TASKS = (
    "breast cancer",
    "diabetes",
    "vehicle",
    "vowel",
    "digits",
    "DNA",
    "satellite",
    "letter",
    IMAGES,
    TEXT,
)
MOST_ROWS = 10_000
TEACHERS = ("more rows", "same rows")
SMALLEST = 1e-6  # probability, in the log loss
SEEDS_OF_AUTOGLUON = 1

DEFAULT = "shortlist"
OURS, WIDTHS = ("linear", "naive", "none"), (100, 256)
LABELS, HARD = "MLPClassifier {}, labels", "MLPClassifier {}, hard labels"
AUTOGLUON, DEEPBRIDGE = "AutoGluon", "deepbridge"
TEACHER = "the teacher"


class Cell(NamedTuple):
    """Rows of one task and seed, and a fitted teacher."""

    X: np.ndarray
    y: np.ndarray
    X_unlabeled: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    X_teacher: np.ndarray
    y_teacher: np.ndarray
    teacher: ClassifierMixin


@lru_cache(maxsize=1)
def cell(task: str, taught: str, seed: int, folders: Folders) -> Cell:
    """Split a task and fit its teacher."""
    X, y = source(task, folders)
    X = X.reshape(len(X), -1).astype(np.float64)
    if len(X) > MOST_ROWS:
        X, _, y, _ = train_test_split(X, y, train_size=MOST_ROWS, stratify=y, random_state=seed)
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=seed)
    X_more, X, y_more, y = train_test_split(X, y, test_size=0.5, stratify=y, random_state=seed)
    X, X_unlabeled, y, _ = train_test_split(X, y, train_size=0.2, stratify=y, random_state=seed)
    X_teacher, y_teacher = (X_more, y_more) if taught == "more rows" else (X, y)
    if task == TEXT:
        teacher = LogisticRegression(C=10, max_iter=1000)
    else:
        teacher = RandomForestClassifier(300, random_state=seed)
    return Cell(X, y, X_unlabeled, X_test, y_test, X_teacher, y_teacher, teacher.fit(X_teacher, y_teacher))


# --------------------------------------------------------------------------------------
# The contenders


def fitted(of: Cell, method: str, unlabeled: bool, seed: int):
    """Return a fitted model of this library or of scikit-learn."""
    if method == DEFAULT:
        student = DistilledClassifier(
            FrozenEstimator(of.teacher), MLPStudent, device="cpu", random_state=seed
        )
        return student.fit(of.X, of.y, **({"X_unlabeled": of.X_unlabeled} if unlabeled else {}))
    if method in OURS:
        student = DistilledClassifier(
            FrozenEstimator(of.teacher), MLPStudent, meta=method, validation_fraction=0.1, search_epochs=None,
            device="cpu", random_state=seed,
        )  # fmt: skip
        return student.fit(of.X, of.y, **({"X_unlabeled": of.X_unlabeled} if unlabeled else {}))
    X, y = of.X, of.y
    width = next(width for width in WIDTHS if str(width) in method)
    if unlabeled:
        X, y = np.vstack([X, of.X_unlabeled]), np.append(y, of.teacher.predict(of.X_unlabeled))
    return make_pipeline(StandardScaler(), MLPClassifier((width,), random_state=seed)).fit(X, y)


def size_of(model) -> int:
    """Return the bytes of a pickle of the parts that predict."""
    return len(pickle.dumps(getattr(model, "student_", model)))


def one_run(
    task, teacher, seed, method, unlabeled, mlbench=None, images=None, autogluon=None, deepbridge=None
):
    """Return accuracy, log loss, agreement with the teacher, CPU seconds and bytes, or an error."""
    of = cell(task, teacher, seed, Folders(mlbench, images))
    peers = {AUTOGLUON: autogluon, DEEPBRIDGE: deepbridge}
    if method in peers:
        return by_peer(of, method.lower(), peers[method], unlabeled)
    answers = of.teacher.predict_proba(of.X_test)
    if method == TEACHER:
        return judged(of, answers, answers) | {"bytes": size_of(of.teacher), "rows": len(of.X)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        began = time.process_time()
        model = fitted(of, method, unlabeled, seed)
        seconds = time.process_time() - began
    return judged(of, model.predict_proba(of.X_test), answers) | {"cpu": seconds, "bytes": size_of(model)}


def judged(of: Cell, probabilities: np.ndarray, answers: np.ndarray) -> dict:
    """Return the scores of probabilities on the test rows, and their agreement with a teacher's."""
    classes, chosen = of.teacher.classes_, probabilities.argmax(axis=1)
    clipped = np.clip(probabilities, SMALLEST, 1)
    return {
        "accuracy": float((classes[chosen] == of.y_test).mean()),
        "log loss": float(log_loss(of.y_test, clipped / clipped.sum(axis=1, keepdims=True), labels=classes)),
        "agreement": float((chosen == answers.argmax(axis=1)).mean()),
    }


def by_peer(of: Cell, library: str, python: str, unlabeled: bool) -> dict:
    """Run another library's distillation in its own interpreter."""
    rows = {name: getattr(of, name) for name in ("X", "y", "X_teacher", "y_teacher", "X_test")}
    rows["X_unlabeled"] = of.X_unlabeled if unlabeled else of.X_unlabeled[:0]
    rows |= {"answers": of.teacher.predict_proba(of.X), "answers_test": of.teacher.predict_proba(of.X_test)}
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "rows.npz", Path(folder) / "found.npz"
        np.savez(given, **rows)
        command = [python, str(HERE / "_side_by_side_peers.py"), library, str(given), str(found)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=3600)
        if done.returncode:
            return {"error": done.stderr.strip().splitlines()[-1]}
        with np.load(found, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            return judged(of, file["probabilities"], file["teacher"]) | about


def wanted(options):
    """Yield the settings of the runs, AutoGluon's last; those of one teacher follow each other."""
    arms = [(TEACHER, False), *((meta, False) for meta in OURS)]
    arms += [(LABELS.format(width), False) for width in WIDTHS]
    arms += [(meta, True) for meta in OURS[:2]] + [(HARD.format(width), True) for width in WIDTHS]
    arms += [(DEFAULT, False), (DEFAULT, True)]
    arms += [(DEEPBRIDGE, False)] if options.deepbridge else []
    yield from in_cells(options, range(options.runs), arms)
    if options.autogluon:
        seeds = range(min(options.runs, SEEDS_OF_AUTOGLUON))
        yield from in_cells(options, seeds, [(AUTOGLUON, False), (AUTOGLUON, True)])


def in_cells(options, seeds, arms):
    """Yield the settings of some arms."""
    folders = Folders(options.mlbench, options.fashion)
    for seed, task, taught in product(seeds, filter(folders.has, TASKS), TEACHERS):
        for method, unlabeled in arms:
            yield {
                "task": task, "teacher": taught, "seed": seed, "method": method, "unlabeled": unlabeled,
            }  # fmt: skip


# --------------------------------------------------------------------------------------
# Tables

MEASURES = {"accuracy": "accuracy", "log loss": "log loss", "agreement": "agreement", "cpu": "CPU s"}
# Method, and whether it got the unlabeled rows.
ROWS = [
    (TEACHER, False),
    ("none", False),
    (DEFAULT, False),
    ("linear", False),
    ("naive", False),
    (LABELS.format(100), False),
    (LABELS.format(256), False),
    (DEEPBRIDGE, False),
    (AUTOGLUON, False),
    (DEFAULT, True),
    ("linear", True),
    ("naive", True),
    (HARD.format(100), True),
    (HARD.format(256), True),
    (AUTOGLUON, True),
]
PAIRS = [
    ((DEFAULT, True), ("none", False)),
    ((DEFAULT, True), (HARD.format(256), True)),
    ((DEFAULT, True), (AUTOGLUON, True)),
    ((DEFAULT, False), ("none", False)),
    ((DEFAULT, False), (LABELS.format(256), False)),
    (("linear", True), ("none", False)),
    (("naive", True), ("none", False)),
    (("linear", True), (HARD.format(256), True)),
    (("naive", True), (HARD.format(256), True)),
    (("linear", True), (LABELS.format(256), False)),
    (("linear", True), (AUTOGLUON, True)),
    (("naive", True), (AUTOGLUON, True)),
    (("linear", False), ("none", False)),
    (("naive", False), ("none", False)),
    (("linear", False), (LABELS.format(256), False)),
    (("linear", False), (AUTOGLUON, False)),
]


def named(arm) -> str:
    """Return the name of an arm in the tables."""
    method, unlabeled = arm
    return f"{method} + unlabeled" if unlabeled and "hard" not in method else method


def found_by(runs, taught):
    """Return arm → task → its runs by seed."""
    found = defaultdict(lambda: defaultdict(list))
    for run in sorted(runs, key=lambda run: run["setting"]["seed"]):
        setting = run["setting"]
        if setting.get("teacher") == taught and "error" not in run:
            found[setting["method"], setting["unlabeled"]][setting["task"]].append(run)
    return found


def mean_and_error(values) -> str:
    """Format as ".912 ± .004": mean and standard error, the latter from three values on."""
    error = f" ± {number(np.std(values, ddof=1) / len(values) ** 0.5)}" if len(values) > 2 else ""
    return number(np.mean(values)) + error


def by_task(runs, taught, measure):
    """Return the table of one measure: a row for each method, a column for each task."""
    found = found_by(runs, taught)
    tasks = [task for task in TASKS if task in found[TEACHER, False]]
    rows = []
    for arm in ROWS:
        cells = [[run[measure] for run in found[arm][task]] for task in tasks]
        if any(cells) and not (measure == "agreement" and arm[0] == TEACHER):
            rows.append([named(arm), *(mean_and_error(values) if values else "–" for values in cells)])
    return list_table(["", *tasks], rows)


def means(runs):
    """Return the table of the means over the tasks, of the arms that ran on all of them."""
    found = [found_by(runs, taught) for taught in TEACHERS]
    n_tasks = len(found[0][TEACHER, False])
    rows = []
    for arm in ROWS:
        cells = [mean_over_tasks(of[arm], measure, n_tasks) for measure in MEASURES for of in found]
        if set(cells) != {"–"}:
            rows.append([named(arm), *cells])
    return list_table(["", *(f"{text}, {taught}" for text in MEASURES.values() for taught in TEACHERS)], rows)


def mean_over_tasks(by_task, measure, n_tasks) -> str:
    """Format the mean over the tasks of one arm; "–" where some were not measured."""
    per_task = [np.mean([run.get(measure, np.nan) for run in of_task]) for of_task in by_task.values()]
    if len(per_task) < n_tasks or not np.isfinite(per_task).all():
        return "–"
    return f"{np.mean(per_task):.1f}" if measure == "cpu" else number(np.mean(per_task))


def differences(runs):
    """Return the table of paired differences in accuracy: mean over the tasks, and tasks ahead and behind.

    The error is that of the mean over the tasks. Ahead: by two standard errors of the seeds or more.
    """
    found = {taught: found_by(runs, taught) for taught in TEACHERS}
    rows = []
    for one, other in PAIRS:
        cells = [cell for of in found.values() for cell in difference(of[one], of[other])]
        rows.append([f"{named(one)} − {named(other)}", *cells])
    return list_table(["", *(part for taught in TEACHERS for part in (taught, "ahead, behind"))], rows)


def difference(one, other):
    """Format the mean over the tasks of one arm minus another, and the tasks ahead and behind."""
    by_task = [d for task in TASKS if len(d := paired(one[task], other[task]))]
    if len(by_task) < 2:
        return "–", "–"
    means = [d.mean() for d in by_task]
    error = np.std(means, ddof=1) / len(means) ** 0.5
    text = f"{number(np.mean(means), sign=True)} ± {number(error)}"
    if min(map(len, by_task)) < 3:
        return text, "–"
    errors = [np.std(d, ddof=1) / len(d) ** 0.5 + 1e-9 for d in by_task]
    t = np.divide(means, errors)
    return text, f"{(t > 2).sum()}, {(t < -2).sum()} of {len(t)}"


def paired(one, other):
    """Return the differences in accuracy of runs with the same seed."""
    accuracy = {run["setting"]["seed"]: run["accuracy"] for run in other}
    return np.array(
        [run["accuracy"] - accuracy[s] for run in one if (s := run["setting"]["seed"]) in accuracy]
    )


def errors(runs):
    """Return the errors of the libraries that did not run: message → its tasks."""
    found = defaultdict(set)
    for run in runs:
        if "error" in run:
            found[run["setting"]["method"], run["error"]].add(run["setting"]["task"])
    return found


def tables(record):
    """Return the tables of the documentation by the mark above them."""
    runs = [run for run in record["runs"] if "method" in run["setting"]]
    made = {"differences": differences(runs), "means": means(runs)}
    for measure in ("accuracy", "log loss", "agreement"):
        for taught in TEACHERS:
            made[f"{measure}, {taught}"] = by_task(runs, taught, measure)
    from _side_by_side_speed import speed_table

    return made | {"speed": speed_table(record["runs"])}


def main():
    options = arguments(
        __doc__, __file__, runs=5, length=("epochs", None), quick=(1, None),
        mlbench={"metavar": "FOLDER", "help": "folder of mlbench's .rda files"},
        fashion={"metavar": "FOLDER", "help": "folder of the four files of Fashion-MNIST"},
        autogluon={"metavar": "PYTHON", "help": "an interpreter that has autogluon.tabular and torch"},
        deepbridge={"metavar": "PYTHON", "help": "an interpreter that has deepbridge-distillation"},
        part={"choices": ("accuracy", "speed", "all"), "default": "accuracy"},
        table={"action": "store_true", "help": "write the tables into the documentation"},
    )  # fmt: skip
    use_process_settings()
    runs = Runs.of_script(options, {"process": PROCESS, "texts": {name: version(name) for name in FURTHER}})
    given = {"mlbench": options.mlbench, "images": options.fashion}
    if options.part != "speed":
        peers = {"autogluon": options.autogluon, "deepbridge": options.deepbridge}
        runs.of(one_run, wanted(options), options.jobs, **given, **peers)
    if options.part != "accuracy":
        from _side_by_side_speed import one_speed, speeds_wanted

        runs.of(one_speed, speeds_wanted(options), options.jobs, **given)
    made = tables({"runs": runs.all()})
    for mark, table in made.items():
        print(f"{mark}\n\n{table}")
    for (method, said), tasks in errors(runs.all()).items():
        print(f"{method}: {said} ({', '.join(sorted(tasks))})")
    if options.table:
        replace_tables(PAGE, made)


if __name__ == "__main__":
    main()
