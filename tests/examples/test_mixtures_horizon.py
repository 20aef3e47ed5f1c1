"""The trainings with one weight of a mixture changed run, and change the weight that they name."""

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
    return importlib.import_module("mixtures_horizon")


@pytest.mark.filterwarnings("ignore")
def test_the_script_makes_its_table(script, monkeypatch, tmp_path, capsys):
    rng = np.random.default_rng(0)
    X, X_test = (rng.random((n, 3, 8, 8), dtype=np.float32) for n in (80, 40))
    images = X, np.arange(80) % 10, X_test, np.arange(40) % 10
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(CIFARResNet(8).state_dict(), tmp_path / "distpro_cifar10_teacher.pt")
    for of in ("distpro_cifar10", "mixtures_cifar10"):
        module = importlib.import_module(of)
        monkeypatch.setattr(module, "small_images", lambda data, fetch=None: images)
    monkeypatch.setattr(script, "PLAN", script.PLAN._replace(pad=1, device="cpu"))
    given = ["--teacher", "unused.pt", "--quick", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["mixtures_horizon.py", *given])
    script.task_of.cache_clear()
    script.main()
    script.task_of.cache_clear()
    record = json.loads((tmp_path / "mixtures_horizon.json").read_text())
    assert len(record["runs"]) == 2 * (1 + 2 * len(script.START))
    assert all(len(run["losses"]) == script.N_BLOCKS for run in record["runs"])
    printed = capsys.readouterr().out
    assert all(table in printed for table in script.tables(record))


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
