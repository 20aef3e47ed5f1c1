"""The scripts of the paper's tables and figures run, and go on where they were stopped."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "paper"


@pytest.fixture
def module(monkeypatch):
    """Import by name from the folder of the scripts."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


@pytest.fixture
def run(module, monkeypatch, tmp_path):
    """Run a script quickly; returns its record."""

    def run(name, *options):
        if name == "figures_synthetic":
            pytest.importorskip("matplotlib")
        script = module(name)
        command = [f"{name}.py", "--quick", "--iterations", "10", "--out", str(tmp_path), *options]
        monkeypatch.setattr(sys, "argv", command)
        script.main()
        return json.loads((tmp_path / f"{name}.json").read_text())

    return run


def without_seconds(record):
    runs = sorted(record["runs"], key=lambda run: json.dumps(run["setting"]))
    return [{name: value for name, value in run.items() if name != "seconds"} for run in runs]


@pytest.mark.parametrize("name", ["table2_synthetic", "synthetic_honest", "figures_synthetic"])
def test_a_stopped_script_goes_on_to_the_same_records(name, run, tmp_path):
    whole = run(name)
    stopped = whole | {"runs": whole["runs"][:-3]}
    (tmp_path / f"{name}.json").write_text(json.dumps(stopped))
    resumed = run(name)
    assert without_seconds(resumed) == without_seconds(whole)
    # What was there was not made again: even the seconds are the same.
    assert resumed["runs"][:-3] == stopped["runs"]


class TestRuns:
    def test_what_was_finished_survives_an_error(self, module, tmp_path):
        runs = module("_protocol").Runs
        path = tmp_path / "some.json"

        def fails_at_two(i):
            if i == 2:
                raise RuntimeError("stopped")
            return {"square": i * i}

        with pytest.raises(RuntimeError, match="stopped"):
            runs(path, {}).of(fails_at_two, [{"i": i} for i in range(4)])
        assert [run["square"] for run in json.loads(path.read_text())["runs"]] == [0, 1]
        made = []

        def notes(i):
            made.append(i)
            return {"square": i * i}

        found = runs(path, {}).of(notes, [{"i": i} for i in range(4)])
        assert (made, [run["square"] for run in found]) == ([2, 3], [0, 1, 4, 9])

    def test_runs_of_other_settings_are_not_mixed(self, module, tmp_path):
        runs, path = module("_protocol").Runs, tmp_path / "some.json"
        runs(path, {"lr": 1.0}).write()
        with pytest.raises(SystemExit, match=r"other settings.*--anew"):
            runs(path, {"lr": 0.1})
        runs(path, {"lr": 0.1}, anew=True).write()
        assert json.loads(path.read_text())["settings"] == {"lr": 0.1}


def test_paired_differences(module):
    protocol = module("_protocol")
    rng = np.random.default_rng(0)
    b = rng.normal(size=40)
    found = protocol.paired(b + 0.1 + 0.01 * rng.normal(size=40), b)
    assert found["low"] < 0.1 < found["high"] and found["high"] - found["low"] < 0.01
    assert abs(found["boot_low"] - found["low"]) < 0.002
    assert (found["better"], found["worse"]) == (40, 0)
    assert protocol.interval(protocol.paired([1.0, 1.0], [0.5, 0.5])) == "+.500 [+.500, +.500]"


def test_an_epoch_is_as_many_full_batch_iterations_as_asked_for(module):
    synthetic = module("_synthetic")
    once, often = (
        synthetic.train_as_the_paper("text", "linear", 0, iterations=40, every=every) for every in (1, 20)
    )
    assert (len(once.history_), len(often.history_)) == (40, 2)
    np.testing.assert_allclose(often.metaparameter_path_["lambda1"], once.metaparameter_path_["lambda1"])
    np.testing.assert_allclose(
        often.student_.layers[1].weight.detach(), once.student_.layers[1].weight.detach(), atol=1e-6
    )


def test_numbers_are_written_as_in_the_paper(module):
    number = module("_protocol").number
    assert [number(0.63), number(10.25), number(1.0)] == [".630", "10.250", "1.000"]
    assert [number(-0.0123, sign=True), number(0.5, sign=True)] == ["−.012", "+.500"]
