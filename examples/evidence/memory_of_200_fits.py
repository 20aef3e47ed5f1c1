"""Measure the resident memory of a process after each of 200 fits.

Each configuration runs in a fresh process with one torch thread: 200 fits on 300 rows of the digits,
each with another seed and after its predecessor is discarded. After each fit the process reads its resident
memory. After the first fit and the last it also collects garbage and counts the live tensors and
modules and their bytes.

The first 50 fits are the warm-up. They are drawn but excluded from the slope: libraries are loaded when they
are first needed, and the C library's allocator keeps freed memory, so that the process grows until its pools
fit the peak of a fit. The slope of the last 150 is that of the least-squares line. Its spread is shown by the
slopes of the three thirds of 50 fits. A leak shows as a slope in every third.

Every configuration runs twice: with Python's automatic garbage collection, and with a collection before each
reading. skorch makes a class for each net that it initialises, and hyperopt a graph of its search space.
Only a collection frees these. Until Python's next full collection they add up to some KiB per fit, which
is not a leak.

    python examples/evidence/memory_of_200_fits.py

It writes memory_of_200_fits.json and .png beside this file (about three minutes of one core). It needs Linux,
where /proc has the current size of a process.
"""

import gc
import json
import platform
import resource
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from sklearn_kd import DistilledClassifier, DistProClassifier, MLPStudent, compare_methods

sys.path.append(str(Path(__file__).parents[1]))
from _provenance import provenance

FITS, WARM_UP, THIRD = 200, 50, 50
ROWS, EPOCHS, BATCH = 300, 5, 64


class TwoStages(torch.nn.Module):
    def __init__(self, n_classes, width=4):
        super().__init__()
        self.stage1 = torch.nn.Sequential(torch.nn.Conv2d(1, width, 3, padding=1), torch.nn.ReLU())
        self.stage2 = torch.nn.Sequential(torch.nn.Conv2d(width, 2 * width, 3, 2, 1), torch.nn.ReLU())
        self.classify = torch.nn.Linear(2 * width, n_classes)

    def forward(self, x):
        return self.classify(self.stage2(self.stage1(x)).mean(dim=(2, 3)))


def distilled(seed, teacher=None, **params):
    settings = {"max_epochs": EPOCHS, "batch_size": BATCH, "device": "cpu", "random_state": seed}
    settings |= {"validation_fraction": 0.1, "search_epochs": None} | params
    return DistilledClassifier(teacher or LogisticRegression(max_iter=50), MLPStudent, **settings)


def linear(X, y):
    return lambda seed: distilled(seed, meta="linear").fit(X, y)


def hyperopt(X, y):
    return lambda seed: distilled(seed, meta="hyperopt", max_epochs=2).fit(X, y)


def cross_validated(X, y):
    """Make four fits, each on three quarters of the rows."""
    return lambda seed: cross_val_score(distilled(seed, meta="linear", max_epochs=2), X, y, cv=4)


def compared(X, y):
    """Make eight fits: four methods on two folds."""
    methods = ("none", "naive", "random", "linear")
    return lambda seed: compare_methods(
        distilled(seed, max_epochs=2), X, y, methods=methods, cv=2, random_state=seed, n_jobs=1
    )


def distpro(X, y):
    torch.manual_seed(0)
    images, teacher = X.reshape(-1, 1, 8, 8), TwoStages(10, width=8)

    def fit(seed):
        clf = DistProClassifier(
            teacher, TwoStages, transforms=["conv1"], search_epochs=1, max_epochs=1, batch_size=BATCH,
            device="cpu", random_state=seed,
        )  # fmt: skip
        return clf.fit(images[:128], y[:128])

    return fit


CONFIGURATIONS = {
    "linear": linear,
    "hyperopt": hyperopt,
    "cross-validated": cross_validated,
    "compare_methods": compared,
    "DistPro": distpro,
}
FITS_AT_ONCE = {"cross-validated": 4, "compare_methods": 8}


