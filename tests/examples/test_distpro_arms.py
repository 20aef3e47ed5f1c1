"""The experiments on DistPro that are described by data: arms, matched sums, other students, and figures."""

import importlib
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sklearn_kd import CIFARResNet

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "paper"
SCRIPTS = [f"distpro_{name}" for name in ("logits", "normalizations", "lengths", "connections", "networks")]


@pytest.fixture
def module(monkeypatch):
    """Import by name from the folder of the scripts."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


@pytest.fixture
def arms(module):
    return module("_distpro_arms")


def small(design):
    """A design for two cores of a test: 1×1 pathways, two candidates."""
    plan = design.plan._replace(transforms=("conv1",), pad=1, device="cpu")
    changed = {name: arm._replace(candidates=arm.candidates[:2]) for name, arm in design.arms.items()}
    return design._replace(plan=plan, arms=changed)


@pytest.mark.parametrize("name", SCRIPTS)
def test_designs_name_what_they_have_and_tune_alike(name, module):
    design = module(name).DESIGN
    searches = {arm.search for arm in design.arms.values()} - {None}
    assert searches == {*design.searches}
    assert {*design.against, *(arm for pair in design.matched.values() for arm in pair)} <= {*design.arms}
    assert not {*design.matched} & {*design.arms} and "none" in design.arms
    of_maps = {arm.candidates for arm in design.arms.values() if arm.kind in ("pathways", "ReviewKD")}
    assert len(of_maps) == 1


def answered(accuracy):
    """A run that is made in no time: its accuracy by arm and weight."""

    def one_run(*, what, of, weight, seed, design, processes, search_epochs, **rest):
        if what == "search":
            raw = [[1.0] * 9, [1.0 + seed % 7] * 3 + [0.2] * 6]
            return {
                "raw": raw,
                "pathways": rest["pathways"],
                "logit_term": None,
                "skipped": 0,
                "cost": cost(3),
            }
        name = "valid_accuracy" if seed == 10_000 else "accuracy"
        return {name: accuracy(of, weight, rest["depth"]), "cost": cost(1), "ran": [4.0]}

    return one_run


def cost(n):
    return {"forward": n, "backward": n, "seconds": float(n)}


@pytest.fixture
def compare(arms, module, monkeypatch):
    """Carry out a design with runs that are made in no time; returns the record."""

    def compare(design, accuracy, path=None):
        one_run = partial(answered(accuracy), pathways=tuple(arms.every_pathway(design.plan)))
        one_run.__module__ = "_distpro_arms"
        monkeypatch.setattr(arms, "one_run", one_run)
        given = SimpleNamespace(jobs=1, runs=2, images=1, epochs=4, search_epochs=1)
        return arms.Comparison(module("_protocol").Runs(path, {}, {}), design, given).carry_out()

    return compare


def test_weights_are_chosen_by_student_and_processes_exchanged(arms, module, compare):
    design = module("distpro_networks").DESIGN
    found = compare(design, lambda of, weight, depth: weight if depth == 8 else -weight)
    assert found["chosen"]["8"]["DistPro"] == 25.0 and found["chosen"]["14"]["DistPro"] == 1.0
    trainings = [run["setting"] for run in found["runs"] if run["setting"]["what"] == "training"]
    followed = {(s["of"], s["depth"]): s["process"] for s in trainings if s["seed"] == 1}
    assert followed["DistPro", 8] == "gradient, ResNet-8, 25, 1"
    assert followed["DistPro, other student's", 8] == "gradient, ResNet-14, 25, 1"
    assert followed["DistPro, other student's", 14] == "gradient, ResNet-8, 1, 1"
    assert followed["none", 8] is None is followed["equal", 14]
    printed = list(arms.tables(design, found))
    assert "ResNet-8, 4 epochs" in printed[0] and "ResNet-14, 4 epochs" in printed[1]
    assert "gradient, ResNet-14, 25, 1" in printed[4] and "gradient, ResNet-14, 5, 1" not in printed[4]


def test_matched_arms_have_the_strength_of_the_other(arms, module, compare):
    design = module("distpro_networks").DESIGN
    found = compare(design, lambda of, weight, depth: -abs(weight - 5))
    shared = module("_distpro")
    process = next(run for run in found["runs"] if run["setting"]["what"] == "search" and "raw" in run)
    sums = {
        run["setting"]["seed"]: shared.strength(run, "process")
        for run in found["runs"]
        if run["setting"]["what"] == "search"
        and run["setting"]["weight"] == 5
        and run["setting"]["depth"] == 8
    }
    assert process["raw"][0] == [1.0] * 9 and 0 < sums[0] != sums[1] < 1
    for run in found["runs"]:
        setting = run["setting"]
        if setting["of"] == "equal, DistPro's sum" and setting["depth"] == 8:
            assert setting["weight"] == pytest.approx(5 * sums[setting["seed"]], abs=1e-6)
            assert setting["process"] is None


def test_one_process_is_followed_for_all_lengths(arms, module, compare):
    design = module("distpro_lengths").DESIGN
    found = compare(design, lambda of, weight, depth: weight)
    lengths = {
        (s["epochs"], s["process"])
        for run in found["runs"]
        if (s := run["setting"])["of"] == "DistPro" and s["seed"] == 0
    }
    assert lengths == {(n, "gradient, ResNet-8, 25, 0") for n in (2, 4, 6, 12)}
    assert all(run["setting"].get("epochs") == 4 for run in found["runs"] if "valid_accuracy" in run)
    first = next(arms.tables(design, found))
    assert [f"- {n} epochs" in first for n in (2, 4, 6, 12)] == [True] * 4


def test_a_stopped_comparison_goes_on(arms, module, compare, tmp_path):
    design, file = module("distpro_networks").DESIGN, tmp_path / "record.json"
    whole = compare(design, lambda of, weight, depth: weight, file)
    record = json.loads(file.read_text())
    file.write_text(json.dumps(record | {"runs": record["runs"][:-5]}))
    asked = []

    def accuracy(of, weight, depth):
        asked.append(of)
        return weight

    assert compare(design, accuracy, file)["chosen"] == whole["chosen"] and len(asked) == 5
    assert [run["setting"] for run in json.loads(file.read_text())["runs"]] == [
        run["setting"] for run in record["runs"]
    ]


def test_lengths_are_drawn(module, compare, tmp_path):
    script = module("distpro_lengths")
    script.figure(compare(script.DESIGN, lambda of, weight, depth: weight / 100), tmp_path / "lengths.png")
    assert (tmp_path / "lengths.png").stat().st_size > 1000


# --------------------------------------------------------------------------------------
# One run


@pytest.fixture
def where(arms, monkeypatch, tmp_path):
    """Noise in place of CIFAR-10 and an untrained teacher: the paths for ``one_run``."""
    rng = np.random.default_rng(0)
    X, X_test = (rng.random((n, 3, 8, 8), dtype=np.float32) for n in (160, 50))
    noise = (X, np.arange(160) % 10, X_test, np.arange(50) % 10)
    monkeypatch.setattr(arms, "small_images", lambda data: noise)
    arms.task_of.cache_clear()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(CIFARResNet(8).state_dict(), tmp_path / "teacher.pt")
    yield {"data": None, "teacher": tmp_path / "teacher.pt"}
    arms.task_of.cache_clear()


def test_equal_weights_beside_the_logits(arms, module, where):
    """Fixed: lambda1 and T stay at 0.5 and 4. Learned: they are the search's. The pathways have 1/9 each."""
    design = small(module("distpro_logits").DESIGN)
    setting = {"depth": 8, "weight": 5.0, "seed": 0, "images": 128, "search_epochs": 2} | where
    found = arms.one_run(design=design, processes={}, what="search", of="learned", **setting)
    fixed = arms.followed(design, design.arms["equal, KD fixed"], None)["process"]
    learned = arms.followed(design, design.arms["equal, KD learned"], found)["process"]
    for process in (fixed, learned):
        np.testing.assert_allclose(process.weights, 1 / 9)
    np.testing.assert_array_equal(fixed.logit_term, [[0.5, 4.0]])
    np.testing.assert_allclose(learned.logit_term, found["logit_term"])
    assert found["logit_term"][-1] != [0.5, 4.0]
    assert arms.followed(design, design.arms["equal"], None) == {"weights": "equal"}
    run = partial(arms.one_run, design=design, processes={"it": found}, what="training", epochs=1, **setting)
    result = run(of="equal, KD learned", process="it")
    assert result["ran"] == [9.0] and 0 <= result["accuracy"] <= 1


