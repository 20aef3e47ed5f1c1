"""Repeat the image columns of Table 2 in the paper's own protocol.

Gorpinich, Bakhteev, Strijov, "Gradient methods for optimizing metaparameters in the knowledge
distillation problem" (2022), Table 2 and section 4. Fashion-MNIST, reduced CIFAR-10 (12,800
training images) and CIFAR-10; SGD with rate 1, halved after every tenth epoch, batches of 128,
T_val = 1, metaparameters in (lambda1, T) with SGD of rate 0.1, 0.25 (reduced CIFAR-10) and 0.1, each
component of the hypergradient clipped at 0.01, s(T) = 1, starts lambda1 ~ U(0, 1), log10 T ~ U(−1, 1).
None, naive and random train on all images; gradient, linear and hyperopt hold out a tenth as D_val.
The students are those of the paper's code. Nothing is chosen by the test images.

Differences from the paper:

- The teachers are a ResNet-20 for CIFAR-10 (91.7 %) and the CNN of train_fashion_mnist_teacher.py (91.9 %).
- Batches are drawn anew in each epoch; the code keeps their order.
- The loss is the text's, CE(teacher, student). The code has KL(student ‖ teacher), which --reversed runs as
  well.
- hyperopt's five trials are compared by L_val; the code takes the best accuracy on D_val of any epoch.

A run whose weights become non-finite keeps those of its last finite epoch, and is counted.
With --epochs other than the paper's the rate is halved five times in all.

docs/guide/reproduces_images.rst discusses the run beside this file.

    OMP_NUM_THREADS=1 python examples/paper/table2_images.py --jobs 2 \
        --cifar-teacher resnet20-cifar10.pt --fashion-teacher teacher.safetensors

It prints the tables, draws accuracy by epoch (figure 4b) to table2_images.png, and writes every run to
table2_images.json, beside this file.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import nullcontext

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from _images import PAPER, SETS, WHERE, images_of, train_as_the_paper, where_of
from _protocol import LOOKS, METHODS, Runs, arguments, band, list_table, mean_max, mean_sd, share_clipped
from _reversed import reversed_divergence

matplotlib.use("Agg")
PUBLISHED = {
    "Fashion-MNIST": (".87 (.88)", ".87 (.88)", ".79 (.88)", ".88 (.89)", ".88 (.89)", ".87 (.88)"),
    "reduced CIFAR-10": (".55 (.56)", ".55 (.56)", ".54 (.57)", ".57 (.61)", ".57 (–)", ".55 (.58)"),
    "CIFAR-10": (".65 (.66)", ".66 (.67)", ".64 (.67)", ".70 (.72)", ".70 (.72)", "–"),
}
# Mean ± sd of the final accuracy in the authors' logs of 10 runs.
LOGGED = {
    "Fashion-MNIST": (".873 ± .003", ".874", ".794 ± .232", ".882 ± .010", ".882", "–"),
    "reduced CIFAR-10": (".548 ± .007", ".549", ".541 ± .028", ".571 ± .032", ".570 ± .031", ".548 ± .019"),
    "CIFAR-10": (".655 … .660", ".658 … .674", ".642 … .668", ".702 … .704", ".704 … .707", "–"),
}
# With the divergence of the code; "none" has none.
REVERSED = tuple(f"{method}, KL reversed" for method in ("naive", "random", "gradient", "linear"))
PUBLISHED, LOGGED = (
    {name: dict(zip(METHODS, cells, strict=True)) for name, cells in columns.items()}
    for columns in (PUBLISHED, LOGGED)
)


def one_run(name, method, run, epochs, **where):
    """Return the final test accuracy, its curve, and the path of the metaparameters."""
    with reversed_divergence() if method in REVERSED else nullcontext():
        student = train_as_the_paper(name, method.removesuffix(", KL reversed"), run, epochs, where)
    path, history = student.metaparameter_path_, student.history_
    ends = np.linspace(0, len(path) - 1, len(history) + 1).round().astype(int)[1:]
    return {
        "accuracy": student.score(*images_of(name, where)[3:]),
        "curve": [(row["epoch"], row["test_acc"]) for row in history if "test_acc" in row],
        "diverged": student.net_.diverged_,
        "clipped": share_clipped(
            path, PAPER["meta__clip"] * SETS[name]["meta__lr"], PAPER["loss__temperature_bounds"]
        ),
        "lambda1": path["lambda1"][ends].round(4).tolist(),
        "temperature": path["temperature"][ends].round(3).tolist(),
    }


def wanted(options):
    """Return all settings, run by run, so that a stopped script has as many runs of each method."""
    for run in range(options.runs):
        for name in options.sets:
            for method in (*options.methods, *(REVERSED if options.reversed else ())):
                if PUBLISHED[name].get(method) != "–":
                    epochs = options.epochs or SETS[name]["epochs"]
                    yield {"name": name, "method": method, "run": run, "epochs": epochs}


def by_cell(runs):
    """Return (set, epochs) → method → its runs."""
    cells = defaultdict(lambda: defaultdict(list))
    for run in runs:
        setting = run["setting"]
        cells[setting["name"], setting["epochs"]][setting["method"]].append(run)
    return cells


def tables(record):
    """Return a table for each set: results of the paper, of its logs and of these runs, and their ends."""
    return [column(name, epochs, methods) for (name, epochs), methods in by_cell(record["runs"]).items()]


def column(name, epochs, methods):
    header = [
        f"{name}, {epochs} epochs",
        "paper",
        "its logs",
        "here",
        "± sd",
        "runs",
        "lambda1",
        "T",
        "diverged",
        "clipped",
    ]
    rows = []
    for method, runs in methods.items():
        accuracy = [run["accuracy"] for run in runs]
        clipped = [run["clipped"] for run in runs if run["clipped"] is not None]
        rows.append(
            [
                method,
                PUBLISHED[name].get(method, "–"),
                LOGGED[name].get(method, "–"),
                mean_max(accuracy),
                mean_sd(accuracy) if len(accuracy) > 1 else "–",
                str(len(runs)),
                range_of([run["lambda1"][-1] for run in runs]),
                range_of([run["temperature"][-1] for run in runs], ".1f"),
                str(sum(run["diverged"] for run in runs)),
                f"{np.mean(clipped):.0%}" if clipped else "–",
            ]
        )
    return list_table(header, rows)


def range_of(values, form=".2f"):
    """Format as "0.02 … 0.98"."""
    low, high = (format(value, form) for value in (min(values), max(values)))
    return low if low == high else f"{low} … {high}"


def draw(runs, path):
    """Draw figure 4b: accuracy by epoch and method."""
    cells = by_cell(runs)
    figure, axes = plt.subplots(1, len(cells), figsize=(5 * len(cells), 4), squeeze=False)
    for ax, ((name, epochs), methods) in zip(axes[0], cells.items(), strict=True):
        for method, these in methods.items():
            if method in REVERSED:
                continue
            whole = [run["curve"] for run in these if not run["diverged"]]
            if whole:
                epoch = [point[0] for point in whole[0]]
                curves = [[accuracy for _, accuracy in curve] for curve in whole]
                band(ax, epoch, curves, label=f"{method} ({len(whole)} runs)", **LOOKS[method])
        ax.set(title=f"{name}, {epochs} epochs", xlabel="epoch", ylabel="accuracy on the test")
        ax.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main():
    options = arguments(
        __doc__,
        __file__,
        runs=3,
        length=("epochs", None),
        quick=(2, 2),
        reversed={"action": "store_true", "help": "with the divergence of the paper's code too"},
        methods={"nargs": "+", "choices": METHODS, "default": METHODS, "help": "default: all"},
        sets={"nargs": "+", "choices": list(SETS), "default": list(SETS), "help": "default: all"},
        **WHERE,
    )
    runs = Runs.of_script(options, PAPER | {"sets": SETS, "e1": 10, "e2": 10})
    where = where_of(options)
    made = runs.of(one_run, wanted(options), options.jobs, **where)
    for table in tables({"runs": made}):
        print(table)
    if options.json:
        draw(made, options.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
