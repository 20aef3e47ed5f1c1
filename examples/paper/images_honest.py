"""Repeat the image columns of Table 2 in an honest protocol, on two reduced sets.

It differs from the paper's protocol (table2_images.py) in these points:

- 6,400 images of CIFAR-10 and of Fashion-MNIST are drawn anew for each seed.
- The student is trained by SGD with momentum 0.9, weight decay 5e-4 and a cosine schedule. Its rate is chosen
  for each set by accuracy on D_val alone, of another draw, over none, naive and linear.
- The metaparameters have the library's defaults, or the paper's settings beside them.
- Baselines are tuned as hard as the method: the best by L_val of a 5 × 5 grid of fixed (lambda1, T), with
  s(T) = T² and with s(T) = 1.

A tenth of the images is D_val for the learned arms and the grids; none, naive, random and
fixed (.5, 4) train on all. Nothing is chosen by the test images. Each draw has its own images, initialisation
and order of batches, the same for all arms, so differences are paired.

Each interval is a 95 % interval by Student's t, not corrected for their number.

docs/guide/reproduces_images.rst discusses the run beside this file.

    OMP_NUM_THREADS=1 python examples/paper/images_honest.py --jobs 2 \
        --cifar-teacher resnet20-cifar10.pt --fashion-teacher teacher.safetensors

It prints the tables, and writes every run to images_honest.json beside this file.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import product

import numpy as np
from _images import METHODS, PAPER, WHERE, images_of, student_of, where_of
from _protocol import Runs, arguments, interval, list_table, mean_sd, number, paired
from skorch.callbacks import LRScheduler
from torch.optim.lr_scheduler import CosineAnnealingLR

N_IMAGES = 6_400
TRAINING = {"batch_size": 128, "optimizer__momentum": 0.9, "optimizer__weight_decay": 5e-4}
RATES = (0.01, 0.03, 0.1)
TUNED_WITH = ("none", "naive", "linear")
TUNING_SEED = 10_000
LAMBDA1, TEMPERATURES = (0.0, 0.25, 0.5, 0.75, 1.0), tuple(np.geomspace(1, 10, 5).round(4).tolist())
SCALINGS = {"T²": "hinton", "1": "none"}
# One column of the paper's sets for each reduced one.
NAMES = {"reduced CIFAR-10": "CIFAR-10", "reduced Fashion-MNIST": "Fashion-MNIST"}
PAPERS_META = {k: v for k, v in PAPER.items() if k not in ("lr", "batch_size")}
ARMS = {
    "none": {"meta": "none"},
    "naive": {"meta": "naive"},
    "random": {"meta": "random"},
    "fixed (.5, 4)": {"meta": "fixed", "lambda1": 0.5, "temperature": 4.0},
    "hyperopt": {"meta": "hyperopt"},
    "gradient": {"meta": "gradient"},
    "linear": {"meta": "linear"},
    "linear, T_val auto": {"meta": "linear", "meta__val_temperature": "auto"},
    "gradient, paper's settings": PAPERS_META | METHODS["gradient"] | {"meta__lr": 0.25},
    "linear, paper's settings": PAPERS_META | METHODS["linear"] | {"meta__lr": 0.25},
}
GRIDS = [f"grid, s(T) = {scaling}" for scaling in SCALINGS]


def grid():
    """Return the fixed settings of both grids, each once: no T if lambda1 = 1, no s(T) if T = 1."""
    for lambda1, temperature, scaling in product(LAMBDA1, TEMPERATURES, SCALINGS):
        if lambda1 == 1 and (temperature, scaling) != (1, "T²"):
            continue
        if temperature == 1 and scaling != "T²":
            continue
        yield lambda1, temperature, scaling


def rows_of(name, seed, where):
    """Return (X, y, logits) of this draw, and (X, y) of the test."""
    X, y, logits, X_test, y_test = images_of(NAMES[name], where)
    rows = np.random.default_rng(seed).permutation(len(X))[:N_IMAGES]
    return X[rows], y[rows], logits[rows], X_test, y_test


def one_run(name, arm, seed, lr, epochs, **where):
    """Return the test accuracy, L_val if D_val was held out, and the final metaparameters."""
    X, y, logits, X_test, y_test = rows_of(name, seed, where)
    student = student_of(
        NAMES[name],
        lr=lr,
        max_epochs=epochs,
        callbacks=[("rate", LRScheduler(CosineAnnealingLR, T_max=epochs))],
        random_state=seed,
        **TRAINING,
        **params_of(arm),
    )
    # The first nine tenths of a random order train the arms that use the rest as D_val.
    held_out = N_IMAGES // 10
    learns = student.meta not in ("none", "naive", "random", "fixed") or isinstance(arm, list)
    if learns or seed == TUNING_SEED:
        X_val, y_val = X[-held_out:], y[-held_out:]
        student.fit(X[:-held_out], y[:-held_out], teacher_logits=logits[:-held_out], X_val=X_val, y_val=y_val)
        found = {"valid_accuracy": student.score(X_val, y_val), "L_val": L_val(student, X_val, y_val)}
    else:
        student.fit(X, y, teacher_logits=logits)
        found = {}
    if seed != TUNING_SEED:
        found["accuracy"] = student.score(X_test, y_test)
    return found | {
        "lambda1": round(student.lambda1_, 4),
        "temperature": round(student.temperature_, 4),
        "diverged": student.net_.diverged_,
    }


def params_of(arm):
    if isinstance(arm, str):
        return ARMS[arm]
    lambda1, temperature, scaling = arm
    return {
        "meta": "fixed",
        "lambda1": lambda1,
        "temperature": temperature,
        "loss__temperature_scaling": SCALINGS[scaling],
    }


def L_val(student, X, y):
    """Return the cross-entropy on D_val, T_val = 1."""
    log_proba = student.predict_log_proba(X)
    return -float(log_proba[np.arange(len(y)), y].mean())


def tuning_settings(options):
    for name, lr, arm in product(options.sets, RATES, TUNED_WITH):
        yield {"name": name, "arm": arm, "seed": TUNING_SEED, "lr": lr, "epochs": options.epochs}


def chosen(runs):
    """Return set → rate of the best mean accuracy on D_val."""
    accuracy = defaultdict(lambda: defaultdict(list))
    for run in runs:
        setting = run["setting"]
        accuracy[setting["name"]][setting["lr"]].append(run["valid_accuracy"])
    means = {name: {lr: float(np.mean(v)) for lr, v in rates.items()} for name, rates in accuracy.items()}
    return {name: max(rates, key=rates.get) for name, rates in means.items()}, means


def test_settings(options, rates):
    for seed, name in product(range(options.runs), options.sets):
        for arm in (*ARMS, *(list(point) for point in grid())):
            yield {"name": name, "arm": arm, "seed": seed, "lr": rates[name], "epochs": options.epochs}


def runs_by_set(runs):
    """Return set → arm → draw → its run; a grid's run is its best by L_val."""
    cells, points = defaultdict(lambda: defaultdict(dict)), defaultdict(list)
    for run in runs:
        setting = run["setting"]
        if setting["seed"] == TUNING_SEED:
            continue
        if isinstance(setting["arm"], str):
            cells[setting["name"]][setting["arm"]][setting["seed"]] = run
        else:
            points[setting["name"], setting["seed"]].append(run)
    for (name, seed), these in points.items():
        for label, scaling in zip(GRIDS, SCALINGS, strict=True):
            cells[name][label][seed] = best(these, scaling)
    return cells


