"""Choose the defaults of training by validation rows, and compare them with MLPClassifier by test rows.

The tasks are tables of scikit-learn and of R's package mlbench, two generated ones, and docstrings of
installed packages, with 105 to 40,600 training rows, and 2,800 images (``_tasks.py``). Some keep their
columns unscaled ("raw"), and some have 20 or 30 % wrong training labels. The library's students scale the
columns themselves (``standardize=True``), except with the former defaults. MLPClassifier gets them as they
are.

``--judge valid`` trains the candidates on four fifths of the training rows and evaluates on the last fifth;
the test rows are not read. ``--judge test`` trains the chosen defaults and MLPClassifier on all training
rows and evaluates on the test rows, 30 % of all. The split, the flips and the initial weights differ by seed.
Times are CPU times of ``fit`` in one process and one thread, which keeps freed memory. They leave out the
teacher: its answers are passed as ``teacher_logits``.

    python examples/benchmarks/training_defaults.py --judge valid --mlbench FOLDER
    python examples/benchmarks/training_defaults.py --judge test --mlbench FOLDER --table

The folder of --mlbench has mlbench's .rda files: those of Debian's package r-cran-mlbench, unpacked by
``dpkg -x``. Reading them needs pyreadr. ``--fashion`` names the folder of Fashion-MNIST's four files. Without
a folder its tasks are left out. The runs are kept in training_defaults.json beside this file; a script that
was stopped resumes. ``--table`` writes the tables into docs/guide/defaults.rst.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import defaultdict
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import torch
from _measure import PROCESS, replace_tables, use_process_settings
from _tasks import IMAGES, Folders, Task, draw
from sklearn.ensemble import RandomForestClassifier
from sklearn.neural_network import MLPClassifier

from sklearn_kd import CNNStudent, DistilledClassifier, MLPStudent

sys.path.append(str(Path(__file__).parents[1] / "paper"))
from _protocol import Runs, arguments, list_table, number

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "defaults.rst"
TASKS = [
    Task("iris"),
    Task("wine"),
    Task("wine", scaled=False),
    Task("breast cancer"),
    Task("breast cancer", scaled=False),
    Task("vehicle"),
    Task("vowel"),
    Task("vowel", flipped=0.2),
    Task("digits"),
    Task("digits", flipped=0.3),
    Task("DNA"),
    Task("text"),
    Task("made, 5,000"),
    Task("satellite"),
    Task("satellite", scaled=False),
    Task("satellite", flipped=0.3),
    Task("made, 20,000"),
    Task("letter"),
    Task("shuttle"),
    Task(IMAGES),
    Task(IMAGES, flipped=0.3),
]
MLP, STOPPED, CHOSEN = "MLPClassifier", "MLPClassifier, early stopping", "the defaults"
# The defaults until version 0.1, for comparison.
FORMER = {
    "optimizer": torch.optim.SGD, "lr": 0.1, "max_epochs": 200, "batch_size": 128, "student__hidden": 32,
    "standardize": False,
}  # fmt: skip
NONE = {"meta": "none"}
CANDIDATES = {
    CHOSEN: NONE,
    "lr 1e-3": NONE | {"lr": 1e-3},
    "lr 1e-2": NONE | {"lr": 1e-2},
    "20 epochs": NONE | {"max_epochs": 20},
    "45 epochs": NONE | {"max_epochs": 45},
    "batches of 128": NONE | {"batch_size": 128},
    "width 128": NONE | {"student__hidden": 128},
    "AdamW, decay 0.3": NONE | {"optimizer": torch.optim.AdamW, "optimizer__weight_decay": 0.3},
}
COMPARED = {
    CHOSEN: NONE,
    "former defaults": NONE | FORMER,
    "fixed (.5, 4)": {"meta": "fixed", "temperature": 4.0},
    "linear": {"meta": "linear", "search_epochs": None, "validation_fraction": 0.1},
}
TAUGHT = ("fixed (.5, 4)", "linear")
# The former defaults take long, and so do the largest tasks: few seeds of them.
SEEDS_OF_FORMER, SEEDS_OF_CHOICE, SEEDS_OF_LARGEST = 1, 2, 2
LARGEST = ("satellite", "text", "made, 20,000", "letter", "shuttle", IMAGES)
FEW = {"valid": (MLP, *CANDIDATES), "test": ("former defaults",)}
_SCIKIT = {MLP: {}, STOPPED: {"early_stopping": True}}


def one_run(task, arm, seed, judge, mlbench, images):
    """Return accuracy, CPU seconds, epochs, and whether one class is predicted for all rows."""
    task, folders = Task(**task), Folders(mlbench, images)
    rows = draw(task, seed, judge, folders)
    X, X_judge = rows.X, rows.X_judge
    given = {}
    if arm in _SCIKIT:
        X, X_judge = X.reshape(len(X), -1), X_judge.reshape(len(X_judge), -1)
        model = MLPClassifier(random_state=seed, **_SCIKIT[arm])
    else:
        student, params = MLPStudent, dict((COMPARED | CANDIDATES)[arm])
        if task.source == IMAGES:
            student = CNNStudent
            params.pop("student__hidden", None)
        model = DistilledClassifier(None, student, random_state=seed, device="cpu", **params)
        if arm in TAUGHT:
            given = {"teacher_logits": _answers(task, seed, judge, folders)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.process_time()
        model.fit(X, rows.y, **given)
        seconds = time.process_time() - start
    predicted = model.predict(X_judge)
    return {
        "accuracy": round(float((predicted == rows.y_judge).mean()), 5),
        "seconds": round(seconds, 4),
        "epochs": model.n_iter_ if arm in _SCIKIT else len(model.history_),
        "constant": len(np.unique(predicted)) == 1,
        "rows": len(X),
    }


@cache
def _answers(task, seed, judge, folders):
    """Return the logits of a forest fitted on the student's own rows."""
    rows = draw(task, seed, judge, folders)
    X = rows.X.reshape(len(rows.X), -1)
    forest = RandomForestClassifier(100, random_state=seed).fit(X, rows.y)
    return np.log(np.clip(forest.predict_proba(X), 1e-4, 1))


