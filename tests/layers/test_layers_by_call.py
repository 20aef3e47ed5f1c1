"""Layers told apart by call, maps inside tuples and dicts, the order of channels, and the table of all."""

import copy
import pickle
import random
import warnings
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from helpers.layered_networks import (
    Bottleneck,
    ChannelsLast,
    Shared,
    Swin,
    Tuples,
    compiled_in_place,
    pixels,
)
from helpers.networks import ConvNet
from helpers.pathway_passes import pathway_pass
from sklearn_kd import CIFARResNet, CNNStudent, DistProClassifier, MLPStudent, layer_table
from sklearn_kd.distpro._pathways import PathwayLosses, connect
from sklearn_kd.layers._find import find_layers, layer_shapes
from sklearn_kd.layers._hooks import feature_hooks
from sklearn_kd.layers._names import LayerName
from sklearn_kd.layers._training_mode import check_training_mode
from sklearn_kd.teachers._features import FeatureTeacher

QUICK = {"search_epochs": 1, "max_epochs": 1, "transforms": ["conv1"], "device": "cpu", "random_state": 0}


def images(channels, side, n=60):
    rng = np.random.default_rng(0)
    return rng.random((n, channels, side, side), dtype=np.float32), np.arange(n) % 10


def of_teacher(fitted):
    return dict.fromkeys((p.teacher_layer, p.teacher_channels) for p in fitted.pathways_)


# --------------------------------------------------------------------------------------
# Names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.relu", LayerName("a.relu")),
        ("relu#2", LayerName("relu", 2)),
        ("relu#2:input", LayerName("relu", 2, True)),
        ("relu:input:nhwc", LayerName("relu", None, True, "nhwc")),
        ("relu#11:nchw", LayerName("relu", 11, False, "nchw")),
        ("odd#1", LayerName("odd#1")),  # the module's own name
        ("odd#1:input", LayerName("odd#1", None, True)),
        ("odd#01", LayerName("odd", 1)),
        ("odd#1#2", LayerName("odd#1", 2)),
        ("relu#0", LayerName("relu#0")),  # of which there is no module
    ],
)
def test_names(name, expected):
    assert LayerName.parse(name, {"a.relu", "relu", "odd", "odd#1"}) == expected


@torch.no_grad()
def test_a_call_is_captured_by_its_number():
    network, x = Shared().eval(), pixels()
    names = ["relu#1", "relu#2", "relu#2:input", "relu", "pool#3"]
    with feature_hooks(network, names) as maps:
        network(x)
    first = network.relu(network.a(x))
    second = network.b(network.pool(first))
    third = network.relu(network.c(network.pool(network.relu(second))))
    expected = [first, network.relu(second), second, third, network.pool(third)]
    for name, value in zip(names, expected, strict=True):
        torch.testing.assert_close(maps[name], value)


def test_a_plain_name_of_several_calls_is_the_last_and_says_so():
    with pytest.warns(
        UserWarning, match=r"runs 3 time\(s\).*'relu' is its last.*'relu#1' \(4, 32, 32\), 'relu#2'"
    ):
        found = layer_shapes(find_layers(Shared(), ["relu"], pixels(), name="teacher_layers"))
    assert found == {"relu": (8, 8, 8)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert layer_shapes(find_layers(Shared(), ["relu#3"], pixels(), name="layers")) == {
            "relu#3": (8, 8, 8)
        }
        assert layer_shapes(find_layers(Shared(), ["a"], pixels(), name="layers")) == {"a": (4, 32, 32)}


def test_one_module_under_several_names():
    act = nn.ReLU()
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), act, nn.Conv2d(4, 8, 3, 2, 1), act).eval()
    assert layer_shapes(find_layers(network, "auto", pixels(), name="layers")) == {
        "1#1": (4, 32, 32),
        "1#2": (8, 16, 16),
    }
    with pytest.raises(ValueError, match=r"layers: layer '3' of Sequential is the same module as '1'.*'1#2'"):
        find_layers(network, ["3"], pixels(), name="layers")