def by_set(runs):
    """Return set → arm → accuracy of each draw."""
    return {
        name: {arm: [of[seed]["accuracy"] for seed in sorted(of)] for arm, of in arms.items()}
        for name, arms in runs_by_set(runs).items()
    }


def best(points, scaling):
    """Return the run of the smallest L_val on one grid."""
    on_it = [p for p in points if scaling == p["setting"]["arm"][2] or 1 in p["setting"]["arm"][:2]]
    return min(on_it, key=lambda run: run["L_val"])


def tables(record):
    """Return accuracies; differences to none and to fixed (.5, 4); final metaparameters; the grid."""
    sets = by_set(record["runs"])
    arms = [*ARMS, *GRIDS]
    accuracies = [[arm, *(mean_sd(of[arm]) for of in sets.values())] for arm in arms]
    yield list_table(["", *sets], accuracies)
    for baseline in ("none", "fixed (.5, 4)"):
        yield list_table(
            [f"minus {baseline}", *sets],
            [
                [arm, *(interval(paired(of[arm], of[baseline])) for of in sets.values())]
                for arm in arms
                if arm != baseline
            ],
        )
    yield list_table(
        ["(lambda1, T) at the end", *sets], where_they_ended(runs_by_set(record["runs"]).values())
    )
    for name in sets:
        yield grid_table(name, record["runs"])


def where_they_ended(sets):
    """Return the mean final metaparameters of each learned arm, and the mean choice of the grids."""
    learned = [arm for arm in (*ARMS, *GRIDS) if arm not in ("none", "naive", "random", "fixed (.5, 4)")]
    rows = []
    for arm in learned:
        ends = (np.mean([(r["lambda1"], r["temperature"]) for r in of[arm].values()], axis=0) for of in sets)
        rows.append([arm, *("{:.2f}, {:.1f}".format(*end) for end in ends)])
    return rows


def grid_table(name, runs):
    """Return the mean test accuracy at each point of the grids, trained on nine tenths."""
    cells = defaultdict(list)
    for run in runs:
        setting = run["setting"]
        if setting["name"] == name and setting["seed"] != TUNING_SEED and not isinstance(setting["arm"], str):
            cells[tuple(setting["arm"])].append(run["accuracy"])

    def cell(lambda1, temperature, scaling):
        if lambda1 == 1:
            temperature = 1
        if temperature == 1:
            scaling = "T²"
        return number(np.mean(cells[lambda1, temperature, scaling]))

    header = [name, *(f"T = {t:.3g}" for t in TEMPERATURES)]
    rows = [
        [f"lambda1 = {lambda1:g}, s(T) = {scaling}", *(cell(lambda1, t, scaling) for t in TEMPERATURES)]
        for scaling, lambda1 in product(SCALINGS, LAMBDA1)
    ]
    return list_table(header, rows)


def main():
    options = arguments(
        __doc__,
        __file__,
        runs=3,
        length=("epochs", 10),
        quick=(2, 1),
        sets={"nargs": "+", "choices": list(NAMES), "default": list(NAMES), "help": "default: both"},
        **WHERE,
    )
    settings = {"images": N_IMAGES, "training": TRAINING, "arms": {arm: str(of) for arm, of in ARMS.items()}}
    runs = Runs.of_script(options, settings)
    where = where_of(options)
    tuned = runs.of(one_run, tuning_settings(options), options.jobs, **where)
    rates, means = chosen(tuned)
    made = runs.of(one_run, test_settings(options, rates), options.jobs, **where)
    runs.write(
        chosen=rates,
        tuning=[
            {"name": name, "lr": lr, "valid_accuracy": round(accuracy, 4)}
            for name, of in means.items()
            for lr, accuracy in of.items()
        ],
    )
    print(f"chosen rates: {rates}\n")
    for table in tables({"runs": made}):
        print(table)


if __name__ == "__main__":
    main()
