"""The scripts of the paper's tables and figures run, and go on where they were stopped."""

import importlib
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from sklearn_kd.meta import PAPER_SETTINGS
from sklearn_kd.tasks._targets import Targets

FOLDER = Path(__file__).parents[2] / "examples" / "paper"


WITH_PICTURES = {"figures_synthetic", "table2_images", "wrong_labels_and_teachers"}
OPTIONS = dict.fromkeys(("table2_synthetic", "synthetic_honest", "figures_synthetic"), ("--iterations", "10"))
OPTIONS |= dict.fromkeys(("table2_images", "wrong_labels_and_teachers", "defaults"), ("--epochs", "1"))
# Every arm of each script on few of its other settings: all that its tables and figures ask for.
FEW = {
    "synthetic_honest": {
        "COLUMNS": ("text",),
        "RATES": (0.1, 1.0),
        "GRID": [{"lambda1": lambda1, "temperature": 1.0} for lambda1 in (0.0, 0.5)],
    },
    "figures_synthetic": {"EQUAL": (5, 10), "AHEAD": (1, 10)},
    "images_honest": {
        "N_IMAGES": 100,
        "LAMBDA1": (0.0, 1.0),
        "TEMPERATURES": (1.0, 10.0),
        "RATES": (0.01, 0.1),
        "NAMES": {"reduced CIFAR-10": "CIFAR-10"},
    },
    "wrong_labels_and_teachers": {"SHARES": {"flipped": (0.0, 0.4), "wrong": (0.0, 1.0)}},
    "defaults": {
        "SITUATIONS": {"breast cancer": {"name": "breast cancer"}, "wrong": {"name": "digits", "wrong": 1.0}}
    },
}


@pytest.fixture
def module(monkeypatch):
    """Import by name from the folder of the scripts."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


@pytest.fixture(autouse=True)
def quick_teachers(module, monkeypatch):
    """Teachers that are fitted in a blink."""
    problems, synthetic = module("_problems"), module("_synthetic")
    for name in problems.TEACHERS:
        monkeypatch.setitem(problems.TEACHERS, name, partial(LogisticRegression, C=1e-3, max_iter=1000))
    monkeypatch.setitem(synthetic.TEACHER, "iterations", 200)
    yield
    for made in (problems._clean, synthetic.paper_teacher):
        made.cache_clear()


@pytest.fixture
def run(module, monkeypatch, tmp_path):
    """Run a script quickly; returns its record."""

    def run(name, *options):
        if name in WITH_PICTURES:
            pytest.importorskip("matplotlib")
        script = module(name)
        for setting, few in FEW.get(name, {}).items():
            monkeypatch.setattr(script, setting, few)
        command = [f"{name}.py", "--quick", "--out", str(tmp_path), *OPTIONS.get(name, ()), *options]
        monkeypatch.setattr(sys, "argv", command)
        script.main()
        return json.loads((tmp_path / f"{name}.json").read_text())

    return run


def without_seconds(record):
    runs = sorted(record["runs"], key=lambda run: json.dumps(run["setting"]))
    return [{name: value for name, value in run.items() if name != "seconds"} for run in runs]


@pytest.fixture
def small_images(module, monkeypatch):
    """100 images that are noise in place of each set: a batch an epoch."""

    def images_of(name, where):
        rng = np.random.default_rng(0)
        shape = (1, 28, 28) if name == "Fashion-MNIST" else (3, 32, 32)
        X, y = rng.random((100, *shape), dtype=np.float32), np.arange(100) % 10
        return X, y, rng.normal(size=(100, 10)).astype(np.float32), X[:50], y[:50]

    for script in map(module, ("_images", "images_honest", "table2_images", "table1_cost")):
        monkeypatch.setattr(script, "images_of", images_of)


@pytest.mark.parametrize(
    "name",
    [
        "table2_synthetic",
        "synthetic_honest",
        "figures_synthetic",
        "table2_images",
        "images_honest",
        "wrong_labels_and_teachers",
        "defaults",
    ],
)
@pytest.mark.usefixtures("small_images")
def test_a_stopped_script_goes_on_to_the_same_records(name, run, tmp_path):
    whole = run(name)
    stopped = whole | {"runs": whole["runs"][:-3]}
    (tmp_path / f"{name}.json").write_text(json.dumps(stopped))
    resumed = run(name)
    assert without_seconds(resumed) == without_seconds(whole)
    # What was there was not made again: even the seconds are the same.
    assert resumed["runs"][:-3] == stopped["runs"]


@pytest.mark.filterwarnings("ignore:The student (hardly learned|was still learning)")
@pytest.mark.usefixtures("small_images")
def test_passes_are_counted(run, module, monkeypatch):
    """A plain iteration goes forward and backward once; a hypergradient takes two and one more."""
    script = module("table1_cost")
    quick = {arm: meta for arm, meta in script.ARMS.items() if "10 trials" not in arm}
    monkeypatch.setattr(script, "ARMS", quick)
    arms = run("table1_cost", "--epochs", "20")["runs"][0]["arms"]
    n = arms["none"]["iterations"]
    validation = arms["none"]["forward"] - n  # D_val after each epoch, and the checks before the first
    passes = {arm: (of["forward"] - validation, of["backward"]) for arm, of in arms.items()}
    assert n == 20 and arms["none"]["backward"] == n
    assert passes["gradient"] == (3 * n, 2 * n)
    assert passes["linear, e1 = e2 = 10"] == (2 * n, 1.5 * n)
    assert passes["random search, 5 trials"][1] == passes["hyperopt, 5 trials"][1] == 6 * n


def test_what_is_made_wrong_is_wrong(module):
    """Shares of labels and of answers that differ from the clean draw's; the rest as it was."""
    draw = module("_problems").draw
    clean, flipped, wrong = draw("digits", 0), draw("digits", 0, flipped=0.4), draw("digits", 0, wrong=0.5)
    assert 0.3 < (flipped.train[1] != clean.train[1]).mean() < 0.5
    np.testing.assert_array_equal(flipped.valid[1], clean.valid[1])
    changed = wrong.logits.argmax(axis=1) != clean.logits.argmax(axis=1)
    assert 0.4 < changed.mean() < 0.6
    np.testing.assert_array_equal(wrong.logits[~changed], clean.logits[~changed])
    np.testing.assert_array_equal(np.sort(wrong.logits, axis=1), np.sort(clean.logits, axis=1))
    everything = draw("digits", 0, flipped=1.0, wrong=1.0)
    assert (everything.train[1] != clean.train[1]).all()
    assert (everything.logits.argmax(axis=1) != clean.logits.argmax(axis=1)).all()