def test_a_fit_warns_once_of_a_plain_name():
    layers = {"teacher_layers": ["relu", "relu#1"], "student_layers": ["features.1"]}
    with pytest.warns(UserWarning, match="'relu' is its last") as record:
        fitted = DistProClassifier(Shared(), CNNStudent, **layers, **QUICK).fit(*images(3, 32, 40))
    assert list(of_teacher(fitted)) == [("relu", 8), ("relu#1", 4)]
    assert sum("is its last" in str(warning.message) for warning in record) == 1


def test_auto_names_no_other_module():
    class Odd(Shared):
        def __init__(self):
            super().__init__()
            self.add_module("relu#2", nn.Identity())

        def forward(self, x):
            return getattr(self, "relu#2")(super().forward(x))

    found = layer_shapes(find_layers(Odd(), "auto", pixels(), name="layers"))
    assert list(found) == ["relu#1", "relu#02", "relu#3", "pool#3"]
    network = Odd().eval()
    with feature_hooks(network, ["relu#02"]) as maps:
        network(pixels())
    assert maps["relu#02"].shape == (2, 8, 16, 16)


# --------------------------------------------------------------------------------------
# Outputs that hold a map


@dataclass
class Output:
    loss: object
    states: list


class Holds(nn.Module):
    """Returns its map inside of something."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.conv = kind, nn.Conv2d(1, 4, 3, 1, 1)

    def forward(self, *, x):
        tokens, found = torch.zeros(len(x), 5), self.conv(x)
        return {
            "tuple": (tokens, found),
            "list": [tokens, [found]],
            "dict": {"tokens": tokens, "map": found},
            "ordered": OrderedDict(last=found, before=2 * found),
            "dataclass": Output(None, [tokens, found]),
        }[self.kind]


class Holder(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.inner, self.conv, self.linear = Holds(kind), nn.Conv2d(1, 8, 3, 2, 1), nn.Linear(8, 10)

    def forward(self, x):
        self.inner(x=x)
        return self.linear(self.conv(x).mean((2, 3)))


WHERE = {
    "tuple": "[1]",
    "list": "[1][0]",
    "dict": "['map']",
    "ordered": "['last']",
    "dataclass": ".states[1]",
}


@pytest.mark.parametrize("kind", WHERE)
def test_maps_inside_of_outputs(kind):
    network, x = Holder(kind).eval(), pixels(1, 8)
    found = layer_shapes(find_layers(network, ["inner", "inner:input"], x, name="layers"))
    assert found == {"inner": (4, 8, 8), "inner:input": (1, 8, 8)}
    assert layer_table(network, x, ["inner"])[0].part == WHERE[kind]
    with feature_hooks(network, list(found)) as maps:
        network(x)
    torch.testing.assert_close(maps["inner"], network.inner.conv(x))
    assert torch.equal(maps["inner:input"], x)


# --------------------------------------------------------------------------------------
# The order of channels


@pytest.mark.parametrize("channels", [5, 8])  # 8: (8, 8, 8) could be of any order
def test_channels_last_is_found_and_turned(channels):
    network, x = ChannelsLast(channels=channels).eval(), pixels(1, 8)
    found = layer_shapes(find_layers(network, ["sa", "sb", "sb:input"], x, name="layers"))
    assert found == {"sa:nhwc": (channels, 8, 8), "sb:nhwc": (16, 4, 4), "sb:input:nhwc": (16, 4, 4)}
    with feature_hooks(network, ["sa:nhwc", "a"]) as maps:
        network(x)
    assert torch.equal(maps["sa:nhwc"], maps["a"])


def test_what_cannot_be_told_is_refused_and_can_be_said():
    network, x = ChannelsLast(strict=True, channels=5), pixels(1, 8)
    with pytest.raises(ValueError, match=r"layer 'sa' .*\(2, 8, 8, 5\).*layers=\['sa:nchw', ...\].*':nhwc'"):
        find_layers(network, ["sa"], x, name="layers")
    assert layer_shapes(find_layers(network, ["sa:nhwc"], x, name="layers")) == {"sa:nhwc": (5, 8, 8)}
    assert layer_shapes(find_layers(network, ["sa:nchw"], x, name="layers")) == {"sa:nchw": (8, 8, 5)}


def test_auto_does_not_leave_out_what_it_cannot_tell():
    network = Swin(12, fixed=True)
    with pytest.raises(ValueError, match=r"layers='auto': layer 'permute' of Swin gives .*does not show"):
        find_layers(network, "auto", pixels(), name="layers")
    # Layer normalisation of the last axis, and the patches' size or half of it, tell these.
    found = layer_shapes(find_layers(network, ["features.1", "norm"], pixels(), name="layers"))
    assert found == {"features.1:nhwc": (12, 8, 8), "norm:nhwc": (24, 4, 4)}


def test_a_network_of_one_size_keeps_its_channels_where_nothing_speaks_against_it():
    """ReLU's (8, 8, 8) could be of either order; no module here works on channels that come last."""

    class OneSize(CNNStudent):
        def forward(self, x):
            assert x.shape[2] == 8
            return super().forward(x)

    found = layer_shapes(find_layers(OneSize((1, 8, 8), 10), "auto", pixels(1, 8), name="layers"))
    assert found == {"features.1": (8, 8, 8), "features.4": (16, 4, 4), "features.7": (16, 2, 2)}