def resident():
    """Return the resident memory of this process in KiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024


def live():
    """Return the numbers of live tensors and modules, and the KiB of the tensors' storages."""
    gc.unfreeze()
    gc.collect()
    found = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor | torch.nn.Module)]
    tensors = [o for o in found if isinstance(o, torch.Tensor)]
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}
    return [len(tensors), len(found) - len(tensors), round(sum(storages.values()) / 1024, 1)]


def measure(name, collects):
    torch.set_num_threads(1)
    X, y = load_digits(return_X_y=True)
    fit = CONFIGURATIONS[name]((X[:ROWS] / 16).astype(np.float32), y[:ROWS])
    began, sizes, counts = time.process_time(), [resident()], {}
    at_once = FITS_AT_ONCE.get(name, 1)
    n_calls = -(-FITS // at_once)
    for call in range(n_calls):
        fit(call)
        if collects:
            gc.collect()
        sizes.append(resident())
        if call + 1 in (1, n_calls):
            counts[call + 1] = live()
            gc.freeze()  # existing objects need not be scanned again
    return {
        "calls": n_calls,
        "fits in a call": at_once,
        "cpu seconds": round(time.process_time() - began, 1),
        "resident, KiB, before and after each call": sizes,
        "after so many calls: tensors, modules, KiB of tensors": counts,
    }


def slope(sizes, fits):
    return float(np.polyfit(fits, sizes, 1)[0])


def summarised(run):
    """Return the slope in KiB per fit after the warm-up, and in each third of the rest."""
    at_once = run["fits in a call"]
    sizes = np.array(run["resident, KiB, before and after each call"])[1:]
    fits = at_once * np.arange(1, len(sizes) + 1)
    thirds = [WARM_UP + THIRD * k for k in range(4)]
    inside = [(fits > low) & (fits <= high) for low, high in pairwise(thirds)]
    late = fits > WARM_UP
    return {
        "KiB per fit, last 150": round(slope(sizes[late], fits[late]), 2),
        "KiB per fit, by thirds": [round(slope(sizes[part], fits[part]), 2) for part in inside],
        "MiB before": round(run["resident, KiB, before and after each call"][0] / 1024, 1),
        "MiB after fit 50": round(float(sizes[fits <= WARM_UP][-1]) / 1024, 1),
        "MiB after fit 200": round(float(sizes[-1]) / 1024, 1),
    }


def draw(runs, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, (run, collected) in runs.items():
        sizes = np.array(run["resident, KiB, before and after each call"]) / 1024
        fits = run["fits in a call"] * np.arange(len(sizes))
        slopes = [of["summary"]["KiB per fit, last 150"] for of in (run, collected)]
        axes.plot(fits, sizes, label="{}: {:+.1f} KiB per fit, {:+.1f} collected".format(name, *slopes))
    axes.axvspan(0, WARM_UP, color="0.93", zorder=0)
    axes.set(xlabel="fits in one process (grey: warm-up)", ylabel="resident memory, MiB", ylim=(0, None))
    axes.legend(loc="lower right", fontsize="small")
    figure.savefig(path, dpi=120)


def in_a_process(name, garbage):
    command = [sys.executable, "-W", "ignore", __file__, name, garbage]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    run = {"garbage": garbage} | json.loads(done.stdout.splitlines()[-1])
    run["summary"] = summarised(run)
    print(name, garbage, run["cpu seconds"], "s", run["summary"], flush=True)
    return run


def main():
    if len(sys.argv) > 1:
        return print(json.dumps(measure(sys.argv[1], sys.argv[2] == "collected")))
    runs = {
        name: [in_a_process(name, garbage) for garbage in ("left", "collected")] for name in CONFIGURATIONS
    }
    found = {
        "settings": {"rows": ROWS, "epochs": EPOCHS, "batch_size": BATCH, "warm-up": WARM_UP, "threads": 1},
        "seeds": "random_state = 0, 1, 2, ..., one per call",
        **provenance(__file__),
        "system": f"{platform.system()} {' '.join(platform.libc_ver())}",
        "runs": runs,
    }
    path = Path(__file__)
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    draw(runs, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