def test_the_grids_choose_by_validation_alone(module):
    honest = module("images_honest")
    points = [
        {"setting": {"arm": arm}, "L_val": loss, "accuracy": accuracy}
        for arm, loss, accuracy in (
            ([0.5, 4.0, "T²"], 0.5, 0.2),
            ([0.5, 4.0, "1"], 0.3, 0.1),
            ([0.5, 1.0, "T²"], 0.4, 0.5),  # T = 1 and lambda1 = 1 are on both grids
            ([1.0, 1.0, "T²"], 0.6, 0.9),
        )
    ]
    assert [honest.best(points, scaling)["L_val"] for scaling in ("T²", "1")] == [0.4, 0.3]
    assert len(list(honest.grid())) == 37


def test_the_papers_settings_are_those_of_its_scripts(module):
    for script, differs in (("_images", set()), ("_synthetic", {"meta__lr", "meta__val_temperature"})):
        own = module(script).PAPER
        shared = (set(own) & set(PAPER_SETTINGS)) - differs
        assert len(shared) > 5 and {name: own[name] for name in shared} == {
            name: PAPER_SETTINGS[name] for name in shared
        }
    student = module("_images").student_of("CIFAR-10", **PAPER_SETTINGS).set_params(e1=5)
    assert student.get_params()["loss__temperature_scaling"] == "none"


def test_the_reversed_divergence_is_that_of_autograd(module):
    """r and its derivatives by lambda1 and T, against KL(student ‖ teacher) differentiated in float64."""
    loss_of = module("_reversed").ReversedLoss
    rng = torch.Generator().manual_seed(0)
    z, f = (3 * torch.randn(6, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    y = torch.arange(6) % 4

    def loss(z, lambda1, T):
        soft = F.kl_div(
            F.log_softmax(f / T, dim=1), F.log_softmax(z / T, dim=1), reduction="batchmean", log_target=True
        )
        return lambda1 * F.cross_entropy(z, y) + (1 - lambda1) * soft

    found = loss_of(z, Targets(y, f), 0.3, 2.0, scaling="none")
    knobs = [torch.tensor(value, dtype=torch.float64) for value in (0.3, 2.0)]
    torch.testing.assert_close(found.value, loss(z, *knobs))
    torch.testing.assert_close(found.r, torch.func.grad(loss)(z, *knobs))
    bends = torch.func.jacfwd(torch.func.grad(loss), argnums=(1, 2))(z, *knobs)
    torch.testing.assert_close(found.metaparameter_derivatives(), torch.stack(bends))


def test_a_training_has_the_reversed_divergence_only_where_it_is_asked_for(module, make, digits, logits):
    def path():
        clf = make(meta="gradient", temperature=3.0, loss__temperature_scaling="none")
        return clf.fit(*digits, teacher_logits=logits).metaparameter_path_["temperature"]

    before = path()
    with module("_reversed").reversed_divergence():
        other = path()
    assert np.abs(other - before).max() > 1e-3
    np.testing.assert_array_equal(path(), before)


def test_a_missing_teacher_is_named(module):
    images = module("_images")
    with pytest.raises(ValueError, match=r"Fashion-MNIST needs a teacher: give --fashion-teacher FILE"):
        images.images_of("Fashion-MNIST", {"data": None, "fashion_teacher": None, "cifar_teacher": None})


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
