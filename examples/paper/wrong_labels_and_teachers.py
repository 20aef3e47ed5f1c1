"""Measure accuracy by the share of wrong labels, and by the share of wrong predictions of the teacher.

The figures are not in the paper, but have the form of its figures. The digits are divided into 600 rows for
the teacher, an MLP of 128; 300 for the student, an MLP of 32; 150 with right labels as D_val; and 374 for the
test (373 others are the evaluation rows of defaults.py, with other seeds). Either labels are flipped to
another class at random, or in a share of the teacher's predictions the first class changes places with
another one. All settings are the library's defaults. Each seed has its own split, teacher and initialisation,
the same for all methods. "D_val trained on too" also trains on the 150 rows of D_val.

docs/guide/wrong_labels.rst discusses the run beside this file.

    OMP_NUM_THREADS=1 python examples/paper/wrong_labels_and_teachers.py

It prints the tables, draws wrong_labels_and_teachers.png and writes every run to the JSON, beside this file.
"""

from __future__ import annotations

from collections import defaultdict

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from _problems import TRAINING, WIDTH, draw
from _protocol import LOOKS, METHODS, Runs, arguments, band, interval, list_table, mean_sd, paired

from sklearn_kd import DistilledClassifier, MLPStudent

matplotlib.use("Agg")
SHARES = {"flipped": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6), "wrong": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)}
TITLES = {"flipped": "share of the labels flipped", "wrong": "share of the teacher's answers wrong"}
FIXED = "fixed (.5, 4)"
TOO = f"{FIXED}, D_val trained on too"
ARMS = {method: {"meta": method} for method in METHODS}
ARMS |= {arm: {"meta": "fixed", "temperature": 4.0} for arm in (FIXED, TOO)}
STYLES = LOOKS | {FIXED: {"color": "black"}, TOO: {"color": "black", "linestyle": "--"}}
FIRST_SEED = 100


def one_run(what, share, arm, seed, epochs):
    """Return the test accuracy, and the final metaparameters."""
    problem = draw("digits", seed, **{what: share})
    (X, y), (X_val, y_val), logits = problem.train, problem.valid, problem.logits
    student = DistilledClassifier(
        None,
        MLPStudent,
        max_epochs=epochs,
        search_epochs=None,
        random_state=seed,
        device="cpu",
        **(TRAINING | WIDTH | ARMS[arm]),
    )
    if arm == TOO:
        X, y = np.concatenate([X, X_val]), np.concatenate([y, y_val])
        student.fit(X, y, teacher_logits=np.concatenate([logits, problem.valid_logits]))
    else:
        student.fit(X, y, teacher_logits=logits, X_val=X_val, y_val=y_val)
    return {
        "accuracy": student.score(*problem.test),
        "lambda1": round(student.lambda1_, 4),
        "temperature": round(student.temperature_, 4),
    }


def wanted(options):
    for seed in range(FIRST_SEED, FIRST_SEED + options.runs):
        for what, shares in SHARES.items():
            for share in shares:
                for arm in ARMS:
                    yield {"what": what, "share": share, "arm": arm, "seed": seed, "epochs": options.epochs}


def by_cell(runs, value="accuracy"):
    """Return (what, arm) → share → the value of each seed."""
    cells = defaultdict(lambda: defaultdict(list))
    for run in runs:
        setting = run["setting"]
        cells[setting["what"], setting["arm"]][setting["share"]].append(run[value])
    return cells


def tables(record):
    """Return for each figure: accuracies, differences to fixed (.5, 4), and final lambda1."""
    accuracy, lambda1 = (by_cell(record["runs"], value) for value in ("accuracy", "lambda1"))
    for what, shares in SHARES.items():
        header = ["", *(f"{share:.0%}" for share in shares)]
        yield list_table(header, [[arm, *(mean_sd(accuracy[what, arm][s]) for s in shares)] for arm in ARMS])
        yield list_table(
            header,
            [
                [arm, *(interval(paired(accuracy[what, arm][s], accuracy[what, FIXED][s])) for s in shares)]
                for arm in ARMS
                if arm != FIXED
            ],
        )
        learned = ("gradient", "linear", "hyperopt")
        yield list_table(
            header,
            [
                [f"lambda1, {arm}", *(f"{np.mean(lambda1[what, arm][s]):.2f}" for s in shares)]
                for arm in learned
            ],
        )


def picture(runs, path):
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), sharex="col", sharey="row", height_ratios=(3, 2))
    for values, row, label in (
        (by_cell(runs), axes[0], "accuracy on the test"),
        (by_cell(runs, "lambda1"), axes[1], "lambda1 at the end"),
    ):
        for ax, (what, shares) in zip(row, SHARES.items(), strict=True):
            for arm in ARMS if label.startswith("acc") else ("gradient", "linear", "hyperopt"):
                curves = np.transpose([values[what, arm][share] for share in shares])
                band(ax, shares, curves, label=arm, marker="o", markersize=3, **STYLES[arm])
            ax.set(ylabel=label)
    for ax, what in zip(axes[1], SHARES, strict=True):
        ax.set(xlabel=TITLES[what], ylim=(-0.02, 1.02))
    axes[0, 0].set_ylim(0.25, 1)
    axes[0, 0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main():
    options = arguments(__doc__, __file__, runs=10, length=("epochs", 200), quick=(2, 3))
    runs = Runs.of_script(options, {"shares": SHARES, "arms": ARMS})
    made = runs.of(one_run, wanted(options), options.jobs)
    for table in tables({"runs": made}):
        print(table)
    if options.json:
        picture(made, options.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
