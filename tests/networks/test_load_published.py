"""Weights of others: their layouts, and what is said of those that do not fit."""

import re

import pytest
import torch

from sklearn_kd import CIFARResNet
from sklearn_kd.losses import LOSSES, REGRESSION_LOSSES, TERMS
from sklearn_kd.meta import STRATEGIES
from sklearn_kd.networks import NETWORKS, ResNet, WideResNet, load_published


@pytest.fixture
def trained():
    """A WRN-16-1 of which no two weights are equal."""
    torch.manual_seed(0)
    network = NETWORKS["wrn_16_1"](n_classes=7)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor), alpha=0.01)
    return network.eval()


@pytest.fixture
def published(trained):
    """Its weights as others have them: without the normalisation of pixels."""
    return {name: w for name, w in trained.state_dict().items() if not name.startswith("normalize.")}


def parallel(weights):
    return {f"module.{name}": w for name, w in weights.items()}


LAYOUTS = {
    "plain": lambda weights: weights,
    "RepDistiller": lambda weights: {"epoch": 240, "model": weights, "accuracy": torch.tensor(75.6)},
    "with an optimizer": lambda weights: {"model": weights, "optimizer": {"state": {0: {"step": 3}}}},
    "parallel": lambda weights: {"state_dict": parallel(weights), "best_prec1": 75.6, "arch": "wrn"},
    "twice parallel": lambda weights: {"net": parallel(parallel(weights))},
    "compiled": lambda weights: parallel({f"_orig_mod.{name}": w for name, w in weights.items()}),
    "without counts": lambda weights: {n: w for n, w in weights.items() if "num_batches" not in n},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, trained, published, tmp_path):
    torch.save(LAYOUTS[layout](published), tmp_path / "wrn.pth")
    x = torch.rand(2, 3, 16, 16)
    own = {"mean": trained.normalize.mean.flatten().tolist(), "std": trained.normalize.std.flatten().tolist()}
    network = WideResNet(16, 1, n_classes=7, **own).train()
    assert load_published(network, tmp_path / "wrn.pth") is network and not network.training
    assert torch.equal(network(x), trained(x))


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.5), ([0.5], [float("nan")]), ([float("inf")], [1.0])])
def test_a_normalisation_that_is_none_is_refused(mean, std):
    with pytest.raises(ValueError, match="one number for each channel"):
        WideResNet(10, 1, mean=mean, std=std)


def test_by_name_the_number_of_classes_is_that_of_the_file(trained, published, tmp_path):
    torch.save(published, tmp_path / "wrn.pth")
    network = load_published("wrn_16_1", str(tmp_path / "wrn.pth"))
    assert network.fc.out_features == 7
    assert torch.equal(network.block3.layer[1].conv2.weight, trained.block3.layer[1].conv2.weight)