def test_a_process_keeps_its_normalization_and_all_pathways(arms, module, where):
    design = small(module("distpro_normalizations").DESIGN)
    setting = {"depth": 8, "weight": 1.0, "seed": 0, "images": 128, "search_epochs": 1} | where
    found = arms.one_run(design=design, processes={}, what="search", of="sigmoid", **setting)
    followed = arms.followed(design, design.arms["sigmoid"], found)
    assert followed["process"].normalization == "sigmoid" and followed["pathway_threshold"] is None
    np.testing.assert_allclose(
        followed["process"].weights, 1 / (1 + np.exp(-np.array(found["raw"]))), rtol=1e-3
    )
    strength = module("_distpro").strength(found, "process", threshold=None)
    assert strength == pytest.approx(9 / (1 + np.exp(-1)), rel=0.02)  # raw factors start at 1


def test_lower_pathways_are_six(arms, module, where):
    design = small(module("distpro_connections").DESIGN)
    setting = {"depth": 8, "weight": 1.0, "seed": 0, "images": 128, "search_epochs": 1} | where
    found = arms.one_run(design=design, processes={}, what="search", of="lower", **setting)
    stages = [tuple(pathway[3:5]) for pathway in found["pathways"]]
    assert sorted(stages) == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    run = partial(arms.one_run, design=design, processes={"it": found}, what="training", epochs=1, **setting)
    assert run(of="DistPro, lower, sum of all", process="it")["ran"] == [6.0]
    assert run(of="equal, lower")["ran"] == [6.0]