def test_images_that_are_not_square():
    network = nn.Sequential(nn.Conv2d(1, 6, 3, 1, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, 2, 1), nn.ReLU())
    found = layer_shapes(find_layers(network, "auto", torch.rand(2, 1, 6, 12), name="layers"))
    assert found == {"1": (6, 6, 12), "3": (6, 3, 6)}


# --------------------------------------------------------------------------------------
# Whole fits


def test_bottlenecks_with_one_relu_teach():
    teacher = nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1), Bottleneck(8, 4, 1), Bottleneck(8, 8, 2), Bottleneck(16, 16, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    fitted = DistProClassifier(teacher, CIFARResNet, student__depth=8, **QUICK).fit(*images(3, 32, 40))
    assert list(of_teacher(fitted)) == [("1", 8), ("2", 16), ("3", 32)]


def test_one_relu_for_all_stages_teaches_and_learns(tmp_path):
    """Of both, found by call; what was saved names them too."""
    X, y = images(3, 32, 40)
    fitted = DistProClassifier(Shared(), Shared, **QUICK).fit(X, y)
    names = {"relu#1": 4, "relu#2": 8, "relu#3": 8, "pool#3": 8}
    assert dict(of_teacher(fitted)) == dict.fromkeys(names.items())
    assert list(dict.fromkeys(p.student_layer for p in fitted.pathways_)) == list(names)
    fitted.save(tmp_path / "it.safetensors")
    loaded = DistProClassifier.load(tmp_path / "it.safetensors", student=Shared)
    assert loaded.pathways_ == fitted.pathways_ == pickle.loads(pickle.dumps(fitted)).pathways_
    np.testing.assert_array_equal(loaded.predict(X), fitted.predict(X))


def test_tuples_and_channels_last_teach():
    X, y = images(1, 8)
    tuples = nn.Sequential(nn.Conv2d(1, 3, 1), Tuples())
    fitted = DistProClassifier(tuples, CNNStudent, **QUICK).fit(X, y)
    assert list(of_teacher(fitted)) == [("1.layer1", 8), ("1.layer2", 16), ("1.layer3", 32)]
    layers = {"teacher_layers": ["sa", "sb"], "student_layers": ["features.1", "features.4"]}
    fitted = DistProClassifier(ChannelsLast(), CNNStudent, **layers, **QUICK).fit(X, y)
    assert list(of_teacher(fitted)) == [("sa:nhwc", 8), ("sb:nhwc", 16)]


# --------------------------------------------------------------------------------------
# Wrapped, compiled and scripted networks


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (lambda network: network, ""),
        (nn.DataParallel, "module."),
        (lambda network: torch.compile(network, backend="eager"), "_orig_mod."),
        (lambda network: nn.DataParallel(torch.compile(network, backend="eager")), "module._orig_mod."),
        (compiled_in_place, ""),
    ],
    ids=["plain", "DataParallel", "compiled", "both", "compiled in place"],
)
@pytest.mark.parametrize("moved", [False, True])
def test_wrapped_teachers(wrap, prefix, moved, conv_teacher):
    x, plain = pixels(1, 8), copy.deepcopy(conv_teacher).eval()
    teacher = FeatureTeacher(wrap(conv_teacher), torch.device("cpu"))
    if moved:  # as where its weights are on another device
        teacher._state = plain.state_dict()
    assert teacher.layer_shapes("auto", x) == {f"{prefix}stage1": (6, 8, 8), f"{prefix}stage2": (12, 4, 4)}
    for _ in range(2):  # hooks that are new in each pass
        maps, _ = teacher(x, [f"{prefix}stage1"])
        torch.testing.assert_close(maps[f"{prefix}stage1"], plain.stage1(x))
    assert (conv_teacher._compiled_call_impl is not None) == (wrap is compiled_in_place)