def test_the_old_format_of_files(trained, published, tmp_path):
    torch.save(published, tmp_path / "wrn.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(load_published("wrn_16_1", tmp_path / "wrn.pth").conv1.weight, trained.conv1.weight)


def test_any_network_can_be_loaded(tmp_path):
    trained = CIFARResNet(8)
    weights = {name: w for name, w in trained.state_dict().items() if name not in ("mean", "std")}
    torch.save({"state_dict": parallel(weights)}, tmp_path / "resnet.th")
    assert torch.equal(
        load_published(CIFARResNet(8), tmp_path / "resnet.th").linear.weight, trained.linear.weight
    )


@pytest.mark.parametrize(
    ("network", "change", "message"),
    [
        (lambda: "wrn_40_2", lambda w: w, r"It lacks block1\.layer\.0\.convShortcut.*, block1\.layer\.2.*They fit 'wrn_16_1': load_published\('wrn_16_1', path\)"),
        (lambda: WideResNet(16, 1, 10), lambda w: w, r"Of another shape are fc\.weight \(7, 64\), not \(10, 64\).*They fit 'wrn_16_1'"),
        (lambda: ResNet(8), lambda w: w, r"that fit ResNet\. It lacks layer1\.0.*The network has no block1\.layer\.0.*\(\d+ in all\)"),
        (lambda: "wrn_16_1", lambda w: {n: x for n, x in w.items() if n != "fc.weight"}, r"It lacks fc\.weight\. Of.*in which they were trained"),
        (lambda: "wrn_16_1", lambda w: w | {"total_ops": torch.zeros(1)}, r"The network has no total_ops"),
        (lambda: "wrn_16_1", lambda w: {"model": w, "state_dict": w}, "several state dicts"),
        (lambda: "wrn_16_1", lambda w: {"ema": w}, r"dict with the keys \['ema'\], not a state dict"),
        (lambda: "wrn_16_1", lambda w: [1], "holds a list, not a state dict"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(network, change, message, published, tmp_path):
    torch.save(change(published), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=message) as error:
        load_published(network(), tmp_path / "weights.pth")
    assert "weights.pth" in str(error.value)


def test_a_network_that_is_refused_stays_as_it_was(published, tmp_path):
    network = WideResNet(16, 1, n_classes=10)
    before = {name: w.clone() for name, w in network.state_dict().items()}
    torch.save(published, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="Of another shape"):
        load_published(network, tmp_path / "weights.pth")
    assert all(torch.equal(w, before[name]) for name, w in network.state_dict().items())


def test_wrong_networks(tmp_path):
    with pytest.raises(
        ValueError,
        match=re.escape("network='wrn_40-2' is not the name of a network. Did you mean 'wrn_40_2'?"),
    ):
        load_published("wrn_40-2", tmp_path / "nowhere.pth")
    with pytest.raises(TypeError, match="must be an instance"):
        load_published(WideResNet, tmp_path / "nowhere.pth")
    with pytest.raises(FileNotFoundError):
        load_published("wrn_40_2", tmp_path / "nowhere.pth")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["fc.weight", "bn1.running_var"])
@pytest.mark.parametrize("make", [lambda: "wrn_16_1", lambda: WideResNet(16, 1, n_classes=7)])
def test_weights_that_are_no_numbers_are_refused(make, name, bad, published, tmp_path):
    published[name].flatten()[-1:] = bad
    torch.save(published, tmp_path / "weights.pth")
    with pytest.raises(
        ValueError, match=rf"weights\.pth has NaN or infinity in {re.escape(name)}\. .*earlier"
    ):
        load_published(make(), tmp_path / "weights.pth")


def test_weights_that_do_not_fit_the_type_of_the_network_are_refused(published, tmp_path):
    wide = published | {"fc.weight": published["fc.weight"].double() * 1e300}
    torch.save(wide, tmp_path / "wide.pth")
    with pytest.raises(ValueError, match=r"has NaN or infinity in fc\.weight"):
        load_published("wrn_16_1", tmp_path / "wide.pth")
    torch.save(published | {"fc.bias": published["fc.bias"] + 1j}, tmp_path / "complex.pth")
    with pytest.raises(ValueError, match=r"has complex numbers in fc\.bias"):
        load_published("wrn_16_1", tmp_path / "complex.pth")


def test_from_file_refuses_weights_that_are_no_numbers(tmp_path):
    weights = CIFARResNet(8).state_dict()
    for name in ("conv1.weight", "linear.bias"):
        weights[name].fill_(float("nan"))
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"has NaN or infinity in conv1\.weight and 1 more"):
        CIFARResNet.from_file(tmp_path / "weights.pth")


def test_buffers_that_are_infinite_by_themselves_are_loaded(tmp_path):
    """As the mask of attention."""
    network = torch.nn.Linear(2, 2)
    network.register_buffer("mask", torch.tensor([0.0, -float("inf")]))
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    assert load_published(network, tmp_path / "weights.pth") is network


@pytest.mark.parametrize("names", [NETWORKS, LOSSES, TERMS, REGRESSION_LOSSES, STRATEGIES])
def test_an_unknown_name_is_answered_by_a_suggestion(names):
    name = next(iter(names))
    with pytest.raises(KeyError) as error:
        names[f"{name}o"]
    said = str(error.value)
    assert said.startswith(f"'{name}o' is none of the names {name}, ")
    assert said.endswith(f" Did you mean {name!r}?")
    assert names.get(f"{name}o") is None and f"{name}o" not in names


def test_files_that_run_code_are_refused(trained, tmp_path):
    torch.save({"model": trained.state_dict(), "opt": trained}, tmp_path / "last.pth")
    with pytest.raises(ValueError, match=r"last\.pth cannot be read as a state dict \(UnpicklingError\)"):
        load_published("wrn_16_1", tmp_path / "last.pth")
