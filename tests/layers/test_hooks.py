"""Layers by name, their feature maps, and the stages that "auto" finds."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from helpers.networks import ConvNet
from sklearn_kd import CIFARResNet, CNNStudent
from sklearn_kd.layers._find import find_layers, layer_shapes
from sklearn_kd.layers._hooks import feature_hooks


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ConvNet().eval()


@pytest.fixture
def x():
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_output_and_input_of_a_layer(network, x):
    with feature_hooks(network, ["stage1", "stage2:input", "stage2.0"]) as maps:
        network(x)
    torch.testing.assert_close(maps["stage1"], network.stage1(x))
    assert torch.equal(maps["stage2:input"], maps["stage1"])
    torch.testing.assert_close(maps["stage2.0"], network.stage2[0](network.stage1(x)))


@pytest.mark.parametrize("layer", ["stage1.1", "stage1.2:input"])
@torch.no_grad()
def test_before_an_in_place_relu_is_before_it(layer, network, x):
    with feature_hooks(network, [layer]) as maps:
        network(x)
    before = network.stage1[1](network.stage1[0](x))
    torch.testing.assert_close(maps[layer], before)
    assert before.min() < 0


def test_gradients_flow_through_a_captured_map(network, x):
    with feature_hooks(network, ["stage1.1"]) as maps:
        network(x)
    maps["stage1.1"].sum().backward()
    assert network.stage1[0].bias.grad is not None and network.stage2[0].weight.grad is None


def test_hooks_are_gone_afterwards(network, x):
    with pytest.raises(RuntimeError), feature_hooks(network, ["stage1"]):
        network(torch.zeros(2, 5, 8, 8))
    find_layers(network, "auto", x, name="layers")
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())
    pickle.loads(pickle.dumps(network)), copy.deepcopy(network)


def test_the_last_of_several_runs_is_kept():
    layer = nn.Conv2d(1, 1, 1)
    network = nn.Sequential(layer, nn.Tanh(), layer)
    with feature_hooks(network, ["0"]) as maps:
        output = network(torch.rand(1, 1, 2, 2))
    assert torch.equal(maps["0"], output)


@pytest.mark.parametrize(
    ("network", "size", "expected"),
    [
        (CIFARResNet(8), (3, 32, 32), {"layer1": (16, 32, 32), "layer2": (32, 16, 16), "layer3": (64, 8, 8)}),
        (ConvNet(), (1, 8, 8), {"stage1": (4, 8, 8), "stage2": (8, 4, 4)}),
        (
            CNNStudent((1, 8, 8), 10),
            (1, 8, 8),  # the last pooling leaves 1×1, which is no stage
            {"features.1": (8, 8, 8), "features.4": (16, 4, 4), "features.7": (16, 2, 2)},
        ),
    ],
)
def test_auto_finds_the_last_map_of_each_size(network, size, expected):
    state = copy.deepcopy(network.state_dict())
    network.train()
    assert layer_shapes(find_layers(network, "auto", torch.rand(2, *size), name="layers")) == expected
    assert network.training and all(torch.equal(state[name], w) for name, w in network.state_dict().items())


def test_named_layers_keep_their_order(network, x):
    found = layer_shapes(find_layers(network, ["stage2", "stage1:input"], x, name="layers"))
    assert list(found.items()) == [("stage2", (8, 4, 4)), ("stage1:input", (1, 8, 8))]


class Forgetful(ConvNet):
    """Has a layer that takes no part."""

    def __init__(self):
        super().__init__()
        self.spare = nn.Conv2d(1, 1, 1)


@pytest.mark.parametrize(
    ("layers", "error", "match"),
    [
        (["stage3"], ValueError, r"layers: Forgetful has no layer 'stage3'. Nearest: \['stage2', 'stage1'"),
        (["stage3:input"], ValueError, "Nearest"),
        (["stage1", "stage1"], ValueError, "none twice"),
        ([], ValueError, "at least one layer"),
        ("stage1", TypeError, "'auto' or a list"),
        ([3], TypeError, "'auto' or a list"),
        (None, TypeError, "'auto' or a list"),
        (["linear"], ValueError, r"'linear' of Forgetful gives shape \(2, 10\), which has no spatial extent"),
        (["drop:input"], ValueError, "no spatial extent"),
        (["spare"], ValueError, "was not run"),
    ],
)
def test_layers_that_cannot_be(layers, error, match, x):
    with pytest.raises(error, match=match):
        find_layers(Forgetful(), layers, x, name="layers")


def test_auto_needs_two_stages():
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(128, 10))
    with pytest.raises(ValueError, match=r"finds 1 stage\(s\).*\['0'\].*layers=\[...\]"):
        find_layers(network, "auto", torch.rand(2, 1, 8, 8), name="layers")


def test_random_state_is_left_alone(x):
    class Draws(ConvNet):
        def forward(self, x):
            return super().forward(x + torch.rand_like(x))

    network, before = Draws(), torch.get_rng_state()
    find_layers(network, "auto", x, name="layers")
    np.testing.assert_array_equal(before, torch.get_rng_state())