def wanted(options):
    """Yield the settings of the runs, the largest tasks last."""
    choosing, folders = options.judge == "valid", Folders(options.mlbench, options.fashion)
    for large, seed, task in product((False, True), range(options.runs), TASKS):
        if (task.source in LARGEST) != large or not folders.has(task.source):
            continue
        if large and (choosing or seed >= SEEDS_OF_LARGEST):
            continue
        for arm in [MLP, *CANDIDATES] if choosing else [MLP, STOPPED, *COMPARED]:
            if seed < (SEEDS_OF_CHOICE if choosing else SEEDS_OF_FORMER) or arm not in FEW[options.judge]:
                yield {"task": task._asdict(), "arm": arm, "seed": seed, "judge": options.judge}


# --------------------------------------------------------------------------------------
# Tables


def by_arm(runs, judge, wanted_arms):
    """Return task → arm → its runs by seed, for the tasks of which all arms have been run."""
    cells = defaultdict(lambda: defaultdict(list))
    for run in sorted(runs, key=lambda run: run["setting"]["seed"]):
        setting = run["setting"]
        if setting["judge"] == judge:
            cells[Task(**setting["task"])][setting["arm"]].append(run)
    return {task: cells[task] for task in TASKS if set(wanted_arms) <= set(cells[task])}


def differences(runs, base):
    """Return mean and standard error of the differences in accuracy of runs of the same seeds."""
    pairs = zip(runs, base, strict=False)  # a run that is in progress may have done one arm more often
    d = np.array([run["accuracy"] - of_base["accuracy"] for run, of_base in pairs])
    return float(d.mean()), float(d.std(ddof=1) / len(d) ** 0.5) if len(d) > 1 else float("nan")


def time_ratio(runs, base):
    """Return the ratio of the CPU times of all runs of the same seeds."""
    n = min(len(runs), len(base))
    return sum(run["seconds"] for run in runs[:n]) / sum(run["seconds"] for run in base[:n])


