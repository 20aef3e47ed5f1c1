"""Draw figures 4a, 5 and 6 of the paper: the synthetic data, in the paper's own protocol.

Gorpinich, Bakhteev, Strijov, "Gradient methods for optimizing metaparameters in the knowledge
distillation problem" (2022). The protocol is that of table2_synthetic.py: D_val is the test, there is one
draw of the data and 10 runs, and results are means ± one standard deviation.

- figures_synthetic_4a.png: accuracy by iteration and method, with the notebook's features, which
  differ by method, and with sign(x1·x2) for all.
- figures_synthetic_5.png: the rows of the teacher, the student and the test, with the teacher's boundary.
- figures_synthetic_6.png: final accuracy of "linear" by e1 = e2, and by e2 at e1 = 10, with that of
  "gradient".

docs/guide/reproduces_synthetic.rst discusses the run beside this file.

    OMP_NUM_THREADS=1 python examples/paper/figures_synthetic.py

It writes the pictures, and every run to figures_synthetic.json, beside this file. It takes about four minutes
on one core.
"""

from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from _protocol import LOOKS, METHODS, Runs, arguments, band, mean_sd
from _synthetic import NOTEBOOK_SEED, PAPER, TEACHER, draw, logits, paper_teacher, train_as_the_paper
from table2_synthetic import NOTEBOOK

matplotlib.use("Agg")
EVERY = 20
EQUAL = (2, 5, 10, 20, 50, 100, 200)  # e1 = e2
AHEAD = (1, 5, 10, 20, 40, 90, 190)  # e2 at e1 = 10
PANELS = {
    "the notebook's features": NOTEBOOK,
    "sign(x1·x2) for all methods": dict.fromkeys(METHODS, "sign(x1·x2)"),
}


def curve(features, method, run, iterations):
    """Return the test accuracy after every 20 iterations."""
    student = train_as_the_paper(features, method, run, iterations=iterations, every=EVERY)
    return {"curve": student.history_[:, "valid_acc"]}


def with_periods(e1, e2, run, iterations):
    """Return the final accuracy of linear; e2 = 0 is gradient."""
    student = train_as_the_paper("sign(x1·x2)", "linear", run, iterations=iterations, e1=e1, e2=e2)
    return {"accuracy": student.history_[-1, "valid_acc"]}


def periods(settings):
    """Return (e1, e2) of figure 6: a, b, and gradient."""
    pairs = {(e, e) for e in EQUAL} | {(10, e2) for e2 in AHEAD} | {(10, 0)}
    return [
        {"e1": e1, "e2": e2, "run": run, "iterations": settings.iterations}
        for e1, e2 in sorted(pairs)
        for run in range(settings.runs)
    ]


def curves(settings):
    cells = sorted({(panel[method], method) for panel in PANELS.values() for method in METHODS})
    return [
        {"features": features, "method": method, "run": run, "iterations": settings.iterations}
        for features, method in cells
        for run in range(settings.runs)
    ]


def draw_4a(runs):
    """Draw accuracy by iteration and method."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    for ax, (title, features) in zip(axes, PANELS.items(), strict=True):
        for method in METHODS:
            of = [
                run["curve"]
                for run in runs
                if run["setting"]["method"] == method and run["setting"]["features"] == features[method]
            ]
            band(ax, EVERY * np.arange(1, len(of[0]) + 1), of, label=method, **LOOKS[method])
        ax.set(title=title, xlabel="iteration")
    axes[0].set_ylabel("accuracy (validation = test)")
    axes[1].legend(loc="lower right", ncols=2)
    return figure


def draw_5():
    """Draw the rows of the teacher, the student and the test."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), sharex=True, sharey=True, layout="constrained")
    data, teacher = draw("text", NOTEBOOK_SEED), paper_teacher("text", NOTEBOOK_SEED)
    sets = {
        "teacher's rows": (data.X_teacher, data.y_teacher),
        "student's rows": (data.X_train, data.y_train),
        "validation = test": (data.X_test, data.y_test),
    }
    x1, x2 = np.meshgrid(*[np.linspace(-4.2, 4.2, 400)] * 2)
    plane = np.column_stack([x1.ravel(), x2.ravel()])
    either = ((plane > 0).any(axis=1)).astype(float)  # the text's feature of the teacher
    answers = logits(teacher, np.column_stack([plane, either])).argmax(axis=1).reshape(x1.shape)
    for ax, (title, (X, y)) in zip(axes, sets.items(), strict=True):
        ax.contourf(x1, x2, answers, levels=(-0.5, 0.5, 1.5), colors=("#1f77b4", "#ff7f0e"), alpha=0.12)
        for label, colour, marker in ((0, "#1f77b4", "o"), (1, "#ff7f0e", "^")):
            ax.scatter(*X[y == label, :2].T, c=colour, marker=marker, s=22, label=f"y = {label}")
        ax.set(title=f"{title}, n = {len(y)}", xlabel="x1")
    axes[0].set_ylabel("x2")
    axes[0].legend(loc="lower right")
    figure.suptitle("shaded: what the teacher of the paper's text answers", fontsize=10)
    return figure


def draw_6(runs):
    """Draw final accuracy by e1 = e2, and by e2."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    accuracy = by_periods(runs)
    reference = accuracy[10, 0]
    panels = [("e1 = e2", EQUAL, lambda e: (e, e)), ("e2, at e1 = 10", AHEAD, lambda e: (10, e))]
    for ax, (label, values, pair) in zip(axes, panels, strict=True):
        of = [accuracy[pair(value)] for value in values]
        ax.axhline(np.mean(reference), label="gradient", **LOOKS["gradient"])
        ax.errorbar(
            values,
            np.mean(of, axis=1),
            np.std(of, axis=1, ddof=1),
            marker="o",
            capsize=3,
            label="linear, ± sd",
            **LOOKS["linear"],
        )
        for value, points in zip(values, of, strict=True):
            ax.scatter([value] * len(points), points, s=8, color="black", alpha=0.4, zorder=3)
        ax.set(xscale="log", xlabel=label, xticks=values, xticklabels=values)
        ax.minorticks_off()
    axes[0].set_ylabel("final accuracy (validation = test)")
    axes[0].legend(loc="lower left")
    return figure


def by_periods(runs):
    accuracy = {}
    for run in runs:
        if "e1" in run["setting"]:
            accuracy.setdefault((run["setting"]["e1"], run["setting"]["e2"]), []).append(run["accuracy"])
    return accuracy


def main():
    options = arguments(__doc__, __file__, runs=10, length=("iterations", 2000), quick=(2, 40))
    settings = PAPER | {"teacher": TEACHER, "data": NOTEBOOK_SEED}
    runs = Runs.of_script(options, settings)
    by_iteration = runs.of(curve, curves(options), options.jobs)
    by_period = runs.of(with_periods, periods(options), options.jobs)
    found = {f"{e1}, {e2}": mean_sd(accuracy) for (e1, e2), accuracy in by_periods(by_period).items()}
    runs.write(figure_6=found)
    for figure, name in ((draw_4a(by_iteration), "4a"), (draw_5(), "5"), (draw_6(by_period), "6")):
        if options.json is not None:
            figure.savefig(options.json.with_name(f"{options.json.stem}_{name}.png"), dpi=110)
        plt.close(figure)
    print("e1, e2: accuracy", *(f"{pair}: {accuracy}" for pair, accuracy in found.items()), sep="\n")


if __name__ == "__main__":
    main()