def test_compiled_students_are_told_so():
    for student in (torch.compile(ConvNet(), backend="eager"), compiled_in_place(ConvNet())):
        with pytest.raises(
            ValueError, match=r"student_layers: .* compiled by torch\.compile.*Give the module as it"
        ):
            find_layers(student, "auto", pixels(1, 8), name="student_layers")


# --------------------------------------------------------------------------------------
# Training mode


class SkipsBlocks(Shared):
    """In training a block, and with it a call of the ReLU, is left out now and then."""

    draw = staticmethod(lambda: float(torch.rand(())))

    def forward(self, x):
        x = self.pool(self.relu(self.a(x)))
        x = self.b(x)
        if not self.training or self.draw() < 0.5:
            x = self.relu(x)
        return self.fc(self.pool(self.relu(self.c(self.pool(x)))).flatten(1))


class Auxiliary(Shared):
    """In training the ReLU runs once more, for a second head."""

    def forward(self, x):
        logits = super().forward(x)
        if self.training:
            self.relu(x)
        return logits


class OtherChannels(ConvNet):
    def __init__(self):
        super().__init__()
        self.spare = nn.Conv2d(1, 4, 1)
        self.both = nn.Identity()

    def forward(self, x):
        self.both(x if self.training else self.spare(x))
        return super().forward(x)


@pytest.mark.parametrize(
    "draw",
    [lambda: float(torch.rand(())), lambda: np.random.rand(), lambda: random.random()],
    ids=["torch", "numpy", "python"],
)
def test_calls_that_training_leaves_out(draw):
    student = SkipsBlocks()
    student.draw = draw
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    found = layer_shapes(find_layers(student, "auto", pixels(), name="student_layers"))
    with pytest.raises(
        ValueError, match=r"'relu#1' runs 3 time\(s\) in evaluation mode and 2 in training mode"
    ):
        check_training_mode(student, found, pixels(), name="student_layers")
    assert torch.equal(states[0], torch.get_rng_state()) and random.getstate() == states[2]
    np.testing.assert_array_equal(states[1], np.random.get_state()[1])
    # Layers that run in each pass are none the worse for it.
    check_training_mode(student, {"a": (4, 32, 32), "c": (8, 8, 8)}, pixels(), name="student_layers")


def test_calls_that_only_training_makes():
    with pytest.raises(
        ValueError, match=r"'relu#2' runs 3 time\(s\) in evaluation mode and 4 in training mode"
    ):
        check_training_mode(Auxiliary(), {"relu#2": (8, 16, 16)}, pixels(), name="student_layers")


def test_other_channels_in_training():
    with pytest.raises(
        ValueError, match=r"'both' has 4 channels in evaluation mode and gives shape \(2, 1, 8, 8\)"
    ):
        check_training_mode(OtherChannels(), {"both": (4, 8, 8)}, pixels(1, 8), name="student_layers")


def test_the_student_is_left_as_it_was():
    student = ConvNet()
    before = copy.deepcopy(student.state_dict())
    check_training_mode(student.eval(), {"stage1": (4, 8, 8)}, pixels(1, 8)[:1], name="student_layers")
    assert not student.training
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())


def test_training_mode_is_tried_before_any_training(monkeypatch):
    monkeypatch.setattr("sklearn_kd.training._net.TrainingNet.train_step", None)
    with pytest.raises(ValueError, match="student_layers: layer 'relu#1' runs 3"):
        DistProClassifier(Shared(), Auxiliary, **QUICK).fit(*images(3, 32, 40))


def test_a_call_that_is_missing_in_the_middle_is_told():
    student, x = SkipsBlocks().train(), pixels()
    student.draw = lambda: 1.0
    pathway = connect({"a": (4, 32, 32)}, {"relu#3": (8, 8, 8)}, "all", ["conv1"])
    run = PathwayLosses(pathway, nn.functional.mse_loss)
    with pytest.raises(ValueError, match="Layer 'relu#3' was not run in this forward pass"):
        pathway_pass(run, student, nn.ModuleList([nn.Identity()]), x, {"a": torch.zeros(2, 4, 32, 32)})


