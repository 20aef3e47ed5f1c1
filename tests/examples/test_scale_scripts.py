"""The scripts for ImageNet's size run on small images, and their page has the numbers of their records."""

import contextlib
import importlib
import io
import json
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from helpers.pages import GUIDE
from sklearn_kd import CIFARResNet, CNNStudent, DistProClassifier, Pathway, build_transforms

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDERS = (EXAMPLES, EXAMPLES / "benchmarks", EXAMPLES / "scale")
PAGE = (GUIDE / "scale.rst").read_text(encoding="utf-8")


@pytest.fixture
def module(monkeypatch):
    """Import by name from the folders of the scripts."""
    for folder in FOLDERS:
        monkeypatch.syspath_prepend(folder)
    return importlib.import_module


# --------------------------------------------------------------------------------------
# The script


def run_quick(ranks, out):
    """What ``--quick`` prints in one of several processes, and how many of the trainings' files are there."""
    sys.path[:0] = map(str, FOLDERS)
    os.environ |= {"RANK": str(ranks.rank), "WORLD_SIZE": str(ranks.size)}
    printed = io.StringIO()
    try:
        script = importlib.import_module("imagenet_distpro")
        sys.argv = ["imagenet_distpro.py", "--quick", "--out", out]
        options = script.parsed()
        options.out.mkdir(exist_ok=True)
        with contextlib.redirect_stdout(printed):
            script.quick(options)
    finally:
        del os.environ["RANK"], os.environ["WORLD_SIZE"], sys.path[: len(FOLDERS)]
    return printed.getvalue()


@pytest.fixture
def quick(two, tmp_path):
    return two.run(run_quick, str(tmp_path)), tmp_path


def test_two_processes_search_break_off_and_go_on(quick):
    (first, second), folder = quick
    assert "searched DistillationProcess(8 steps, 9 pathways" in first
    assert "searched" not in second
    record = json.loads((folder / "small_DistPro.json").read_text())
    assert (
        record["processes"] == 2 and record["epochs"] == 2 and record["accuracy"] == record["valid_acc"][-1]
    )
    assert (folder / "small_DistPro.pt").exists()
    assert f"{100 * record['accuracy']:.2f} % on 24 images" in first
    losses = []
    for rank, printed in enumerate((first, second)):
        assert f"process {rank}: broken off after the first epoch" in printed
        last = printed.splitlines()[-1]
        # Three: the first, the one that broke off as it began, and that again.
        assert last.startswith(f"process {rank}: epochs 2, begun 3, losses ")
        losses.append(last.split()[-1])
    assert losses[0] == losses[1]


