"""The tables of the page on networks are those of the code."""

import re

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from helpers.pages import GUIDE, rows_of
from sklearn_kd import networks
from sklearn_kd.layers._find import find_layers
from sklearn_kd.networks import NETWORKS

ROWS = rows_of(GUIDE / "networks.rst")


def test_all_networks_are_listed():
    assert {f"``{name}``" for name in NETWORKS} <= ROWS.keys()


@pytest.mark.parametrize("name", NETWORKS)
def test_sizes(name):
    written, parameters, multiply_adds = ROWS[f"``{name}``"][:3]
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        network = NETWORKS[name](n_classes=100)
        network.eval()(torch.empty(1, 3, 32, 32))
        as_written = eval(written.strip("`"), vars(networks))
    assert f"{sum(w.numel() for w in network.parameters()):,}" == parameters
    assert f"{counter.get_total_flops() / 2e6:,.1f}" == multiply_adds
    shapes = [{n: w.shape for n, w in of.state_dict().items()} for of in (network, as_written)]
    assert type(as_written) is type(network) and shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("WideResNet(40, 2)", "wrn_40_2"),
        ("ResNet(20)", "resnet20"),
        ("VGG(13)", "vgg13"),
        ("MobileNetV2()", "MobileNetV2"),
        ("ShuffleNetV1()", "ShuffleV1"),
        ("ShuffleNetV2()", "ShuffleV2"),
    ],
)
def test_layers(row, name):
    auto, before = (re.findall(r"``([^`]+)``", cell) for cell in ROWS[f"``{row}``"])
    network, x = NETWORKS[name](n_classes=2), torch.rand(2, 3, 32, 32)
    assert list(find_layers(network, "auto", x, name="layers")) == auto
    if before:
        find_layers(network, before, x, name="layers")
