"""Rows of layers, and what "auto" stands for beside all stages."""

import pytest
import torch
from torch import nn

from helpers.layered_networks import pixels
from helpers.networks import ConvNet
from sklearn_kd import CIFARResNet, MLPStudent
from sklearn_kd.layers._find import find_layers, layer_shapes
from sklearn_kd.layers._hooks import feature_hooks
from sklearn_kd.layers._training_mode import check_training_mode
from sklearn_kd.teachers._features import FeatureTeacher


class Both(nn.Module):
    """Returns a map beside its mean, and has a head that is called twice."""

    def __init__(self):
        super().__init__()
        self.body, self.head = Pooled(), nn.Linear(4, 4)

    def forward(self, x):
        _, pooled = self.body(x)
        return self.head(self.head(pooled).relu())


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, 1, 1)

    def forward(self, x):
        found = self.conv(x)
        return found, found.mean((2, 3))


def shapes(network, layers, x, **settings):
    return layer_shapes(find_layers(network, layers, x, name="layers", **settings))


@pytest.mark.parametrize(
    ("network", "x", "expected"),
    [
        (CIFARResNet(8), pixels(), {"linear:input:rows": (64,)}),
        (MLPStudent(5, 3, hidden=(7, 6)), torch.rand(2, 5), {"layers.5:input:rows": (6,)}),
        (Both(), pixels(1, 8), {"head#2:input:rows": (4,)}),
        (nn.Sequential(ConvNet()), pixels(1, 8), {"0.linear:input:rows": (8,)}),
    ],
)
def test_the_embedding_is_what_the_last_linear_layer_is_given(network, x, expected):
    assert shapes(network, "auto", x, kinds=("rows",), auto="embedding") == expected
    with torch.no_grad(), feature_hooks(network.eval(), list(expected)) as rows:
        output = network(x)
    ((layer, found),) = rows.items()
    last = network.get_submodule(layer.split(":")[0].split("#")[0])
    torch.testing.assert_close(last(found), output)


class ConvolutionalHead(nn.Module):
    """Its only linear layer weighs channels, and its last layer is a convolution."""

    def __init__(self):
        super().__init__()
        self.conv, self.gate, self.head = nn.Conv2d(1, 4, 3, 1, 1), nn.Linear(4, 4), nn.Conv2d(4, 10, 1)

    def forward(self, x):
        x = self.conv(x)
        return self.head(x * self.gate(x.mean((2, 3)))[:, :, None, None]).mean((2, 3))


class OfTokens(nn.Module):
    """Its last linear layer is given one row for each of 16 patches."""

    def __init__(self):
        super().__init__()
        self.patches, self.pool, self.head = nn.Conv2d(1, 4, 2, 2), nn.Flatten(), nn.Linear(4, 10)

    def forward(self, x):
        self.pool(x)
        return self.head(self.patches(x).flatten(2).mT).mean(1)


@pytest.mark.parametrize(
    ("network", "match"),
    [
        (ConvolutionalHead(), r"ends with 'head', a Conv2d. Layers that give rows: \['gate'\]"),
        (
            OfTokens(),
            r"ends with 'head', a Linear whose input is not rows. Layers that give rows: \['pool'\]",
        ),
        (nn.Sequential(nn.Flatten(), nn.Softmax(1)), r"has no weights. Layers that give rows: \['0', '1'\]"),
    ],
)
def test_a_network_without_embedding(network, match):
    with pytest.raises(
        ValueError, match=rf"layers='auto' takes the input rows \(n, D\) .* {match}.*layer:input"
    ):
        shapes(network, "auto", pixels(1, 8), kinds=("rows",), auto="embedding")


def test_a_layer_that_has_both_is_what_comes_first_or_what_its_name_says():
    network, x = Both().eval(), pixels(1, 8)
    assert shapes(network, ["body"], x, kinds=("maps", "rows")) == {"body": (4, 8, 8)}
    assert shapes(network, ["body"], x, kinds=("rows", "maps")) == {"body:rows": (4,)}
    assert shapes(network, ["body:rows", "body"], x, kinds=("maps", "rows")) == {
        "body:rows": (4,),
        "body": (4, 8, 8),
    }
    with feature_hooks(network, ["body", "body:rows"]) as found:
        network(x)
    torch.testing.assert_close(found["body:rows"], found["body"].mean((2, 3)))


@pytest.mark.parametrize(
    ("layer", "kinds", "match"),
    [
        ("body.conv", ("rows",), r"gives shape \(2, 4, 8, 8\), where rows of shape \(n, D\) are needed"),
        ("head#1:input", ("maps",), "gets no such tensor, which has no spatial extent"),
        ("body:rows", ("maps",), "leave ':rows' out"),
        ("body:nchw", ("rows",), "where rows of shape"),
    ],
)
def test_kinds_that_are_not_taken(layer, kinds, match):
    with pytest.raises(ValueError, match=match):
        shapes(Both(), [layer], pixels(1, 8), kinds=kinds)


def test_one_of_the_stages():
    network = CIFARResNet(8)
    assert shapes(network, "auto", pixels(), auto="middle stage") == {"layer2": (32, 16, 16)}
    assert shapes(network, "auto", pixels(), auto="last stage") == {"layer3": (64, 8, 8)}
    assert shapes(nn.Sequential(nn.Conv2d(3, 4, 3)), "auto", pixels(), auto="last stage") == {
        "0": (4, 30, 30)
    }


def test_rows_in_training_mode():
    check_training_mode(CIFARResNet(8), {"linear:input:rows": (64,)}, pixels(), name="student_layers")
    with pytest.raises(ValueError, match="has 32 channels in evaluation mode and gives"):
        check_training_mode(CIFARResNet(8), {"linear:input:rows": (32,)}, pixels(), name="student_layers")


def test_a_teacher_of_rows():
    teacher, x = FeatureTeacher(CIFARResNet(8), torch.device("cpu")), pixels()
    layers = list(teacher.layer_shapes("auto", x, kinds=("rows",), auto="embedding"))
    rows, _ = teacher(x, layers)
    assert layers == ["linear:input:rows"] and rows[layers[0]].shape == (2, 64)
    torch.testing.assert_close(teacher.signature(x, layers), rows[layers[0]].double().flatten())