def test_quick_starts_two_processes(module, monkeypatch, tmp_path):
    script, commands = module("imagenet_distpro"), []

    class Done:
        returncode = 0

    monkeypatch.setattr(script.subprocess, "run", lambda command: commands.append(command) or Done)
    monkeypatch.setattr(sys, "argv", ["imagenet_distpro.py", "--quick"])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 0
    (command,) = commands
    assert command[:6] == [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    assert command[6:8] == ["imagenet_distpro.py", "--quick"] and command[8] == "--out"


@pytest.mark.parametrize("given", [[], ["train"], ["train", "--data", "x"], ["search", "--out", "x"]])
def test_what_is_missing_is_said(module, monkeypatch, capsys, given):
    monkeypatch.setattr(sys, "argv", ["imagenet_distpro.py", *given])
    with pytest.raises(SystemExit):
        module("imagenet_distpro").parsed()
    assert "give search or train, --data and --out; or --quick" in capsys.readouterr().err


def test_distpro_needs_a_process(module, monkeypatch):
    script = module("imagenet_distpro")
    monkeypatch.setattr(sys, "argv", ["imagenet_distpro.py", "train", "--data", "x", "--out", "x"])
    with pytest.raises(SystemExit, match="Give --process FILE"):
        script.estimator(script.parsed())


# --------------------------------------------------------------------------------------
# Images


@pytest.fixture
def folder(module, tmp_path):
    module("_image_folder").write_images(tmp_path, n_classes=3, per_class=8, size=(40, 30))
    return tmp_path


def test_imagenets_layout_is_read(module, folder):
    images = module("_image_folder")
    train, val = (images.ImageFolder.read(folder / part, images.CentralCrop(16)) for part in ("train", "val"))
    assert (len(train), len(val)) == (24, 6)
    np.testing.assert_array_equal(train.labels, np.repeat(range(3), 8))
    x, label = train[9]
    assert x.shape == (3, 16, 16) and x.dtype == torch.float32 and label == 1
    assert torch.equal(x, train[9][0])  # nothing is random in an evaluation


def test_a_folder_without_images_is_refused(module, tmp_path):
    images = module("_image_folder")
    with pytest.raises(FileNotFoundError, match=r"has no images. Expected one folder for each class"):
        images.ImageFolder.read(tmp_path, images.CentralCrop(16))


def test_crops_are_inside_the_image_and_of_the_sizes_that_are_said(module):
    crop = module("_image_folder").TrainingCrop
    boxes = np.array([crop.box(100, 60) for _ in range(400)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 100 and boxes[:, 3].max() <= 60
    share, ratio = width * height / 6000, width / height
    assert 0.07 < share.min() < 0.2 and share.max() > 0.5  # whole pixels
    assert 0.7 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.4


def test_an_image_no_crop_fits_into_is_cut_centrally(module):
    assert module("_image_folder").TrainingCrop.box(1000, 2) == (499.0, 0.0, 501.0, 2.0)


def test_half_of_the_crops_are_mirrored(module, monkeypatch):
    images = module("_image_folder")
    monkeypatch.setattr(images.TrainingCrop, "box", staticmethod(lambda width, height: (0, 0, width, height)))
    picture = Image.fromarray(np.tile(np.arange(0, 160, 10, dtype=np.uint8), (16, 1))).convert("RGB")
    crop = images.TrainingCrop(16)
    mirrored = [bool(x[0, 0, 0] > x[0, 0, -1]) for x in (crop(picture) for _ in range(60))]
    assert 10 < sum(mirrored) < 50


def test_pixels_are_normalised(module):
    white = module("_image_folder").CentralCrop(8)(Image.new("RGB", (20, 10), "white"))
    expected = [(1 - m) / s for m, s in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)]
    np.testing.assert_allclose(white[:, 0, 0], expected, rtol=1e-6)


def test_every_class_has_its_share_held_out(module, folder):
    images = module("_image_folder")
    train = images.ImageFolder.read(folder / "train", images.TrainingCrop(16))
    rows, held_out = images.split(train, 0.25, seed=0)
    np.testing.assert_array_equal(np.sort(np.r_[rows, held_out]), np.arange(24))
    np.testing.assert_array_equal(np.bincount(train.labels[held_out]), [2, 2, 2])
    seen = train.rows(held_out, images.CentralCrop(16))
    assert seen[0][1] == 0 and isinstance(train.transform, images.TrainingCrop)


# --------------------------------------------------------------------------------------
# The cost model


def test_the_record_is_what_the_model_computes(module):
    record = json.loads((EXAMPLES / "scale" / "cost_model.json").read_text())
    assert record.pop("code") and record.pop("versions")
    assert record == json.loads(json.dumps(module("cost_model").computed()))


def test_the_page_has_the_measured_time_to_read_an_image():
    record = json.loads((EXAMPLES / "scale" / "image_loading.json").read_text())
    each = record["seconds per image"]
    assert f"A worker takes {1e3 * each:.1f} ms of CPU time" in PAGE
    assert f"one core reads {1 / each:.0f} images a second" in PAGE


def test_the_page_has_the_tables_of_the_records(module):
    measure, model, gloo = map(module, ("_measure", "cost_model", "data_parallel"))
    record = json.loads((EXAMPLES / "scale" / "cost_model.json").read_text())
    tables = {
        f"cost_model {name}": measure.rst_table(head, rows) for name, head, rows in model.tables(record)
    }
    tables |= gloo.tables(measure.read(gloo.__file__))
    for mark, table in tables.items():
        assert f".. {mark}\n\n{table}" in PAGE, mark
    assert PAGE.count(".. cost_model ") + PAGE.count(".. data_parallel ") == len(tables)


def test_messages_have_the_bytes_of_the_model(module, monkeypatch):
    """Up to the loss, requests to stop and a flag for each weight, which go with the gradients."""
    model, gloo = module("cost_model"), module("data_parallel")
    monkeypatch.setitem(model.ASSUMPTIONS, "metaparameters", 9)
    messages = json.loads((EXAMPLES / "benchmarks" / "data_parallel.json").read_text())["messages"]
    student = CIFARResNet(8)
    pathways = [
        Pathway(t, s, "conv2", i, j, 16 * 2**i, 16 * 2**j)
        for i, t in enumerate(gloo.LAYERS)
        for j, s in enumerate(gloo.LAYERS)
    ]
    parts = {"student": student, "transforms": build_transforms(pathways)}
    sizes = {name: {"parameters": sum(w.numel() for w in of.parameters())} for name, of in parts.items()}
    for kind, of in (("none", "fixed"), ("retraining", "DistPro, retraining"), ("search", "DistPro, search")):
        found = {int(name.split()[0]): n for name, n in messages[f"convolutional, {of}"].items()}
        sent = sorted((size for size, n in found.items() if n >= 1), reverse=True)
        expected = model.reduced_bytes(kind, sizes)
        assert len(sent) == len(expected), kind
        np.testing.assert_allclose(sent, expected, rtol=2e-3, err_msg=kind)


class Counting(nn.Module):
    """Counts forward and backward passes that learn or repeat one that does."""

    passes: dict[str, int]

    def counted(self, output):
        if self.training or torch.is_grad_enabled():
            self.count("forward")
        if output.requires_grad:
            output.register_hook(lambda _: self.count("backward"))
        return output

    def count(self, direction):
        self.passes[f"{type(self).__name__} {direction}"] += 1


def test_iterations_have_the_passes_of_the_model(module):
    passes = Counter()

    class Student(CNNStudent, Counting):
        def forward(self, x):
            return self.counted(super().forward(x))

    class Teacher(CNNStudent):
        def forward(self, x):
            passes["Teacher forward"] += 1
            return super().forward(x)

    class Pathways(Counting):
        def __init__(self, c_in, c_out):
            super().__init__()
            self.match = nn.Conv2d(c_in, c_out, 1)

        def forward(self, x, size):
            return self.counted(nn.functional.adaptive_avg_pool2d(self.match(x), size))

    Counting.passes = passes
    rng = np.random.default_rng(0)
    X, y = rng.random((40, 1, 8, 8), dtype=np.float32), np.arange(40) % 2

    def fit(search_epochs, max_epochs):
        passes.clear()
        DistProClassifier(
            Teacher((1, 8, 8), 2, channels=(2, 2, 2)), Student, student__channels=(2, 2, 2),
            transforms=[Pathways], connections=[(0, 0)], search_epochs=search_epochs, max_epochs=max_epochs,
            batch_size=10, pathway_threshold=None, random_state=0, device="cpu",
        ).fit(X, y, X_val=X, y_val=y)  # fmt: skip
        return Counter(passes)

    model, base = module("cost_model"), fit(1, 1)
    for kind, epochs in (("search", (2, 1)), ("retraining", (1, 2))):
        more = fit(*epochs)
        each = {name: (more[name] - base[name]) / 4 for name in more}  # four iterations an epoch
        expected = model.PASSES[kind]
        assert (each["Student forward"], each["Student backward"]) == expected.student, kind
        assert (each["Pathways forward"], each["Pathways backward"]) == expected.pathways, kind
        assert each["Teacher forward"] == expected.teacher, kind
