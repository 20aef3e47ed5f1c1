"""The experiments on maps run on small scenes, go on where they were stopped, and compare like with like."""

import importlib
import json
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_kd.layers._hooks import feature_hooks

FOLDER = Path(__file__).parents[2] / "examples" / "paper"
SCRIPTS = ("distpro_cityscapes", "distpro_nyuv2")


@pytest.fixture
def module(monkeypatch):
    """Import by name from the folder of the scripts."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


@pytest.fixture
def run(module, monkeypatch, tmp_path):
    """Run a script on scenes of noise, with one candidate for each weight; returns its record."""
    maps, study = module("_maps"), module("_map_study")
    rng = np.random.default_rng(0)
    sources = {}
    for subset, n in (("train", 30), ("test", 10)):
        sources[f"objects_{subset}"] = rng.integers(100, 256, (n, 8, 8), np.uint8)
        sources[f"labels_{subset}"] = (np.arange(n) % 3).astype(np.uint8)
        sources[f"backgrounds_{subset}"] = rng.integers(0, 256, (n, 3, 8, 8), np.uint8)
    np.savez(tmp_path / "sources.npz", **sources)
    monkeypatch.setattr(maps, "WEIGHTS", (1.0,))
    monkeypatch.setattr(maps, "LAMBDA1S", (0.5,))

    def run(name):
        script = module(name)
        small = script.STUDY.small
        plan = small._replace(
            student={"channels": (2, 2)},
            teacher={"channels": (3, 3)},
            layers=("layer1", "layer2"),
            training={"optimizer": "SGD", "lr": 0.1, "batch_size": 20},
        )
        outputs = 4 if small.kind == "classes" else 1
        tiny = script.STUDY._replace(small=plan, n_outputs=(outputs, 0), lengths=((2, 1, 1),) * 2)
        command = [f"{name}.py", "--quick", "--out", str(tmp_path), "--device", "cpu", "--images", "40"]
        command += ["--test-images", "9", "--size", "8", "8", "--sources", str(tmp_path / "sources.npz")]
        monkeypatch.setattr(sys, "argv", [*command, "--seeds", "3"])
        study.scenes_in.cache_clear()
        study.carry_out("", script.__file__, tiny)
        return json.loads((tmp_path / f"{name}.json").read_text())

    return run


def without_times(record):
    runs = sorted(record["runs"], key=lambda run: json.dumps(run["setting"]))
    return [{k: v for k, v in run.items() if k not in ("seconds", "cost")} for run in runs]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_stopped_script_goes_on_to_the_same_record(name, run, module, tmp_path, capsys):
    maps, whole = module("_maps"), run(name)
    plan = module(name).STUDY.small
    printed = capsys.readouterr().out
    assert all(table in printed for table in maps.tables(plan, whole)) and "the teacher: " in printed
    made = [r["setting"] for r in whole["runs"] if r["setting"]["what"] == "training"]
    final = {(s["of"], s["seed"]) for s in made if s["seed"] < 10}
    assert final == {(arm, 3) for arm in maps.ARMS}
    assert {s["of"] for s in made if s["seed"] > 10} == set(maps.TUNED)
    values = ("rmse", "rel") if plan.kind == "distances" else ("iou", "accuracy")
    assert all(np.isfinite(r[v]) for r in whole["runs"] for v in values if "score" in r)
    stopped = whole | {"runs": whole["runs"][:-3]}
    (tmp_path / f"{name}.json").write_text(json.dumps(stopped))
    resumed = run(name)
    assert without_times(resumed) == without_times(whole)
    assert resumed["runs"][:-3] == stopped["runs"]


class Encoder(nn.Module):
    """The modules of a ResNet that are used, narrow."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        for i, (fan_in, fan_out) in enumerate(zip((4, *channels), channels, strict=False), 1):
            stage = nn.Conv2d(fan_in, fan_out, 3, stride=1 if i == 1 else 2, padding=1)
            self.add_module(f"layer{i}", nn.Sequential(stage, nn.ReLU()))


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_paper_s_data_take_trained_encoders(name, module, monkeypatch, tmp_path, capsys):
    """With stand-ins for torchvision's networks and the authors' files."""
    maps, study, encoders = module("_maps"), module("_map_study"), module("_encoders")
    channels = {"resnet18": (4, 4, 6, 6), "resnet50": (6, 6, 8, 8), "resnet101": (6, 6, 8, 8)}
    monkeypatch.setattr(encoders, "CHANNELS", channels)
    models = SimpleNamespace(get_model=lambda encoder, weights: Encoder(channels[encoder]))
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=models))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    monkeypatch.setattr(maps, "WEIGHTS", (1.0,))
    monkeypatch.setattr(maps, "LAMBDA1S", (0.5,))
    script, rng = module(name), np.random.default_rng(0)
    X = rng.random((16, 3, 32, 32), dtype=np.float32)
    y = X.argmax(axis=1) if script.STUDY.full.kind == "classes" else X.mean(axis=1)
    y[:, 0] = 255 if script.STUDY.full.kind == "classes" else np.nan
    plan = script.STUDY.full._replace(transforms=("conv1",), layers=("layer3", "layer4"))
    outputs = 3 if plan.kind == "classes" else 1
    tiny = script.STUDY._replace(
        full=plan, n_outputs=(0, outputs), lengths=((1, 1, 1),) * 2, load=lambda data, size: (X, y, X, y)
    )
    command = [f"{name}.py", "--out", str(tmp_path), "--device", "cpu", "--runs", "1", "--epochs", "1"]
    monkeypatch.setattr(sys, "argv", command)
    study.carry_out("", script.__file__, tiny)
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert {r["setting"]["of"] for r in record["runs"]} == {*maps.ARMS, "gradient"}
    assert all(np.isfinite(r["score"]) for r in record["runs"] if "score" in r)


