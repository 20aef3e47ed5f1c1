"""The guide's page on losses of logits has the numbers of the record, and the losses of the library."""

import json
from collections import defaultdict

import numpy as np

from helpers.pages import ROOT, rows_of, words
from sklearn_kd.losses import LOSSES

PAGE = ROOT / "docs" / "guide" / "losses_of_logits.rst"
RUNS = json.loads((ROOT / "examples" / "evidence" / "losses_of_logits.json").read_text())["runs"]


def test_the_comparison_is_that_of_the_record():
    of, tasks = defaultdict(dict), {run["task"] for run in RUNS}
    for run in RUNS:
        of[run["loss"], run["kind"]][run["task"], run["seed"]] = 100 * run["accuracy"]
    table = rows_of(PAGE)
    splits = len(of["kd", "paper"])
    assert all(len(found) == splits for found in of.values())
    assert f"{splits} splits of {len(tasks)} tables" in words(PAGE)
    for loss in LOSSES:
        cells = []
        for kind in ("paper", "tuned"):
            change = [found - of["kd", kind][split] for split, found in of[loss, kind].items()]
            error = np.std(change, ddof=1) / np.sqrt(splits)
            cells.append(f"{np.mean([*of[loss, kind].values()]):.1f}")
            cells.append("" if loss == "kd" else f"{np.mean(change):+.1f} ± {error:.1f}".replace("-", "−"))
        logs = [run["log_loss"] for run in RUNS if (run["loss"], run["kind"]) == (loss, "tuned")]
        cells.append(f"{np.mean(logs):.2f}")
        assert table[f'``"{loss}"``'] == cells, loss
    alone = [*of["labels", "alone"].values()]
    assert f"{np.mean(alone):.1f} % with the labels alone" in words(PAGE)


def test_all_losses_are_listed():
    first_cells = rows_of(PAGE)
    for name, kind in LOSSES.items():
        assert f'``"{name}"``, :class:`~sklearn_kd.losses.{kind.__name__}`' in first_cells
