"""The comparison of mixtures runs, and goes on where it was stopped."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sklearn_kd import CIFARResNet

FOLDER = Path(__file__).parents[2] / "examples" / "paper"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("mixtures_cifar10")


@pytest.fixture
def run(script, monkeypatch, tmp_path):
    """Run the script on noise, with 1×1 pathways and few candidates; returns its record."""
    rng = np.random.default_rng(0)
    X, X_test = (rng.random((n, 3, 8, 8), dtype=np.float32) for n in (80, 40))
    images = X, np.arange(80) % 10, X_test, np.arange(40) % 10
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(CIFARResNet(8).state_dict(), tmp_path / "distpro_cifar10_teacher.pt")
    for of in (script, importlib.import_module("distpro_cifar10")):
        monkeypatch.setattr(of, "small_images", lambda data, fetch=None: images)
    monkeypatch.setattr(script, "CANDIDATES", {arm: of[:1] for arm, of in script.CANDIDATES.items()})
    monkeypatch.setattr(script, "SEARCHES", {"linear": 1.0, "twins": 1.0})
    monkeypatch.setattr(script, "ARMS", (*script.FIXED, "mixture, linear", "mixture, twins"))
    monkeypatch.setattr(script, "PLAN", script.PLAN._replace(pad=1, device="cpu"))
    script.task_of.cache_clear()

    def run():
        given = ["--teacher", "unused.pt", "--quick", "--runs", "1", "--out", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["mixtures_cifar10.py", *given])
        script.main()
        return json.loads((tmp_path / "mixtures_cifar10.json").read_text())

    yield run
    script.task_of.cache_clear()


def without_times(record):
    runs = sorted(record["runs"], key=lambda run: json.dumps(run["setting"]))
    return [{k: v for k, v in run.items() if k not in ("seconds", "cost")} for run in runs]


@pytest.mark.filterwarnings("ignore")
def test_a_stopped_script_goes_on_to_the_same_record(run, script, tmp_path, capsys):
    whole = run()
    assert {r["setting"]["arm"] for r in whole["runs"] if r["setting"]["seed"] == 0} == set(script.ARMS)
    searched = [r for r in whole["runs"] if "mean" in r]
    assert len(searched) == 2 and all(r["cost"]["search"]["backward"] > 0 for r in searched)
    printed = capsys.readouterr().out
    assert all(table in printed for table in script.tables(whole))
    (tmp_path / "mixtures_cifar10.json").write_text(json.dumps(whole | {"runs": whole["runs"][:-3]}))
    assert without_times(run()) == without_times(whole)