# --------------------------------------------------------------------------------------
# Figure 6


def test_processes_are_drawn_for_each_seed(module, tmp_path):
    script = module("distpro_figure6")
    record = json.loads((FOLDER / "distpro_cifar10.json").read_text())
    processes = script.processes_of(record, "learned")
    assert [*processes] == [0, 1, 2]
    script.figure({0: processes[0]}, tmp_path / "figure6.png")
    assert (tmp_path / "figure6.png").stat().st_size > 1000


def test_the_lead_of_a_pathway(arms, module):
    script, pathways = module("distpro_figure6"), arms.every_pathway(module("distpro_cifar10").PLAN)
    raw = np.ones((10, 9))
    raw[:4, 0], raw[4:, 8] = 2, 5
    process = module("sklearn_kd").DistillationProcess(raw, pathways, normalization="softmax")
    share = np.exp(5) / (np.exp(5) + 8 * np.exp(1))
    assert script.cells(process) == ["(2, 2, 'conv2')", f"{share:.2f}", "40 %", "1"]


def test_the_table_of_the_figure_is_in_the_page(module):
    record = json.loads((FOLDER / "distpro_cifar10.json").read_text())
    page = (ROOT / "docs" / "guide" / "reproduces_distpro.rst").read_text(encoding="utf-8")
    for table in module("distpro_figure6").tables(record):
        assert table in page, "put the table that examples/paper/distpro_figure6.py prints into the page"


# --------------------------------------------------------------------------------------
# Table 1


@pytest.fixture
def table1(module):
    pytest.importorskip("sklearn_kd.networks")
    return module("distpro_table1")


def test_the_six_pairs_have_three_stages_each(table1):
    assert [pair.published for pair in table1.PAIRS.values()] == [76.36, 77.24, 77.18, 77.54, 72.03, 73.74]
    for name in {name for pair in table1.PAIRS.values() for name in pair[:2]}:
        with torch.device("meta"):
            network = table1.NETWORKS[name](n_classes=10)
        modules = dict(network.named_modules())
        assert all(layer in modules for layer in table1.layers_of(name)), name


def test_the_rate_falls_where_the_paper_says(table1):
    at = {epochs: table1.steps(epochs)[1].kwargs["milestones"] for epochs in (240, 24)}
    assert at == {240: [150, 180, 210], 24: [15, 18, 21]}


def test_each_arm_of_a_pair_follows_its_own_search(table1, module, monkeypatch, tmp_path):
    """Searches at a sum of 1 and of 27; the digest of the teacher is part of each setting."""
    asked = []

    def one_run(*, what, of, seed, teacher, processes, files, **rest):
        asked.append((what, of, seed, len(processes), files[teacher].name))
        return {"accuracy": 0.5}

    one_run.__module__ = "distpro_table1"
    monkeypatch.setattr(table1, "one_run", one_run)
    file = tmp_path / "resnet56.pth"
    file.write_bytes(b"weights")
    options = SimpleNamespace(pairs=["ResNet-56 to ResNet-20"], runs=1, images=1, search_epochs=1, epochs=2)
    runs = module("_protocol").Runs(None, {})
    found = table1.carry_out(runs, options, {"resnet56": file}, data=None, checkpoints=None)
    assert asked[:2] == [("search", of, 0, 0, file.name) for of in ("1", "27")]
    assert asked[2:] == [("training", arm, 0, 2, file.name) for arm in table1.ARMS]
    first, second = table1.tables({"runs": found})
    assert "- 72.03" in first and "ResNet-56 to ResNet-20" in second
