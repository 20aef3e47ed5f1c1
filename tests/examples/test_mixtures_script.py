"""The comparison of mixtures runs, goes on where it was stopped, and changes the weights that it names."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sklearn_kd import CIFARResNet, Pathways
from sklearn_kd.losses import ReviewKD, SimilarityPreserving

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
    monkeypatch.setattr(script, "BRANCHES", (4.0,))
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
    assert all(len(r["losses"]) == script.N_BLOCKS for r in whole["runs"] if "branch" in r["setting"])
    printed = capsys.readouterr().out
    assert all(table in printed for table in script.tables(whole))
    (tmp_path / "mixtures_cifar10.json").write_text(json.dumps(whole | {"runs": whole["runs"][:-3]}))
    assert without_times(run()) == without_times(whole)


@pytest.mark.filterwarnings("ignore")
def test_the_last_third_without_a_change_is_the_mixture(script):
    """The start, followed as a process, trains on the loss that the fixed mixture has."""
    fixed = script.losses(script.START)
    followed = script.in_the_last_third("mixture", 1.0, epochs=3, steps_per_epoch=2)
    values = followed["process"].schedule(6, "process")
    assert all(np.ptp(rows, axis=0).max() == 0 for rows in values.values())
    assert values["lambda1"][0] == fixed["lambda1"] and values["temperature"][0] == fixed["temperature"]
    kinds = {type(term): term for term in fixed["loss"][1:]}
    assert values["reviewkd_weight"][0] == pytest.approx(kinds[ReviewKD].weight)
    assert values["similarity_weight"][0] == pytest.approx(kinds[SimilarityPreserving].weight)
    raw = np.exp(values["pathways_importance"][0])
    share = raw / (raw.sum() + np.e)
    assert followed["loss"][-1].weight * share == pytest.approx(kinds[Pathways].weight * np.full(9, 0.1))


def test_one_weight_changes_in_the_last_third(script):
    for name, column in (
        ("KD", "lambda1"),
        ("ReviewKD", "reviewkd_weight"),
        ("pathways", "pathways_importance"),
    ):
        process = script.in_the_last_third(name, 4.0, epochs=6, steps_per_epoch=5)["process"]
        changed = {of for of, rows in process.values.items() if np.ptp(rows, axis=0).max() > 0}
        assert changed == {column}
        assert list(np.flatnonzero(np.diff(process.values[column].reshape(30, -1)[:, 0]))) == [19]
    raw = np.exp(process.values["pathways_importance"][[0, -1], 0])
    shares = 9 * raw / (9 * raw + np.e)
    assert shares[1] / shares[0] == pytest.approx(4.0)
    assert script.scaled("KD", 4.0) == pytest.approx(0.2)