def test_a_mobilenet_is_an_encoder_of_four_stages(module, monkeypatch):
    """With a stand-in of MobileNetV2's layout: strides before blocks 2, 4, 7 and 14."""
    widths = [16, *[24] * 2, *[32] * 3, *[64] * 4, *[96] * 3, *[160] * 3, 320]
    strides = [2 if i in (2, 4, 7, 14) else 1 for i in range(1, 18)]
    blocks = [nn.Conv2d(*c, 1, s) for c, s in zip(pairwise([32, *widths]), strides, strict=True)]
    stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, padding=1), nn.BatchNorm2d(32), nn.ReLU6())
    trained = nn.Module()
    trained.features = nn.Sequential(stem, *blocks, nn.Conv2d(320, 1280, 1))
    models = SimpleNamespace(get_model=lambda encoder, weights: trained)
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=models))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    network = module("_encoders").EncoderMaps(3, 5, "mobilenet_v2")
    with torch.no_grad(), feature_hooks(network.eval(), [f"layer{i}" for i in range(1, 5)]) as maps:
        assert network(torch.rand(1, 3, 64, 64)).shape == (1, 5, 16, 16)
    assert [tuple(m.shape[1:]) for m in maps.values()] == [(24, 16, 16), (32, 8, 8), (96, 4, 4), (320, 2, 2)]


def test_images_are_mirrored_with_their_maps(module):
    X = torch.rand(60, 1, 3, 5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found, maps = module("_maps").mirrored(X, X[:, 0])
    assert torch.equal(found[:, 0], maps)
    same = (found == X).flatten(1).all(dim=1)
    assert torch.equal(found[~same], X[~same].flip(3)) and 15 < int(same.sum()) < 45


@pytest.mark.parametrize("kind", ["classes", "distances"])
@pytest.mark.parametrize(("arm", "weight"), [("ReviewKD", 0.0), ("KD", 1.0), ("equal", 0.0)])
def test_arms_that_are_switched_off_are_the_student_alone(kind, arm, weight, module):
    maps, rng = module("_maps"), np.random.default_rng(0)
    X = rng.random((20, 3, 8, 8), dtype=np.float32)
    y = rng.integers(0, 3, (20, 8, 8)) if kind == "classes" else X.mean(axis=1) + 2
    plan = maps.MapPlan(
        kind, {"channels": (2, 2)}, {"channels": (3, 3)}, ("layer1", "layer2"), ("conv1",),
        {"optimizer": "SGD", "lr": 0.1, "batch_size": 10}, 1, device="cpu",
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = maps.network_of(plan.teacher)(3, 3 if kind == "classes" else 1, **plan.teacher).eval()
    task = maps.MapTask(X, y, X, y, teacher)

    def fitted(arm, weight):
        student = maps.student_of(task, plan, arm, weight, maps.common(plan, 0, 2, maps.Cost()), None)
        return student.fit(X, y).net_.forward(X[:4]).numpy()

    alone = fitted("none", 0.0)
    np.testing.assert_allclose(fitted(arm, weight), alone, atol=1e-5)
    assert np.abs(fitted(arm, 0.5) - alone).max() > 1e-4