def comparison(runs):
    """Return the table of the test rows: accuracy of MLPClassifier, differences to it, ratios of times."""
    shown, means, ratios = [], defaultdict(list), defaultdict(list)
    arms_shown = (CHOSEN, "fixed (.5, 4)", "linear", STOPPED, "former defaults")
    for task, arms in by_arm(runs, "test", (MLP, *arms_shown)).items():
        base = arms[MLP]
        row = [
            str(task),
            f"{base[0]['rows']:,}",
            str(len(base)),
            number(np.mean([run["accuracy"] for run in base])),
        ]
        for arm in arms_shown:
            mean, error = differences(arms[arm], base)
            means[arm].append(mean)
            row.append(number(mean, sign=True) + (f" ± {number(error)}" if len(arms[arm]) > 2 else ""))
        row.append(f"{np.mean([run['seconds'] for run in base]):.2f}")
        for arm in (CHOSEN, "linear"):
            ratios[arm].append(time_ratio(arms[arm], base))
            row.append(f"{ratios[arm][-1]:.2f}")
        shown.append(row)
    last = [number(np.mean(means[arm]), sign=True) for arm in arms_shown]
    shown.append(["mean", "", "", "", *last, "", *(f"{geometric(ratios[arm]):.2f}" for arm in ratios)])
    header = [
        "",
        "rows",
        "seeds",
        MLP,
        "none",
        "fixed (.5, 4)",
        "linear",
        "its early stopping",
        "none, former",
    ]
    return list_table([*header, "seconds", "none, time", "linear, time"], shown)


def selection(runs):
    """Return the table of the validation rows: mean difference to MLPClassifier, the worst, and time.

    It covers only the tasks whose columns are scaled: on the others MLPClassifier hardly learns.
    """
    found = by_arm(runs, "valid", (MLP, *CANDIDATES))
    cells = {task: arms for task, arms in found.items() if task.scaled}
    shown = []
    for arm in CANDIDATES:
        pairs = [(arms[arm], arms[MLP]) for arms in cells.values()]
        means = [differences(*pair)[0] for pair in pairs]
        worst = list(cells)[int(np.argmin(means))]
        ratios = [time_ratio(*pair) for pair in pairs]
        least = f"{number(min(means), sign=True)} ({worst})"
        shown.append([arm, number(np.mean(means), sign=True), least, f"{geometric(ratios):.2f}"])
    return list_table(["", "mean", "worst", "time"], shown)


def geometric(values):
    """Return the geometric mean."""
    return float(np.exp(np.mean(np.log(values))))


def tables(record):
    """Return the tables of the documentation by the mark above them, for each --judge that has runs."""
    asked = {run["setting"]["judge"] for run in record["runs"]}
    made = {"valid": ("selection", selection), "test": ("comparison", comparison)}
    return {mark: table(record["runs"]) for judge, (mark, table) in made.items() if judge in asked}


def main():
    options = arguments(
        __doc__, __file__, runs=5, length=("epochs", None), quick=(1, 2),
        judge={"choices": ("valid", "test"), "default": "test"},
        mlbench={"metavar": "FOLDER", "help": "folder of mlbench's .rda files"},
        fashion={"metavar": "FOLDER", "help": "folder of the four files of Fashion-MNIST"},
        table={"action": "store_true", "help": "write the tables into the documentation"},
    )  # fmt: skip
    use_process_settings()
    runs = Runs.of_script(
        options, {"process": PROCESS, "former": {name: str(value) for name, value in FORMER.items()}}
    )
    with warnings.catch_warnings():  # the first fit of a process imports much
        warnings.simplefilter("ignore")
        DistilledClassifier(None, MLPStudent, max_epochs=1, device="cpu").fit(
            *draw(Task("iris"), 0, "valid", Folders())[:2], teacher_logits=np.zeros((84, 3))
        )
    runs.of(one_run, wanted(options), options.jobs, mlbench=options.mlbench, images=options.fashion)
    made = tables({"runs": runs.all()})
    print(*made.values(), sep="\n")
    if options.table:
        replace_tables(PAGE, made)


if __name__ == "__main__":
    main()