# --------------------------------------------------------------------------------------
# The table


def test_the_table_of_a_network_with_shared_modules():
    table = layer_table(Shared(), (3, 32, 32))
    assert str(table) == (
        "layer   module     shape        stage\n"
        "a       Conv2d     (4, 32, 32)\n"
        "relu#1  ReLU       (4, 32, 32)  0\n"
        "pool#1  MaxPool2d  (4, 16, 16)\n"
        "b       Conv2d     (8, 16, 16)\n"
        "relu#2  ReLU       (8, 16, 16)  1\n"
        "pool#2  MaxPool2d  (8, 8, 8)\n"
        "c       Conv2d     (8, 8, 8)\n"
        "relu#3  ReLU       (8, 8, 8)    2\n"
        "pool#3  MaxPool2d  (8, 4, 4)    3"
    )
    assert len(table) == 9 and table[1].layer == "relu#1" and [row.stage for row in table][-1] == 3


def test_the_table_says_order_and_part():
    rows = {row.layer: row for row in layer_table(Swin(), pixels().numpy())}
    assert rows["features.1:nhwc"][2:] == ((8, 8, 8), "nhwc", "", 0)
    assert layer_table(Tuples(), pixels())[3][2:] == ((8, 32, 32), "nchw", "[0]", 0)
    unsure = {row.layer: row.order for row in layer_table(Swin(fixed=True), pixels())}
    assert unsure["features.1"] == "unsure"


def test_a_table_without_maps_says_so():
    table = layer_table(nn.Linear(64, 10), (64,))
    assert not len(table) and repr(table).startswith("no layer gives a map")


def test_the_table_of_rows():
    mlp = MLPStudent(5, 3, hidden=(7, 6))
    listed = {row.layer: row.shape for row in layer_table(mlp, (5,))}
    assert listed["layers.5:input:rows"] == listed["layers.4:rows"] == (6,)
    both = layer_table(ConvNet(), (1, 8, 8), kinds=["maps", "rows"])
    assert [row.layer for row in both][-2:] == ["linear:input:rows", "linear:rows"]
    assert [row for row in both if row.order != "rows"] == list(layer_table(ConvNet(), (1, 8, 8)))
    named = layer_table(mlp, (5,), list(listed))
    assert [row[:4] for row in named] == [row[:4] for row in layer_table(mlp, (5,))]
    for kinds, error in (("rows", TypeError), (5, TypeError), ([], ValueError), ([["rows"]], ValueError)):
        with pytest.raises(error, match=r"kinds=.* must be None or a list"):
            layer_table(mlp, (5,), kinds=kinds)


def test_the_table_of_named_layers():
    rows = layer_table(Shared(), pixels(), ["relu#2", "a:input"])
    assert [(row.layer, row.module, row.shape, row.stage) for row in rows] == [
        ("relu#2", "ReLU", (8, 16, 16), 0), ("a:input", "Conv2d", (3, 32, 32), 1)]  # fmt: skip
    with pytest.raises(ValueError, match="layers: there is no 'relu#4'"):
        layer_table(Shared(), pixels(), ["relu#4"])


def test_the_table_of_a_fitted_estimator_is_its_students():
    fitted = DistProClassifier(ConvNet(), ConvNet, **QUICK).fit(*images(1, 8))
    stages = [row.layer for row in layer_table(fitted, images(1, 8)[0]) if row.stage is not None]
    assert stages == ["stage1", "stage2"]


@pytest.mark.parametrize(
    ("network", "samples", "error", "match"),
    [
        (ConvNet(), np.zeros(3), ValueError, r"samples has shape \(3,\).*X\[:2\]"),
        (ConvNet(), (3, 8, 8), ValueError, r"network ConvNet cannot take samples of shape \(3, 8, 8\)"),
        (ConvNet, (1, 8, 8), TypeError, "^network=.*is not a network.*Give an instance"),
    ],
)
def test_tables_that_cannot_be(network, samples, error, match):
    with pytest.raises(error, match=match):
        layer_table(network, samples)
